"""Dense layers: where parameters enter what a model computes for single examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytensor.scalar as ps
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import toposort
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.variable import TensorVariable

from symng.objective._example_axes import ExampleAxis, locate_examples
from symng.objective.objective import Objective
from symng.objective.parameter_uses import Clients, clients_in


@dataclass(frozen=True)
class SingleUse:
    """The only use of a parameter in what is computed for the examples.

    ``operand`` is the parameter with its axes in ``order`` ("x" is an added axis of length 1), and
    ``axis`` the axis of examples of what ``node`` computes from it.
    """

    node: Apply
    operand: Variable
    order: Sequence[int | str]
    axis: int

    def is_layer(self) -> bool:
        """Return whether the node computes h W, for a matrix h with one example per row."""
        op = self.node.op.core_op if isinstance(self.node.op, Blockwise) else self.node.op
        is_dot = isinstance(op, Dot) and self.node.inputs[1] is self.operand
        return is_dot and self.axis == 0 and all(v.type.ndim == 2 for v in self.node.inputs)

    def is_bias(self) -> bool:
        """Return whether the same parameter is added for every example."""
        op = self.node.op
        is_sum = isinstance(op, Elemwise) and isinstance(op.scalar_op, ps.Add | ps.Sub)
        return is_sum and self.operand.type.shape[self.axis] == 1


def find_uses(
    objective: Objective, ends: Mapping[TensorVariable, int]
) -> dict[SharedVariable, SingleUse]:
    """Return the uses of those parameters that are matrices or biases of dense layers.

    ``ends`` are the tensors that are computed for the examples, each with its axis of examples.
    """
    nodes = [node for node in toposort(list(ends)) if not isinstance(node.op, Shape | Shape_i)]
    clients = clients_in(list(ends))
    example_axes: dict[Variable, ExampleAxis] = {}
    for end in ends:
        example_axes |= locate_examples(end, objective.model.axis_of)
    axes = _separable_axes(nodes, clients, example_axes)
    uses = {p: _find_use(p, clients, axes) for p in objective.params}
    return {p: use for p, use in uses.items() if use and (use.is_layer() or use.is_bias())}


def _separable_axes(
    nodes: Sequence[Apply], clients: Clients, example_axes: Mapping[Variable, ExampleAxis]
) -> dict[Variable, int]:
    """Return the example axis of each tensor whose example n enters only example n of the ends."""
    found: dict[Variable, int] = {}
    for node in reversed(nodes):
        for v in node.outputs:
            axis = example_axes[v]
            users = [out for client, _ in clients.get(v, ()) for out in client.outputs]
            if isinstance(axis, int) and all(out in found for out in users):
                found[v] = axis
    return found


def _find_use(
    p: SharedVariable, clients: Clients, axes: Mapping[Variable, int]
) -> SingleUse | None:
    """Return the use of a parameter, transposed or not, if it is used once and by example."""
    operand: Variable = p
    order: list[int | str] = list(range(p.type.ndim))
    while len(clients.get(operand, ())) == 1:
        node, _ = clients[operand][0]
        if not isinstance(node.op, DimShuffle):
            axis = axes.get(node.outputs[0])
            return None if axis is None else SingleUse(node, operand, order, axis)
        operand = node.outputs[0]
        order = [o if o == "x" else order[o] for o in node.op.new_order]
    return None
