"""The observed variables of a PyMC model: what their parameters add to the metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pymc as pm
import pytensor.tensor as pt
from pymc.distributions.custom import CustomDistRV
from pymc.variational.minibatch_rv import MinibatchRandomVariable, get_scaling
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.basic import MvNormalRV
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.variable import TensorVariable

from symng.bridges._pymc_kinds import Kind, Plain, kind_of
from symng.bridges._pymc_likelihoods import (
    Covariance,
    Information,
    Observed,
    PerDraw,
    Term,
    precision_of,
)
from symng.bridges._pymc_outcomes import replace_checks
from symng.graphs.rebuild import rebuild

Curvature = Literal["fisher", "gauss-newton", "hessian"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Piece:
    """What an observed variable adds to the metric: J^T M J, with J the Jacobian of an output.

    Attributes
    ----------
    output : TensorVariable
        Parameters of the variable, of shape (1, draws, ...).
    factors : tuple of TensorVariable
        The graphs that M is made of.
    likelihood : callable
        From those graphs, on any variables, to M as a likelihood.
    words : str
        M in words.
    """

    output: TensorVariable
    factors: tuple[TensorVariable, ...]
    likelihood: Callable[[Sequence[TensorVariable]], Term]
    words: str


def pieces_of(
    model: pm.Model, free: Sequence[Variable], rv: TensorVariable, curvature: Curvature
) -> list[Piece]:
    """Return the pieces that an observed variable adds to the metric; none if not known."""
    value, base = model.rvs_to_values[rv], rv
    weight = pt.ones(())
    if isinstance(rv.owner.op, MinibatchRandomVariable):
        base, *total_size = rv.owner.inputs
        weight = get_scaling(total_size, value.shape)
    if curvature == "hessian" or not isinstance(value, TensorVariable):
        return []
    if isinstance(base.owner.op, MvNormalRV) and curvature == "fisher":
        return _multivariate_normal(model, free, base, value, weight)
    kind = kind_of(base)
    if kind is None:
        return []
    given = model.replace_rvs_by_values(kind.given)
    if any(_has_random(p) for p in given):
        return []
    event = base.owner.op.ndim_supp
    draws = value[..., 0] if event else value
    if curvature == "fisher":
        pieces = _information(free, kind, given, draws, weight)
        if pieces:
            return pieces
    if not isinstance(kind, Plain):
        return []
    custom = isinstance(base.owner.op, CustomDistRV)
    return _gauss_newton(free, kind, given, value, draws, weight, custom)


def _varying(free: Sequence[Variable], parameters: Sequence[TensorVariable]) -> list[int]:
    """Return the indices of the parameters that depend on the free variables."""
    among = set(free)
    return [i for i, p in enumerate(parameters) if not among.isdisjoint(ancestors([p]))]


def _information(
    free: Sequence[Variable],
    kind: Kind,
    given: Sequence[TensorVariable],
    draws: TensorVariable,
    weight: TensorVariable,
) -> list[Piece]:
    """Return the Fisher matrix of draws, unless it is not known in the parameters that vary."""
    if all(_is_common(p, ndim) for p, ndim in zip(given, _ndims(kind), strict=True)):
        # One draw stands for all, with their weight.
        draws, weight = pt.zeros((1,)), weight * draws.size
    parameters = _spread(kind, given, draws)
    varying = _varying(free, parameters)
    if not varying:
        return []
    output = _join([parameters[i] for i in varying])
    words = f"{kind.words} in {', '.join(kind.names[i] for i in varying)}"
    if kind.blocks is not None:
        return [
            Piece(
                output=output,
                factors=(kind.blocks(parameters, varying), weight),
                likelihood=lambda graphs: PerDraw(matrices=graphs[0], weight=graphs[1]),
                words=words,
            )
        ]
    entries = None if kind.matrix is None else kind.matrix(parameters, varying)
    if entries is None:
        return []
    keys = [(varying.index(i), varying.index(j)) for i, j in entries]

    def likelihood(graphs: Sequence[TensorVariable]) -> Information:
        return Information(
            entries=dict(zip(keys, graphs[1:], strict=True)),
            count=len(varying),
            event=kind.event,
            weight=graphs[0],
        )

    factors = (weight, *entries.values())
    return [Piece(output=output, factors=factors, likelihood=likelihood, words=words)]


def _gauss_newton(
    free: Sequence[Variable],
    kind: Plain,
    given: Sequence[TensorVariable],
    value: TensorVariable,
    draws: TensorVariable,
    weight: TensorVariable,
    custom: bool,
) -> list[Piece]:
    """Return the Hessian of -log p in the parameters, unless one of these is an integer."""
    parameters = _spread(kind, given, draws)
    varying = _varying(free, parameters)
    if not varying or not all(parameters[i].dtype.startswith("float") for i in varying):
        return []
    flat = value.flatten() if value.ndim == draws.ndim else value.reshape((-1, value.shape[-1]))

    def likelihood(graphs: Sequence[TensorVariable]) -> Observed:
        def loss_of(output: TensorVariable) -> TensorVariable:
            *own, value, weight = graphs
            for column, i in enumerate(varying):
                own[i] = output[0] if own[i].ndim == 2 else output[0, :, column]
            # The draws are summed before they are weighted, as in PyMC.
            loss = -pm.logp(kind.make(own), value).sum()
            return weight * rebuild([loss], {output: output}, replace_checks)[0]

        return Observed(loss_of=loss_of)

    return [
        Piece(
            output=_join([parameters[i] for i in varying]),
            factors=(*parameters, flat, weight),
            likelihood=likelihood,
            words="Gauss-Newton matrix in its parameters"
            + (", normalized or not" if custom else ""),
        )
    ]


def _multivariate_normal(
    model: pm.Model,
    free: Sequence[Variable],
    rv: TensorVariable,
    value: TensorVariable,
    weight: TensorVariable,
) -> list[Piece]:
    """Return the Fisher matrix of N(mean, C): C^-1 in the mean, and V -> C^-1 V C^-1 / 2 in C."""
    mean, C = model.replace_rvs_by_values(rv.owner.op.dist_params(rv.owner))
    if _has_random(mean) or _has_random(C):
        return []
    mean_varies, C_varies = (bool(_varying(free, [p])) for p in (mean, C))
    count = value.size / value.shape[-1]
    # A row for each draw, or a single one that stands for all.
    spread = pt.zeros_like(value)
    rows = mean if _is_common(mean, 1) and _is_common(C, 2) else mean + spread
    rows = rows.reshape((-1, value.shape[-1]))
    matrices = C if _is_common(C, 2) else C + spread[..., None]
    matrices = matrices.reshape((-1, value.shape[-1], value.shape[-1]))
    words = ", ".join(n for n, v in (("mean", mean_varies), ("covariance", C_varies)) if v)

    def piece(output: TensorVariable, cls: type[PerDraw]) -> Piece:
        return Piece(
            output=output[None],
            factors=(precision_of(matrices), weight * count / output.shape[0]),
            likelihood=lambda graphs: cls(matrices=graphs[0], weight=graphs[1]),
            words=f"Fisher matrix in {words}",
        )

    pieces = [piece(rows, PerDraw)] if mean_varies else []
    return [*pieces, piece(matrices, Covariance)] if C_varies else pieces


def _ndims(kind: Kind) -> tuple[int, ...]:
    """Return the number of axes of each parameter of a single draw."""
    return kind.ndims or (0,) * len(kind.given)


def _is_common(p: TensorVariable, ndim: int) -> bool:
    """Return whether a parameter is known to be the same in all draws."""
    return all(length == 1 for length in p.type.shape[: p.type.ndim - ndim])


def _spread(
    kind: Kind, given: Sequence[TensorVariable], draws: TensorVariable
) -> list[TensorVariable]:
    """Return the parameters of each draw: vectors, and a matrix of probabilities."""
    parameters = []
    for p, ndim in zip(given, _ndims(kind), strict=True):
        spread = p + pt.zeros_like(pt.shape_padright(draws, ndim), dtype=p.dtype)
        parameters.append(spread.reshape((-1, spread.shape[-1])) if ndim else spread.flatten())
    return parameters


def _join(parts: list[TensorVariable]) -> TensorVariable:
    """Return parameters as an output, of shape (1, draws, parameters or classes)."""
    return (parts[0] if parts[0].ndim == 2 else pt.stack(parts, axis=-1))[None]


def _has_random(graph: TensorVariable) -> bool:
    """Return whether a graph draws at random, other than the examples of a minibatch."""
    nodes: list[Any] = [v.owner for v in ancestors([graph]) if v.owner]
    return any(isinstance(node.op, RandomVariable) for node in nodes)
