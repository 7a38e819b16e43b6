"""Natural gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import Words, check_instance, check_number, is_symbolic, problem
from symng.damping import LevenbergMarquardt, as_damping
from symng.metrics import Fisher, Metric
from symng.objective import Objective
from symng.optimizers.base import (
    Optimizer,
    State,
    Step,
    all_finite,
    init_step_size,
    loss_and_gradient,
    move,
    norm,
    take_step_size,
)
from symng.search import as_step_size
from symng.solvers import MinresQLP, Status

# Verdicts of solves that give no direction to go.
NO_DIRECTION = (Status.NOT_FINITE, Status.NOT_SYMMETRIC, Status.BAD_PRECONDITIONER)

# Settings of a solver that can be set between steps, and their dtype (None: that of the parameters).
_SOLVER_SETTINGS = {
    "rtol": None,
    "atol": None,
    "maxiter": "int64",
    "max_norm": None,
    "condition_limit": None,
    "transition_condition": None,
}

# Changes of the loss by fewer units of its rounding error than this tell nothing about the model.
_ROUNDINGS = 4.0


@dataclass(frozen=True, kw_only=True)
class NaturalGradient(Optimizer):
    """Descend along the natural gradient (equation 2, algorithm 2 of the appendix).

    theta <- theta - eta p, where (F + lambda I) p = g: g is the gradient of the loss on the gradient batch, F the
    metric on the metric batch (the same one unless another is given), lambda the damping, eta the step size.

    A step whose loss, direction or solve is not finite, or that the damping rule refuses, or for which a line search
    finds no step size, leaves the parameters as they were, raises the damping and is recorded as rejected.

    Parameters
    ----------
    metric : Metric, default Fisher()
        What is solved with. With `GaussNewton` this is Hessian-free's direction, with `EmpiricalFisher` TONGA's.
    solver : CG or MinresQLP, default MinresQLP(rtol=1e-4, maxiter=50)
        How it is solved.
    damping : Damping or float, default LevenbergMarquardt(initial=3.0)
        A rule, or a number at least 0 that stays.
    step_size : float, callable, symbolic scalar or StepSize, default 1.0
        A number above 0, a schedule of the number of the step, a symbolic scalar, or `BacktrackingLineSearch`.
    warm_start : float, default 0.0
        Each solve starts from this times the previous direction; 0 starts from zero. From 0 to 1.
    preconditioner : callable, optional
        From (operator, damping) to a callable or operator that applies M^-1 to a vector.

    Notes
    -----
    One step costs a gradient, a product with the metric for each iteration of the solver and one more for its final
    residual, and a forward pass for the reduction ratio. The forward pass is shared by gradient and metric when they
    share the batch. It stores a handful of vectors of the size of the parameters.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, "Revisiting Natural Gradient for Deep Networks", arXiv:1301.3584.
    .. [2] S. Amari, "Natural gradient works efficiently in learning", Neural Computation 10(2), 1998.

    Examples
    --------
    Linear least squares is solved in one undamped step:

    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> loss = pt.sqr(y - t).mean() / 2
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> optimizer = symng.NaturalGradient(damping=0.0)
    >>> step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE")
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> info = step((X, X @ [3.0, -1.0]))
    >>> w.get_value().round(6)
    array([ 3., -1.])
    """

    metric: Metric = field(default_factory=Fisher)
    solver: Any = field(default_factory=lambda: MinresQLP(rtol=1e-4, maxiter=50))
    damping: Any = field(default_factory=lambda: LevenbergMarquardt(initial=3.0))
    step_size: Any = 1.0
    warm_start: Any = 0.0
    preconditioner: Any = None

    def __post_init__(self) -> None:
        check_instance("metric", self.metric, Metric, "a metric such as symng.Fisher()", "Mind the brackets.")
        if not hasattr(self.solver, "solve") or isinstance(self.solver, type):
            check_instance("solver", self.solver, (), "a solver such as symng.CG() or symng.MinresQLP()")
        object.__setattr__(self, "damping", as_damping("damping", self.damping))
        object.__setattr__(self, "step_size", as_step_size("step_size", self.step_size))
        check_number("warm_start", self.warm_start, minimum=0, maximum=1, symbolic=True)
        if self.preconditioner is not None and not callable(self.preconditioner):
            check_instance("preconditioner", self.preconditioner, (), "a callable of operator and damping")

    def metric_inputs(self, objective: Objective) -> tuple[TensorVariable, ...]:
        needed = self.metric(objective).required_inputs()
        if any(target in needed for target in objective.targets):
            return (*objective.inputs, *objective.targets)
        return objective.inputs

    def init_state(self, objective: Objective) -> State:
        state = State(objective.dtype)
        init_step_size(state, self.step_size)
        state.add("damping", self.damping.start)
        for name, dtype in _SOLVER_SETTINGS.items():
            value = getattr(self.solver, name, None)
            if value is not None:
                state.add_hyperparameter(name, value, dtype)
        if is_symbolic(self.warm_start) or self.warm_start > 0:
            state.add_hyperparameter("warm_start", self.warm_start)
            state.add("direction", np.zeros(objective.size))
        return state

    def build(
        self, objective: Objective, state: State, *, metric_batch: bool = False, search_batch: bool = False
    ) -> Step:
        if search_batch and not self.step_size.searches:
            raise problem(
                "search_batch", "none without a line search", Words("one"),
                "Leave it out, or give step_size=symng.BacktrackingLineSearch().",
            )  # fmt: skip
        measured = objective.on_fresh_inputs("_metric") if metric_batch else objective
        searched = objective.on_fresh_inputs("_search") if search_batch else objective
        damping = state.values["damping"]

        # The natural direction (equation 2): gradient, and solve with the damped metric.
        loss, gradient = loss_and_gradient(objective)
        operator = self.metric(measured)
        previous = state.values.get("direction")
        start = None
        if previous is not None:
            start = pt.cast(state.hyperparameters.get("warm_start", self.warm_start), state.dtype) * previous
        settings = {n: state.hyperparameters[n] for n in _SOLVER_SETTINGS if n in state.hyperparameters}
        solver = replace(self.solver, **settings) if settings else self.solver
        solution = solver.solve(
            operator,
            gradient,
            damping=damping,
            x0=start,
            preconditioner=None if self.preconditioner is None else self.preconditioner(operator, damping),
        )
        direction = solution.x

        # How far, and how well the model predicted it (equations 16 and 17).
        slope = pt.dot(gradient, direction)
        size, new_loss, found = take_step_size(self.step_size, state, objective, searched, direction, loss, slope)
        predicted = size * slope
        if self.damping.ratio == "quadratic":
            curved = operator @ direction
            if self.damping.damped_model:
                curved = curved + damping * direction
            predicted = predicted - size**2 * pt.dot(direction, curved) / 2
        decrease = loss - new_loss
        ratio = decrease / predicted

        # A model that predicts an increase is as bad as one that is wrong, whatever the sign of its ratio. Of changes
        # that are rounding errors of the loss nothing can be said, as at an optimum, where both are 0.
        rounding = _ROUNDINGS * np.finfo(state.dtype).eps * abs(loss)
        unclear = pt.and_(pt.le(abs(decrease), rounding), pt.le(abs(predicted), rounding))
        judged = pt.switch(pt.lt(predicted, 0), -np.inf, ratio)
        judged = pt.switch(unclear, np.nan, judged).astype(state.dtype)
        update = size * direction
        finite = all_finite(loss, new_loss, update)
        for verdict in NO_DIRECTION:
            finite = pt.and_(finite, pt.neq(solution.status, int(verdict)))
        failed = pt.invert(pt.and_(finite, found))
        accepted = pt.invert(pt.or_(failed, self.damping.refuses(judged)))

        updates = move(objective, update, accepted)
        updates[damping] = pt.cast(self.damping.next(damping, judged, failed), state.dtype)
        updates[state.values["step"]] = state.values["step"] + 1
        if previous is not None:
            updates[previous] = pt.switch(pt.and_(finite, pt.gt(slope, 0)), direction, pt.zeros_like(direction))

        axes = {"gradient": objective.data_axes}
        batches = {"gradient": (*objective.inputs, *objective.targets)}
        if metric_batch:
            count = len(self.metric_inputs(objective))
            batches["metric"] = (*measured.inputs, *measured.targets)[:count]
            axes["metric"] = objective.data_axes[:count]
        if search_batch:
            batches["search"] = (*searched.inputs, *searched.targets)
            axes["search"] = objective.data_axes
        records = {
            "loss": loss,
            "new_loss": new_loss,
            "damping": damping,
            "reduction_ratio": ratio,
            "step_size": size,
            "solver_status": solution.status,
            "solver_iterations": solution.niter,
            "residual_norm": solution.residual_norm,
            "gradient_norm": norm(gradient),
            "update_norm": pt.switch(accepted, norm(update), pt.zeros_like(loss)),
            "accepted": accepted,
        }
        return Step(batches, axes, updates, records)
