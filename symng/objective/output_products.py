"""Curvatures of loss and likelihood as products in the space of the output, on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pytensor.gradient import DisconnectedGrad, ZeroGrad
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors, toposort
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.backends import compile_function, compile_in_python
from symng.graphs.derivatives import hessian_product, pullback, pushforward
from symng.graphs.rebuild import rebuild
from symng.graphs.types import ModeLike
from symng.objective.heads import Head
from symng.objective.model import Model

DRAWS = 2  # random vectors at each point


def check_passage(model: Model) -> None:
    """Refuse a loss that does not pass through the pre-activation of an output."""
    reached = set(ancestors([model.loss]))
    for head in model.heads:
        if head.curvature_at not in reached:
            raise argument_error(
                "loss",
                f"a graph that passes through {head.curvature_at}, the pre-activation of output "
                f"{head.y}",
                Verbatim("one that does not, or that computes it in another way"),
                "Use one variable for the pre-activation in both, or leave out outputs that the "
                "loss does not use.",
            )


def has_path_to_r(head: Head) -> bool:
    """Return whether the pre-activation of a head is computed from ``head.curvature_at``.

    For a state of a scan, it may be computed outside of the loss, from previous states.
    """
    return head.r is not None and head.curvature_at in set(ancestors([head.r]))


class Values:
    """Evaluate the pre-activations and outputs of a model on arrays, in plain Python."""

    def __init__(self, model: Model) -> None:
        self.model = model
        # Slices of one r share it.
        self.preactivations = list(dict.fromkeys(head.curvature_at for head in model.heads))
        results = [*self.preactivations, *model.outputs, model.heads[0].y.shape]
        self._function = compile_in_python(model.variables, results)

    def __call__(
        self, arrays: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
        """Return the pre-activations, the outputs, and the lengths of the first output."""
        with np.errstate(all="ignore"):
            found = self._function(*arrays)
        count = len(self.preactivations)
        return (
            [np.asarray(v) for v in found[:count]],
            [np.asarray(v) for v in found[count:-1]],
            [*map(int, found[-1])],
        )

    def take_examples(
        self, arrays: Sequence[np.ndarray], limit: int, numbers: int
    ) -> Sequence[np.ndarray]:
        """Return examples from all over a batch: at most ``limit``, with ``numbers`` in outputs."""
        if not arrays:
            return arrays
        count, axes = self.model.count_of(arrays), self.model.data_axes
        variables = self.model.variables
        fixed = any(v.type.shape[axis] is not None for v, axis in zip(variables, axes, strict=True))
        if fixed or count <= 2:
            return arrays

        def taken(number: int) -> list[np.ndarray]:
            where = np.linspace(0, count - 1, number).round().astype(int)
            return [
                np.asarray(a.take(where, axis=axis)) for a, axis in zip(arrays, axes, strict=True)
            ]

        each = sum(y.size for y in self(taken(2))[1]) // 2
        limit = min(limit, max(2, numbers // max(each, 1)))
        return arrays if count <= limit else taken(limit)


@dataclass
class Point:
    """Products at one value of the pre-activations, for each draw of tangents.

    The first two are in the space of the variables where curvature is taken, the others in that of
    the heads' pre-activations.
    """

    fisher: list[np.ndarray]
    curvature: list[np.ndarray]
    ends: list[np.ndarray]
    tangents: list[np.ndarray]
    ends_fisher: list[np.ndarray]
    ends_curvature: list[np.ndarray]

    def is_finite(self) -> bool:
        """Return whether all products are finite."""
        return all(np.isfinite(a).all() for a in (*self.fisher, *self.curvature))


class _Ends:
    """The pre-activations of heads as functions of placeholders, usually views or slices.

    If a pre-activation is not known, the output takes its place.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        preactivations: Sequence[TensorVariable],
        placeholders: Sequence[TensorVariable],
    ) -> None:
        number = {r: i for i, r in enumerate(preactivations)}
        self.heads = heads
        self.placeholders = placeholders
        self.numbers = [number[head.curvature_at] for head in heads]
        self.are_on_r = [has_path_to_r(head) for head in heads]
        pairs = zip(heads, self.are_on_r, strict=True)
        ends = [head.r if on_r and head.r is not None else head.y for head, on_r in pairs]
        self.ends = rebuild(ends, dict(zip(preactivations, placeholders, strict=True)))

    def push(self, vectors: Sequence[TensorVariable]) -> list[TensorVariable]:
        """Return vectors, one for each placeholder, pushed forward to the ends."""
        pushed: list[TensorVariable] = []
        for end, i in zip(self.ends, self.numbers, strict=True):
            along = [vectors[i]]
            if end is not self.placeholders[i]:
                along = pushforward([end], [self.placeholders[i]], along)
            pushed.append(along[0])
        return pushed

    def fisher_products(self, tangents: Sequence[TensorVariable]) -> list[TensorVariable]:
        """Return the Fisher products on the placeholders, given tangents of the ends."""
        total: list[TensorVariable] = [v.zeros_like() for v in self.placeholders]
        parts = zip(self.heads, self.ends, tangents, self.numbers, self.are_on_r, strict=True)
        for head, end, tangent, i, on_r in parts:
            likelihood = head.likelihood
            multiply = likelihood.metric_product if on_r else likelihood.output_metric_product
            count = end.shape[head.example_axis].astype(end.dtype)
            pulled = [multiply(end, tangent) / count]
            if end is not self.placeholders[i]:
                pulled = pullback([end], [self.placeholders[i]], pulled)
            total[i] += pulled[0]
        return total


