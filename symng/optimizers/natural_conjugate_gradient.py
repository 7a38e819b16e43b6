"""Natural conjugate gradient."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal, get_args

from symng._checks import argument_error, check_choice
from symng.graphs.config import Setting, config, setting
from symng.objective import ObjectiveLike
from symng.optimizers._damped import DampedOptimizer
from symng.optimizers._step import NO_SEARCH, refuse_batch
from symng.optimizers.base import State, Step, StepBatches
from symng.optimizers.beta_rules import (
    BetaRule,
    FletcherReeves,
    HestenesStiefel,
    PlaneSearch,
    PolakRibiere,
    QuadraticModel,
)
from symng.optimizers.step_sizes import StepSize, StepSizeLike, as_step_size

BetaName = Literal["search", "quadratic", "polak-ribiere", "fletcher-reeves", "hestenes-stiefel"]
_RULES: dict[str, type[BetaRule]] = {
    "search": PlaneSearch,
    "quadratic": QuadraticModel,
    "polak-ribiere": PolakRibiere,
    "fletcher-reeves": FletcherReeves,
    "hestenes-stiefel": HestenesStiefel,
}
_SEARCH_SETTINGS = ("max_evaluations", "radius", "tolerance")


def _as_step_size(name: str, value: StepSizeLike | None) -> StepSize | None:
    """Return a rule for the step size, or None for that of the rule for beta."""
    return None if value is None else as_step_size(name, value)


def _as_beta(name: str, value: BetaName | BetaRule) -> BetaName | BetaRule:
    """Return a rule for beta, or the name of one, as it is."""
    if not isinstance(value, BetaRule):
        check_choice(name, value, get_args(BetaName), "Or give a rule: symng.PolakRibiere().")
    return value


@config
class NaturalConjugateGradient(DampedOptimizer):
    """Descend along the natural direction combined with the previous search direction (section 9).

    With (F + lambda I) n = g as in `NaturalGradient` and d the previous direction, the new one is n
    + beta d (equation 22), and theta <- theta - alpha (n + beta d). A rule finds beta:

    - `PlaneSearch`, the paper's NCG-L, searches for the lowest loss over alpha and beta together.
      On a quadratic loss the new direction is conjugate to the previous one with respect to the
      Hessian, whatever the metric.
    - `QuadraticModel` takes the minimizer of the quadratic model instead, as K-FAC does for
      minibatches.
    - `PolakRibiere`, `FletcherReeves` and `HestenesStiefel` are the formulas, the paper's NCG-F,
      with alpha from a line search. They ignore that the metric changes from step to step.

    A restart drops d and goes on from n alone: after a rejected step; with a formula also where
    beta is negative (as in SciPy's ``fmin_cg``; "PR+") or not finite, or where n + beta d does not
    descend, g . (n + beta d) <= 0. It is recorded as ``restarted``. The search needs no such test:
    it goes by the loss itself.

    A step that is not finite, that the damping rule refuses, or for which no lower loss is found,
    leaves the parameters as they were, raises the damping and is recorded as rejected.

    Parameters
    ----------
    metric : Metric, default Fisher()
        The metric F.
    solver : CG or MinresQLP, default MinresQLP(rtol=1e-4, maxiter=50)
        The solver of (F + lambda I) n = g.
    damping : Damping or float, default LevenbergMarquardt(initial=3.0)
        A rule, or a constant of at least 0.
    step_size : float, callable, symbolic scalar or StepSize, optional
        alpha of a formula, as in `NaturalGradient`, by default `BacktrackingLineSearch`; with
        `QuadraticModel` a factor of the step that the model asks for, by default 1.0, which
        ``KLTrustRegion(size=1.0)`` bounds; None with `PlaneSearch`.
    warm_start : float, default 0.0
        Each solve starts from this times the previous natural direction; 0 starts from zero. From 0
        to 1.
    preconditioner : Preconditioner or callable, optional
        `KroneckerPreconditioner`, or a function from (operator, damping) to a callable or operator
        that applies M^-1 to a vector.
    solve_damping : float, symbolic scalar or callable, optional
        The lambda of the solve, if it is not to be that of the quadratic model, as in
        `NaturalGradient`.
    beta : str or rule, default "search"
        Where the weight of the previous direction comes from: one of the five rules above, or its
        name, "search", "quadratic", "polak-ribiere", "fletcher-reeves" or "hestenes-stiefel".
    max_evaluations, radius, tolerance : int, float and float, default 40, 0.5 and 0.01
        The settings of `PlaneSearch`, for ``beta="search"``.

    Notes
    -----
    A step costs what one of `NaturalGradient` does, and what the rule adds. Stored are d, and g for
    "polak-ribiere" and "hestenes-stiefel"; the record ``beta`` is that of equation 22.

    The search and the formulas are made for full batches: with minibatches neither y nor d belongs
    to the loss at hand.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, arXiv:1301.3584, section 9, equations 21 to 23.
    .. [2] A. Gonzalez and J. Dorronsoro, "Natural conjugate gradient training of multilayer
       perceptrons", ICANN 2006.
    .. [3] A. Honkela, T. Raiko, M. Kuusela, M. Tornio and J. Karhunen, "Approximate Riemannian
       conjugate gradient learning for fixed-form variational Bayes", JMLR 11, 2010.

    Examples
    --------
    With two parameters the plane of the second step holds all of them, so that it finds the
    solution of least squares whatever the metric:

    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> loss = pt.sqr(y - t).mean() / 2
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> optimizer = symng.NaturalConjugateGradient(metric=symng.EmpiricalFisher(), damping=1.0)
    >>> step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE")
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> first, second = (step((X, X @ [3.0, -1.0])) for _ in range(2))
    >>> w.get_value().round(1)
    array([ 3., -1.])
    """

    # None with a rule for beta that finds the step size, too.
    step_size: Setting[StepSizeLike | None, StepSize | None] = setting(  # type: ignore[assignment]
        convert=_as_step_size, default=None
    )
    beta: BetaName | BetaRule = setting(convert=_as_beta, default="search")
    max_evaluations: int = 40
    radius: float = 0.5
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta != "search":
            self._refuse_settings_of_search()
        default = self.rule.default_step_size
        if default is None and self.step_size is not None:
            raise argument_error(
                "step_size",
                f"None with beta={self.beta!r}, which finds alpha and beta together",
                self.step_size,
                "Leave it out, or give beta='polak-ribiere'.",
            )
        if self.step_size is None:
            self._fill_in(step_size=default)

    def _refuse_settings_of_search(self) -> None:
        """Refuse settings of the search that are not the defaults."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in _SEARCH_SETTINGS and value != f.default:
                raise argument_error(
                    f.name,
                    f"{f.default}, the default, with beta={self.beta!r}",
                    value,
                    f"Give it to the rule: symng.PlaneSearch({f.name}=...)."
                    if isinstance(self.beta, PlaneSearch)
                    else "It is for beta='search'; a line search has its own.",
                )

    @property
    def rule(self) -> BetaRule:
        """The rule that ``beta`` is or names."""
        if isinstance(self.beta, BetaRule):
            return self.beta
        if self.beta == "search":
            return PlaneSearch(**{name: getattr(self, name) for name in _SEARCH_SETTINGS})
        return _RULES[self.beta]()

    @property
    def searches(self) -> bool:
        return self.step_size is None or super().searches

    def init_state(self, objective: ObjectiveLike) -> State:
        state = super().init_state(objective)
        self.rule.init_state(state, objective.size)
        return state

    def build(self, batches: StepBatches, state: State) -> Step:
        if not self.searches:
            refuse_batch("search_batch", batches.search, *NO_SEARCH)
        return self.rule.build(self, batches.averaged(), state)
