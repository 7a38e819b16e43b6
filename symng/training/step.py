"""From the symbolic step of an optimizer to a compiled one that takes arrays."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import pytensor
from pytensor.compile import Function
from pytensor.compile.mode import Mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, deprecated
from symng.backends import Devices, collection_paused, mode_on_devices, sync_to_host
from symng.graphs import vectors
from symng.graphs.building import building
from symng.objective import ObjectiveLike, ObjectiveSum
from symng.objective.chunks import make_batch
from symng.optimizers import Optimizer, Step
from symng.optimizers.averaging import average_params, init_average
from symng.optimizers.base import StepBatches
from symng.training.arguments import check_arguments, takes_single_examples
from symng.training.batch_arrays import (
    Arrays,
    Batches,
    Groups,
    Layouts,
    full_layouts,
)
from symng.training.cost import warn_of_cost
from symng.training.info import StepInfo, make_info
from symng.training.processes import Processes
from symng.training.programs import Programs
from symng.training.sampler import StepArrays
from symng.training.settings import Settings
from symng.training.term_batches import check_groups
from symng.training.updates import OwnUpdates, add_updates, read_updates, record_losses


class CompiledStep:
    """Take optimization steps on arrays; made by `compile_step`.

    The first call with a new combination of batches compiles (and so does `compile`); later calls
    run.

    Attributes
    ----------
    hyperparameters : mapping
        Shared variables that may be set between steps, without a recompilation: ``step_size``,
        ``rtol``, ``maxiter``, ``warm_start``, ``momentum``, ..., whichever the optimizer has. A
        schedule overwrites the variable that it sets. The next step refuses a value that the
        optimizer would refuse as an argument.
    state : mapping
        Shared variables that the optimizer updates: ``damping``, ``direction``, ``velocity``,
        ``step``; with an ``average_decay`` also ``average``, the flat vector of the average.
    backend : str
        What runs the compiled functions: "c", "python", "numba" or "jax".
    compile_seconds : float
        Seconds spent compiling so far.
    """

    @building()
    def __init__(
        self,
        objective: ObjectiveLike,
        optimizer: Optimizer,
        mode: str | Mode | None = None,
        chunk_size: int | None = None,
        *,
        average_decay: float | None = None,
        updates: OwnUpdates | None = None,
        refuses_increases: bool = False,
        devices: Devices = None,
    ) -> None:
        check_arguments(objective, optimizer, chunk_size, average_decay, updates)
        mode = mode if devices is None else mode_on_devices(mode, devices)
        self.average_decay = average_decay
        self.objective, self.optimizer, self.chunk_size = objective, optimizer, chunk_size
        self._programs = Programs(
            objective, chunk_size, mode, self.build, takes_single_examples(optimizer)
        )
        self.processes = Processes(self._programs.arrays.backend)
        self._state = optimizer.init_state(objective)
        if refuses_increases:
            optimizer.refuse_increases(self._state)
        if average_decay is not None:
            init_average(objective, self._state)
        self._own_updates = read_updates(updates, objective, self._state)
        self._settings = Settings(optimizer, self._state)
        self._steps: dict[Layouts, Step] = {}
        self._build_seconds = 0.0
        self._programs.arrays.backend.split_state(self._state.values.values())

    @property
    def hyperparameters(self) -> Mapping[str, SharedVariable]:
        """Shared variables that may be set between steps."""
        return MappingProxyType(self._state.hyperparameters)

    @property
    def state(self) -> Mapping[str, SharedVariable]:
        """Shared variables that the optimizer updates."""
        return MappingProxyType(self._state.values)

    @property
    def updated(self) -> Sequence[SharedVariable]:
        """Shared variables of the user's, other than parameters, that a step updates."""
        return list(self._own_updates)

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self._programs.arrays.backend.name

    @property
    def compile_seconds(self) -> float:
        """Seconds spent building and compiling so far; 0 until something is compiled."""
        seconds = self._programs.seconds
        return seconds + self._build_seconds if seconds else 0.0

    @property
    def functions(self) -> list[Function]:
        """The compiled functions of all combinations of batches so far."""
        return self._programs.functions

    @functools.cached_property
    def metric_inputs(self) -> list[tuple[TensorVariable, ...] | None]:
        """What a metric batch holds of each term; None when the optimizer has no metric."""
        return [self.optimizer.metric_inputs(term) for term in self.objective.terms]

    def __repr__(self) -> str:
        lines = [f"  {line}" for line in self.optimizer.describe(self.objective).splitlines()]
        return "\n".join([f"CompiledStep({self.optimizer!r}, backend={self.backend!r})", *lines])

    def __call__(
        self,
        gradient_batch: Arrays,
        metric_batch: Arrays | None = None,
        search_batch: Arrays | None = None,
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
            Another batch for a line search, or for the reduction ratio of a damping rule with
            ``on_search_batch``, inputs and targets. Default: the gradient batch.

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
        batches = self._check_batches(gradient_batch, metric_batch, search_batch)
        return self._run(batches, sync=True)

    def run(
        self,
        gradient_batch: Arrays,
        metric_batch: Arrays | None = None,
        search_batch: Arrays | None = None,
        *,
        sync: bool = True,
        settled: bool | None = None,
    ) -> StepInfo:
        """Take one step on batches that are known to be right, without the checks.

        Without ``sync`` parameters and state may stay on a device, until `sync_to_host`.
        """
        if settled is not None:
            deprecated("CompiledStep.run(settled=)", "0.2", "CompiledStep.run(sync=)")
            sync = settled
        return self._run(self._by_term(gradient_batch, metric_batch, search_batch), sync)

    def compile(
        self,
        gradient_batch: Arrays,
        metric_batch: Arrays | None = None,
        search_batch: Arrays | None = None,
    ) -> CompiledStep:
        """Compile for these batches and return the step; parameters and state do not change.

        On backends that compile during the first call (Numba, JAX) this makes a call and undoes its
        updates.
        """
        self._compile(self._check_batches(gradient_batch, metric_batch, search_batch))
        return self

    @building()
    def build(self, layouts: Layouts | None = None) -> Step:
        """Return the symbolic step on batches of these layouts; by default on one full batch."""
        layouts = full_layouts(self.objective, "gradient") if layouts is None else layouts
        if layouts not in self._steps:
            start = time.perf_counter()
            # A stack trace of each variable takes a third of the time, and shows only this package.
            with collection_paused(), pytensor.config.change_flags(traceback__limit=0):
                batches = {}
                for name, of_terms in layouts:
                    objective = self.objective
                    if name != "gradient":
                        objective = objective.clone_inputs(f"_{name}")
                    lengths = None
                    if name == "metric":
                        lengths = [len(expected or ()) for expected in self.metric_inputs]
                    batches[name] = make_batch(objective, of_terms, lengths)
                step = self.optimizer.build(StepBatches(**batches), self._state)
                if isinstance(self.objective, ObjectiveSum):
                    step = record_losses(step, batches["gradient"])
                if self.average_decay is not None:
                    step = average_params(step, self._state, self.average_decay)
                if self.chunk_size is None:  # else PyTensor makes the default updates
                    step = add_updates(step, self._own_updates)
                self._steps[layouts] = step
            self._build_seconds += time.perf_counter() - start
        return self._steps[layouts]

    def build_for(
        self,
        gradient_batch: Arrays,
        metric_batch: Arrays | None = None,
        search_batch: Arrays | None = None,
    ) -> Step:
        """Return the symbolic step on these batches, or refuse one that it does not use."""
        batches = self._by_term(gradient_batch, metric_batch, search_batch)
        return self.build(self._programs.arrays.layouts(batches))

    def check_shapes(self, name: str, batch: Arrays) -> None:
        """Evaluate the model on a batch in plain Python, unless arrays of these lengths passed.

        This refuses arrays of wrong shapes at once, and not after a minute of compilation.
        """
        self._programs.check_shapes(name, self.objective.by_term(name, batch))

    def check_lengths(self, numbers: Mapping[str, int], *batches: Arrays | None) -> None:
        """Refuse, in all processes, numbers and lengths of batches that differ between them."""
        given = self._by_term(*batches)  # type: ignore[arg-type]
        lengths = self._programs.arrays.lengths(given)
        self.processes.check_same({**numbers, **lengths}, "Give each as many examples.")

    def check_agreement(self, numbers: Mapping[str, int], *batches: Arrays | None) -> None:
        """Refuse, in all processes, numbers, batches and parameters that differ between them."""
        self.check_lengths(numbers, *batches)
        named = {f"params, {p.name or i}": p for i, p in enumerate(self.objective.params)}
        self.processes.check_values({**named, **self.state, **self.hyperparameters})

    def keep_on_device(self, *batches: Arrays) -> AbstractContextManager[None]:
        """Keep these batches on the device of the backend while the context is open.

        The arrays of those that a step takes are read-only meanwhile.
        """
        groups = [self.objective.by_term("batches", batch) for batch in batches]
        return self._programs.arrays.keep_on_device(*groups)

    def place(self, batches: StepArrays) -> StepArrays:
        """Return the batches of a step with their arrays on the device of the backend."""
        is_sum = isinstance(self.objective, ObjectiveSum)
        placed: list[Any] = []
        for batch in batches:
            if batch is None:
                placed.append(None)
            else:
                groups = self._programs.arrays.place(self.objective.by_term("batches", batch))
                placed.append(tuple(groups) if is_sum else groups[0])
        return placed[0], placed[1], placed[2]

    def sync_to_host(self) -> None:
        """Make parameters and state hold NumPy arrays, as after a call."""
        for step in self._steps.values():
            sync_to_host(step.updates)
        sync_to_host(self._own_updates)
        self._programs.sync_generators()

    @contextmanager
    def use_average(self) -> Iterator[None]:
        """Let the parameters have the values of their average while the context is open.

        For instance to evaluate the model there. Take no step meanwhile: the parameters get their
        own values back.
        """
        if self.average_decay is None:
            raise argument_error(
                "average_decay",
                "a number for an average to use",
                None,
                "Give it to compile_step, for instance 0.99.",
            )
        self.sync_to_host()
        params = self.objective.params
        own = vectors.get_flat(params)
        try:
            vectors.set_flat(params, self._state.values["average"].get_value(borrow=True))
            yield
        finally:
            vectors.set_flat(params, own)

    def restart_average(self) -> None:
        """Begin the average, if there is one, at the current parameters."""
        if self.average_decay is not None:
            flat = vectors.get_flat(self.objective.params)
            self._state.values["average"].set_value(flat)
            self._state.values["average_weight"].set_value(np.asarray(0, flat.dtype))

    def settle(self) -> None:
        """Call `sync_to_host`, by its old name."""
        deprecated("CompiledStep.settle", "0.2", "CompiledStep.sync_to_host")
        self.sync_to_host()

    def holding(self, *batches: Arrays) -> AbstractContextManager[None]:
        """Call `keep_on_device`, by its old name."""
        deprecated("CompiledStep.holding", "0.2", "CompiledStep.keep_on_device")
        return self.keep_on_device(*batches)

    def try_model(self, name: str, batch: Arrays) -> None:
        """Call `check_shapes`, by its old name."""
        deprecated("CompiledStep.try_model", "0.2", "CompiledStep.check_shapes")
        self.check_shapes(name, batch)

    def _run(self, batches: Batches, sync: bool) -> StepInfo:
        """Take one step, and return its numbers."""
        self._settings.check()
        self._compile(batches)
        self._state.follow_schedules()
        records = self._programs.run(batches)
        if sync:
            self.sync_to_host()
        self._settings.accept_damping()
        return make_info(records)

    def _compile(self, batches: Batches) -> None:
        """Compile for a combination of batches, unless that is done."""
        if self._programs.has(batches):
            return
        for name, groups in batches.items():
            self._programs.check_shapes(f"{name}_batch", groups)
        if not self._programs.by_layouts:
            warn_of_cost(self.objective, self.optimizer, batches.get("metric", batches["gradient"]))
        self._programs.compile(batches)

    def _check_batches(
        self, gradient_batch: Arrays, metric_batch: Arrays | None, search_batch: Arrays | None
    ) -> Batches:
        """Return the arrays of each batch, or refuse them."""
        batches = gradient_batch, metric_batch, search_batch
        with self.processes.together("gradient_batch, metric_batch, search_batch"):
            checked = self._check_in_this_process(*batches)
        if self.processes.count > 1:
            self.check_agreement({}, *batches)
        return checked

    def _check_in_this_process(
        self, gradient_batch: Arrays, metric_batch: Arrays | None, search_batch: Arrays | None
    ) -> Batches:
        """Return the arrays of each batch, or refuse them; other processes are not asked."""
        given = self._by_term(gradient_batch, metric_batch, search_batch)
        checked = {n: self._check_batch(n, g) for n, g in given.items() if n != "search"}
        if "search" in given:
            self.build(full_layouts(self.objective, *given))  # refuses one that it does not use
            checked["search"] = self._check_batch("search", given["search"])
        self.build(self._programs.arrays.layouts(checked))  # the same of a metric batch
        return checked

    def _check_batch(self, name: str, groups: Groups) -> Groups:
        """Return the arrays of one batch, or refuse them."""
        expected = self.metric_inputs if name == "metric" else None
        checked = check_groups(f"{name}_batch", groups, self.objective, expected)
        self._programs.arrays.check(f"{name}_batch", checked)
        return checked

    def _by_term(
        self, gradient_batch: Arrays, metric_batch: Arrays | None, search_batch: Arrays | None
    ) -> Batches:
        """Return the batches that are given, by name, each by term."""
        batches = {"gradient": gradient_batch, "metric": metric_batch, "search": search_batch}
        return {
            name: self.objective.by_term(f"{name}_batch", batch)
            for name, batch in batches.items()
            if batch is not None or name == "gradient"
        }
