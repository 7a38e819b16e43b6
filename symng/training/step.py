"""From the symbolic step of an optimizer to a compiled one that takes arrays."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
from pytensor.compile.mode import Mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_instance, check_number, explain_keywords
from symng.backends import (
    collection_paused,
    place,
    pytensor_mode,
    settle,
    usable_backend,
    warn_of_other_backend,
)
from symng.backends.failures import ARRAY_ERRORS, backend_failure, comes_from
from symng.objective import Objective
from symng.objective.batches import Layout, check_chunks, cut, layout_of, make_batch
from symng.objective.dry_run import Trial
from symng.optimizers import Optimizer, Preconditioner, Step
from symng.optimizers.base import StepBatches
from symng.solvers import Woodbury
from symng.training.batches import check_metric_batch
from symng.training.cost import warn_of_cost
from symng.training.info import StepInfo, make_info
from symng.training.program import Program
from symng.training.settings import Settings

# The batches of a step, "gradient" and perhaps "metric" and "search", and how each is handed over.
Layouts = tuple[tuple[str, Layout], ...]


def at_once(*names: str) -> Layouts:
    """Return the layouts of batches whose examples come all at once."""
    return tuple((name, Layout()) for name in names)


# The arrays of "gradient", and of "metric" and "search" where they have a batch of their own.
Batches = Mapping[str, Sequence[Any]]


class CompiledStep:
    """Take optimization steps on arrays; made by `compile_step`.

    The first call with a new combination of batches compiles (and so does `compile`); later calls
    run.

    Attributes
    ----------
    hyperparameters : mapping
        Shared variables that may be set between steps, without a recompilation: ``step_size``,
        ``rtol``, ``maxiter``, ``warm_start``, ``momentum``, ..., whichever the optimizer has. One
        that follows a schedule is set by it. What the optimizer would not take as an argument is
        refused by the next step.
    state : mapping
        Shared variables that the optimizer updates: ``damping``, ``direction``, ``velocity``,
        ``step``.
    compile_seconds : float
        Seconds spent compiling so far.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        mode: str | Mode | None = None,
        chunk_size: int | None = None,
        *,
        refuses_increases: bool = False,
    ) -> None:
        check_instance("objective", objective, Objective, "a symng.Objective")
        check_instance(
            "optimizer",
            optimizer,
            Optimizer,
            "an optimizer such as symng.NaturalGradient()",
            "Mind the brackets.",
        )
        if chunk_size is not None:
            check_number("chunk_size", chunk_size, minimum=1, integer=True)
            check_chunks(objective)
        self.objective, self.optimizer, self.mode, self.chunk_size = (
            objective,
            optimizer,
            mode,
            chunk_size,
        )
        self.backend = usable_backend(mode)
        self.compile_seconds = 0.0
        direct = isinstance(getattr(optimizer, "solver", None), Woodbury)
        if direct and chunk_size is not None:
            raise argument_error(
                "chunk_size",
                "none with symng.Woodbury, whose Gram matrix is of a whole batch",
                Verbatim("one"),
                "Leave it out, or take symng.CG or symng.MinresQLP.",
                NotImplementedError,
            )
        self._state = optimizer.init_state(objective)
        self._state.refuses_increases = refuses_increases
        self._steps: dict[Layouts, Step] = {}
        self._programs: dict[Layouts, Program] = {}
        self._held: dict[tuple[int, ...], Any] = {}
        self._metric_inputs: Any = ...  # not known yet
        self._trial = Trial(objective.model)
        self._settings = Settings(optimizer, self._state)
        start = time.perf_counter()
        self.build()  # so that a model that does not fit is told now
        self._build_seconds = time.perf_counter() - start

    @property
    def hyperparameters(self) -> Mapping[str, SharedVariable]:
        """Shared variables that may be set between steps."""
        return MappingProxyType(self._state.hyperparameters)

    @property
    def state(self) -> Mapping[str, SharedVariable]:
        """Shared variables that the optimizer updates."""
        return MappingProxyType(self._state.values)

    @property
    def metric_inputs(self) -> tuple[TensorVariable, ...] | None:
        """Which inputs and targets a metric batch holds; None when the optimizer has no metric."""
        if self._metric_inputs is ...:
            self._metric_inputs = self.optimizer.metric_inputs(self.objective)
        return self._metric_inputs

    def __repr__(self) -> str:
        preconditioner = getattr(self.optimizer, "preconditioner", None)
        found = (
            preconditioner.describe(self.objective)
            if isinstance(preconditioner, Preconditioner)
            else ""
        )
        lines = [f"  {line}" for line in found.splitlines()]
        return "\n".join([f"CompiledStep({self.optimizer!r}, backend={self.backend!r})", *lines])

    @property
    def functions(self) -> list[Any]:
        """The compiled functions of all combinations of batches so far."""
        return [function for program in self._programs.values() for function in program.functions]

    def build(self, layouts: Layouts | None = None) -> Step:
        """Return the symbolic step on batches that are handed over like this; by default one, all at once."""
        layouts = at_once("gradient") if layouts is None else layouts
        if layouts not in self._steps:
            with collection_paused():
                batches = {}
                for name, layout in layouts:
                    on = (
                        self.objective
                        if name == "gradient"
                        else self.objective.on_fresh_inputs(f"_{name}")
                    )
                    held = len(self.metric_inputs or ()) if name == "metric" else None
                    batches[name] = make_batch(on, layout, held)
                self._steps[layouts] = self.optimizer.build(StepBatches(**batches), self._state)
        return self._steps[layouts]

    def compile(
        self, gradient_batch: Sequence[Any], metric_batch: Any = None, search_batch: Any = None
    ) -> CompiledStep:
        """Compile for these batches, leaving parameters and state as they are, and return the step itself.

        On backends that compile during the first call (Numba, JAX) this makes one, and undoes what
        it did.
        """
        self._compile(self._check_batches(gradient_batch, metric_batch, search_batch))
        return self

    def __call__(
        self, gradient_batch: Sequence[Any], metric_batch: Any = None, search_batch: Any = None
    ) -> StepInfo:
        """Take one step.

        Parameters
        ----------
        gradient_batch : tuple of arrays
            Values of the objective's inputs and then targets, for gradient, loss and reduction
            ratio.
        metric_batch : tuple of arrays, optional
            Another batch for the metric: values of the inputs, and of the targets if the metric's
            graph reaches them (`EmpiricalFisher`, `Hessian`). Default: the gradient batch, whose
            forward pass is then shared.
        search_batch : tuple of arrays, optional
            Another batch for a line search, inputs and targets. Default: the gradient batch.

        Returns
        -------
        StepInfo

        Raises
        ------
        TypeError, ValueError
            When a batch has the wrong number of arrays, dtype, shape or length, or holds NaN or Inf
            (the message names array and example), or when a setting was given a value out of range.
            Nothing has changed then.
        """
        return self._run(self._check_batches(gradient_batch, metric_batch, search_batch))

    def run(
        self,
        gradient_batch: Sequence[Any],
        metric_batch: Any = None,
        search_batch: Any = None,
        *,
        settled: bool = True,
    ) -> StepInfo:
        """Take one step on batches that are known to be right, dtypes too: a call without the checks.

        Without ``settled`` parameters and state stay on the device of a JAX step, until `settle`.
        """
        given = {"gradient": gradient_batch, "metric": metric_batch, "search": search_batch}
        return self._run(
            {name: batch for name, batch in given.items() if batch is not None}, settled
        )

    @contextmanager
    def holding(self, *batches: Sequence[Any]) -> Iterator[None]:
        """Keep these batches on the JAX device while the context is open; the arrays are read-only meanwhile."""
        locked = []

        def placed(batch: Sequence[Any]) -> list[Any]:
            for array in batch:
                if array.flags.writeable:  # what is written would not be seen
                    locked.append(array)
                    array.flags.writeable = False
            return place(self._cut(batch), self.backend)

        if self.backend == "jax":
            self._held = {
                _identity(batch): functools.cache(functools.partial(placed, batch))
                for batch in batches
            }
        try:
            yield
        finally:
            self._held = {}
            for array in locked:
                array.flags.writeable = True

    def settle(self) -> None:
        """Make parameters and state hold NumPy arrays, as after a call."""
        for step in self._steps.values():
            settle(step.updates)

    def _run(self, batches: Batches, settled: bool = True) -> StepInfo:
        """Take one step."""
        self._settings.check()
        self._compile(batches)
        self._state.follow_schedules()
        values = self._call(batches)
        if settled:
            self.settle()
        self._settings.follow()
        return make_info(values)

    def _layouts(self, batches: Batches) -> Layouts:
        """Return which batches there are and how each is handed over: for each combination a function is compiled."""
        axes = self.objective.data_axes
        return tuple(
            (name, layout_of(a, axes[: len(a)], self.chunk_size)) for name, a in batches.items()
        )

    def _compile(self, batches: Batches) -> None:
        """Compile the function for a combination of batches, unless that is done."""
        layouts = self._layouts(batches)
        if layouts in self._programs:
            return
        for name, arrays in batches.items():
            self.try_model(f"{name}_batch", arrays)
        if not self._programs:
            warn_of_cost(self.objective, self.optimizer, batches.get("metric", batches["gradient"]))
        start = time.perf_counter()
        try:
            self._make_program(batches)
        except Exception as error:
            if self.mode is not None or self.backend != "jax":
                raise
            # A model that ran before JAX was installed must still run.
            self.mode = pytensor_mode()
            self.backend = usable_backend(self.mode)
            for held in self._held.values():
                held.cache_clear()  # these are arrays of JAX
            self._make_program(batches)
            warn_of_other_backend(error, self.backend)
        self.compile_seconds += self._build_seconds + time.perf_counter() - start
        self._build_seconds = 0.0

    def _make_program(self, batches: Batches) -> None:
        """Compile the function for a combination of batches on the present backend."""
        layouts = self._layouts(batches)
        self._programs[layouts] = Program(self.build(layouts), self.mode)
        if self.backend in ("numba", "jax"):
            self._rehearse(batches)

    def try_model(self, name: str, batch: Sequence[Any]) -> None:
        """Evaluate the model on a batch in plain Python, unless it was on arrays of the same lengths.

        Arrays of wrong shapes are refused at once, and not after the step was compiled, which may
        take a minute.
        """
        if not self._trial.knows(batch):
            self._trial(name, self._first_chunk(batch))

    def _first_chunk(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Return the first examples of a batch, a chunk of them."""
        if self.chunk_size is None:
            return batch
        axes = self.objective.data_axes
        return [
            a[(slice(None),) * axis + (slice(self.chunk_size),)]
            for a, axis in zip(batch, axes, strict=False)
        ]

    def _arrays(self, batches: Batches) -> list[Any]:
        """Return the arrays of all batches in the order of the function's inputs, chunks and what is left apart."""
        arrays: list[Any] = []
        for batch in batches.values():
            held = self._held.get(_identity(batch))
            arrays += self._cut(batch) if held is None else held()
        return arrays

    def _cut(self, batch: Sequence[Any]) -> list[Any]:
        """Return the arrays of a batch as the function takes them."""
        return cut(batch, self.objective.data_axes[: len(batch)], self.chunk_size)

    def _call(self, batches: Batches) -> dict[str, Any]:
        """Call what is compiled; when it fails, name the batch that does not fit the model, or else the backend."""
        try:
            return self._programs[self._layouts(batches)](self._arrays(batches))
        except Exception as error:
            if not comes_from(error, "pytensor"):  # but from a search on the host
                raise
            for name, batch in batches.items():
                self._trial(f"{name}_batch", self._first_chunk(batch))
            arrays = [a for batch in batches.values() for a in batch]
            raise backend_failure(error, self.backend, arrays) from error

    def _rehearse(self, batches: Batches) -> None:
        """Call the function once, so that the backend compiles, and undo what it did."""
        layouts = self._layouts(batches)
        step = self.build(layouts)
        kept = {v: np.array(v.get_value(borrow=True)) for v in step.updates}
        try:
            with np.errstate(all="ignore"):
                if (
                    self.backend == "numba"
                ):  # what it compiles does not depend on shapes: two examples will do
                    axes = [axis for batch in step.batches.by_name.values() for axis in batch.axes]
                    arrays = zip(self._arrays(batches), axes, strict=True)
                    few = [np.take(a, range(min(2, a.shape[x])), axis=x) for a, x in arrays]
                    try:
                        self._programs[layouts](few)
                        return
                    except ARRAY_ERRORS:  # the model is made for one length of batches
                        pass
                self._call(batches)
        finally:
            for variable, value in kept.items():
                variable.set_value(value)

    def _check_batches(self, gradient_batch: Any, metric_batch: Any, search_batch: Any) -> Batches:
        """Return the arrays of each batch, or refuse them."""
        batches: dict[str, Sequence[Any]] = {
            "gradient": self.objective.check_batch("gradient_batch", gradient_batch)
        }
        if metric_batch is not None:
            batches["metric"] = check_metric_batch(
                "metric_batch", metric_batch, self.objective, self.metric_inputs
            )
        given = {"gradient": gradient_batch, "metric": metric_batch, "search": search_batch}
        # Refuses a batch that nothing uses.
        self.build(at_once(*(name for name, batch in given.items() if batch is not None)))
        if search_batch is not None:
            batches["search"] = self.objective.check_batch("search_batch", search_batch)
        return batches


def _identity(batch: Sequence[Any]) -> tuple[int, ...]:
    """Return a key for the arrays of a batch, valid while they are alive."""
    return tuple(map(id, batch))


@explain_keywords
def compile_step(
    objective: Objective,
    optimizer: Optimizer,
    mode: str | Mode | None = None,
    *,
    chunk_size: int | None = None,
) -> CompiledStep:
    """Make a compiled step: gradient, solve, damping and update in one function.

    Parameters
    ----------
    objective : Objective
        The model and its loss. Its parameters are updated in place, in their shared variables.
    optimizer : Optimizer
        For instance `NaturalGradient`.
    mode : str or Mode, optional
        PyTensor mode: "CVM" (C), "NUMBA", "JAX", "FAST_COMPILE". Default: see `set_mode`, as a rule
        JAX where it is installed; a model that JAX cannot run then runs in PyTensor's own mode,
        with a warning.
    chunk_size : int, optional
        Compute gradient, products with the metric and losses over chunks of so many examples of a
        batch, one after another, so that memory follows the chunk and not the batch. The results
        are the same to rounding. The loss must be a mean or sum over examples. Default: the whole
        batch at once, whose activations are kept for the solve; with chunks each product makes a
        forward pass of its own.

    Returns
    -------
    CompiledStep
        Called with arrays it takes a step and returns a `StepInfo`. Compilation happens at its
        first call, for the batches given there, or in its ``compile``.

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
    return CompiledStep(objective, optimizer, mode, chunk_size)
