"""Find the output of a model in the graph of its loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytensor.scalar as ps
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import explicit_graph_inputs, toposort
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.variable import TensorVariable

from symng.graphs.derivatives import is_float
from symng.graphs.patterns import constant_value
from symng.graphs.rewrites import find_equal, is_elementwise
from symng.likelihoods import Gaussian, Likelihood
from symng.objective._loss_terms import terms_of
from symng.objective.loss_reading import read_loss


class FoundOutput(NamedTuple):
    """An output found in the graph of a loss.

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
    """Return the output that ``loss`` compares with targets, or None if that is not certain.

    The output is a variable through which parameters reach the loss together with data; terms of
    parameters only, such as weight decay, do not matter. It is certain for cross-entropies of
    logits, of a softmax or of a sigmoid, the loss of a log-rate, and squared errors.
    """
    inputs = _inputs_of(loss)
    for v in _separators(loss, params, inputs):
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


def _separators(
    loss: TensorVariable, params: Sequence[Variable], inputs: Sequence[Variable]
) -> Iterator[TensorVariable]:
    """Return the variables that separate the loss from parameters and data, the last one first.

    All that is computed from parameters and data together reaches the loss through each of them.
    """
    from_params, from_data = set(params), set(inputs)
    nodes = [n for n in toposort([loss]) if not isinstance(n.op, Shape | Shape_i)]
    for node in nodes:
        if any(v in from_data for v in node.inputs):
            from_data.update(node.outputs)
        if any(v in from_params for v in node.inputs):
            from_params.update(v for v in node.outputs if is_float(v))
    # Positions of the nodes that take a variable on to the loss.
    users: dict[Variable, list[int]] = {loss: [len(nodes)]}
    joined = from_params & from_data
    for position, node in reversed(list(enumerate(nodes))):
        if any(v in users and v in joined for v in node.outputs):
            for v in node.inputs:
                if v in joined:
                    users.setdefault(v, []).append(position)
    # A variable separates if no node after it uses anything from before it.
    candidates = [
        (position, v) for position, node in enumerate(nodes) for v in node.outputs if v in users
    ]
    sources = {
        position
        for position, node in enumerate(nodes)
        if any(v in users for v in node.outputs) and not any(v in users for v in node.inputs)
    }
    reach, separators = -1, []
    for position, v in candidates:
        if reach <= position and not any(s > position for s in sources):
            separators.append(v)
        reach = max(reach, *users[v])
    return reversed(separators)


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
    from_params = set(params)
    for node in toposort([residual]):
        if any(v in from_params for v in node.inputs):
            from_params.update(node.outputs)

    def operands(v: TensorVariable, *kinds: type) -> list[TensorVariable]:
        """Return the inputs computed from parameters, if one of these scalar ops computes v."""
        if v.owner is None or not is_elementwise(v.owner.op, kinds):
            return []
        return [i for i in v.owner.inputs if i in from_params]

    if len(operands(residual, ps.Mul, ps.TrueDiv)) > 1:
        return None
    y = residual
    while len(found := operands(y, ps.Sub, ps.Add, ps.Neg)) == 1:
        if found[0].type.broadcastable != y.type.broadcastable:
            break
        y = found[0]
    return y
