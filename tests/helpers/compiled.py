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


def wide_tensors(function):
    """Return the float64 tensors of more than one element in a compiled graph, inner graphs of scans included."""
    graphs, found = [function.maker.fgraph], []
    while graphs:
        graph = graphs.pop()
        for node in graph.apply_nodes:
            if isinstance(node.op, Scan):
                graphs.append(node.op.fgraph)
            wide = [v for v in node.outputs if getattr(v.type, "dtype", "") == "float64"]
            found += [v for v in wide if not all(v.type.broadcastable)]
    return found
