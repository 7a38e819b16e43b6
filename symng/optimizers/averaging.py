"""A running average of the parameters, which the step of any optimizer can update, too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytensor.tensor as pt

from symng.graphs import vectors
from symng.objective import ObjectiveLike
from symng.optimizers.base import State, Step, Updates


def init_average(objective: ObjectiveLike, state: State) -> None:
    """Add the average to ``state``, a flat vector that begins as the parameters, and its weight.

    See `average_params`.
    """
    state.add("average", vectors.get_flat(objective.params))
    state.add("average_weight", 0.0)


def average_params(step: Step, state: State, decay: float) -> Step:
    """Return the step with an average of the parameters theta_1 ... theta_k after each of k steps.

    average_k = 1/W_k sum_s xi^(k-s) theta_s with W_k = sum_s xi^(k-s), over s = 1 ... k, for the
    decay xi. For large k it is xi average_(k-1) + (1 - xi) theta_k; W_k corrects the bias of a
    start at zero, and theta_0 has no weight.
    """
    params: Any = step.batches.params
    average, weight = state.values["average"], state.values["average_weight"]
    theta = vectors.ravel([step.updates.get(p, p) for p in params], params)
    following = pt.constant(decay, dtype=weight.dtype) * weight + 1
    updates: Updates = {
        average: (1 - 1 / following) * average + theta / following,
        weight: following,
    }
    return replace(step, updates={**step.updates, **updates})
