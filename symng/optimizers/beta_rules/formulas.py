"""Formulas for beta, followed by a line search along the combined direction."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.config import config
from symng.optimizers._damped import DampedOptimizer
from symng.optimizers._step import all_finite, in_units_of_loss
from symng.optimizers.base import State, Step, StepBatches
from symng.optimizers.beta_rules.base import BetaRule
from symng.optimizers.step_sizes import BacktrackingLineSearch, StepSize


@dataclass(frozen=True, eq=False)
class Terms:
    """What the formulas are made of; a prime in them marks the step before.

    Attributes
    ----------
    g, n : symbolic vector
        The gradient and the natural direction.
    state : State
        What was kept of the step before.
    """

    g: TensorVariable
    n: TensorVariable
    state: State

    @property
    def slope(self) -> TensorVariable:
        """The slope n . g."""
        return pt.dot(self.g, self.n)

    @property
    def previous_slope(self) -> TensorVariable:
        """The slope n' . g' of the step before."""
        return self.state.values["previous_slope"]

    @property
    def y(self) -> TensorVariable:
        """The change of the gradient, g - g'."""
        return self.g - self.state.values["previous_gradient"]

    @property
    def d(self) -> TensorVariable:
        """The previous direction; zero after a rejected step."""
        return self.state.values["search_direction"]


class BetaFormula(BetaRule):
    """Compute beta from the last two gradients and directions; the base of the three formulas.

    Subclasses implement `beta`, and name what they keep.
    """

    @property
    def default_step_size(self) -> StepSize:
        return BacktrackingLineSearch()

    @abstractmethod
    def beta(self, terms: Terms) -> TensorVariable:
        """Return beta."""

    def build(self, optimizer: DampedOptimizer, batches: StepBatches, state: State) -> Step:
        solve = optimizer.solve(batches, state)
        terms = Terms(solve.gradient, solve.solution.x, state)

        # Combine with the previous direction, or restart.
        beta = self.beta(terms)
        combined = terms.n + beta * terms.d
        goes_on = pt.and_(all_finite(beta), pt.any(pt.neq(terms.d, 0)))
        goes_on = pt.and_(goes_on, pt.and_(pt.ge(beta, 0), pt.gt(pt.dot(terms.g, combined), 0)))
        direction = pt.switch(goes_on, combined, terms.n)

        updates, records = optimizer.descend(batches, state, solve, direction)
        remembered = {
            "search_direction": direction,
            "previous_gradient": terms.g,
            "previous_slope": terms.slope,
        }
        updates |= self.keep(state, remembered, records["accepted"])
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
    .. [1] E. Polak and G. Ribière, "Note sur la convergence de méthodes de directions conjuguées",
       Revue française d'informatique et de recherche opérationnelle 3(16), 1969.
    .. [2] J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, section 5.2: "PR+".

    Examples
    --------
    >>> import symng
    >>> symng.NaturalConjugateGradient(beta=symng.PolakRibiere()).step_size
    BacktrackingLineSearch()
    """

    vectors = ("search_direction", "previous_gradient")
    scalars = ("previous_slope",)

    def beta(self, terms: Terms) -> TensorVariable:
        return pt.dot(terms.n, terms.y) / terms.previous_slope


@config
class FletcherReeves(BetaFormula):
    """Weigh the previous direction by beta = n . g / (n' . g').

    n is the natural direction, g the gradient, and a prime marks those of the previous step. The
    default step size is `BacktrackingLineSearch`.

    References
    ----------
    .. [1] R. Fletcher and C. M. Reeves, "Function minimization by conjugate gradients", The
       Computer Journal 7(2), 1964.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalConjugateGradient(beta=symng.FletcherReeves()).step_size
    BacktrackingLineSearch()
    """

    scalars = ("previous_slope",)

    def beta(self, terms: Terms) -> TensorVariable:
        return terms.slope / terms.previous_slope


@config
class HestenesStiefel(BetaFormula):
    """Weigh the previous direction d by beta = -n . y / (d . y).

    n is the natural direction, y = g - g' the change of the gradient since the previous step. The
    sign is not the textbook's because a step subtracts d. The default step size is
    `BacktrackingLineSearch`.

    References
    ----------
    .. [1] M. R. Hestenes and E. Stiefel, "Methods of conjugate gradients for solving linear
       systems", Journal of Research of the National Bureau of Standards 49, 1952.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalConjugateGradient(beta=symng.HestenesStiefel()).step_size
    BacktrackingLineSearch()
    """

    vectors = ("search_direction", "previous_gradient")
    scalars = ()

    def beta(self, terms: Terms) -> TensorVariable:
        return -pt.dot(terms.n, terms.y) / pt.dot(terms.d, terms.y)
