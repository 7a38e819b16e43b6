"""Preconditioning with the diagonal of the metric."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.config import config, number
from symng.metrics import Metric
from symng.objective import ObjectiveLike
from symng.objective.batches import Batch
from symng.operators import Product
from symng.optimizers.base import State, Updates
from symng.optimizers.preconditioners.base import Preconditioner, running_mean
from symng.solvers import diagonal_preconditioner


@config
class JacobiPreconditioner(Preconditioner):
    """Precondition with a running mean of the metric's diagonal, estimated by random signs.

    M = diag(max(d, 0) + lambda), where d is the running mean of an estimate whose expectation is
    the diagonal of F, that of `LinearOperator.diagonal`: (R^T s)^2 where F = R^T R is known,
    elsewhere Hutchinson's s * (F s), with s a vector of random signs. For any metric, and any
    model.

    Parameters
    ----------
    draws : int, default 1
        Vectors of signs for the estimate in a step, at least 1.
    decay : float, default 0.95
        Weight of earlier steps in the running mean, from 0 to below 1.

    Raises
    ------
    TypeError, ValueError
        On bad arguments.

    Notes
    -----
    A step costs ``draws`` products with the metric or with R^T. The signs are a function of the
    step number. For a preconditioner of a single solve, take
    ``symng.diagonal_preconditioner(operator.diagonal(draws=8), damping)``.

    References
    ----------
    .. [1] C. Bekas, E. Kokiopoulou and Y. Saad, "An estimator for the diagonal of a matrix",
       Applied Numerical Mathematics 57, 2007.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalGradient(preconditioner=symng.JacobiPreconditioner(draws=2)).preconditioner
    JacobiPreconditioner(draws=2)
    """

    draws: int = number(default=1, minimum=1, integer=True)
    decay: float = number(default=0.95, minimum=0, below=1)

    def init_state(self, objective: ObjectiveLike, state: State) -> None:
        state.add("jacobi_diagonal", np.zeros(objective.size))
        state.add("jacobi_updates", 0, "int64")

    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Product, Updates]:
        old, count = state.values["jacobi_diagonal"], state.values["jacobi_updates"]
        estimate = metric(batch).diagonal(self.draws, seed=state.values["step"])
        diagonal, counted, _ = running_mean(old, estimate, count, self.decay)
        positive = pt.maximum(diagonal, pt.zeros_like(diagonal))
        return diagonal_preconditioner(positive, damping, exponent=1.0), {
            old: diagonal,
            count: counted,
        }
