"""Keep integer terms of sums, which PyTensor would lose where it makes BLAS calls of them.

In ``x @ w + b - t`` with integers t its rewrite to one call of BLAS, up to 3.3 at least, drops each
term of another dtype than the sum's, and C computes ``x @ w + b``. As floating-point numbers such
terms are kept. Importing this module adds a rewrite to PyTensor's own, right before that one, since
the inner graph of a scan is compiled in a mode of PyTensor's.
"""

from __future__ import annotations

import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, dfs_rewriter, node_rewriter
from pytensor.tensor.rewriting.blas import blas_optdb
from pytensor.tensor.type import discrete_dtypes

_NAME = "symng_integer_terms"


@node_rewriter([pt.add, pt.sub])
def cast_integer_terms(fgraph: object, node: Apply) -> list[Variable] | None:
    """Cast the integer terms of a floating-point sum to its dtype."""
    dtype = node.outputs[0].type.dtype
    if not dtype.startswith("float"):
        return None
    terms = [_as_float(v, dtype) for v in node.inputs]
    if terms == node.inputs:
        return None
    result = node.op(*terms)
    copy_stack_trace(node.outputs[0], result)
    return [result]


def _as_float(v: Variable, dtype: str) -> Variable:
    """Return integers cast to the floating-point ``dtype``, anything else as it is."""
    if v.type.dtype not in discrete_dtypes:
        return v
    return pt.constant(v.data.astype(dtype)) if isinstance(v, Constant) else pt.cast(v, dtype)


if _NAME not in blas_optdb:
    # Those that make calls of BLAS begin at 0.
    blas_optdb.register(_NAME, dfs_rewriter(cast_integer_terms), "fast_run", position=-1)
