"""Rewrites for Numba: products without copies, and functions that its cache can hold.

Imports numba: for `symng.backends._numba` alone.

Early PyTensor 3 gives a transposed or expanded array an unknown layout in Numba, and ``numpy.dot``
in Numba copies such an array before it calls BLAS: every ``W.T``, every ``h.T`` of a gradient and
both vectors of an inner product. BLAS takes transposed matrices as they are, so here the layout is
checked when the product is computed, as in later PyTensor.

Numba compiles constant arrays above a megabyte as addresses, and does not cache functions with
addresses in them. PyTensor makes such constants of zeros of known length, such as the initial state
of every solver.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.mode import NUMBA, Mode, get_mode, optdb
from pytensor.graph.basic import Apply, Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import dfs_rewriter, graph_rewriter, node_rewriter
from pytensor.link.numba.dispatch import elemwise
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key
from pytensor.scan.op import Scan
from pytensor.tensor.math import Dot

from symng.graphs.loops import optimization_barrier

TAG = "symng_numba"
"""The rewrites of this module run in modes that include it, and in no other."""

COPIES = not hasattr(elemwise, "_gemm")
"""Whether this PyTensor copies; the name is that of its product that does not."""

LARGEST_IN_CACHE = 10**6
"""Numba does not cache a function with a constant array larger than this, in bytes."""


class LayoutDot(Op):
    """The product of two matrices of one dtype, whatever their layout."""

    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        """Return the product as a node, of the type that `Dot` gives it."""
        return Apply(
            self, list(inputs), [output.clone() for output in Dot().make_node(*inputs).outputs]
        )

    def perform(self, node: Apply, inputs: Any, output_storage: Any) -> None:
        """Multiply with NumPy."""
        output_storage[0][0] = np.asarray(np.dot(*inputs))


@node_rewriter([Dot])
def use_layouts(fgraph: FunctionGraph, node: Any) -> list[Any] | bool:
    """Replace a product of two float matrices by one that checks their layouts."""
    x, y = node.inputs
    dtype = x.type.dtype
    if (
        dtype not in ("float32", "float64")
        or y.type.dtype != dtype
        or not x.type.ndim == y.type.ndim == 2
    ):
        return False
    return [LayoutDot()(x, y)]


@node_rewriter([Scan])
def tag_inner_mode(fgraph: FunctionGraph, node: Any) -> list[Any] | bool:
    """Apply the rewrites of this module in a scan, whose inner graph has its own mode."""
    if isinstance(node.op.mode, Mode) and TAG in node.op.mode.provided_optimizer.include:
        return False
    op = copy(node.op)
    op.mode = (NUMBA if op.mode is None else get_mode(op.mode)).including(TAG)
    outputs: Any = op.make_node(*node.inputs).outputs
    return outputs


@graph_rewriter
def fill_at_run_time(fgraph: FunctionGraph) -> None:
    """Make large constants of one value when the function runs."""
    for v in list(fgraph.variables):
        data = v.data if isinstance(v, Constant) else None
        if (
            not isinstance(data, np.ndarray)
            or data.nbytes <= LARGEST_IN_CACHE
            or (data != data.flat[0]).any()
        ):
            continue
        filled: Any = pt.alloc(
            optimization_barrier(pt.constant(data.flat[0], dtype=data.dtype)), *data.shape
        )
        fgraph.replace(v, filled, reason="fill_at_run_time", import_missing=True)


def register() -> None:
    """Register the dispatch and the rewrites, once."""
    if "symng_numba_fill" in optdb:
        return
    optdb.register(
        "symng_numba_fill", fill_at_run_time, TAG, position=49.2, use_db_name_as_tag=False
    )
    if COPIES:
        _register_dot()


def _register_dot() -> None:
    """Register the product that minds layouts."""

    @register_funcify_default_op_cache_key(LayoutDot)
    def convert(op: LayoutDot, node: Any = None, **kwargs: Any) -> Any:
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

        return dot, 1

    # After all that PyTensor knows of products, before what works in place.
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
