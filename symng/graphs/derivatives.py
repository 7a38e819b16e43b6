"""Derivatives: the only module that calls PyTensor for them.

`grad`, `pullback` and `pushforward` are PyTensor's, with two differences. An error names the op
that has no derivative, with a hint. And the gradient of a scan that stops early is right on
PyTensor 3.0 to 3.2, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import pytensor
import pytensor.tensor as pt
from pytensor import gradient
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.graph.traversal import ancestors, toposort
from pytensor.scan.op import Scan
from pytensor.tensor.math import Prod
from pytensor.tensor.shape import Shape
from pytensor.tensor.subtensor import Subtensor
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.graphs.rebuild import V, rebuild
from symng.graphs.scans import first_computed_row

_Order = Literal["first", "second", "along"]
"""What an op needs: J^T u; also the derivative of that in u and the inputs; or in u only."""

# pytensor#2217: the gradient of a scan that stops early counts its initial rows as steps.
_COUNTS_INITIAL_ROWS = tuple(int(part) for part in pytensor.__version__.split(".")[:2]) < (3, 3)


def grad(
    cost: Variable, wrt: Sequence[Variable], *, of: Variable | None = None, **options: Any
) -> list[TensorVariable]:
    """Return the gradient of a scalar, as `pytensor.grad` does.

    If ``cost`` is itself computed from the gradient of a variable, give that variable as ``of``: an
    error then names an op that the user wrote.
    """
    order: _Order = "first" if of is None else "second"
    outputs = [cost] if of is None else [of]
    return _checked(lambda: pytensor.grad(cost, wrt, **options), outputs, wrt, order)


def pullback(
    f: Sequence[Variable], wrt: Sequence[Variable], cotangents: Sequence[Variable], **options: Any
) -> list[TensorVariable]:
    """Return J^T u, as `pytensor.gradient.pullback` does."""
    return _checked(lambda: gradient.pullback(f, wrt, cotangents, **options), f, wrt, "first")


def pushforward(
    f: Sequence[Variable], wrt: Sequence[Variable], tangents: Sequence[Variable], *options: Any
) -> list[TensorVariable]:
    """Return J v, as `pytensor.gradient.pushforward` does: the derivative of J^T u along u."""
    return _checked(lambda: gradient.pushforward(f, wrt, tangents, *options), f, wrt, "along")


def _checked(
    take: Callable[[], Any], outputs: Sequence[Variable], wrt: Sequence[Variable], order: _Order
) -> list[TensorVariable]:
    """Return the derivatives that ``take`` computes, or name the op that has none."""
    try:
        derivatives = list(take())
    except Exception as error:  # of many types: PyTensor's own, or what a NullType leads to
        op = _find_lacking(outputs, wrt, order)
        if op is None:
            raise
        raise _refusal(op, order) from error
    # If an op inside a scan has no second derivative, PyTensor's result is zero, without an error.
    if order != "first" and (op := _find_in_scans(outputs, wrt, order)) is not None:
        raise _refusal(op, order)
    return _without_initial_rows(derivatives) if _COUNTS_INITIAL_ROWS else derivatives


def _refusal(op: Op, order: _Order) -> Exception:
    """Return the error that names an op without a derivative, with a hint."""
    name = (
        "first derivative"
        if order == "first"
        else "second derivative, which products with a metric need"
    )
    return argument_error(
        "loss, output",
        f"operations with a {name}",
        Verbatim(f"{op}, which has none in PyTensor"),
        _hint_for(op, order),
        NotImplementedError,
    )


def _nodes_between(
    outputs: Sequence[Variable], wrt: Iterable[Variable]
) -> tuple[list[Apply], set[Variable]]:
    """Return the nodes from ``wrt`` to ``outputs``, and the variables that depend on ``wrt``."""
    depends, nodes = set(wrt), []
    for node in toposort(outputs, blockers=depends):
        if any(v in depends for v in node.inputs):
            depends.update(node.outputs)
            nodes.append(node)
    return nodes, depends


def _find_lacking(outputs: Sequence[Variable], wrt: Iterable[Variable], order: _Order) -> Op | None:
    """Return the first op from ``wrt`` to ``outputs`` that lacks a derivative, or None."""
    nodes, depends = _nodes_between(outputs, wrt)
    needed = set(ancestors(outputs))
    seen = set()
    for node in nodes:
        key = node.op, *(v.type for v in node.inputs)
        if key not in seen and _lacks(node, depends, needed, order):
            inputs, results = _inner(node.op)
            return _find_lacking(results, inputs, order) or node.op
        seen.add(key)
    return None


def _find_in_scans(
    outputs: Sequence[Variable], wrt: Iterable[Variable], order: _Order
) -> Op | None:
    """Return the first op that lacks a derivative in a scan between ``wrt`` and ``outputs``."""
    nodes, depends = _nodes_between(outputs, wrt)
    for node in nodes:
        if not isinstance(node.op, Scan):
            continue
        inputs, results = _inner(node.op)
        outer = node.op.get_oinp_iinp_iout_oout_mappings()["outer_inp_from_inner_inp"]
        states = {
            *node.op.inner_mitmot(inputs),
            *node.op.inner_mitsot(inputs),
            *node.op.inner_sitsot(inputs),
        }
        varying = [
            v for i, v in enumerate(inputs) if v in states or node.inputs[outer[i]] in depends
        ]
        op = _find_lacking(results, varying, order)
        if op is not None:
            return op
    return None


def _inner(op: Op) -> tuple[list[Variable], list[Variable]]:
    """Return the inner inputs and outputs of a scan or an OpFromGraph; empty for other ops."""
    graph = getattr(op, "fgraph", None)
    if graph is None:
        return [], []
    if hasattr(graph, "unfreeze"):  # PyTensor 3.3, whose frozen nodes cannot be rebuilt
        graph = graph.unfreeze()
    return list(graph.inputs), list(graph.outputs)


def _lacks(node: Apply, depends: set[Variable], needed: set[Variable], order: _Order) -> bool:
    """Return whether an op lacks a derivative, by differentiating the op alone."""
    inputs = [v.type() if v in depends and is_float(v) else v for v in node.inputs]
    varying = [new for new, v in zip(inputs, node.inputs, strict=True) if new is not v]
    if not varying:
        return False
    copies = node.clone_with_new_inputs(inputs).outputs
    pairs = zip(copies, node.outputs, strict=True)
    ends = [new for new, v in pairs if v in needed and is_float(v)]
    u: list[Variable] = [end.type() for end in ends]
    try:
        pulled: Any = gradient.pullback(ends, varying, u, disconnected_inputs="ignore")
        if order != "first":
            wrt = [*u, *varying] if order == "second" else u
            gradient.pullback(pulled, wrt, [v.type() for v in pulled], disconnected_inputs="ignore")
    except Exception:
        return True
    return False


def is_float(v: Variable) -> bool:
    """Return whether ``v`` holds floating-point numbers, which have derivatives."""
    return str(getattr(v.type, "dtype", "")).startswith("float")


def _hint_for(op: Op, order: _Order) -> str:
    """Return what to write instead of an op without a derivative."""
    hint = "Write it with other operations."
    if isinstance(op, Prod):
        hint = (
            "If no factor is 0, write pt.prod(x, axis=..., no_zeros_in_input=True); else "
            "pt.cumprod of the factors, or if all are positive pt.exp(pt.log(x).sum(axis=...))."
        )
    elif order == "first":
        return (
            "Write it with other operations, or stop the gradient there with "
            "pytensor.gradient.disconnected_grad(its input)."
        )
    return f"{hint} symng.SGD, symng.Adam and symng.TONGA need only first derivatives."


def _without_initial_rows(derivatives: list[V]) -> list[V]:
    """Return the derivatives of scans that stop early without counting initial rows as steps.

    PyTensor cuts the sequences of such a scan, and the gradients of its outputs, to the length of
    its first output. If that is a state, the length includes its initial rows.
    """
    scans = [node for node in toposort(derivatives) if isinstance(node.op, Scan)]
    if not any(node.op.info.as_while for node in scans):
        return derivatives
    traces = {length: _stopped_trace(length) for length in _lengths_in(scans)}
    # The length of a slice, so that it is not corrected again when the result is differentiated.
    replace = {
        length: trace[first_computed_row(trace) :].shape[0]
        for length, trace in traces.items()
        if trace is not None
    }
    return rebuild(derivatives, replace)


def _lengths_in(scans: Sequence[Apply]) -> set[Variable]:
    """Return the variables that may be wrong lengths: those of buffers and of cut sequences.

    The number of steps of a scan is never wrong, nor is anything that it is computed from.
    """
    outputs = [v for node in scans for v in node.outputs]
    lengths: set[Variable] = set()
    steps: set[Variable] = set()
    for node in scans:
        steps.update(ancestors(node.inputs[:1], blockers=outputs))
        lengths.update(node.op.outer_nitsot(node.inputs))
        for sequence in node.op.outer_seqs(node.inputs):
            while sequence.owner is not None and isinstance(sequence.owner.op, Subtensor):
                bounds = sequence.owner.inputs[1:]
                lengths.update(ancestors(bounds, blockers=outputs))
                sequence = sequence.owner.inputs[0]
    return lengths - steps


def _stopped_trace(length: Variable) -> TensorVariable | None:
    """Return x if ``length`` is x.shape[0] of a state x, the first output of a while scan."""
    node = length.owner
    if node is None or not isinstance(node.op, Subtensor) or node.inputs[0].owner is None:
        return None
    if length.type.ndim or not isinstance(node.inputs[0].owner.op, Shape):
        return None
    trace = node.inputs[0].owner.inputs[0]
    scan = trace.owner
    if scan is None or not isinstance(scan.op, Scan) or not scan.op.info.as_while:
        return None
    return trace if scan.outputs[0] is trace and first_computed_row(trace) else None


def hessian_product(
    scalar: Variable, variables: Sequence[Variable], tangents: Sequence[TensorVariable]
) -> list[TensorVariable]:
    """Return the Hessian of ``scalar`` with respect to ``variables``, times ``tangents``.

    None of the variables may be computed from another. The Hessian is symmetric, so the product is
    the gradient of (gradient . tangents), one more reverse pass.
    """
    gradients = grad(scalar, list(variables))
    parts = [(g * u).sum() for g, u in zip(gradients, tangents, strict=True)]
    along = pt.as_tensor_variable(sum(parts))
    return grad(along, list(variables), of=scalar, disconnected_inputs="ignore")
