"""Compare the curvatures of loss and likelihood on the output, without the model's Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from symng.backends import STABILIZED, UNOPTIMIZED, compile_in_python
from symng.graphs.types import ModeLike
from symng.likelihoods import Likelihood, describe_likelihood, likelihood_code
from symng.objective._suggestion import differ_by_weights, suggest, tolerance_of
from symng.objective.dry_run import DryRun
from symng.objective.model import Model
from symng.objective.output_products import Point, Products, Values, check_passage, has_path_to_r

# The most examples and numbers of the output to compare, if the loss is a mean or sum over
# examples.
_MAX_EXAMPLES, _MAX_NUMBERS = 256, 2**18


@dataclass(frozen=True)
class Match:
    """Whether the curvature G of a loss is a multiple of the Fisher matrix F of the likelihood.

    Attributes
    ----------
    matches : bool
        Whether G u = c F u to rounding, for random u in the space of the output.
    factor : float
        The best c; NaN when F u is zero or not finite.
    reduction : {"mean", "sum", None}
        How the loss reduces the negative log-likelihoods of the examples: c = 1 is a mean, c = N a
        sum.
    relative_difference : float
        norm(G u - c F u) / norm(G u).
    message : str
        The result in words.
    weighted : bool
        Whether G is F up to a weight for each example, time step or unit, as with class weights, a
        mask or advantages. Then ``matches`` is False, since Fisher has no such weights, but loss
        and likelihood belong together.
    likelihood : Likelihood or None
        If they do not match, the likelihood that the loss belongs to; None if none was found.
    where : {"output", "pre-activation", None}
        Whether that likelihood is on the output or on its pre-activation.
    outputs : tuple of int
        If they do not match, the outputs whose likelihood has another curvature than the loss.
    """

    matches: bool
    factor: float
    reduction: str | None
    relative_difference: float
    message: str
    weighted: bool = False
    likelihood: Likelihood | None = None
    where: str | None = None
    outputs: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return self.matches

    def __str__(self) -> str:
        return self.message


def check_match(
    model: Model, arrays: Sequence[np.ndarray], *, mode: ModeLike = None, seed: int = 0
) -> Match:
    """Return whether loss and likelihood match on a batch: the work of `Objective.check`."""
    check_passage(model)
    values, dry_run = Values(model), DryRun(model)
    few: Sequence[np.ndarray] = arrays
    if model.reduction in ("mean", "sum"):  # then a few examples are enough
        try:
            few = values.take_examples(arrays, _MAX_EXAMPLES, _MAX_NUMBERS)
            dry_run("batch", few)
            if few is not arrays and not _is_same_in_part(model, few):
                few = arrays
        except (ValueError, IndexError, TypeError, AssertionError):
            few = arrays  # the model takes batches of one length, or does not fit them
    if few is arrays:
        dry_run("batch", arrays)
    count = model.count_of(arrays)
    match = compare(values, few, UNOPTIMIZED if mode is None else mode, seed, count)
    # Rewrites make log(1 - sigmoid(r)) and the like finite.
    if mode is None and "not finite" in match.message:
        match = compare(values, few, STABILIZED, seed, count)
    if match and model.example_losses is None:
        note = (
            " But the losses of single examples were not found in the loss, so it may mix "
            "examples, as an output of shape (N, 1) with a target of shape (N,) does. If it does "
            "not, give Objective(..., example_losses=...)."
        )
        match = replace(match, message=match.message + note)
    return match


def _is_same_in_part(model: Model, arrays: Sequence[np.ndarray]) -> bool:
    """Return whether the loss of an example is independent of the number of examples."""
    axes = model.data_axes
    assert model.example_losses is not None  # since their reduction is known
    losses = compile_in_python(model.variables, model.example_losses)
    with np.errstate(all="ignore"):
        together = losses(*arrays)
        alone = losses(*(np.take(a, [0], axis=axis) for a, axis in zip(arrays, axes, strict=True)))
    return bool(np.isclose(together[0], alone[0], rtol=1e-3, equal_nan=True))


def compare(
    values: Values,
    arrays: Sequence[np.ndarray],
    mode: ModeLike,
    seed: int = 0,
    count: int | None = None,
    near: float = 0.0,
) -> Match:
    """Return the verdict on some of ``count`` examples, at their outputs and nearby.

    Relative differences up to ``near`` do not count, nor do rounding errors.
    """
    model = values.model
    tolerance = max(near, tolerance_of(model))
    products = Products(values, arrays, mode)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        own = products(products.values, rng)
        # At an output of zero, or if all examples are equal, two curvatures may agree by chance.
        centers = products.values, [np.clip(v, -2, 2) for v in products.values]
        others = [
            products([v + rng.standard_normal(v.shape) for v in center], rng) for center in centers
        ]
    points = [own, *(point for point in others if point.is_finite())]
    lengths, axis, scale = products.lengths, model.heads[0].example_axis, 1.0
    if count is not None and model.reduction == "sum":
        scale = count / lengths[axis]
    if count is not None and model.reduction in ("mean", "sum"):
        lengths[axis] = count
    match = _judge(model, points, lengths, scale, tolerance)
    if match.matches or np.isnan(match.factor):
        return match
    different = _different_outputs(model, points, tolerance)
    if not different and _is_covered(points, tolerance):
        names = _names(model)
        message = (
            "Loss and likelihood match but for weights: the loss is the negative log-likelihood "
            f"of {names} with a weight for each example, time step or unit. GaussNewton has these "
            "weights, Fisher has none."
        )
        return replace(match, message=message, weighted=True)
    match = replace(match, outputs=different)
    if (suggestion := suggest(model, products, points)) is None:
        return match
    likelihood, where = suggestion
    place = "the output"
    if where == "pre-activation":
        place = "its pre-activation, which would then be the output"
    message = (
        f"{match.message} The loss is that of {type(likelihood).__name__} on {place}: "
        f"likelihood={likelihood_code(likelihood)}."
    )
    return replace(match, message=message, likelihood=likelihood, where=where)


def _judge(
    model: Model, points: Sequence[Point], lengths: Sequence[int], scale: float, tolerance: float
) -> Match:
    """Return the verdict on the products.

    ``lengths`` are those of the first output, and ``scale`` is the factor from the examples
    compared to all of them.
    """
    names = _names(model)
    fisher = np.concatenate([a.ravel() for p in points for a in p.fisher])
    curvature = np.concatenate([a.ravel() for p in points for a in p.curvature])
    if obstacle := _obstacle(model, points[0], fisher, curvature):
        message = f"No verdict: {obstacle}"
        return Match(False, float("nan"), None, float("nan"), message)
    factor = float(fisher @ curvature / (fisher @ fisher))
    difference = float(np.linalg.norm(curvature - factor * fisher) / np.linalg.norm(curvature))
    factor *= scale
    if difference > tolerance or factor <= 0:
        message = (
            "Loss and likelihood do not match: the curvature of the loss is not a multiple of the "
            f"Fisher matrix of {names} (relative difference {difference:.2g}). Fisher and "
            "GaussNewton will differ. If this is not intended, use the negative log-likelihood of "
            "the output as loss, or give the likelihood that belongs to it."
        )
        return Match(False, factor, None, difference, message)
    reduction, message = _describe_factor(model, factor, lengths, 10 * tolerance)
    message = (
        "Loss and likelihood match: the loss is the negative log-likelihood of "
        f"{names} per example, {message}"
    )
    return Match(True, factor, reduction, difference, message)


def _obstacle(model: Model, own: Point, fisher: np.ndarray, curvature: np.ndarray) -> str | None:
    """Return why the products allow no verdict; None if they allow one.

    ``own`` are those at the outputs of the batch; the arrays also hold those nearby.
    """
    if not own.is_finite():
        whose = "Gauss-Newton" if all(np.isfinite(a).all() for a in own.fisher) else "Fisher"
        return (
            f"the {whose} product is not finite on this batch. Try smaller parameters, or write "
            "the loss through the pre-activation (softplus(r) - t * r, logsumexp(r) - r[t])."
        )
    if not fisher.any() or not curvature.any():
        whose = "Fisher" if not fisher.any() else "Gauss-Newton"
        return f"the {whose} product is zero on this batch: nothing to compare."
    if not all(has_path_to_r(head) for head in model.heads):
        return (
            f"no pre-activation of the output was found for {_names(model)}, and the curvature "
            "of the loss can be compared only there. End the output in sigmoid, softmax or exp, "
            "or give it as logits."
        )
    return None


def _describe_factor(
    model: Model, factor: float, lengths: Sequence[int], tolerance: float
) -> tuple[str | None, str]:
    """Return which reduction of the examples' losses has ``factor``, and what follows, in words.

    ``lengths`` are those of the first output.
    """

    def is_near(number: float) -> bool:
        return abs(factor / number - 1) <= tolerance

    axis = model.heads[0].example_axis
    examples = lengths[axis]
    if is_near(1):
        return "mean", "their mean."
    if is_near(examples):
        text = f"their sum (factor {factor:.6g}): "
        if model.sum_factor is not None:
            return "sum", f"{text}steps are those of their mean."
        return "sum", f"{text}a damping for Fisher is scaled by it."
    # A sum takes the steps of its mean, whatever else it is multiplied by.
    by = "it"
    if model.sum_factor is not None:
        by = f"{factor / examples:.6g}, since steps are those of the mean"
    text = (
        f"{factor:.6g} times their mean (factor {factor:.6g}): a damping for Fisher is scaled by "
        f"{by}."
    )
    # Perhaps the loss is a mean over another axis than the one given for the examples.
    others = [a for a, n in enumerate(lengths) if a != axis and n and is_near(examples / n)]
    if others:
        text += (
            f" That is the ratio of the output's lengths along axes {axis} and {others[0]} "
            f"({examples} and {lengths[others[0]]}): if examples run along axis {others[0]}, give "
            f"example_axis={others[0]}."
        )
    return None, text


def _is_covered(points: Sequence[Point], tolerance: float) -> bool:
    """Return whether the outputs show all curvature of the loss.

    They do not if they are only parts of the pre-activations, or two are the same part.
    """
    total = sum(float((a**2).sum()) for p in points for a in p.curvature)
    seen = sum(float((a**2).sum()) for p in points for a in p.ends_curvature)
    return abs(seen - total) <= 10 * tolerance * total


def _different_outputs(model: Model, points: Sequence[Point], tolerance: float) -> tuple[int, ...]:
    """Return the outputs where the curvatures of loss and likelihood differ, weights aside."""
    return tuple(
        i
        for i, head in enumerate(model.heads)
        if not differ_by_weights(
            [p.ends_curvature[i] for p in points],
            [p.ends_fisher[i] for p in points],
            head.likelihood,
            tolerance,
        )
    )


def _names(model: Model) -> str:
    return " + ".join(describe_likelihood(head.likelihood) for head in model.heads)
