"""Conversions to JAX of ops that PyTensor converts only if it sees where a shape comes from.

Imports jax: for `symng.backends._jax_scan` alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    concrete,
    convert_graph,
    convert_node,
    count_arrays,
    in_numpy,
    is_known,
)


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
    if LazyIfElse is not None:
        jax_funcify.register(LazyIfElse, convert_lazy_ifelse)


def _extending(kind: type, convert: Callable) -> Callable:
    """Return ``convert`` with PyTensor's present conversion of ``kind`` as its first argument."""
    own = jax_funcify.dispatch(kind)
    return functools.wraps(own)(functools.partial(convert, own))


def convert_random_variable(
    own: Callable, op: RandomVariable, node: Any, **kwargs: Any
) -> Callable:
    """Convert a draw of any size: PyTensor refuses a size with an owner that it does not know."""
    generator, size, *parameters = node.inputs
    if size.owner is not None:
        node = node.clone_with_new_inputs([generator, size.type(), *parameters])
    converted: Callable = own(op, node=node, **kwargs)
    return converted


def convert_reshape(op: Reshape, node: Apply, **kwargs: Any) -> Callable:
    """Convert a reshape."""
    constant = node.inputs[1].data if isinstance(node.inputs[1], Constant) else None

    def reshape(x: Any, shape: Any) -> Any:
        lengths = shape if constant is None else constant
        return jnp.reshape(
            x, tuple(int(n) for n in np.atleast_1d(concrete(lengths, "the shape of a reshape")))
        )

    return reshape


def convert_arange(op: ARange, node: Apply, **kwargs: Any) -> Callable:
    """Convert an arange, in the dtype of the op whatever those of its bounds."""

    def arange(*bounds: Any) -> Any:
        start, stop, step = (concrete(v, "the bounds of an arange").item() for v in bounds)
        return jnp.arange(start, stop, step, dtype=op.dtype)

    return arange


def convert_split(op: Split, node: Apply, **kwargs: Any) -> Callable:
    """Convert a split; its axis is an input in early PyTensor 3 and a property later."""

    def split(x: Any, *rest: Any) -> Any:
        *axis, lengths = rest
        along = int(concrete(axis[0], "the axis of a split")) if axis else op.axis  # type: ignore[attr-defined]
        lengths = concrete(lengths, "the lengths of a split")
        if len(lengths) != op.len_splits or (lengths < 0).any() or lengths.sum() != x.shape[along]:
            raise ValueError(
                f"Split: expected {op.len_splits} lengths that add up to {x.shape[along]}, got "
                f"{lengths}."
            )
        parts = jnp.split(x, np.cumsum(lengths)[:-1], axis=along)
        return parts[0] if len(parts) == 1 else parts

    return split


def convert_incsubtensor(own: Callable, op: IncSubtensor, node: Apply, **kwargs: Any) -> Callable:
    """Convert writing or adding into a part that is known while JAX traces, without a scatter.

    A scatter into all of an array becomes a map, and XLA ends the process where it meets such a map
    in a reversed array, as in the second derivative of a recurrent network.
    """
    otherwise: Callable = own(op, node=node, **kwargs)

    def incsubtensor(x: Any, y: Any, *ilist: Any) -> Any:
        if not all(is_known(i) for i in ilist):
            return otherwise(x, y, *ilist)
        numbers: list[Any] = [int(in_numpy(i)) for i in ilist]
        indices = [*indices_from_subtensor(numbers, op.idx_list)]
        indices += [slice(None)] * (x.ndim - len(indices))
        starts, lengths, kept = [], [], []
        for index, n in zip(indices, x.shape, strict=True):
            if isinstance(index, slice):
                rows = range(*index.indices(n))
                if rows.step != 1:
                    return otherwise(x, y, *ilist)
                starts.append(rows.start)
                lengths.append(len(rows))
                kept.append(len(rows))
            elif -n <= index < n:
                starts.append(index % n)
                lengths.append(1)
            else:
                raise IndexError(f"index {index} is out of bounds for an axis of length {n}")
        part = jnp.broadcast_to(jnp.asarray(y, x.dtype), kept).reshape(lengths)
        if not op.set_instead_of_inc:
            stops = [a + n for a, n in zip(starts, lengths, strict=True)]
            part = jax.lax.slice(x, starts, stops) + part
        return part if part.shape == x.shape else jax.lax.dynamic_update_slice(x, part, starts)

    return incsubtensor


