"""Find the vector of per-example losses on the graph of a loss.

Two steps: `locate_examples` walks the graph forward once and finds which axis of each tensor runs
over examples; `find` walks it backward from the loss, through what is linear, to the sum over that
axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.graph.basic import Constant, Variable
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import (
    Alloc,
    ExtractDiag,
    Join,
    MakeVector,
    get_underlying_scalar_constant_value,
)
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.exceptions import NotScalarConstantError
from pytensor.tensor.math import Dot, Sum
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import Subtensor
from pytensor.tensor.variable import TensorVariable

from symng._checks import warn
from symng.graphs.rebuild import rebuild
from symng.objective._arguments import check_given_losses
from symng.objective._example_axes import NONE, REDUCED, ExampleAxis, locate_examples
from symng.objective.model import Model

Found = tuple[TensorVariable, str] | None


def warn_of_other_axes(model: Model) -> None:
    """Warn of an output whose examples run along another axis than the one given."""
    known = dict(zip(model.variables, model.data_axes, strict=True))
    for y, head in zip(model.outputs, model.heads, strict=True):
        axis = locate_examples(y, known).get(y)
        if isinstance(axis, int) and axis != head.example_axis:
            axes = ", ".join(f"{v} along axis {a}" for v, a in known.items())
            warn(
                f"example_axis: {head.example_axis} is not the axis of examples of the output {y}. "
                f"With examples of {axes}, the graph has them along axis {axis} of the output. "
                f"Give example_axis={axis}, or other data_axes."
            )


def with_example_losses(model: Model) -> Model:
    """Return the model with its per-example losses, checked or found, and their reduction."""
    known = dict(zip(model.variables, model.data_axes, strict=True))
    outputs = {y: head.example_axis for y, head in zip(model.outputs, model.heads, strict=True)}
    # Where the curvature is not taken at r, the output is a view of it, perhaps with other axes.
    outputs |= {
        head.curvature_at: head.example_axis for head in model.heads if head.curvature_at is head.r
    }
    axes = locate_examples(model.loss, known, outputs)
    factor = find_sum(model.loss, axes, known, outputs)
    if model.example_losses is None:
        losses, reduction = find_example_losses(model.loss, axes)
        return replace(model, example_losses=losses, reduction=reduction, sum_factor=factor)
    axis = locate_examples(model.example_losses, known, outputs).get(model.example_losses)
    check_given_losses(model.example_losses, model.params, axis in (NONE, REDUCED))
    return replace(model, sum_factor=factor)


def find_example_losses(
    loss: TensorVariable, example_axes: Mapping[Variable, ExampleAxis]
) -> tuple[TensorVariable | None, str | None]:
    """Return the per-example losses and "mean" or "sum", or (None, None) if not found.

    The loss may be scaled, negated, a sum of such losses, and (for a mean) have terms without
    examples added, as weight decay has. The loss is the mean, or the sum, of the vector returned.
    """
    found = _Finder(example_axes).find(loss)
    return (None, None) if found is None else found


class _Finder:
    """Walks backward from a loss, given the example axes of all variables."""

    def __init__(self, example_axes: Mapping[Variable, ExampleAxis]) -> None:
        self.example_axes = example_axes

    def example_axis(self, v: Variable) -> ExampleAxis:
        return self.example_axes.get(v, NONE)

    def find(self, v: TensorVariable) -> Found:
        """Return e and the reduction of e over its first axis, the examples, that gives ``v``."""
        if self.example_axis(v) != REDUCED or v.owner is None:
            return None
        op, inputs = v.owner.op, v.owner.inputs
        if isinstance(op, Sum):
            return self._find_in_reduction(op, inputs[0])
        if self._sums_a_product(v):
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
                return self._scaled(self.find(within[0]), scales, lambda e, s: e * s)
        if isinstance(scalar_op, ps.TrueDiv) and self.example_axis(inputs[1]) == NONE:
            return self._scaled(self.find(inputs[0]), [inputs[1]], lambda e, s: e / s)
        return None

    def _sums_a_product(self, v: Any) -> bool:
        """Return whether ``v`` is a product of matrices that sums over examples, such as R^T R."""
        op = v.owner.op
        dot = isinstance(op, Dot) or (isinstance(op, Blockwise) and isinstance(op.core_op, Dot))
        return (
            dot
            and v.ndim == 2
            and all(isinstance(self.example_axis(i), int) for i in v.owner.inputs)
        )

    def _find_in_reduction(self, op: Sum, summed: TensorVariable) -> Found:
        """Return the example terms of a sum over examples, or over the axes left by one."""
        axes = list(range(summed.ndim)) if op.axis is None else list(op.axis)
        example_axis = self.example_axis(summed)
        if isinstance(example_axis, int):
            order = [example_axis, *(a for a in range(summed.ndim) if a != example_axis)]
            e = summed if example_axis == 0 else summed.dimshuffle(*order)
            others = [order.index(a) for a in axes if a != example_axis]
            return (e.sum(axis=others) if others else e), "sum"
        return _mapped(self.find(summed), lambda e: e.sum(axis=[a + 1 for a in axes]))

    def _find_in_terms(self, terms: Sequence[TensorVariable], subtract: bool) -> Found:
        """Add the example terms of a sum; terms without examples may join a mean but not a sum."""
        total, reductions, alone = None, set(), []
        for i, term in enumerate(terms):
            term_of = (lambda e: -e) if subtract and i else (lambda e: e)
            if self.example_axis(term) == NONE:
                alone.append(term_of(term))
                continue
            found = self.find(term)
            if found is None:
                return None
            reductions.add(found[1])
            total = term_of(found[0]) if total is None else total + term_of(found[0])
        if total is None or len(reductions) != 1 or (alone and reductions != {"mean"}):
            return None
        for term in alone:
            total = total + term.astype(total.dtype)
        return total, reductions.pop()

    def _scaled(
        self, found: Found, scales: Sequence[TensorVariable], scale: Callable[[Any, Any], Any]
    ) -> Found:
        """Scale what was found; a sum divided by the number of examples is a mean."""
        if found is None:
            return None
        e, reduction = found
        factor = scales[0] if len(scales) == 1 else pt.mul(*scales)
        if reduction == "sum" and self._counts_examples(factor):
            # sum(l) / d is the mean of l N / d, where d is N or N times something.
            count = e.shape[0].astype(e.dtype)
            return e * scale(count, factor.astype(e.dtype)), "mean"
        return scale(e, factor.astype(e.dtype)), reduction

    def _counts_examples(self, factor: TensorVariable) -> bool:
        """Return whether the number of examples enters ``factor`` by the shape of a tensor."""
        seen: set[Variable] = set()
        stack: list[Variable] = [factor]
        while stack:
            v = stack.pop()
            if v in seen or v.owner is None:
                continue
            seen.add(v)
            op, inputs = v.owner.op, v.owner.inputs
            if isinstance(op, Shape | Shape_i):  # below it are values, not lengths
                example_axis = self.example_axis(inputs[0])
                if (
                    example_axis == op.i
                    if isinstance(op, Shape_i)
                    else isinstance(example_axis, int)
                ):
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


def _shape_of(v: Variable) -> TensorVariable | None:
    """Return the tensor whose shape, cast or not, is ``v``."""
    while (
        v.owner is not None
        and isinstance(v.owner.op, Elemwise)
        and isinstance(v.owner.op.scalar_op, ps.Cast)
    ):
        v = v.owner.inputs[0]
    return v.owner.inputs[0] if v.owner is not None and isinstance(v.owner.op, Shape) else None


def _mapped(found: Found, change: Callable[[TensorVariable], TensorVariable]) -> Found:
    """Apply ``change`` to the terms that were found."""
    return None if found is None else (change(found[0]), found[1])


def find_sum(
    loss: TensorVariable,
    example_axes: Mapping[Variable, ExampleAxis],
    known: Mapping[Any, int],
    outputs: Mapping[Any, int],
) -> float | None:
    """Return c if the loss is c times a sum over examples, or None if it is no such sum.

    Terms without examples, such as a prior, may be added. A sum that is divided by the number of
    examples, or by the sum of their weights, is a mean. c counts factors that are plain numbers,
    and no others.
    """
    if example_axes.get(loss) not in (NONE, REDUCED):
        example_axes = locate_examples(loss, known, outputs, folding=True)
    if example_axes.get(loss) in (NONE, REDUCED):
        return _SumFinder(example_axes).factor(loss)
    # A model that mixes its examples, as by batch normalization, may end in a sum over them.
    placeholders: dict[Any, Any] = {y: y.type() for y in outputs}
    end: Any = rebuild([loss], placeholders)[0]
    known = dict(known) | {v: outputs[y] for y, v in placeholders.items()}
    return _SumFinder(locate_examples(end, known, folding=True)).factor(end)


class _SumFinder(_Finder):
    """Walks backward from a loss to the sums over examples in it, once through each variable."""

    def __init__(self, example_axes: Mapping[Variable, ExampleAxis]) -> None:
        super().__init__(example_axes)
        self._factors: dict[Variable, float | None] = {}
        self._divided: dict[Variable, bool] = {}

    def factor(self, v: Any) -> float | None:
        """Return the factor of the sums over examples in ``v``; None if ``v`` is no such sum."""
        if v not in self._factors:
            self._factors[v] = self._find_factor(v)
        return self._factors[v]

    def _find_factor(self, v: Any) -> float | None:
        """Compute `factor`."""
        if self.example_axis(v) != REDUCED or v.owner is None:
            return None
        op, inputs = v.owner.op, v.owner.inputs
        if isinstance(op, Sum):
            if isinstance(self.example_axis(inputs[0]), int):
                return None if self._is_divided(inputs[0]) else 1.0
            return self.factor(inputs[0])
        if self._sums_a_product(v):
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
            scales = [i for i in inputs if i is not within[0]]
            factor = self.factor(within[0])
            if factor is None or any(self._counts_examples(s) for s in scales):
                return None
            if isinstance(scalar_op, ps.TrueDiv) and within[0] is not inputs[0]:
                return None
            for number in (n for s in scales if (n := _number(s))):
                factor = factor * number if isinstance(scalar_op, ps.Mul) else factor / number
            return factor
        return None

    def _is_divided(self, v: Any) -> bool:
        """Return whether the terms of a sum are divided by their number or by a sum over them."""
        if v not in self._divided:
            self._divided[v] = self._find_divided(v)
        return self._divided[v]

    def _find_divided(self, v: Any) -> bool:
        """Compute `_is_divided`."""
        if v.owner is None or not isinstance(self.example_axis(v), int):
            return False
        op, inputs = v.owner.op, v.owner.inputs
        scalar_op = op.scalar_op if isinstance(op, Elemwise) else None
        if isinstance(scalar_op, ps.Mul | ps.TrueDiv):
            others = [i for i in inputs if not isinstance(self.example_axis(i), int)]
            numbers = [i for i in others if all(i.type.broadcastable)]
            if any(self.example_axis(i) == REDUCED for i in others) or any(
                map(self._counts_examples, numbers)
            ):
                return True
        elif not isinstance(
            op,
            Sum | Alloc | DimShuffle | Reshape | SpecifyShape | MakeVector | Join | CheckAndRaise,
        ) and not isinstance(scalar_op, ps.Add | ps.Sub | ps.Neg | ps.Cast):
            return False
        return any(self._is_divided(i) for i in inputs)


def _squared_root(v: Any) -> Any:
    """Return x if ``v`` is the square of sqrt(x), as a squared norm is; else None."""

    def base(u: Any, known: type, exponent: float) -> Any:
        scalar_op = u.owner.op.scalar_op if u.owner and isinstance(u.owner.op, Elemwise) else None
        if isinstance(scalar_op, known):
            return u.owner.inputs[0]
        power = isinstance(scalar_op, ps.Pow) and _number(u.owner.inputs[1]) == exponent
        return u.owner.inputs[0] if power else None

    root = base(v, ps.Sqr, 2.0)
    while root is not None and root.owner and isinstance(root.owner.op, DimShuffle):
        root = root.owner.inputs[0]
    return None if root is None else base(root, ps.Sqrt, 0.5)


def _number(v: Any) -> float | None:
    """Return the absolute value of a constant, if all its entries are one number."""
    try:
        return abs(float(get_underlying_scalar_constant_value(v)))
    except NotScalarConstantError:
        return None
