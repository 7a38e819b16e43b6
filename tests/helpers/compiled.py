"""Look into compiled graphs, and read matrices off operators."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import OPT_FAST_COMPILE, OPT_FAST_RUN, Mode
from pytensor.graph.fg import FunctionGraph
from pytensor.link.basic import Container
from pytensor.link.utils import map_storage
from pytensor.link.vm import VMLinker
from pytensor.scan.op import Scan


class NothingLinked(VMLinker):
    """Stop after the rewrites, also of loops: a function to look at, which cannot be called."""

    def make_all(self, input_storage=None, output_storage=None, storage_map=None, **kwargs):
        graph = self.fgraph
        for node in loops_of(graph):
            if isinstance(node.op.fgraph, FunctionGraph):  # which a later PyTensor copies instead
                INSIDE_OF_LOOPS.optimizer.rewrite(node.op.fgraph)
        given, found, _ = map_storage(
            graph, graph.toposort(), input_storage, output_storage, storage_map
        )
        inputs = [Container(v, place) for v, place in zip(graph.inputs, given, strict=True)]
        outputs = [
            Container(v, place, readonly=True)
            for v, place in zip(graph.outputs, found, strict=True)
        ]
        return _refuse, inputs, outputs, [], []


def _refuse(*arguments):
    raise AssertionError("only the graph of this function was made, to look at")


# As PyTensor 3.0 compiles them, in whatever mode.
INSIDE_OF_LOOPS = Mode("vm", OPT_FAST_RUN).excluding("inplace")
# All rewrites of the default modes, or the few of FAST_COMPILE.
REWRITTEN_GRAPH = Mode(NothingLinked(), OPT_FAST_RUN)
FEW_REWRITES_GRAPH = Mode(NothingLinked(c_thunks=False), OPT_FAST_COMPILE)


def columns(operators, givens):
    """Return the matrices of operators, from their products with unit vectors."""
    v = pt.vector("v", dtype=operators[0].dtype)
    f = pytensor.function([*givens, v], [A @ v for A in operators], on_unused_input="ignore")
    return np.array(
        [f(*givens.values(), unit) for unit in np.eye(operators[0].size, dtype=v.dtype)]
    ).transpose(1, 2, 0)


def outer_nodes(compiled):
    """Return the nodes of a compiled function or graph, in order, without those in loops."""
    graph = compiled.maker.fgraph if hasattr(compiled, "maker") else compiled
    return graph.toposort()


def loops_of(compiled):
    """Return the nodes of a compiled function that are loops."""
    return [node for node in outer_nodes(compiled) if isinstance(node.op, Scan)]


def nodes_of(compiled):
    """Return all nodes of a compiled function, or of a graph, those inside of loops too."""
    nodes = []
    for node in outer_nodes(compiled):
        nodes.append(node)
        if isinstance(node.op, Scan):
            nodes += nodes_of(node.op.fgraph)
    return nodes


def float64_tensors(compiled):
    """Return the float64 tensors in a compiled function that are not scalars, also in loops."""
    outputs = [v for node in nodes_of(compiled) for v in node.outputs]
    return [v for v in outputs if getattr(v.type, "ndim", 0) and v.type.dtype == "float64"]


def wide_tensors(compiled):
    """Return the float64 tensors with several elements in a compiled function, also in loops."""
    return [v for v in float64_tensors(compiled) if not all(v.type.broadcastable)]
