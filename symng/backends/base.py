"""What differs from backend to backend: the base of the classes for C, Numba and JAX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from pytensor.compile.mode import Mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable

from symng._checks import argument_error
from symng.backends.host import sync_to_host

Devices = Any
"""A number of devices, a list of them, a mesh or a sharding of JAX; None is one device."""


class Backend:
    """A backend of PyTensor, with the defaults of one that runs in the memory of the host.

    Attributes
    ----------
    name : str
        What messages and `CompiledStep.backend` call it.
    mode_name : str
        The mode that selects it, for messages.
    compiler : str
        What compiles the graph once PyTensor has rewritten it; empty where nothing does.
    compiles_on_first_call : bool
        Whether functions are compiled when they are first called, and not when they are made.
    rehearsal_examples : int or None
        How many examples are enough for the call that compiles a function; None if it is compiled
        for the shapes of its arguments.
    has_device : bool
        Whether arrays can stay on a device, where functions read them without a copy. Such
        functions must trust their inputs: PyTensor's checks would copy the arrays to the host.
    processes, process : int
        How many processes run a step together, and the number of this one.
    is_optional_default : bool
        Whether this backend may be the default although it does not run every graph. PyTensor's
        own mode then takes over.
    """

    name: ClassVar[str]
    mode_name: ClassVar[str]
    compiler: ClassVar[str] = ""
    compiles_on_first_call: ClassVar[bool] = False
    rehearsal_examples: ClassVar[int | None] = None
    has_device: ClassVar[bool] = False
    is_optional_default: ClassVar[bool] = False
    processes: int = 1
    process: int = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def enable(self, mode: str | Mode) -> None:
        """Make PyTensor's backend ready to run loops, or refuse ``mode`` where it has none."""

    def describe_compiler(self) -> str:
        """Return what a message says while the compiler runs."""
        return self.compiler

    def check_dtypes(self, variables: Iterable[Variable]) -> None:
        """Refuse inputs, outputs and shared variables of a dtype that the backend would change."""

    def tune(self, mode: Mode, outputs: Sequence[Variable]) -> Mode:
        """Return the mode with the rewrites that make loops over long vectors fast.

        ``outputs`` are what the mode will compile.
        """
        return mode

    def on_devices(self, mode: Mode, devices: object) -> Mode:
        """Return ``mode`` with the examples of a batch split over devices, or refuse them."""
        raise argument_error(
            "devices",
            f"none in mode {self.mode_name!r}, which runs on the CPU",
            devices,
            "JAX splits examples over devices: install it and give mode='JAX'.",
        )

    def check_split(self, name: str, array: Any, axis: int) -> None:
        """Refuse an array with a number of examples that cannot be split over the devices."""

    def place(self, arrays: Iterable[Any], axes: Sequence[int]) -> Sequence[Any]:
        """Return arrays as functions of this backend take them, their examples along ``axes``."""
        return [np.asarray(array) for array in arrays]

    def gather(self, numbers: Sequence[int]) -> np.ndarray:
        """Return a row of whole numbers, from 0 to 2^32 - 1, from each process."""
        return np.array([numbers], dtype="uint32")

    def device_put(self, arrays: Iterable[Any]) -> Sequence[Any]:
        """Return arrays for many calls, in a form that functions read without a copy."""
        return [np.ascontiguousarray(array) for array in arrays]

    def take_shared(self, variables: Iterable[SharedVariable]) -> None:
        """Make shared variables hold arrays that functions of this backend take.

        A function of another backend, compiled by the user, may have left arrays of its device.
        """
        sync_to_host(variables)

    def split_state(self, variables: Iterable[SharedVariable]) -> None:
        """Let the variables of the optimizer's state be split over devices, where there are any."""

    def locate(self, error: Exception) -> str:
        """Return the op, or its function, that raised ``error``; empty if not known."""
        return ""
