"""Values of shared variables from before a step, to put back where the step fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pytensor.compile import Function
from pytensor.compile.sharedvalue import SharedVariable

from symng.backends.generators import copies_of, is_generator


class Snapshot:
    """Keep the values of shared variables, and put them back.

    A compiled function may write to an array of a shared variable before it has computed all that
    it updates. If it is cut short, some variables then belong to the step and others do not.

    ``functions`` returns the compiled functions, which on JAX have generators of their own.
    """

    def __init__(
        self,
        variables: Sequence[SharedVariable],
        functions: Callable[[], Sequence[Function]] = lambda: (),
    ) -> None:
        self._variables = [v for v in variables if not is_generator(v)]
        self._generators = [v for v in variables if is_generator(v)]
        self._functions = functions
        self._values: list[Any] = [None] * len(self._variables)
        self._states: list[Any] = []
        self._copies: list[tuple[list[Any], Any]] = []

    def take(self) -> None:
        """Keep the current values: copies, or the immutable arrays of JAX themselves."""
        for i, variable in enumerate(self._variables):
            self._values[i] = copied(variable, self._values[i])
        if self._generators:
            states = [v.get_value(borrow=True).bit_generator.state for v in self._generators]
            self._copies = [(storage, storage[0]) for _, storage in copies_of(self._functions())]
            self._states = states

    def restore(self) -> None:
        """Put the kept values back."""
        for variable, value in zip(self._variables, self._values, strict=True):
            put_back(variable, value)
        for variable, state in zip(self._generators, self._states, strict=True):
            generator = variable.get_value()
            generator.bit_generator.state = state
            variable.set_value(generator, borrow=True)
        for storage, value in self._copies:
            storage[0] = value


def copied(variable: SharedVariable, kept: Any) -> Any:
    """Return a copy of the value of a variable, in the array ``kept`` where it fits.

    An array of JAX, which is immutable, is returned as it is.
    """
    value = variable.get_value(borrow=True)
    if not isinstance(value, np.ndarray):
        return value
    fits = isinstance(kept, np.ndarray) and (kept.shape, kept.dtype) == (value.shape, value.dtype)
    if not fits:
        return value.copy()
    np.copyto(kept, value)
    return kept


def put_back(variable: SharedVariable, kept: Any) -> None:
    """Give a variable a value that was kept: a copy of it, since a later step writes to that."""
    # Not set_value, which would copy an array of JAX to the host.
    variable.container.storage[0] = kept.copy() if isinstance(kept, np.ndarray) else kept
