"""The compiled functions of a step: one, or two stages with a search on the host between them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pytensor.compile.mode import Mode
from pytensor.compile.sharedvalue import SharedVariable

from symng.backends import backend_of, compile_function, to_numpy
from symng.backends.failures import ARRAY_ERRORS
from symng.backends.generators import generators_restored, is_generator
from symng.optimizers import Step
from symng.optimizers.base import HostSearch
from symng.training.batch_arrays import Arrays

Records = dict[str, np.ndarray | int]
"""The scalars that a step records, by their names."""


class Program:
    """Take a step on the arrays of its batches, in order, and return its records by name.

    The arrays must be of the declared dtypes; they may be on the device of the backend.

    Attributes
    ----------
    functions : list
        The compiled functions, in the order in which they are called.
    """

    def __init__(self, step: Step, mode: str | Mode | None) -> None:
        self.step, self.backend = step, backend_of(mode)
        by_name = {name: batch.variables for name, batch in step.batches.by_name.items()}
        batches = [v for variables in by_name.values() for v in variables]
        search = step.search
        between = [] if search is None else [*search.carried, search.coefficients]

        compiled = functools.partial(compile_function, mode=mode, on_unused_input="ignore")
        self._update = compiled(
            [*batches, *between],
            list(step.records.values()),
            updates=step.updates,
            name="symng_step",
        )
        self.functions = [self._update]
        if search is not None:
            # Only the last stage knows whether the step is accepted.
            unchanged = {v: v for v in step.updates if _has_default(v) and not is_generator(v)}
            compiled = functools.partial(compiled, updates=unchanged)
            self._directions = compiled(
                batches, list(search.carried.values()), name="symng_directions"
            )
            searched = by_name.get("search", by_name["gradient"])
            start = batches.index(searched[0]) if searched else 0
            self._searched = slice(start, start + len(searched))
            outputs = search.loss if search.gradient is None else [search.loss, search.gradient]
            self._loss = compiled([*searched, *between], outputs, name="symng_search")
            self.functions = [self._directions, self._loss, self._update]

        # Checking inputs would copy them from the device to the host. The inputs of later functions
        # were checked by the first, or come from it.
        self.functions[0].trust_input = self.backend.has_device
        for function in self.functions[1:]:
            function.trust_input = True
        self._shared = dict.fromkeys(
            v for function in self.functions for v in function.get_shared()
        )

    def __call__(self, arrays: Arrays) -> Records:
        """Take the step."""
        self.backend.take_shared(self._shared)
        if self.step.search is None:
            values = self._update(*arrays)
            return dict(zip(self.step.records, to_numpy(values), strict=True))
        arrays = self.backend.device_put(arrays)
        carried = self._directions(*arrays)
        coefficients, evaluations = self._search(self.step.search, arrays, carried)
        values = to_numpy(self._update(*arrays, *carried, coefficients))
        records = dict(zip(self.step.records, values, strict=True))
        return {**records, "search_evaluations": evaluations}

    def compile(self, arrays: Arrays) -> None:
        """Make a backend that compiles on the first call compile, without changing any variable."""
        if not self.backend.compiles_on_first_call:
            return
        changed = {*self.step.updates, *filter(_has_default, self._shared)}
        with _restored(changed), generators_restored(self.functions), np.errstate(all="ignore"):
            count = self.backend.rehearsal_examples
            if count is not None:
                axes = [x for batch in self.step.batches.by_name.values() for x in batch.axes]
                pairs = zip(arrays, axes, strict=True)
                few = [np.take(a, range(min(count, a.shape[axis])), axis) for a, axis in pairs]
                try:
                    self(few)
                    return
                except ARRAY_ERRORS:  # the model is made for one length of batches
                    pass
            self(arrays)

    def _search(
        self, search: HostSearch, arrays: Arrays, carried: Arrays
    ) -> tuple[np.ndarray, int]:
        """Return the coefficients found on the host, and how often the loss was evaluated."""
        searched, dtype, evaluations = arrays[self._searched], search.coefficients.type.dtype, 0

        def evaluate(coefficients: np.ndarray) -> float | tuple[float, np.ndarray]:
            """Return the loss at the coefficients, and its gradient if there is one."""
            nonlocal evaluations
            evaluations += 1
            values = to_numpy(
                self._loss(*searched, *carried, np.asarray(coefficients, dtype=dtype))
            )
            if search.gradient is None:
                return float(values)
            return float(values[0]), np.asarray(values[1], dtype=np.float64)

        names = [str(v.name) for v in search.carried]
        best = search.find(evaluate, dict(zip(names, carried, strict=True)))
        return np.asarray(best, dtype=dtype), evaluations


def _has_default(variable: SharedVariable) -> bool:
    """Return whether PyTensor updates a shared variable in each function that reads it."""
    return variable.default_update is not None


@contextmanager
def _restored(variables: Iterable[SharedVariable]) -> Iterator[None]:
    """Restore the values of shared variables when the context ends."""
    values = {v: _copy_of(v) for v in variables}
    try:
        yield
    finally:
        for variable, value in values.items():
            variable.set_value(value)


def _copy_of(variable: SharedVariable) -> Any:
    """Return a copy of the value of a shared variable, on the host."""
    value = variable.get_value(borrow=True)
    if is_generator(variable):
        return copy.deepcopy(value)
    return np.array(value) if isinstance(value, np.ndarray) else to_numpy(value)
