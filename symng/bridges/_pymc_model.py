"""Read a PyMC model: its parameters, its loss, and the outputs with their curvatures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.logprob.utils import CheckParameterValue
from pymc.pytensorf import collect_default_updates
from pymc.variational.minibatch_rv import MinibatchRandomVariable, get_scaling
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomGeneratorType
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.bridges._pymc_information import Family, family_of
from symng.bridges._pymc_likelihoods import Information, Observed, Rest, Term
from symng.graphs import vectors
from symng.graphs.rebuild import rebuild
from symng.metrics.positive_part import PositivePart, loss_hessian_product

Curvature = Literal["fisher", "gauss-newton", "hessian"]
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
        From the name of each observed variable, potential and "priors" to what is taken, in words.
    """

    params: dict[str, SharedVariable]
    loss: TensorVariable
    outputs: list[TensorVariable]
    likelihoods: list[Term]
    curvatures: dict[str, str]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Draws:
    """The draws of an observed variable, flattened, with the parameters that each comes from.

    Attributes
    ----------
    parameters : list
        Vectors with an entry for each draw, and matrices with a row for each.
    varying : tuple of int
        Those that depend on the free variables.
    """

    rv: TensorVariable
    op: Any
    family: Family | None
    parameters: list[TensorVariable]
    varying: tuple[int, ...]
    value: TensorVariable
    weight: TensorVariable | None

    @property
    def graphs(self) -> list[TensorVariable]:
        return [*self.parameters, self.value, *([] if self.weight is None else [self.weight])]

    def on(self, graphs: Sequence[TensorVariable]) -> _Draws:
        """Return the same draws with other ``graphs`` in the places of its own."""
        count = len(self.parameters)
        weight = None if self.weight is None else graphs[count + 1]
        parameters = list(graphs[:count])
        return replace(self, parameters=parameters, value=graphs[count], weight=weight)

    @property
    def output(self) -> TensorVariable:
        """The varying parameters, of shape (1, draws, parameters or classes)."""
        parts = [self.parameters[i] for i in self.varying]
        return (parts[0] if parts[0].ndim == 2 else pt.stack(parts, axis=-1))[None]

    def loss_of(self, output: TensorVariable) -> TensorVariable:
        """Return -log p, summed over the draws, as a function of `output`."""
        parameters = list(self.parameters)
        for column, i in enumerate(self.varying):
            parameters[i] = output[0] if parameters[i].ndim == 2 else output[0, :, column]
        make = getattr(self.op, "rv_op", self.op)
        # The draws are summed before they are weighted, as in PyMC.
        rng = pytensor.shared(np.random.default_rng(0))  # which no density depends on
        loss = -pm.logp(make(*parameters, rng=rng), self.value).sum()
        loss = rebuild([loss], {output: output}, _without_checks)[0]
        return loss if self.weight is None else self.weight * loss

    def likelihood(self, curvature: Curvature) -> tuple[Term, str]:
        """Return the likelihood of `output`, and what it is in words."""
        if self.family is not None and curvature == "fisher":
            names = ", ".join(self.family.names[i] for i in self.varying)
            term = Information(
                family=self.family,
                parameters=tuple(self.parameters),
                varying=self.varying,
                weight=self.weight,
            )
            return term, f"Fisher matrix in {names}"
        return Observed(loss_of=self.loss_of), "Gauss-Newton matrix in its parameters"


def read_pymc_model(
    model: pm.Model, point: Mapping[str, np.ndarray], jacobian: bool, curvature: Curvature
) -> Reading:
    """Return what the objective of a model is made of, with the parameters at ``point``."""
    _refuse_discrete(model)
    params = {value.name: _shared(value, point[value.name]) for value in model.value_vars}
    found = [] if curvature == "hessian" else map(partial(_find_draws, model), model.observed_RVs)
    draws = [d for d in found if d is not None and _is_usable(d, curvature)]
    explained = [d.rv for d in draws]
    others = [v for v in (*model.basic_RVs, *model.potentials) if v not in explained]
    terms = model.logp([*others, *explained], jacobian=jacobian, sum=False)
    sums = [-pt.as_tensor_variable(term).sum() for term in terms]
    graphs = [pt.add(*sums, 0.0), pt.add(*sums[: len(others)], 0.0)]
    for d in draws:
        graphs += d.graphs
    loss, rest, *graphs = _on_parameters(graphs, model, params)

    outputs, likelihoods, curvatures = [], [], {}
    for d in draws:
        own, graphs = graphs[: len(d.graphs)], graphs[len(d.graphs) :]
        d = d.on(own)
        likelihood, words = d.likelihood(curvature)
        outputs.append(d.output)
        likelihoods.append(likelihood)
        curvatures[d.rv.name] = words
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


