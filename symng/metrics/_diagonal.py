"""Mean squared per-example gradients: exact for dense layers, else estimated with random signs."""

from __future__ import annotations

import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng.graphs import vectors
from symng.graphs.derivatives import grad
from symng.graphs.loops import map_rows
from symng.graphs.types import Integer, Params
from symng.objective import Objective
from symng.objective.batches import TermBatch
from symng.objective.layers import SingleUse, find_uses


def known_example_losses(objective: Objective) -> TensorVariable:
    """Return the losses of single examples, which the objective is known to have."""
    losses = objective.example_losses
    assert losses is not None  # by `EmpiricalFisher.check`
    return losses


def mean_squared_gradients(batch: TermBatch, draws: int, seed: Integer) -> TensorVariable:
    """Return 1/N sum_n g_n^2 as a flat vector, with g_n the gradient of the loss of example n."""
    objective = batch.objective
    exact = list(_uses(objective))
    others = [p for p in objective.params if p not in exact]

    def means(o: Objective, offset: Integer) -> list[TensorVariable]:
        found = []
        if exact:
            squares = _layer_squares(o)
            found.append(vectors.ravel([squares[p].astype(o.dtype) for p in exact], exact))
        if others:
            found.append(_signed_means(o, others, draws, seed, offset).astype(o.dtype))
        return found

    parts = batch.mean(means)
    squares = dict(zip(exact, vectors.split(parts[0], exact), strict=True)) if exact else {}
    if others:  # (sum_n s_n g_n)^2 / N, whose expectation is 1/N sum_n g_n^2
        weights = pt.full((draws,), 1 / draws, dtype=objective.dtype)
        estimate = batch.count.astype(objective.dtype) * pt.dot(weights, pt.sqr(parts[-1]))
        squares |= zip(others, vectors.split(estimate, others), strict=True)
    return vectors.ravel([squares[p] for p in objective.params], objective.params)


# Exact, for dense layers


def _uses(objective: Objective) -> dict[SharedVariable, SingleUse]:
    """Return where the matrices and biases of dense layers are used."""
    return find_uses(objective, {known_example_losses(objective): 0})


def _layer_squares(objective: Objective) -> dict[SharedVariable, TensorVariable]:
    """Return 1/N sum_n g_n^2 for the matrices and biases of dense layers."""
    losses = known_example_losses(objective)
    uses = _uses(objective)
    count = losses.shape[0].astype(objective.dtype)
    # The loss shares its backward pass with the gradient; its deltas are divided by N for a mean.
    known = objective.reduction in ("mean", "sum")
    total = objective.loss if known else losses.sum()
    # The derivative is zero for a layer of which only the shape is used.
    outputs = [use.node.outputs[0] for use in uses.values()]
    deltas = grad(total, outputs, disconnected_inputs="ignore")
    factor = count if objective.reduction == "mean" else 1 / count
    return {
        p: factor * _sum_squares(use, delta)
        for (p, use), delta in zip(uses.items(), deltas, strict=True)
    }


def _sum_squares(use: SingleUse, delta: TensorVariable) -> TensorVariable:
    """Return sum_n g_n^2, given the derivative of the summed losses by the output of the layer.

    With h W, g_n = h_n^T delta_n, and the sum of the squares is (h^2)^T delta^2.
    """
    if use.is_layer():
        squares = pt.dot(pt.sqr(use.node.inputs[0]).T, pt.sqr(delta))
    else:
        repeated = [
            a for a, length in enumerate(use.operand.type.shape) if length == 1 and a != use.axis
        ]
        squares = pt.sqr(delta.sum(axis=repeated, keepdims=True)).sum(axis=use.axis, keepdims=True)
    own = sorted((o, a) for a, o in enumerate(use.order) if o != "x")
    added = [a for a, o in enumerate(use.order) if o == "x"]
    return squares.transpose(*(a for _, a in own), *added)


# Estimated, for all others


def _signed_means(
    objective: Objective, params: Params, draws: int, seed: Integer, offset: Integer
) -> TensorVariable:
    """Return 1/N sum_n s_n g_n for some parameters, a row for each draw of random signs s."""
    losses = known_example_losses(objective)
    count = losses.shape[0].astype(losses.dtype)

    def signed_mean(signs: TensorVariable) -> TensorVariable:
        mean = pt.dot(signs, losses) / count
        return vectors.ravel(grad(mean, list(params), disconnected_inputs="ignore"), params)

    rows = map_rows(signed_mean, vectors.random_signs(losses, seed, draws, offset=offset))
    return pt.specify_shape(rows, (draws, vectors.count(params)))
