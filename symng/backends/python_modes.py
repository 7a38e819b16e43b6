"""Two modes that run every op in Python, those inside other ops included.

PyTensor's own Python mode does not: it compiles the inner graph of a scan to C, and in early
PyTensor 3 that of an `OpFromGraph`, such as a softmax, in the default mode. Either takes
half a minute, too long to evaluate something once.
"""

from __future__ import annotations

import copy

from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import Mode, optdb
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.link.vm import VMLinker
from pytensor.scan.op import Scan
from pytensor.tensor.rewriting.ofg import inline_ofg_node

TAG = "symng_python"
"""The rewrites of this module run in modes that include it, and in no other."""

_LATE = f"{TAG}_late"  # after "stabilize", which looks for a softmax as one op

_QUERY = RewriteDatabaseQuery(include=[TAG])

UNOPTIMIZED = Mode("py", _QUERY)
"""Plain Python, no rewrite for speed or stability: compiles at once, to evaluate something once."""

STABILIZED = Mode("py", RewriteDatabaseQuery(include=["canonicalize", "stabilize", _LATE]))
"""Plain Python with the rewrites that keep log(softmax(r)) and the like finite."""

_INNER_MODE = Mode(VMLinker(use_cloop=False, c_thunks=False), _QUERY)  # scan asks for this linker


class _PythonScan(Scan):
    """A scan whose inner graph runs in Python, and so do the scans in it."""

    def link_mode(self, impl: str | None) -> Mode:  # PyTensor 3.3 would leave out the rewrites
        return _INNER_MODE


@node_rewriter([OpFromGraph])
def inline_graph(fgraph: FunctionGraph, node: Apply) -> list[Variable]:
    """Replace an op by the graph inside it."""
    return inline_ofg_node(node)


@node_rewriter([Scan])
def run_scan_in_python(fgraph: FunctionGraph, node: Apply) -> list[Variable] | bool:
    """Give the Python mode to a scan that has no mode, whose inner graph would be compiled."""
    if isinstance(node.op, _PythonScan) or isinstance(node.op.mode, Mode):
        return False
    op = copy.copy(node.op.clone())  # the user's, which may be its own clone, stays as it is
    op.__class__, op.mode, op._fn = _PythonScan, _INNER_MODE, None
    return op(*node.inputs, return_list=True)


optdb.register(f"{TAG}_graphs", dfs_rewriter(inline_graph), TAG, position=-0.02)
# "stabilize" is at 1.5.
optdb.register(f"{TAG}_graphs_late", dfs_rewriter(inline_graph), _LATE, position=1.6)
optdb.register(f"{TAG}_scans", dfs_rewriter(run_scan_in_python), TAG, _LATE, position=-0.01)
