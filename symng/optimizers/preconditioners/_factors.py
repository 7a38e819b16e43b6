"""The Fisher matrix as Kronecker products, one for each dense layer, with its damped inverse.

The references are in `KroneckerPreconditioner`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.graphs import vectors
from symng.graphs.derivatives import pullback
from symng.graphs.inverses import divided_inverse
from symng.graphs.types import Integer, Scalar
from symng.metrics.jacobian import floatx_of
from symng.objective import Objective
from symng.objective.layers import ParameterUse, find_uses
from symng.objective.sums import weighted_sum


@dataclass(frozen=True)
class Block:
    """Parameters whose part of the Fisher matrix is approximated by itself.

    For a layer h W + b that is E[h h^T] (x) E[g g^T], where g is the derivative by h W + b, and h
    has a 1 added for the bias. Of any other parameter only the diagonal is kept.

    Attributes
    ----------
    weights, bias : int
        The indices of W and b among the parameters; None without a bias.
    rows, columns : int
        The lengths of h and g; without a layer 0 and the size of the parameter.
    transposed : bool
        Whether the parameter is W^T.
    """

    weights: int
    bias: int | None
    rows: int
    columns: int
    transposed: bool = False

    @property
    def is_diagonal(self) -> bool:
        """Whether this is no layer."""
        return self.rows == 0

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the factors."""
        return [(self.columns,)] if self.is_diagonal else [(self.rows,) * 2, (self.columns,) * 2]


