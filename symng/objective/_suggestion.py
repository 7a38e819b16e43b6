"""Find the likelihood that a loss belongs to, by the curvature of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pytensor.graph.traversal import ancestors

from symng.backends import compile_in_python
from symng.graphs.derivatives import hessian_product
from symng.graphs.rebuild import rebuild
from symng.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Poisson
from symng.objective.model import Model
from symng.objective.output_products import DRAWS, Point, Products

_CANDIDATES: tuple[Likelihood, ...] = (
    Categorical(logits=True),
    Bernoulli(logits=True),
    Poisson(log_rate=True),
    Gaussian(),
)


class Suggestion(NamedTuple):
    """A likelihood that the loss belongs to, on the output or on its pre-activation."""

    likelihood: Likelihood
    where: str


def suggest(model: Model, products: Products, points: Sequence[Point]) -> Suggestion | None:
    """Return the likelihood that the loss belongs to, or None; with several outputs None."""
    if len(model.heads) > 1:
        return None
    head = model.heads[0]
    found = _fitting(model, points)
    if found is not None:
        return Suggestion(found, "output" if head.y is head.r else "pre-activation")
    if not isinstance(head.likelihood, Gaussian) and _is_squared_error(model, products):
        return Suggestion(Gaussian(), "output")
    return None


def tolerance_of(model: Model) -> float:
    """Return the largest relative difference of two products that counts as rounding."""
    return 1e-3 if model.dtype == "float32" else 1e-6


def differ_by_weights(
    curvature: Sequence[np.ndarray],
    fisher: Sequence[np.ndarray],
    likelihood: Likelihood,
    tolerance: float,
) -> bool:
    """Return whether products differ only by weights that are the same at all points.

    Each example and time step has its own weight, and each unit if units are independent. Where the
    loss is flat, as a robust one is far from its target, a weight is 0. Weights may be negative, as
    advantages are, but one negative weight for all is a loss of the wrong sign.
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


def _fitting(model: Model, points: Sequence[Point]) -> Likelihood | None:
    """Return the likelihood whose metric is the curvature of the loss up to weights, or None."""
    head = model.heads[0]
    assert head.r is not None
    r, u = head.r.type(), head.r.type()
    over_last = head.r.ndim > 1 and head.example_axis != head.r.ndim - 1
    others = [c for c in _CANDIDATES if type(c) is not type(head.likelihood)]
    others = [c for c in others if over_last or not isinstance(c, Categorical)]
    metric_products = compile_in_python([r, u], [c.metric_product(r, u) for c in others])
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
        if differ_by_weights(
            [p.ends_curvature[0] for p in points], metric, candidate, tolerance_of(model)
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
    function = compile_in_python([*model.variables, placeholder, tangent], product)
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
    return finite and differ_by_weights(curvature, tangents, Gaussian(), tolerance_of(model))
