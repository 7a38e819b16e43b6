"""Recognize a sigmoid or a softmax that is written by hand, by its values on a few numbers.

There are many ways to write one, and all have the same values.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from pytensor.compile.builders import OpFromGraph
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import toposort
from pytensor.tensor.basic import get_underlying_scalar_constant_value
from pytensor.tensor.exceptions import NotScalarConstantError
from pytensor.tensor.variable import TensorVariable

from symng.graphs.evaluation import CHEAP, evaluate_nodes
from symng.graphs.rewrites import find_equal

_Kind = Literal["sigmoid", "softmax"]


def constant_value(v: Variable) -> np.ndarray | None:
    """Return the value of a constant, or of what a few ops compute from constants, or None."""
    # A number in a formula is usually a constant with added axes.
    value = v.data if isinstance(v, Constant) else evaluate_nodes(_last_nodes(v, 5), {}).get(v)
    return None if value is None else np.asarray(value)


def constant_number(v: Variable) -> float | None:
    """Return the number that all entries of a constant have; None if there is no such number."""
    try:
        return float(get_underlying_scalar_constant_value(v))
    except NotScalarConstantError:
        return None


def sample(v: Variable, low: float = -6.0, high: float = 6.0) -> np.ndarray:
    """Return sample values for a tensor; no two axes of unknown length get the same one."""
    # Seven for a vector or a column: three numbers show too little of a function.
    shortest = 3 if sum(n != 1 for n in v.type.shape) > 1 else 7
    shape = [shortest + axis if n is None else n for axis, n in enumerate(v.type.shape)]
    return np.random.default_rng(0).uniform(low, high, shape).astype(v.type.dtype)


def sigmoid(r: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-r))."""
    return 1 / (1 + np.exp(-r))


def log_sum_exp(r: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the logarithm of the sum of exp(r) along an axis, which is kept."""
    return np.log(np.exp(r).sum(axis=axis, keepdims=True))


def softmax(r: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the softmax of r along an axis."""
    return np.exp(r - log_sum_exp(r, axis))


def is_near(got: object, expected: np.ndarray, tolerance: float) -> bool:
    """Return whether an array has the shape and, to ``tolerance``, the values of another."""
    got = np.asarray(got)
    return got.shape == expected.shape and bool((np.abs(got - expected) <= tolerance).all())


class Preactivation(NamedTuple):
    """What was recognized: a tensor is sigmoid(a c), or softmax(c) along an axis.

    Attributes
    ----------
    kind : {"sigmoid", "softmax"}
        The function.
    c : TensorVariable
        What it is a function of.
    a : float
        The factor; 1 for a softmax.
    axis : int
        The axis of a softmax; -1 for a sigmoid.
    """

    kind: _Kind
    c: TensorVariable
    a: float
    axis: int


def find_preactivation(end: Variable) -> Preactivation | None:
    """Return the variable that ``end`` is a sigmoid or softmax of, with the function, or None.

    Of several, the first one computed that matches exactly is returned: a softmax of r minus its
    maximum is a softmax of r. A match may be off by up to 2e-3, for example because of a constant
    that keeps a logarithm away from zero.
    """
    nodes = _last_nodes(end)
    if not nodes or (len(nodes) == 1 and not isinstance(nodes[0].op, OpFromGraph)):
        return None  # written by hand, each takes several ops
    same = find_equal([end])
    best, least = None, np.inf
    for c in _candidates(end, nodes, same):
        numbers = sample(c)
        got = evaluate_nodes(nodes, {c: numbers}, same).get(end)
        if got is None:
            continue
        exact = 1e-5 if "float32" in (end.type.dtype, c.type.dtype) else 1e-9
        for kind, a, axis, expected in _known_functions(numbers.astype(np.float64)):
            for tolerance in (exact, 2e-3):
                if tolerance < least and is_near(got, expected, tolerance):
                    best, least = Preactivation(kind, c, a, axis), tolerance
    return best


def _candidates(
    end: Variable, nodes: list[Apply], same: dict[Variable, Variable]
) -> list[TensorVariable]:
    """Return the variables with as many axes as ``end`` that ``nodes`` read, without duplicates."""
    read = dict.fromkeys(same.get(v, v) for node in nodes for v in node.inputs)
    return [
        v
        for v in read
        if isinstance(v, TensorVariable)
        and not isinstance(v, Constant)
        and v is not end
        and v.ndim == end.type.ndim
        and v.type.dtype.startswith("float")
    ]


def _known_functions(r: np.ndarray) -> list[tuple[_Kind, float, int, np.ndarray]]:
    """Return kind, factor, axis and values at ``r`` of each function that is recognized."""
    found: list[tuple[_Kind, float, int, np.ndarray]] = []
    for a in (1.0, 2.0, -1.0, -2.0):
        found.append(("sigmoid", a, -1, sigmoid(a * r)))
    for axis in range(r.ndim):
        if r.shape[axis] > 1:
            found.append(("softmax", 1.0, axis, softmax(r, axis)))
    return found


def _last_nodes(end: Variable, most: int = 60) -> list[Apply]:
    """Return the last nodes that compute ``end`` by cheap ops, ``most`` of them, in order."""
    found: dict[Apply, None] = {}
    queue = [end]
    while queue and len(found) < most:
        node = queue.pop(0).owner
        if node is not None and node not in found and isinstance(node.op, CHEAP):
            found[node] = None
            queue += node.inputs
    return [node for node in toposort([end]) if node in found]
