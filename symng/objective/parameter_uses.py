"""Where parameters enter a model: in products, as tables of rows, in sums and as scales.

Unlike `layers`, it takes every use of a parameter, also one in a scan or one that mixes examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pytensor.scalar as ps
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import toposort
from pytensor.scan.op import Scan
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.subtensor import AdvancedSubtensor
from pytensor.tensor.variable import TensorVariable

from symng.objective._example_axes import (
    NONE,
    REDUCED,
    ExampleAxis,
    axes_in_scan,
    locate_examples,
)
from symng.objective.objective import Objective
from symng.objective.parameter_views import View

Kind = Literal["product", "lookup", "shift", "scale"]

Clients = Mapping[Variable, Sequence[tuple[Apply, int]]]
"""The nodes that take a variable, and as which input."""


@dataclass(frozen=True)
class ParameterUse:
    """A use of a parameter in what is computed for the examples.

    Attributes
    ----------
    kind : {"product", "lookup", "shift", "scale"}
        Whether ``node`` computes h W or W^T h^T, takes rows W[i], adds or subtracts the parameter,
        or multiplies by it elementwise.
    node : Apply
        The node.
    place : int
        The number of the parameter's view among the inputs of the node.
    view : View
        The parameter as it is used; in a product as W, of an axis of inputs and one of outputs.
    axis : int or str
        The axis of examples of what the node computes, or what else is known of it.
    scan : Apply or None
        The scan that the node is in.
    """

    kind: Kind
    node: Apply
    place: int
    view: View
    axis: ExampleAxis
    scan: Apply | None

    @property
    def output(self) -> TensorVariable:
        """What the node computes."""
        output: Any = self.node.outputs[0]
        return output

    @property
    def operand(self) -> TensorVariable:
        """The parameter as the node takes it."""
        operand: Any = self.node.inputs[self.place]
        return operand

    @property
    def given(self) -> list[TensorVariable]:
        """What derivatives by the parameter depend on beside those by the output.

        The other factors of a product, or the numbers of rows.
        """
        others: list[Any] = [v for i, v in enumerate(self.node.inputs) if i != self.place]
        return [] if self.kind == "shift" else others

    @property
    def is_left(self) -> bool:
        """Whether the parameter is the left factor of a product, so that examples are columns."""
        return self.kind == "product" and self.place == 0

    @property
    def is_negative(self) -> bool:
        """Whether the parameter is subtracted."""
        return self.kind == "shift" and self.place == 1 and is_kind(self.node, ps.Sub)


class Graph(NamedTuple):
    """The graph of the model, or that in a scan.

    ``clients`` has the nodes that take a variable, and as which input, and ``axes`` the axes of
    examples.
    """

    scan: Apply | None
    clients: Clients
    axes: Mapping[Variable, ExampleAxis]


class ParameterUses:
    """The uses of parameters in what is computed for the examples.

    Parameters
    ----------
    objective : Objective
        Has the parameters and the inputs.
    ends : mapping
        The tensors that are computed for the examples, each with its axis of examples.
    shapes : sequence of tuples
        Shapes of the parameters.

    Attributes
    ----------
    found : dict
        The uses of each parameter that has uses of known kinds alone.
    """

    def __init__(
        self,
        objective: Objective,
        ends: Mapping[TensorVariable, int],
        shapes: Sequence[tuple[int, ...]],
    ) -> None:
        axes: dict[Variable, ExampleAxis] = {}
        for end in ends:
            axes |= locate_examples(end, objective.model.axis_of)
        self.graphs: dict[Apply | None, Graph] = {None: Graph(None, clients_in(list(ends)), axes)}
        self.found: dict[SharedVariable, list[ParameterUse]] = {}
        for p, shape in zip(objective.params, shapes, strict=True):
            uses = None if p in ends else self._follow(p, View.of(shape), self.graphs[None])
            if uses:
                self.found[p] = uses

    def clients(self, use: ParameterUse, v: Variable) -> Sequence[tuple[Apply, int]]:
        """Return the nodes that take ``v``, of the graph that a use is in."""
        return self.graphs[use.scan].clients.get(v, ())

    def _follow(self, v: Variable, view: View, graph: Graph) -> list[ParameterUse] | None:
        """Return the uses of ``v``, a view of a parameter; None if one is of no known kind."""
        uses: list[ParameterUse] = []
        for node, place in graph.clients.get(v, ()):
            further = view.after(node) if place == 0 else None
            more: list[ParameterUse] | None
            if further is not None:
                more = self._follow(node.outputs[0], further, graph)
            elif isinstance(node.op, Scan):
                more = self._follow_into(node, place, view, graph)
            else:
                use = _read(node, place, view, graph)
                more = None if use is None else [use]
            if more is None:
                return None
            uses += more
        return uses

    def _follow_into(
        self, node: Apply, place: int, view: View, graph: Graph
    ) -> list[ParameterUse] | None:
        """Return the uses in a scan of its input with number ``place``, the same in each step."""
        op = node.op
        first = len(node.inputs) - op.info.n_non_seqs
        if graph.scan is not None or op.info.as_while or place < first:
            return None
        if node not in self.graphs:
            axes = axes_in_scan(node, [graph.axes.get(v, NONE) for v in node.inputs])
            self.graphs[node] = Graph(node, clients_in(op.inner_outputs), axes)
        inner = op.inner_inputs[place - len(node.inputs)]
        if inner in op.inner_outputs:
            return None
        return self._follow(inner, view, self.graphs[node])


def clients_in(ends: Sequence[Variable]) -> dict[Variable, list[tuple[Apply, int]]]:
    """Return the nodes that take each variable, and as which input; not those of its shape."""
    clients: dict[Variable, list[tuple[Apply, int]]] = {}
    for node in toposort(list(ends)):
        if not isinstance(node.op, Shape | Shape_i):
            for place, v in enumerate(node.inputs):
                clients.setdefault(v, []).append((node, place))
    return clients


def _read(node: Apply, place: int, view: View, graph: Graph) -> ParameterUse | None:
    """Return the use that a node makes of a view, or None."""
    kind: Kind
    as_used: View | None = view
    if _is_product(node):
        kind, as_used = "product", view.matrix()
        if as_used is not None and place == 0:
            as_used = as_used.transposed()
    elif view.order:
        return None
    elif place == 0 and _is_lookup(node) and len(view.lengths) == 2:
        kind = "lookup"
    elif is_kind(node, ps.Add | ps.Sub):
        kind = "shift"
    elif is_kind(node, ps.Mul):
        kind = "scale"
    else:
        return None
    if as_used is None:
        return None
    use = ParameterUse(
        kind, node, place, as_used, graph.axes.get(node.outputs[0], NONE), graph.scan
    )
    tensors = [use.output] if kind in ("shift", "scale") else [use.output, *use.given]
    if any(graph.axes.get(v, NONE) in (NONE, REDUCED) for v in tensors):
        return None
    return use


def is_kind(node: Apply, kind: Any) -> bool:
    """Return whether this is an elementwise op of a scalar op of this kind."""
    return isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, kind)


def _is_product(node: Apply) -> bool:
    """Return whether this is a product of matrices, or of stacks of matrices."""
    op = node.op
    if isinstance(op, Blockwise):
        core = [len(signature) for signature in op.inputs_sig]
        return isinstance(op.core_op, Dot) and core == [2, 2]
    return isinstance(op, Dot) and all(v.type.ndim == 2 for v in node.inputs)


def _is_lookup(node: Apply) -> bool:
    """Return whether this takes rows of a table by an array of integers."""
    op = node.op
    if not isinstance(op, AdvancedSubtensor) or len(node.inputs) != 2:
        return False
    return tuple(op.idx_list) == (0,) and node.inputs[1].type.dtype.startswith(("int", "uint"))
