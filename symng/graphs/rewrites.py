"""Rewrite graphs: merge equal variables, and open ops that are graphs themselves."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeGuard

import pytensor.tensor as pt
from pytensor.compile.builders import OpFromGraph, SymbolicOp
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.op import Op
from pytensor.graph.replace import vectorize_graph
from pytensor.graph.traversal import toposort
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.einsum import Einsum
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Sum
from pytensor.tensor.variable import TensorVariable

from symng.graphs.rebuild import V, copy_of_frozen, rebuild


def merge_equal(graphs: Sequence[V], anchors: Sequence[Variable]) -> list[V]:
    """Return ``graphs`` with every variable that equals one of ``anchors`` replaced by it.

    Variables are equal if the same op computes them from equal inputs; constants if their values
    are. Graphs with nothing to replace come back as they are.
    """
    targets = set(anchors)
    equal = find_equal([*anchors, *graphs])
    return rebuild(graphs, {v: w for v, w in equal.items() if w is not v and w in targets})


def find_equal(graphs: Sequence[Variable]) -> dict[Variable, Variable]:
    """Map every variable in ``graphs`` that is computed or constant to the first equal one."""
    same: dict[Variable, Variable] = {}
    computed: dict[Hashable, Sequence[Variable]] = {}
    constants: dict[Hashable, Variable] = {}

    def representative(v: Variable) -> Variable:
        if isinstance(v, Constant) and v not in same:
            same[v] = constants.setdefault(v.signature(), v)
        return same.get(v, v)

    for node in dict.fromkeys(n for graph in graphs for n in toposort([graph])):
        key = (node.op, *(representative(v) for v in node.inputs))
        same.update(zip(node.outputs, computed.setdefault(key, node.outputs), strict=True))
    return same


def inline(
    graphs: Sequence[V], same: Mapping[Variable, Variable] | None = None
) -> tuple[list[V], dict[Variable, Variable]]:
    """Return ``graphs`` with every `OpFromGraph` replaced by its graph, and all replacements.

    Ops with their own derivative stay, since a gradient has to use it, and so do PyTensor's own,
    such as a softmax, which backends know by name. Variables that depend on no replaced op are
    returned unchanged. ``same`` holds the replacements of a previous call.
    """
    new: dict[Variable, Any] = dict(same or {})  # each of the kind of its key
    for node in toposort(graphs):
        if node.outputs[0] in new:
            continue
        inputs = [new.get(v, v) for v in node.inputs]
        outputs: Sequence[Variable]
        if (opened := open_op(node.op, inputs)) is not None:
            outputs = opened
        elif any(v is not i for v, i in zip(inputs, node.inputs, strict=True)):
            outputs = node.clone_with_new_inputs(inputs).outputs
        else:
            continue
        for v, other in zip(node.outputs, outputs, strict=True):
            new[v] = other
            if other.name is None and other not in inputs and not isinstance(other, Constant):
                other.name = v.name
    return [new.get(v, v) for v in graphs], new


def open_op(op: Op, inputs: Sequence[Variable], every: bool = False) -> list[Variable] | None:
    """Return what ``op`` computes from ``inputs`` as a graph without it, or None if it stays.

    `inline` says which ops stay; with ``every``, no `OpFromGraph` does.
    """
    core = op.core_op if isinstance(op, Blockwise) else op
    if not _can_be_opened(core, every):
        return None
    if core is op:
        return _opened(core, inputs, every)
    core_inputs = [t() for t in core.input_types]
    graphs = _opened(core, core_inputs, every)
    return vectorize_graph(graphs, dict(zip(core_inputs, inputs, strict=True)))


def _opened(op: OpFromGraph, inputs: Sequence[Variable], every: bool) -> list[Variable]:
    """Return the graph inside ``op`` on ``inputs``, with the ops in it opened."""
    inner = op.fgraph
    bound: dict[Variable, Variable] = dict(zip(inner.inputs, inputs, strict=True))
    for node in inner.toposort():
        fresh = copy_of_frozen(node, bound)
        opened = open_op(fresh.op, fresh.inputs, every) or fresh.outputs
        bound.update(zip(node.outputs, opened, strict=True))
    return [bound.get(v, v) for v in inner.outputs]


def _can_be_opened(op: Op, every: bool) -> TypeGuard[OpFromGraph]:
    """Return whether ``op`` is a graph, and unless ``every``, has no derivative of its own.

    Of PyTensor's own ops only an einsum is opened: backends know the others by name.
    """
    if not isinstance(op, OpFromGraph):
        return False
    if every:
        return True
    kind = type(op)
    if kind.__module__.startswith("pytensor.") and kind not in (OpFromGraph, SymbolicOp):
        return isinstance(op, Einsum) and bool(op.optimized)
    if op.pullback_overrides is not None or op.pushforward_overrides is not None:
        return False
    methods = ("pullback", "pushforward", "L_op", "R_op", "grad")
    return all(getattr(kind, name, None) is getattr(OpFromGraph, name, None) for name in methods)


def is_elementwise(op: object, kind: type | tuple[type, ...]) -> bool:
    """Return whether ``op`` applies a scalar op of type ``kind`` elementwise."""
    return isinstance(op, Elemwise) and isinstance(op.scalar_op, kind)


def accumulate_in_own_dtype(gradient: TensorVariable) -> TensorVariable:
    """Return a gradient that is a sum, such as that of a bias, summed in its own dtype.

    PyTensor sums float32 in float64, which gains nothing next to matrix products in float32.
    """
    node = gradient.owner
    if node is None:
        return gradient
    inner = node.inputs[0]
    if isinstance(node.op, DimShuffle):
        accumulated = accumulate_in_own_dtype(pt.as_tensor_variable(inner))
        return pt.as_tensor_variable(node.op(accumulated))
    if isinstance(node.op, Sum) and inner.type.dtype == gradient.type.dtype == "float32":
        return node.op.clone(acc_dtype="float32")(inner)
    return gradient
