"""Optimizers: from an objective to a step, in one stage or with a search on the host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.tensor.sharedvar import TensorSharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_instance, check_number, is_symbolic
from symng.graphs.building import building
from symng.graphs.config import Config, declarations
from symng.graphs.draws import next_generators
from symng.graphs.rebuild import rebuild
from symng.graphs.types import Scalar
from symng.metrics import Metric
from symng.objective import Objective, ObjectiveLike
from symng.objective.batches import Batch, as_batch
from symng.objective.output_finding import find_output
from symng.objective.sums import Summand
from symng.optimizers.damping import Damping
from symng.optimizers.rules import check_loss, updates_on_loss
from symng.solvers import Solver

Updates = dict[SharedVariable, TensorVariable]
"""From a shared variable to its next value."""

Records = dict[str, TensorVariable]
"""What to record of a step: symbolic scalars, by the names of the fields of `StepInfo`."""

Schedule = Callable[[Any], Scalar]
"""From the step number, an integer or a symbolic one, to the value of a setting."""


@dataclass
class State:
    """The shared variables of an optimizer, which live from step to step.

    Parameters
    ----------
    dtype : str
        That of the parameters, and by default of the variables.
    values : dict
        What the optimizer updates: damping, previous direction, velocity, step number.
        Checkpoints hold these alone. Filled by `add`.
    hyperparameters : dict
        What may be set between steps. Filled by `add_hyperparameter`.
    schedules : dict
        Functions of the step number that set a hyperparameter, by its name.
    refuses_increases : bool, default False
        Whether a step that raises the loss of its batch is undone, where the damping rule leaves
        that open.

    Examples
    --------
    >>> import symng
    >>> state = symng.State("float64")
    >>> state.add("step", 0, "int64").get_value()
    array(0)
    >>> state.add_hyperparameter("step_size", 0.1).get_value()
    array(0.1)
    """

    dtype: str
    values: dict[str, TensorSharedVariable] = field(default_factory=dict)
    hyperparameters: dict[str, TensorSharedVariable] = field(default_factory=dict)
    schedules: dict[str, Schedule] = field(default_factory=dict)
    refuses_increases: bool = False

    def add(
        self, name: str, value: float | np.ndarray, dtype: str | None = None
    ) -> TensorSharedVariable:
        """Add a variable that the optimizer updates, and return it."""
        self.values[name] = _shared(name, value, dtype, self.dtype)
        return self.values[name]

    def add_hyperparameter(
        self, name: str, value: Scalar | Schedule, dtype: str | None = None
    ) -> TensorVariable:
        """Return a shared variable added for a number or schedule; a symbolic scalar as it is."""
        if isinstance(value, TensorVariable):
            return value
        if callable(value):
            first = value(0)
            if is_symbolic(first):  # the schedule stays in the graph
                return pt.as_tensor_variable(value(self.values["step"]))
            self.schedules[name] = value
            value = _scheduled(name, 0, first)
        self.hyperparameters[name] = _shared(name, value, dtype, self.dtype)
        return self.hyperparameters[name]

    def add_settings(self, owner: Config) -> None:
        """Add the settings that may be symbolic, and are not None, as hyperparameters."""
        for name, declaration in declarations(owner).items():
            if declaration.symbolic and getattr(owner, name) is not None:
                self.add_hyperparameter(name, getattr(owner, name), declaration.dtype)

    def value_of(self, owner: Config, name: str) -> TensorVariable:
        """Return the current value of a setting, in the dtype of the parameters."""
        return pt.cast(self.hyperparameters.get(name, getattr(owner, name)), self.dtype)

    def follow_schedules(self) -> None:
        """Set the hyperparameters that follow a schedule to their values for the coming step."""
        if self.schedules:
            number = int(self.values["step"].get_value())
            for name, schedule in self.schedules.items():
                self.hyperparameters[name].set_value(_scheduled(name, number, schedule(number)))


def _shared(
    name: str, value: Scalar | np.ndarray, dtype: str | None, default: str
) -> TensorSharedVariable:
    """Return a shared variable that rounds 0.1 to float32, but refuses a maxiter of 2.7."""
    array = np.asarray(value, dtype=dtype or default)
    return pytensor.shared(array, name=name, allow_downcast=True if dtype is None else None)


def _scheduled(name: str, number: int, value: Scalar) -> float:
    """Return what a schedule gave for a step, or refuse it."""
    check_number(f"{name} (its schedule at step {number})", value, minimum=0)
    return float(np.asarray(value))


@dataclass(frozen=True, eq=False)
class HostSearch:
    """A search on the host for coefficients c of some directions, between two stages.

    The first stage computes ``carried`` from the batches. Then ``find`` looks for c with a compiled
    function of the loss. The second stage takes the batches, the carried values and c, and makes
    the updates and records of the step.

    Attributes
    ----------
    carried : dict
        From each variable that ``loss`` and the second stage take as an input to the graph of its
        value.
    coefficients : symbolic vector
        c, an input of ``loss`` and of the second stage.
    loss : symbolic scalar
        The loss to minimize: a function of the parameters, the search batch (the gradient batch
        unless there is one), carried variables and c.
    gradient : symbolic vector, optional
        The derivative of ``loss`` with respect to c.
    find : callable
        ``find(f, values)`` returns the coefficients. f takes an array c and returns the loss as a
        float, or (loss, gradient) where there is a gradient; ``values`` are those of the carried
        variables, by name.
    """

    carried: Mapping[TensorVariable, TensorVariable]
    coefficients: TensorVariable
    loss: TensorVariable
    find: Callable[[Callable[[np.ndarray], Any], Mapping[str, np.ndarray]], np.ndarray]
    gradient: TensorVariable | None = None


class Carried(dict[TensorVariable, TensorVariable]):
    """What the first stage of a step computes for the search and the second stage."""

    def add(self, name: str, value: TensorVariable) -> TensorVariable:
        """Return an input of the second stage that stands for ``value``."""
        variable = value.type(name)
        self[variable] = value
        return variable


@dataclass(frozen=True, eq=False, kw_only=True)
class StepBatches:
    """The batches of a step.

    Attributes
    ----------
    gradient : Batch
        For the gradient, the loss and, by default, the reduction ratio.
    metric, search : Batch or None
        Where the metric, or a search along the direction, has a batch of its own. A damping rule
        may take the reduction ratio on that of the search.
    """

    gradient: Batch
    metric: Batch | None = None
    search: Batch | None = None

    @property
    def params(self) -> tuple[SharedVariable, ...]:
        """The parameters."""
        return self.gradient.params

    @property
    def for_metric(self) -> Batch:
        """The batch that the metric is taken on."""
        return self.gradient if self.metric is None else self.metric

    @property
    def for_search(self) -> Batch:
        """The batch that a search looks at."""
        return self.gradient if self.search is None else self.search

    @property
    def by_name(self) -> dict[str, Batch]:
        """The batches given, in order."""
        named = {"gradient": self.gradient, "metric": self.metric, "search": self.search}
        return {name: batch for name, batch in named.items() if batch is not None}

    def averaged(self) -> StepBatches:
        """Return the batches with losses that are sums over examples divided by their number."""
        return StepBatches(**{name: batch.averaged() for name, batch in self.by_name.items()})


@dataclass(frozen=True)
class Step:
    """One step as symbolic graphs: its batches, updates and records.

    Attributes
    ----------
    batches : StepBatches
        What the step is built on, whose variables are its inputs.
    updates : dict
        From shared variable to next value.
    records : dict
        From the name of a record (a field of `StepInfo`) to a symbolic scalar.
    search : HostSearch, optional
        What happens on the host before ``updates`` and ``records`` can be computed; None for a step
        of one stage.
    """

    batches: StepBatches
    updates: Mapping[SharedVariable, TensorVariable]
    records: Mapping[str, TensorVariable]
    search: HostSearch | None = None


class Optimizer(Config, ABC):
    """Turn an objective into a step; the base of all optimizers.

    Subclasses implement `init_state` and `build`.

    Attributes
    ----------
    metric : Metric or None
        The metric, in optimizers that have one.
    solver : Solver or None
        The solver, in optimizers that solve with the metric.
    damping : Damping, number or None
        The damping of the metric, in those that damp it: a rule, a number or a symbolic scalar.
    """

    metric: Metric | None = None
    solver: Solver | None = None
    damping: Damping | Scalar | None = None

    @abstractmethod
    def init_state(self, objective: ObjectiveLike) -> State:
        """Return the shared variables that the optimizer keeps from step to step."""

    @abstractmethod
    def build(self, batches: StepBatches, state: State) -> Step:
        """Return the symbolic step on these batches."""

    def refuse_increases(self, state: State) -> None:
        """Have steps undone that raise the loss of their batch, where the damping rule agrees."""
        state.refuses_increases = True

    def metric_inputs(self, objective: Objective) -> tuple[TensorVariable, ...] | None:
        """Return the objective's inputs and targets in a metric batch; None without a metric."""
        return None

    def describe(self, objective: ObjectiveLike) -> str:
        """Return lines on what the optimizer's parts find in the model; by default none."""
        return ""

    @building()
    def updates(self, objective: ObjectiveLike) -> dict[Variable, Variable]:
        """Return the step as a mapping from shared variable to next value, for `pytensor.function`.

        Parameters
        ----------
        objective : Objective
            Its ``inputs`` and ``targets`` are the inputs of the function to compile.

        Returns
        -------
        dict
            Next values of the parameters and of the optimizer's own state (damping, previous
            direction, ...), which each call makes anew. Schedules follow the step number in it.

        Raises
        ------
        ValueError
            When a schedule cannot be evaluated symbolically, or the optimizer searches on the host.

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
        check_instance("objective", objective, Summand, "a symng.Objective")
        state = self.init_state(objective)
        step = self.build(StepBatches(gradient=as_batch(objective)), state)
        if step.search is not None:
            raise argument_error(
                "optimizer",
                "one whose step is a single stage",
                Verbatim(f"{type(self).__name__}, which searches on the host"),
                "Use symng.compile_step.",
            )
        updates: dict[Any, Any] = dict(step.updates)
        counter = state.values["step"]
        for name, schedule in state.schedules.items():
            try:
                value = pt.cast(schedule(counter), state.dtype)
            except Exception as error:
                raise argument_error(
                    name,
                    "a schedule that takes a symbolic step number",
                    schedule,
                    "Use compile_step, or write it with pytensor.tensor functions.",
                ) from error
            replaced = rebuild(list(updates.values()), {state.hyperparameters[name]: value})
            updates = dict(zip(updates, replaced, strict=True))
        return updates

    def __call__(self, loss: Any, params: Sequence[SharedVariable]) -> dict[Variable, Variable]:
        """Return the `updates` of a step on a loss, whose output is found in its graph.

        This is the signature of pytensor-ml's rules: an optimizer goes where ``adam(1e-3)`` goes.

        Parameters
        ----------
        loss : TensorVariable
            Symbolic scalar: a squared error, or a cross-entropy of logits, of a softmax or of a
            sigmoid, or the loss of a log-rate. It may be weighted or masked, and have terms of
            parameters alone, such as weight decay.
        params : sequence of shared variables
            The parameters.

        Returns
        -------
        dict
            That of `updates`, with the next states of the generators that the loss draws from.

        Raises
        ------
        TypeError
            For gradients or updates in place of a loss: an optimizer of symng takes the derivatives
            itself.
        ValueError
            Where the output is not certain, and where `updates` refuses the optimizer.

        Examples
        --------
        >>> import numpy as np, pytensor, pytensor.tensor as pt
        >>> import symng
        >>> x, t = pt.matrix("x"), pt.vector("t")
        >>> w = pytensor.shared(np.zeros(2), name="w")
        >>> loss = pt.sqr(x @ w - t).mean()
        >>> updates = symng.NaturalGradient(metric=symng.GaussNewton(), damping=1e-9)(loss, [w])
        >>> step = pytensor.function([x, t], loss, updates=updates, mode="FAST_COMPILE")
        >>> _ = step(np.eye(2), np.array([3.0, -1.0])), print(w.get_value().round(6))
        [ 3. -1.]
        """
        check_loss(loss)
        found = find_output(loss, params)
        if found is None:
            raise argument_error(
                "loss",
                "a squared error or a cross-entropy of one output",
                loss,
                "Name the output: optimizer.updates(symng.Objective(loss, output=..., ...)), or "
                "symng.pytensor_ml.rule(optimizer, model) for a model of pytensor-ml.",
            )
        settings = {"inputs": found.inputs, "targets": found.targets}
        updates = updates_on_loss(
            self.updates, loss, found.output, params, likelihood=found.likelihood, **settings
        )
        return {**updates, **next_generators(loss)}
