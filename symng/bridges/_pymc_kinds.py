"""Distributions that are made of others, and the Fisher information of each.

The information of a censored, truncated or mixed distribution is a sum over its outcomes x,

    I = sum_x p(x) s(x) s(x)^T,    s(x) = the gradient of log p(x) with respect to the parameters,

in which an integral over a continuous distribution is a sum over quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.distributions.censored import CensoredRV
from pymc.distributions.continuous import TruncatedNormalRV
from pymc.distributions.distribution import DiracDeltaRV
from pymc.distributions.mixture import MixtureRV
from pymc.distributions.mixture import _HurdleRV as HurdleRV
from pymc.distributions.truncated import TruncatedRV
from pytensor.graph.basic import Constant
from pytensor.tensor.variable import TensorVariable

from symng.bridges._pymc_information import family_of, inverse
from symng.bridges._pymc_likelihoods import matmul
from symng.bridges._pymc_outcomes import (
    Entries,
    Make,
    Parameters,
    Scores,
    add,
    between,
    mass_beyond,
    outer,
    over_quantiles,
    scores_of,
    without_checks,
)

Matrix = Callable[[Parameters, Sequence[int]], Entries | None]
"""From vectors of parameters, and the numbers of those that vary, to the information of a draw."""

Blocks = Callable[[Parameters, Sequence[int]], TensorVariable]
"""The same, as an array with a matrix of the parameters that vary for each draw."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Kind:
    """A distribution as a function of its parameters.

    Attributes
    ----------
    names : tuple of str
        The parameters.
    given : tuple of TensorVariable
        What they are in a model.
    matrix, blocks : callable or None
        The information matrix, as entries or as a whole; None where it is not known.
    words : str
        The matrix in words.
    event : bool
        Whether the parameter that varies is a vector of probabilities.
    ndims : tuple of int
        The number of axes of each parameter of a single draw. Default: none has any.
    """

    names: tuple[str, ...]
    given: tuple[TensorVariable, ...]
    matrix: Matrix | None = None
    blocks: Blocks | None = None
    words: str = "Fisher matrix"
    event: bool = False
    ndims: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Plain(Kind):
    """A distribution that is not made of others.

    Attributes
    ----------
    make : callable
        From parameters to a random variable.
    """

    make: Make


def kind_of(rv: TensorVariable) -> Kind | None:
    """Return the kind of a random variable, or None where its parameters are not plain tensors."""
    op, inputs = rv.owner.op, rv.owner.inputs
    if isinstance(op, CensoredRV):
        return _censored(*inputs)
    if isinstance(op, TruncatedRV):
        return _truncated(op.base_rv_op.make_node(*inputs[:-2]).default_output(), *inputs[-2:])
    if isinstance(op, TruncatedNormalRV):
        mu, sigma, *bounds = op.dist_params(rv.owner)
        return _truncated(pm.Normal.dist(mu, sigma), *bounds)
    if isinstance(op, HurdleRV):
        _, weights, _, dist = inputs
        return _with_zeros(weights[..., 1], dist, kind_of(dist))
    if isinstance(op, MixtureRV):
        return _mixture(*inputs[1:])
    return _plain(rv)


def _plain(rv: TensorVariable) -> Plain | None:
    """Return the kind of a distribution that is not made of others."""
    op = rv.owner.op
    if not hasattr(op, "dist_params"):
        return None
    given, family = tuple(op.dist_params(rv.owner)), family_of(op)
    call = getattr(op, "rv_op", op)
    rng = pytensor.shared(np.random.default_rng(0))  # which no density depends on

    def make(parameters: Parameters) -> TensorVariable:
        return call(*parameters, rng=rng)

    if family is None:
        if op.ndim_supp or any(op.ndims_params):
            return None
        return Plain(names=("",) * len(given), given=given, make=make)
    entries = family.entries

    def matrix(parameters: Parameters, varying: Sequence[int]) -> Entries | None:
        if not all((i, i) in entries for i in varying):
            return None
        keys = [key for key in entries if set(key) <= set(varying)]
        return {key: pt.as_tensor_variable(entries[key](*parameters)) for key in keys}

    return Plain(
        names=family.names,
        given=given,
        make=make,
        matrix=matrix,
        event=family.event is not None,
        ndims=tuple(op.ndims_params),
    )


def _part(rv: TensorVariable) -> Plain | None:
    """Return the kind of a part of another distribution, if it is plain and without events."""
    if rv.owner is None or rv.owner.op.ndim_supp:
        return None
    kind = kind_of(rv)
    return kind if isinstance(kind, Plain) and not kind.event else None


def _has_quantiles(rv: TensorVariable) -> bool:
    """Return whether PyMC has the quantiles of a continuous distribution."""
    if not rv.dtype.startswith("float"):
        return False
    try:
        pm.icdf(rv, 0.5, warn_rvs=False)
    except NotImplementedError:
        return False
    return True


