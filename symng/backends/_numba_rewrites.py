"""Rewrites for Numba: products without copies, and functions that its cache can hold.

Imports numba: for `symng.backends._numba` alone.

In early PyTensor 3 a transposed or expanded array has an unknown layout in Numba, whose
``numpy.dot`` copies such an array before it calls BLAS: every ``W.T``, every ``h.T`` of a gradient
and both vectors of an inner product. BLAS takes transposed matrices as they are, so here the layout
is checked when the product is computed, as in later PyTensor.

Numba compiles a constant array above a megabyte as an address, and does not cache a function with
an address in it. PyTensor makes such constants from zeros of known length: the initial state of
every solver is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.mode import NUMBA, Mode, get_mode, optdb
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op, OutputStorageType
from pytensor.graph.rewriting.basic import dfs_rewriter, graph_rewriter, node_rewriter
from pytensor.link.numba.dispatch import elemwise
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key
from pytensor.scan.op import Scan
from pytensor.tensor.math import Dot

from symng.graphs.loops import optimization_barrier

TAG = "symng_numba"
"""The rewrites of this module run in modes that include it, and in no other."""

COPIES_FACTORS = not hasattr(elemwise, "_gemm")
"""Whether this PyTensor copies the factors of a product; one that does not has this function."""

MAX_CACHED_BYTES = 10**6
"""Numba does not cache a function with a constant array larger than this."""


class LayoutDot(Op):
    """The product of two matrices of one dtype, whatever their layout."""

    __props__ = ()

    def make_node(self, *inputs: Variable) -> Apply:
        """Return the product as a node, of the type that `Dot` gives it."""
        return Apply(self, list(inputs), [v.type() for v in Dot().make_node(*inputs).outputs])

    def perform(
        self, node: Apply, inputs: Sequence[np.ndarray], output_storage: OutputStorageType
    ) -> None:
        """Multiply with NumPy."""
        output_storage[0][0] = np.asarray(np.dot(*inputs))


@node_rewriter([Dot])
def use_layouts(fgraph: FunctionGraph, node: Apply) -> list[Variable] | bool:
    """Replace a product of two float matrices by one that checks their layouts."""
    x, y = node.inputs
    dtype = x.type.dtype
    if (
        dtype not in ("float32", "float64")
        or y.type.dtype != dtype
        or not x.type.ndim == y.type.ndim == 2
    ):
        return False
    return LayoutDot().make_node(x, y).outputs


@node_rewriter([Scan])
def tag_inner_mode(fgraph: FunctionGraph, node: Apply) -> list[Variable] | bool:
    """Apply the rewrites of this module in a scan, whose inner graph has its own mode."""
    if isinstance(node.op.mode, Mode) and TAG in node.op.mode.provided_optimizer.include:
        return False
    op = copy(node.op)
    op.mode = (NUMBA if op.mode is None else get_mode(op.mode)).including(TAG)
    return op.make_node(*node.inputs).outputs


@graph_rewriter
def fill_at_run_time(fgraph: FunctionGraph) -> None:
    """Replace large constants whose entries are all equal by arrays made when the function runs."""
    for v in list(fgraph.variables):
        data = v.data if isinstance(v, Constant) else None
        if (
            not isinstance(data, np.ndarray)
            or data.nbytes <= MAX_CACHED_BYTES
            or (data != data.flat[0]).any()
        ):
            continue
        # Without the barrier PyTensor would fold it into a constant again.
        value = optimization_barrier(pt.constant(data.flat[0], dtype=data.dtype))
        filled = pt.as_tensor_variable(pt.alloc(value, *data.shape))
        fgraph.replace(v, filled, reason="fill_at_run_time", import_missing=True)


def register() -> None:
    """Register the dispatch and the rewrites, once."""
    if "symng_numba_fill" in optdb:
        return
    optdb.register(
        "symng_numba_fill", fill_at_run_time, TAG, position=49.2, use_db_name_as_tag=False
    )
    if COPIES_FACTORS:
        _register_dot()


def _register_dot() -> None:
    """Register `LayoutDot` with Numba, and the rewrites that put it in."""

    @register_funcify_default_op_cache_key(LayoutDot)
    def convert(op: LayoutDot, **kwargs: object) -> tuple[Callable, int]:
        @numba_njit
        def is_transposed(x):
            """Return whether the columns of x are contiguous, axes of length 1 aside."""
            return (x.shape[0] == 1 or x.strides[0] == x.itemsize) and (
                x.shape[1] == 1 or x.strides[1] == x.itemsize * x.shape[0]
            )

        @numba_njit
        def dot(x, y):
            # Both functions return an array as it is when it has the layout already.
            if is_transposed(x):
                if is_transposed(y):
                    return np.dot(np.asfortranarray(x), np.asfortranarray(y))
                return np.dot(np.asfortranarray(x), np.ascontiguousarray(y))
            if is_transposed(y):
                return np.dot(np.ascontiguousarray(x), np.asfortranarray(y))
            return np.dot(np.ascontiguousarray(x), np.ascontiguousarray(y))

        return dot, 1  # its version in the cache

    # After PyTensor's own rewrites of products, before those that work in place.
    optdb.register(
        "symng_numba_scan",
        dfs_rewriter(tag_inner_mode),
        TAG,
        position=49.0,
        use_db_name_as_tag=False,
    )
    optdb.register(
        "symng_numba_dot", dfs_rewriter(use_layouts), TAG, position=49.1, use_db_name_as_tag=False
    )
