"""Questions to a graph, and small changes of it: which computations are equal, how long an axis is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.compile.builders import infer_shape
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import graph_inputs, toposort
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.math import Sum
from pytensor.tensor.variable import TensorVariable

from symng._rebuild import rebuild
from symng.backends import compile_function


def merge_equal(graphs: Sequence[Variable], anchors: Sequence[Variable]) -> list[Variable]:
    """Return ``graphs`` with whatever computes the same as one of ``anchors`` replaced by that anchor.

    Equal are the same op on the same or equal inputs, constants by value. Graphs with nothing to replace come back as
    they are.
    """
    same: dict[Variable, Variable] = {}
    computed: dict[Hashable, Sequence[Variable]] = {}
    constants: dict[Hashable, Variable] = {}

    def representative(v: Variable) -> Variable:
        if isinstance(v, Constant) and v not in same:
            same[v] = constants.setdefault(v.signature(), v)
        return same.get(v, v)

    for node in [*toposort(list(anchors)), *toposort(list(graphs))]:
        key = (node.op, *(representative(v) for v in node.inputs))
        same.update(zip(node.outputs, computed.setdefault(key, node.outputs), strict=True))
    kept = set(anchors)
    replace = {v: other for v, other in same.items() if other is not v and other in kept}
    return rebuild(graphs, replace)


def infer_length(v: TensorVariable, axis: int) -> int | None:
    """Return the length of an axis of ``v`` if it follows from constants and shared variables, else None.

    It is not known either where PyTensor fails to infer the shape, as it may for ops of others.
    """
    if v.type.shape[axis] is not None:
        return v.type.shape[axis]
    try:
        return _computed_length(v, axis)
    except Exception:
        return None


def _computed_length(v: TensorVariable, axis: int) -> int | None:
    """Return the length of an axis, computed from constants and shared variables; None where it takes others."""
    roots: list[Any] = [i for i in graph_inputs([v]) if not isinstance(i, SharedVariable | Constant)]
    lengths = [tuple(pt.lscalar() for _ in range(i.type.ndim)) for i in roots]
    length = infer_shape([v], roots, lengths)[0][axis]
    if not all(isinstance(i, SharedVariable | Constant) for i in graph_inputs([length])):
        return None
    return int(compile_function([], length, mode="FAST_COMPILE")())


def sum_narrowly(slope: Any) -> Any:
    """Return a slope that is a sum, such as that of a bias, with the sum taken in its own dtype.

    PyTensor sums float32 in float64. Beside matrix products in float32 that makes nothing more exact.
    """
    node = slope.owner
    if node is not None and isinstance(node.op, DimShuffle):
        return node.op(sum_narrowly(node.inputs[0]))
    if node is not None and isinstance(node.op, Sum) and node.inputs[0].type.dtype == slope.type.dtype == "float32":
        return node.op.clone(acc_dtype="float32")(node.inputs[0])
    return slope
