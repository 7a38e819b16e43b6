"""Shape arithmetic for PyTensor's JAX backend.

Imports jax: for `symng.backends._jax_ops` and `_jax_scan` alone.

JAX knows every shape while it traces a function, but not what is computed from one: ``jnp.add`` of
two lengths is a traced array, and a reshape to it is refused. Here a node whose inputs are all
known during tracing is computed at once, in NumPy, by the op itself. Lengths, indices, numbers of
steps and sections of a split stay numbers, in inner graphs too. New shapes of the arguments are
traced anew.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from pytensor.compile.builders import OpFromGraph
from pytensor.graph.basic import Apply
from pytensor.graph.fg import AbstractFunctionGraph
from pytensor.graph.op import Op, StorageMapType
from pytensor.graph.traversal import ancestors
from pytensor.link.jax.dispatch.basic import jax_funcify, jax_typify
from pytensor.link.jax.dispatch.shape import JAXShapeTuple
from pytensor.link.utils import fgraph_to_python
from pytensor.raise_op import CheckAndRaise
from pytensor.scalar.basic import Composite, ScalarType
from pytensor.scan.op import Scan
from pytensor.tensor.basic import Alloc, AllocEmpty, ARange, Eye, Join, Split
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.extra_ops import Repeat
from pytensor.tensor.pad import Pad
from pytensor.tensor.shape import Reshape
from pytensor.tensor.signal.conv import Convolve1d
from pytensor.tensor.sort import ArgSortOp, SortOp
from pytensor.tensor.subtensor import (
    AdvancedIncSubtensor,
    AdvancedSubtensor,
    IncSubtensor,
    Subtensor,
)
from pytensor.tensor.type import TensorType

try:
    from pytensor.conditional.op import IfElse, LazyIfElse
except ImportError:  # early PyTensor 3
    from pytensor.ifelse import IfElse

    LazyIfElse = None

T = TypeVar("T")

Outputs = jax.Array | Sequence[jax.Array]
"""What the function of a node returns: its output, or several. Known arrays are NumPy's."""

MAX_KNOWN_SIZE = 4096
"""Entries up to which an array counts as shape arithmetic; larger ones are left to JAX."""

# How many inputs of an op, the first ones, are arrays of JAX. The others are shapes, lengths,
# indices, axes and modes, which stay in NumPy.
_ARRAY_INPUTS = {
    Reshape: 1,
    Alloc: 1,
    AllocEmpty: 0,
    Split: 1,
    Repeat: 1,
    Pad: 1,
    Eye: 0,
    ARange: 0,
    Subtensor: 1,
    AdvancedSubtensor: 1,
    IncSubtensor: 2,
    AdvancedIncSubtensor: 2,
    SortOp: 1,
    ArgSortOp: 1,
    Convolve1d: 2,
    Join: 0,
    Scan: 0,
    OpFromGraph: 0,
    CheckAndRaise: 0,
}
_GROWING = (Alloc, AllocEmpty, ARange, Eye, Repeat)
_MAX_OPERANDS = 32  # of an elementwise op in NumPy


def convert_graph(
    fgraph: AbstractFunctionGraph,
    node: Apply | None = None,
    fgraph_name: str = "jax_funcified_fgraph",
    known: Mapping[int, jax.Array] | None = None,
    **kwargs: Any,
) -> Callable:
    """Convert a graph to a function on JAX arrays that computes known values during tracing.

    ``known`` maps positions of inputs to values that replace them, and is read at each call: a loop
    hands over what it does not change, which JAX would trace.
    """
    function = fgraph_to_python(
        fgraph, convert_node, type_conversion_fn=jax_typify, fgraph_name=fgraph_name, **kwargs
    )
    if known is None:
        return function
    return lambda *inputs: function(*(known.get(i, value) for i, value in enumerate(inputs)))


def with_known_constants(original: Callable, op: Scan, node: Apply, **kwargs: object) -> Callable:
    """Convert a scan as PyTensor does, but keep known what is known and the same in all steps."""
    known: dict[int, jax.Array] = {}
    loop = original(op, node=node, known=known, **kwargs)
    first_constant = len(op.inner_inputs) - op.info.n_non_seqs

    def scan(*outer: jax.Array) -> Outputs:
        known.clear()
        for i, value in enumerate(op.outer_non_seqs(list(outer))):
            if is_known(value):
                known[first_constant + i] = value
        return loop(*outer)

    return scan


def is_known(value: object) -> bool:
    """Return whether a value, or each in a tuple, is known during tracing, and small."""
    if isinstance(value, tuple | list):
        return all(is_known(v) for v in value)
    if isinstance(value, jax.core.Tracer):
        return False
    return (
        isinstance(value, int | float | np.generic | np.ndarray | jax.Array)
        and np.size(value) <= MAX_KNOWN_SIZE
    )


