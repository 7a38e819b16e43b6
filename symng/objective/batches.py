"""How the examples of an objective come: all at once, or in several groups (see also `chunks`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng.graphs.types import Integer, Scalar
from symng.objective.objective import Objective
from symng.objective.sums import ObjectiveSum, weighted_sum

PartFunction = Callable[[Objective, Integer], Sequence[TensorVariable]]
"""From an objective on some examples, and the index of the first one, to scalars and vectors."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch(ABC):
    """Symbolic examples, over which losses, gradients and products with a metric are means.

    Attributes
    ----------
    divisor : symbolic scalar or None
        What the loss is divided by, so that a sum over examples becomes a mean; None for nothing.
    """

    divisor: TensorVariable | None = None

    @property
    @abstractmethod
    def terms(self) -> tuple[TermBatch, ...]:
        """The batches that this is a weighted sum of; for one objective, the batch itself."""

    @property
    @abstractmethod
    def weights(self) -> tuple[Scalar, ...]:
        """The weights of the terms."""

    @property
    @abstractmethod
    def variables(self) -> list[TensorVariable]:
        """The symbolic arrays of the batch, as they are passed."""

    @property
    @abstractmethod
    def axes(self) -> list[int]:
        """The axis of examples, or of the chunks' examples, of each variable."""

    @abstractmethod
    def averaged(self) -> Self:
        """Return the batch with losses that are sums over examples divided by their number."""

    @property
    def params(self) -> tuple[SharedVariable, ...]:
        """The parameters."""
        return self.terms[0].objective.params

    @property
    def dtype(self) -> str:
        """The dtype of the parameters."""
        return self.terms[0].objective.dtype

    @property
    def size(self) -> int:
        """The number of parameters, the length of the flat vector."""
        return self.terms[0].objective.size

    def weighted_sum(self, function: Callable[[TermBatch], TensorVariable]) -> TensorVariable:
        """Return the weighted sum over the terms of what ``function`` returns for each."""
        return weighted_sum(self.weights, [function(term) for term in self.terms])

    def mean(self, function: PartFunction) -> list[TensorVariable]:
        """Return the mean over the batch, given a function that returns means over some examples.

        With several terms it is the weighted sum of their means.
        """
        values = [term.mean(function) for term in self.terms]
        return [weighted_sum(self.weights, of_terms) for of_terms in zip(*values, strict=True)]

    def loss(self) -> TensorVariable:
        """Return the loss of the batch."""
        return self.mean(lambda o, _: [o.loss])[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class TermBatch(Batch):
    """An objective on the symbolic inputs and targets of one batch.

    Attributes
    ----------
    objective : Objective
        The model. A chunked batch has other inputs than its model: compute with `mean`.
    length : int or None
        How many of the inputs and targets the batch has, the first ones; None for all.
    """

    objective: Objective
    length: int | None = None

    @property
    def terms(self) -> tuple[TermBatch, ...]:
        return (self,)

    @property
    def weights(self) -> tuple[Scalar, ...]:
        return (1.0,)

    @property
    @abstractmethod
    def count(self) -> TensorVariable:
        """The number of examples, as a symbolic integer."""

    @abstractmethod
    def mean(self, function: PartFunction) -> list[TensorVariable]: ...

    def averaged(self) -> Self:
        """Return the batch with a loss that is a sum over examples divided by their number.

        A sum times a small factor may already be a mean over 1 / factor examples. It is divided
        only in batches that are larger, by at least a thousandth: the factor may have been rounded
        to float32.
        """
        factor = self.objective.sum_factor
        if factor is None:
            return self
        count = self.count.astype(self.objective.dtype)
        if factor < 0.5:  # from 0.5 it is a sum: half a sum of squares is a likelihood
            count = pt.switch(pt.gt(factor * self.count, 1.001), count, pt.ones_like(count))
        return replace(self, divisor=count)


@dataclass(frozen=True, eq=False, kw_only=True)
class FullBatch(TermBatch):
    """A batch whose examples are computed all at once."""

    @property
    def count(self) -> TensorVariable:
        return self.objective.count

    @property
    def variables(self) -> list[TensorVariable]:
        return list(self.objective.model.variables[: self.length])

    @property
    def axes(self) -> list[int]:
        return list(self.objective.data_axes[: self.length])

    def mean(self, function: PartFunction) -> list[TensorVariable]:
        return list(function(self.objective, 0))

    def averaged(self) -> Self:
        batch, objective = super().averaged(), self.objective
        if batch.divisor is None or objective.sum_factor is None:
            return batch
        loss = objective.loss / batch.divisor.astype(objective.loss.type.dtype)
        always = objective.reduction == "sum" and objective.sum_factor >= 0.5
        return replace(batch, objective=objective.with_loss(loss, "mean" if always else None))


@dataclass(frozen=True, eq=False, kw_only=True)
class SumBatch(Batch):
    """The batches of an `ObjectiveSum`, one per term, in ``parts`` with weights ``factors``."""

    parts: tuple[TermBatch, ...]
    factors: tuple[Scalar, ...]

    @property
    def terms(self) -> tuple[TermBatch, ...]:
        return self.parts

    @property
    def weights(self) -> tuple[Scalar, ...]:
        return self.factors

    @property
    def variables(self) -> list[TensorVariable]:
        return [v for part in self.parts for v in part.variables]

    @property
    def axes(self) -> list[int]:
        return [axis for part in self.parts for axis in part.axes]

    def averaged(self) -> Self:
        """Return the sum divided by D = sum_i D_i, where the loss of term i is D_i times its mean.

        Only terms that are sums over examples count in D.
        """
        parts = [part.averaged() for part in self.parts]
        divisors = [part.divisor for part in parts if part.divisor is not None]
        if not divisors:
            return self
        divisor = divisors[0] if len(divisors) == 1 else pt.add(*divisors)
        factors = [
            factor * ((1.0 if part.divisor is None else part.divisor) / divisor)
            for factor, part in zip(self.factors, parts, strict=True)
        ]
        return replace(self, parts=tuple(parts), factors=tuple(factors), divisor=divisor)


def as_batch(objective: Objective | ObjectiveSum | Batch) -> Batch:
    """Return a batch unchanged, and an objective as a full batch on its own inputs."""
    if isinstance(objective, Batch):
        return objective
    if isinstance(objective, ObjectiveSum):
        parts = tuple(FullBatch(objective=term) for term in objective.terms)
        return SumBatch(parts=parts, factors=objective.weights)
    return FullBatch(objective=objective)
