"""Warn of a loss that is not the negative log-likelihood that the metric is made of."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from symng._checks import warn
from symng._heads import UNREAD
from symng._loss_reading import read_loss
from symng._matching import Match, compare
from symng._output_products import Values
from symng.backends import PLAIN
from symng.likelihoods import describe_likelihood, written
from symng.metrics import Fisher, StructuralDamping
from symng.objective import Objective
from symng.optimizers import Optimizer

# So few examples, and numbers of their outputs, that it takes no time and no memory worth mentioning.
_LIMITS = 16, 2**14


def warn_of_mismatch(objective: Objective, optimizer: Optimizer, batch: Sequence[Any]) -> None:
    """Warn where the optimizer's metric is the Fisher matrix of another distribution than the loss belongs to.

    Only of likelihoods that were read off the graph: one that was given is meant. Weights of examples and factors are
    no mismatch. Where nothing can be found out nothing is said.
    """
    metric = getattr(optimizer, "metric", None)
    while isinstance(metric, StructuralDamping):
        metric = metric.metric
    heads = objective.heads
    if not isinstance(metric, Fisher) or any(h.r is None or h.source.startswith("given") for h in heads):
        return
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            values = Values(objective)
            match = compare(values, values.take_examples(batch, *_LIMITS), PLAIN)
    except Exception:  # whatever the matter is, it is none of training's
        return
    if any(h.source == UNREAD and read_loss(objective.loss, h.y, objective.params, objective.targets) for h in heads):
        return  # `Objective` has warned of what the loss takes the output for
    if not match and not match.weighted and np.isfinite(match.relative_difference):
        warn(_message(objective, match))


def _message(objective: Objective, match: Match) -> str:
    """Return what is the matter and the line to write."""
    heads = objective.heads
    names = " + ".join(f"{describe_likelihood(h.likelihood)} ({h.source})" for h in heads)
    text = f"loss: expected the negative log-likelihood of {names}, which Fisher is the metric of, got "
    if match.likelihood is None:
        given = ", ".join(written(h.likelihood) for h in heads)
        given = given if len(heads) == 1 else f"[{given}]"
        return (
            f"{text}another loss. GaussNewton() takes the curvature of the loss itself; if Fisher is meant as it is, "
            f"write symng.Objective(..., likelihood={given})."
        )
    # A squared error of a sigmoid is one of the output; anything else was found on the pre-activation r.
    name = type(match.likelihood).__name__
    output = "..." if heads[0].y is heads[0].r or name == "Gaussian" else "..., output=r"
    return f"{text}that of {name}. Write symng.Objective({output}, likelihood={written(match.likelihood)})."
