"""Read a PyMC model: its parameters, its loss, and the outputs with their curvatures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.pytensorf import collect_default_updates
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.random.type import RandomGeneratorType
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.bridges._pymc_draws import Curvature, pieces_of
from symng.bridges._pymc_likelihoods import Rest, Term
from symng.bridges._pymc_outcomes import replace_checks
from symng.graphs import vectors
from symng.graphs.rebuild import rebuild
from symng.metrics.positive_part import PositivePart, loss_hessian_product

CURVATURES = ("fisher", "gauss-newton", "hessian")

_HESSIAN = "positive part of the Hessian"


@dataclass(frozen=True, eq=False, kw_only=True)
class Reading:
    """What an objective is made of.

    Attributes
    ----------
    params : dict
        From the name of each value variable to its shared variable.
    outputs, likelihoods : list
        The outputs of the observed variables, and last the flat vector of all parameters.
    curvatures : dict
        From the name of each observed variable, potential and "priors" to its curvature in words.
    """

    params: dict[str, SharedVariable]
    loss: TensorVariable
    outputs: list[TensorVariable]
    likelihoods: list[Term]
    curvatures: dict[str, str]


def read_pymc_model(
    model: pm.Model,
    free: Sequence[Variable],
    point: Mapping[str, np.ndarray],
    jacobian: bool,
    curvature: Curvature,
) -> Reading:
    """Return what the objective of a model is made of, with the parameters at ``point``.

    Value variables that are not ``free`` keep their values there.
    """
    _refuse_discrete(model, free)
    params = {v.name: _shared(v, point[v.name]) for v in model.value_vars if v in free}
    pieces = {rv: pieces_of(model, free, rv, curvature) for rv in model.observed_RVs}
    explained = [rv for rv, of_rv in pieces.items() if of_rv]
    others = [v for v in (*model.basic_RVs, *model.potentials) if v not in explained]
    terms = model.logp([*others, *explained], jacobian=jacobian, sum=False)
    sums = [-pt.as_tensor_variable(term).sum() for term in terms]
    graphs = [pt.add(*sums, 0.0), pt.add(*sums[: len(others)], 0.0)]
    pairs = [(rv, piece) for rv in explained for piece in pieces[rv]]
    for _, piece in pairs:
        graphs += [piece.output, *piece.factors]
    values: dict[str, Variable] = {name: pt.constant(value) for name, value in point.items()}
    loss, rest, *graphs = _on_parameters(graphs, model, values | params)

    outputs, likelihoods, curvatures = [], [], {}
    for rv, piece in pairs:
        count = len(piece.factors)
        output, *factors = graphs[: count + 1]
        graphs = graphs[count + 1 :]
        outputs.append(output)
        likelihoods.append(piece.likelihood(factors))
        curvatures[rv.name] = piece.words
    names = [*(v.name for v in (*model.observed_RVs, *model.potentials)), "priors"]
    flat: list[Any] = list(params.values())
    outputs.append(vectors.ravel(flat, flat)[None])
    likelihoods.append(Rest(part=_positive_part(rest, flat)))
    return Reading(
        params=params,
        loss=loss,
        outputs=outputs,
        likelihoods=likelihoods,
        curvatures={name: curvatures.get(name, _HESSIAN) for name in names},
    )


def _shared(value: TensorVariable, start: np.ndarray) -> SharedVariable:
    """Return the shared variable of a value variable."""
    array = np.array(start, dtype=value.type.dtype)
    return pytensor.shared(array, name=value.name, shape=value.type.shape)


def _refuse_discrete(model: pm.Model, free: Sequence[Variable]) -> None:
    """Refuse a model with discrete free variables, or without any free variable."""
    expected = "a model with continuous free variables alone"
    variables = [model.values_to_rvs[v] for v in free]
    discrete = [rv.name for rv in variables if rv.dtype not in ("float32", "float64")]
    if discrete:
        imputed = [name for name in discrete if name.endswith("_unobserved")]
        hint = "Sum it out, for instance by pm.Mixture, or sample by pm.sample."
        if imputed:
            hint = "These are missing discrete data: leave them out of the data."
        raise argument_error("model", expected, Verbatim(", ".join(discrete)), hint)
    if not variables:
        raise argument_error("model", expected, Verbatim("a model without any"))


def _positive_part(loss: TensorVariable, params: list[Any]) -> PositivePart:
    """Return the positive part of the Hessian of some terms of the loss."""
    dtype = params[0].type.dtype

    def product(u: TensorVariable) -> TensorVariable:
        return loss_hessian_product(loss, params, u, dtype)

    return PositivePart(
        vectors.count(params), dtype, lambda form, shape: pt.specify_shape(form(product), shape)
    )


def _on_parameters(
    graphs: Sequence[TensorVariable], model: pm.Model, params: Mapping[str, Variable]
) -> list[TensorVariable]:
    """Return graphs of a model on shared variables, with generators of their own.

    Each generator is updated with every step, so that each step has another minibatch.
    """
    new: dict[Variable, Variable] = {v: params[v.name] for v in model.value_vars}
    for v in graph_inputs(graphs):
        if isinstance(v, SharedVariable) and isinstance(v.type, RandomGeneratorType):
            new[v] = pytensor.shared(deepcopy(v.get_value(borrow=True)), name=v.name)
    graphs = rebuild(graphs, new, replace_checks)
    with warnings.catch_warnings():
        # The only way for a variable to bring its own update to PyTensor's functions.
        warnings.filterwarnings("ignore", "Setting default_update", DeprecationWarning)
        for generator, following in collect_default_updates(graphs).items():
            generator.default_update = following
    return graphs
