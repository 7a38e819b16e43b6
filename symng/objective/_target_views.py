"""Where a loss takes targets in another shape, leaves some of their values out, or shifts them."""

from __future__ import annotations

from collections.abc import Sequence

import pytensor.scalar as ps
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import toposort
from pytensor.tensor.basic import get_underlying_scalar_constant_value
from pytensor.tensor.exceptions import NotScalarConstantError
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.variable import TensorVariable

from symng.graphs.rewrites import is_elementwise
from symng.objective.activations import VIEWS

# What a loss leaves values of a target out by, or moves them with, where the other is a number.
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
    """Return the target behind each target and each view or cast of one."""
    origin: dict[Variable, TensorVariable] = {t: t for t in targets}
    for node in nodes:
        first = node.inputs[0] if node.inputs else None
        if first in origin and (isinstance(node.op, VIEWS) or is_elementwise(node.op, ps.Cast)):
            origin[node.outputs[0]] = origin[first]
    return origin


def moved_targets(loss: TensorVariable, targets: Sequence[TensorVariable]) -> set[TensorVariable]:
    """Return the targets whose values the loss compares with numbers, to leave some out, or shifts.

    Such values need not be what the likelihood produces: labels of -1 that a mask leaves out, or
    classes that are counted from 1.
    """
    nodes = [n for n in toposort([loss]) if not isinstance(n.op, Shape | Shape_i)]
    origin, moved = views_of(targets, nodes), set()
    for node in nodes:
        for k, v in enumerate(node.inputs):
            others = [i for i in node.inputs if i is not v]
            if v not in origin or not all(_is_plain_number(i) for i in others):
                continue
            shifts = is_elementwise(node.op, ps.Sub) and k == 0
            if shifts or is_elementwise(node.op, _MASKS):
                moved.add(origin[v])
    return moved


def _is_plain_number(v: Variable) -> bool:
    """Return whether all entries of a constant are one number."""
    try:
        get_underlying_scalar_constant_value(v)
    except NotScalarConstantError:
        return False
    return True
