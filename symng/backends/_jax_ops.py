"""Conversions to JAX of ops that PyTensor converts only if it sees where a shape comes from.

Imports jax: for `symng.backends._jax_scan` alone. Each function takes an op and its node, as
PyTensor's conversions do, and returns a function of JAX arrays. ``original`` is PyTensor's own
conversion, for what it does well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Constant
from pytensor.graph.fg import AbstractFunctionGraph
from pytensor.link.jax.dispatch.basic import jax_funcify
from pytensor.scan.op import Scan
from pytensor.tensor.basic import ARange, Split
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.shape import Reshape
from pytensor.tensor.signal.conv import Convolve1d
from pytensor.tensor.subtensor import IncSubtensor, indices_from_subtensor

from symng.backends._jax_shapes import (
    IfElse,
    LazyIfElse,
    Outputs,
    concrete,
    convert_graph,
    convert_node,
    count_arrays,
    in_numpy,
    is_known,
)
from symng.graphs.inverses import DividedInverse


def register() -> None:
    """Register the conversions of graphs and ops."""
    jax_funcify.register(AbstractFunctionGraph, convert_graph)
    jax_funcify.register(RandomVariable, _extending(RandomVariable, convert_random_variable))
    jax_funcify.register(Blockwise, _extending(Blockwise, convert_blockwise))
    jax_funcify.register(Reshape, convert_reshape)
    jax_funcify.register(ARange, convert_arange)
    jax_funcify.register(Split, convert_split)
    jax_funcify.register(IncSubtensor, _extending(IncSubtensor, convert_incsubtensor))
    jax_funcify.register(Convolve1d, convert_convolution)
    jax_funcify.register(IfElse, convert_ifelse)
    jax_funcify.register(DividedInverse, convert_divided_inverse)
    if LazyIfElse is not None:
        jax_funcify.register(LazyIfElse, convert_lazy_ifelse)


def _extending(kind: type, convert: Callable) -> Callable:
    """Return ``convert`` with the current conversion of ``kind`` as its first argument."""
    original = jax_funcify.dispatch(kind)
    return functools.wraps(original)(functools.partial(convert, original))


def convert_random_variable(
    original: Callable, op: RandomVariable, node: Apply, **kwargs: object
) -> Callable:
    """Convert a draw of any size, in a loop too.

    PyTensor refuses a size that is computed, unless it knows how. Its draws write the next state
    into the generator, where a trace of a loop's body would leak: each draw gets a copy.
    """
    generator, size, *parameters = node.inputs
    if size.owner is not None:
        node = op.make_node(generator, size.type(), *parameters)
    converted: Callable = original(op, node=node, **kwargs)

    def draw(
        generator: Mapping[str, object], size: object, *parameters: jax.Array
    ) -> tuple[object, jax.Array]:
        return converted(dict(generator), size, *parameters)

    return draw


def convert_reshape(op: Reshape, node: Apply, **kwargs: object) -> Callable:
    """Convert a reshape."""
    constant = node.inputs[1].data if isinstance(node.inputs[1], Constant) else None

    def reshape(x: jax.Array, shape: object) -> jax.Array:
        given = shape if constant is None else constant
        lengths = np.atleast_1d(concrete(given, "the shape of a reshape"))
        return jnp.reshape(x, tuple(int(n) for n in lengths))

    return reshape


def convert_arange(op: ARange, node: Apply, **kwargs: object) -> Callable:
    """Convert an arange, in the dtype of the op whatever those of its bounds."""

    def arange(*bounds: object) -> jax.Array:
        start, stop, step = (concrete(v, "the bounds of an arange").item() for v in bounds)
        return jnp.arange(start, stop, step, dtype=op.dtype)

    return arange


def convert_split(op: Split, node: Apply, **kwargs: object) -> Callable:
    """Convert a split; its axis is an input in early PyTensor 3 and a property later."""

    def split(x: jax.Array, *rest: object) -> Outputs:
        *given, last = rest
        axis = int(concrete(given[0], "the axis of a split")) if given else op.axis  # type: ignore[attr-defined]
        lengths = concrete(last, "the lengths of a split")
        if len(lengths) != op.len_splits or (lengths < 0).any() or lengths.sum() != x.shape[axis]:
            raise ValueError(
                f"Split: expected {op.len_splits} lengths that add up to {x.shape[axis]}, got "
                f"{lengths}."
            )
        parts = jnp.split(x, np.cumsum(lengths)[:-1], axis=axis)
        return parts[0] if len(parts) == 1 else parts

    return split


def convert_incsubtensor(
    original: Callable, op: IncSubtensor, node: Apply, **kwargs: object
) -> Callable:
    """Convert writing or adding into a block that is known while JAX traces, without a scatter.

    A scatter into all of an array becomes a map, and XLA ends the process where it meets such a map
    in a reversed array, as in the second derivative of a recurrent network.
    """
    scatter: Callable = original(op, node=node, **kwargs)

    def incsubtensor(x: jax.Array, y: jax.Array, *inputs: jax.Array) -> jax.Array:
        if not all(is_known(i) for i in inputs):
            return scatter(x, y, *inputs)
        numbers: list[Any] = [int(in_numpy(i)) for i in inputs]
        indices: list[Any] = [*indices_from_subtensor(numbers, op.idx_list)]
        indices += [slice(None)] * (x.ndim - len(indices))
        ranges = [_range_of(index, n) for index, n in zip(indices, x.shape, strict=True)]
        if any(r.step != 1 for r in ranges):
            return scatter(x, y, *inputs)
        shape = [len(r) for r in ranges]
        pairs = zip(indices, shape, strict=True)
        y_shape = [n for index, n in pairs if isinstance(index, slice)]
        block = jnp.broadcast_to(jnp.asarray(y, x.dtype), y_shape).reshape(shape)
        starts = [r.start for r in ranges]
        if not op.set_instead_of_inc:
            stops = [start + n for start, n in zip(starts, shape, strict=True)]
            block = jax.lax.slice(x, starts, stops) + block
        return block if block.shape == x.shape else jax.lax.dynamic_update_slice(x, block, starts)

    return incsubtensor


def _range_of(index: int | slice, n: int) -> range:
    """Return the positions that an index selects on an axis of length ``n``."""
    if isinstance(index, slice):
        return range(*index.indices(n))
    if not -n <= index < n:
        raise IndexError(f"index {index} is out of bounds for an axis of length {n}")
    return range(index % n, index % n + 1)


def convert_convolution(op: Convolve1d, node: Apply, **kwargs: object) -> Callable:
    """Convert a convolution; in the gradient of one, lengths decide on the mode."""

    def convolve(data: jax.Array, kernel: jax.Array, full: object) -> jax.Array:
        mode = "full" if concrete(full, "the mode of a convolution") else "valid"
        return jnp.convolve(data, kernel, mode=mode)

    return convolve


def convert_divided_inverse(
    op: DividedInverse, node: Apply, divide: Callable | None = None, **kwargs: object
) -> Callable:
    """Convert an inverse, which one device computes where there is a way to ``divide`` work."""
    (n, _) = node.inputs[0].type.shape
    return jnp.linalg.inv if divide is None else divide(jnp.linalg.inv, float(n or 1) ** 3)


def convert_ifelse(op: IfElse, node: Apply, **kwargs: object) -> Callable:
    """Convert a choice whose result is known if the condition is, or if both branches agree."""

    def ifelse(condition: jax.Array, *branches: jax.Array) -> Outputs:
        yes, no = branches[: op.n_outs], branches[op.n_outs :]
        if is_known(condition):
            chosen = yes if bool(in_numpy(condition)) else no
        else:
            chosen = jax.lax.cond(condition, lambda: tuple(yes), lambda: tuple(no))
            chosen = tuple(a if _same(a, b) else c for a, b, c in zip(yes, no, chosen, strict=True))
        return chosen[0] if op.n_outs == 1 else chosen

    return ifelse


def convert_lazy_ifelse(op: Any, node: Apply, **kwargs: object) -> Callable:
    """Convert a choice between inner graphs, as later PyTensor 3 makes it, in the same way."""
    yes, no = (jax_funcify(branch, **kwargs) for branch in (op.true_branch, op.false_branch))
    may_be_lengths = all(
        np.dtype(getattr(v.type, "dtype", float)).kind in "iub" for v in node.outputs
    )

    def ifelse(condition: jax.Array, *inputs: jax.Array) -> Outputs:
        if is_known(condition):
            return (yes if bool(in_numpy(condition)) else no)(*inputs)
        if may_be_lengths and _same(known := yes(*inputs), no(*inputs)):
            return known
        return jax.lax.cond(condition, lambda: yes(*inputs), lambda: no(*inputs))

    return ifelse


def _same(a: object, b: object) -> bool:
    """Return whether two values, or two lists of them, are known and the same."""
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and all(map(_same, a, b))
    return (
        is_known(a)
        and is_known(b)
        and np.array_equal(np.asarray(in_numpy(a)), np.asarray(in_numpy(b)))
    )


def convert_blockwise(original: Callable, op: Blockwise, node: Apply, **kwargs: object) -> Callable:
    """Convert an op whose lengths, axes or mode are the same for all batches.

    PyTensor's conversion vectorizes over all inputs, so that JAX traces these too.
    """
    arrays = count_arrays(node)
    if arrays == len(node.inputs) or isinstance(op.core_op, Scan):
        converted: Callable = original(op, node=node, **kwargs)
        return converted
    tensors = [pt.as_tensor_variable(v) for v in node.inputs]
    core = op._create_dummy_core_node(tensors, propagate_unbatched_core_inputs=True)
    function = convert_node(core.op, core, **kwargs)
    input_parts = [f"({','.join(part)})" for part in op.inputs_sig]
    output_parts = op.signature.split("->")[1]
    core_ndims = [len(part) for part in op.outputs_sig]

    def blockwise(*inputs: jax.Array) -> Outputs:
        op._check_runtime_broadcast(node, tuple(jnp.asarray(v) for v in inputs))
        known, batch = _equal_in_all_batches(inputs, arrays, op.batch_ndim(node))
        varying = [i for i in range(len(inputs)) if i not in known]

        def call(*values: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
            given = known | dict(zip(varying, values, strict=True))
            results = function(*(given[i] for i in range(len(inputs))))
            return tuple(results) if isinstance(results, list) else results

        if varying:
            signature = f"{','.join(input_parts[i] for i in varying)}->{output_parts}"
            call = jnp.vectorize(call, signature=signature)
        results = call(*(inputs[i] for i in varying))
        if isinstance(results, tuple):
            return tuple(
                _with_batch(result, n, batch) for result, n in zip(results, core_ndims, strict=True)
            )
        return _with_batch(results, core_ndims[0], batch)

    return blockwise


def _equal_in_all_batches(
    inputs: Sequence[jax.Array], arrays: int, batch_ndim: int
) -> tuple[dict[int, np.ndarray], tuple[int, ...]]:
    """Return the known inputs, after the first ``arrays``, that are equal in all batches.

    They come by position, without their batch axes, and with the shape that those axes have
    together.
    """
    known: dict[int, np.ndarray] = {}
    batch: tuple[int, ...] = (1,) * batch_ndim
    for i in range(arrays, len(inputs)):
        if is_known(inputs[i]):
            values = np.asarray(in_numpy(inputs[i]))
            own_batch, shape = values.shape[:batch_ndim], values.shape[batch_ndim:]
            values = values.reshape(-1, *shape)
            if len(values) and (values == values[0]).all():
                known[i], batch = values[0], np.broadcast_shapes(batch, own_batch)
    return known, batch


def _with_batch(result: jax.Array, core_ndim: int, batch: tuple[int, ...]) -> jax.Array:
    """Return a result broadcast to the batch axes of the inputs that are not vectorized over."""
    split = result.ndim - core_ndim
    shape = np.broadcast_shapes(batch, result.shape[:split]) + result.shape[split:]
    return jnp.broadcast_to(result, shape)
