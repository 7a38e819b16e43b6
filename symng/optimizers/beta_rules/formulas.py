"""Formulas for beta, followed by a line search along the combined direction."""

from __future__ import annotations

from abc import abstractmethod

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.config import config
from symng.optimizers._damped import DampedOptimizer
from symng.optimizers._step import all_finite, in_units_of_loss, loss_and_gradient
from symng.optimizers.base import State, Step, StepBatches
from symng.optimizers.beta_rules.base import BetaRule
from symng.optimizers.step_sizes import BacktrackingLineSearch, StepSize


class BetaFormula(BetaRule):
    """Compute beta from the last two gradients and directions; the base of the three formulas.

    A subclass gives `beta`, and names what it keeps.
    """

    @property
    def default_step_size(self) -> StepSize:
        return BacktrackingLineSearch()

    @abstractmethod
    def beta(
        self, state: State, gradient: TensorVariable, natural: TensorVariable, slope: TensorVariable
    ) -> TensorVariable:
        """Return beta, from g, n, g . n and what was kept of the step before."""

    def build(self, optimizer: DampedOptimizer, batches: StepBatches, state: State) -> Step:
        loss, gradient = loss_and_gradient(batches.gradient)
        solution, operator, kept = optimizer.solve(batches, gradient, state)
        natural, previous = solution.x, state.values["search_direction"]

        # Combine with the previous direction, which is zero after a rejected step, or restart.
        slope = pt.dot(gradient, natural)
        beta = self.beta(state, gradient, natural, slope)
        combined = natural + beta * previous
        goes_on = pt.and_(all_finite(beta), pt.any(pt.neq(previous, 0)))
        goes_on = pt.and_(goes_on, pt.and_(pt.ge(beta, 0), pt.gt(pt.dot(gradient, combined), 0)))
        direction = pt.switch(goes_on, combined, natural)

        updates, records = optimizer.descend(
            batches, state, loss, gradient, solution, operator, direction
        )
        remembered = {
            "search_direction": direction,
            "previous_gradient": gradient,
            "previous_slope": slope,
        }
        updates |= self.keep(state, remembered, records["accepted"]) | kept
        records |= {
            "beta": pt.switch(goes_on, beta, pt.zeros_like(beta)),
            "restarted": pt.and_(pt.gt(state.values["step"], 0), pt.invert(goes_on)),
        }
        return Step(batches, updates, in_units_of_loss(batches.gradient, records))


@config
class PolakRibiere(BetaFormula):
    """Weigh the previous direction by beta = n . y / (n' . g').

    n is the natural direction, g the gradient, y = g - g' its change since the previous step, which
    a prime marks. A step restarts where beta is negative ("PR+"). The default step size is
    `BacktrackingLineSearch`.

    References
    ----------
    .. [1] J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, section 5.2.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalConjugateGradient(beta=symng.PolakRibiere()).step_size
    BacktrackingLineSearch()
    """

    vectors = ("search_direction", "previous_gradient")
    scalars = ("previous_slope",)

    def beta(
        self, state: State, gradient: TensorVariable, natural: TensorVariable, slope: TensorVariable
    ) -> TensorVariable:
        change = gradient - state.values["previous_gradient"]
        return pt.dot(natural, change) / state.values["previous_slope"]


@config
class FletcherReeves(BetaFormula):
    """Weigh the previous direction by beta = n . g / (n' . g').

    n is the natural direction, g the gradient, and a prime marks those of the previous step. The
    default step size is `BacktrackingLineSearch`.

    References
    ----------
    .. [1] J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, section 5.2.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalConjugateGradient(beta=symng.FletcherReeves()).step_size
    BacktrackingLineSearch()
    """

    scalars = ("previous_slope",)

    def beta(
        self, state: State, gradient: TensorVariable, natural: TensorVariable, slope: TensorVariable
    ) -> TensorVariable:
        return slope / state.values["previous_slope"]


@config
class HestenesStiefel(BetaFormula):
    """Weigh the previous direction d by beta = -n . y / (d . y), for d is what is subtracted.

    n is the natural direction, y = g - g' the change of the gradient since the previous step. The
    default step size is `BacktrackingLineSearch`.

    References
    ----------
    .. [1] J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, section 5.2.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalConjugateGradient(beta=symng.HestenesStiefel()).step_size
    BacktrackingLineSearch()
    """

    vectors = ("search_direction", "previous_gradient")
    scalars = ()

    def beta(
        self, state: State, gradient: TensorVariable, natural: TensorVariable, slope: TensorVariable
    ) -> TensorVariable:
        change = gradient - state.values["previous_gradient"]
        return -pt.dot(natural, change) / pt.dot(state.values["search_direction"], change)
