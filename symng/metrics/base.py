"""The base of metrics: from an objective to a `LinearOperator`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, check_instance
from symng.graphs.building import building
from symng.graphs.config import Config
from symng.graphs.rebuild import rebuild
from symng.metrics._loss_block import LossBlock, loss_block
from symng.metrics._weighted import Parts, weighted_parts
from symng.metrics.jacobian import pullback, pushforward
from symng.objective import Objective, ObjectiveLike
from symng.objective.batches import Batch, FullBatch, SumBatch, TermBatch, as_batch
from symng.objective.sums import Summand
from symng.operators import Factor, LinearOperator, Product


class Metric(Config, ABC):
    """Turn an objective into a symmetric operator on its flat parameter vector.

    A subclass gives `product`; calling the metric makes the operator.
    """

    @building()
    def __call__(self, objective: ObjectiveLike | Batch) -> LinearOperator:
        """Return the operator of this metric for ``objective``, over the flat parameter vector.

        For an `ObjectiveSum` it is the weighted sum of the operators of the terms.

        Raises
        ------
        ValueError
            When the objective lacks what the metric needs; the message says what to do.
        """
        check_instance("objective", objective, (Summand, Batch), "a symng.Objective")
        batch = as_batch(objective)
        for term in batch.terms:
            self.check(term.objective)
        of_terms = [self._parts(term) for term in batch.terms]
        parts = of_terms[0]
        if isinstance(batch, SumBatch):
            parts = weighted_parts(batch.weights, of_terms, batch.size, batch.dtype)
        return LinearOperator(
            parts.product,
            size=batch.size,
            dtype=batch.dtype,
            inputs=batch.variables,
            name=type(self).__name__,
            factor=parts.factor,
            draw=parts.draw,
        )

    def _parts(self, batch: TermBatch) -> Parts:
        """Return what makes the operator of one objective."""
        factor = self.factor(batch.objective) if isinstance(batch, FullBatch) else None
        product: Product = partial(self.apply, batch)
        draw = self.draw(batch)
        if (block := self.loss_block(batch)) is not None:
            product, draw = _sum_of(product, block.product), draw and _sum_of(draw, block.draw)
            factor = None
        return Parts(product, factor, draw)

    def apply(self, batch: TermBatch, v: TensorVariable) -> TensorVariable:
        """Return the product with ``v`` over a batch: the mean of `product` over its chunks."""
        return batch.mean(lambda o, _: [self.product(o, v).astype(o.dtype)])[0]

    def check(self, objective: Objective) -> None:
        """Refuse an objective that lacks what the metric needs; by default all pass."""

    def with_damping(self, damping: TensorVariable) -> Metric:
        """Return the metric for this damping of the optimizer; by default the metric itself."""
        return self

    def loss_block(self, batch: TermBatch) -> LossBlock | None:
        """Return the block added for parameters that only the loss depends on; by default None."""
        return None

    def factor(self, objective: Objective) -> Factor | None:
        """Return R where the metric is R^T R, one row per example and output; None if not known."""
        return None

    def draw(self, batch: TermBatch) -> Callable[[TensorVariable], TensorVariable] | None:
        """Return a function seed -> R^T s, with R as in `factor` and s random signs, or None."""
        return None

    @abstractmethod
    def product(self, objective: Objective, v: TensorVariable) -> TensorVariable:
        """Return the product of the metric with the flat vector ``v``."""


def _sum_of(first: Product, second: Product) -> Product:
    """Return the function that is the sum of two."""
    return lambda v: first(v) + second(v)


def as_metric(name: str, value: object) -> Metric:
    """Return ``value`` if it is a metric, or refuse it."""
    if not isinstance(value, Metric):
        raise argument_error(
            name,
            "a metric such as symng.Fisher()",
            value,
            "Did you forget the parentheses?",
            TypeError,
        )
    return value


class OutputMetric(Metric):
    """A metric J^T H J, with J the Jacobian of some outputs and H cheap to multiply by.

    A subclass gives `outputs` and `output_curvature_product`, the product with H. Metrics of this
    form can share one pass through the model.
    """

    @abstractmethod
    def outputs(self, objective: Objective) -> list[TensorVariable]:
        """Return the variables of the model that J is the Jacobian of."""

    @abstractmethod
    def output_curvature_product(
        self, objective: Objective, tangents: Sequence[TensorVariable]
    ) -> list[TensorVariable]:
        """Return H times ``tangents``, one for each of the outputs."""

    def loss_block(self, batch: TermBatch) -> LossBlock | None:
        return loss_block(batch)

    def product(self, objective: Objective, v: TensorVariable) -> TensorVariable:
        outputs = self.outputs(objective)
        tangents = pushforward(outputs, objective, v)
        return pullback(outputs, objective, self.output_curvature_product(objective, tangents))

    def bend(self, objective: Objective, v: TensorVariable) -> TensorVariable:
        """Return J^T H r'', with r'' the second derivative of the outputs along the vector ``v``.

        It says how outputs leave their tangents along a straight step, pulled back to the
        parameters. If the metric is R^T R and R a Jacobian, it is R^T times the second derivative
        of what R is the Jacobian of.
        """
        outputs, along = self.outputs(objective), v.type()  # v depends on the parameters, too
        tangents = pushforward(outputs, objective, along)
        bends = rebuild(pushforward(tangents, objective, along), {along: v})
        return pullback(outputs, objective, self.output_curvature_product(objective, bends))
