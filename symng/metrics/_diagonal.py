"""Mean of the squared gradients of single examples: exact for dense layers, else an estimate by random signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import toposort
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.variable import TensorVariable

from symng import vectors
from symng._examples import locate_examples
from symng._loop import map_rows
from symng.objective import Objective


def mean_squared_gradients(objective: Objective, draws: int, seed: Any) -> TensorVariable:
    """Return 1/N sum_n g_n^2, elementwise, as a flat vector; g_n is the gradient of the loss of example n."""
    squares = _layer_squares(objective)
    others = [p for p in objective.params if p not in squares]
    if others:
        squares |= zip(others, _estimated_squares(objective, others, draws, seed), strict=True)
    return vectors.ravel([squares[p].astype(objective.dtype) for p in objective.params], objective.params)


# Exact, for dense layers


@dataclass(frozen=True)
class _Use:
    """The one place where a parameter enters the losses of the examples.

    ``operand`` is the parameter with its axes in ``order`` ("x": an axis of length 1 that was added), and ``axis`` the
    axis of examples of what ``node`` computes from it.
    """

    node: Apply
    operand: Any
    order: Sequence[Any]
    axis: int

    def is_layer(self) -> bool:
        """Tell whether it is h W, for a matrix h with an example a row."""
        op = self.node.op.core_op if isinstance(self.node.op, Blockwise) else self.node.op
        is_dot = isinstance(op, Dot) and self.node.inputs[1] is self.operand
        return is_dot and self.axis == 0 and all(v.type.ndim == 2 for v in self.node.inputs)

    def is_bias(self) -> bool:
        """Tell whether the parameter is added, the same to every example."""
        op = self.node.op
        is_sum = isinstance(op, Elemwise) and isinstance(op.scalar_op, ps.Add | ps.Sub)
        return is_sum and self.operand.type.shape[self.axis] == 1

    def sum_squares(self, delta: Any) -> TensorVariable:
        """Return sum_n g_n^2 from the derivative of the sum of the losses by what ``node`` computes.

        With h W, g_n = h_n^T delta_n, and the sum of the squares is (h^2)^T delta^2.
        """
        if self.is_layer():
            squares = pt.dot(pt.sqr(self.node.inputs[0]).T, pt.sqr(delta))
        else:
            repeated = [a for a, length in enumerate(self.operand.type.shape) if length == 1 and a != self.axis]
            squares = pt.sqr(delta.sum(axis=repeated, keepdims=True)).sum(axis=self.axis, keepdims=True)
        own = sorted((o, a) for a, o in enumerate(self.order) if o != "x")
        added = [a for a, o in enumerate(self.order) if o == "x"]
        return squares.transpose(*(a for _, a in own), *added)


def _layer_squares(objective: Objective) -> dict[Variable, TensorVariable]:
    """Return 1/N sum_n g_n^2 for the matrices and biases of dense layers."""
    uses = _find_uses(objective)
    if not uses:
        return {}
    losses: Any = objective.example_losses
    count = losses.shape[0].astype(objective.dtype)
    # The backward pass of the loss is made for its gradient anyway; a mean has divided its deltas by N.
    known = objective.reduction in ("mean", "sum")
    total = objective.loss if known else losses.sum()
    deltas: Any = pytensor.grad(total, [use.node.outputs[0] for use in uses.values()])
    factor = count if objective.reduction == "mean" else 1 / count
    return {p: factor * use.sum_squares(delta) for (p, use), delta in zip(uses.items(), deltas, strict=True)}


def _find_uses(objective: Objective) -> dict[Variable, _Use]:
    """Return where the matrices and biases of dense layers enter, of those parameters that are such."""
    losses: Any = objective.example_losses
    nodes = [node for node in toposort([losses]) if not isinstance(node.op, Shape | Shape_i)]
    clients: dict[Variable, list[Apply]] = {}
    for node in nodes:
        for v in node.inputs:
            clients.setdefault(v, []).append(node)

    # The axis of examples of those tensors whose part n goes into the loss of example n alone.
    known = dict(zip((*objective.inputs, *objective.targets), objective.data_axes, strict=True))
    places = locate_examples(losses, known)
    apart: dict[Variable, int] = {}
    for node in reversed(nodes):
        for v in node.outputs:
            axis = places[v]
            if isinstance(axis, int) and all(out in apart for client in clients.get(v, ()) for out in client.outputs):
                apart[v] = axis

    uses: dict[Variable, _Use] = {}
    for p in objective.params:
        v, order = p, list[Any](range(p.type.ndim))
        while len(clients.get(v, ())) == 1:
            node = clients[v][0]
            if isinstance(node.op, DimShuffle):
                v, order = node.outputs[0], [o if o == "x" else order[o] for o in node.op.new_order]
                continue
            if node.outputs[0] in apart:
                use = _Use(node, v, order, apart[node.outputs[0]])
                if use.is_layer() or use.is_bias():
                    uses[p] = use
            break
    return uses


# Estimated, for all others


def _estimated_squares(objective: Objective, params: Sequence[Any], draws: int, seed: Any) -> list[TensorVariable]:
    """Return 1/N of the mean of (sum_n s_n g_n)^2 over draws of random signs s, whose expectation is sum_n g_n^2."""
    losses: Any = objective.example_losses

    def signed_gradient(signs: TensorVariable) -> TensorVariable:
        slopes: Any = pytensor.grad(pt.dot(signs, losses), list(params), disconnected_inputs="ignore")
        return vectors.ravel(slopes, params)

    sums = map_rows(signed_gradient, random_signs(losses, draws, seed))
    weights = pt.full((draws,), 1 / draws, dtype=sums.dtype)
    count = losses.shape[0].astype(sums.dtype)
    return vectors.split(pt.dot(weights, pt.sqr(sums)) / count, params)


def random_signs(like: TensorVariable, draws: int, seed: Any) -> TensorVariable:
    """Return ``draws`` rows of random signs of the length and dtype of the vector ``like``, a function of ``seed``.

    They are bits of a hash of seed and place, not draws of a generator, whose state not every backend gives back.
    """
    places = vectors.places(like)
    keys = _hash(pt.as_tensor_variable(np.arange(draws)) + _hash(pt.as_tensor_variable(seed)).astype("int64"))
    bits = _hash(places[None, :] + keys[:, None].astype("int64")) & np.uint64(1)
    return 1 - 2 * bits.astype(like.dtype)


def _hash(x: TensorVariable) -> TensorVariable:
    """Scramble words of 32 bits, by the finalizer "lowbias32" of C. Wellons."""
    mask = np.uint64(0xFFFFFFFF)
    x = x.astype("uint64") & mask
    for divisor, factor in ((1 << 16, 0x7FEB352D), (1 << 15, 0x846CA68B)):
        x = ((x ^ (x // np.uint64(divisor))) * np.uint64(factor)) & mask
    return x ^ (x // np.uint64(1 << 16))
