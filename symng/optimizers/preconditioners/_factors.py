"""The Fisher matrix as Kronecker products, one for each layer, with its damped inverse.

The references are in `KroneckerPreconditioner`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.graphs import vectors
from symng.graphs.building import building
from symng.graphs.derivatives import pullback
from symng.graphs.types import Integer, Scalar
from symng.objective import Objective
from symng.objective.parameter_uses import ParameterUse, ParameterUses
from symng.objective.sums import weighted_sum
from symng.optimizers.preconditioners._blocks import Block, Diagonal, Layer
from symng.optimizers.preconditioners._layers import (
    Found,
    Sharing,
    example_rows,
    find_layers,
    joint_factor,
    layer_factors,
    sum_of,
)
from symng.optimizers.preconditioners._opened import OpenedGraph


class Kronecker:
    """K-FAC blocks of an objective: factors, inverses and their product with flat vectors."""

    def __init__(self, objective: Objective, layers: Sequence[Block] | None = None) -> None:
        """Find the layers of an objective, or take ``layers`` that were found."""
        self.objective, self.params = objective, objective.params
        self.shapes = vectors.param_shapes(objective.params)
        self.ends = _ends(objective)
        uses = ParameterUses(objective, self.ends, self.shapes)
        self.uses = self._usable(find_layers(uses, self.params, self.shapes))
        self.layers = list(self.uses) if layers is None else list(layers)
        in_layers = {i for layer in self.layers for i in layer.params}
        diagonals = [Diagonal(i, s) for i, s in enumerate(self.shapes) if i not in in_layers]
        self.blocks: list[Block] = [*self.layers, *diagonals]

    def _usable(self, found: Found) -> Found:
        """Return the blocks without those in scans that cannot be opened."""
        usable = {}
        for block, uses in found.items():
            try:
                OpenedGraph(list(self.ends), list(chain(*uses)))
            except (NotImplementedError, TypeError, ValueError):
                continue
            usable[block] = uses
        return usable

    def has_part_in(self, block: Block) -> bool:
        """Return whether the outputs depend on parameters of a block."""
        return any(self.params[i] in self._reached for i in block.params)

    @cached_property
    def _reached(self) -> set[Variable]:
        return set(ancestors(list(self.ends)))

    def describe(self) -> str:
        """Return the layers that were found, by their kinds, and the other parameters."""

        def name(index: int) -> str:
            return self.params[index].name or f"params[{index}]"

        has_layers = any(isinstance(block, Layer) for block in self.blocks)
        by_kind: dict[str, list[str]] = {} if has_layers else {"layers": ["none"]}
        for block in self.blocks:
            first, *more = block.params
            text = " + ".join([f"{name(first)} {self.shapes[first]}", *map(name, more)])
            by_kind.setdefault(block.kind, []).append(text)
        return "\n".join(f"{kind}: {', '.join(of_kind)}" for kind, of_kind in by_kind.items())

    @property
    def size(self) -> int:
        """Return the length of the flat vector of factors."""
        return sum(math.prod(shape) for block in self.blocks for shape in block.shapes)

    def factors(
        self, seed: Integer, offset: Integer = 0, sharing: Sharing = "expand"
    ) -> TensorVariable:
        """Return E[h h^T] and E[g g^T] of each layer, and the diagonals of the rest, as a vector.

        g is the derivative of s . B^T r for random signs s, where B B^T is the metric of the
        likelihood on r: then E[g g^T] is a part of the Fisher matrix, as with targets drawn from
        the model. Costs a forward pass, which is shared, a backward pass, and the products.
        ``offset`` is the index of the first example in its batch, and ``sharing`` what becomes of
        several rows of an example.
        """
        objective, ends = self.objective, self.ends
        blocks = [block for block in self.blocks if self.has_part_in(block)]
        opened = OpenedGraph(list(ends), self._uses_of(blocks))
        cotangents: list[Any] = [
            head.likelihood.metric_sqrt(
                r, vectors.random_signs(r, seed, axis=head.example_axis, offset=offset)
            )
            for head, r in zip(objective.heads, opened.ends, strict=True)
        ]
        r, axis = next(iter(zip(opened.ends, ends.values(), strict=True)))
        count = r.shape[axis].astype(objective.dtype)
        wrt = [
            v
            for block in blocks
            for v in (
                [self.params[block.index]]
                if isinstance(block, Diagonal)
                else map(opened.place, self._uses_of([block]))
            )
        ]
        with building(floatx=objective.dtype):
            slopes = iter(pullback(opened.ends, wrt, cotangents, disconnected_inputs="ignore"))
        parts: list[TensorVariable] = []
        for block in self.blocks:
            if not self.has_part_in(block):  # of parameters that only other terms depend on
                parts += [pt.zeros((math.prod(shape),)) for shape in block.shapes]
            elif isinstance(block, Diagonal):
                parts.append(pt.sqr(next(slopes)).flatten() / count)
            elif isinstance(block, Layer):
                uses = self._uses_of([block])
                own = [(opened.given(use)[0], next(slopes)) for use in uses]
                parts += [
                    factor.flatten() for factor in layer_factors(block, uses, own, count, sharing)
                ]
            else:
                rows = [
                    sum_of([example_rows(use, opened.given(use), next(slopes)) for use in of_one])
                    for of_one in self.uses[block]
                ]
                parts.append(joint_factor(rows, count).flatten())
        return pt.specify_shape(
            pt.concatenate([part.astype(objective.dtype) for part in parts]), (self.size,)
        )

    def _uses_of(self, blocks: Sequence[Block]) -> list[ParameterUse]:
        """Return the uses from which the factors of blocks are made."""
        return [
            use
            for block in blocks
            if not isinstance(block, Diagonal)
            for of_one in self.uses[block]
            for use in of_one
        ]

    def invert(self, factors: TensorVariable, damping: TensorVariable) -> TensorVariable:
        """Return the inverses of the factors, with damping, as a flat vector."""
        parts = [
            inverse.flatten()
            for block, tensors in zip(self.blocks, self.split(factors), strict=True)
            for inverse in block.invert(tensors, damping)
        ]
        return pt.concatenate(parts)

    def apply(self, inverses: TensorVariable, v: TensorVariable) -> TensorVariable:
        """Return the product of the flat vector ``v`` with the inverse of the matrix."""
        slices = vectors.split(v, self.params)
        out = list(slices)
        for block, tensors in zip(self.blocks, self.split(inverses), strict=True):
            block.apply(tensors, slices, out)
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
        layer for layer in layers if all(layer in k.layers for k in own if k.has_part_in(layer))
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
        for i, tensor in enumerate(sums):
            total = pt.cast(sum(own), tensor.type.dtype)
            parts.append((tensor / total if block.is_mean(i) else tensor).flatten())
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
