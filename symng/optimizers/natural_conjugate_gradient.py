"""Natural conjugate gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, check_number
from symng.graphs.config import choice, config, number, setting
from symng.objective import Objective
from symng.operators import LinearOperator
from symng.optimizers._damped import DampedOptimizer, image_of, solve_records
from symng.optimizers._plane_search import search_plane
from symng.optimizers._step import (
    NO_SEARCH,
    all_finite,
    conclude,
    has_direction,
    in_units_of_loss,
    loss_along,
    loss_and_gradient,
    norm,
    plane_minimizer,
    predicted_decrease,
    refuse_batch,
    rounding_of,
)
from symng.optimizers.base import HostSearch, State, Step, StepBatches
from symng.optimizers.step_sizes import BacktrackingLineSearch, FixedStep, StepSize, as_step_size
from symng.solvers import Solution

Formula = Literal["polak-ribiere", "fletcher-reeves", "hestenes-stiefel"]
Beta = Literal["search", "quadratic", Formula]
_OF_THE_SEARCH = ("max_evaluations", "radius", "tolerance")


def _as_step_size(name: str, value: Any) -> StepSize | None:
    """Return a rule for the step size, or None, whose meaning depends on beta."""
    return None if value is None else as_step_size(name, value)


@config
class NaturalConjugateGradient(DampedOptimizer):
    """Descend along the natural direction combined with the previous search direction (section 9).

    With (F + lambda I) n = g as in `NaturalGradient` and d the previous direction, the new one is n
    + beta d (equation 22), and theta <- theta - alpha (n + beta d).

    ``beta="search"``, the paper's NCG-L, finds alpha and b = alpha beta together: those of the
    lowest loss L(theta - alpha n - b d) on the search batch (equation 21), by SciPy's COBYLA on a
    compiled function, from the minimizer of the quadratic model in the plane of n and d. That loss
    never rises. On a quadratic loss the new direction is conjugate to the previous one with respect
    to the Hessian, whatever the metric.

    ``beta="quadratic"`` takes the minimizer of that model as it is, in one stage, as K-FAC does for
    minibatches [6]_. It costs a product with the metric more than `NaturalGradient`, or two where
    the solver does not tell its residual.

    The formulas, NCG-F, leave out of account that the metric changes from step to step. With y = g
    - g' the change of the gradient since the previous step, marked by a prime, and alpha from a
    line search,

    - "polak-ribiere": beta = n . y / (n' . g'),
    - "fletcher-reeves": beta = n . g / (n' . g'),
    - "hestenes-stiefel": beta = -n . y / (d . y), for d is what is subtracted.

    A restart gives d up and goes on from n alone: after a rejected step; with a formula also where
    beta is negative (as in SciPy's ``fmin_cg``; "PR+") or not finite, or where n + beta d does not
    descend, g . (n + beta d) <= 0. It is recorded as ``restarted``. The search needs no such test:
    it goes by the loss itself.

    A step that is not finite, that the damping rule refuses, or for which no lower loss is found,
    leaves the parameters as they were, raises the damping and is recorded as rejected.

    Parameters
    ----------
    metric : Metric, default Fisher()
        What is solved with.
    solver : CG or MinresQLP, default MinresQLP(rtol=1e-4, maxiter=50)
        How it is solved.
    damping : Damping or float, default LevenbergMarquardt(initial=3.0)
        A rule, or a number at least 0 that stays.
    step_size : float, callable, symbolic scalar or StepSize, optional
        alpha of a formula, as in `NaturalGradient`. Default: `BacktrackingLineSearch`. With
        ``beta="quadratic"`` a factor of the step that the model asks for, by default 1.0. None with
        ``beta="search"``.
    warm_start : float, default 0.0
        Each solve starts from this times the previous natural direction; 0 starts from zero. From 0
        to 1.
    preconditioner : Preconditioner or callable, optional
        `KroneckerPreconditioner`, or a function from (operator, damping) to a callable or operator
        that applies M^-1 to a vector.
    beta : {"search", "quadratic", "polak-ribiere", "fletcher-reeves", "hestenes-stiefel"}, default "search"
        Where the weight of the previous direction comes from.
    max_evaluations : int, default 40
        Of the search: evaluations of the loss in a step at most, at least 1.
    radius, tolerance : float, default 0.5 and 0.01
        Of the search: the first and the last size of COBYLA's changes, its ``rhobeg`` and ``tol``,
        above 0, in units of the step that the quadratic model asks for.

    Notes
    -----
    A step costs what one of `NaturalGradient` does. The search costs two products with the metric
    more, of n and d, and a forward pass on the search batch for each evaluation; it divides the
    step into two stages, so that ``updates`` is refused. A formula costs nothing but its line search.
    Stored are d, and g for "polak-ribiere" and "hestenes-stiefel". "search" and "quadratic" store
    the whole update as d: the line is the same, and nothing is divided by an alpha that may be 0.
    The record ``beta`` is that of equation 22.

    With the search, the reduction ratio compares the decrease found with the one that the model
    promises for n alone. Compared with the promise for the whole update it would be near 1/2
    whatever the damping, for at the minimum along any line a quadratic has fallen by half of what
    its slope says.

    With "quadratic" d is left out where n and d are parallel in the metric but for rounding errors,
    or the metric is not positive there. The model is that of the metric batch, damping and all.

    The search and the formulas are made for full batches: with minibatches neither y nor d belongs
    to the loss at hand.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, arXiv:1301.3584, section 9, equations 21 to 23.
    .. [2] A. Gonzalez and J. Dorronsoro, "Natural conjugate gradient training of multilayer
       perceptrons", ICANN 2006.
    .. [3] A. Honkela, T. Raiko, M. Kuusela, M. Tornio and J. Karhunen, "Approximate Riemannian
       conjugate gradient learning for fixed-form variational Bayes", JMLR 11, 2010.
    .. [4] J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, section 5.2.
    .. [5] M. Powell, "A direct search optimization method that models the objective and constraint
       functions by linear interpolation", 1994.
    .. [6] J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
       curvature", ICML 2015, section 7.

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

    step_size: Any = setting(convert=_as_step_size, default=None)
    beta: Beta = choice(Beta, default="search")
    max_evaluations: int = number(default=40, minimum=1, integer=True)
    radius: float = number(default=0.5, above=0)
    tolerance: float = number(default=1e-2, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_step_size()
        check_number("tolerance", self.tolerance, above=0, maximum=self.radius)
        if not self._searches_plane:
            for f in fields(self):
                value = getattr(self, f.name)
                if f.name in _OF_THE_SEARCH and value != f.default:
                    expected = f"{f.default}, the default, with beta={self.beta!r}"
                    raise argument_error(
                        f.name,
                        expected,
                        value,
                        "It is for beta='search'; a line search has its own.",
                    )

    def _check_step_size(self) -> None:
        if self._searches_plane:
            if self.step_size is not None:
                expected = "None with beta='search', which finds alpha and beta together"
                raise argument_error(
                    "step_size",
                    expected,
                    self.step_size,
                    "Leave it out, or give beta='polak-ribiere'.",
                )
            return
        if self.step_size is None:
            rule = FixedStep() if self.beta == "quadratic" else BacktrackingLineSearch()
            object.__setattr__(self, "step_size", rule)

    @property
    def _searches_plane(self) -> bool:
        return self.beta == "search"

    def init_state(self, objective: Objective) -> State:
        state = super().init_state(objective)
        state.add("search_direction", np.zeros(objective.size))
        if self.beta in ("search", "quadratic"):
            state.add("previous_step_size", 0.0)
        if self.beta in ("polak-ribiere", "hestenes-stiefel"):
            state.add("previous_gradient", np.zeros(objective.size))
        if self.beta in ("polak-ribiere", "fletcher-reeves"):
            state.add("previous_slope", 0.0)
        return state

    def build(self, batches: StepBatches, state: State) -> Step:
        searches = self._searches_plane or self.step_size.searches
        refuse_batch("search_batch", None if searches else batches.search, *NO_SEARCH)
        batches = batches.averaged()
        if self._searches_plane:
            return self._build_search(batches, state)
        if self.beta == "quadratic":
            return self._build_quadratic(batches, state)
        return self._build_formula(batches, state)

    def _build_formula(self, batches: StepBatches, state: State) -> Step:
        """Return the step of one stage, beta by a formula."""
        loss, gradient = loss_and_gradient(batches.gradient)
        solution, operator, kept = self.solve(batches.for_metric, gradient, state)
        natural, previous = solution.x, state.values["search_direction"]

        # Combine with the previous direction, which is zero after a rejected step, or restart.
        natural_slope = pt.dot(gradient, natural)
        beta = self._beta(state, gradient, natural, natural_slope)
        combined = natural + beta * previous
        goes_on = pt.and_(all_finite(beta), pt.any(pt.neq(previous, 0)))
        goes_on = pt.and_(goes_on, pt.and_(pt.ge(beta, 0), pt.gt(pt.dot(gradient, combined), 0)))
        direction = pt.switch(goes_on, combined, natural)

        updates, records = self.descend(
            batches, state, loss, gradient, solution, operator, direction
        )
        remembered = {
            "search_direction": direction,
            "previous_gradient": gradient,
            "previous_slope": natural_slope,
        }
        updates |= _keep(state, remembered, records["accepted"]) | kept
        records |= {
            "beta": pt.switch(goes_on, beta, pt.zeros_like(beta)),
            "restarted": pt.and_(pt.gt(state.values["step"], 0), pt.invert(goes_on)),
        }
        return Step(batches, updates, in_units_of_loss(batches.gradient, records))

    def _beta(
        self,
        state: State,
        gradient: TensorVariable,
        natural: TensorVariable,
        natural_slope: TensorVariable,
    ) -> TensorVariable:
        """Return beta by its formula."""
        if self.beta == "fletcher-reeves":
            return natural_slope / state.values["previous_slope"]
        change = gradient - state.values["previous_gradient"]
        if self.beta == "hestenes-stiefel":
            return -pt.dot(natural, change) / pt.dot(state.values["search_direction"], change)
        return pt.dot(natural, change) / state.values["previous_slope"]

    def _build_quadratic(self, batches: StepBatches, state: State) -> Step:
        """Return the step of one stage, alpha and b from the quadratic model."""
        loss, gradient = loss_and_gradient(batches.gradient)
        solution, operator, kept = self.solve(batches.for_metric, gradient, state)
        natural, previous = solution.x, state.values["search_direction"]

        # The lowest point of the model in the plane of both. After a rejected step d is zero.
        images = _images(operator.damped(state.values["damping"]), solution, gradient, previous)
        alpha, b = plane_minimizer(
            (pt.dot(gradient, natural), pt.dot(gradient, previous)),
            (pt.dot(natural, images[0]), pt.dot(previous, images[0]), pt.dot(previous, images[1])),
        )
        direction = alpha * natural + b * previous

        updates, records = self.descend(
            batches,
            state,
            loss,
            gradient,
            solution,
            operator,
            direction,
            image=alpha * images[0] + b * images[1],
        )
        size = records["step_size"]
        remembered = {"search_direction": size * direction, "previous_step_size": size * alpha}
        updates |= _keep(state, remembered, records["accepted"]) | kept
        records |= self._records_of_plane(state, size * alpha, size * b)
        return Step(batches, updates, in_units_of_loss(batches.gradient, records))

    def _records_of_plane(
        self, state: State, alpha: TensorVariable, b: TensorVariable
    ) -> dict[str, TensorVariable]:
        """Return the records of a step alpha n + b d, with d the whole update before it."""
        previous = state.values["search_direction"]
        return {
            "step_size": alpha,
            "beta": b
            * state.values["previous_step_size"]
            / alpha,  # d is the previous direction times its alpha
            "restarted": pt.and_(pt.gt(state.values["step"], 0), pt.all(pt.eq(previous, 0))),
        }

    def _build_search(self, batches: StepBatches, state: State) -> Step:
        """Return the step of two stages, alpha and b by a search on the host between them."""
        damping, previous = state.values["damping"], state.values["search_direction"]
        carried: dict[TensorVariable, TensorVariable] = {}

        def carry(name: str, value: Any) -> Any:
            """Return what the first stage computes as an input of the second."""
            variable = value.type(name)
            carried[variable] = value
            return variable

        # The first stage: the natural direction, and the quadratic model in its plane with the
        # previous direction.
        loss, gradient = loss_and_gradient(batches.gradient)
        solution, operator, kept = self.solve(batches.for_metric, gradient, state)
        plane = pt.stack([solution.x, previous])
        images = pt.stack(_images(operator.damped(damping), solution, gradient, previous))
        slopes = carry("slopes", pt.dot(plane, gradient))
        carry("curvature", pt.dot(plane, images.T))
        carry("searched_loss", pt.cast(batches.for_search.loss(), state.dtype))
        # Not of the update that is found: see the notes above.
        promised = carry(
            "promised", predicted_decrease(self.damping, operator, damping, gradient, solution.x)
        )
        solved = carry("solved", has_direction(solution, gradient))
        loss, gradient_norm = carry("loss", loss), carry("gradient_norm", norm(gradient))
        solution = replace(
            solution,
            x=carry("natural", solution.x),
            status=carry("status", solution.status),
            niter=carry("niter", solution.niter),
            residual_norm=carry("residual_norm", solution.residual_norm),
        )

        # The second stage, from the coefficients that were found.
        coefficients = pt.vector("coefficients", dtype=state.dtype, shape=(2,))
        alpha, b = coefficients[0], coefficients[1]
        update = alpha * solution.x + b * previous
        one = pt.constant(1, dtype=state.dtype)
        new_loss = loss_along(batches.gradient, update)(one)
        # Where nothing is to be gained, at an optimum, that nothing was found is no failure.
        found = pt.or_(pt.any(pt.neq(coefficients, 0)), pt.le(abs(slopes[0]), rounding_of(loss)))
        updates, records = conclude(
            batches.params,
            state,
            self.damping,
            loss=loss,
            new_loss=new_loss,
            update=update,
            predicted=promised,
            sound=pt.and_(solved, found),
        )
        updates |= self.keep_direction(
            state, solution.x, slopes[0], pt.and_(solved, all_finite(loss, new_loss))
        )
        updates |= _keep(
            state, {"search_direction": update, "previous_step_size": alpha}, records["accepted"]
        )
        updates |= {variable: carry(str(variable.name), value) for variable, value in kept.items()}
        records |= self._records_of_plane(state, alpha, b)
        records |= {"gradient_norm": gradient_norm, **solve_records(solution)}
        search = HostSearch(
            carried, coefficients, loss_along(batches.for_search, update)(one), self._find
        )
        return Step(batches, updates, in_units_of_loss(batches.gradient, records), search)

    def _find(
        self, loss_at: Callable[[np.ndarray], float], values: Mapping[str, Any]
    ) -> np.ndarray:
        """Return alpha and b, from what the first stage computed."""
        loss, slopes, curvature = (
            np.asarray(values[name]) for name in ("searched_loss", "slopes", "curvature")
        )
        return search_plane(
            loss_at,
            float(loss),
            slopes,
            curvature,
            max_evaluations=self.max_evaluations,
            radius=self.radius,
            tolerance=self.tolerance,
        )


def _images(
    damped: LinearOperator, solution: Solution, gradient: TensorVariable, previous: TensorVariable
) -> tuple[TensorVariable, TensorVariable]:
    """Return (F + lambda I) times the natural and the previous direction; the first as g - r if the solver tells r."""
    image = image_of(solution, gradient)
    return damped @ solution.x if image is None else image, damped @ previous


def _keep(
    state: State, values: Mapping[str, TensorVariable], accepted: TensorVariable
) -> dict[Any, TensorVariable]:
    """Return the updates of those states that there are: what the next step needs, or zero, where it restarts."""
    return {
        state.values[name]: pt.switch(accepted, value, pt.zeros_like(value))
        for name, value in values.items()
        if name in state.values
    }
