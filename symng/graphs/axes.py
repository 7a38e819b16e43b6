"""Axes and lengths of tensors that follow from the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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

from symng.graphs.evaluation import evaluate_nodes
from symng.graphs.rebuild import free_inputs


def axis_after(node: Apply, axis: int) -> int | None:
    """Return where ``axis`` of the first input is in the output, or None if it is not all there.

    Known for elementwise ops and ops that cut, reorder or reshape a tensor; None for any other.
    """
    op, before, after = node.op, node.inputs[0].type, node.outputs[0].type
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
        length = infer_length(node.inputs[0], -1)
        is_kept = length is not None and length == infer_length(node.outputs[0], -1)
        return after.ndim - 1 if is_kept else None
    if isinstance(op, Alloc):
        return None if before.broadcastable[axis] else axis + after.ndim - before.ndim
    return axis if isinstance(op, SpecifyShape | Elemwise | TypeCastingOp | CheckAndRaise) else None


def join_of(node: Apply) -> tuple[int | None, list[Variable]]:
    """Return the axis of a `Join`, or None if it is computed, and the tensors that it joins."""
    ndim: int = node.outputs[0].type.ndim
    axis = getattr(node.op, "axis", None)  # early PyTensor 3 has it as the first input
    if axis is not None:
        return axis % ndim, list(node.inputs)
    first, *tensors = node.inputs
    return int(first.data) % ndim if isinstance(first, Constant) else None, tensors


def axes_along(node: Apply) -> Sequence[int] | None:
    """Return the axes along which an op such as a softmax or a sort runs; None if not known."""
    ndim = node.inputs[0].type.ndim
    axes = getattr(node.op, "axis", None)
    if len(node.inputs) > 1:  # sorting, in PyTensor before 3.1
        given = node.inputs[1]
        if not isinstance(given, Constant):
            return None
        axes = int(given.data)
    axes = range(ndim) if axes is None else (axes,) if isinstance(axes, int) else axes
    return [axis % ndim for axis in axes]


def infer_length(v: Variable, axis: int) -> int | None:
    """Return the length of an axis of ``v``, or None if it depends on inputs.

    None also where PyTensor fails to infer the shape, as it may for third-party ops.
    """
    if v.type.shape[axis] is not None:
        return v.type.shape[axis]
    try:
        return _computed_length(v, axis)
    except Exception:
        return None


def _computed_length(v: Variable, axis: int) -> int | None:
    """Return the length of an axis, or None if it depends on inputs."""
    inputs = free_inputs([v])
    lengths = [tuple(pt.lscalar() for _ in range(i.type.ndim)) for i in inputs]
    length = infer_shape([v], inputs, lengths)[0][axis]
    if free_inputs([length]):
        return None
    if isinstance(length, Constant):
        return int(length.data)
    values = {
        i: i.get_value(borrow=True) for i in graph_inputs([length]) if isinstance(i, SharedVariable)
    }
    return int(np.asarray(evaluate_nodes(toposort([length]), values)[length]))