def _censored(dist: TensorVariable, lower: TensorVariable, upper: TensorVariable) -> Kind | None:
    """Return the kind of clip(x, lower, upper): draws between the bounds, and the bounds."""
    base = _part(dist)
    if base is None:
        return None
    count = len(base.given)

    def matrix(parameters: Parameters, varying: Sequence[int]) -> Entries | None:
        if max(varying) >= count:
            return None  # a bound that varies: the support does, too
        own, (low, high) = parameters[:count], parameters[count:]
        # The score of a bound without probability need not be finite: the median's takes its place.
        half = pt.full_like(own[0], 0.5)
        median = without_checks(pm.icdf(base.make(own), half, warn_rvs=False), own)
        below = mass_beyond(base.make, own, low, True)
        above = mass_beyond(base.make, own, high, False)
        entries = between(base.make, own, varying, below, 1 - above, below * 0 + 1)
        for bound, mass, left in ((low, below, True), (high, above, False)):
            safe = pt.switch(pt.gt(mass, 0), bound, median)

            def log_mass(p: Parameters, x: TensorVariable, left: bool = left) -> TensorVariable:
                log = pm.logcdf(base.make(p), x, warn_rvs=False)
                return log if left else pt.log1mexp(log)

            add(entries, outer(scores_of(log_mass, own, varying, safe[:, None]), mass[:, None]))
        return entries

    return Kind(
        names=(*base.names, "lower", "upper"),
        given=(*base.given, lower, upper),
        matrix=matrix if _has_quantiles(dist) else None,
    )


def _truncated(dist: TensorVariable, lower: TensorVariable, upper: TensorVariable) -> Kind | None:
    """Return the kind of a draw x, given that it is between the bounds."""
    base = _part(dist)
    if base is None:
        return None
    count = len(base.given)

    def continuous(parameters: Parameters, varying: Sequence[int]) -> Entries | None:
        if max(varying) >= count:
            return None
        own, (low, high) = parameters[:count], parameters[count:]
        below = mass_beyond(base.make, own, low, True)
        above = mass_beyond(base.make, own, high, False)
        return between(base.make, own, varying, below, 1 - above, 1 - below - above, True)

    def positive(parameters: Parameters, varying: Sequence[int]) -> Entries | None:
        # Of counts that are not 0: with f = p(0), I / (1 - f) - f s s^T / (1 - f)^2.
        untruncated = None if base.matrix is None else base.matrix(parameters[:count], varying)
        if untruncated is None or max(varying) >= count:
            return None
        f, s = _at_zero(base, parameters[:count], varying)
        rest = -pt.expm1(pt.log(f))
        entries = {key: value / rest for key, value in untruncated.items()}
        add(entries, outer(s, (-f / pt.sqr(rest))[:, None]))
        return entries

    matrix: Matrix | None = None
    if _has_quantiles(dist):
        matrix = continuous
    elif not dist.dtype.startswith("float") and _equals(lower, 1) and _equals(upper, np.inf):
        matrix = positive
    return Kind(
        names=(*base.names, "lower", "upper"),
        given=(*base.given, lower, upper),
        matrix=matrix,
    )


def _mixture(weights: TensorVariable, *components: TensorVariable) -> Kind | None:
    """Return the kind of a draw from one of several distributions."""
    if len(components) == 2 and _is_zero(components[0]):
        return _with_zeros(weights[..., 1], components[1], _part(components[1]))
    bases = _components(weights, components)
    if bases is None:
        return None
    count = len(bases)
    starts = [count + sum(len(b.given) for b in bases[:k]) for k in range(count + 1)]

    def parts(parameters: Parameters) -> list[Parameters]:
        return [parameters[starts[k] : starts[k + 1]] for k in range(count)]

    def log_density(parameters: Parameters, x: TensorVariable) -> TensorVariable:
        logs = [pm.logp(b.make(p), x) for b, p in zip(bases, parts(parameters), strict=True)]
        return pt.logsumexp(
            pt.stack([pt.log(w) + log for w, log in zip(parameters[:count], logs, strict=True)]),
            axis=0,
        )

    def over_outcomes(parameters: Parameters, varying: Sequence[int]) -> TensorVariable:
        nodes, weights = [], []
        for w, base, own in zip(parameters, bases, parts(parameters), strict=False):
            x, of_x = over_quantiles(base.make, own, pt.zeros_like(w), pt.ones_like(w))
            nodes.append(x)
            weights.append(w[:, None] * of_x)
        x = pt.concatenate(nodes, axis=1)
        scores = scores_of(log_density, parameters, varying, x)
        S: Any = pt.stack([scores[i] for i in varying], axis=1)
        return matmul(S * pt.concatenate(weights, axis=1)[:, None], S.mT)

    def complete(parameters: Parameters, varying: Sequence[int]) -> Entries | None:
        """Return the information of a draw with its component: I = sum_k w_k I_k, and 1 / w_k."""
        entries = {(k, k): inverse(parameters[k]) for k in varying if k < count}
        for k, (base, own) in enumerate(zip(bases, parts(parameters), strict=True)):
            inner = [i - starts[k] for i in varying if starts[k] <= i < starts[k + 1]]
            of_component = base.matrix(own, inner) if inner and base.matrix is not None else {}
            if of_component is None or (inner and base.matrix is None):
                return None
            for (i, j), entry in of_component.items():
                entries[i + starts[k], j + starts[k]] = parameters[k] * entry
        return entries

    exact = all(map(_has_quantiles, components))
    names = [f"w[{k}]" for k in range(count)]
    names += [f"{name}[{k}]" for k, base in enumerate(bases) for name in base.names]
    return Kind(
        names=tuple(names),
        given=(*(weights[..., k] for k in range(count)), *(p for b in bases for p in b.given)),
        matrix=None if exact else complete,
        blocks=over_outcomes if exact else None,
        words="Fisher matrix" if exact else "Fisher matrix, with the components as if observed,",
    )


