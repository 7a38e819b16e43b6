"""Find the functions of an output that a loss depends on, and how.

A walk from the output to the loss keeps, for each tensor, the functions of the output that it is
linear in: a cross-entropy is linear in the log-softmax of logits, with the targets as coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pytensor.scalar as ps
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.ops import TypeCastingOp
from pytensor.gradient import DisconnectedGrad, ZeroGrad
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.graph.traversal import toposort
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import Alloc, Join, MakeVector
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot, Sum
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor
from pytensor.tensor.variable import TensorVariable

from symng.graphs.derivatives import is_float
from symng.graphs.evaluation import evaluate_nodes
from symng.graphs.patterns import log_sum_exp, sample, sigmoid, softmax
from symng.graphs.rewrites import open_op

_SUMS = (ps.Add, ps.Sub, ps.Neg, ps.Cast, ps.Identity)
_LINEAR_IN_FIRST = (
    AdvancedSubtensor,
    Alloc,
    CheckAndRaise,
    DimShuffle,
    Reshape,
    SpecifyShape,
    Subtensor,
    Sum,
    TypeCastingOp,
)
_LOGARITHMS = {
    "softmax": "log_softmax",
    "sigmoid": "softplus-",
    "1-sigmoid": "softplus",
    "y": "log",
    "1-y": "log1m",
}


class Term(NamedTuple):
    """A function of the output that a tensor depends on, and how.

    Attributes
    ----------
    kind : str or None
        The name of the function, such as "log_softmax" or "softplus-", softplus(-y); "added" for
        parameters that are added to others; None for an unknown function.
    is_linear : bool
        Whether the tensor is linear in it.
    by_target : frozenset
        The targets in its coefficients.
    by_params : bool
        Whether parameters are in its coefficients, or are added before something nonlinear.
    is_scaled : bool
        Whether it has a coefficient at all.
    is_shifted : bool
        Whether anything was added to it.
    """

    kind: str | None
    is_linear: bool = True
    by_target: frozenset[Variable] = frozenset()
    by_params: bool = False
    is_scaled: bool = False
    is_shifted: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the tensor is linear in the function, with no parameter in the coefficients."""
        return self.is_linear and not self.by_params


def terms_of(
    loss: TensorVariable, y: TensorVariable, params: Sequence[Variable], targets: Sequence[Variable]
) -> frozenset[Term]:
    """Return the functions of ``y`` that ``loss`` depends on, each as a `Term`."""
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
        opened = None
        if isinstance(node.op, OpFromGraph) and node.outputs[0] not in kinds:
            opened = open_op(node.op, node.inputs, every=True)
        if opened is not None:  # such as t log y in one op
            _walk(toposort(opened, blockers=node.inputs), kinds, params, targets, terms)
        for i, v in enumerate(node.outputs):
            if v in kinds:
                terms[v] = frozenset([Term(kinds[v])] if kinds[v] else ())
            elif opened is not None:
                terms[v] = terms.get(opened[i], frozenset())
            elif is_float(v):
                terms[v] = frozenset(_terms_after(node, terms, params, targets))


def _terms_after(
    node: Apply,
    terms: dict[Variable, frozenset[Term]],
    params: set[Variable],
    targets: dict[Variable, frozenset[Variable]],
) -> list[Term]:
    """Return the terms of what ``node`` computes."""
    within = [v for v in node.inputs if v in terms]
    others = [v for v in node.inputs if v not in terms]
    found: list[Term] = [t for v in within for t in terms[v]]
    by_params = any(v in params for v in others)
    by_target = frozenset().union(*(targets.get(v, ()) for v in others))
    scalar = node.op.scalar_op if isinstance(node.op, Elemwise) else None
    op = node.op.core_op if isinstance(node.op, Blockwise) else node.op
    chosen = isinstance(scalar, ps.Switch) and node.inputs[0] not in terms

    if isinstance(scalar, ps.Second) and node.inputs[1] not in terms:
        return []  # the output gives no more than a shape
    if isinstance(scalar, ps.Log) and (logarithms := _after_log(found)) is not None:
        return logarithms
    if isinstance(scalar, ps.Exp) and (exponentials := _after_exp(found)) is not None:
        return exponentials
    if isinstance(scalar, _SUMS) or isinstance(op, Join | MakeVector):
        return _after_sum(node, scalar, found, within, by_params)
    if chosen and len(within) == 1:
        return found  # a mask
    if chosen or isinstance(scalar, ps.Second) or _multiplies(node, scalar, op, within):
        return [
            t._replace(
                by_params=t.by_params or by_params,
                by_target=t.by_target | by_target,
                is_scaled=True,
            )
            for t in found
        ]
    mixed = by_params or any(t.by_params for t in found)
    return [t._replace(is_linear=False, by_params=mixed) for t in found if t.kind != "added"]


