"""The step of an optimizer on a loss that is handed over without an objective."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng.graphs.draws import share_draws
from symng.objective import Objective


def updates_on_loss(
    updates_of: Callable[[Objective], dict[Variable, Variable]],
    loss: TensorVariable,
    output: TensorVariable,
    params: Sequence[SharedVariable],
    **settings: Any,
) -> dict[Variable, Variable]:
    """Return the updates of a step whose random draws are those of the loss itself.

    ``updates_of`` is `Optimizer.updates` of the optimizer, and ``settings`` are those of
    `Objective`. Whoever calls this advances the generators.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loss, output: the graph draws random numbers")
        objective = Objective(loss, output, list(params), **settings)
    updates = updates_of(objective)
    shared = share_draws(list(updates.values()), loss, params)
    return dict(zip(updates, shared, strict=True))


def check_loss(loss: object) -> None:
    """Refuse gradients or updates in place of a loss, as in a chain of rules."""
    if not isinstance(loss, TensorVariable):
        hint = "Put the optimizer first in a chain: it takes the derivatives itself."
        raise argument_error("loss", "a scalar loss", loss, hint, TypeError)
