"""Find, on the graph of a loss, the vector of the losses of single examples.

Two steps: `locate_examples` walks the graph forward once and tells which axis of each tensor runs over examples;
`find` walks it backward from the loss, through what is linear, to the sum over that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import ancestors, toposort
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.math import Dot, Sum
from pytensor.tensor.shape import Shape, Shape_i, SpecifyShape
from pytensor.tensor.special import LogSoftmax, Softmax
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor
from pytensor.tensor.variable import TensorVariable

Found = tuple[TensorVariable, str] | None

# What is known of a tensor, beside the number of its axis of examples:
NONE = "none"  # no example enters it
REDUCED = "reduced"  # examples enter it, and their axis is summed away
MIXED = "mixed"  # what is summed over examples has gone back into single ones, as in batch normalization
UNKNOWN = "unknown"
Place = int | str


def locate_examples(
    loss: TensorVariable, known: Mapping[TensorVariable, int], outputs: Mapping[Any, int] | None = None
) -> dict[Variable, Place]:
    """Return which axis runs over examples, for every tensor that ``loss`` and ``outputs`` are computed from.

    ``known`` gives it for the inputs and the targets, ``outputs`` for outputs of the model. Those are believed also
    where ops below them are not known, unless examples are seen to be mixed there.
    """
    outputs = {} if outputs is None else outputs
    places: dict[Variable, Place] = {v: axis for v, axis in known.items()}
    model: set[Variable] = set(ancestors(list(outputs)))  # and, in time, what is computed from outputs
    for node in toposort([loss, *outputs]):
        given = [places.get(v, NONE) for v in node.inputs]
        entered = any(v in model for v, p in zip(node.inputs, given, strict=True) if p == REDUCED)
        if isinstance(node.op, Shape | Shape_i) or all(p == NONE for p in given):
            place: Place = NONE
        elif MIXED in given or (entered and any(isinstance(p, int) for p in given)):
            place = MIXED
        elif all(p in (NONE, REDUCED) for p in given):
            place = REDUCED
        else:
            place = _place_of_output(node, given)
        for v in node.outputs:
            places[v] = outputs[v] if v in outputs and place != MIXED else place
        if any(v in model for v in node.inputs):
            model.update(node.outputs)
    return places


def _place_of_output(node: Apply, given: Sequence[Place]) -> Place:
    """Return the place of examples in what ``node`` computes from inputs with the places ``given``."""
    op, first = node.op, given[0]
    ndim: int = getattr(node.inputs[0].type, "ndim", 0)
    if isinstance(op, Elemwise):
        return _merged(given)
    if isinstance(op, Blockwise):
        op = op.core_op
    if isinstance(op, Dot):
        result: Any = node.outputs[0]
        keeps = isinstance(first, int) and first < ndim - 1 and result.ndim <= ndim
        return first if keeps and given[1] == NONE else UNKNOWN
    if isinstance(op, AdvancedSubtensor):
        # r[arange(N), t]: index tensors for the leading axes alone take the examples to where they run themselves.
        by_tensors = not any(isinstance(i, slice) for i in op.idx_list) and first in range(len(op.idx_list))
        place = _merged(given[1:])
        return place if by_tensors and isinstance(place, int) else UNKNOWN
    if any(p != NONE for p in given[1:]):
        return UNKNOWN
    if isinstance(op, DimShuffle):
        return first if not isinstance(first, int) else op.new_order.index(first)
    if isinstance(op, SpecifyShape):
        return first
    if isinstance(op, CAReduce):
        axes = range(ndim) if op.axis is None else op.axis
        if not isinstance(first, int):
            return first
        return REDUCED if first in axes else first - sum(a < first for a in axes)
    if isinstance(op, Softmax | LogSoftmax):
        axes = (op.axis,) if isinstance(op.axis, int) else op.axis
        return first if axes is not None and first not in axes else UNKNOWN
    if isinstance(op, Subtensor) and isinstance(first, int):
        indices = [*op.idx_list, *[slice(None)] * ndim]
        if indices[first] == slice(None):
            return first - sum(not isinstance(i, slice) for i in indices[:first])
    return UNKNOWN


def _merged(places: Sequence[Place]) -> Place:
    """Return the place of examples in an elementwise function of tensors with the given places."""
    axes = {p for p in places if isinstance(p, int)}
    if len(axes) == 1:
        return axes.pop()
    if axes or UNKNOWN in places:
        return UNKNOWN
    return REDUCED if REDUCED in places else NONE


def find(
    loss: TensorVariable, known: Mapping[TensorVariable, int], outputs: Mapping[Any, int]
) -> tuple[TensorVariable | None, str | None]:
    """Return the losses of single examples and "mean" or "sum", or (None, None) when the graph does not tell.

    The loss may be scaled, negated, a sum of such losses, and (for a mean) have terms without examples added, as
    weight decay has. The loss is the mean, or the sum, of the vector returned.
    """
    found = _Finder(locate_examples(loss, known, outputs)).find(loss)
    return (None, None) if found is None else found


class _Finder:
    """Walks backward from a loss, knowing the places of examples."""

    def __init__(self, places: Mapping[Variable, Place]) -> None:
        self.places = places

    def place(self, v: Variable) -> Place:
        return self.places.get(v, NONE)

    def find(self, v: TensorVariable) -> Found:
        """Return (e, "mean" or "sum"), with v that reduction of e over its first axis, the one of examples."""
        if self.place(v) != REDUCED or v.owner is None:
            return None
        op, inputs = v.owner.op, v.owner.inputs
        if isinstance(op, Sum):
            return self._find_in_reduction(op, inputs[0])
        if isinstance(op, DimShuffle):
            order = [o if o == "x" else o + 1 for o in op.new_order]
            return _mapped(self.find(inputs[0]), lambda e: e.dimshuffle(0, *order))
        scalar_op = op.scalar_op if isinstance(op, Elemwise) else None
        if isinstance(scalar_op, ps.Add | ps.Sub):
            return self._find_in_terms(inputs, subtract=isinstance(scalar_op, ps.Sub))
        if isinstance(scalar_op, ps.Neg | ps.Cast):
            return _mapped(self.find(inputs[0]), lambda e: op(e))
        if isinstance(scalar_op, ps.Mul):
            within = [i for i in inputs if self.place(i) != NONE]
            if len(within) == 1:
                scales = [i for i in inputs if i is not within[0]]
                return self._scaled(self.find(within[0]), scales, lambda e, s: e * s)
        if isinstance(scalar_op, ps.TrueDiv) and self.place(inputs[1]) == NONE:
            return self._scaled(self.find(inputs[0]), [inputs[1]], lambda e, s: e / s)
        return None

    def _find_in_reduction(self, op: Sum, summed: TensorVariable) -> Found:
        """Return the example terms of a sum that takes the examples away, or of one over what is left of them."""
        axes = list(range(summed.ndim)) if op.axis is None else list(op.axis)
        place = self.place(summed)
        if isinstance(place, int):
            order = [place, *(a for a in range(summed.ndim) if a != place)]
            e = summed if place == 0 else summed.dimshuffle(*order)
            others = [order.index(a) for a in axes if a != place]
            return (e.sum(axis=others) if others else e), "sum"
        return _mapped(self.find(summed), lambda e: e.sum(axis=[a + 1 for a in axes]))

    def _find_in_terms(self, terms: Sequence[TensorVariable], subtract: bool) -> Found:
        """Add the example terms of a sum; terms without examples join a mean, not a sum."""
        total, reductions, alone = None, set(), []
        for i, term in enumerate(terms):
            term_of = (lambda e: -e) if subtract and i else (lambda e: e)
            if self.place(term) == NONE:
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

    def _scaled(self, found: Found, scales: Sequence[TensorVariable], scale: Callable[[Any, Any], Any]) -> Found:
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
        """Tell whether the number of examples enters ``factor``, by way of some tensor's shape."""
        seen: set[Variable] = set()
        stack: list[Variable] = [factor]
        while stack:
            v = stack.pop()
            if v in seen or v.owner is None:
                continue
            seen.add(v)
            op, inputs = v.owner.op, v.owner.inputs
            if isinstance(op, Shape | Shape_i):  # below it are values, not lengths
                place = self.place(inputs[0])
                if place == op.i if isinstance(op, Shape_i) else isinstance(place, int):
                    return True
            elif isinstance(op, Subtensor) and len(inputs) == 2 and isinstance(inputs[1], Constant):
                measured = _shape_of(inputs[0])
                if measured is None:
                    stack.append(inputs[0])
                elif self.place(measured) == int(inputs[1].data) % measured.ndim:
                    return True
            else:
                stack.extend(inputs)
        return False


def _shape_of(v: Variable) -> TensorVariable | None:
    """Return the tensor whose shape, cast or not, is ``v``."""
    while v.owner is not None and isinstance(v.owner.op, Elemwise) and isinstance(v.owner.op.scalar_op, ps.Cast):
        v = v.owner.inputs[0]
    return v.owner.inputs[0] if v.owner is not None and isinstance(v.owner.op, Shape) else None


def _mapped(found: Found, change: Callable[[TensorVariable], TensorVariable]) -> Found:
    """Apply ``change`` to the terms that were found."""
    return None if found is None else (change(found[0]), found[1])
