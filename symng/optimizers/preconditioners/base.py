"""The base of an optimizer's preconditioners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng.graphs.config import Config, config, leaf_repr
from symng.metrics import Metric
from symng.objective import ObjectiveLike
from symng.objective.batches import Batch
from symng.operators import LinearOperator, Product
from symng.optimizers.base import State, StepBatches, Updates

PreconditionerFunction = Callable[[LinearOperator, TensorVariable], Product | None]
"""From operator and damping to the product with M^-1; None for no preconditioner."""


class Preconditioner(Config, ABC):
    """Build the product with M^-1 of a step from its state: the base of preconditioners.

    Subclasses implement `build`, and `init_state` if they keep anything. M is symmetric positive
    definite, and near the metric plus damping up to a factor.

    Attributes
    ----------
    on_gradient_batch : bool, default False
        Whether it is built on the gradient batch, not on the metric batch.
    """

    on_gradient_batch: ClassVar[bool] = False

    def init_state(self, objective: ObjectiveLike, state: State) -> None:
        """Add the shared variables that the preconditioner keeps to ``state``; by default none."""

    def describe(self, objective: ObjectiveLike) -> str:
        """Return lines on what is found in the model of ``objective``; by default none."""
        return ""

    @abstractmethod
    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Product | None, Updates]:
        """Return the product of a flat vector with M^-1, and the updates of the shared variables.

        ``batch`` is the metric batch (see ``on_gradient_batch``), ``metric`` what is solved with,
        and ``damping`` what is added to it. With None for the product there is no preconditioner.
        """


@config
class FunctionPreconditioner(Preconditioner):
    """Precondition with a function of operator and damping that returns the product with M^-1."""

    function: PreconditionerFunction

    def __repr__(self) -> str:
        return leaf_repr(self.function)

    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Product | None, Updates]:
        return self.function(metric(batch), damping), {}


PreconditionerLike = Preconditioner | PreconditionerFunction
"""What an optimizer takes as a preconditioner."""


def as_preconditioner(name: str, value: object) -> Preconditioner | None:
    """Return a preconditioner, also for a function of operator and damping; None stays None."""
    if value is None or isinstance(value, Preconditioner):
        return value
    if callable(value) and not isinstance(value, type):
        return FunctionPreconditioner(function=value)
    expected = "one such as symng.KroneckerPreconditioner(), or a callable of operator and damping"
    raise argument_error(name, expected, value, "Did you forget the parentheses?", TypeError)


def build_preconditioner(
    preconditioner: Preconditioner | None,
    batches: StepBatches,
    metric: Metric,
    state: State,
    damping: TensorVariable,
) -> tuple[Product | None, Updates]:
    """Return the product with M^-1 and the updates of a preconditioner, on the batch it is for."""
    if preconditioner is None:
        return None, {}
    batch = batches.gradient if preconditioner.on_gradient_batch else batches.for_metric
    return preconditioner.build(batch, metric, state, damping)


def running_mean(
    mean: TensorVariable, value: TensorVariable, count: TensorVariable, decay: float
) -> tuple[TensorVariable, TensorVariable, TensorVariable]:
    """Return the mean with ``value``, the number of its values, and whether ``value`` is finite.

    The first values have equal weights. One that is not finite is left out.
    """
    finite, dtype = pt.isfinite(value.sum()), mean.type.dtype
    weight = pt.maximum(1 / pt.cast(count + 1, dtype), pt.constant(1 - decay, dtype=dtype))
    new = pt.switch(finite, mean + weight * (value - mean), mean)
    return new, count + pt.cast(finite, "int64"), finite
