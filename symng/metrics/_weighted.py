"""Product, factor and draw of a weighted sum of metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.types import Scalar
from symng.objective.sums import weighted_sum
from symng.operators import Factor, Product


class Parts(NamedTuple):
    """What `LinearOperator` takes of a matrix A = R^T R: v -> A v, R, and seed -> R^T s."""

    product: Product
    factor: Factor | None
    draw: Callable[[TensorVariable], TensorVariable] | None


def weighted_parts(
    weights: Sequence[Scalar], of_terms: Sequence[Parts], size: int, dtype: str
) -> Parts:
    """Return the parts of sum_i w_i A_i, with no factor or draw if one of the terms has none."""
    factors = [parts.factor for parts in of_terms if parts.factor is not None]
    draws = [parts.draw for parts in of_terms if parts.draw is not None]
    roots = [pt.sqrt(pt.cast(weight, dtype)) for weight in weights]
    count = len(of_terms)

    def product(v: TensorVariable) -> TensorVariable:
        return weighted_sum(weights, [parts.product(v) for parts in of_terms])

    def draw(seed: TensorVariable) -> TensorVariable:
        return weighted_sum(roots, [draw(seed * count + i) for i, draw in enumerate(draws)])

    return Parts(
        product,
        _stack_factors(roots, factors, size, dtype) if len(factors) == count else None,
        draw if len(draws) == count else None,
    )


def _stack_factors(
    roots: Sequence[TensorVariable], factors: Sequence[Factor], size: int, dtype: str
) -> Factor:
    """Return R with the rows of all R_i, each times the square root of the weight of i."""
    pairs = list(zip(roots, factors, strict=True))

    def matvec(v: TensorVariable) -> TensorVariable:
        return pt.concatenate([root * factor.matvec(v) for root, factor in pairs])

    def rmatvec(u: TensorVariable) -> TensorVariable:
        zero, start = pt.zeros((size,), dtype=dtype), pt.constant(0)
        total = zero
        for root, factor in pairs:
            stop = start + factor.matvec(zero).shape[0]
            total, start = total + factor.rmatvec(root * u[start:stop]), stop
        return total

    def rows() -> TensorVariable:
        like = pt.zeros((size,), dtype=dtype)
        stacked = [root * factor.materialise(like) for root, factor in pairs]
        return pt.concatenate(stacked, axis=0)

    return Factor(matvec, rmatvec, rows)