def _components(
    weights: TensorVariable, components: Sequence[TensorVariable]
) -> list[Plain] | None:
    """Return the kinds of a mixture's components; None if one, or their number, is not known."""
    kinds = [_part(c) for c in components]
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return None
    if len(known) > 1:
        return known
    lengths = [weights.type.shape[-1], components[0].type.shape[-1]]
    count = next((n for n in lengths if n is not None), None)
    if count is None:
        return None
    return [
        Plain(
            names=known[0].names,
            given=tuple(_take(p, k) for p in known[0].given),
            make=known[0].make,
            matrix=known[0].matrix,
        )
        for k in range(count)
    ]


def _take(p: TensorVariable, k: int) -> TensorVariable:
    """Return a parameter of component ``k``, of components along the last axis."""
    if p.type.ndim == 0:
        return p
    return p[..., 0 if p.type.shape[-1] == 1 else k]


def _with_zeros(psi: TensorVariable, dist: TensorVariable, base: Kind | None) -> Kind | None:
    """Return the kind of a draw that is of ``dist`` with probability psi, and 0 otherwise.

    With f = p(0) of ``dist``, s its score at 0 and p0 = 1 - psi (1 - f), the information is
    (1 - f) / (psi p0) in psi, -f s / p0 in psi and the others, and psi (I - (1 - psi) f s s^T / p0)
    in these. In a hurdle model f is 0.
    """
    if base is None or base.matrix is None:
        return None
    matrix_of_base = base.matrix
    counts = base if dist.dtype.startswith("int") else None

    def matrix(parameters: Parameters, varying: Sequence[int]) -> Entries | None:
        p, own = parameters[0], parameters[1:]
        inner = [i - 1 for i in varying if i]
        of_base = matrix_of_base(own, inner) if inner else {}
        if of_base is None:
            return None
        f, s = pt.zeros_like(p), Scores()
        if isinstance(counts, Plain):
            f, s = _at_zero(counts, own, inner)
        zero = 1 - p * (1 - f)
        entries = {key: p * entry for key, entry in of_base.items()}
        add(entries, outer(s, (-p * (1 - p) * f / zero)[:, None]))
        entries = {(i + 1, j + 1): entry for (i, j), entry in entries.items()}
        if 0 in varying:
            entries[0, 0] = (1 - f) * inverse(p * zero)
            entries |= {(0, i + 1): -f * score[:, 0] / zero for i, score in s.items()}
        return entries

    return Kind(names=("psi", *base.names), given=(psi, *base.given), matrix=matrix)


def _equals(bound: TensorVariable, value: float) -> bool:
    """Return whether a bound is a constant of this value."""
    return isinstance(bound, Constant) and bool(np.all(bound.data == value))


def _is_zero(rv: TensorVariable) -> bool:
    """Return whether a component is always 0."""
    if rv.owner is None or not isinstance(rv.owner.op, DiracDeltaRV):
        return False
    return _equals(rv.owner.op.dist_params(rv.owner)[0], 0)


def _at_zero(base: Plain, own: Parameters, varying: Sequence[int]) -> tuple[TensorVariable, Scores]:
    """Return the probability of 0, and its scores: columns with a row for each draw."""
    zero = pt.zeros_like(own[0]).astype("int64")[:, None]

    def log_density(parameters: Parameters, x: TensorVariable) -> TensorVariable:
        return pm.logp(base.make(parameters), x)

    f = pt.exp(without_checks(log_density(own, zero[:, 0]), own))
    return f, scores_of(log_density, own, varying, zero)
