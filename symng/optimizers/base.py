"""From a direction to a step: step size, reduction ratio, acceptance, damping, updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.replace import clone_replace
from pytensor.tensor.variable import TensorVariable

from symng import vectors
from symng._checks import check_instance, check_number, is_symbolic, problem
from symng.objective import Objective
from symng.search import BacktrackingLineSearch, StepSize

BATCHES = ("gradient", "metric", "search")


@dataclass
class State:
    """Shared variables that live from step to step.

    ``values`` are what the optimizer updates by itself (damping, previous direction, velocity, number of the step),
    ``hyperparameters`` what a user may set between steps, ``schedules`` callables of the number of the step that set a
    hyperparameter. A checkpoint holds the first alone.
    """

    dtype: str
    values: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, SharedVariable] = field(default_factory=dict)
    schedules: dict[str, Callable[[int], float]] = field(default_factory=dict)

    def add(self, name: str, value: Any, dtype: str | None = None) -> SharedVariable:
        """Add a variable that the optimizer updates."""
        self.values[name] = _shared(name, value, dtype, self.dtype)
        return self.values[name]

    def add_hyperparameter(self, name: str, value: Any, dtype: str | None = None) -> Any:
        """Make a number or schedule a shared variable that can be set; leave a symbolic scalar as it is."""
        if is_symbolic(value):
            return value
        if callable(value):
            first = value(0)
            if is_symbolic(first):  # then it stays in the graph, as a function of the number of the step
                return value(self.values["step"])
            self.schedules[name] = value
            value = _scheduled(name, 0, first)
        self.hyperparameters[name] = _shared(name, value, dtype, self.dtype)
        return self.hyperparameters[name]

    def follow_schedules(self) -> None:
        """Set the hyperparameters that follow a schedule to their values for the coming step."""
        if self.schedules:
            number = int(self.values["step"].get_value())
            for name, schedule in self.schedules.items():
                self.hyperparameters[name].set_value(_scheduled(name, number, schedule(number)))


def _shared(name: str, value: Any, dtype: str | None, default: str) -> SharedVariable:
    """Return a shared variable; a plain 0.1 may be set although float32 cannot hold it, a maxiter of 2.7 may not."""
    array = np.asarray(value, dtype=dtype or default)
    return pytensor.shared(array, name=name, allow_downcast=True if dtype is None else None)


def _scheduled(name: str, number: int, value: Any) -> float:
    """Return what a schedule gave for a step, or refuse it."""
    check_number(f"{name} (its schedule at step {number})", value, minimum=0)
    return float(value)


@dataclass(frozen=True)
class Step:
    """One step as symbolic graphs: what it takes, what it changes, what it tells.

    Attributes
    ----------
    batches : dict
        From "gradient", and "metric" or "search" where they have a batch of their own, to the symbolic inputs.
    axes : dict
        From the same names to the axis of examples of each input.
    updates : dict
        From shared variable to next value.
    records : dict
        From the name of a record (a field of `StepInfo`) to a symbolic scalar.
    """

    batches: Mapping[str, Sequence[TensorVariable]]
    axes: Mapping[str, Sequence[int]]
    updates: Mapping[SharedVariable, TensorVariable]
    records: Mapping[str, TensorVariable]


class Optimizer(ABC):
    """Turn an objective into a step; the base of all optimizers.

    A subclass gives `init_state` and `build`.
    """

    @abstractmethod
    def init_state(self, objective: Objective) -> State:
        """Return the shared variables that the steps of this optimizer on ``objective`` live on."""

    @abstractmethod
    def build(
        self, objective: Objective, state: State, *, metric_batch: bool = False, search_batch: bool = False
    ) -> Step:
        """Return the symbolic step; metric and line search on batches of their own where told so."""

    def metric_inputs(self, objective: Objective) -> tuple[TensorVariable, ...] | None:
        """Return which of the objective's inputs and targets a metric batch holds; None without a metric."""
        return None

    def updates(self, objective: Objective) -> dict[SharedVariable, TensorVariable]:
        """Return the step as a mapping from shared variable to next value, for `pytensor.function`.

        Parameters
        ----------
        objective : Objective
            Its ``inputs`` and ``targets`` are the inputs of the function to compile.

        Returns
        -------
        dict
            The parameters, and the optimizer's own state (damping, previous direction, ...), made anew by each call.
            A schedule of the step size follows the number of the step, which is in that state.

        Raises
        ------
        ValueError
            When the step size is a schedule that cannot be evaluated symbolically.

        Examples
        --------
        >>> import numpy as np, pytensor, pytensor.tensor as pt
        >>> import symng
        >>> x = pt.matrix("x")
        >>> w = pytensor.shared(np.ones(2), name="w")
        >>> y = x @ w
        >>> objective = symng.Objective(pt.sqr(y).mean() / 2, output=y, params=[w], inputs=[x])
        >>> updates = symng.SGD(step_size=0.5).updates(objective)
        >>> step = pytensor.function([x], updates=updates, mode="FAST_COMPILE")
        >>> _ = step(np.eye(2)), print(w.get_value())
        [0.75 0.75]
        """
        check_instance("objective", objective, Objective, "a symng.Objective")
        state = self.init_state(objective)
        updates = dict(self.build(objective, state).updates)
        counter = state.values["step"]
        for name, schedule in state.schedules.items():
            try:
                value = pt.cast(schedule(counter), state.dtype)  # type: ignore[arg-type]
            except Exception as error:
                raise problem(
                    name, "a schedule that takes a symbolic step number", schedule,
                    "Use compile_step, or write it with pytensor.tensor functions.",
                ) from error  # fmt: skip
            replace: dict[Any, Any] = {state.hyperparameters[name]: value}
            replaced: list[Any] = clone_replace(list(updates.values()), replace)
            updates = dict(zip(updates, replaced, strict=True))
        return updates


