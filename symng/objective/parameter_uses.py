"""Where parameters enter a model: as matrices in products and as tables of rows.

Unlike `layers`, it takes every use of a parameter, also one that mixes examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import toposort
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import AdvancedSubtensor
from pytensor.tensor.variable import TensorVariable

from symng.graphs.axes import infer_length
from symng.objective._example_axes import NONE, REDUCED, ExampleAxis, locate_examples
from symng.objective.objective import Objective


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


@dataclass(frozen=True)
class ParameterUse:
    """A use of a parameter in what is computed for the examples.

    Attributes
    ----------
    node : Apply
        Computes h W, W^T h^T or rows W[i].
    place : int
        The number of the parameter's view among the inputs of the node.
    matrix : View
        The parameter as W, of an axis of inputs and one of outputs.
    is_lookup : bool
        Whether W is a table, of which integers i take rows.
    axis : int or str
        The axis of examples of what the node computes, or what else is known of it.
    is_merged : bool
        Whether a reshape has merged that axis with others, such as positions.
    """

    node: Apply
    place: int
    matrix: View
    is_lookup: bool
    axis: ExampleAxis
    is_merged: bool

    @property
    def output(self) -> TensorVariable:
        """What the node computes."""
        output: Any = self.node.outputs[0]
        return output

    @property
    def given(self) -> TensorVariable:
        """What the parameter is used on: h, or the numbers of rows."""
        given: Any = self.node.inputs[1 - self.place]
        return given

    @property
    def is_left(self) -> bool:
        """Whether the parameter is the left factor of a product, so that examples are columns."""
        return self.place == 0 and not self.is_lookup

    def is_by_example(self) -> bool:
        """Return whether this is h W for a matrix h with one example in each row."""
        is_matrix = not self.is_left and self.output.type.ndim == 2
        return is_matrix and self.axis == 0 and not self.is_merged


Clients = Mapping[Variable, Sequence[tuple[Apply, int]]]


class Axes(NamedTuple):
    """The axes of examples of the variables of a graph, without and with those that are merged."""

    own: dict[Variable, ExampleAxis]
    merged: dict[Variable, ExampleAxis]

    def has_examples(self, v: Variable) -> bool:
        """Return whether single examples enter ``v``."""
        return self.own.get(v, NONE) not in (NONE, REDUCED)

    def of(self, v: Variable) -> tuple[ExampleAxis, bool]:
        """Return the axis of examples of ``v``, and whether others are merged with it."""
        axis, merged = self.own[v], self.merged[v]
        return (axis, False) if isinstance(axis, int) else (merged, isinstance(merged, int))


def find_all_uses(
    objective: Objective, ends: Mapping[TensorVariable, int], shapes: Sequence[tuple[int, ...]]
) -> dict[SharedVariable, list[ParameterUse]]:
    """Return all uses of those parameters that are used as matrices or tables alone.

    Parameters
    ----------
    objective : Objective
        Has the parameters and the inputs.
    ends : mapping
        The tensors that are computed for the examples, each with its axis of examples.
    shapes : sequence of tuples
        Shapes of the parameters.
    """
    clients, axes = clients_in(list(ends)), Axes({}, {})
    for end in ends:
        axes.own.update(locate_examples(end, objective.model.axis_of))
        axes.merged.update(locate_examples(end, objective.model.axis_of, folding=True))
    found: dict[SharedVariable, list[ParameterUse]] = {}
    for p, shape in zip(objective.params, shapes, strict=True):
        uses = None if p in ends or len(shape) < 2 else _follow(p, View.of(shape), clients, axes)
        if uses:
            found[p] = uses
    return found


def clients_in(ends: Sequence[Variable]) -> dict[Variable, list[tuple[Apply, int]]]:
    """Return the nodes that take each variable, and as which input; not those of its shape."""
    clients: dict[Variable, list[tuple[Apply, int]]] = {}
    for node in toposort(list(ends)):
        if not isinstance(node.op, Shape | Shape_i):
            for place, v in enumerate(node.inputs):
                clients.setdefault(v, []).append((node, place))
    return clients


def _follow(v: Variable, view: View, clients: Clients, axes: Axes) -> list[ParameterUse] | None:
    """Return the uses of ``v``, a view of a parameter; None if one of them is of no known kind."""
    uses: list[ParameterUse] = []
    for node, place in clients.get(v, ()):
        further = view.after(node) if place == 0 else None
        more: list[ParameterUse] | None
        if further is not None:
            more = _follow(node.outputs[0], further, clients, axes)
        else:
            use = _read(node, place, view, axes)
            more = None if use is None else [use]
        if more is None:
            return None
        uses += more
    return uses


def _read(node: Apply, place: int, view: View, axes: Axes) -> ParameterUse | None:
    """Return the use that a node makes of a view, or None."""
    is_lookup = _is_lookup(node) and place == 0 and not view.order and len(view.lengths) == 2
    if not (is_lookup or _is_product(node)):
        return None
    matrix = view.matrix()
    if matrix is not None and place == 0 and not is_lookup:
        matrix = matrix.transposed()
    tensors = node.inputs[1 - place], node.outputs[0]
    if matrix is None or not all(axes.has_examples(v) for v in tensors):
        return None
    return ParameterUse(node, place, matrix, is_lookup, *axes.of(node.outputs[0]))


def _is_product(node: Apply) -> bool:
    """Return whether this is a product of matrices, or of stacks of matrices."""
    op = node.op
    if isinstance(op, Blockwise):
        core = [len(signature) for signature in op.inputs_sig]
        return isinstance(op.core_op, Dot) and core == [2, 2]
    return isinstance(op, Dot) and all(v.type.ndim == 2 for v in node.inputs)


def _is_lookup(node: Apply) -> bool:
    """Return whether this takes rows of a table by an array of integers."""
    op = node.op
    if not isinstance(op, AdvancedSubtensor) or len(node.inputs) != 2:
        return False
    return tuple(op.idx_list) == (0,) and node.inputs[1].type.dtype.startswith(("int", "uint"))
