"""Random generators of compiled functions, and their states as plain numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from pytensor.compile.executor import Function
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.random.type import RandomType

_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def is_generator(variable: object) -> bool:
    """Return whether a shared variable is a random generator."""
    return isinstance(variable, SharedVariable) and isinstance(variable.type, RandomType)


def copies_of(functions: Sequence[Function]) -> Iterator[tuple[SharedVariable, list[Any]]]:
    """Yield the shared generators that functions have copies of, each with the copy's storage.

    PyTensor gives a function for JAX copies of the generators, in JAX's own form, which advance
    instead of the shared variables.
    """
    for function in functions:
        for given, container in zip(function.maker.inputs, function.input_storage, strict=True):
            if is_generator(given.variable) and isinstance(container.storage[0], Mapping):
                yield given.variable, container.storage


@contextmanager
def generators_restored(functions: Sequence[Function]) -> Iterator[None]:
    """Restore the copies of generators that functions have when the context ends."""
    before = [(storage, storage[0]) for _, storage in copies_of(functions)]
    try:
        yield
    finally:
        for storage, value in before:
            storage[0] = value


def sync_generators(functions: Sequence[Function]) -> None:
    """Advance shared generators to the states of their copies in functions for JAX.

    A function that is compiled for JAX later goes on from there. NumPy draws other numbers from
    the same state.
    """
    for variable, storage in copies_of(functions):
        generator = copy.deepcopy(variable.get_value(borrow=True))
        state = generator.bit_generator.state
        if "jax_state" not in storage[0] or not isinstance(state["state"].get("state"), int):
            continue
        # PyTensor takes JAX's key from the lower 64 bits, if there are any above.
        low, high = (int(word) for word in np.asarray(storage[0]["jax_state"]))
        above = (state["state"]["state"] >> 64) or 1
        state["state"]["state"] = above << 64 | high << 32 | low
        generator.bit_generator.state = state
        variable.set_value(generator, borrow=True)


def get_generator_state(variable: SharedVariable) -> dict[str, Any] | None:
    """Return the state of a shared generator for JSON; None if it is not one of NumPy's."""
    state = variable.get_value(borrow=True).bit_generator.state
    return _plain(state) if state["bit_generator"] in _BIT_GENERATORS else None


def check_generator_state(state: Mapping[str, Any]) -> None:
    """Refuse what is not the state of one of NumPy's generators."""
    _bits_of(state)


def set_generator_state(variable: SharedVariable, state: Mapping[str, Any]) -> None:
    """Set a shared generator to a state from `get_generator_state`."""
    variable.set_value(np.random.Generator(_bits_of(state)), borrow=True)


def _bits_of(state: Mapping[str, Any]) -> np.random.BitGenerator:
    """Return a bit generator in a state."""
    name = state["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise ValueError(f"bit_generator: expected one of NumPy's, got {name!r}.")
    bits = getattr(np.random, name)()
    bits.state = _arrays(state)
    return bits


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _arrays(entry) for key, entry in value.items()}
    return np.array(value, dtype="uint64") if isinstance(value, list) else value
