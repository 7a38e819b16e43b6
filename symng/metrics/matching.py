"""Do loss and likelihood match? The Fisher product against the Gauss-Newton product of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytensor.tensor as pt

from symng._trial import Trial
from symng.backends import compile_function
from symng.likelihoods import describe_likelihood
from symng.metrics.curvature import GaussNewton
from symng.metrics.fisher import Fisher
from symng.objective import Objective


@dataclass(frozen=True)
class Match:
    """Tell whether the curvature G of a loss is a multiple of the Fisher matrix F of the likelihood.

    Attributes
    ----------
    matches : bool
        Whether G v = c F v to rounding, for random v.
    factor : float
        The best c; NaN when F v is zero or not finite.
    reduction : {"mean", "sum", None}
        What the loss is of the negative log-likelihoods of the examples: c = 1 is a mean, c = N a sum.
    relative_difference : float
        norm(G v - c F v) / norm(G v).
    message : str
        The finding in words.
    """

    matches: bool
    factor: float
    reduction: str | None
    relative_difference: float
    message: str

    def __bool__(self) -> bool:
        return self.matches

    def __str__(self) -> str:
        return self.message


def check_match(objective: Objective, batch: Sequence[Any], *, mode: Any = None, seed: int = 0) -> Match:
    """Compare both products on a batch; the work of `Objective.check`."""
    arrays = objective.check_batch("batch", batch)
    Trial(objective)("batch", arrays)  # so that what goes wrong is told in words
    fisher, gauss_newton = Fisher()(objective), GaussNewton()(objective)
    v = pt.vector("v", dtype=objective.dtype, shape=(objective.size,))
    inputs = [*objective.inputs, *objective.targets, v]
    shape = objective.heads[0].y.shape
    products = compile_function(inputs, [fisher @ v, gauss_newton @ v, shape], mode=mode, on_unused_input="ignore")
    rng = np.random.default_rng(seed)
    fvs, gvs = [], []
    for _ in range(3):
        arguments = [*arrays, rng.standard_normal(objective.size).astype(objective.dtype)]
        fv, gv, lengths = products(*arguments)
        fvs.append(np.asarray(fv, dtype=np.float64))
        gvs.append(np.asarray(gv, dtype=np.float64))
    match = _judge(objective, np.concatenate(fvs), np.concatenate(gvs), [int(n) for n in lengths])
    if match and objective.example_losses is None:
        note = (
            " But the losses of single examples were not found in the loss, so it may mix examples, as an output of "
            "shape (N, 1) with a target of shape (N,) does. If it does not, give Objective(..., example_losses=...)."
        )
        match = replace(match, message=match.message + note)
    return match


def _judge(objective: Objective, fv: np.ndarray, gv: np.ndarray, lengths: Sequence[int]) -> Match:
    """Turn the two products into a verdict in words; ``lengths`` are those of the first output."""
    names = " + ".join(describe_likelihood(head.likelihood) for head in objective.heads)
    if not (np.isfinite(fv).all() and np.isfinite(gv).all()):
        whose = "Fisher" if not np.isfinite(fv).all() else "Gauss-Newton"
        message = (
            f"No verdict: the {whose} product is not finite on this batch. Try smaller parameters, or write the loss "
            "through the pre-activation (softplus(r) - t * r, logsumexp(r) - r[t])."
        )
        return Match(False, float("nan"), None, float("nan"), message)
    if not fv.any() or not gv.any():
        whose = "Fisher" if not fv.any() else "Gauss-Newton"
        message = f"No verdict: the {whose} product is zero on this batch, so there is nothing to compare."
        return Match(False, float("nan"), None, float("nan"), message)
    if any(head.r is None for head in objective.heads):
        message = (
            f"No verdict: no pre-activation of the output was found for {names}, and the curvature of the loss can be "
            "compared only there. End the output in sigmoid, softmax or exp, or give it as logits."
        )
        return Match(False, float("nan"), None, float("nan"), message)
    factor = float(fv @ gv / (fv @ fv))
    difference = float(np.linalg.norm(gv - factor * fv) / np.linalg.norm(gv))
    tolerance = 1e-3 if objective.dtype == "float32" else 1e-6
    if difference > tolerance or factor <= 0:
        message = (
            f"Loss and likelihood do not match: the curvature of the loss is no multiple of the Fisher matrix of "
            f"{names} (relative difference {difference:.2g}). Fisher and GaussNewton will differ. If that is not "
            "meant, use the negative log-likelihood of the output as loss, or give the likelihood that belongs to it."
        )
        return Match(False, factor, None, difference, message)

    def is_near(number: float) -> bool:
        return abs(factor / number - 1) <= 10 * tolerance

    reduction, what = None, f"{factor:.6g} times their mean"
    axis = objective.heads[0].example_axis
    examples = lengths[axis]
    if is_near(1):
        reduction, what = "mean", "their mean"
    elif is_near(examples):
        reduction, what = "sum", "their sum"
    message = f"Loss and likelihood match: the loss is the negative log-likelihood of {names} per example, {what}"
    message += "." if reduction == "mean" else f" (factor {factor:.6g}): a damping for Fisher is scaled by it."
    # A mean over the examples of another axis than the one that was told.
    others = [a for a, n in enumerate(lengths) if a != axis and n and is_near(examples / n)]
    if reduction is None and others:
        message += (
            f" That is the ratio of the output's lengths along axes {axis} and {others[0]} ({examples} and "
            f"{lengths[others[0]]}): if examples run along axis {others[0]}, give example_axis={others[0]}."
        )
    return Match(True, factor, reduction, difference, message)
