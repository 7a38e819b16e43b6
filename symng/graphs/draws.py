"""Random draws in a graph: the generators that they advance, and copies of the same draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors, toposort
from pytensor.tensor.random.op import RNGConsumerOp
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.shape import Shape, Shape_i

from symng.graphs.rebuild import V, rebuild


def next_generators(graph: Variable) -> dict[Variable, Variable]:
    """Return the next state of each shared generator that ``graph`` draws from.

    Generators with a ``default_update`` are left out.
    """
    following: dict[Variable, Variable] = {}
    for node in _draws([graph]):
        following.update(node.op.update(node))
    found: dict[Variable, Variable] = {}
    for v in list(following):
        if isinstance(v, SharedVariable) and getattr(v, "default_update", None) is None:
            state: Variable = v
            while state in following:
                state = following[state]
            found[v] = state
    return found


def share_draws(graphs: Sequence[V], original: Variable, params: Sequence[Variable]) -> list[V]:
    """Return ``graphs`` with copies of the draws of ``original`` replaced by the draws themselves.

    A copy is a draw of the same kind from the same shared generator. Draws that depend on the
    values of parameters, not just on their shapes, stay as they are.
    """
    draw_from: Mapping[Variable, Apply] = {
        v: node
        for node in _draws([original])
        for v in node.inputs
        if isinstance(v.type, RandomType)
    }
    replace: dict[Variable, Variable] = {}
    for copy in _draws(graphs):
        for v in copy.inputs:
            draw = draw_from.get(v) if isinstance(v, SharedVariable) else None
            if draw is None or draw is copy or draw.op != copy.op:
                continue
            if not any(_depends_on_values(node, params) for node in (draw, copy)):
                replace.update(zip(copy.outputs, draw.outputs, strict=True))
    return rebuild(graphs, replace)


def _depends_on_values(node: Apply, params: Sequence[Variable]) -> bool:
    """Return whether a node depends on the values of parameters, not just on their shapes."""
    computed = [v for v in ancestors(node.inputs) if v.owner is not None]
    shapes = [v for v in computed if isinstance(v.owner.op, Shape | Shape_i)]
    return not set(params).isdisjoint(ancestors(node.inputs, blockers=shapes))


def _draws(graphs: Sequence[Variable]) -> list[Apply]:
    """Return the nodes that draw, in order."""
    return [node for node in toposort(graphs) if isinstance(node.op, RNGConsumerOp)]
