"""Random draws on a graph: the generators they advance, and copies of the same draw."""

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
    """Return the next states of the shared generators that ``graph`` draws from.

    Those that have a ``default_update`` are left out.
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
    """Return ``graphs`` with copies of the draws of ``original`` replaced by these.

    A copy is a draw of the same kind from the same shared generator. Draws that depend on
    parameters, other than on their shapes, stay as they are.
    """
    own: Mapping[Variable, Apply] = {
        v: node
        for node in _draws([original])
        for v in node.inputs
        if isinstance(v.type, RandomType)
    }
    fixed = set(params)
    copies: dict[Variable, Variable] = {}
    for node in _draws(graphs):
        for v in node.inputs:
            if isinstance(v, SharedVariable) and v in own and own[v] is not node:
                pair = (node, own[v])
                shapes = [i for n in pair for i in _shapes(n)]
                moved = any(fixed & set(ancestors(n.inputs, blockers=shapes)) for n in pair)
                if node.op == own[v].op and not moved:
                    copies.update(zip(node.outputs, own[v].outputs, strict=True))
    return rebuild(graphs, copies)


def _draws(graphs: Sequence[Variable]) -> list[Apply]:
    """Return the nodes that draw, in order."""
    return [node for node in toposort(graphs) if isinstance(node.op, RNGConsumerOp)]


def _shapes(node: Apply) -> list[Variable]:
    """Return the shapes that a node depends on."""
    owned = [v for v in ancestors(node.inputs) if v.owner is not None]
    return [v for v in owned if v.owner and isinstance(v.owner.op, Shape | Shape_i)]
