"""Recognize functions of a tensor that are written by hand, by their values on a few numbers.

There are many ways to write a sigmoid, a softmax or the logarithm of one; all have the same values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.ops import TypeCastingOp
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import toposort
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import Alloc, Join, MakeVector, ScalarFromTensor, TensorFromScalar
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import Subtensor

from symng._graph import find_equal, open_op
from symng._rebuild import copy_of_frozen

# Ops that a hand-written activation is made of.
CHEAP = (
    Elemwise, CAReduce, DimShuffle, Subtensor, Reshape, SpecifyShape, Shape, Shape_i, MakeVector, Alloc, Join,
    ScalarFromTensor, TensorFromScalar, TypeCastingOp, OpFromGraph, CheckAndRaise,
)  # fmt: skip


def evaluate_nodes(
    nodes: Iterable[Apply], given: Mapping[Variable, Any], same: Mapping[Variable, Variable] | None = None
) -> dict[Variable, Any]:
    """Return the values of all that ``nodes`` compute from ``given`` and constants by cheap ops, without compiling.

    ``same`` maps variables to those that compute the same and are looked at in their place.
    """
    same = {} if same is None else same
    values: dict[Variable, Any] = dict(given)
    with np.errstate(all="ignore"):
        for node in nodes:
            if not isinstance(node.op, CHEAP) or any(v in values for v in node.outputs):
                continue
            inputs = [v.data if isinstance(v, Constant) else values.get(same.get(v, v)) for v in node.inputs]
            if any(value is None for value in inputs):
                continue
            try:
                values.update(zip(node.outputs, _perform(node, inputs), strict=True))
            except Exception:  # noqa: BLE001, S112
                continue  # the numbers do not fit it: nothing is recognized by it
    return values


def _perform(node: Apply, inputs: list[Any]) -> list[Any]:
    """Return what one node computes from ``inputs``, in Python."""
    fresh = copy_of_frozen(node, {v: v.type() for v in node.inputs})
    opened = open_op(fresh.op, fresh.inputs, every=True)
    if opened is not None:
        values = evaluate_nodes(toposort(opened), dict(zip(fresh.inputs, inputs, strict=True)))
        return [v.data if isinstance(v, Constant) else values[v] for v in opened]
    storage: dict[Variable, list[Any]] = {v: [value] for v, value in zip(fresh.inputs, inputs, strict=True)}
    storage |= {v: [None] for v in fresh.outputs}
    computed = {v: [v in fresh.inputs] for v in storage}
    fresh.op.make_thunk(fresh, storage, computed, [], impl="py")()  # type: ignore[arg-type]
    return [storage[v][0] for v in fresh.outputs]


def constant_value(v: Variable) -> Any:
    """Return the value of a constant or of what constants compute, or None."""
    if isinstance(v, Constant):
        return v.data
    # Scalars and vectors written in formulas: a constant with axes added, as a rule.
    nodes = [] if v.owner is None else _cone(v, 5)
    return evaluate_nodes(nodes, {}).get(v)


def sample(v: Any, low: float = -6.0, high: float = 6.0) -> np.ndarray:
    """Return values for a tensor, of lengths that differ from axis to axis where they are not known."""
    # A vector, or a column of one, needs more numbers than a matrix: three show too little of a function.
    first = 3 if sum(n != 1 for n in v.type.shape) > 1 else 7
    shape = [n if n is not None else axis + first for axis, n in enumerate(v.type.shape)]
    return np.random.default_rng(0).uniform(low, high, shape).astype(v.type.dtype)


def sigmoid(r: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-r))


def log_sum_exp(r: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.log(np.exp(r).sum(axis=axis, keepdims=True))


def softmax(r: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.exp(r - log_sum_exp(r, axis))


def is_near(got: Any, wanted: np.ndarray, tolerance: float) -> bool:
    """Return whether an array has the shape and, to ``tolerance``, the values of another."""
    got = np.asarray(got)
    return got.shape == wanted.shape and bool((np.abs(got - wanted) <= tolerance).all())


def find_preactivation(end: Any) -> tuple[str, Any, float, int] | None:
    """Return ("sigmoid" or "softmax", c, a, axis) with ``end`` that function of a c, or None.

    Of several such c the exact one that is computed first is returned: a softmax of r less its maximum is one of r.
    Constants as small as 1e-3, added against zeros and ones, are looked through.
    """
    nodes = _cone(end)
    if len(nodes) < 2 and not isinstance(end.owner.op, OpFromGraph):
        return None  # one op alone is none of these by hand
    same = find_equal([end])
    candidates: list[Any] = [
        v
        for v in dict.fromkeys(same.get(v, v) for node in nodes for v in node.inputs)
        if not isinstance(v, Constant)
        and getattr(v.type, "ndim", None) == end.type.ndim
        and v.type.dtype.startswith("float")
        and v is not end
    ]
    best: tuple[float, tuple[str, Any, float, int]] | None = None
    for c in candidates:
        numbers = sample(c)
        got = evaluate_nodes(nodes, {c: numbers}, same).get(end)
        if got is None:
            continue
        exact = 1e-5 if "float32" in (end.type.dtype, c.type.dtype) else 1e-9
        for kind, a, axis, wanted in _known(numbers.astype(np.float64)):
            for tolerance in (exact, 2e-3):
                if is_near(got, wanted, tolerance) and (best is None or tolerance < best[0]):
                    best = tolerance, (kind, c, a, axis)
    return None if best is None else best[1]


def _known(r: np.ndarray) -> list[tuple[str, float, int, np.ndarray]]:
    """Return the functions that an output may be of its pre-activation, with their values on ``r``."""
    found = [("sigmoid", a, -1, sigmoid(a * r)) for a in (1.0, 2.0, -1.0, -2.0)]
    return found + [("softmax", 1.0, axis, softmax(r, axis)) for axis in range(r.ndim) if r.shape[axis] > 1]


def _cone(end: Any, most: int = 60) -> list[Apply]:
    """Return the last nodes that compute ``end`` by cheap ops, in order."""
    found: dict[Apply, None] = {}
    following = [end]
    while following and len(found) < most:
        node = following.pop(0).owner
        if node is not None and node not in found and isinstance(node.op, CHEAP):
            found[node] = None
            following += node.inputs
    return [node for node in toposort([end]) if node in found]
