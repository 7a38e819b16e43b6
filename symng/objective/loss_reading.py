"""Read the likelihood of an output off the loss, where the output ends in no activation.

A walk from the output to the loss keeps, for each tensor, the functions of the output that it is
linear in: a cross-entropy is linear in the log-softmax of logits, with the targets as coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytensor.scalar as ps
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.ops import TypeCastingOp
from pytensor.gradient import DisconnectedGrad, ZeroGrad
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import toposort
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import Alloc, Join, MakeVector
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot, Sum
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor

from symng.graphs.evaluation import evaluate_nodes
from symng.graphs.patterns import log_sum_exp, sample, sigmoid, softmax
from symng.graphs.rewrites import open_op
from symng.likelihoods import Bernoulli, Categorical, Likelihood, Poisson
from symng.objective.activations import read_log_softmax

LINEAR = (DimShuffle, Reshape, SpecifyShape, Subtensor, Sum, TypeCastingOp, Alloc, CheckAndRaise)
LOGARITHMS = {
    "softmax": "log_softmax",
    "sigmoid": "softplus-",
    "1-sigmoid": "softplus",
    "y": "log",
    "1-y": "log1m",
}


class Term(NamedTuple):
    """A function of the output that a tensor depends on, and how."""

    kind: str | None  # the function; None for others
    is_linear: bool = True
    by_target: frozenset[Variable] = frozenset()  # the targets in its coefficients
    by_params: bool = (
        False  # whether parameters are in them, or are added before something nonlinear
    )
    is_scaled: bool = False  # whether it has a coefficient at all
    is_shifted: bool = False  # whether anything was added to it


class Finding(NamedTuple):
    """A likelihood read off the loss, whether it is certain, and how the loss uses the output."""

    likelihood: Likelihood
    is_clear: bool
    what: str
    r: Any = None  # the pre-activation, where it is not the output but that scaled or shifted


def read_loss(
    loss: Any, y: Any, params: Sequence[Variable], targets: Sequence[Variable]
) -> Finding | None:
    """Return the likelihood of ``y``, which has no known activation, read off ``loss``, or None."""
    scaled, margin = scaled_output(loss, y, params, targets)
    if margin is not None and _is_logistic(_terms(loss, margin, params, targets)):
        return Finding(Bernoulli(logits=True), True, "the logarithm of the sigmoid", scaled)
    found = None if scaled is y else _read(loss, scaled, params, targets)
    if found is not None and found.is_clear and found.likelihood.is_logits:
        return found._replace(r=scaled)
    return _read(loss, y, params, targets)


def scaled_output(
    loss: Any, y: Any, params: Sequence[Variable], targets: Sequence[Variable]
) -> tuple[Any, Variable | None]:
    """Return what ``loss`` uses ``y`` as, such as y / 2, and the margin.

    The margin is that times targets of 1 and -1, if the loss depends on nothing else.

    What ``y`` is multiplied with or what is added depends on no parameter.
    """
    nodes = [n for n in toposort([loss], blockers=[y]) if not isinstance(n.op, Shape | Shape_i)]
    moved, given = set(params), set(targets)
    for node in nodes:
        for reached in (moved, given):
            if any(v in reached for v in node.inputs):
                reached.update(node.outputs)
    scaled, end, by_target = y, y, False
    while True:
        users = [n for n in nodes if end in n.inputs]
        if len(users) != 1 or not isinstance(users[0].op, Elemwise):
            break
        (node,) = users
        scalar, others, after = (
            node.op.scalar_op,
            [v for v in node.inputs if v is not end],
            node.outputs[0],
        )
        affine = isinstance(scalar, ps.Mul | ps.Add | ps.Sub | ps.Neg) or (
            isinstance(scalar, ps.TrueDiv) and node.inputs[0] is end
        )
        known = len(others) == len(node.inputs) - 1 and not any(v in moved for v in others)
        alike = (
            after.type.dtype == y.type.dtype and after.type.broadcastable == y.type.broadcastable
        )
        if not (affine and known and alike):
            break
        entering = [v in given for v in others]
        if any(entering) or by_target:
            if not isinstance(scalar, ps.Mul | ps.Neg) or not all(entering):
                return scaled, None
            by_target = True
        end = after
        scaled = scaled if by_target else end
    return scaled, end if by_target else None


def find_activation(
    loss: Any, y: Any, params: Sequence[Variable], targets: Sequence[Variable]
) -> Finding | None:
    """Return the likelihood of logits whose activation ``loss`` takes of ``y``, or None."""
    terms = _terms(loss, y, params, targets)
    if y.type.ndim > 1 and any(t.kind in ("softmax", "log_softmax") for t in terms):
        return Finding(Categorical(logits=True), False, "the softmax")
    # Not linear, they make positive numbers such as scales.
    signs = {
        "softplus",
        "softplus-",
        "softabs",
    }
    if any(t.kind in ("sigmoid", "1-sigmoid") or (t.kind in signs and t.is_linear) for t in terms):
        return Finding(Bernoulli(logits=True), False, "the sigmoid")
    return None


def _is_logistic(terms: Iterable[Term]) -> bool:
    """Return whether a loss is softplus(-m) or softplus(m) of a margin m."""
    return all(
        t.kind in ("softplus", "softplus-") and t.is_linear and not t.by_params for t in terms
    ) and (len({t.kind for t in terms}) == 1)


def _read(
    loss: Any, y: Any, params: Sequence[Variable], targets: Sequence[Variable]
) -> Finding | None:
    """Return what `read_loss` does where the loss takes ``y`` as it is."""
    terms = [
        t._replace(kind="y") if t.kind == "1-y" else t for t in _terms(loss, y, params, targets)
    ]
    terms = [t for t in terms if t.kind != "added"]
    linear = {t.kind for t in terms if t.is_linear and not t.by_params}
    alone = (
        len(linear) == len({(t.kind, t.is_linear and not t.by_params) for t in terms})
        and None not in linear
    )
    by_target = {t.kind for t in terms if t.is_linear and t.by_target and not t.by_params}
    rows = y.type.ndim > 1
    taken = "y" in by_target
    if rows and (("log_softmax" in by_target) or ("logsumexp" in linear and taken)):
        clear = (
            alone
            and linear <= {"log_softmax", "logsumexp", "y"}
            and ("y" not in linear or "logsumexp" in linear)
        )
        return Finding(Categorical(logits=True), clear, "the logarithm of the softmax")
    if rows and any(
        t.kind in ("softmax", "log_softmax") and not (t.by_target or t.by_params) for t in terms
    ):
        return Finding(Categorical(logits=True), False, "the softmax")
    if {"relu", "softabs"} <= linear:
        linear = linear - {"relu", "softabs"} | {"softplus"}
    if by_target and (
        ("softplus" in linear and ("softplus-" in linear or taken))
        or ("softplus-" in linear and taken)
    ):
        clear = alone and linear <= {"softplus", "softplus-", "y"}
        return Finding(Bernoulli(logits=True), clear, "the logarithm of the sigmoid")
    if not alone:
        return None
    if rows and linear == by_target == {"y"} and read_log_softmax(y):
        return Finding(Categorical(), True, "it for logarithms of probabilities")
    coefficients = {
        k: frozenset().union(*(t.by_target for t in terms if t.kind == k)) for k in ("exp", "y")
    }
    # e exp(r) - t r, not t exp(r) - r.
    if linear == {"exp", "y"} and coefficients["y"] - coefficients["exp"]:
        return Finding(Poisson(log_rate=True), True, "the exponential")
    if linear == {"log"} and "log" in by_target and rows:
        return Finding(Categorical(), False, "the logarithm")
    if linear == {"log", "log1m"} and by_target:
        return Finding(Bernoulli(), False, "the logarithm, and that of 1 less it,")
    if linear == {"log", "y"} and by_target == {"log"}:
        return Finding(Poisson(), False, "the logarithm")
    return None


def _terms(
    loss: Any, y: Any, params: Sequence[Variable], targets: Sequence[Variable]
) -> frozenset[Term]:
    """Return the functions of ``y`` that ``loss`` depends on."""
    nodes = list(toposort([loss], blockers=[y]))
    kinds = _kinds(nodes, y)
    entering = {t: frozenset([t]) for t in targets}
    terms: dict[Variable, frozenset[Term]] = {y: frozenset([Term("y")])}
    _walk(nodes, kinds, set(params), entering, terms)
    return terms.get(loss, frozenset())


def _walk(
    nodes: Iterable[Apply],
    kinds: dict[Variable, str | None],
    params: set[Variable],
    targets: dict[Variable, frozenset[Variable]],
    terms: dict[Variable, frozenset[Term]],
) -> None:
    """Add the terms of what ``nodes`` compute to ``terms``; extend ``params`` and ``targets``."""
    for node in nodes:
        if isinstance(node.op, Shape | Shape_i | ZeroGrad | DisconnectedGrad):
            continue
        if any(v in params for v in node.inputs):
            params.update(node.outputs)
        if entering := frozenset().union(*(targets.get(v, ()) for v in node.inputs)):
            targets.update(dict.fromkeys(node.outputs, entering))
        if not any(v in terms for v in node.inputs):
            continue
        opened: Any = None
        # Such as t log y in one op.
        if isinstance(node.op, OpFromGraph) and node.outputs[0] not in kinds:
            opened = open_op(node.op, node.inputs, every=True)
            _walk(toposort(opened, blockers=node.inputs), kinds, params, targets, terms)
        for i, v in enumerate(node.outputs):
            if v in kinds:
                terms[v] = frozenset([Term(kinds[v])] if kinds[v] else ())
            elif opened is not None:
                terms[v] = terms.get(opened[i], frozenset())
            elif getattr(v.type, "dtype", "").startswith("float"):
                terms[v] = frozenset(_passed(node, terms, params, targets))


def _passed(
    node: Apply,
    terms: dict[Variable, Any],
    params: set[Variable],
    targets: dict[Variable, frozenset[Variable]],
) -> Iterable[Term]:
    """Return the terms of what ``node`` computes."""
    within = [v for v in node.inputs if v in terms]
    others = [v for v in node.inputs if v not in terms]
    found = [t for v in within for t in terms[v]]
    by_params = any(v in params for v in others)
    by_target = frozenset().union(*(targets.get(v, ()) for v in others))
    scalar = node.op.scalar_op if isinstance(node.op, Elemwise) else None
    if isinstance(scalar, ps.Second) and node.inputs[1] not in terms:
        return []
    op = node.op.core_op if isinstance(node.op, Blockwise) else node.op
    if isinstance(scalar, ps.Log) and all(
        t.is_linear and t.kind in LOGARITHMS and not t.by_params for t in found
    ):
        return [t._replace(kind=LOGARITHMS[t.kind]) for t in found]
    plain = all(t.is_linear and not t.by_params for t in found)
    if (
        isinstance(scalar, ps.Log)
        and plain
        and all(t.kind == "exp" and not t.is_shifted for t in found)
    ):
        return [Term("y", is_shifted=True)]  # and the logarithm of its coefficient
    if (
        isinstance(scalar, ps.Exp)
        and plain
        and all(t.kind == "y" and not t.is_scaled for t in found)
    ):
        return [Term("exp", is_scaled=True)]
    if isinstance(scalar, ps.Add | ps.Sub | ps.Neg | ps.Cast | ps.Identity) or isinstance(
        op, Join | MakeVector
    ):
        # What parameters are added to is no longer linear in them alone once something nonlinear
        # follows.
        negated = isinstance(scalar, ps.Neg) or (
            isinstance(scalar, ps.Sub) and node.inputs[0] not in terms
        )
        scaled, shifted = negated or len(within) > 1, len(node.inputs) > 1
        found = [
            t._replace(is_scaled=t.is_scaled or scaled, is_shifted=t.is_shifted or shifted)
            for t in found
        ]
        return (
            found
            if not by_params or node.outputs[0].type.ndim == 0
            else [*found, Term("added", by_params=True)]
        )
    scaled = len(within) == 1 and (
        isinstance(scalar, ps.Mul)
        or (isinstance(scalar, ps.TrueDiv) and node.inputs[0] in terms)
        or isinstance(op, Dot)
        or (isinstance(op, (AdvancedSubtensor, *LINEAR)) and node.inputs[0] in terms)
    )
    chosen = isinstance(scalar, ps.Switch) and node.inputs[0] not in terms
    if chosen and len(within) == 1:
        return found  # a mask
    if scaled or chosen or isinstance(scalar, ps.Second):
        return [
            t._replace(
                by_params=t.by_params or by_params,
                by_target=t.by_target | by_target,
                is_scaled=True,
            )
            for t in found
        ]
    mixed = by_params or any(t.by_params for t in found)
    return [
        t._replace(is_linear=False, by_params=t.by_params or mixed)
        for t in found
        if t.kind != "added"
    ]


def _kinds(nodes: Sequence[Apply], y: Any) -> dict[Variable, str | None]:
    """Return which function of ``y`` each tensor is that depends on ``y`` alone; None: constant."""
    kinds: dict[Variable, str | None] = {}
    for low, high, known in ((-4.0, 4.0, _of_logits), (0.05, 0.95, _of_probabilities)):
        numbers = sample(y, low, high)
        if numbers.size < 4:
            continue
        functions = known(numbers.astype(np.float64))
        constants = evaluate_nodes(nodes, {})
        for v, value in evaluate_nodes(nodes, {y: numbers, **constants}).items():
            if (
                v is y
                or v in constants
                or v in kinds
                or not getattr(v.type, "dtype", "").startswith("float")
            ):
                continue
            got = np.asarray(value, np.float64)
            if got.size < 3:
                continue
            if np.ptp(got) == 0:
                kinds[v] = None  # such as zeros_like(y)
                continue
            kind = next(
                (k for k, f in functions if _is_multiple(got, f, exact=k in ("y", "1-y"))), None
            )
            if kind is not None:
                kinds[v] = kind
    return kinds


def _of_logits(r: np.ndarray) -> list[tuple[str, np.ndarray]]:
    found = [("y", r), ("1-y", 1 - r)]
    if r.ndim > 1 and r.shape[-1] > 1:
        p, total = softmax(r), log_sum_exp(r)
        found += [
            ("softmax", p),
            ("log_softmax", r - total),
            ("logsumexp", total),
            ("logsumexp", total[..., 0]),
        ]
    found += [("sigmoid", sigmoid(r)), ("1-sigmoid", sigmoid(-r))] if r.ndim else []
    found += [("softplus", np.log1p(np.exp(r))), ("softplus-", np.log1p(np.exp(-r)))]
    found += [
        ("exp", np.exp(r)),
        ("relu", np.maximum(r, 0)),
        ("softabs", np.log1p(np.exp(-np.abs(r)))),
    ]
    return found


def _of_probabilities(y: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [("y", y), ("1-y", 1 - y), ("log", np.log(y)), ("log1m", np.log1p(-y))]


def _is_multiple(got: np.ndarray, expected: np.ndarray, exact: bool) -> bool:
    """Return whether one array is a multiple of another; with ``exact`` that very array."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return False
    scale = 1.0 if exact else float((got * expected).sum() / (expected * expected).sum())
    return scale != 0 and bool(np.abs(got - scale * expected).max() <= 2e-3 * np.abs(got).max())