def convert_convolution(op: Convolve1d, node: Apply, **kwargs: Any) -> Callable:
    """Convert a convolution, whose mode follows from lengths in the gradient of one."""

    def convolve(data: Any, kernel: Any, full: Any) -> Any:
        return jnp.convolve(
            data, kernel, mode="full" if concrete(full, "the mode of a convolution") else "valid"
        )

    return convolve


def convert_ifelse(op: IfElse, node: Apply, **kwargs: Any) -> Callable:
    """Convert a choice whose result is known if the condition is, or if both branches agree."""

    def ifelse(condition: Any, *branches: Any) -> Any:
        one, other = branches[: op.n_outs], branches[op.n_outs :]
        if is_known(condition):
            chosen = one if bool(in_numpy(condition)) else other
        else:
            chosen = jax.lax.cond(condition, lambda: tuple(one), lambda: tuple(other))
            chosen = tuple(
                a if _same(a, b) else c for a, b, c in zip(one, other, chosen, strict=True)
            )
        return chosen[0] if op.n_outs == 1 else chosen

    return ifelse


def convert_lazy_ifelse(op: Any, node: Apply, **kwargs: Any) -> Callable:
    """Convert a choice between inner graphs, as later PyTensor 3 makes it, in the same way."""
    one, other = (jax_funcify(branch, **kwargs) for branch in (op.true_branch, op.false_branch))
    lengths = all(np.dtype(getattr(v.type, "dtype", float)).kind in "iub" for v in node.outputs)

    def ifelse(condition: Any, *inputs: Any) -> Any:
        if is_known(condition):
            return (one if bool(in_numpy(condition)) else other)(*inputs)
        if lengths and _same(known := one(*inputs), other(*inputs)):
            return known
        return jax.lax.cond(condition, lambda: one(*inputs), lambda: other(*inputs))

    return ifelse


def _same(a: Any, b: Any) -> bool:
    """Return whether two values, or two lists of them, are known and the same."""
    if isinstance(a, tuple | list):
        return all(map(_same, a, b))
    return is_known(a) and is_known(b) and np.array_equal(in_numpy(a), in_numpy(b))


def convert_blockwise(own: Callable, op: Blockwise, node: Any, **kwargs: Any) -> Callable:
    """Convert an op with the same lengths, axes or mode for all batches; others are PyTensor's.

    PyTensor's conversion vectorizes over all inputs, so that JAX traces them.
    """
    arrays = count_arrays(node)
    if arrays == len(node.inputs) or isinstance(op.core_op, Scan):
        converted: Callable = own(op, node=node, **kwargs)
        return converted
    core = op._create_dummy_core_node(node.inputs, propagate_unbatched_core_inputs=True)
    function = convert_node(core.op, core, **kwargs)
    parts = [f"({','.join(part)})" for part in op.inputs_sig]
    outputs = op.signature.split("->")[1]

    def blockwise(*inputs: Any) -> Any:
        op._check_runtime_broadcast(node, tuple(jnp.asarray(v) for v in inputs))
        known, batch = {}, (1,) * op.batch_ndim(node)
        for i in range(arrays, len(inputs)):
            if is_known(inputs[i]):
                values = np.asarray(in_numpy(inputs[i]))
                lengths, shape = values.shape[: len(batch)], values.shape[len(batch) :]
                values = values.reshape(-1, *shape)
                if len(values) and (values == values[0]).all():
                    known[i], batch = values[0], np.broadcast_shapes(batch, lengths)
        varying = [i for i in range(len(inputs)) if i not in known]

        def call(*values: Any) -> Any:
            given = known | dict(zip(varying, values, strict=True))
            results = function(*(given[i] for i in range(len(inputs))))
            return tuple(results) if isinstance(results, list) else results

        signature = f"{','.join(parts[i] for i in varying)}->{outputs}"
        results = (
            jnp.vectorize(call, signature=signature)(*(inputs[i] for i in varying))
            if varying
            else call()
        )

        def spread(result: Any, core_ndim: int) -> Any:
            """Broadcast a result to the batch axes of the inputs that are not vectorized over."""
            split = result.ndim - core_ndim
            return jnp.broadcast_to(
                result, np.broadcast_shapes(batch, result.shape[:split]) + result.shape[split:]
            )

        core_ndims = [len(part) for part in op.outputs_sig]
        if isinstance(results, tuple):
            return tuple(spread(r, n) for r, n in zip(results, core_ndims, strict=True))
        return spread(results, core_ndims[0])

    return blockwise