class Products:
    """Multiply random vectors with both curvatures, at any values of the pre-activations."""

    def __init__(self, values: Values, arrays: Sequence[np.ndarray], mode: ModeLike) -> None:
        model, preactivations = values.model, values.preactivations
        self.arrays = arrays
        self.values, self.outputs, self.lengths = values(arrays)

        placeholders: list[TensorVariable] = [r.type() for r in preactivations]
        tangents: list[TensorVariable] = [r.type() for r in preactivations]
        pairs = dict(zip(preactivations, placeholders, strict=True))
        loss = rebuild([model.loss], {**pairs, **_without_gradient(model.loss, preactivations)})[0]
        curvature = hessian_product(loss, placeholders, tangents)
        ends = _Ends(model.heads, preactivations, placeholders)
        along = ends.push(tangents)
        fisher = ends.fisher_products(along)
        graphs = [fisher, curvature, ends.ends, along, ends.push(fisher), ends.push(curvature)]
        self._sizes = [len(part) for part in graphs]
        flat = [v for part in graphs for v in part]
        self._function = compile_function(
            [*model.variables, *placeholders, *tangents], flat, mode=mode, on_unused_input="ignore"
        )

    def __call__(self, values: Sequence[np.ndarray], rng: np.random.Generator) -> Point:
        """Return the products with a few random vectors."""
        values = [v.astype(own.dtype) for v, own in zip(values, self.values, strict=True)]
        draws = []
        for _ in range(DRAWS):
            tangents = [rng.standard_normal(v.shape).astype(v.dtype) for v in values]
            draws.append(self._function(*self.arrays, *values, *tangents))
        stacked = [
            np.stack([np.asarray(d[i], dtype=np.float64) for d in draws])
            for i in range(len(draws[0]))
        ]
        starts = np.cumsum([0, *self._sizes])
        return Point(*(stacked[a:b] for a, b in pairwise(starts)))


def _without_gradient(
    loss: TensorVariable, preactivations: Sequence[TensorVariable]
) -> dict[Variable, Variable]:
    """Return an identity map of the variables of ``loss`` that pass no gradient, as advantages do.

    A copy of a pre-activation that passes no gradient is left out: it moves with the original.
    """
    nodes = [
        node
        for node in toposort([loss])
        if isinstance(node.op, DisconnectedGrad | ZeroGrad) and node.inputs[0] not in preactivations
    ]
    return {v: v for node in nodes for v in node.outputs}
