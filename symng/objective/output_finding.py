"""Find the output of a model on the graph of its loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any, NamedTuple

import pytensor.scalar as ps
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import explicit_graph_inputs, toposort
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.variable import TensorVariable

from symng.graphs.patterns import constant_value
from symng.graphs.rewrites import find_equal, is_elementwise
from symng.likelihoods import Gaussian, Likelihood
from symng.objective._loss_terms import terms_of
from symng.objective.loss_reading import read_loss


class FoundOutput(NamedTuple):
    """An output found on the graph of a loss.

    Attributes
    ----------
    inputs, targets : list of TensorVariable
        The inputs of the graph that the output depends on, and the others.
    likelihood : Likelihood or None
        `Gaussian` for a squared error; None for what `Objective` reads off the loss itself.
    """

    output: TensorVariable
    inputs: list[TensorVariable]
    targets: list[TensorVariable]
    likelihood: Likelihood | None


def find_output(loss: TensorVariable, params: Sequence[SharedVariable]) -> FoundOutput | None:
    """Return the output that ``loss`` compares with targets, or None where that is not certain.

    The output is a variable through which the parameters reach the loss together with data; terms
    of parameters alone, such as weight decay, do not matter. Certain are cross-entropies of logits,
    of a softmax or of a sigmoid, the loss of a log-rate, and squared errors.
    """
    inputs = _inputs_of(loss)
    for v in _passages(loss, params, inputs):
        own = _inputs_of(v)
        targets = [i for i in inputs if i not in own]
        found = read_loss(loss, v, params, targets) if targets else None
        if found is not None and found.is_clear:
            return FoundOutput(v, own, targets, None)
        if (residual := _squared(v)) is not None and _is_linear(loss, v, params, targets):
            output = _without_target(residual, params)
            if output is None:
                return None
            own = _inputs_of(output)
            targets = [i for i in inputs if i not in own]
            return FoundOutput(output, own, targets, Gaussian())
    return None


def _inputs_of(v: Variable) -> list[TensorVariable]:
    """Return the inputs of a graph, without constants and shared variables."""
    return [i for i in explicit_graph_inputs([v]) if isinstance(i, TensorVariable)]


def _passages(
    loss: TensorVariable, params: Sequence[Variable], inputs: Sequence[Variable]
) -> Iterator[TensorVariable]:
    """Yield the variables that all of what joins parameters and data passes, the last one first."""
    moved, data = set(params), set(inputs)
    nodes = [n for n in toposort([loss]) if not isinstance(n.op, Shape | Shape_i)]
    for node in nodes:
        if any(v in data for v in node.inputs):
            data.update(node.outputs)
        if any(v in moved for v in node.inputs):
            moved.update(v for v in node.outputs if _is_float(v))
    # Positions of the nodes that take a variable on to the loss.
    users: dict[Variable, list[int]] = {loss: [len(nodes)]}
    joined = moved & data
    for position, node in reversed(list(enumerate(nodes))):
        if any(v in users and v in joined for v in node.outputs):
            for v in node.inputs:
                if v in joined:
                    users.setdefault(v, []).append(position)
    # In this order a variable is passed if nothing before it is taken by anything after it.
    places = [
        (position, v) for position, node in enumerate(nodes) for v in node.outputs if v in users
    ]
    sources = {
        position
        for position, node in enumerate(nodes)
        if any(v in users for v in node.outputs) and not any(v in users for v in node.inputs)
    }
    reach, passages = -1, []
    for position, v in places:
        if reach <= position and not any(s > position for s in sources):
            passages.append(v)
        reach = max(reach, *users[v])
    return reversed(passages)


def _is_float(v: Variable) -> bool:
    """Return whether a variable holds floating-point numbers, which have derivatives."""
    return str(getattr(v.type, "dtype", "")).startswith("float")


def _squared(v: TensorVariable) -> TensorVariable | None:
    """Return what ``v`` is the elementwise square of, or None."""
    node = v.owner
    if node is None or v.type.ndim == 0:
        return None
    first, second = node.inputs[0], node.inputs[-1]
    if is_elementwise(node.op, ps.Sqr):
        return first
    if is_elementwise(node.op, ps.Pow) and constant_value(second) == 2:
        return first
    if is_elementwise(node.op, ps.Mul) and len(node.inputs) == 2:
        same = find_equal([first, second])
        return first if same.get(first, first) is same.get(second, second) else None
    return None


def _is_linear(
    loss: TensorVariable, v: TensorVariable, params: Sequence[Variable], targets: Sequence[Variable]
) -> bool:
    """Return whether ``loss`` is linear in ``v``, with no parameter in the coefficients."""
    terms = [t for t in terms_of(loss, v, params, targets) if t.kind != "added"]
    return bool(terms) and all(t.is_plain and t.kind == "y" for t in terms)


def _without_target(residual: TensorVariable, params: Sequence[Variable]) -> TensorVariable | None:
    """Return y of a residual such as y - t, or None for one that is scaled by parameters."""
    moved = set(params)
    for inner in toposort([residual]):
        if any(v in moved for v in inner.inputs):
            moved.update(inner.outputs)
    if _elementwise(residual, ps.Mul | ps.TrueDiv) and len(_among(residual, moved)) > 1:
        return None
    y = residual
    while _elementwise(y, ps.Sub | ps.Add | ps.Neg) and len(_among(y, moved)) == 1:
        (inner_y,) = _among(y, moved)
        if inner_y.type.broadcastable != y.type.broadcastable:
            break
        y = inner_y
    return y


def _elementwise(v: Variable, kinds: Any) -> bool:
    """Return whether one of some scalar ops computes ``v``."""
    op = v.owner.op if v.owner is not None else None
    return isinstance(op, Elemwise) and isinstance(op.scalar_op, kinds)


def _among(v: TensorVariable, moved: Set[Variable]) -> list[TensorVariable]:
    """Return what ``v`` is computed from that parameters enter."""
    return [i for i in v.owner.inputs if i in moved]