class Kronecker:
    """K-FAC blocks of an objective: factors, inverses and their product with flat vectors."""

    def __init__(self, objective: Objective, layers: Sequence[Block] | None = None) -> None:
        """Find the layers of an objective, or take ``layers`` that were found."""
        self.objective, self.params = objective, objective.params
        self.shapes = vectors.param_shapes(objective.params)
        self.ends = _ends(objective)
        self.uses = find_uses(objective, self.ends)
        self.layers = self._layers() if layers is None else list(layers)
        found = {i for layer in self.layers for i in (layer.weights, layer.bias)}
        self.blocks = self.layers + [
            Block(i, None, 0, math.prod(shape))
            for i, shape in enumerate(self.shapes)
            if i not in found
        ]

    def has_part_in(self, block: Block) -> bool:
        """Return whether the outputs depend on the weights of a block."""
        return self.params[block.weights] in self._reached

    def has_bias_of(self, block: Block) -> bool:
        """Return whether the outputs depend on the bias of a block."""
        return block.bias is not None and self.params[block.bias] in self._reached

    @cached_property
    def _reached(self) -> set[Variable]:
        return set(ancestors(list(self.ends)))

    def _layers(self) -> list[Block]:
        """Return the blocks of the dense layers."""
        index: dict[Variable, int] = {p: i for i, p in enumerate(self.params)}
        biases = {use.node: p for p, use in self.uses.items() if use.is_bias()}
        layers = []
        for p, use in self.uses.items():
            if not (use.is_layer() and use.is_matrix()):
                continue
            bias, transposed = _bias_of(use, self.uses, biases), use.order[0] == 1
            rows, columns = reversed(self.shapes[index[p]]) if transposed else self.shapes[index[p]]
            if bias is None:
                layers.append(Block(index[p], None, rows, columns, transposed))
            else:
                layers.append(Block(index[p], index[bias], rows + 1, columns, transposed))
        return layers

    def describe(self) -> str:
        """Return the dense layers that were found, with their biases, and the other parameters."""

        def name(index: int) -> str:
            return self.params[index].name or f"params[{index}]"

        layers, others = [], []
        for block in self.blocks:
            text = f"{name(block.weights)} {self.shapes[block.weights]}"
            if block.is_diagonal:
                others.append(text)
            else:
                layers.append(text if block.bias is None else f"{text} + {name(block.bias)}")
        lines = [f"dense layers: {', '.join(layers) or 'none'}"]
        if others:
            lines.append(f"diagonal: {', '.join(others)}")
        return "\n".join(lines)

    @property
    def size(self) -> int:
        """Return the length of the flat vector of factors."""
        return sum(math.prod(shape) for block in self.blocks for shape in block.shapes)

    def factors(self, seed: Integer, offset: Integer = 0) -> TensorVariable:
        """Return E[h h^T] and E[g g^T] of each layer, and the diagonals of the rest, as a vector.

        g is the derivative of s . B^T r for random signs s, where B B^T is the metric of the
        likelihood on r: then E[g g^T] is a part of the Fisher matrix, as with targets drawn from
        the model. Costs a forward pass, which is shared, a backward pass, and the products.
        ``offset`` is the index of the first example in its batch.
        """
        objective, ends, uses = self.objective, self.ends, self.uses
        cotangents: list[Any] = [
            head.likelihood.metric_sqrt(
                r, vectors.random_signs(r, seed, axis=head.example_axis, offset=offset)
            )
            for head, r in zip(objective.heads, ends, strict=True)
        ]
        count = next(r.shape[axis] for r, axis in ends.items()).astype(objective.dtype)
        blocks = [block for block in self.blocks if self.has_part_in(block)]
        wrt: list[Variable] = [
            self.params[block.weights]
            if block.is_diagonal
            else uses[self.params[block.weights]].node.outputs[0]
            for block in blocks
        ]
        with floatx_of(objective):
            slopes = pullback(list(ends), wrt, cotangents, disconnected_inputs="ignore")
        slope_of = dict(zip(blocks, slopes, strict=True))
        parts: list[TensorVariable] = []
        for block in self.blocks:
            slope = slope_of.get(block)
            if slope is None:  # of a parameter that only other terms of a sum depend on
                parts += [pt.zeros((math.prod(shape),)) for shape in block.shapes]
                continue
            if block.is_diagonal:
                parts.append(pt.sqr(slope).flatten() / count)
                continue
            h: Any = uses[self.params[block.weights]].node.inputs[0]
            if block.bias is not None:
                h = pt.concatenate([h, pt.ones_like(h[:, 0])[:, None]], axis=1)
            parts += [(pt.dot(factor.T, factor) / count).flatten() for factor in (h, slope)]
        return pt.specify_shape(
            pt.concatenate([part.astype(objective.dtype) for part in parts]), (self.size,)
        )

    def invert(self, factors: TensorVariable, damping: TensorVariable) -> TensorVariable:
        """Return the inverses of the factors, which share the damping, as a flat vector.

        (A + pi sqrt(lambda) I) (x) (G + sqrt(lambda) / pi I), with pi^2 the ratio of their mean
        eigenvalues.
        """
        dtype = factors.type.dtype
        tiny = pt.constant(10 * np.finfo(dtype).eps, dtype=dtype)
        one = pt.constant(1, dtype=dtype)
        parts: list[TensorVariable] = []
        for block, tensors in zip(self.blocks, self.split(factors), strict=True):
            if block.is_diagonal:
                shifted = tensors[0] + damping
                parts.append(1 / pt.switch(shifted > 0, shifted, one))
                continue
            means = [pt.diagonal(t).mean().astype(dtype) for t in tensors]
            pi = pt.sqrt(means[0] / means[1])
            pi = pt.switch((pi > 0) & pt.isfinite(pi), pi, one)
            root = pt.sqrt(damping)
            for t, mean, shift in zip(tensors, means, (pi * root, root / pi), strict=True):
                n = t.type.shape[0]
                # So that there is an inverse even without damping, and for a dead layer.
                shift = pt.maximum(shift, n * tiny * mean)
                shift = pt.switch(shift > 0, shift, one)
                inverse = pt.as_tensor_variable(divided_inverse(t + shift * pt.eye(n, dtype=dtype)))
                parts.append(((inverse + inverse.T) / 2).astype(dtype).flatten())
        return pt.concatenate(parts)

    def apply(self, inverses: TensorVariable, v: TensorVariable) -> TensorVariable:
        """Return the product of the flat vector ``v`` with the inverse of the matrix."""
        slices = vectors.split(v, self.params)
        out = list(slices)
        for block, tensors in zip(self.blocks, self.split(inverses), strict=True):
            weights = block.weights
            if block.is_diagonal:
                out[weights] = tensors[0].reshape(self.shapes[weights]) * slices[weights]
                continue
            V = slices[weights].T if block.transposed else slices[weights]
            if block.bias is not None:
                V = pt.concatenate([V, slices[block.bias].flatten()[None, :]], axis=0)
            V = pt.dot(pt.dot(tensors[0], V), tensors[1])
            if block.bias is not None:
                out[block.bias] = V[-1].reshape(self.shapes[block.bias])
                V = V[:-1]
            out[weights] = V.T if block.transposed else V
        return vectors.ravel(out, self.params)

    def split(self, vector: TensorVariable) -> list[list[TensorVariable]]:
        """Return the factors of each block, cut from their flat vector."""
        tensors = iter(
            vectors.cut(vector, [shape for block in self.blocks for shape in block.shapes])
        )
        return [[next(tensors) for _ in block.shapes] for block in self.blocks]


