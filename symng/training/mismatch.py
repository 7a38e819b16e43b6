"""Warn of a loss that is not the negative log-likelihood that the metric is made of."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from symng._checks import warn
from symng._heads import MISPLACED, UNREAD
from symng._loss_reading import read_loss
from symng._matching import Match, compare
from symng._output_products import Products, Values
from symng.backends import PLAIN
from symng.likelihoods import describe_likelihood, written
from symng.metrics import Fisher, StructuralDamping
from symng.objective import Objective
from symng.optimizers import Optimizer

# So few examples, and numbers of their outputs, that it takes no time and no memory worth mentioning.
_LIMITS = 16, 2**14
# A small penalty on the output, such as a bonus for entropy, makes no other loss of it.
_NEAR = 0.05


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
            few = values.take_examples(batch, *_LIMITS)
            match = compare(values, few, PLAIN)
            if not match and not match.weighted and match.likelihood is None:
                match = compare(values, few, PLAIN, near=_NEAR)
            moves = not match and not match.weighted and _moves_with_target(values, few)
    except Exception:  # this is a courtesy: it must not stop a run
        return
    if moves or any(h.source == MISPLACED for h in heads):
        return
    if any(h.source == UNREAD and read_loss(objective.loss, h.y, objective.params, objective.targets) for h in heads):
        return  # `Objective` has warned of what the loss takes the output for
    if not match and not match.weighted and np.isfinite(match.relative_difference):
        warn(_message(objective, match))


def _moves_with_target(values: Values, arrays: Sequence[Any]) -> bool:
    """Return whether an output only moves the distribution of its target, or of the target's logarithm.

    Then the Fisher matrix of each unit is the same everywhere, as that of a Gaussian is: the loss may be that of
    Student's or a logistic distribution, log cosh or a norm of the difference, of an exponential or a Gamma one.
    """
    objective = values.objective
    if len(objective.heads) > 1 or objective.heads[0].source != UNREAD:
        return False
    roots = [*objective.inputs, *objective.targets]
    products = Products(values, arrays, PLAIN)
    shift = 0.5

    def curvature(by: float) -> np.ndarray:
        rng = np.random.default_rng(0)
        return products([v + np.asarray(by, v.dtype) for v in products.values], rng).curvature[0]

    own, moved = curvature(0.0), curvature(shift)
    if np.allclose(own, moved, rtol=1e-3):
        return False  # quadratic, with another matrix than that of independent units
    for i, v in enumerate(roots):
        t = np.asarray(arrays[i])
        if v not in (objective.targets or roots) or t.dtype.kind != "f" or t.size != products.outputs[0].size:
            continue
        for other in (t + shift, t * np.exp(shift), t * np.exp(-shift)):
            products.arrays = [*arrays[:i], other.astype(t.dtype), *arrays[i + 1 :]]
            if np.allclose(curvature(shift), own, rtol=1e-3, atol=1e-6 * abs(own).max()):
                return True
    return False


def _message(objective: Objective, match: Match) -> str:
    """Return the text of the warning, with the line to write."""
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
    name = type(match.likelihood).__name__
    output = "..." if match.where == "output" else "..., output=r"
    return f"{text}that of {name}. Write symng.Objective({output}, likelihood={written(match.likelihood)})."
