"""Modes in plain Python throughout: no op compiles an inner function in another mode.

PyTensor evaluates an `OpFromGraph`, such as a softmax, by a function that it compiles in the
default mode. Early PyTensor 3 also compiles the inner graph of a scan to C. Either takes half a
minute, to evaluate something once.
"""

from __future__ import annotations

from typing import Any

from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import Mode, optdb
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.link.vm import VMLinker
from pytensor.scan.op import Scan
from pytensor.tensor.rewriting.ofg import inline_ofg_node

TAG = "symng_plain"
"""The rewrites of this module run in modes that include it, and in no other."""

_QUERY = RewriteDatabaseQuery(include=[TAG])

PLAIN = Mode("py", _QUERY)
"""Plain Python without rewrites for speed: compiles at once, to evaluate something once."""

STABLE = Mode("py", RewriteDatabaseQuery(include=["canonicalize", "stabilize", f"{TAG}_late"]))
"""Plain Python with the rewrites that keep log(softmax(r)) and the like finite."""

_INSIDE = Mode(VMLinker(use_cloop=False, c_thunks=False), _QUERY)  # scan asks for this linker


@node_rewriter([OpFromGraph])
def open_graph(fgraph: FunctionGraph, node: Any) -> list[Any]:
    """Replace an op by the graph inside it."""
    return inline_ofg_node(node)


@node_rewriter([Scan])
def keep_plain(fgraph: FunctionGraph, node: Any) -> list[Any] | bool:
    """Replace a loop whose inner graph would be compiled by one in plain Python."""
    if isinstance(node.op.mode, Mode):
        return False
    op = node.op.clone()  # the user's stays as it is
    op.mode, op._fn = _INSIDE, None
    return op(*node.inputs, return_list=True)


optdb.register(f"{TAG}_graphs", dfs_rewriter(open_graph), TAG, position=-0.02)
# "stabilize" is at 1.5.
optdb.register(f"{TAG}_graphs_late", dfs_rewriter(open_graph), f"{TAG}_late", position=1.6)
if not hasattr(Scan, "link_mode"):  # later ones take the mode of the function around them
    optdb.register(f"{TAG}_scans", dfs_rewriter(keep_plain), TAG, f"{TAG}_late", position=-0.01)
