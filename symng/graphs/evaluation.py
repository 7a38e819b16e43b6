"""Evaluate small graphs in Python, without compiling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.ops import TypeCastingOp
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.op import StorageMapType
from pytensor.graph.traversal import toposort
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import Alloc, Join, MakeVector, ScalarFromTensor, TensorFromScalar
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import Subtensor

from symng.graphs.rebuild import K, copy_of_frozen
from symng.graphs.rewrites import open_op

# The ops that a hand-written activation is made of.
CHEAP = (
    Elemwise,
    CAReduce,
    DimShuffle,
    Subtensor,
    Reshape,
    SpecifyShape,
    Shape,
    Shape_i,
    MakeVector,
    Alloc,
    Join,
    ScalarFromTensor,
    TensorFromScalar,
    TypeCastingOp,
    OpFromGraph,
    CheckAndRaise,
)


def evaluate_nodes(
    nodes: Iterable[Apply],
    given: Mapping[K, object],
    same: Mapping[Variable, Variable] | None = None,
) -> dict[Variable, object]:
    """Return the values of ``given`` and of what ``nodes`` compute from these and constants.

    The nodes come in topological order. Those that are not cheap, depend on other inputs or fail
    are left out. ``same`` maps variables to equal ones, which are looked up instead.
    """
    same = same or {}
    values: dict[Variable, object] = dict(given.items())
    with np.errstate(all="ignore"):
        for node in nodes:
            if not isinstance(node.op, CHEAP) or any(v in values for v in node.outputs):
                continue
            inputs = [
                v.data if isinstance(v, Constant) else values.get(same.get(v, v))
                for v in node.inputs
            ]
            if any(value is None for value in inputs):
                continue
            try:
                values.update(zip(node.outputs, _perform(node, inputs), strict=True))
            except Exception:
                continue  # the numbers do not fit this op: its outputs stay unknown
    return values


def _perform(node: Apply, inputs: Sequence[object]) -> list[object]:
    """Return what one node computes from ``inputs``, in Python."""
    fresh = copy_of_frozen(node, {v: v.type() for v in node.inputs})
    opened = open_op(fresh.op, fresh.inputs, every=True)
    if opened is not None:
        values = evaluate_nodes(toposort(opened), dict(zip(fresh.inputs, inputs, strict=True)))
        return [v.data if isinstance(v, Constant) else values[v] for v in opened]
    storage: StorageMapType = {v: [value] for v, value in zip(fresh.inputs, inputs, strict=True)}
    storage |= {v: [None] for v in fresh.outputs}
    computed = {v: [v in fresh.inputs] for v in storage}
    fresh.op.make_thunk(fresh, storage, computed, [], impl="py")()
    return [storage[v][0] for v in fresh.outputs]
