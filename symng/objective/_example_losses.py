"""Find the vector of per-example losses in the graph of a loss.

A walk back from the loss, through linear ops, ends at the sum over the axis of examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Sum
from pytensor.tensor.variable import TensorVariable

from symng.objective._example_axes import NONE, REDUCED, ExampleAxis
from symng.objective._loss_walk import LossWalk

Found = tuple[TensorVariable, str] | None
"""Terms with examples along their first axis, and "mean" or "sum": how the loss reduces them."""


def find_example_losses(
    loss: TensorVariable, example_axes: Mapping[Variable, ExampleAxis]
) -> tuple[TensorVariable | None, str | None]:
    """Return the per-example losses and "mean" or "sum", or (None, None) if not found.

    The loss may be scaled, negated, a sum of such losses, and (for a mean) have terms without
    examples added, as weight decay has. The loss is the mean, or the sum, of the vector returned.
    """
    found = _LossFinder(example_axes).find(loss)
    return (None, None) if found is None else found


class _LossFinder(LossWalk):
    """Find the terms of single examples."""

    def find(self, v: TensorVariable) -> Found:
        """Return terms e, with examples along the first axis, and how ``v`` reduces them."""
        if self.example_axis(v) != REDUCED or v.owner is None:
            return None
        op, inputs = v.owner.op, v.owner.inputs
        if isinstance(op, Sum):
            return self._find_in_reduction(op, inputs[0])
        if self.sums_a_product(v):
            a, b = inputs
            return a.T[:, :, None] * b[:, None, :], "sum"
        if isinstance(op, DimShuffle):
            order = [o if o == "x" else o + 1 for o in op.new_order]
            return _mapped(self.find(inputs[0]), lambda e: e.dimshuffle(0, *order))
        scalar_op = op.scalar_op if isinstance(op, Elemwise) else None
        if isinstance(scalar_op, ps.Add | ps.Sub):
            return self._find_in_terms(inputs, subtract=isinstance(scalar_op, ps.Sub))
        if isinstance(scalar_op, ps.Neg | ps.Cast):
            return _mapped(self.find(inputs[0]), lambda e: op(e))
        if isinstance(scalar_op, ps.Mul):
            within = [i for i in inputs if self.example_axis(i) != NONE]
            if len(within) == 1:
                scales = [i for i in inputs if i is not within[0]]
                found = self.find(within[0])
                return self._scaled(found, scales, lambda e, s: e * s, multiplied=True)
        if isinstance(scalar_op, ps.TrueDiv) and self.example_axis(inputs[1]) == NONE:
            return self._scaled(self.find(inputs[0]), [inputs[1]], lambda e, s: e / s)
        return None

    def _find_in_reduction(self, op: Sum, summed: TensorVariable) -> Found:
        """Return the example terms of a sum over examples, or of one over other axes after it."""
        axes = list(range(summed.ndim)) if op.axis is None else list(op.axis)
        example_axis = self.example_axis(summed)
        if isinstance(example_axis, int):
            order = [example_axis, *(a for a in range(summed.ndim) if a != example_axis)]
            e = summed if example_axis == 0 else summed.dimshuffle(*order)
            others = [order.index(a) for a in axes if a != example_axis]
            return (e.sum(axis=others) if others else e), "sum"
        return _mapped(self.find(summed), lambda e: e.sum(axis=[a + 1 for a in axes]))

    def _find_in_terms(self, terms: Sequence[TensorVariable], subtract: bool) -> Found:
        """Add up the example terms of a sum or difference.

        Terms without examples, such as weight decay, may be added to a mean, but not to a sum.
        """
        total, reductions, constants = None, set(), []
        for i, term in enumerate(terms):
            signed = (lambda e: -e) if subtract and i else (lambda e: e)
            if self.example_axis(term) == NONE:
                constants.append(signed(term))
                continue
            found = self.find(term)
            if found is None:
                return None
            reductions.add(found[1])
            total = signed(found[0]) if total is None else total + signed(found[0])
        if total is None or len(reductions) != 1 or (constants and reductions != {"mean"}):
            return None
        for constant in constants:
            total = total + constant.astype(total.dtype)
        return total, reductions.pop()

    def _scaled(
        self,
        found: Found,
        scales: Sequence[TensorVariable],
        scale: Callable[[TensorVariable, TensorVariable], TensorVariable],
        multiplied: bool = False,
    ) -> Found:
        """Return what was found, scaled; a sum divided by the number of examples is a mean."""
        if found is None:
            return None
        e, reduction = found
        if reduction == "mean" and multiplied:
            factors = self.factors_of(scales)
            if (count := next(filter(self.is_count, factors), None)) is not None:
                factors.remove(count)  # N mean(e) is a sum
                for factor in factors:
                    e = e * factor.astype(e.dtype)
                return e, "sum"
        factor = scales[0] if len(scales) == 1 else pt.mul(*scales)
        if reduction == "sum" and self.counts_examples(factor):
            # sum(l) / d is the mean of l N / d, where d is N or N times something.
            count = e.shape[0].astype(e.dtype)
            return e * scale(count, factor.astype(e.dtype)), "mean"
        return scale(e, factor.astype(e.dtype)), reduction


def _mapped(found: Found, change: Callable[[TensorVariable], TensorVariable]) -> Found:
    """Return what was found with ``change`` applied to the terms."""
    return None if found is None else (change(found[0]), found[1])
