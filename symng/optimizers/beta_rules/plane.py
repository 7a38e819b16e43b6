"""Step size and beta together, in the plane of the natural and the previous direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import check_number
from symng.graphs.config import config, number
from symng.optimizers._damped import DampedOptimizer, DampedSolve
from symng.optimizers._plane_search import search_plane
from symng.optimizers._step import (
    accept_or_reject,
    all_finite,
    in_units_of_loss,
    loss_along,
    rounding_of,
    searched_loss,
)
from symng.optimizers.base import Carried, HostSearch, Records, State, Step, StepBatches, Updates
from symng.optimizers.beta_rules.base import BetaRule
from symng.optimizers.model_step_sizes import line_minimizer
from symng.optimizers.step_sizes import FixedStep, StepSize


class PlaneRule(BetaRule):
    """Keep the update itself as the previous direction d, so that no step size divides it."""

    scalars = ("previous_step_size",)

    def records(self, state: State, alpha: TensorVariable, b: TensorVariable) -> Records:
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
    parallel in the metric up to rounding errors, or the metric is not positive there.

    Notes
    -----
    It costs one more product with the metric than `NaturalGradient`, or two where the solver does
    not know its residual or the solve has another damping than the model.

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
        solve = optimizer.solve(batches, state)
        natural, previous = solve.solution.x, state.values["search_direction"]

        # The lowest point of the model in the plane of both. After a rejected step d is zero.
        images = _images(solve, previous, state.values["damping"])
        alpha, b = plane_minimizer(
            (solve.slope, pt.dot(solve.gradient, previous)),
            (pt.dot(natural, images[0]), pt.dot(previous, images[0]), pt.dot(previous, images[1])),
        )
        direction = alpha * natural + b * previous
        image = alpha * images[0] + b * images[1]

        updates, records = optimizer.descend(batches, state, solve, direction, image=image)
        size = records["step_size"]
        remembered = {"search_direction": size * direction, "previous_step_size": size * alpha}
        updates |= self.keep(state, remembered, records["accepted"])
        records |= self.records(state, size * alpha, size * b)
        return Step(batches, updates, in_units_of_loss(batches.gradient, records))


class FirstStage(NamedTuple):
    """What the second stage of a search takes from the first, as inputs of its graph."""

    loss: TensorVariable
    searched: TensorVariable  # the loss on the search batch
    natural: TensorVariable
    slopes: TensorVariable  # g . n and g . d
    promised: TensorVariable  # the decrease of the loss that the model predicts along n
    has_direction: TensorVariable
    updates: Updates  # of the preconditioner
    records: Records  # of the solve


@config
class PlaneSearch(PlaneRule):
    """Search for step size and beta together: the lowest loss in the plane of both directions.

    They minimize L(theta - alpha n - b d) with b = alpha beta on the search batch (equation 21), by
    SciPy's COBYLA on a compiled function, from the minimizer of the quadratic model in the plane of
    n and d. That loss never rises. This is the paper's NCG-L.

    Parameters
    ----------
    max_evaluations : int, default 40
        The limit on evaluations of the loss in a step, at least 1.
    radius, tolerance : float, default 0.5 and 0.01
        The first and the last size of COBYLA's changes, its ``rhobeg`` and ``tol``, above 0, in
        units of the step that the quadratic model asks for; ``tolerance`` at most ``radius``.

    Notes
    -----
    It costs two more products with the metric than `NaturalGradient`, those of n and d, and a
    forward pass on the search batch for each evaluation. It divides the step into two stages, so
    that ``updates`` is refused.

    The reduction ratio compares the decrease found with the one that the model promises for n
    alone. Compared with the promise for the whole update it would be near 1/2 whatever the damping:
    at the minimum along any line a quadratic has fallen by half of what its slope says.

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
        first, carried = self._first_stage(optimizer, batches, state)

        # The second stage, from the coefficients that were found.
        coefficients = pt.vector("coefficients", dtype=state.dtype, shape=(2,))
        alpha, b = coefficients[0], coefficients[1]
        update = alpha * first.natural + b * state.values["search_direction"]
        one = pt.constant(1, dtype=state.dtype)
        new_loss = loss_along(batches.gradient, update)(one)
        searched = loss_along(batches.for_search, update)(one)
        # At an optimum there is nothing to gain, and finding nothing is no failure.
        optimal = pt.le(abs(first.slopes[0]), rounding_of(first.loss))
        found = pt.or_(pt.any(pt.neq(coefficients, 0)), optimal)
        updates, records = accept_or_reject(
            batches.params,
            state,
            optimizer.damping,
            loss=first.loss,
            new_loss=new_loss,
            update=update,
            predicted=first.promised,
            sound=pt.and_(first.has_direction, found),
            searched=(first.searched, searched),
            niter=first.records["solver_iterations"],
            status=first.records["solver_status"],
        )
        usable = pt.and_(first.has_direction, all_finite(first.loss, new_loss))
        updates |= optimizer.keep_direction(state, first.natural, first.slopes[0], usable)
        remembered = {"search_direction": update, "previous_step_size": alpha}
        updates |= self.keep(state, remembered, records["accepted"])
        updates |= first.updates
        records |= self.records(state, alpha, b)
        records |= first.records
        search = HostSearch(carried, coefficients, searched, self.find)
        return Step(batches, updates, in_units_of_loss(batches.gradient, records), search)

    def _first_stage(
        self, optimizer: DampedOptimizer, batches: StepBatches, state: State
    ) -> tuple[FirstStage, Carried]:
        """Return the natural direction and the model in its plane with the previous one."""
        damping, previous = state.values["damping"], state.values["search_direction"]
        solve = optimizer.solve(batches, state)
        natural = solve.solution.x
        plane = pt.stack([natural, previous])
        images = pt.stack(_images(solve, previous, damping))
        # For n alone, not for the update that is found: see the notes above.
        promised = optimizer.damping.predicted_decrease(
            solve.operator, damping, solve.gradient, natural
        )
        carried = Carried()
        carried.add("curvature", pt.dot(plane, images.T))
        first = FirstStage(
            loss=carried.add("loss", solve.loss),
            searched=carried.add("searched_loss", searched_loss(batches)),
            natural=carried.add("natural", natural),
            slopes=carried.add("slopes", pt.dot(plane, solve.gradient)),
            promised=carried.add("promised", promised),
            has_direction=carried.add("has_direction", solve.has_direction),
            updates={v: carried.add(str(v.name), value) for v, value in solve.updates.items()},
            records={name: carried.add(name, value) for name, value in solve.records.items()},
        )
        return first, carried

    def find(
        self, loss_at: Callable[[np.ndarray], float], values: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Return alpha and b, from what the first stage computed."""
        return search_plane(
            loss_at,
            float(values["searched_loss"]),
            np.asarray(values["slopes"]),
            np.asarray(values["curvature"]),
            max_evaluations=self.max_evaluations,
            radius=self.radius,
            tolerance=self.tolerance,
        )


def _images(
    solve: DampedSolve, previous: TensorVariable, damping: TensorVariable
) -> tuple[TensorVariable, TensorVariable]:
    """Return (F + lambda I) times both directions; that of n is g - r where the solver knows r."""
    damped = solve.operator.damped(damping)
    image = solve.image
    return damped @ solve.solution.x if image is None else image, damped @ previous


def plane_minimizer(
    slopes: tuple[TensorVariable, TensorVariable],
    curvature: tuple[TensorVariable, TensorVariable, TensorVariable],
) -> tuple[TensorVariable, TensorVariable]:
    """Return the minimizer c of the model -c . s + c . K c / 2 in the plane of two vectors.

    ``curvature`` holds K_11, K_12 and K_22. Where K determines no minimum (the vectors are parallel
    up to rounding, one is zero, or K is not positive) the second vector is left out, c_2 = 0; where
    K_11 is not positive either, c is (1, 0).
    """
    (s_1, s_2), (k_11, k_12, k_22) = slopes, curvature
    determinant = k_11 * k_22 - k_12 * k_12
    # 1 - cos^2 of the angle between them in the metric: below sqrt(eps) it is all rounding errors.
    rounding = np.sqrt(np.finfo(s_1.dtype).eps).astype(s_1.dtype)
    independent = pt.gt(determinant, rounding * k_11 * k_22)
    rises = pt.gt(k_11, 0)
    both = pt.and_(pt.and_(rises, pt.gt(k_22, 0)), independent)
    alone = line_minimizer(s_1, k_11)
    c_1 = pt.switch(both, (k_22 * s_1 - k_12 * s_2) / determinant, alone)
    c_2 = pt.switch(both, (k_11 * s_2 - k_12 * s_1) / determinant, pt.zeros_like(s_2))
    return c_1, c_2
