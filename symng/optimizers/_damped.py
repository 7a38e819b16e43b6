"""What optimizers that solve with a damped metric have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import is_symbolic
from symng.graphs.config import Setting, config, number, setting
from symng.graphs.types import Scalar
from symng.metrics import Fisher, Metric
from symng.metrics.base import as_metric
from symng.objective import Objective, ObjectiveLike
from symng.operators import LinearOperator
from symng.optimizers._step import (
    accept_or_reject,
    all_finite,
    has_direction,
    init_step_size,
    loss_and_gradient,
    norm,
    take_step_size,
    update_along,
)
from symng.optimizers.base import Optimizer, Records, State, StepBatches, Updates
from symng.optimizers.damping import (
    Damping,
    FixedDamping,
    LevenbergMarquardt,
    SolveDamping,
    as_damping,
    as_solve_damping,
)
from symng.optimizers.preconditioners import Preconditioner, as_preconditioner
from symng.optimizers.preconditioners.base import PreconditionerLike, build_preconditioner
from symng.optimizers.step_sizes import StepSize, StepSizeLike, as_step_size
from symng.solvers import MinresQLP, Solution, Solver
from symng.solvers.base import Solves, as_solver


@dataclass(frozen=True, eq=False, kw_only=True)
class DampedSolve:
    """The solve of (F + lambda I) p = g in a step (equation 2), as the rest of the step uses it.

    Attributes
    ----------
    loss, gradient : symbolic scalar and vector
        The loss and its gradient g, on the gradient batch.
    operator : LinearOperator
        F of the quadratic model, on the metric batch.
    solution : Solution
        p, with its verdict.
    shares_damping : bool
        Whether lambda is that of the model.
    updates : dict
        What the preconditioner updates.
    again : callable
        From another right-hand side to its solution, by the same solver and preconditioner.
    """

    loss: TensorVariable
    gradient: TensorVariable
    operator: LinearOperator
    solution: Solution
    shares_damping: bool
    updates: Updates
    again: Callable[[TensorVariable], Solution]

    @property
    def slope(self) -> TensorVariable:
        """The slope g . p of the loss along -p."""
        return pt.dot(self.gradient, self.solution.x)

    @property
    def image(self) -> TensorVariable | None:
        """(F + lambda I) p = g - r in the model, if the solver gives the residual r of that."""
        if self.solution.residual is None or not self.shares_damping:
            return None
        return self.gradient - self.solution.residual

    @property
    def has_direction(self) -> TensorVariable:
        """Whether p is a usable direction."""
        return has_direction(self.solution, self.gradient)

    @property
    def records(self) -> Records:
        """The records of the solve."""
        return {
            "gradient_norm": norm(self.gradient),
            "solver_status": self.solution.status,
            "solver_iterations": self.solution.niter,
            "residual_norm": self.solution.residual_norm,
        }


@dataclass(frozen=True, eq=False)
class ModelAlong:
    """The quadratic model along a direction p, whose products with the metric are made once.

    Attributes
    ----------
    operator, damping : LinearOperator and symbolic scalar
        F and lambda.
    direction : symbolic vector
        p.
    known_image : symbolic vector or None
        (F + lambda I) p, where it is known without a product.
    """

    operator: LinearOperator
    damping: TensorVariable
    direction: TensorVariable
    known_image: TensorVariable | None

    @cached_property
    def product(self) -> TensorVariable:
        """The product F p."""
        return self.operator @ self.direction

    @cached_property
    def image(self) -> TensorVariable:
        """The product (F + lambda I) p."""
        if self.known_image is not None:
            return self.known_image
        return self.product + self.damping * self.direction

    def curvature(self, damped: bool) -> TensorVariable:
        """Return p . (F + lambda I) p, or without damping p . F p.

        The latter is not computed from the former less lambda p . p, which might cancel.
        """
        return pt.dot(self.direction, self.image if damped else self.product)


@config
class DampedOptimizer(Optimizer):
    """Solve (F + lambda I) p = g and descend; the base of optimizers that do."""

    metric: Metric = setting(convert=as_metric, default_factory=Fisher)
    solver: Setting[Solves, Solver] = setting(
        convert=as_solver, default_factory=lambda: MinresQLP(rtol=1e-4, maxiter=50)
    )
    damping: Setting[Damping | float, Damping] = setting(
        convert=as_damping, default_factory=lambda: LevenbergMarquardt(initial=3.0)
    )
    step_size: Setting[StepSizeLike, StepSize] = setting(convert=as_step_size, default=1.0)
    warm_start: Scalar = number(default=0.0, minimum=0, maximum=1, symbolic=True)
    preconditioner: Setting[PreconditionerLike | None, Preconditioner | None] = setting(
        convert=as_preconditioner, default=None
    )
    solve_damping: SolveDamping | None = setting(convert=as_solve_damping, default=None)

    @property
    def searches(self) -> bool:
        """Whether a step evaluates the loss elsewhere, so that it may have a search batch."""
        return self.step_size.searches or self.damping.on_search_batch

    def metric_inputs(self, objective: Objective) -> tuple[TensorVariable, ...]:
        return inputs_of_metric(self.metric, objective)

    def describe(self, objective: ObjectiveLike) -> str:
        lines = [self.solver.describe(objective.size)]
        if self.preconditioner is not None:
            lines.append(self.preconditioner.describe(objective))
        return "\n".join(line for line in lines if line)

    def init_state(self, objective: ObjectiveLike) -> State:
        state = State(objective.dtype)
        init_step_size(state, self.step_size)
        state.add("damping", self.damping.start)
        if self.solve_damping is not None and not callable(self.solve_damping):
            state.add_hyperparameter("solve_damping", self.solve_damping)
        for name, (value, dtype) in self.solver.adjustable_settings().items():
            state.add_hyperparameter(name, value, dtype)
        if is_symbolic(self.warm_start) or self.warm_start > 0:
            state.add_settings(self)
            state.add("direction", np.zeros(objective.size))
        if self.preconditioner is not None:
            self.preconditioner.init_state(objective, state)
        return state

    def refuse_increases(self, state: State) -> None:
        super().refuse_increases(state)
        searched = self.step_size is None or self.step_size.searches
        if isinstance(self.damping, FixedDamping) and not searched:
            # Nothing else would make the next step another one.
            state.add("shortening", 1.0)

    def solve(self, batches: StepBatches, state: State) -> DampedSolve:
        """Return the solve of a step, which starts from ``warm_start`` times the previous one."""
        loss, gradient = loss_and_gradient(batches.gradient)
        damping, previous = self._damping_of_solve(state), state.values.get("direction")
        metric = self.metric.with_damping(damping)
        operator = metric(batches.for_metric)
        start = None
        if previous is not None:
            start = state.value_of(self, "warm_start") * previous
        apply, updates = build_preconditioner(self.preconditioner, batches, metric, state, damping)
        again = partial(
            self._current_solver(state).solve, operator, damping=damping, preconditioner=apply
        )
        solution = again(gradient, x0=start)
        if self.solve_damping is not None:
            operator = self.metric.with_damping(state.values["damping"])(batches.for_metric)
        return DampedSolve(
            loss=loss,
            gradient=gradient,
            operator=operator,
            solution=solution,
            shares_damping=self.solve_damping is None,
            updates=updates,
            again=again,
        )

    def _damping_of_solve(self, state: State) -> TensorVariable:
        """Return the damping of the solve, which is that of the model by default."""
        damping, setting = state.values["damping"], self.solve_damping
        if setting is None:
            return damping
        if callable(setting) and not is_symbolic(setting):
            return pt.cast(setting(damping), state.dtype)
        return state.value_of(self, "solve_damping")

    def _current_solver(self, state: State) -> Solver:
        """Return the solver with the settings of the coming step."""
        current = {
            name: state.hyperparameters[name]
            for name in self.solver.adjustable_settings()
            if name in state.hyperparameters
        }
        return self.solver.with_settings(**current)

    def descend(
        self,
        batches: StepBatches,
        state: State,
        solve: DampedSolve,
        direction: TensorVariable,
        *,
        image: TensorVariable | None = None,
        acceleration: TensorVariable | None = None,
        keep_refused: bool = False,
    ) -> tuple[Updates, Records]:
        """Return updates and records of a step along ``direction``, of the size the rule finds.

        ``image`` is (F + lambda I) times the direction in the model, where it is known, which can
        save a product. With an ``acceleration`` c the step of size eta is eta p + eta^2 c. The
        prediction is that for eta p, since c makes up for what the model leaves out. The next solve
        starts from the solution of this one, whatever the direction; from zero after a refused
        step, unless ``keep_refused``.
        """
        if image is None and direction is solve.solution.x:
            image = solve.image
        damping = state.values["damping"]
        model = ModelAlong(solve.operator, damping, direction, image)
        slope = pt.dot(solve.gradient, direction)
        size, found, new_loss, searched = take_step_size(
            self.step_size,
            state,
            batches,
            direction,
            solve.loss,
            slope,
            model.curvature,
            acceleration,
        )
        update = size * direction
        needs_image = image is not None or self.damping.ratio == "quadratic"
        predicted = self.damping.predicted_decrease(
            solve.operator,
            damping,
            solve.gradient,
            update,
            size * model.image if needs_image else None,
        )
        updates, records = accept_or_reject(
            batches.params,
            state,
            self.damping,
            loss=solve.loss,
            new_loss=new_loss,
            update=update_along(direction, acceleration, size),
            predicted=predicted,
            sound=pt.and_(solve.has_direction, found),
            searched=searched,
            niter=solve.solution.niter,
            status=solve.solution.status,
        )
        usable = pt.and_(solve.has_direction, all_finite(solve.loss, new_loss))
        if not keep_refused:
            usable = pt.and_(usable, records["accepted"])
        updates |= self.keep_direction(state, solve.solution.x, solve.slope, usable)
        return updates | solve.updates, records | {"step_size": size} | solve.records

    def keep_direction(
        self, state: State, direction: TensorVariable, slope: TensorVariable, usable: TensorVariable
    ) -> Updates:
        """Return the next start of the solve: the direction, or zero after one without descent."""
        previous = state.values.get("direction")
        if previous is None:
            return {}
        good = pt.and_(pt.and_(usable, all_finite(direction)), pt.gt(slope, 0))
        return {previous: pt.switch(good, direction, pt.zeros_like(direction))}


def inputs_of_metric(metric: Metric, objective: Objective) -> tuple[TensorVariable, ...]:
    """Return the objective's inputs, and its targets if the metric needs any."""
    needed = metric(objective).required_inputs()
    if any(target in needed for target in objective.targets):
        return (*objective.inputs, *objective.targets)
    return objective.inputs
