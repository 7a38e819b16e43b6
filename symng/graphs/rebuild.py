"""Replace variables of a graph, rebuild the nodes that depend on them, and find its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import graph_inputs, toposort
from pytensor.tensor.variable import TensorVariable

K = TypeVar("K", bound=Variable)
V = TypeVar("V", bound=Variable)

Rewrite = Callable[[Apply, Mapping[Variable, Variable]], list[Variable]]


def _copy(node: Apply, new: Mapping[Variable, Variable]) -> list[Variable]:
    """Return the outputs of a node on its new inputs."""
    return node.clone_with_new_inputs([new.get(v, v) for v in node.inputs]).outputs


def copy_of_frozen(node: Apply, new: Mapping[Variable, Variable]) -> Apply:
    """Return a copy of a node of a frozen graph, on its new inputs and with its own outputs."""
    inputs = [new.get(v, v) for v in node.inputs]
    return Apply(node.op, inputs, [v.type(name=v.name) for v in node.outputs])


def rebuild(
    outputs: Sequence[V], replace: Mapping[K, Variable], rewrite: Rewrite = _copy
) -> list[V]:
    """Return ``outputs`` with variables replaced, rebuilding only the nodes that depend on them.

    All other nodes stay the same objects. PyTensor's `graph_replace` and `clone_replace` may copy
    those as well: a copied loop is compiled and run a second time, for equal loops are not always
    merged.

    Parameters
    ----------
    outputs : sequence of variables
        The graph.
    replace : mapping
        From variables, which may be anywhere in the graph, to what stands in for them. Those that
        the graph does not reach are ignored. A replacement is not searched for variables to
        replace.
    rewrite : callable, optional
        Takes a node and the replacements of the variables before it, and returns its new outputs.
        Default: the same op on the new inputs.
    """
    new: dict[Variable, Any] = dict(replace.items())  # each of the kind of its key
    for node in toposort(list(outputs), blockers=replace):
        if any(v in new for v in node.inputs):
            for old, made in zip(node.outputs, rewrite(node, new), strict=True):
                new.setdefault(old, made)  # unless ``replace`` has this output itself
    return [new.get(v, v) for v in outputs]


def replacements(
    variables: Sequence[K], values: Sequence[TensorVariable]
) -> dict[K, TensorVariable]:
    """Return a mapping from ``variables`` to ``values``, made fit to replace them.

    A scan accepts no tensor with an axis that is known to have length 1 where its variable's length
    was unknown. So each value forgets what its variable does not know.
    """
    return {v: _forget_ones(value, v) for v, value in zip(variables, values, strict=True)}


def _forget_ones(value: TensorVariable, variable: Any) -> TensorVariable:
    """Return ``value`` without the lengths of 1 that the type of ``variable`` leaves open."""
    lengths = list(zip(value.type.shape, variable.type.shape, strict=True))
    open_axes = [axis for axis, (got, known) in enumerate(lengths) if got == 1 and known is None]
    if not open_axes:
        return value
    # A slice with a computed end has an unknown length. The end is the length of the variable:
    # rewrites would fold that of the value, and know the length again.
    ends = [variable.shape[axis] if axis in open_axes else None for axis in range(len(lengths))]
    return value[tuple(map(slice, ends))]


def free_inputs(graphs: Sequence[Variable]) -> list[Variable]:
    """Return the inputs of ``graphs`` that need a value: no constants, no shared variables."""
    return [v for v in graph_inputs(graphs) if not isinstance(v, SharedVariable | Constant)]
