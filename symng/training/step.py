"""From the symbolic step of an optimizer to a compiled one that takes arrays."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np
from pytensor.compile.mode import Mode
from pytensor.compile.sharedvalue import SharedVariable

from symng._checks import Words, check_batch, check_instance, check_number, problem
from symng.backends import backend_of, compile_function, settle, to_numpy
from symng.likelihoods import Categorical
from symng.objective import Objective
from symng.optimizers import Optimizer, Step
from symng.solvers import Status

_NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """Tell what one step did.

    Fields that the optimizer has no value for are NaN.

    Attributes
    ----------
    loss, new_loss : float
        Loss on the gradient batch before the step, and after it (before the step is undone, if it is).
    damping : float
        lambda that was solved with.
    reduction_ratio : float
        rho, how well the model predicted the change of the loss (equation 17).
    step_size : float
        eta; 0 when a line search found none.
    solver_status : int
        Verdict of the solve, a `Status`; -1 without a solve.
    solver_iterations : float
        Iterations of the solve.
    residual_norm, gradient_norm, update_norm : float
        Norms of the residual of the solve, of the gradient, and of the change of the parameters (0 when rejected).
    accepted : bool
        Whether the parameters have changed.
    """

    loss: float = _NAN
    new_loss: float = _NAN
    damping: float = _NAN
    reduction_ratio: float = _NAN
    step_size: float = _NAN
    solver_status: int = -1
    solver_iterations: float = _NAN
    residual_norm: float = _NAN
    gradient_norm: float = _NAN
    update_norm: float = _NAN
    accepted: bool = True

    @property
    def status(self) -> Status | None:
        """The verdict of the solve by name, with its message; None without a solve."""
        return None if self.solver_status < 0 else Status(self.solver_status)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class CompiledStep:
    """Take optimization steps on arrays; made by `compile_step`.

    The first call with a new combination of batches compiles (and so does `compile`); later calls run.

    Attributes
    ----------
    hyperparameters : mapping
        Shared variables that may be set between steps, without a recompilation: ``step_size``, ``rtol``, ``maxiter``,
        ``warm_start``, ``momentum``, ..., whichever the optimizer has.
    state : mapping
        Shared variables that the optimizer updates: ``damping``, ``direction``, ``velocity``, ``step``.
    compile_seconds : float
        Seconds spent compiling so far.
    """

    def __init__(self, objective: Objective, optimizer: Optimizer, mode: str | Mode | None = None) -> None:
        check_instance("objective", objective, Objective, "a symng.Objective")
        check_instance("optimizer", optimizer, Optimizer, "an optimizer such as symng.NaturalGradient()",
                       "Mind the brackets.")  # fmt: skip
        self.objective, self.optimizer, self.mode = objective, optimizer, mode
        self.backend = backend_of(mode)
        self.compile_seconds = 0.0
        self._state = optimizer.init_state(objective)
        self._steps: dict[tuple[bool, bool], Step] = {}
        self._functions: dict[tuple[bool, bool], Any] = {}
        self._classes_checked = False
        self._build(False, False)  # so that a model that does not fit is told now

    @property
    def hyperparameters(self) -> Mapping[str, SharedVariable]:
        """Shared variables that may be set between steps."""
        return MappingProxyType(self._state.hyperparameters)

    @property
    def state(self) -> Mapping[str, SharedVariable]:
        """Shared variables that the optimizer updates."""
        return MappingProxyType(self._state.values)

    def __repr__(self) -> str:
        return f"CompiledStep({self.optimizer!r}, backend={self.backend!r})"

    def _build(self, metric: bool, search: bool) -> Step:
        """Return the symbolic step for a combination of batches."""
        key = (metric, search)
        if key not in self._steps:
            self._steps[key] = self.optimizer.build(
                self.objective, self._state, metric_batch=metric, search_batch=search
            )
        return self._steps[key]

    def compile(
        self, gradient_batch: Sequence[Any], metric_batch: Any = None, search_batch: Any = None
    ) -> CompiledStep:
        """Compile for these batches and run once, leaving parameters and state as they are.

        The run is for backends that compile during the first call (Numba, JAX). Returns the step itself.
        """
        batches = self._check_batches(gradient_batch, metric_batch, search_batch)
        start = time.perf_counter()
        fresh = (metric_batch is not None, search_batch is not None) not in self._functions
        function = self._function(metric_batch is not None, search_batch is not None)
        if fresh and self.backend in ("numba", "jax"):
            if self.backend == "numba":  # its kernels do not depend on shapes, so two examples will do
                axes = self._axes(metric_batch is not None, search_batch is not None)
                batches = [np.take(a, range(min(2, a.shape[x])), axis=x) for a, x in zip(batches, axes, strict=True)]
            changed = list(self._build(metric_batch is not None, search_batch is not None).updates)
            kept = [np.array(v.get_value(borrow=True)) for v in changed]
            with np.errstate(all="ignore"):
                to_numpy(function(*batches))
            for variable, value in zip(changed, kept, strict=True):
                variable.set_value(value)
        self.compile_seconds += time.perf_counter() - start
        return self

    def __call__(
        self, gradient_batch: Sequence[Any], metric_batch: Any = None, search_batch: Any = None
    ) -> StepInfo:
        """Take one step.

        Parameters
        ----------
        gradient_batch : tuple of arrays
            Values of the objective's inputs and then targets, for gradient, loss and reduction ratio.
        metric_batch : tuple of arrays, optional
            Another batch for the metric: values of the inputs, and of the targets if the metric's graph reaches them
            (`EmpiricalFisher`, `Hessian`). Default: the gradient batch, whose forward pass is then shared.
        search_batch : tuple of arrays, optional
            Another batch for a line search, inputs and targets. Default: the gradient batch.

        Returns
        -------
        StepInfo

        Raises
        ------
        TypeError, ValueError
            When a batch has the wrong number of arrays, dtype, shape or length, or holds NaN or Inf; the message names
            array and example. Nothing has changed then.
        """
        return self.run(
            gradient_batch, metric_batch, search_batch,
            batches=self._check_batches(gradient_batch, metric_batch, search_batch),
        )  # fmt: skip

    def run(
        self,
        gradient_batch: Sequence[Any],
        metric_batch: Any = None,
        search_batch: Any = None,
        *,
        batches: Sequence[Any] | None = None,
    ) -> StepInfo:
        """Take one step on batches that are known to be right: `__call__` without the checks."""
        if batches is None:
            batches = [a for batch in (gradient_batch, metric_batch, search_batch) if batch is not None for a in batch]
        metric, search = metric_batch is not None, search_batch is not None
        if (metric, search) not in self._functions:
            self.compile(gradient_batch, metric_batch, search_batch)
        if self._state.schedules:
            self._set_schedules()
        try:
            values = to_numpy(self._functions[metric, search](*batches))
        except (ValueError, IndexError, TypeError, AssertionError) as error:
            shapes = ", ".join(str(np.shape(b)) for b in batches)
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"gradient_batch: the model cannot be evaluated on arrays of shapes {shapes}: {first_line}. Check them "
                "against the shapes of the parameters."
            ) from error
        step = self._build(metric, search)
        settle(step.updates)
        return _info(dict(zip(step.records, values, strict=True)))

    def _set_schedules(self) -> None:
        """Set the hyperparameters that follow a schedule to their values for this step."""
        number = int(self._state.values["step"].get_value())
        for name, schedule in self._state.schedules.items():
            value = schedule(number)
            check_number(f"{name} (schedule at step {number})", value, minimum=0)
            self._state.hyperparameters[name].set_value(np.asarray(value, dtype=self._state.dtype))

    def _function(self, metric: bool, search: bool) -> Any:
        """Return the compiled function for a combination of batches."""
        key = (metric, search)
        if key not in self._functions:
            step = self._build(*key)
            inputs = [v for batch in step.batches.values() for v in batch]
            self._functions[key] = compile_function(
                inputs,
                list(step.records.values()),
                updates=step.updates,
                mode=self.mode,
                name="symng_step",
                on_unused_input="ignore",
            )
        return self._functions[key]

    def _axes(self, metric: bool, search: bool) -> list[int]:
        """Return the axis of examples of each array that the function takes."""
        return [axis for axes in self._build(metric, search).axes.values() for axis in axes]

    def _check_batches(self, gradient_batch: Any, metric_batch: Any, search_batch: Any) -> list[Any]:
        """Return all arrays in the order of the function's inputs, or refuse them."""
        given = {"gradient": gradient_batch, "metric": metric_batch, "search": search_batch}
        if metric_batch is not None and self.optimizer.metric_inputs(self.objective) is None:
            raise problem("metric_batch", "none, for the optimizer has no metric", Words("one"), "Leave it out.")
        step = self._build(metric_batch is not None, search_batch is not None)
        arrays: list[Any] = []
        for name, variables in step.batches.items():
            try:
                checked = check_batch(f"{name}_batch", given[name], variables, step.axes[name])
            except ValueError as error:
                if name == "metric" and len(variables) < len(step.batches["gradient"]) and (
                    isinstance(given[name], tuple | list) and len(given[name]) == len(step.batches["gradient"])
                ):
                    raise ValueError(f"{error} This metric needs no targets: give inputs alone.") from None
                raise
            if name != "metric":
                self.check_targets(f"{name}_batch", checked)
            arrays.extend(checked)
        return arrays

    def check_targets(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Refuse targets that the likelihoods cannot have produced; ``arrays`` are inputs and then targets."""
        objective = self.objective
        targets = arrays[len(objective.inputs) :]
        if len(targets) != len(objective.heads):
            return  # which target belongs to which output is not known
        for head, variable, target in zip(objective.heads, objective.targets, targets, strict=True):
            head.likelihood.check_targets(f"{name}, {variable}", target, head.y.ndim)
            labels = isinstance(head.likelihood, Categorical) and target.ndim == head.y.ndim - 1
            if labels and not self._classes_checked:
                self._classes = compile_function(
                    list(objective.inputs), head.y.shape[-1], mode="FAST_COMPILE", on_unused_input="ignore"
                )
                self._classes_checked = True
            if labels:
                classes = int(self._classes(*arrays[: len(objective.inputs)]))
                if target.max() >= classes:
                    where = int(np.argmax(target)) if target.ndim == 1 else np.argwhere(target == target.max())[0]
                    raise problem(
                        f"{name}, {variable}", f"class numbers from 0 to {classes - 1}",
                        Words(f"{target.max()} at example {where}"), "Number the classes from 0.",
                    )  # fmt: skip


def _info(values: Mapping[str, Any]) -> StepInfo:
    """Turn the outputs of the compiled step into plain numbers."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if name == "accepted":
            plain[name] = bool(value)
        elif name in ("solver_status", "solver_iterations"):
            plain[name] = int(value)
        else:
            plain[name] = float(value)
    return StepInfo(**plain)


def compile_step(objective: Objective, optimizer: Optimizer, mode: str | Mode | None = None) -> CompiledStep:
    """Make a compiled step: gradient, solve, damping and update in one function.

    Parameters
    ----------
    objective : Objective
        The model and its loss. Its parameters are updated in place, in their shared variables.
    optimizer : Optimizer
        For instance `NaturalGradient`.
    mode : str or Mode, optional
        PyTensor mode: "CVM" (C), "NUMBA", "JAX", "FAST_COMPILE"; default PyTensor's own.

    Returns
    -------
    CompiledStep
        Called with arrays it takes a step and returns a `StepInfo`. Compilation happens at its first call, for the
        batches given there, or in its ``compile``.

    Raises
    ------
    TypeError, ValueError
        When objective and optimizer do not fit together; the message names the way out.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.matrix("t")
    >>> w = pytensor.shared(np.zeros((2, 1)), name="w")
    >>> y = pt.sigmoid(x @ w)
    >>> loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1).mean()
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> step = symng.compile_step(objective, symng.NaturalGradient(), mode="FAST_COMPILE")
    >>> X, T = np.eye(2), np.array([[1.0], [0.0]])
    >>> info = step((X, T))
    >>> info.status.name, round(info.loss, 4)
    ('CONVERGED', 0.6931)
    >>> step.hyperparameters["maxiter"].set_value(10)  # between steps, without a recompilation
    >>> step((X, T), metric_batch=(X,)).accepted
    True
    """
    return CompiledStep(objective, optimizer, mode)
