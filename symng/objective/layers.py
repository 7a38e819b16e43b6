"""Dense layers: where the parameters of a model enter what is computed for single examples."""

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


@dataclass(frozen=True)
class ParameterUse:
    """The only use of a parameter in what is computed for the examples.

    ``operand`` is the parameter with its axes in ``order`` ("x": an axis of length 1 that was
    added), and ``axis`` the axis of examples of what ``node`` computes from it.
    """

    node: Apply
    operand: Variable
    order: Sequence[int | str]
    axis: int

    def is_layer(self) -> bool:
        """Return whether this is h W, for a matrix h with one example per row."""
        op = self.node.op.core_op if isinstance(self.node.op, Blockwise) else self.node.op
        is_dot = isinstance(op, Dot) and self.node.inputs[1] is self.operand
        return is_dot and self.axis == 0 and all(v.type.ndim == 2 for v in self.node.inputs)

    def is_matrix(self) -> bool:
        """Return whether the parameter has two axes of its own, not one and an added one."""
        return sorted(map(str, self.order)) == ["0", "1"]

    def is_bias(self) -> bool:
        """Return whether the parameter is added, the same to every example."""
        op = self.node.op
        is_sum = isinstance(op, Elemwise) and isinstance(op.scalar_op, ps.Add | ps.Sub)
        return is_sum and self.operand.type.shape[self.axis] == 1


def find_uses(
    objective: Objective, ends: Mapping[TensorVariable, int]
) -> dict[SharedVariable, ParameterUse]:
    """Return the uses of those parameters that are matrices or biases of dense layers.

    ``ends`` are the tensors that are computed for the examples, each with its axis of examples.
    """
    tensors = list(ends)
    nodes = [node for node in toposort(tensors) if not isinstance(node.op, Shape | Shape_i)]
    clients: dict[Variable, list[Apply]] = {}
    for node in nodes:
        for v in node.inputs:
            clients.setdefault(v, []).append(node)

    # Of those tensors whose example n enters example n of the ends alone, the axis of examples.
    example_axes: dict[Variable, ExampleAxis] = {}
    for tensor in tensors:
        example_axes |= locate_examples(tensor, objective.model.axis_of)
    separable_axis: dict[Variable, int] = {}
    for node in reversed(nodes):
        for v in node.outputs:
            axis = example_axes[v]
            if isinstance(axis, int) and all(
                out in separable_axis for client in clients.get(v, ()) for out in client.outputs
            ):
                separable_axis[v] = axis

    uses: dict[SharedVariable, ParameterUse] = {}
    for p in objective.params:
        operand: Variable = p
        order: list[int | str] = list(range(p.type.ndim))
        while len(clients.get(operand, ())) == 1:
            node = clients[operand][0]
            if isinstance(node.op, DimShuffle):
                operand = node.outputs[0]
                order = [o if o == "x" else order[o] for o in node.op.new_order]
                continue
            if node.outputs[0] in separable_axis:
                use = ParameterUse(node, operand, order, separable_axis[node.outputs[0]])
                if use.is_layer() or use.is_bias():
                    uses[p] = use
            break
    return uses
