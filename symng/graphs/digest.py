"""A digest of a graph that is the same in every process, by which a model is recognized."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pytensor.compile.mode import Mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.op import Op
from pytensor.graph.traversal import io_toposort
from pytensor.graph.type import Type
from pytensor.tensor.type import TensorType

from symng.graphs.config import leaf_repr


def graph_digest(outputs: Sequence[Variable], roots: Mapping[Variable, str]) -> str:
    """Return a digest of the graphs of ``outputs`` as hexadecimal text.

    It depends on the ops with their settings, on dtypes, static shapes, values of constants, and on
    what is computed from what; not on names, on the order in which variables were made, or on the
    values of shared variables.

    Parameters
    ----------
    outputs : sequence of variables
        What the graphs compute. Their order matters.
    roots : mapping of variables to str
        Inputs and parameters, each with a text that stands for it: two with the same text are the
        same to the digest. Other inputs of the graph go by name and type.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return _digest(_of_graph(outputs, roots))


def _of_graph(outputs: Sequence[Variable], roots: Mapping[Variable, str]) -> list[str]:
    """Return a digest of each output."""
    known = {v: _digest(["root", text, _of_type(v.type)]) for v, text in roots.items()}

    def of(variable: Variable) -> str:
        if variable not in known:
            known[variable] = _of_root(variable)
        return known[variable]

    # Topological order is not unique, but a digest depends only on those of its node's inputs.
    for node in io_toposort([v for v in roots if v.owner is None], outputs):
        inputs = [of(v) for v in node.inputs]
        of_node = _digest(["node", _of_value(node.op), *inputs])
        for i, output in enumerate(node.outputs):
            known.setdefault(output, _digest([of_node, str(i), _of_type(output.type)]))
    return [of(v) for v in outputs]


def _of_root(variable: Variable) -> str:
    """Return the digest of a variable that nothing computes."""
    if isinstance(variable, Constant):
        return _digest(["constant", _of_type(variable.type), _of_value(variable.data)])
    kind = "shared" if isinstance(variable, SharedVariable) else "free"
    return _digest([kind, str(variable.name), _of_type(variable.type)])


def _of_type(kind: Type) -> str:
    """Return a description of a type."""
    if isinstance(kind, TensorType):
        return f"{type(kind).__name__} {kind.dtype} {kind.shape}"
    return f"{type(kind).__name__} {leaf_repr(kind)}"


def _of_value(value: Any) -> str:
    """Return a description of a setting of an op, or of the value of a constant."""
    if isinstance(value, Op):
        return _digest(["op", type(value).__name__, *_settings_of(value)])
    if isinstance(value, Variable):
        return _of_graph([value], {})[0]
    if isinstance(value, Type):
        return _of_type(value)
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            return repr(array.tolist())
        content = hashlib.blake2b(array.data if array.size else b"").hexdigest()
        return f"{array.dtype.str} {np.shape(value)} {content}"
    if isinstance(value, Mapping):
        return repr(sorted((_of_value(k), _of_value(v)) for k, v in value.items()))
    if isinstance(value, set | frozenset):
        return repr(sorted(map(_of_value, value)))
    if isinstance(value, list | tuple):
        return repr([_of_value(v) for v in value])
    if isinstance(value, slice):
        return repr(["slice", *map(_of_value, (value.start, value.stop, value.step))])
    if isinstance(value, Mode):  # of the functions that an op compiles for itself
        return "mode"
    return leaf_repr(value)


def _settings_of(op: Op) -> Iterable[str]:
    """Return descriptions of the settings of an op, and of the graph that it may hold."""
    for name in getattr(op, "__props__", None) or ():
        yield f"{name} {_of_value(getattr(op, name, None))}"
    if (info := getattr(op, "info", None)) is not None:  # of a scan
        yield f"info {_of_value(info)}"
    if (graph := getattr(op, "fgraph", None)) is not None:
        inner = {v: f"inner {i}" for i, v in enumerate(graph.inputs)}
        yield from _of_graph(graph.outputs, inner)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()
