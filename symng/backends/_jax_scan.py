"""While scans for PyTensor's JAX backend. Imports jax: for `symng.backends.enable_jax` alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytensor.tensor as pt
from pytensor.compile.mode import JAX, optdb
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.link.jax.dispatch.basic import jax_funcify
from pytensor.scan.op import Scan
from pytensor.scan.rewriting.trace import scan_reduce_trace_no_prealloc
from pytensor.tensor.basic import AllocEmpty
from pytensor.tensor.elemwise import CAReduce
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.subtensor import IncSubtensor, Subtensor

from symng.backends import _jax_ops, _jax_shapes

_registered = False


def register() -> None:
    """Register the dispatch of while scans and the two rewrites, once."""
    global _registered
    if _registered:
        return
    own = jax_funcify.dispatch(Scan)

    @functools.wraps(own)
    def convert_scan(op: Scan, node: Any = None, **kwargs: Any) -> Callable:
        """Convert while scans here and hand every other scan back."""
        if op.info.as_while:
            return convert_while_scan(op, node, **kwargs)
        return _jax_shapes.with_known_constants(own, op, node, **kwargs)

    jax_funcify.register(Scan, convert_scan)
    _jax_ops.register()
    # Before PyTensor's "scan_reduce_trace" (1.612), which looks for the buffers as scan made them.
    optdb.register(
        "symng_full_initial_state", dfs_rewriter(full_initial_state), "jax", position=1.6
    )
    optdb.register("symng_narrow_reduction", dfs_rewriter(narrow_reduction), "jax", position=1.6)
    if "scan_inner_graph" not in optdb:
        # Early PyTensor 3 leaves out what is also meant for Numba when it rewrites the inside of a
        # fixed scan for JAX, and this with it; a while scan in there would keep all its values.
        rewrite = dfs_rewriter(scan_reduce_trace_no_prealloc, ignore_newtrees=True)
        optdb.register("symng_reduce_trace", rewrite, "jax", position=1.613)
    _registered = True


@node_rewriter([IncSubtensor])
def full_initial_state(fgraph: FunctionGraph, node: Any) -> list[Variable] | bool:
    """Write a full initial state into a scan buffer, ``empty[:k] = alloc(value, k, ...)``.

    PyTensor drops the `Alloc` of a constant initial state, and then no longer knows the buffer for
    one that it can shorten to the last value; the buffer keeps the length of the scan, which JAX
    cannot allocate when it is symbolic.
    """
    if not node.op.set_instead_of_inc or node.op.idx_list != (slice(None, 0),):
        return False
    buffer, value, stop = node.inputs
    if buffer.owner is None or not isinstance(buffer.owner.op, AllocEmpty):
        return False
    lengths = buffer.owner.inputs[1:]
    missing = buffer.ndim - value.ndim
    broadcast = [
        axis < missing or value.type.broadcastable[axis - missing] for axis in range(1, buffer.ndim)
    ]
    if not any(
        spread and not one
        for spread, one in zip(broadcast, buffer.type.broadcastable[1:], strict=True)
    ):
        return False
    return [node.op(buffer, pt.alloc(value, stop, *lengths), stop)]


@node_rewriter([CAReduce])
def narrow_reduction(fgraph: FunctionGraph, node: Any) -> list[Variable] | bool:
    """Accumulate a float32 sum in float32.

    PyTensor's JAX backend ignores the accumulator while it sums and casts the result to it, so the
    float64 accumulator of a float32 sum makes nothing more exact and only turns what follows into
    float64.
    """
    wide = getattr(node.op, "acc_dtype", None)
    dtype = node.inputs[0].type.dtype
    if wide in (None, dtype) or dtype != "float32" or node.outputs[0].type.dtype != dtype:
        return False
    return [node.op.clone(acc_dtype=dtype)(node.inputs[0])]


def convert_while_scan(op: Scan, node: Any, **kwargs: Any) -> Callable:
    """Convert a while scan to a function on JAX arrays.

    Recurrent outputs live in the buffers that the graph provides, written around in a circle as
    PyTensor's own scan does; at the end each buffer is rolled so that the newest value is its last
    entry. A buffer that could end up with entries never written would have to be cut, which JAX
    cannot: it is refused.
    """
    info = op.info
    if info.n_mit_mot:
        raise NotImplementedError(
            f"{op}: expected a while scan without several outputs per state, got one from the "
            "gradient of a loop. Its JAX form is not there; use a scan with a fixed number of "
            "steps, or mode 'CVM' or 'NUMBA'."
        )
    buffer_variables = [*op.outer_mitsot(node.inputs), *op.outer_sitsot(node.inputs)]
    if any(_has_computed_length(buffer) for buffer in buffer_variables):
        raise _wants_all_values(op)
    taps = [*info.mit_sot_in_slices, *info.sit_sot_in_slices]
    lookbacks = [-min(each) for each in taps]
    kept = [_constant_length(length) for length in op.outer_nitsot(node.inputs)]
    if any(length != 1 for length in kept):
        raise _wants_all_values(op)
    inner = jax_funcify(_inner_graph(op), **kwargs)
    buffer_dtypes = [variable.type.dtype for variable in buffer_variables]
    single_dtypes = [getattr(v.type, "dtype", None) for v in op.outer_untraced_sit_sot(node.inputs)]

    def scan(*outer: Any) -> Any:
        """Run the loop on the outer inputs."""
        arguments = list(outer)
        n_steps = arguments[0]
        sequences = [jnp.asarray(sequence) for sequence in op.outer_seqs(arguments)]
        constants = op.outer_non_seqs(arguments)
        given = [*op.outer_mitsot(arguments), *op.outer_sitsot(arguments)]
        buffers = [
            _as_carry(value, dtype) for value, dtype in zip(given, buffer_dtypes, strict=True)
        ]
        for buffer, lookback in zip(buffers, lookbacks, strict=True):
            if buffer.shape[0] > lookback:
                raise _wants_all_values(op)
        singles = [
            _as_carry(value, dtype)
            for value, dtype in zip(
                op.outer_untraced_sit_sot(arguments), single_dtypes, strict=True
            )
        ]

        def call(i: Any, buffers: list[Any], singles: list[Any]) -> list[Any]:
            """Call the inner graph for step ``i``."""
            reads = [
                _at(buffer, i + lookback + tap)
                for buffer, lookback, each in zip(buffers, lookbacks, taps, strict=True)
                for tap in each
            ]
            return list(
                inner(*(sequence[i] for sequence in sequences), *reads, *singles, *constants)
            )

        def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            """Make one step."""
            i, _, buffers, singles, last = carry
            results = call(i, buffers, singles)
            buffers = [
                buffer.at[(i + lookback) % buffer.shape[0]].set(
                    jnp.asarray(value, dtype=buffer.dtype)
                )
                for buffer, lookback, value in zip(
                    buffers, lookbacks, results[: len(taps)], strict=True
                )
            ]
            last = [
                _like(old, value)
                for old, value in zip(last, op.inner_nitsot_outs(results), strict=True)
            ]
            new = op.inner_untraced_sit_sot_outs(results)
            singles = [_like(old, value) for old, value in zip(singles, new, strict=True)]
            return i + 1, jnp.asarray(results[-1], dtype=bool).reshape(()), buffers, singles, last

        def unfinished(carry: tuple[Any, ...]) -> Any:
            """Return whether another step follows."""
            return (carry[0] < n_steps) & ~carry[1]

        start = jnp.asarray(0, dtype=jax.dtypes.canonicalize_dtype("int64"))
        shapes = jax.eval_shape(call, start, buffers, singles)
        # No step, no last value: NaN says so where PyTensor's other backends raise an IndexError.
        last = [
            jnp.full(
                shape.shape, jnp.nan if jnp.issubdtype(shape.dtype, jnp.inexact) else 0, shape.dtype
            )
            for shape in op.inner_nitsot_outs(list(shapes))
        ]
        carry = (start, jnp.asarray(False), buffers, singles, last)
        i, _, buffers, singles, last = jax.lax.while_loop(unfinished, step, carry)
        buffers = [
            buffer if buffer.shape[0] == 1 else jnp.roll(buffer, -(i + lookback), axis=0)
            for buffer, lookback in zip(buffers, lookbacks, strict=True)
        ]
        outputs = [*buffers, *(value[None] for value in last), *singles]
        return outputs[0] if len(outputs) == 1 else outputs

    return scan


def _inner_graph(op: Scan) -> Any:
    """Return the inner graph, rewritten for JAX.

    Early PyTensor 3 leaves that to the conversion; later on it is done before, and the graph is
    frozen.
    """
    if not isinstance(op.fgraph, FunctionGraph):
        return op.fgraph
    graph = op.fgraph.clone()
    JAX.optimizer(graph)
    return graph


def _at(buffer: Any, position: Any) -> Any:
    """Return one entry of a circular buffer."""
    return buffer[position % buffer.shape[0]]


def _as_carry(value: Any, dtype: str | None) -> Any:
    """Return a state in the dtype of the graph, if JAX has it, or unchanged if it is no tensor."""
    if dtype is None:
        return jax.tree_util.tree_map(jnp.asarray, value)
    return jnp.asarray(value, dtype=jax.dtypes.canonicalize_dtype(dtype))


def _like(old: Any, new: Any) -> Any:
    """Return ``new`` in the dtypes of ``old``: a carry must not change its type."""
    return jax.tree_util.tree_map(lambda a, b: jnp.asarray(b, dtype=a.dtype), old, new)


def _constant_length(length: Variable) -> int | None:
    """Return how many values of an output are kept, or None if not known at compilation."""
    return int(length.data) if isinstance(length, Constant) else None


def _has_computed_length(buffer: Variable) -> bool:
    """Return whether the length of a buffer, or of what it is cut from, depends on values."""
    while buffer.owner is not None and isinstance(buffer.owner.op, Subtensor | IncSubtensor):
        buffer = buffer.owner.inputs[0]
    node = buffer.owner
    return (
        node is not None and isinstance(node.op, AllocEmpty) and _depends_on_values(node.inputs[0])
    )


def _depends_on_values(v: Variable) -> bool:
    """Return whether ``v`` depends on values of arrays, not just on shapes and constants."""
    if isinstance(v, Constant) or (v.owner is not None and isinstance(v.owner.op, Shape | Shape_i)):
        return False
    return v.owner is None or any(_depends_on_values(i) for i in v.owner.inputs)


def _wants_all_values(op: Scan) -> Exception:
    """Return the error for a while scan of which more than the last value is read."""
    return NotImplementedError(
        f"{op}: expected a while scan of which only the last value of each output is read "
        "(out[-1]) on JAX, got one of which more is wanted (all values, the gradient through the "
        "loop, or a mode without PyTensor's scan rewrites). JAX arrays cannot end where a loop "
        "stops: read out[-1] only, use a scan with a fixed number of steps, or mode 'CVM' or "
        "'NUMBA'."
    )
