"""Preconditioners that an optimizer keeps from step to step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import check_number
from symng._loop import while_loop
from symng.metrics._kronecker import Kronecker
from symng.objective import Objective
from symng.optimizers.base import State

Apply = Callable[[TensorVariable], TensorVariable]


class Preconditioner(ABC):
    """Build the product with M^-1 of a step, from what it keeps of earlier steps; the base of such preconditioners.

    A subclass gives `init_state` and `build`. M is symmetric positive definite, and near the metric plus damping up to
    a factor.
    """

    @abstractmethod
    def init_state(self, objective: Objective, state: State) -> None:
        """Add the shared variables that it lives on to ``state``."""

    @abstractmethod
    def build(
        self, measured: Objective, state: State, damping: TensorVariable
    ) -> tuple[Apply, dict[SharedVariable, TensorVariable]]:
        """Return the product of a flat vector with M^-1, and the updates of the shared variables.

        ``measured`` is the objective on the metric batch, and ``damping`` what is added to the metric.
        """


def is_preconditioner(value: Any) -> bool:
    """Tell whether an optimizer can take ``value``: none, one of this module, or a function of operator and damping."""
    return value is None or isinstance(value, Preconditioner) or (callable(value) and not isinstance(value, type))


@dataclass(frozen=True, kw_only=True)
class KroneckerPreconditioner(Preconditioner):
    """Precondition with Kronecker products, one for each dense layer, inverted one factor at a time (K-FAC).

    M is block diagonal. The block of a layer h W + b is (A + pi sqrt(lambda) I) (x) (G + sqrt(lambda) / pi I), with A
    the mean of h h^T over the examples, h with a 1 at its end for the bias, and G the mean of g g^T, g being the
    derivative of the log-likelihood by h W + b; pi^2 is the ratio of the mean eigenvalues of A and G. Dense layers are
    found on the graph: matrices that multiply tensors of an example a row, each at one place. Of other parameters M
    has the diagonal alone, estimated by random signs.

    The solution of the system does not change, only the number of iterations until it is reached: with this M a few
    are enough for a good direction.

    Parameters
    ----------
    decay : float, default 0.95
        Weight of the factors of earlier steps in the running means of A and G, from 0 to below 1.
    refresh : int, default 5
        The inverses are made anew every so many steps, at least 1, and in each of the first ones.

    Raises
    ------
    TypeError, ValueError
        On bad arguments; when an optimizer is built, for a likelihood without a ``metric_root``.

    Notes
    -----
    A step costs a backward pass on the metric batch and, for a layer of a inputs and g outputs, N (a^2 + g^2)
    multiplications for the factors, 2 (a^3 + g^3) for the inverses where they are made, and a g (a + g) in each
    product with M^-1. Factors and inverses take 2 (a^2 + g^2) numbers. The derivatives g are those of s . B^T r, for
    random signs s and B B^T the metric of the likelihood on the pre-activation r, in place of targets drawn from the
    model: their covariance is the same. The signs are a function of the number of the step.

    References
    ----------
    .. [1] J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML
       2015, sections 3, 6.3 and 8.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalGradient(
    ...     solver=symng.CG(maxiter=5, recompute=False), preconditioner=symng.KroneckerPreconditioner(), warm_start=0.9
    ... ).preconditioner
    KroneckerPreconditioner(decay=0.95, refresh=5)
    """

    decay: float = 0.95
    refresh: int = 5

    def __post_init__(self) -> None:
        check_number("decay", self.decay, minimum=0, below=1)
        check_number("refresh", self.refresh, minimum=1, integer=True)

    def init_state(self, objective: Objective, state: State) -> None:
        size = Kronecker(objective).size
        state.add("kronecker_factors", np.zeros(size))
        state.add("kronecker_inverses", np.zeros(size))
        state.add("kronecker_updates", 0, "int64")

    def build(
        self, measured: Objective, state: State, damping: TensorVariable
    ) -> tuple[Apply, dict[SharedVariable, TensorVariable]]:
        kronecker = Kronecker(measured)
        old, inverses, count = (state.values[f"kronecker_{name}"] for name in ("factors", "inverses", "updates"))
        new = measured.total(lambda o: [Kronecker(o).factors(state.values["step"])], "mean")[0]
        # A batch that is not finite leaves no trace.
        sound = pt.isfinite(new.sum())
        share = pt.maximum(1 / (count + 1).astype(state.dtype), pt.constant(1 - self.decay, dtype=state.dtype))
        factors = pt.switch(sound, old + share * (new - old), old)
        # A loop of one round or none, for not every backend has a branch that is not computed.
        due = pt.or_(pt.eq(count % self.refresh, 0), pt.lt(count, self.refresh)) & sound
        start = {"matrices": pt.switch(due, factors, inverses), "due": due}
        final = while_loop(
            lambda s: {"matrices": kronecker.invert(s["matrices"], damping), "due": pt.zeros_like(s["due"])},
            lambda s: s["due"],
            start,
            1,
        )
        updates = {old: factors, inverses: final["matrices"], count: count + pt.cast(sound, "int64")}
        return lambda v: kronecker.apply(final["matrices"], v), updates
