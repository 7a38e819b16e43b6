"""Read the likelihood of an output off the loss, if the output does not end in an activation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

import numpy as np
import pytensor.scalar as ps
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import toposort
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.variable import TensorVariable

from symng.graphs.patterns import constant_value
from symng.graphs.rebuild import rebuild
from symng.graphs.rewrites import is_elementwise
from symng.likelihoods import Bernoulli, Categorical, Likelihood, Poisson
from symng.objective._loss_terms import Term, terms_of
from symng.objective.activations import read_log_softmax


class Finding(NamedTuple):
    """A likelihood read off the loss.

    Attributes
    ----------
    is_clear : bool
        Whether it is certain.
    what : str
        What the loss takes of the output, in words.
    r : TensorVariable or None
        The pre-activation, if it is an affine function of the output and not the output itself.
    is_outside_loss : bool
        Whether ``r`` is not a variable in the graph of the loss, which computes it more than once.
    """

    likelihood: Likelihood
    is_clear: bool
    what: str
    r: TensorVariable | None = None
    is_outside_loss: bool = False


def read_loss(
    loss: TensorVariable, y: TensorVariable, params: Sequence[Variable], targets: Sequence[Variable]
) -> Finding | None:
    """Return the likelihood of ``y``, which has no known activation, read off ``loss``, or None."""
    # A check of each batch shows whether targets are signs; data in the graph are not checked.
    variable = [t for t in targets if not isinstance(t, Constant | SharedVariable)]
    scaled, margin = scaled_output(loss, y, params, variable)
    if margin is not None and _is_logistic(terms_of(loss, margin, params, targets)):
        return Finding(Bernoulli(logits=True), True, "the logarithm of the sigmoid", scaled)
    found = None if scaled is y else _read(loss, scaled, params, targets)
    if found is not None and found.is_clear and found.likelihood.is_logits:
        return found._replace(r=scaled)
    found = _read(loss, y, params, targets)
    return _read_multiple(loss, y, params, targets) if found is None else found


def _read_multiple(
    loss: TensorVariable, y: TensorVariable, params: Sequence[Variable], targets: Sequence[Variable]
) -> Finding | None:
    """Return a certain reading of a number times ``y``, as in softplus(2 y) - 2 t y, or None."""
    for number in _multipliers(loss, y):
        r = y.type()
        found = _read(rebuild([loss], {y: r / number})[0], r, params, targets)
        # Not of a log-rate: exp(2 y) - t y is not a loss of counts t.
        if found is not None and found.is_clear and not isinstance(found.likelihood, Poisson):
            return found._replace(r=number * y, is_outside_loss=True)
    return None


def _multipliers(loss: TensorVariable, y: TensorVariable) -> list[np.ndarray]:
    """Return the numbers other than 0 and 1 by which ``loss`` multiplies ``y``, in its dtype."""
    numbers: dict[float, None] = {}
    for node in toposort([loss], blockers=[y]):
        if len(node.inputs) != 2 or y not in node.inputs:
            continue
        other = constant_value(node.inputs[1] if node.inputs[0] is y else node.inputs[0])
        if other is None or np.size(other) != 1 or np.ravel(other)[0] in (0, 1):
            continue
        number = float(np.ravel(other)[0])
        if is_elementwise(node.op, ps.Mul):
            numbers[number] = None
        elif is_elementwise(node.op, ps.TrueDiv) and node.inputs[0] is y:
            numbers[1 / number] = None
    return [np.asarray(number, y.type.dtype) for number in numbers]


def scaled_output(
    loss: TensorVariable, y: TensorVariable, params: Sequence[Variable], targets: Sequence[Variable]
) -> tuple[TensorVariable, TensorVariable | None]:
    """Return the affine function of ``y`` that ``loss`` uses, as y / 2 + offset, and the margin.

    The margin is this function times targets of 1 and -1, if the loss depends on ``y`` in no other
    way; else None. No parameter enters the factors and offsets.
    """
    nodes = [n for n in toposort([loss], blockers=[y]) if not isinstance(n.op, Shape | Shape_i)]
    from_params, from_targets = set(params), set(targets)
    for node in nodes:
        for reached in (from_params, from_targets):
            if any(v in reached for v in node.inputs):
                reached.update(node.outputs)
    scaled, by_target = y, False
    end = y
    while True:
        users = [n for n in nodes if end in n.inputs]
        if len(users) != 1 or not isinstance(users[0].op, Elemwise):
            break
        (node,) = users
        scalar, after = node.op.scalar_op, node.outputs[0]
        others = [v for v in node.inputs if v is not end]
        affine = isinstance(scalar, ps.Mul | ps.Add | ps.Sub | ps.Neg) or (
            isinstance(scalar, ps.TrueDiv) and node.inputs[0] is end
        )
        fixed = len(others) == len(node.inputs) - 1 and not any(v in from_params for v in others)
        if not (affine and fixed and isinstance(after, TensorVariable)):
            break
        if after.dtype != y.dtype or after.broadcastable != y.broadcastable:
            break
        entering = [v in from_targets for v in others]
        if any(entering) or by_target:
            if not isinstance(scalar, ps.Mul | ps.Neg) or not all(entering):
                return scaled, None
            by_target = True
        end = after
        scaled = scaled if by_target else end
    return scaled, end if by_target else None


def find_activation(
    loss: TensorVariable, y: TensorVariable, params: Sequence[Variable], targets: Sequence[Variable]
) -> Finding | None:
    """Return the likelihood of logits ``y`` whose activation ``loss`` computes, or None."""
    terms = terms_of(loss, y, params, targets)
    if y.type.ndim > 1 and any(t.kind in ("softmax", "log_softmax") for t in terms):
        return Finding(Categorical(logits=True), False, "the softmax")
    if any(t.kind in ("sigmoid", "1-sigmoid") for t in terms):
        return Finding(Bernoulli(logits=True), False, "the sigmoid")
    # A loss that is not linear in them uses them as positive numbers, such as scales.
    if any(t.kind in ("softplus", "softplus-", "softabs") and t.is_linear for t in terms):
        return Finding(Bernoulli(logits=True), False, "the sigmoid")
    return None


def _is_logistic(terms: Iterable[Term]) -> bool:
    """Return whether a loss is softplus(-m) or softplus(m) of a margin m."""
    kinds = {t.kind if t.is_plain else None for t in terms}
    return kinds in ({"softplus"}, {"softplus-"})


def _read(
    loss: TensorVariable, y: TensorVariable, params: Sequence[Variable], targets: Sequence[Variable]
) -> Finding | None:
    """Return what `read_loss` does where the loss takes ``y`` as it is."""
    terms = [t for t in terms_of(loss, y, params, targets) if t.kind != "added"]
    terms = [t._replace(kind="y") if t.kind == "1-y" else t for t in terms]
    kinds = {t.kind for t in terms if t.is_plain}
    by_target = {t.kind for t in terms if t.is_plain and t.by_target}
    # Whether the loss depends on the output only through known functions, and is linear in them.
    is_linear = all(t.is_plain and t.kind is not None for t in terms)
    rows = y.type.ndim > 1
    found = _read_softmax(terms, kinds, by_target, is_linear) if rows else None
    if found is not None:
        return found
    if found := _read_sigmoid(kinds, by_target, is_linear):
        return found
    if not is_linear:
        return None
    if rows and kinds == by_target == {"y"} and read_log_softmax(y):
        return Finding(Categorical(), True, "it for logarithms of probabilities")
    if kinds == {"exp", "y"}:
        of_exp, of_y = (
            frozenset().union(*(t.by_target for t in terms if t.kind == kind))
            for kind in ("exp", "y")
        )
        # e exp(r) - t r, not t exp(r) - r.
        return Finding(Poisson(log_rate=True), True, "the exponential") if of_y - of_exp else None
    if kinds == {"log"} == by_target and rows:
        return Finding(Categorical(), False, "the logarithm")
    if kinds == {"log", "log1m"} and by_target:
        return Finding(Bernoulli(), False, "the logarithm, and that of 1 less it,")
    if kinds == {"log", "y"} and by_target == {"log"}:
        return Finding(Poisson(), False, "the logarithm")
    return None


def _read_softmax(
    terms: Sequence[Term], kinds: Set[str | None], by_target: Set[str | None], is_linear: bool
) -> Finding | None:
    """Return the finding that the loss takes rows of the output for logits of classes, or None."""
    if "log_softmax" in by_target or ("logsumexp" in kinds and "y" in by_target):
        known = kinds <= {"log_softmax", "logsumexp", "y"}
        complete = "y" not in kinds or "logsumexp" in kinds
        is_clear = is_linear and known and complete
        return Finding(Categorical(logits=True), is_clear, "the logarithm of the softmax")
    if any(
        t.kind in ("softmax", "log_softmax") and not (t.by_target or t.by_params) for t in terms
    ):
        return Finding(Categorical(logits=True), False, "the softmax")
    return None


def _read_sigmoid(
    kinds: Set[str | None], by_target: Set[str | None], is_linear: bool
) -> Finding | None:
    """Return the finding that the loss takes the output for logits of a yes, or None."""
    if {"relu", "softabs"} <= kinds:  # max(r, 0) + log(1 + exp(-|r|))
        kinds = kinds - {"relu", "softabs"} | {"softplus"}
    pair = "softplus" in kinds and "softplus-" in kinds
    with_target = ("softplus" in kinds or "softplus-" in kinds) and "y" in by_target
    if not by_target or not (pair or with_target):
        return None
    is_clear = is_linear and kinds <= {"softplus", "softplus-", "y"}
    return Finding(Bernoulli(logits=True), is_clear, "the logarithm of the sigmoid")
