"""What a preconditioner of an optimizer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng.graphs.config import Config, config, leaf_repr
from symng.metrics import Metric
from symng.objective import Objective
from symng.objective.batches import Batch
from symng.operators import LinearOperator
from symng.optimizers.base import State

Apply = Callable[[TensorVariable], TensorVariable]


class Preconditioner(Config, ABC):
    """Build the product with M^-1 of a step from its state: the base of preconditioners.

    A subclass gives `build`, and `init_state` if it keeps anything. M is symmetric positive
    definite, and near the metric plus damping up to a factor.

    Attributes
    ----------
    on_gradient_batch : bool, default False
        Whether it is built on the gradient batch, not on that of the metric.
    """

    on_gradient_batch: ClassVar[bool] = False

    def init_state(self, objective: Objective, state: State) -> None:
        """Add the shared variables that it keeps to ``state``; by default none."""

    def describe(self, objective: Objective) -> str:
        """Return what it finds in the model of ``objective``, in lines; by default nothing."""
        return ""

    @abstractmethod
    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Apply | None, dict[SharedVariable, TensorVariable]]:
        """Return the product of a flat vector with M^-1, and the updates of the shared variables.

        ``batch`` is the metric batch (see ``on_gradient_batch``), ``metric`` what is solved with,
        and ``damping`` what is added to it. With None for the product there is no preconditioner.
        """


@config
class FunctionPreconditioner(Preconditioner):
    """Precondition with a function of operator and damping that returns the product with M^-1."""

    function: Callable[[LinearOperator, TensorVariable], Apply | None]

    def __repr__(self) -> str:
        return leaf_repr(self.function)

    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Apply | None, dict[SharedVariable, TensorVariable]]:
        return self.function(metric(batch), damping), {}


def as_preconditioner(name: str, value: Any) -> Preconditioner | None:
    """Return a preconditioner, also for a function of operator and damping; None stays None."""
    if value is None or isinstance(value, Preconditioner):
        return value
    if callable(value) and not isinstance(value, type):
        return FunctionPreconditioner(function=value)
    expected = "one such as symng.KroneckerPreconditioner(), or a callable of operator and damping"
    raise argument_error(name, expected, value, "Did you forget the parentheses?", TypeError)


def running_mean(
    old: Any, new: Any, count: Any, decay: float
) -> tuple[TensorVariable, TensorVariable, Any]:
    """Return the mean with a new value, its number of values, and whether the value is finite.

    The first ones have equal weights. One that is not finite leaves no trace.
    """
    sound = pt.isfinite(new.sum())
    dtype = old.type.dtype
    share = pt.maximum(1 / (count + 1).astype(dtype), pt.constant(1 - decay, dtype=dtype))
    return pt.switch(sound, old + share * (new - old), old), count + pt.cast(sound, "int64"), sound
