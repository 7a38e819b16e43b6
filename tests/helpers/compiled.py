"""Look into compiled graphs, and read matrices off operators."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.scan.op import Scan


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
