"""Step size and beta together, in the plane of the natural and the previous direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import check_number
from symng.graphs.config import config, number
from symng.operators import LinearOperator
from symng.optimizers._damped import DampedOptimizer, image_of, solve_records
from symng.optimizers._plane_search import search_plane
from symng.optimizers._step import (
    all_finite,
    conclude,
    has_direction,
    in_units_of_loss,
    loss_along,
    loss_and_gradient,
    norm,
    plane_minimizer,
    rounding_of,
)
from symng.optimizers.base import HostSearch, State, Step, StepBatches
from symng.optimizers.beta_rules.base import BetaRule
from symng.optimizers.step_sizes import FixedStep, StepSize
from symng.solvers import Solution


class PlaneRule(BetaRule):
    """Keep the update as the previous direction d, which divides by no step size."""

    scalars = ("previous_step_size",)

    def records(
        self, state: State, alpha: TensorVariable, b: TensorVariable
    ) -> dict[str, TensorVariable]:
        """Return the records of a step alpha n + b d."""
        previous = state.values["search_direction"]
        return {
            "step_size": alpha,
            # d is the previous direction times its alpha.
            "beta": b * state.values["previous_step_size"] / alpha,
            "restarted": pt.and_(pt.gt(state.values["step"], 0), pt.all(pt.eq(previous, 0))),
        }


@config
class QuadraticModel(PlaneRule):
    """Minimize the quadratic model in the plane of both directions, in one stage, as K-FAC does.

    The model is that of the metric batch, damping and all. The step size is a factor of the step
    that the model asks for, by default 1.0. The previous direction is left out where both are
    parallel in the metric but for rounding errors, or the metric is not positive there.

    Notes
    -----
    It costs a product with the metric more than `NaturalGradient`, or two where the solver does not
    know its residual.

    References
    ----------
    .. [1] J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
       curvature", ICML 2015, section 7.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalConjugateGradient(beta=symng.QuadraticModel()).step_size
    FixedStep()
    """

    @property
    def default_step_size(self) -> StepSize:
        return FixedStep()

    def build(self, optimizer: DampedOptimizer, batches: StepBatches, state: State) -> Step:
        loss, gradient = loss_and_gradient(batches.gradient)
        solution, operator, kept = optimizer.solve(batches, gradient, state)
        natural, previous = solution.x, state.values["search_direction"]

        # The lowest point of the model in the plane of both. After a rejected step d is zero.
        images = _images(operator.damped(state.values["damping"]), solution, gradient, previous)
        alpha, b = plane_minimizer(
            (pt.dot(gradient, natural), pt.dot(gradient, previous)),
            (pt.dot(natural, images[0]), pt.dot(previous, images[0]), pt.dot(previous, images[1])),
        )
        direction = alpha * natural + b * previous

        updates, records = optimizer.descend(
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
        updates |= self.keep(state, remembered, records["accepted"]) | kept
        records |= self.records(state, size * alpha, size * b)
        return Step(batches, updates, in_units_of_loss(batches.gradient, records))


@config
class PlaneSearch(PlaneRule):
    """Search for step size and beta together: the lowest loss in the plane of both directions.

    They minimize L(theta - alpha n - b d) with b = alpha beta on the search batch (equation 21), by
    SciPy's COBYLA on a compiled function, from the minimizer of the quadratic model in the plane of
    n and d. That loss never rises. This is the paper's NCG-L.

    Parameters
    ----------
    max_evaluations : int, default 40
        Evaluations of the loss in a step at most, at least 1.
    radius, tolerance : float, default 0.5 and 0.01
        The first and the last size of COBYLA's changes, its ``rhobeg`` and ``tol``, above 0, in
        units of the step that the quadratic model asks for; ``tolerance`` at most ``radius``.

    Notes
    -----
    It costs two products with the metric more than `NaturalGradient`, of n and d, and a forward
    pass on the search batch for each evaluation. It divides the step into two stages, so that
    ``updates`` is refused.

    The reduction ratio compares the decrease found with the one that the model promises for n
    alone. Compared with the promise for the whole update it would be near 1/2 whatever the damping,
    for at the minimum along any line a quadratic has fallen by half of what its slope says.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, arXiv:1301.3584, section 9, equation 21.
    .. [2] M. Powell, "A direct search optimization method that models the objective and constraint
       functions by linear interpolation", 1994.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalConjugateGradient(beta=symng.PlaneSearch(max_evaluations=20)).beta
    PlaneSearch(max_evaluations=20)
    """

    max_evaluations: int = number(default=40, minimum=1, integer=True)
    radius: float = number(default=0.5, above=0)
    tolerance: float = number(default=1e-2, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("tolerance", self.tolerance, above=0, maximum=self.radius)

    @property
    def default_step_size(self) -> None:
        return None

    def build(self, optimizer: DampedOptimizer, batches: StepBatches, state: State) -> Step:
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
        solution, operator, kept = optimizer.solve(batches, gradient, state)
        plane = pt.stack([solution.x, previous])
        images = pt.stack(_images(operator.damped(damping), solution, gradient, previous))
        slopes = carry("slopes", pt.dot(plane, gradient))
        carry("curvature", pt.dot(plane, images.T))
        carry("searched_loss", pt.cast(batches.for_search.loss(), state.dtype))
        # For n alone, not for the update that is found: see the notes above.
        promised = carry(
            "promised",
            optimizer.damping.predicted_decrease(operator, damping, gradient, solution.x),
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
            optimizer.damping,
            loss=loss,
            new_loss=new_loss,
            update=update,
            predicted=promised,
            sound=pt.and_(solved, found),
        )
        updates |= optimizer.keep_direction(
            state, solution.x, slopes[0], pt.and_(solved, all_finite(loss, new_loss))
        )
        remembered = {"search_direction": update, "previous_step_size": alpha}
        updates |= self.keep(state, remembered, records["accepted"])
        updates |= {variable: carry(str(variable.name), value) for variable, value in kept.items()}
        records |= self.records(state, alpha, b)
        records |= {"gradient_norm": gradient_norm, **solve_records(solution)}
        searched = loss_along(batches.for_search, update)(one)
        search = HostSearch(carried, coefficients, searched, self.find)
        return Step(batches, updates, in_units_of_loss(batches.gradient, records), search)

    def find(self, loss_at: Callable[[np.ndarray], float], values: Mapping[str, Any]) -> np.ndarray:
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
    """Return (F + lambda I) times both directions; that of n is g - r where the solver knows r."""
    image = image_of(solution, gradient)
    return damped @ solution.x if image is None else image, damped @ previous
