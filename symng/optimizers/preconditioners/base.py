"""Preconditioners that an optimizer keeps from step to step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, warn
from symng.graphs.config import Config, config, noted_repr, number
from symng.graphs.loops import while_loop
from symng.metrics import Metric
from symng.objective import Objective
from symng.objective.batches import Batch
from symng.optimizers.base import State
from symng.optimizers.preconditioners._factors import Kronecker
from symng.solvers import diagonal_preconditioner

Apply = Callable[[TensorVariable], TensorVariable]


class Preconditioner(Config, ABC):
    """Build the product with M^-1 of a step, from what it keeps of earlier steps; the base of such preconditioners.

    A subclass gives `init_state` and `build`. M is symmetric positive definite, and near the metric
    plus damping up to a factor.
    """

    @abstractmethod
    def init_state(self, objective: Objective, state: State) -> None:
        """Add the shared variables that it lives on to ``state``."""

    def describe(self, objective: Objective) -> str:
        """Return what it finds in the model of ``objective``, in lines; by default nothing."""
        return ""

    @abstractmethod
    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Apply, dict[SharedVariable, TensorVariable]]:
        """Return the product of a flat vector with M^-1, and the updates of the shared variables.

        ``batch`` is the metric batch, ``metric`` what is solved with, and ``damping`` what is added
        to it.
        """


def is_preconditioner(value: Any) -> bool:
    """Return whether an optimizer can take ``value``: None, a `Preconditioner`, or a callable."""
    return (
        value is None
        or isinstance(value, Preconditioner)
        or (callable(value) and not isinstance(value, type))
    )


def as_preconditioner(name: str, value: Any) -> Any:
    """Return a preconditioner of an optimizer, or refuse what is none."""
    if not is_preconditioner(value):
        expected = (
            "one such as symng.KroneckerPreconditioner(), or a callable of operator and damping"
        )
        raise argument_error(name, expected, value, "Did you forget the parentheses?", TypeError)
    return value


@config
class KroneckerPreconditioner(Preconditioner):
    """Precondition with Kronecker products, one for each dense layer, inverted one factor at a time (K-FAC).

    M is block diagonal. The block of a layer h W + b is (A + pi sqrt(lambda) I) (x) (G +
    sqrt(lambda) / pi I), with A the mean of h h^T over the examples, h with a 1 at its end for the
    bias, and G the mean of g g^T, g being the derivative of the log-likelihood by h W + b; pi^2 is
    the ratio of the mean eigenvalues of A and G. Dense layers are found on the graph: matrices that
    multiply tensors of an example a row, each at one place. Of other parameters M has the diagonal
    alone, estimated by random signs.

    The solution of the system does not change, only the number of iterations until it is reached:
    with this M a few are enough for a good direction.

    Parameters
    ----------
    decay : float, default 0.95
        Weight of the factors of earlier steps in the running means of A and G, from 0 to below 1.
    refresh : int, default 5
        The inverses are made anew every so many steps, at least 1, and in each of the first ones.

    Raises
    ------
    TypeError, ValueError
        On bad arguments; when an optimizer is built, for a likelihood without a ``metric_sqrt``.

    Warns
    -----
    UserWarning
        When an optimizer is built for a model in which no dense layer is found: M is then the
        diagonal alone.

    Notes
    -----
    `describe` lists the layers found in an objective. Once a step is built, the ``repr`` of the
    preconditioner and of the step list them, too. A vector ``w`` in ``x @ w``, a weight that is
    used twice, masked or cut out of a larger one, and one that multiplies tensors of three axes are
    no layers: of them M has the diagonal.

    A step costs a backward pass on the metric batch and, for a layer of a inputs and g outputs, N
    (a^2 + g^2) multiplications for the factors, 2 (a^3 + g^3) for the inverses where they are made,
    and a g (a + g) in each product with M^-1. Factors and inverses take 2 (a^2 + g^2) numbers. The
    derivatives g are those of s . B^T r, for random signs s and B B^T the metric of the likelihood
    on the pre-activation r, in place of targets drawn from the model: their covariance is the same.
    The signs are a function of the number of the step.

    References
    ----------
    .. [1] J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
       curvature", ICML 2015, sections 3, 6.3 and 8.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalGradient(
    ...     solver=symng.CG(maxiter=5, recompute=False), preconditioner=symng.KroneckerPreconditioner(), warm_start=0.9
    ... ).preconditioner
    KroneckerPreconditioner()
    """

    decay: float = number(default=0.95, minimum=0, below=1)
    refresh: int = number(default=5, minimum=1, integer=True)
    __repr__ = noted_repr

    def init_state(self, objective: Objective, state: State) -> None:
        kronecker = Kronecker(objective)
        # For the repr: what an optimizer was built for last. It is no setting and changes nothing.
        object.__setattr__(self, "_note", kronecker.describe())
        if all(block.is_diagonal for block in kronecker.blocks):
            warn(
                "preconditioner: expected dense layers, h @ W with a matrix W and an example in "
                "each row of h, got "
                "none in this model, so KroneckerPreconditioner is a diagonal here. "
                "JacobiPreconditioner is for any "
                "model."
            )
        size = kronecker.size
        state.add("kronecker_factors", np.zeros(size))
        state.add("kronecker_inverses", np.zeros(size))
        state.add("kronecker_updates", 0, "int64")

    def describe(self, objective: Objective) -> str:
        """Return which dense layers are found, with their biases, and of which parameters M has the diagonal."""
        return Kronecker(objective).describe()

    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Apply, dict[SharedVariable, TensorVariable]]:
        kronecker = Kronecker(batch.objective)
        old, inverses, count = (
            state.values[f"kronecker_{name}"] for name in ("factors", "inverses", "updates")
        )

        def factors_of(o: Objective, offset: Any) -> list[TensorVariable]:
            blocks = kronecker if o is batch.objective else Kronecker(o)  # of a chunk
            return [blocks.factors(state.values["step"], offset)]

        new = batch.mean(factors_of)[0]
        factors, counted, sound = _running_mean(old, new, count, self.decay)
        # A loop of one round or none, for not every backend has a branch that is not computed.
        due = pt.or_(pt.eq(count % self.refresh, 0), pt.lt(count, self.refresh)) & sound
        start = {"matrices": pt.switch(due, factors, inverses), "due": due}
        final = while_loop(
            lambda s: {
                "matrices": kronecker.invert(s["matrices"], damping),
                "due": pt.zeros_like(s["due"]),
            },
            lambda s: s["due"],
            start,
            1,
        )
        updates = {old: factors, inverses: final["matrices"], count: counted}
        return lambda v: kronecker.apply(final["matrices"], v), updates


@config
class JacobiPreconditioner(Preconditioner):
    """Precondition with the diagonal of the metric, estimated by random signs and averaged over steps.

    M = diag(max(d, 0) + lambda), where d is the running mean of an estimate whose expectation is
    the diagonal of F, that of `LinearOperator.diagonal`: (R^T s)^2 where F = R^T R is known,
    elsewhere Hutchinson's s * (F s), with s a vector of random signs. For any metric, and any
    model.

    Parameters
    ----------
    draws : int, default 1
        Vectors of signs for the estimate of a step, at least 1.
    decay : float, default 0.95
        Weight of earlier steps in the running mean, from 0 to below 1.

    Raises
    ------
    TypeError, ValueError
        On bad arguments.

    Notes
    -----
    A step costs ``draws`` products with the metric or with R^T. The signs are a function of the
    number of the step. For a preconditioner of a single solve, take
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

    def init_state(self, objective: Objective, state: State) -> None:
        state.add("jacobi_diagonal", np.zeros(objective.size))
        state.add("jacobi_updates", 0, "int64")

    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Apply, dict[SharedVariable, TensorVariable]]:
        old, count = state.values["jacobi_diagonal"], state.values["jacobi_updates"]
        estimate = metric(batch).diagonal(self.draws, seed=state.values["step"])
        diagonal, counted, _ = _running_mean(old, estimate, count, self.decay)
        positive = pt.maximum(diagonal, pt.zeros_like(diagonal))
        return diagonal_preconditioner(positive, damping, exponent=1.0), {
            old: diagonal,
            count: counted,
        }


def _running_mean(
    old: Any, new: Any, count: Any, decay: float
) -> tuple[TensorVariable, TensorVariable, Any]:
    """Return the mean with a new value, the number of values in it, and whether that value is finite.

    The first ones have equal weights. One that is not finite leaves no trace.
    """
    sound = pt.isfinite(new.sum())
    dtype = old.type.dtype
    share = pt.maximum(1 / (count + 1).astype(dtype), pt.constant(1 - decay, dtype=dtype))
    return pt.switch(sound, old + share * (new - old), old), count + pt.cast(sound, "int64"), sound
