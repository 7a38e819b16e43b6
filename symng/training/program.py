"""The compiled functions of a step: one, or two stages with a search on the host between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pytensor.compile.mode import Mode

from symng.backends import backend_of, compile_function, place, settle, to_numpy
from symng.optimizers import Step
from symng.optimizers.base import HostSearch


class Program:
    """Take a step on its arrays, in the order of the batches of the step, and return the values of its records.

    The arrays must be of the declared dtypes; for JAX they may be on its device already.
    """

    def __init__(self, step: Step, mode: str | Mode | None) -> None:
        self.step, self.backend = step, backend_of(mode)
        held = {name: batch.variables for name, batch in step.batches.by_name.items()}
        batches = [v for variables in held.values() for v in variables]
        records, search = list(step.records.values()), step.search
        between = [] if search is None else [*search.carried, search.coefficients]
        self.function = compile_function(
            [*batches, *between],
            records,
            updates=step.updates,
            mode=mode,
            name="symng_step",
            on_unused_input="ignore",
        )
        if search is not None:
            self._first = compile_function(
                batches,
                list(search.carried.values()),
                mode=mode,
                name="symng_directions",
                on_unused_input="ignore",
            )
            name = "search" if "search" in held else "gradient"
            searched = held[name]
            start = sum(
                len(variables) for variables in list(held.values())[: list(held).index(name)]
            )
            self._searched = slice(start, start + len(searched))
            outputs = search.loss if search.gradient is None else [search.loss, search.gradient]
            self._loss = compile_function(
                [*searched, *between],
                outputs,
                mode=mode,
                name="symng_search",
                on_unused_input="ignore",
            )
            # What both take was checked by the first stage, or comes from it.
            self._loss.trust_input = self.function.trust_input = True
        if self.backend == "jax":  # a check would fetch from the device what is there
            (self.function if search is None else self._first).trust_input = True
        self.functions = (
            [self.function] if search is None else [self._first, self._loss, self.function]
        )
        self._shared = dict.fromkeys(
            v for function in self.functions for v in function.get_shared()
        )

    def __call__(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """Take the step; without a search it is one call."""
        if self.backend != "jax":
            settle(self._shared)  # a function of the user's may have left arrays of JAX there
        if self.step.search is None:
            return dict(zip(self.step.records, to_numpy(self.function(*arrays)), strict=True))
        arrays = place(arrays, self.backend)
        carried = self._first(*arrays)
        coefficients, evaluations = self._search(self.step.search, arrays, carried)
        values = to_numpy(self.function(*arrays, *carried, coefficients))
        return dict(zip(self.step.records, values, strict=True)) | {
            "search_evaluations": evaluations
        }

    def _search(
        self, search: HostSearch, arrays: Sequence[Any], carried: Sequence[Any]
    ) -> tuple[np.ndarray, int]:
        """Return the coefficients found on the host, and how often the loss was evaluated."""
        searched, dtype, evaluations = arrays[self._searched], search.coefficients.type.dtype, 0

        def evaluate(coefficients: np.ndarray) -> Any:
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
        found = search.find(evaluate, dict(zip(names, carried, strict=True)))
        return np.asarray(found, dtype=dtype), evaluations
