"""While scans for PyTensor's JAX backend. Imports jax: for `symng.backends.enable_jax` alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import pytensor.tensor as pt
from pytensor.compile.mode import JAX, optdb
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import AbstractFunctionGraph, FunctionGraph
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.link.jax.dispatch.basic import jax_funcify
from pytensor.scan.op import Scan
from pytensor.scan.rewriting.trace import scan_reduce_trace_no_prealloc
from pytensor.tensor.basic import AllocEmpty
from pytensor.tensor.elemwise import CAReduce
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.subtensor import IncSubtensor, Subtensor

from symng.backends import _jax_ops, _jax_shapes

T = TypeVar("T")

_registered = False


def register() -> None:
    """Register the conversions to JAX and the rewrites, once."""
    global _registered
    if _registered:
        return
    convert_fixed_scan = jax_funcify.dispatch(Scan)  # PyTensor's

    @functools.wraps(convert_fixed_scan)
    def convert_scan(op: Scan, node: Apply, **kwargs: object) -> Callable:
        if op.info.as_while:
            return convert_while_scan(op, node, **kwargs)
        return _jax_shapes.with_known_constants(convert_fixed_scan, op, node, **kwargs)

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
def full_initial_state(fgraph: FunctionGraph, node: Apply) -> list[Variable] | bool:
    """Write a whole array into the start of a scan buffer: ``empty[:k] = alloc(value, k, ...)``.

    PyTensor drops the `Alloc` of a constant initial state, and then no longer sees that it can
    shorten the buffer to the last value. The buffer would keep the length of the scan, which JAX
    cannot allocate when it is symbolic.
    """
    if not node.op.set_instead_of_inc or node.op.idx_list != (slice(None, 0),):
        return False
    buffer, value, stop = node.inputs
    if buffer.owner is None or not isinstance(buffer.owner.op, AllocEmpty):
        return False
    lengths = buffer.owner.inputs[1:]
    missing = buffer.type.ndim - value.type.ndim
    is_broadcast = any(
        (axis < missing or value.type.broadcastable[axis - missing])
        and not buffer.type.broadcastable[axis]
        for axis in range(1, buffer.type.ndim)
    )
    if not is_broadcast:
        return False
    return [node.op(buffer, pt.alloc(value, stop, *lengths), stop)]


@node_rewriter([CAReduce])
def narrow_reduction(fgraph: FunctionGraph, node: Apply) -> list[Variable] | bool:
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


def convert_while_scan(op: Scan, node: Apply, **kwargs: object) -> Callable:
    """Convert a while scan to a function on JAX arrays, or refuse it.

    Of a loop that JAX can run only the last value of each output is read: JAX arrays cannot end
    where a loop stops.
    """
    if op.info.n_mit_mot:
        raise NotImplementedError(
            f"{op}: expected a while scan without several outputs per state, got one from the "
            "gradient of a loop, which has no JAX form. Use a scan with a fixed number of steps, "
            "or mode 'CVM' or 'NUMBA'."
        )
    buffers = [*op.outer_mitsot(node.inputs), *op.outer_sitsot(node.inputs)]
    lengths = op.outer_nitsot(node.inputs)
    if any(map(_has_computed_length, buffers)) or any(map(_keeps_several, lengths)):
        raise _wants_all_values(op)
    return _WhileScan(op, node, jax_funcify(_inner_graph(op), **kwargs)).run


class _Carry(NamedTuple):
    """What a loop passes from step to step."""

    step: jax.Array  # the number of the next one
    stopped: jax.Array
    buffers: list[jax.Array]
    states: list[object]  # those without a buffer, such as a generator
    last: list[jax.Array]  # newest values of the outputs that no step reads


class _WhileScan:
    """A while scan as a loop of JAX.

    Each recurrent output lives in the buffer that the graph provides. It has as many entries as
    steps look back, and is written around in a circle: step i writes entry i + lookback, modulo
    the length. At the end the buffer is rolled, so that its newest value is its last entry.
    """

    def __init__(self, op: Scan, node: Apply, inner: Callable) -> None:
        self.op, self.inner = op, inner
        self.taps = [*op.info.mit_sot_in_slices, *op.info.sit_sot_in_slices]
        self.lookbacks = [-min(taps) for taps in self.taps]
        buffers = [*op.outer_mitsot(node.inputs), *op.outer_sitsot(node.inputs)]
        states = op.outer_untraced_sit_sot(node.inputs)
        self.buffer_dtypes = [v.type.dtype for v in buffers]
        self.state_dtypes = [getattr(v.type, "dtype", None) for v in states]

    def run(self, *outer: jax.Array) -> object:
        """Run the loop on the outer inputs."""
        op, arguments = self.op, list(outer)
        n_steps = arguments[0]
        sequences = [jnp.asarray(sequence) for sequence in op.outer_seqs(arguments)]
        constants = op.outer_non_seqs(arguments)
        buffers = self._initial_buffers(arguments)
        states = [
            _as_state(value, dtype)
            for value, dtype in zip(
                op.outer_untraced_sit_sot(arguments), self.state_dtypes, strict=True
            )
        ]

        def call(i: jax.Array, buffers: list[jax.Array], states: list[object]) -> list[jax.Array]:
            """Call the inner graph for step ``i``."""
            now = [sequence[i] for sequence in sequences]
            return list(self.inner(*now, *self._read(buffers, i), *states, *constants))

        def step(carry: _Carry) -> _Carry:
            i, _, buffers, states, last = carry
            results = call(i, buffers, states)
            return _Carry(
                step=i + 1,
                stopped=jnp.asarray(results[-1], dtype=bool).reshape(()),
                buffers=self._write(buffers, i, results[: len(self.taps)]),
                states=_like(states, op.inner_untraced_sit_sot_outs(results)),
                last=_like(last, op.inner_nitsot_outs(results)),
            )

        def goes_on(carry: _Carry) -> jax.Array:
            return (carry.step < n_steps) & ~carry.stopped

        start = jnp.asarray(0, dtype=jax.dtypes.canonicalize_dtype("int64"))
        shapes = jax.eval_shape(call, start, buffers, states)
        last = [_no_value(shape) for shape in op.inner_nitsot_outs(list(shapes))]
        carry = _Carry(start, jnp.asarray(False), buffers, states, last)
        end = jax.lax.while_loop(goes_on, step, carry)
        buffers = self._roll(end.buffers, end.step)
        outputs = [*buffers, *(value[None] for value in end.last), *end.states]
        return outputs[0] if len(outputs) == 1 else outputs

    def _initial_buffers(self, arguments: list[jax.Array]) -> list[jax.Array]:
        """Return the buffers; refuse one with entries that may never be written."""
        given = [*self.op.outer_mitsot(arguments), *self.op.outer_sitsot(arguments)]
        buffers = [_as_array(v, dtype) for v, dtype in zip(given, self.buffer_dtypes, strict=True)]
        if any(len(v) > lookback for v, lookback in zip(buffers, self.lookbacks, strict=True)):
            raise _wants_all_values(self.op)
        return buffers

    def _read(self, buffers: list[jax.Array], i: jax.Array) -> list[jax.Array]:
        """Return the earlier values that step ``i`` reads."""
        return [
            buffer[(i + lookback + tap) % len(buffer)]
            for buffer, lookback, taps in zip(buffers, self.lookbacks, self.taps, strict=True)
            for tap in taps
        ]

    def _write(
        self, buffers: list[jax.Array], i: jax.Array, values: Sequence[jax.Array]
    ) -> list[jax.Array]:
        """Return the buffers with the values of step ``i``."""
        return [
            buffer.at[(i + lookback) % len(buffer)].set(jnp.asarray(value, dtype=buffer.dtype))
            for buffer, lookback, value in zip(buffers, self.lookbacks, values, strict=True)
        ]

    def _roll(self, buffers: list[jax.Array], steps: jax.Array) -> list[jax.Array]:
        """Return the buffers after so many steps with the newest value at the end."""
        return [
            buffer if len(buffer) == 1 else jnp.roll(buffer, -(steps + lookback), axis=0)
            for buffer, lookback in zip(buffers, self.lookbacks, strict=True)
        ]


def _inner_graph(op: Scan) -> AbstractFunctionGraph:
    """Return the inner graph, rewritten for JAX.

    Early PyTensor 3 leaves that to the conversion; later on it is done before, and the graph is
    frozen.
    """
    if not isinstance(op.fgraph, FunctionGraph):
        return op.fgraph
    graph = op.fgraph.clone()
    JAX.optimizer(graph)
    return graph


def _as_array(value: jax.Array, dtype: str) -> jax.Array:
    """Return a value in the dtype of the graph, if JAX has it."""
    return jnp.asarray(value, dtype=jax.dtypes.canonicalize_dtype(dtype))


def _as_state(value: jax.Array, dtype: str | None) -> object:
    """Return a state as a carry: a tensor as `_as_array` does, the parts of others as arrays."""
    if dtype is None:
        return jax.tree_util.tree_map(jnp.asarray, value)
    return _as_array(value, dtype)


def _like(old: list[T], new: Sequence[object]) -> list[T]:
    """Return ``new`` in the dtypes of ``old``: a carry must not change its type."""
    return jax.tree_util.tree_map(lambda a, b: jnp.asarray(b, dtype=a.dtype), old, list(new))


def _no_value(like: jax.ShapeDtypeStruct) -> jax.Array:
    """Return what stands for the last value of an output after no step.

    NaN where the dtype has one: PyTensor's other backends raise an IndexError.
    """
    fill = jnp.nan if jnp.issubdtype(like.dtype, jnp.inexact) else 0
    return jnp.full(like.shape, fill, like.dtype)


def _keeps_several(length: Variable) -> bool:
    """Return whether more than the last value of an output may be kept, given how many are."""
    return not isinstance(length, Constant) or int(length.data) != 1


def _has_computed_length(buffer: Variable) -> bool:
    """Return whether the length of a buffer, or of what it is cut from, depends on values."""
    node = buffer.owner
    while node is not None and isinstance(node.op, Subtensor | IncSubtensor):
        node = node.inputs[0].owner
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
