"""Axes and lengths of tensors that follow from the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.compile.builders import infer_shape
from pytensor.compile.ops import TypeCastingOp
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import graph_inputs, toposort
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import Alloc
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.subtensor import Subtensor
from pytensor.tensor.variable import TensorVariable

from symng.graphs.evaluation import evaluate_nodes
from symng.graphs.rebuild import free_inputs


def axis_after(node: Apply, axis: int) -> int | None:
    """Return the axis that a view turns ``axis`` into, or None if it does not keep all of it."""
    before: Any = node.inputs[0]
    after: Any = node.outputs[0]
    op = node.op
    if isinstance(op, DimShuffle):
        return op.new_order.index(axis) if axis in op.new_order else None
    if isinstance(op, Subtensor):
        indices = [*op.idx_list, *[slice(None)] * before.ndim]
        if indices[axis] != slice(None):
            return None
        return axis - sum(not isinstance(i, slice) for i in indices[:axis])
    if isinstance(op, Reshape):
        if axis != before.ndim - 1 or after.ndim == 0:
            return None
        length = infer_length(before, -1)
        return after.ndim - 1 if length is not None and length == infer_length(after, -1) else None
    if isinstance(op, Alloc):
        return None if before.type.broadcastable[axis] else axis + after.ndim - before.ndim
    return axis if isinstance(op, SpecifyShape | Elemwise | TypeCastingOp | CheckAndRaise) else None


def axes_along(node: Apply) -> Sequence[int] | None:
    """Return the axes along which an op such as a softmax or a sort runs; None if not known."""
    op: Any = node.op
    tensor: Any = node.inputs[0]
    axes = getattr(op, "axis", None)
    if len(node.inputs) > 1:  # sorting, in PyTensor before 3.1
        given = node.inputs[1]
        if not isinstance(given, Constant):
            return None
        axes = int(given.data)
    axes = range(tensor.ndim) if axes is None else (axes,) if isinstance(axes, int) else axes
    return [axis % tensor.ndim for axis in axes]


def infer_length(v: TensorVariable, axis: int) -> int | None:
    """Return the length of an axis of ``v`` if constants and shared variables give it, else None.

    None also where PyTensor fails to infer the shape, as it may for third-party ops.
    """
    if v.type.shape[axis] is not None:
        return v.type.shape[axis]
    try:
        return _computed_length(v, axis)
    except Exception:
        return None


def _computed_length(v: TensorVariable, axis: int) -> int | None:
    """Return the length of an axis, or None if it depends on inputs."""
    inputs: list[Any] = free_inputs([v])
    lengths = [tuple(pt.lscalar() for _ in range(i.type.ndim)) for i in inputs]
    length = infer_shape([v], inputs, lengths)[0][axis]
    if free_inputs([length]):
        return None
    if isinstance(length, Constant):
        return int(length.data)
    shared: dict[Variable, Any] = {
        s: s.get_value(borrow=True) for s in graph_inputs([length]) if isinstance(s, SharedVariable)
    }
    return int(evaluate_nodes(toposort([length]), shared)[length])