def kroneckers_of(terms: Sequence[Objective]) -> list[Kronecker]:
    """Return the blocks of each term of a sum; a layer is one in all terms that depend on it."""
    own = [Kronecker(term) for term in terms]
    if len(own) == 1:
        return own
    layers = dict.fromkeys(layer for kronecker in own for layer in kronecker.layers)
    common = [
        layer
        for layer in layers
        if all(layer in k.layers for k in own if k.has_part_in(layer) or k.has_bias_of(layer))
    ]
    return [Kronecker(term, common) for term in terms]


def combine_factors(
    kroneckers: Sequence[Kronecker],
    weights: Sequence[Scalar],
    factors: Sequence[TensorVariable],
) -> TensorVariable:
    """Return the factors of a weighted sum: of A the weighted mean, of G the weighted sum.

    The weighted sum of the products A (x) G is no such product itself.
    """
    if len(kroneckers) == 1:
        return factors[0]
    split = [k.split(vector) for k, vector in zip(kroneckers, factors, strict=True)]
    parts: list[TensorVariable] = []
    for number, block in enumerate(kroneckers[0].blocks):
        having = [i for i, kronecker in enumerate(kroneckers) if kronecker.has_part_in(block)]
        own = [weights[i] for i in having]
        if not having:  # of parameters that only the loss uses
            parts += [tensor.flatten() for tensor in split[0][number]]
            continue
        sums = [
            weighted_sum(own, of_terms)
            for of_terms in zip(*(split[i][number] for i in having), strict=True)
        ]
        if not block.is_diagonal:
            total = pt.cast(sum(own), sums[0].type.dtype)
            sums[0] = sums[0] / total
        parts += [tensor.flatten() for tensor in sums]
    return pt.concatenate(parts)


def _ends(objective: Objective) -> dict[Any, int]:
    """Return the pre-activations of the outputs, each with its axis of examples."""
    ends: dict[Any, int] = {}
    for head in objective.heads:
        if head.r is None or head.likelihood.metric_sqrt(head.r, head.r) is None:
            raise argument_error(
                "preconditioner",
                "a likelihood with a metric_sqrt, on a pre-activation that is known",
                Verbatim(f"{head.likelihood} on {head.y}"),
                "Write the output with sigmoid, softmax or exp at its end, or give it as logits.",
            )
        ends[head.r] = head.example_axis
    return ends


def _bias_of(
    use: ParameterUse,
    uses: Mapping[SharedVariable, ParameterUse],
    biases: Mapping[Apply, SharedVariable],
) -> SharedVariable | None:
    """Return the parameter that is added to the result of a layer and nowhere else, or None.

    One that is subtracted has derivatives of the other sign: it is no bias of the layer.
    """
    product = use.node.outputs[0]
    for node, p in biases.items():
        added = (
            isinstance(node.op, Elemwise)
            and isinstance(node.op.scalar_op, ps.Add)
            and product in node.inputs
            and len(node.inputs) == 2
        )
        if added and uses[p].order[-1] == 0 and uses[p].operand.type.ndim == 2:
            return p
    return None
