"""The preconditioner of Hessian-free: a power of the mean squared gradients of single examples."""

from __future__ import annotations

from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, warn
from symng.graphs.config import config
from symng.metrics import EmpiricalFisher, Metric
from symng.objective.batches import Batch
from symng.operators import Product
from symng.optimizers.base import State, Updates
from symng.optimizers.preconditioners.base import Preconditioner, as_preconditioner
from symng.solvers import diagonal_preconditioner


@config
class MartensPreconditioner(Preconditioner):
    """Precondition with M = diag(D + lambda)^0.75, D the mean of squared per-example gradients.

    It is built on the gradient batch. Where the losses of single examples are not known, a warning
    says that there is no preconditioner.
    """

    on_gradient_batch = True

    def __repr__(self) -> str:
        return "'martens'"

    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Product | None, Updates]:
        if any(term.objective.example_losses is None for term in batch.terms):
            warn(
                "preconditioner: the losses of single examples were not found in the loss, so "
                "there is none. Give Objective(..., example_losses=...), or preconditioner=None "
                "to do without."
            )
            return None, {}
        diagonal = EmpiricalFisher().diagonal(batch, seed=state.values["step"])
        return diagonal_preconditioner(diagonal, damping), {}


def as_preconditioner_or_martens(name: str, value: object) -> Preconditioner | None:
    """Return a preconditioner, also for "martens" and for a function; None stays None."""
    if isinstance(value, str) and value == "martens":
        return MartensPreconditioner()
    try:
        return as_preconditioner(name, value)
    except TypeError:
        expected = "'martens', None, a Preconditioner or a callable of operator and damping"
        raise argument_error(name, expected, value) from None
