"""Compare the curvatures of loss and likelihood on the output, without the model's Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pytensor.graph.traversal import ancestors

from symng.backends import STABILIZED, UNOPTIMIZED, compile_function
from symng.graphs.derivatives import hessian_product
from symng.graphs.rebuild import rebuild
from symng.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Likelihood,
    Poisson,
    describe_likelihood,
    likelihood_code,
)
from symng.objective.dry_run import DryRun
from symng.objective.model import Model
from symng.objective.output_products import (
    DRAWS,
    Point,
    Products,
    Values,
    check_passage,
    count_of,
    has_passage,
    inputs_of,
)

# At most so many examples are compared, and so many numbers of the output, if the loss is a mean or
# sum over examples.
_MAX_EXAMPLES, _MAX_NUMBERS = 256, 2**18

# What the loss may belong to instead.
_CANDIDATES: tuple[Likelihood, ...] = (
    Categorical(logits=True),
    Bernoulli(logits=True),
    Poisson(log_rate=True),
    Gaussian(),
)


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
        If they do not match, the likelihood that the loss belongs to, if found.
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


def check_match(model: Model, arrays: Sequence[Any], *, mode: Any = None, seed: int = 0) -> Match:
    """Compare both curvatures on the arrays of a batch; the work of `Objective.check`."""
    check_passage(model)
    values, dry_run = Values(model), DryRun(model)
    few: Sequence[Any] = arrays
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
    count = count_of(model, arrays)
    match = compare(values, few, UNOPTIMIZED if mode is None else mode, seed, count)
    # log(1 - sigmoid(r)) may be so only without rewrites.
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


def _is_same_in_part(model: Model, arrays: Sequence[Any]) -> bool:
    """Return whether the loss of an example is independent of the number of examples."""
    inputs, axes = inputs_of(model), model.data_axes
    losses = compile_function(
        inputs, model.example_losses, mode=UNOPTIMIZED, on_unused_input="ignore"
    )
    with np.errstate(all="ignore"):
        together = losses(*arrays)
        alone = losses(*(np.take(a, [0], axis=axis) for a, axis in zip(arrays, axes, strict=True)))
    return bool(np.isclose(together[0], alone[0], rtol=1e-3, equal_nan=True))


def compare(
    values: Values,
    arrays: Sequence[Any],
    mode: Any,
    seed: int = 0,
    count: int | None = None,
    near: float = 0.0,
) -> Match:
    """Return the verdict on examples of a batch of ``count``, at their outputs and nearby.

    A relative difference of ``near`` does not count, where that is more than rounding.
    """
    model = values.model
    tolerance = max(near, _tolerance(model))
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
    return _suggest(model, products, points, replace(match, outputs=different))


def _judge(
    model: Model, points: Sequence[Point], lengths: Sequence[int], scale: float, tolerance: float
) -> Match:
    """Turn the products into a verdict in words.

    ``lengths`` are those of the first output, and ``scale`` is the factor from the examples
    compared to all of them.
    """
    names = _names(model)
    own = points[0]
    if not own.is_finite():
        whose = "Gauss-Newton" if all(np.isfinite(a).all() for a in own.fisher) else "Fisher"
        message = (
            f"No verdict: the {whose} product is not finite on this batch. Try smaller parameters, "
            "or write the loss through the pre-activation (softplus(r) - t * r, logsumexp(r) - "
            "r[t])."
        )
        return Match(False, float("nan"), None, float("nan"), message)
    fv = np.concatenate([a.ravel() for p in points for a in p.fisher])
    gv = np.concatenate([a.ravel() for p in points for a in p.curvature])
    if not fv.any() or not gv.any():
        whose = "Fisher" if not fv.any() else "Gauss-Newton"
        message = f"No verdict: the {whose} product is zero on this batch: nothing to compare."
        return Match(False, float("nan"), None, float("nan"), message)
    if not all(has_passage(head) for head in model.heads):
        message = (
            f"No verdict: no pre-activation of the output was found for {names}, and the curvature "
            "of the loss can be compared only there. End the output in sigmoid, softmax or exp, "
            "or give it as logits."
        )
        return Match(False, float("nan"), None, float("nan"), message)
    factor = float(fv @ gv / (fv @ fv))
    difference = float(np.linalg.norm(gv - factor * fv) / np.linalg.norm(gv))
    factor *= scale
    if difference > tolerance or factor <= 0:
        message = (
            "Loss and likelihood do not match: the curvature of the loss is no multiple of the "
            f"Fisher matrix of {names} (relative difference {difference:.2g}). Fisher and "
            "GaussNewton will differ. If this is not intended, use the negative log-likelihood of "
            "the output as loss, or give the likelihood that belongs to it."
        )
        return Match(False, factor, None, difference, message)

    def is_near(number: float) -> bool:
        return abs(factor / number - 1) <= 10 * tolerance

    reduction, what = None, f"{factor:.6g} times their mean"
    axis = model.heads[0].example_axis
    examples = lengths[axis]
    if is_near(1):
        reduction, what = "mean", "their mean"
    elif is_near(examples):
        reduction, what = "sum", "their sum"
    message = (
        f"Loss and likelihood match: the loss is the negative log-likelihood of {names} per "
        f"example, {what}"
    )
    if reduction != "mean":
        # A sum takes the steps of its mean, whatever else it is multiplied with.
        by = (
            "it"
            if model.sum_factor is None
            else f"{factor / examples:.6g}, since steps are those of the mean"
        )
        known = reduction == "sum" and model.sum_factor is not None
        what = (
            "steps are those of their mean" if known else f"a damping for Fisher is scaled by {by}"
        )
        message += f" (factor {factor:.6g}): {what}"
    message += "."
    # A mean over the examples of another axis than the one that was given.
    others = [a for a, n in enumerate(lengths) if a != axis and n and is_near(examples / n)]
    if reduction is None and others:
        message += (
            f" That is the ratio of the output's lengths along axes {axis} and {others[0]} "
            f"({examples} and {lengths[others[0]]}): if examples run along axis {others[0]}, give "
            f"example_axis={others[0]}."
        )
    return Match(True, factor, reduction, difference, message)


def _is_covered(points: Sequence[Point], tolerance: float) -> bool:
    """Return whether the outputs show all curvature of the loss.

    They do not if they read only parts of the pre-activations, or one of them twice.
    """
    total = sum(float((a**2).sum()) for p in points for a in p.curvature)
    seen = sum(float((a**2).sum()) for p in points for a in p.ends_curvature)
    return abs(seen - total) <= 10 * tolerance * total


def _different_outputs(model: Model, points: Sequence[Point], tolerance: float) -> tuple[int, ...]:
    """Return the outputs where the curvatures of loss and likelihood differ, weights aside."""
    return tuple(
        i
        for i, head in enumerate(model.heads)
        if not _differ_by_weights(
            [p.ends_curvature[i] for p in points],
            [p.ends_fisher[i] for p in points],
            head.likelihood,
            tolerance,
        )
    )


def _differ_by_weights(
    curvature: Sequence[np.ndarray],
    fisher: Sequence[np.ndarray],
    likelihood: Likelihood,
    tolerance: float,
) -> bool:
    """Return whether products differ only by weights that are the same at all points.

    Each example and time step has its own, and where the units are independent each unit. Where the
    loss is flat, as a robust one is far from its target, a weight is 0. Weights may be negative, as
    advantages are, but a loss of the wrong sign has a weight of -1 everywhere.
    """
    gs, fs = np.stack(curvature), np.stack(fisher)  # points, draws, and the axes of the output
    if not isinstance(likelihood, Categorical):
        if not isinstance(likelihood, Gaussian | Bernoulli | Poisson):
            return False  # the user's own, whose units may be dependent
        gs, fs = gs[..., None], fs[..., None]
    fs = np.where((gs == 0).all(axis=(1, -1), keepdims=True), 0, fs)
    squares = (fs**2).sum(axis=(0, 1, -1))
    weights = (fs * gs).sum(axis=(0, 1, -1)) / np.where(squares > 0, squares, 1)
    difference = np.linalg.norm(gs - weights[..., None] * fs) / max(
        float(np.linalg.norm(gs)), 1e-300
    )
    used = weights[abs(weights) > tolerance * abs(weights).max()]
    is_signed = not used.size or used.max() > 0 or bool(np.ptp(used) > tolerance * abs(used).max())
    return bool(difference <= tolerance) and is_signed


def _suggest(model: Model, products: Products, points: Sequence[Point], match: Match) -> Match:
    """Add the likelihood that the loss belongs to, if there is one output and it is found."""
    if len(model.heads) > 1:
        return match
    head = model.heads[0]
    found = _fitting(model, points)
    where = (
        "the output" if head.y is head.r else "its pre-activation, which would then be the output"
    )
    if (
        found is None
        and not isinstance(head.likelihood, Gaussian)
        and _is_squared_error(model, products)
    ):
        found, where = Gaussian(), "the output"
    if found is None:
        return match
    text = (
        f"{match.message} The loss is that of {type(found).__name__} on {where}: "
        f"likelihood={likelihood_code(found)}."
    )
    placeholder = "output" if where == "the output" else "pre-activation"
    return replace(match, message=text, likelihood=found, where=placeholder)


def _fitting(model: Model, points: Sequence[Point]) -> Likelihood | None:
    """Return the likelihood whose metric is the curvature of the loss up to weights, or None."""
    head = model.heads[0]
    assert head.r is not None
    r, u = head.r.type(), head.r.type()
    over_last = head.r.ndim > 1 and head.example_axis != head.r.ndim - 1
    others = [c for c in _CANDIDATES if type(c) is not type(head.likelihood)]
    others = [c for c in others if over_last or not isinstance(c, Categorical)]
    metric_products = compile_function(
        [r, u], [c.metric_product(r, u) for c in others], mode=UNOPTIMIZED, on_unused_input="ignore"
    )
    dtype = r.type.dtype
    found = [
        [
            metric_products(end.astype(dtype), tangent.astype(dtype))
            for end, tangent in zip(p.ends[0], p.tangents[0], strict=True)
        ]
        for p in points
    ]
    for i, candidate in enumerate(others):
        metric = [
            np.stack([np.asarray(draw[i], dtype=np.float64) for draw in point]) for point in found
        ]
        if _differ_by_weights(
            [p.ends_curvature[0] for p in points], metric, candidate, _tolerance(model)
        ):
            return candidate
    return None


def _is_squared_error(model: Model, products: Products) -> bool:
    """Return whether the loss is quadratic in each unit of the output itself."""
    y = model.heads[0].y
    if y not in set(ancestors([model.loss])):
        return False
    placeholder, tangent = y.type(), y.type()
    loss = rebuild([model.loss], {y: placeholder})[0]
    product = hessian_product(loss, [placeholder], [tangent])[0]
    inputs = [*inputs_of(model), placeholder, tangent]
    function = compile_function(inputs, product, mode=UNOPTIMIZED, on_unused_input="ignore")
    rng = np.random.default_rng(0)
    value = products.outputs[0]
    curvature, tangents = [], []
    for values in (value, value * rng.uniform(0.5, 1, value.shape).astype(value.dtype)):
        draws = [rng.standard_normal(value.shape).astype(value.dtype) for _ in range(DRAWS)]
        curvature.append(
            np.stack([function(*products.arrays, values, u) for u in draws]).astype(np.float64)
        )
        tangents.append(np.stack(draws).astype(np.float64))
    finite = bool(np.isfinite(curvature).all()) and bool(np.any(curvature))
    return finite and _differ_by_weights(curvature, tangents, Gaussian(), _tolerance(model))


def _names(model: Model) -> str:
    return " + ".join(describe_likelihood(head.likelihood) for head in model.heads)


def _tolerance(model: Model) -> float:
    return 1e-3 if model.dtype == "float32" else 1e-6