def _multiplies(
    node: Apply, scalar: ps.ScalarOp | None, op: Op, within: Sequence[Variable]
) -> bool:
    """Return whether ``node`` is linear in the one input that has terms."""
    if len(within) != 1:
        return False
    if isinstance(scalar, ps.Mul) or isinstance(op, Dot):
        return True
    is_linear_in_first = isinstance(scalar, ps.TrueDiv) or isinstance(op, _LINEAR_IN_FIRST)
    return is_linear_in_first and node.inputs[0] is within[0]


def _after_log(found: Sequence[Term]) -> list[Term] | None:
    """Return the terms of a logarithm of terms, or None if it is not a known function."""
    if all(t.is_plain and t.kind in _LOGARITHMS for t in found):
        return [t._replace(kind=_LOGARITHMS[t.kind]) for t in found if t.kind is not None]
    if all(t.is_plain and t.kind == "exp" and not t.is_shifted for t in found):
        return [Term("y", is_shifted=True)]  # and the logarithm of its coefficient
    return None


def _after_exp(found: Sequence[Term]) -> list[Term] | None:
    """Return the terms of an exponential of terms, or None if it is not a known function."""
    if found and all(t.is_plain and t.kind == "y" and not t.is_scaled for t in found):
        return [Term("exp", is_scaled=True)]
    return None


def _after_sum(
    node: Apply,
    scalar: ps.ScalarOp | None,
    found: Sequence[Term],
    within: Sequence[Variable],
    by_params: bool,
) -> list[Term]:
    """Return the terms of a sum, of a difference, or of tensors that are joined."""
    negated = isinstance(scalar, ps.Neg) or (
        isinstance(scalar, ps.Sub) and node.inputs[0] not in within
    )
    scaled, shifted = negated or len(within) > 1, len(node.inputs) > 1
    terms = [
        t._replace(is_scaled=t.is_scaled or scaled, is_shifted=t.is_shifted or shifted)
        for t in found
    ]
    # To be remembered: something nonlinear that follows depends on the added parameters, too.
    if by_params and node.outputs[0].type.ndim > 0:
        terms.append(Term("added", by_params=True))
    return terms


def _kinds(nodes: Sequence[Apply], y: TensorVariable) -> dict[Variable, str | None]:
    """Return which function of ``y`` each tensor is that depends only on it; None if constant."""
    kinds: dict[Variable, str | None] = {}
    for low, high, known in ((-4.0, 4.0, _of_logits), (0.05, 0.95, _of_probabilities)):
        numbers = sample(y, low, high)
        if numbers.size < 4:
            continue
        functions = known(numbers.astype(np.float64))
        constants = evaluate_nodes(nodes, {})
        for v, value in evaluate_nodes(nodes, {y: numbers, **constants}).items():
            if v is y or v in constants or v in kinds or not is_float(v):
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
    """Return whether one array is a multiple of another, or with ``exact``, equal to it."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return False
    scale = 1.0 if exact else float((got * expected).sum() / (expected * expected).sum())
    return scale != 0 and bool(np.abs(got - scale * expected).max() <= 2e-3 * np.abs(got).max())
