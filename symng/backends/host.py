"""Bring arrays from the device of a backend back to NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable


def to_numpy(values: Any) -> Any:
    """Return the outputs of a compiled function as NumPy arrays, waiting for JAX to finish.

    Lists, tuples and dictionaries are converted item by item. Arrays of a device are copied: the
    result is writable and shares no memory with a buffer that a later call may reuse.
    """
    if isinstance(values, Mapping):
        return {key: to_numpy(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(to_numpy(value) for value in values)
    return values if isinstance(values, np.ndarray | np.generic) else np.array(values)


def sync_to_host(variables: Iterable[SharedVariable]) -> None:
    """Make shared variables hold NumPy arrays of their own dtype.

    An update made on JAX leaves a JAX array in the shared variable: ``get_value`` then returns it,
    read-only, and functions compiled for C or Numba refuse it. This waits for JAX to finish and
    copies the values to the host; the next call on JAX copies them back.
    """
    for variable in variables:
        value = variable.get_value(borrow=True)
        if hasattr(variable.type, "dtype") and not isinstance(value, np.ndarray):
            variable.set_value(np.array(value, dtype=variable.type.dtype), borrow=True)
