"""Curvatures of the terms of a PyMC model, as likelihoods of outputs.

Each output is one example: an array of shape (1, ...), so that a metric is a sum over all draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import pytensor.tensor as pt
from pytensor.tensor.linalg import cholesky, solve_triangular
from pytensor.tensor.math import matmul as _matmul
from pytensor.tensor.variable import TensorVariable

from symng.graphs.derivatives import hessian_product
from symng.graphs.rebuild import rebuild
from symng.likelihoods import Likelihood
from symng.metrics.positive_part import PositivePart

matmul: Any = _matmul  # whose annotations are NumPy's


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
        raise NotImplementedError("Let PyMC draw from its model: pm.sample_prior_predictive.")


@dataclass(frozen=True, eq=False, kw_only=True)
class Information(Term):
    """The Fisher matrix of an observed variable in the parameters of its distribution.

    The output has the shape (1, draws, varying parameters), or (1, draws, classes).

    Attributes
    ----------
    entries : mapping
        From (row, column), with row <= column, to a number for each draw; others are 0.
    count : int
        The number of parameters that vary.
    event : bool
        Whether these are the probabilities of classes. The only entry is then a diagonal.
    weight : TensorVariable
        A factor of all entries.
    """

    entries: Mapping[tuple[int, int], TensorVariable]
    count: int
    event: bool
    weight: TensorVariable

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        return (self.weight * self._product(v)).astype(v.dtype)

    def _product(self, v: TensorVariable) -> TensorVariable:
        if self.event:
            return self.entries[0, 0][None] * v
        columns = []
        for i in range(self.count):
            terms = [
                self.entries[min(i, j), max(i, j)] * v[0, :, j]
                for j in range(self.count)
                if (min(i, j), max(i, j)) in self.entries
            ]
            columns.append(pt.add(*terms) if len(terms) > 1 else terms[0])
        return pt.stack(columns, axis=-1)[None]


@dataclass(frozen=True, eq=False, kw_only=True)
class PerDraw(Term):
    """A matrix for each draw: of an output of shape (1, draws, n).

    Attributes
    ----------
    matrices : TensorVariable
        Of shape (draws or 1, n, n).
    weight : TensorVariable
        A factor of all of them.
    """

    matrices: TensorVariable
    weight: TensorVariable

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        product = matmul(self.matrices, v[0][..., None])[..., 0]
        return (self.weight * product).astype(v.dtype)[None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Covariance(PerDraw):
    """The Fisher matrix of N(mean, C) in C, V -> C^-1 V C^-1 / 2: of an output (1, draws, n, n).

    ``matrices`` are C^-1.
    """

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        product = matmul(self.matrices, matmul(v[0], self.matrices)) / 2
        return (self.weight * product).astype(v.dtype)[None]


def precision_of(C: TensorVariable) -> TensorVariable:
    """Return C^-1 of each covariance matrix, by its Cholesky factor."""
    inverses = solve_triangular(cholesky(C), pt.eye(C.shape[-1], dtype=C.dtype), lower=True)
    return matmul(inverses.mT, inverses)


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