def convert_node(op: Op, node: Apply, **kwargs: object) -> Callable:
    """Convert a node; its function computes in NumPy where all inputs are known."""
    try:
        traced = jax_funcify(op, node=node, **kwargs)
    except NotImplementedError as error:
        if not _may_be_shapes(node):
            raise
        traced = functools.partial(_refuse, str(error))
    arrays = count_arrays(node)

    def trace(*inputs: jax.Array | np.ndarray) -> Outputs:
        given = [jnp.asarray(v) if isinstance(v, np.ndarray) else v for v in inputs[:arrays]]
        return traced(*given, *(in_numpy(v) for v in inputs[arrays:]))

    if not _may_be_shapes(node):
        return trace
    needed = _inputs_needed(node)

    def call(*inputs: jax.Array) -> Outputs | np.ndarray | list[np.ndarray]:
        if not all(is_known(v) for v in inputs):
            return _with_known(node, needed, inputs, trace(*inputs))
        with jax.ensure_compile_time_eval():
            values = [
                np.asarray(v, dtype=i.type.dtype) for v, i in zip(inputs, node.inputs, strict=True)
            ]
        if isinstance(op, _GROWING) and _grown_size(op, values) > MAX_KNOWN_SIZE:
            return trace(*inputs)
        if isinstance(op, Elemwise) and len(node.inputs) + len(node.outputs) > _MAX_OPERANDS:
            with jax.ensure_compile_time_eval():
                return traced(*values)
        outputs = _perform(node, values)
        return outputs[0] if len(outputs) == 1 else outputs

    return call


def _inputs_needed(node: Apply) -> list[list[int]]:
    """Return which inputs each output of several fused operations needs; empty for other ops."""
    if not (isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, Composite)):
        return []
    inner = node.op.scalar_op.fgraph
    reached = [set(ancestors([output])) for output in inner.outputs]
    return [[i for i, v in enumerate(inner.inputs) if v in of_output] for of_output in reached]


def _with_known(
    node: Apply, needed: Sequence[Sequence[int]], inputs: Sequence[jax.Array], traced: Any
) -> Any:
    """Return the traced outputs, but those whose own inputs are known as computed in NumPy.

    PyTensor fuses the arithmetic of shapes with that of values, where they share an input.
    """
    known = [is_known(v) for v in inputs]
    ready = [all(known[i] for i in positions) for positions in needed]
    if len(needed) < 2 or not any(ready):
        return traced
    with jax.ensure_compile_time_eval():
        values = [
            np.asarray(v if k else 1, dtype=i.type.dtype)
            for v, i, k in zip(inputs, node.inputs, known, strict=True)
        ]
    computed = _perform(node, values)
    return [a if r else b for a, b, r in zip(computed, traced, ready, strict=True)]


def _refuse(message: str, *inputs: object) -> NoReturn:
    """Refuse to trace an op that runs only where its inputs are known."""
    raise NotImplementedError(message)


def count_arrays(node: Apply) -> int:
    """Return how many inputs of a node, the first ones, are JAX arrays."""
    op = node.op.core_op if isinstance(node.op, Blockwise) else node.op
    kinds = [kind for kind in type(op).__mro__ if kind in _ARRAY_INPUTS]
    return _ARRAY_INPUTS[kinds[0]] if kinds else len(node.inputs)


def _may_be_shapes(node: Apply) -> bool:
    """Return whether a node may be shape arithmetic: integers, or scalars on the way to one."""
    if isinstance(node.op, JAXShapeTuple | Scan | IfElse) or not node.inputs:
        return False
    if LazyIfElse is not None and isinstance(node.op, LazyIfElse):
        return False
    if not all(isinstance(v.type, TensorType | ScalarType) for v in (*node.inputs, *node.outputs)):
        return False
    return all(
        np.dtype(v.type.dtype).kind in "iub" or getattr(v.type, "ndim", 0) == 0
        for v in node.outputs
    )


def _grown_size(op: Op, values: Sequence[np.ndarray]) -> float:
    """Return the number of entries that one of the growing ops makes from its inputs."""
    if isinstance(op, Alloc | AllocEmpty):
        return math.prod(int(n) for n in values[_ARRAY_INPUTS[type(op)] :])
    if isinstance(op, ARange):
        start, stop, step = (float(v) for v in values)
        return (stop - start) / step
    if isinstance(op, Eye):
        return int(values[0]) * int(values[1])
    return values[0].size * float(values[1].max(initial=0)) * max(1, values[1].size)


def _perform(node: Apply, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of a node in NumPy, as scalars and arrays that keep their dtypes."""
    storage: StorageMapType = {v: [None] for v in (*node.inputs, *node.outputs)}
    node.op.prepare_node(node, storage, None, "py")
    cells = [storage[v] for v in node.outputs]
    inputs = [
        v[()] if isinstance(i.type, ScalarType) else v
        for v, i in zip(values, node.inputs, strict=True)
    ]
    node.op.perform(node, inputs, cells)
    return [np.asarray(cell[0])[()] for cell in cells]


def in_numpy(value: T) -> T | np.ndarray:
    """Return a known array in NumPy, because JAX would trace its entries; others unchanged."""
    if isinstance(value, jax.Array) and is_known(value):
        with jax.ensure_compile_time_eval():
            return np.asarray(value)
    return value


def concrete(value: object, what: str) -> np.ndarray:
    """Return a value, called ``what``, in NumPy; refuse one that is not known during tracing."""
    if isinstance(value, tuple | list):
        return np.array([concrete(v, what) for v in value])
    if isinstance(value, jax.core.Tracer):
        raise NotImplementedError(
            f"JAX: expected {what} to follow from shapes and constants, got one that is computed "
            "from values. Use mode 'CVM' or 'NUMBA', or write the model with arrays of a shape "
            "that does not depend on values."
        )
    with jax.ensure_compile_time_eval():
        return np.asarray(value)
