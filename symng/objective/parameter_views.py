"""Parameters as they are used: reshaped, and with their axes in another order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pytensor.graph.basic import Apply
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.variable import TensorVariable

from symng.graphs.axes import infer_length


@dataclass(frozen=True)
class View:
    """A parameter p as it is used: p.reshape(shape).transpose(order).reshape(lengths).

    ``shape`` has no axes of length 1; it and ``order`` are empty where no axis moves.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int]) -> View:
        """Return the view of a parameter of this shape as it is."""
        return cls((), (), tuple(shape))

    def after(self, node: Apply) -> View | None:
        """Return the view that ``node`` makes of this one, or None if it does something else."""
        op, v = node.op, node.outputs[0]
        if isinstance(op, SpecifyShape):
            return self
        if isinstance(op, Reshape):
            lengths = [infer_length(v, axis) for axis in range(v.type.ndim)]
            known = tuple(n for n in lengths if n is not None)
            return View(self.shape, self.order, known) if len(known) == len(lengths) else None
        if isinstance(op, DimShuffle):
            return self._permuted(op.new_order)
        return None

    def _permuted(self, new_order: Sequence[int | str]) -> View | None:
        """Return the view with its axes in a new order; "x" is an added axis of length 1."""
        lengths = tuple(1 if o == "x" else self.lengths[int(o)] for o in new_order)
        long = [a for a, n in enumerate(self.lengths) if n != 1]
        order = [long.index(int(o)) for o in new_order if o != "x" and o in long]
        if order == sorted(order):
            return View(self.shape, self.order, lengths)
        kept = tuple(self.lengths[a] for a in long)
        if not self.order:
            return View(kept, tuple(order), lengths)
        if kept != tuple(self.shape[o] for o in self.order):
            return None  # axes that were moved, then merged
        return View(self.shape, tuple(self.order[o] for o in order), lengths)._simplified()

    def _simplified(self) -> View:
        is_as_before = self.order == tuple(range(len(self.order)))
        return View((), (), self.lengths) if is_as_before else self

    def matrix(self) -> View | None:
        """Return the view without the axes before the last two, which must have length 1."""
        if len(self.lengths) < 2 or any(n != 1 for n in self.lengths[:-2]):
            return None
        return View(self.shape, self.order, self.lengths[-2:])

    def transposed(self) -> View | None:
        """Return the transposed view of a matrix, or None if it is not of this kind."""
        rows, columns = self.lengths
        if not self.order or 1 in self.lengths:
            return self._permuted((1, 0))
        moved = [self.shape[o] for o in self.order]
        for k in range(len(moved)):
            if math.prod(moved[:k]) == rows:
                order = (*self.order[k:], *self.order[:k])
                return View(self.shape, order, (columns, rows))._simplified()
        return None

    def __call__(self, p: TensorVariable, shape: tuple[int, ...]) -> TensorVariable:
        """Return the view of a tensor of ``shape``, that of the parameter."""
        if self.order:
            p = _reshape(p, shape, self.shape).transpose(*self.order)
            shape = tuple(self.shape[o] for o in self.order)
        return _reshape(p, shape, self.lengths)

    def inverse(self, v: TensorVariable, shape: tuple[int, ...]) -> TensorVariable:
        """Return the tensor of ``shape``, that of the parameter, whose view is ``v``."""
        lengths = self.lengths
        if self.order:
            moved = tuple(self.shape[o] for o in self.order)
            v = _reshape(v, lengths, moved).transpose(*np.argsort(self.order))
            lengths = self.shape
        return _reshape(v, lengths, shape)


def _reshape(v: TensorVariable, before: tuple[int, ...], after: tuple[int, ...]) -> TensorVariable:
    """Return ``v``, of shape ``before``, in another shape."""
    return v if before == after else v.reshape(after)