def init_step_size(state: State, rule: StepSize) -> None:
    """Add the number of the step, and the step size as a hyperparameter unless it is symbolic."""
    state.add("step", 0, "int64")
    state.add_hyperparameter("step_size", rule.initial())


def step_size_of(state: State, rule: StepSize) -> TensorVariable:
    """Return the step size that the rule starts from, in the dtype of the parameters."""
    size = state.hyperparameters.get("step_size", rule.initial())
    return pt.cast(size(state.values["step"]) if callable(size) and not is_symbolic(size) else size, state.dtype)


def loss_and_gradient(objective: Objective) -> tuple[TensorVariable, TensorVariable]:
    """Return the loss and its gradient as a flat vector, in the dtype of the parameters."""
    params: Any = objective.params
    # A parameter that only the output uses has a gradient of zero.
    slopes: Any = pytensor.grad(objective.loss, params, disconnected_inputs="ignore")
    gradient = vectors.ravel([g.astype(objective.dtype) for g in slopes], params)
    return pt.cast(objective.loss, objective.dtype), gradient


def loss_along(objective: Objective, direction: TensorVariable) -> Callable[[TensorVariable], TensorVariable]:
    """Return eta -> L(theta - eta direction)."""
    params: Any = objective.params
    theta = vectors.ravel(params, params)

    def loss_at(eta: TensorVariable) -> TensorVariable:
        moved = vectors.split(theta - eta * direction, objective.params)
        return pt.cast(objective.with_params(moved), objective.dtype)

    return loss_at


def take_step_size(
    rule: StepSize,
    state: State,
    objective: Objective,
    searched: Objective,
    direction: TensorVariable,
    loss: TensorVariable,
    slope: TensorVariable,
) -> tuple[TensorVariable, TensorVariable, TensorVariable]:
    """Return step size, the loss after it on the gradient batch, and whether the rule found one.

    ``searched`` is the objective on the search batch; ``objective`` itself when there is none.
    """
    size = step_size_of(state, rule)
    loss_at = loss_along(objective, direction)
    if not isinstance(rule, BacktrackingLineSearch):
        return size, loss_at(size), pt.constant(np.array(True))
    if searched is objective:
        return rule.find(loss_at, loss, slope, size)
    size, _, found = rule.find(loss_along(searched, direction), pt.cast(searched.loss, objective.dtype), slope, size)
    return size, loss_at(size), found


def all_finite(*tensors: TensorVariable) -> TensorVariable:
    """Tell whether every value is finite."""
    checks = [pt.all(pt.isfinite(t)) if t.ndim else pt.isfinite(t) for t in tensors]
    return checks[0] if len(checks) == 1 else pt.and_(checks[0], all_finite(*tensors[1:]))


def norm(vector: TensorVariable) -> TensorVariable:
    """Return the Euclidean norm, by a dot product: no sum in another dtype."""
    return pt.sqrt(pt.dot(vector, vector))


def move(
    objective: Objective, update: TensorVariable, accepted: TensorVariable
) -> dict[SharedVariable, TensorVariable]:
    """Return the updates theta -> theta - update where accepted, theta as it is otherwise."""
    parts = vectors.split(update, objective.params)
    return {
        p: _as_type_of(p, pt.switch(accepted, p - part, p)) for p, part in zip(objective.params, parts, strict=True)
    }


def _as_type_of(param: SharedVariable, value: TensorVariable) -> TensorVariable:
    """Give ``value`` the static shape of ``param``, which a shared variable with fixed axes asks for."""
    return value if param.type.is_super(value.type) else pt.specify_shape(value, param.type.shape)
