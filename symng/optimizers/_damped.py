"""What the optimizers have in common that solve with a damped metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import is_symbolic
from symng.graphs.config import config, number, setting
from symng.metrics import Fisher, Metric
from symng.metrics.base import as_metric
from symng.objective import Objective
from symng.operators import LinearOperator
from symng.optimizers._step import (
    all_finite,
    conclude,
    has_direction,
    init_step_size,
    norm,
    take_step_size,
)
from symng.optimizers.base import Optimizer, State, StepBatches
from symng.optimizers.damping import LevenbergMarquardt, as_damping
from symng.optimizers.preconditioners import as_preconditioner
from symng.optimizers.preconditioners.base import Apply
from symng.optimizers.step_sizes import as_step_size
from symng.solvers import MinresQLP, Solution
from symng.solvers.base import as_solver


@config
class DampedOptimizer(Optimizer):
    """Hold metric, solver, damping, step size and warm start to solve (F + lambda I) p = g.

    The types of the settings are those that are accepted; a solver is made a `Solver`, a
    preconditioner a `Preconditioner`.
    """

    metric: Metric = setting(convert=as_metric, default_factory=Fisher)
    solver: Any = setting(
        convert=as_solver, default_factory=lambda: MinresQLP(rtol=1e-4, maxiter=50)
    )
    damping: Any = setting(
        convert=as_damping, default_factory=lambda: LevenbergMarquardt(initial=3.0)
    )
    step_size: Any = setting(convert=as_step_size, default=1.0)
    warm_start: Any = number(default=0.0, minimum=0, maximum=1, symbolic=True)
    preconditioner: Any = setting(convert=as_preconditioner, default=None)

    def metric_inputs(self, objective: Objective) -> tuple[TensorVariable, ...]:
        return inputs_of_metric(self.metric, objective)

    def describe(self, objective: Objective) -> str:
        return "" if self.preconditioner is None else self.preconditioner.describe(objective)

    def init_state(self, objective: Objective) -> State:
        state = State(objective.dtype)
        init_step_size(state, self.step_size)
        state.add("damping", self.damping.start)
        for name, (value, dtype) in self.solver.adjustable_settings().items():
            state.add_hyperparameter(name, value, dtype)
        if is_symbolic(self.warm_start) or self.warm_start > 0:
            state.add_settings(self)
            state.add("direction", np.zeros(objective.size))
        if self.preconditioner is not None:
            self.preconditioner.init_state(objective, state)
        return state

    def solve(
        self, batches: StepBatches, gradient: TensorVariable, state: State
    ) -> tuple[Solution, LinearOperator, dict[Any, TensorVariable]]:
        """Return p of (F + lambda I) p = g (equation 2), F, and the preconditioner's updates.

        The solve starts from ``warm_start`` times the previous one.
        """
        damping, previous = state.values["damping"], state.values.get("direction")
        metric = self.metric.with_damping(damping)
        operator = metric(batches.for_metric)
        start = None
        if previous is not None:
            start = state.value_of(self, "warm_start") * previous
        adjusted = {
            name: state.hyperparameters[name]
            for name in self.solver.adjustable_settings()
            if name in state.hyperparameters
        }
        solver = self.solver.with_settings(**adjusted)
        apply: Apply | None = None
        updates: dict[Any, TensorVariable] = {}
        if self.preconditioner is not None:
            on = batches.gradient if self.preconditioner.on_gradient_batch else batches.for_metric
            apply, updates = self.preconditioner.build(on, metric, state, damping)
        solution = solver.solve(operator, gradient, damping=damping, x0=start, preconditioner=apply)
        return solution, operator, updates

    def descend(
        self,
        batches: StepBatches,
        state: State,
        loss: TensorVariable,
        gradient: TensorVariable,
        solution: Solution,
        operator: LinearOperator,
        direction: TensorVariable,
        *,
        image: TensorVariable | None = None,
        keep_refused: bool = False,
    ) -> tuple[dict[Any, TensorVariable], dict[str, TensorVariable]]:
        """Return updates and records of a step along ``direction``: its size, and the prediction.

        ``image`` is (F + lambda I) times the direction where that is known, which can spare a
        product. The next solve starts from what this one found, ``solution.x``, whichever direction
        was made of it; from zero after a refused step, unless ``keep_refused``.
        """
        slope = pt.dot(gradient, direction)
        size, new_loss, found = take_step_size(
            self.step_size, state, batches, direction, loss, slope
        )
        update = size * direction
        if image is None and direction is solution.x:
            image = image_of(solution, gradient)
        damped = None if image is None else size * image
        solved = has_direction(solution, gradient)
        updates, records = conclude(
            batches.params,
            state,
            self.damping,
            loss=loss,
            new_loss=new_loss,
            update=update,
            predicted=self.damping.predicted_decrease(
                operator, state.values["damping"], gradient, update, damped
            ),
            sound=pt.and_(solved, found),
            solution=solution,
        )
        usable = pt.and_(solved, all_finite(loss, new_loss))
        if not keep_refused:
            usable = pt.and_(usable, records["accepted"])
        updates |= self.keep_direction(state, solution.x, pt.dot(gradient, solution.x), usable)
        records |= {"step_size": size, "gradient_norm": norm(gradient), **solve_records(solution)}
        return updates, records

    def keep_direction(
        self, state: State, direction: TensorVariable, slope: TensorVariable, usable: TensorVariable
    ) -> dict[Any, TensorVariable]:
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


def image_of(solution: Solution, gradient: TensorVariable) -> TensorVariable | None:
    """Return (F + lambda I) p = g - r of the result of a solve, if the solver gives r."""
    return None if solution.residual is None else gradient - solution.residual


def solve_records(solution: Solution) -> dict[str, TensorVariable]:
    """Return the records of a solve."""
    return {
        "solver_status": solution.status,
        "solver_iterations": solution.niter,
        "residual_norm": solution.residual_norm,
    }