def _refuse_discrete(model: pm.Model) -> None:
    """Refuse a model with discrete free variables, or without any free variable."""
    expected = "a model with continuous free variables alone"
    discrete = [rv.name for rv in model.free_RVs if rv.dtype not in ("float32", "float64")]
    if discrete:
        imputed = [name for name in discrete if name.endswith("_unobserved")]
        hint = "Sum it out, for instance by pm.Mixture, or sample by pm.sample."
        if imputed:
            hint = "These are missing discrete data: leave them out of the data."
        raise argument_error("model", expected, Verbatim(", ".join(discrete)), hint)
    if not model.free_RVs:
        raise argument_error("model", expected, Verbatim("a model without any"))


def _find_draws(model: pm.Model, rv: TensorVariable) -> _Draws | None:
    """Return the draws of an observed variable; None if its parameters are not plain tensors."""
    value, base, weight = model.rvs_to_values[rv], rv, None
    if isinstance(rv.owner.op, MinibatchRandomVariable):
        base, *total_size = rv.owner.inputs
        weight = get_scaling(total_size, value.shape)
    node = base.owner
    op = node.op
    if not hasattr(op, "dist_params") or not isinstance(value, TensorVariable):
        return None
    family, given = family_of(op), op.dist_params(node)
    plain = op.ndim_supp == 0 and not any(op.ndims_params)
    if any(_has_random(p) for p in model.replace_rvs_by_values(given)):
        return None  # a distribution of distributions, such as a mixture
    if family is None and not plain:
        return None
    is_event = family is not None and family.event is not None
    whole = value[..., 0] if is_event and op.ndim_supp else value
    parameters = []
    for p, ndim in zip(model.replace_rvs_by_values(given), op.ndims_params, strict=True):
        spread = p + pt.zeros_like(pt.shape_padright(whole, ndim), dtype=p.dtype)
        parameters.append(spread.reshape((-1, spread.shape[-1])) if ndim else spread.flatten())
    free = set(model.value_vars)
    varying = [i for i, p in enumerate(parameters) if not free.isdisjoint(ancestors([p]))]
    if not varying:
        return None
    flat = value.reshape((-1, value.shape[-1])) if op.ndim_supp else value.flatten()
    return _Draws(
        rv=rv,
        op=op,
        family=family,
        parameters=parameters,
        varying=tuple(varying),
        value=flat,
        weight=weight,
    )


def _has_random(graph: TensorVariable) -> bool:
    """Return whether a graph draws at random, other than the examples of a minibatch."""
    return any(isinstance(v.owner.op, RandomVariable) for v in ancestors([graph]) if v.owner)


def _is_usable(draws: _Draws, curvature: Curvature) -> bool:
    """Return whether the curvature of these draws in their parameters is known."""
    family = draws.family
    if family is None or curvature == "gauss-newton":
        return all(draws.parameters[i].dtype.startswith("float") for i in draws.varying)
    return all((i, i) in family.entries for i in draws.varying)


def _positive_part(loss: TensorVariable, params: list[Any]) -> PositivePart:
    """Return the positive part of the Hessian of some terms of the loss."""
    dtype = params[0].type.dtype

    def product(u: TensorVariable) -> TensorVariable:
        return loss_hessian_product(loss, params, u, dtype)

    return PositivePart(
        vectors.count(params), dtype, lambda form, shape: pt.specify_shape(form(product), shape)
    )


def _on_parameters(
    graphs: Sequence[TensorVariable], model: pm.Model, params: Mapping[str, SharedVariable]
) -> list[TensorVariable]:
    """Return graphs of a model on shared variables, with generators of their own.

    Each generator is updated with every step, so that each step has another minibatch.
    """
    new: dict[Variable, Variable] = {v: params[v.name] for v in model.value_vars}
    for v in graph_inputs(graphs):
        if isinstance(v, SharedVariable) and isinstance(v.type, RandomGeneratorType):
            new[v] = pytensor.shared(deepcopy(v.get_value(borrow=True)), name=v.name)
    graphs = rebuild(graphs, new, _without_checks)
    with warnings.catch_warnings():
        # The only way by which a variable brings its own update to PyTensor's functions.
        warnings.filterwarnings("ignore", "Setting default_update", DeprecationWarning)
        for generator, following in collect_default_updates(graphs).items():
            generator.default_update = following
    return graphs


def _without_checks(node: Apply, new: Mapping[Variable, Variable]) -> list[Variable]:
    """Return a node on new inputs; in place of a check of parameters its value, or -inf."""
    inputs = [new.get(v, v) for v in node.inputs]
    if isinstance(node.op, CheckParameterValue) and node.op.can_be_replaced_by_ninf:
        value, *conditions = map(pt.as_tensor_variable, inputs)
        passed = pt.all([pt.all(condition) for condition in conditions])
        return [pt.switch(passed, value, pt.constant(-np.inf, dtype=value.dtype))]
    return node.clone_with_new_inputs(inputs).outputs
