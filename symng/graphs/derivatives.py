"""Derivatives by PyTensor.

No other module calls PyTensor for them. `grad`, `pullback` and `pushforward` are PyTensor's, with
two differences: an op without a derivative is named in the error, with a hint, and the gradient of
a scan that stops early is also right on PyTensor 3.0 to 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytensor
from pytensor import gradient
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors, toposort
from pytensor.scan.op import Scan
from pytensor.tensor.math import Prod
from pytensor.tensor.shape import Shape
from pytensor.tensor.subtensor import Subtensor
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.graphs.rebuild import rebuild

# pytensor#2217: the gradient takes a scan that stops early for longer than it was, by its initial
# rows.
_COUNTS_INITIAL_ROWS = tuple(int(part) for part in pytensor.__version__.split(".")[:2]) < (3, 3)


def grad(cost: Any, wrt: Sequence[Any], *, of: Any = None, **options: Any) -> Any:
    """Return the gradient of a scalar, as `pytensor.grad` does.

    Where ``cost`` is computed from a gradient, ``of`` is the variable whose gradient it is: an
    error names an op of that one, which the user wrote.
    """
    return _checked(
        lambda: pytensor.grad(cost, wrt, **options),
        [cost] if of is None else [of],
        wrt,
        "first" if of is None else "second",
    )


def pullback(
    f: Sequence[Any], wrt: Sequence[Any], cotangents: Sequence[Any], **options: Any
) -> Any:
    """Return J^T u, as `pytensor.gradient.pullback` does."""
    return _checked(lambda: gradient.pullback(f, wrt, cotangents, **options), f, wrt, "first")


def pushforward(
    f: Sequence[Any], wrt: Sequence[Any], tangents: Sequence[Any], *options: Any
) -> Any:
    """Return J v, as `pytensor.gradient.pushforward` does.

    It is the derivative of J^T u with respect to u.
    """
    return _checked(lambda: gradient.pushforward(f, wrt, tangents, *options), f, wrt, "along")


def _checked(
    take: Callable[[], Any], outputs: Sequence[Any], wrt: Sequence[Any], which: str
) -> Any:
    """Return a derivative, or name the op that has none."""
    try:
        taken = take()
    except Exception as error:  # of many types: PyTensor's own, or what NullType brings about
        op = _find_lacking(outputs, wrt, which)
        if op is None:
            raise
        raise _refusal(op, which) from error
    # Of an op in a scan that has no second derivative PyTensor takes it for zero.
    if which != "first" and (op := _find_in_scans(outputs, wrt, which)) is not None:
        raise _refusal(op, which)
    return _without_initial_rows(taken) if _COUNTS_INITIAL_ROWS else taken


def _refusal(op: Any, which: str) -> Exception:
    """Return the error that names an op without a derivative, with a hint."""
    name = (
        "first derivative"
        if which == "first"
        else "second derivative, which products with a metric need"
    )
    return argument_error(
        "loss, output",
        f"operations with a {name}",
        Verbatim(f"{op}, which has none in PyTensor"),
        _hint_for(op, which),
        NotImplementedError,
    )


def _nodes_between(outputs: Sequence[Any], wrt: Iterable[Any]) -> tuple[list[Apply], set[Any]]:
    """Return the nodes from ``wrt`` to ``outputs``, and the variables that depend on ``wrt``."""
    depends, nodes = set(wrt), []
    for node in toposort(outputs, blockers=depends):
        if any(v in depends for v in node.inputs):
            depends.update(node.outputs)
            nodes.append(node)
    return nodes, depends


def _find_lacking(outputs: Sequence[Any], wrt: Iterable[Any], which: str) -> Any:
    """Return the first op from ``wrt`` to ``outputs`` that lacks a derivative, or None."""
    nodes, depends = _nodes_between(outputs, wrt)
    needed = set(ancestors(outputs))
    seen = set()
    for node in nodes:
        key = node.op, *(v.type for v in node.inputs)
        if key not in seen and _lacks(node, depends, needed, which):
            inputs, results = _inner(node.op)
            return _find_lacking(results, inputs, which) or node.op
        seen.add(key)
    return None


def _find_in_scans(outputs: Sequence[Any], wrt: Iterable[Any], which: str) -> Any:
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
        op = _find_lacking(results, varying, which)
        if op is not None:
            return op
    return None


def _inner(op: Any) -> tuple[list[Any], list[Any]]:
    """Return the inner inputs and outputs of a scan or an OpFromGraph; empty for other ops."""
    graph: Any = getattr(op, "fgraph", None)
    if hasattr(graph, "unfreeze"):  # PyTensor 3.3, whose frozen nodes cannot be rebuilt
        graph = graph.unfreeze()
    return ([], []) if graph is None else (list(graph.inputs), list(graph.outputs))


def _lacks(node: Apply, depends: set[Variable], needed: set[Variable], which: str) -> bool:
    """Return whether an op lacks a derivative, by differentiating the op alone."""
    inputs = [v.type() if v in depends and _is_float(v) else v for v in node.inputs]
    varying = [new for new, v in zip(inputs, node.inputs, strict=True) if new is not v]
    if not varying:
        return False
    made = node.clone_with_new_inputs(inputs).outputs
    ends = [new for new, v in zip(made, node.outputs, strict=True) if v in needed and _is_float(v)]
    u = [end.type() for end in ends]
    try:
        slopes: Any = gradient.pullback(ends, varying, u, disconnected_inputs="ignore")
        if which != "first":
            again = [*u, *(varying if which == "second" else ())]
            gradient.pullback(
                slopes, again, [slope.type() for slope in slopes], disconnected_inputs="ignore"
            )
    except Exception:
        return True
    return False


def _is_float(v: Variable) -> bool:
    """Return whether ``v`` is a tensor or scalar of floating-point numbers."""
    return str(getattr(v.type, "dtype", "")).startswith("float")


def _hint_for(op: Any, which: str) -> str:
    """Return what to write instead of an op without a derivative."""
    if isinstance(op, Prod):
        how = (
            "Where no factor is 0, write pt.prod(x, axis=..., no_zeros_in_input=True); else "
            "pt.cumprod of the factors, or where all are positive pt.exp(pt.log(x).sum(axis=...))."
        )
    elif which == "first":
        return (
            "Write it with other operations, or keep the derivative out of it by "
            "pytensor.gradient.disconnected_grad of its input."
        )
    else:
        how = "Write it with other operations."
    return f"{how} symng.SGD, symng.Adam and symng.TONGA need first derivatives alone."


def _without_initial_rows(derivatives: Any) -> Any:
    """Return derivatives with the right length for scans that stop early.

    The gradient of such a scan cuts its sequences, and the slopes of its outputs, to the length of
    its first output. Where that is a state, its initial rows are no steps.
    """
    listed = list(derivatives) if isinstance(derivatives, list | tuple) else [derivatives]
    scans = [node for node in toposort(listed) if isinstance(node.op, Scan)]
    if not any(node.op.info.as_while for node in scans):
        return derivatives
    ends = [v for node in scans for v in node.outputs]
    used: set[Any] = set()
    right: set[Any] = set()  # as the number of steps is
    for node in scans:
        right.update(ancestors(node.inputs[:1], blockers=ends))
        used.update(node.op.outer_nitsot(node.inputs))
        for cut in node.op.outer_seqs(node.inputs):
            while cut.owner is not None and isinstance(cut.owner.op, Subtensor):
                used.update(ancestors(cut.owner.inputs[1:], blockers=ends))
                cut = cut.owner.inputs[0]
    traces = {count: _stopped_trace(count) for count in used - right}
    # The length of a slice, which is not taken for one of these again when the result is
    # differentiated.
    replace: dict[Any, Any] = {
        n: x[_initial_rows(x) :].shape[0] for n, x in traces.items() if x is not None
    }
    mended = rebuild(listed, replace)
    return mended if isinstance(derivatives, list | tuple) else mended[0]


def _stopped_trace(count: Any) -> TensorVariable | None:
    """Return x if ``count`` is x.shape[0], x being a state and the first output of a while scan."""
    node = count.owner
    if node is None or not isinstance(node.op, Subtensor) or node.inputs[0].owner is None:
        return None
    if count.type.ndim or not isinstance(node.inputs[0].owner.op, Shape):
        return None
    trace = node.inputs[0].owner.inputs[0]
    loop = trace.owner
    if (
        loop is None
        or not isinstance(loop.op, Scan)
        or not loop.op.info.as_while
        or loop.outputs[0] is not trace
    ):
        return None
    return trace if _initial_rows(trace) else None


def _initial_rows(trace: Any) -> int:
    """Return how many rows of the first output of a scan are there before its first step."""
    info = trace.owner.op.info
    taps = [*info.mit_sot_in_slices, *info.sit_sot_in_slices]
    return -min(taps[0]) if taps else 0


def hessian_product(scalar: Any, variables: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
    """Return the Hessian of ``scalar`` with respect to ``variables``, times ``tangents``.

    None of the variables may be computed from another.

    It is symmetric, so the product is the gradient of (gradient . tangents): one reverse pass more.
    """
    slopes: Any = grad(scalar, list(variables))
    along: Any = sum((g * u).sum() for g, u in zip(slopes, tangents, strict=True))
    return list(grad(along, list(variables), of=scalar, disconnected_inputs="ignore"))
