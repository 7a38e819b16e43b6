"""Curvatures of the terms of a PyMC model, as likelihoods of outputs.

Each output is one example: an array of shape (1, ...), so that a metric is a sum over all draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.bridges._pymc_information import Family
from symng.graphs.derivatives import hessian_product
from symng.graphs.rebuild import rebuild
from symng.likelihoods import Likelihood
from symng.metrics.positive_part import PositivePart


@dataclass(frozen=True, eq=False, kw_only=True)
class Term(Likelihood):
    """The base of these likelihoods: an output that is its own pre-activation, without targets."""

    @property
    def is_logits(self) -> bool:
        return True

    def mean(self, r: TensorVariable) -> TensorVariable:
        return r

    def output_metric_product(self, y: TensorVariable, v: TensorVariable) -> TensorVariable:
        return self.metric_product(y, v)

    def sample(self, y: TensorVariable, rng: Any) -> NoReturn:
        raise NotImplementedError("Draw from a PyMC model by PyMC: pm.sample_prior_predictive.")


@dataclass(frozen=True, eq=False, kw_only=True)
class Information(Term):
    """The Fisher matrix of an observed variable in the parameters of its distribution.

    The output has the shape (1, draws, varying parameters), for a `Family` of probabilities
    (1, draws, classes).

    Attributes
    ----------
    parameters : tuple of TensorVariable
        All parameters of the family, of each draw: vectors, and a matrix of probabilities.
    varying : tuple of int
        Those that depend on the free variables, by their numbers.
    weight : TensorVariable
        By which the logarithm of the probability of a minibatch is multiplied.
    """

    family: Family
    parameters: tuple[TensorVariable, ...]
    varying: tuple[int, ...]
    weight: TensorVariable | None

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        product = self._product(r, v)
        return product if self.weight is None else self.weight.astype(v.dtype) * product

    def _product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        if self.family.event is not None:
            return self._entry(*self.varying, *self.varying)[None] * v
        columns = []
        for i in self.varying:
            terms = [
                self._entry(min(i, j), max(i, j)) * v[0, :, column]
                for column, j in enumerate(self.varying)
                if (min(i, j), max(i, j)) in self.family.entries
            ]
            columns.append(pt.add(*terms) if len(terms) > 1 else terms[0])
        return pt.stack(columns, axis=-1)[None].astype(v.dtype)

    def _entry(self, i: int, j: int) -> TensorVariable:
        return pt.as_tensor_variable(self.family.entries[i, j](*self.parameters))


@dataclass(frozen=True, eq=False, kw_only=True)
class Observed(Term):
    """The Hessian of -log p of an observed variable in the parameters of its distribution.

    Of an output as that of `Information`: the middle of the Gauss-Newton matrix.

    Attributes
    ----------
    loss_of : callable
        From the output to -log p, summed over the draws.
    """

    loss_of: Callable[[TensorVariable], TensorVariable]

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        placeholder = r.type()
        product = hessian_product(self.loss_of(placeholder), [placeholder], [v])[0]
        return rebuild([product], {placeholder: r})[0].astype(v.dtype)


@dataclass(frozen=True, eq=False, kw_only=True)
class Rest(Term):
    """The positive part of the Hessian of the other terms, on the flat vector of all parameters."""

    part: PositivePart

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        return self.part.scale(self.part.values, v[0])[None]

    def metric_sqrt(
        self, r: TensorVariable, v: TensorVariable, transposed: bool = False
    ) -> TensorVariable:
        return self.part.scale(pt.sqrt(self.part.values), v[0])[None]
