"""Find the factor by which a loss multiplies its sum over examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytensor.scalar as ps
from pytensor.graph.basic import Variable
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import Alloc, ExtractDiag, Join, MakeVector
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Sum
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.variable import TensorVariable

from symng.graphs.patterns import constant_number
from symng.graphs.rebuild import rebuild
from symng.objective._example_axes import NONE, REDUCED, ExampleAxis, locate_examples
from symng.objective._loss_walk import LossWalk


def find_sum_factor(
    loss: TensorVariable,
    example_axes: Mapping[Variable, ExampleAxis],
    known: Mapping[TensorVariable, int],
    outputs: Mapping[TensorVariable, int],
) -> float | None:
    """Return c if the loss is c times a sum over examples, or None if it is not such a sum.

    Terms without examples, such as a prior, may be added. A sum that is divided by the number of
    examples, or by the sum of their weights, is a mean. Only factors that are plain numbers count
    in c.
    """
    if example_axes.get(loss) not in (NONE, REDUCED):
        example_axes = locate_examples(loss, known, outputs, folding=True)
    if example_axes.get(loss) in (NONE, REDUCED):
        return _SumFinder(example_axes).factor(loss)
    # A model that mixes its examples, as batch normalization does, may end in a sum over them.
    placeholders = {y: y.type() for y in outputs}
    end = rebuild([loss], placeholders)[0]
    known = dict(known) | {v: outputs[y] for y, v in placeholders.items()}
    return _SumFinder(locate_examples(end, known, folding=True)).factor(end)


class _SumFinder(LossWalk):
    """Find the sums over examples, visiting each variable once."""

    def __init__(self, example_axes: Mapping[Variable, ExampleAxis]) -> None:
        super().__init__(example_axes)
        self._factors: dict[Variable, float | None] = {}
        self._divided: dict[Variable, bool] = {}

    def factor(self, v: TensorVariable) -> float | None:
        """Return the factor of the sums over examples in ``v``; None if ``v`` is not such a sum."""
        if v not in self._factors:
            self._factors[v] = self._find_factor(v)
        return self._factors[v]

    def _find_factor(self, v: TensorVariable) -> float | None:
        """Compute `factor`."""
        if self.example_axis(v) != REDUCED or v.owner is None:
            return None
        op, inputs = v.owner.op, v.owner.inputs
        if isinstance(op, Sum):
            if isinstance(self.example_axis(inputs[0]), int):
                return None if self._is_divided(inputs[0]) else 1.0
            return self.factor(inputs[0])
        if self.sums_a_product(v):
            return None if any(map(self._is_divided, inputs)) else 1.0
        if isinstance(op, DimShuffle | Reshape | SpecifyShape | CheckAndRaise | ExtractDiag):
            return self.factor(inputs[0])
        if (squared := _squared_root(v)) is not None:
            return self.factor(squared)
        scalar_op = op.scalar_op if isinstance(op, Elemwise) else None
        if isinstance(op, MakeVector | Join) or isinstance(scalar_op, ps.Add | ps.Sub):
            factors = [self.factor(i) for i in inputs if self.example_axis(i) != NONE]
            return None if None in factors else max(f for f in factors if f is not None)
        if isinstance(scalar_op, ps.Neg | ps.Cast):
            return self.factor(inputs[0])
        within = [i for i in inputs if self.example_axis(i) != NONE]
        if isinstance(scalar_op, ps.Mul | ps.TrueDiv) and len(within) == 1:
            scales = self.factors_of([i for i in inputs if i is not within[0]])
            factor = self.factor(within[0])
            if factor is None and isinstance(scalar_op, ps.Mul):
                factor = self._mean_factor(within[0])
                if (count := next(filter(self.is_count, scales), None)) is None:
                    return None
                scales.remove(count)
            if factor is None or any(self.counts_examples(s) for s in scales):
                return None
            if isinstance(scalar_op, ps.TrueDiv) and within[0] is not inputs[0]:
                return None
            for number in _numbers(scales):
                factor = factor * number if isinstance(scalar_op, ps.Mul) else factor / number
            return factor
        return None

    def _mean_factor(self, v: TensorVariable) -> float | None:
        """Return c if ``v`` is c times a sum over examples, divided by their number; else None."""
        op, inputs = (v.owner.op, v.owner.inputs) if v.owner is not None else (None, [])
        scalar_op = op.scalar_op if isinstance(op, Elemwise) else None
        if isinstance(op, DimShuffle) or isinstance(scalar_op, ps.Neg | ps.Cast):
            return self._mean_factor(inputs[0])
        if not isinstance(scalar_op, ps.TrueDiv) or self.example_axis(inputs[1]) != NONE:
            return None
        divisors = self.factors_of([inputs[1]])
        if (count := next(filter(self.is_count, divisors), None)) is None:
            factor = self._mean_factor(inputs[0])
        else:
            divisors.remove(count)
            factor = self.factor(inputs[0])
        if factor is None or any(map(self.counts_examples, divisors)):
            return None
        for number in _numbers(divisors):
            factor = factor / number
        return factor

    def _is_divided(self, v: TensorVariable) -> bool:
        """Return whether the terms of a sum are divided by their number or by a sum over them."""
        if v not in self._divided:
            self._divided[v] = self._find_divided(v)
        return self._divided[v]

    def _find_divided(self, v: TensorVariable) -> bool:
        """Compute `_is_divided`."""
        if v.owner is None or not isinstance(self.example_axis(v), int):
            return False
        op, inputs = v.owner.op, v.owner.inputs
        scalar_op = op.scalar_op if isinstance(op, Elemwise) else None
        if isinstance(scalar_op, ps.Mul | ps.TrueDiv):
            others = [i for i in inputs if not isinstance(self.example_axis(i), int)]
            numbers = [i for i in others if all(i.type.broadcastable)]
            if any(self.example_axis(i) == REDUCED for i in others) or any(
                map(self.counts_examples, numbers)
            ):
                return True
        elif not isinstance(
            op,
            Sum | Alloc | DimShuffle | Reshape | SpecifyShape | MakeVector | Join | CheckAndRaise,
        ) and not isinstance(scalar_op, ps.Add | ps.Sub | ps.Neg | ps.Cast):
            return False
        return any(self._is_divided(i) for i in inputs)


def _squared_root(v: TensorVariable) -> TensorVariable | None:
    """Return x if ``v`` is the square of sqrt(x), as a squared norm is; else None."""

    def base(u: TensorVariable, known: type, exponent: float) -> TensorVariable | None:
        scalar_op = u.owner.op.scalar_op if u.owner and isinstance(u.owner.op, Elemwise) else None
        if isinstance(scalar_op, known):
            return u.owner.inputs[0]
        is_power = isinstance(scalar_op, ps.Pow) and constant_number(u.owner.inputs[1]) == exponent
        return u.owner.inputs[0] if is_power else None

    root = base(v, ps.Sqr, 2.0)
    while root is not None and root.owner and isinstance(root.owner.op, DimShuffle):
        root = root.owner.inputs[0]
    return None if root is None else base(root, ps.Sqrt, 0.5)


def _numbers(factors: Sequence[TensorVariable]) -> list[float]:
    """Return the absolute values of those factors that are plain numbers other than 0."""
    numbers = map(constant_number, factors)
    return [abs(number) for number in numbers if number]
