"""The questions that every walk from a loss back to its examples asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytensor.scalar as ps
from pytensor.graph.basic import Constant, Variable
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.subtensor import Subtensor
from pytensor.tensor.variable import TensorVariable

from symng.graphs.rewrites import is_elementwise
from symng.objective._example_axes import NONE, ExampleAxis


class LossWalk:
    """A walk backward from a loss, given the example axes of all variables."""

    def __init__(self, example_axes: Mapping[Variable, ExampleAxis]) -> None:
        self.example_axes = example_axes

    def example_axis(self, v: Variable) -> ExampleAxis:
        """Return the axis of ``v`` that runs over examples, or what else is known of them."""
        return self.example_axes.get(v, NONE)

    def sums_a_product(self, v: TensorVariable) -> bool:
        """Return whether ``v`` is a product of matrices that sums over examples, such as R^T R."""
        op = v.owner.op
        dot = isinstance(op, Dot) or (isinstance(op, Blockwise) and isinstance(op.core_op, Dot))
        return (
            dot
            and v.ndim == 2
            and all(isinstance(self.example_axis(i), int) for i in v.owner.inputs)
        )

    def counts_examples(self, factor: TensorVariable) -> bool:
        """Return whether the number of examples enters ``factor`` through the shape of a tensor."""
        seen: set[Variable] = set()
        stack: list[Variable] = [factor]
        while stack:
            v = stack.pop()
            if v in seen or v.owner is None:
                continue
            seen.add(v)
            op, inputs = v.owner.op, v.owner.inputs
            # Below a shape are values, not lengths.
            if isinstance(op, Shape_i):
                if self.example_axis(inputs[0]) == op.i:
                    return True
            elif isinstance(op, Shape):
                if isinstance(self.example_axis(inputs[0]), int):
                    return True
            elif isinstance(op, Subtensor) and len(inputs) == 2 and isinstance(inputs[1], Constant):
                measured = _shape_of(inputs[0])
                if measured is None:
                    stack.append(inputs[0])
                elif self.example_axis(measured) == int(inputs[1].data) % measured.ndim:
                    return True
            else:
                stack.extend(inputs)
        return False

    def is_count(self, v: TensorVariable) -> bool:
        """Return whether ``v`` is the number of examples itself, cast or not."""
        v = _without_casts(v)
        is_length = v.owner is not None and isinstance(v.owner.op, Shape_i | Subtensor)
        return is_length and all(v.type.broadcastable) and self.counts_examples(v)

    def factors_of(self, scales: Sequence[TensorVariable]) -> list[TensorVariable]:
        """Return the factors of a product, and of the products among them."""
        found: list[TensorVariable] = []
        for v in scales:
            inner = _without_casts(v)
            if inner.owner is not None and is_elementwise(inner.owner.op, ps.Mul):
                found += self.factors_of(inner.owner.inputs)
            else:
                found.append(v)
        return found


def _without_casts(v: TensorVariable) -> TensorVariable:
    """Return what ``v`` is computed from by casts and new axes of length 1."""
    while v.owner is not None and (
        is_elementwise(v.owner.op, ps.Cast) or isinstance(v.owner.op, DimShuffle)
    ):
        v = v.owner.inputs[0]
    return v


def _shape_of(v: Variable) -> TensorVariable | None:
    """Return the tensor whose shape, cast or not, is ``v``; None if ``v`` is not a shape."""
    while v.owner is not None and is_elementwise(v.owner.op, ps.Cast):
        v = v.owner.inputs[0]
    return v.owner.inputs[0] if v.owner is not None and isinstance(v.owner.op, Shape) else None
