"""Mean of the squared gradients of single examples: exact for dense layers, else an estimate by random signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from symng import vectors
from symng._loop import map_rows
from symng.metrics._layers import Use, find_uses
from symng.objective import Objective


def mean_squared_gradients(objective: Objective, draws: int, seed: Any) -> TensorVariable:
    """Return 1/N sum_n g_n^2, elementwise, as a flat vector; g_n is the gradient of the loss of example n."""
    squares = _layer_squares(objective)
    others = [p for p in objective.params if p not in squares]
    if others:
        squares |= zip(others, _estimated_squares(objective, others, draws, seed), strict=True)
    return vectors.ravel([squares[p].astype(objective.dtype) for p in objective.params], objective.params)


# Exact, for dense layers


def _layer_squares(objective: Objective) -> dict[Variable, TensorVariable]:
    """Return 1/N sum_n g_n^2 for the matrices and biases of dense layers."""
    losses: Any = objective.example_losses
    uses = find_uses(objective, {losses: 0})
    if not uses:
        return {}
    count = losses.shape[0].astype(objective.dtype)
    # The backward pass of the loss is made for its gradient anyway; a mean has divided its deltas by N.
    known = objective.reduction in ("mean", "sum")
    total = objective.loss if known else losses.sum()
    deltas: Any = pytensor.grad(total, [use.node.outputs[0] for use in uses.values()])
    factor = count if objective.reduction == "mean" else 1 / count
    return {p: factor * _sum_squares(use, delta) for (p, use), delta in zip(uses.items(), deltas, strict=True)}


def _sum_squares(use: Use, delta: Any) -> TensorVariable:
    """Return sum_n g_n^2 from the derivative of the sum of the losses by what the layer computes.

    With h W, g_n = h_n^T delta_n, and the sum of the squares is (h^2)^T delta^2.
    """
    if use.is_layer():
        squares = pt.dot(pt.sqr(use.node.inputs[0]).T, pt.sqr(delta))
    else:
        repeated = [a for a, length in enumerate(use.operand.type.shape) if length == 1 and a != use.axis]
        squares = pt.sqr(delta.sum(axis=repeated, keepdims=True)).sum(axis=use.axis, keepdims=True)
    own = sorted((o, a) for a, o in enumerate(use.order) if o != "x")
    added = [a for a, o in enumerate(use.order) if o == "x"]
    return squares.transpose(*(a for _, a in own), *added)


# Estimated, for all others


def _estimated_squares(objective: Objective, params: Sequence[Any], draws: int, seed: Any) -> list[TensorVariable]:
    """Return 1/N of the mean of (sum_n s_n g_n)^2 over draws of random signs s, whose expectation is sum_n g_n^2."""
    losses: Any = objective.example_losses

    def signed_gradient(signs: TensorVariable) -> TensorVariable:
        slopes: Any = pytensor.grad(pt.dot(signs, losses), list(params), disconnected_inputs="ignore")
        return vectors.ravel(slopes, params)

    sums = map_rows(signed_gradient, vectors.random_signs(losses, seed, draws))
    weights = pt.full((draws,), 1 / draws, dtype=sums.dtype)
    count = losses.shape[0].astype(sums.dtype)
    return vectors.split(pt.dot(weights, pt.sqr(sums)) / count, params)
