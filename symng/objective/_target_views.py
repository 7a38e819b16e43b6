"""How a loss reshapes targets, leaves some of their values out, or shifts them."""

from __future__ import annotations

from collections.abc import Sequence

import pytensor.scalar as ps
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import toposort
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.variable import TensorVariable

from symng.graphs.patterns import constant_number
from symng.graphs.rewrites import is_elementwise
from symng.objective.activations import VIEWS

# Ops with which a loss masks or shifts the values of a target, if its other inputs are numbers.
_MASKS = (
    ps.LT,
    ps.GT,
    ps.LE,
    ps.GE,
    ps.EQ,
    ps.NEQ,
    ps.IsNan,
    ps.ScalarMaximum,
    ps.ScalarMinimum,
    ps.Clip,
    ps.Add,
)


def views_of(
    targets: Sequence[TensorVariable], nodes: Sequence[Apply]
) -> dict[Variable, TensorVariable]:
    """Return a mapping from each target, and each view or cast of one, to the target."""
    origin: dict[Variable, TensorVariable] = {t: t for t in targets}
    for node in nodes:
        first = node.inputs[0] if node.inputs else None
        if first in origin and (isinstance(node.op, VIEWS) or is_elementwise(node.op, ps.Cast)):
            origin[node.outputs[0]] = origin[first]
    return origin


def altered_targets(loss: TensorVariable, targets: Sequence[TensorVariable]) -> set[TensorVariable]:
    """Return the targets whose values the loss shifts, or compares with numbers to mask some.

    Such values need not be what the likelihood produces: labels of -1 that a mask leaves out, or
    classes that are counted from 1.
    """
    nodes = [n for n in toposort([loss]) if not isinstance(n.op, Shape | Shape_i)]
    origin, altered = views_of(targets, nodes), set()
    for node in nodes:
        for k, v in enumerate(node.inputs):
            shifts = is_elementwise(node.op, ps.Sub) and k == 0
            if v not in origin or not (shifts or is_elementwise(node.op, _MASKS)):
                continue
            if all(constant_number(i) is not None for i in node.inputs if i is not v):
                altered.add(origin[v])
    return altered
