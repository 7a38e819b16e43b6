"""The modes that graphs are compiled in, the default among them, and the backend of each."""

from __future__ import annotations

import importlib.util

import pytensor
from pytensor.compile.mode import Mode, get_mode, predefined_modes
from pytensor.link.basic import PerformLinker
from pytensor.link.jax.linker import JAXLinker
from pytensor.link.mlx.linker import MLXLinker
from pytensor.link.numba.linker import NumbaLinker
from pytensor.link.pytorch.linker import PytorchLinker
from pytensor.link.vm import VMLinker

from symng._checks import argument_error
from symng.backends._c import C, Python
from symng.backends._jax import Jax
from symng.backends._numba import Numba
from symng.backends._unsupported import MLX, PyTorch
from symng.backends.base import Backend

MODES = ("CVM", "NUMBA", "JAX", "FAST_COMPILE", "FAST_RUN")
"""The modes that run every graph of this package, by name."""

# Known to PyTensor, for debugging.
_DEBUG_MODES = ("MODE", "DEBUGMODE", "DEBUG_MODE", "NANGUARDMODE")

_C, _PYTHON = C(), Python()
_BACKENDS: dict[type, Backend] = {
    JAXLinker: Jax(),
    NumbaLinker: Numba(),
    PytorchLinker: PyTorch(),
    MLXLinker: MLX(),
}

_mode: str | Mode | None = None


def set_mode(mode: str | Mode | None) -> None:
    """Set the mode in which symng compiles wherever no ``mode`` is given.

    `compile_step`, `minimize` and `LinearOperator.to_scipy` follow it from then on. Without this
    call the mode is that of PYTENSOR_FLAGS or ``pytensor.config`` where one was set (``mode`` or
    ``linker``), else JAX where it is installed, else PyTensor's own. `Objective.check` computes so
    little that it runs in plain Python, unless it is given a mode.

    Parameters
    ----------
    mode : str, Mode or None
        "JAX", "NUMBA", "CVM" (C), "FAST_COMPILE", "FAST_RUN", in any case, or a PyTensor Mode; None
        goes back to the default.

    Raises
    ------
    TypeError, ValueError
        If ``mode`` is none of these.
    ImportError
        If it is JAX, and jax is not installed.
    NotImplementedError
        If its backend has no loops (MLX, PyTorch).

    Notes
    -----
    Graphs that you compile yourself with `pytensor.function` are not affected.

    Examples
    --------
    >>> import symng
    >>> symng.set_mode("CVM")
    >>> symng.set_mode(None)
    """
    global _mode
    if mode is not None:
        enabled_backend(mode)
    _mode = mode


def default_mode() -> Mode:
    """Return the mode that None means.

    It is that of `set_mode`, or of PyTensor's flags, else JAX's, else PyTensor's own.

    It is that of `set_mode`, or of PyTensor's flags, else JAX's, else PyTensor's own.
    """
    if _mode is not None:
        return resolve_mode(_mode)
    flags = pytensor.config.mode != "Mode" or pytensor.config.linker != "auto"
    return get_mode("JAX") if not flags and importlib.util.find_spec("jax") else pytensor_mode()


def pytensor_mode() -> Mode:
    """Return PyTensor's default mode."""
    return get_mode(None)


def fallback_mode(mode: str | Mode | None) -> Mode | None:
    """Return the mode to try where ``mode`` cannot run a graph; None if that mode was asked for.

    A model that ran before JAX was installed must still run.
    """
    if mode is not None or not backend_of().is_optional_default:
        return None
    return pytensor_mode()


def resolve_mode(mode: str | Mode | None) -> Mode:
    """Return the PyTensor mode that ``mode`` means, or refuse it.

    Parameters
    ----------
    mode : str, Mode or None
        A name in any case, a PyTensor mode, or None for the default (see `set_mode`). "C" means
        "CVM": the linker that compiles a graph to one piece of C has no scan.

    Returns
    -------
    pytensor.compile.mode.Mode
        The mode itself where one was given.

    Raises
    ------
    TypeError, ValueError
        If ``mode`` is none of these.

    Examples
    --------
    >>> import symng
    >>> type(symng.resolve_mode("numba").linker).__name__
    'NumbaLinker'
    """
    if mode is None:
        return default_mode()
    if isinstance(mode, Mode):
        return mode
    if not isinstance(mode, str):
        raise argument_error("mode", _CHOICES, mode, error=TypeError)
    name = "CVM" if mode.upper() == "C" else mode.upper()
    if name not in predefined_modes and name not in (*MODES, *_DEBUG_MODES):
        raise argument_error("mode", _CHOICES, mode)
    return get_mode(name)


_CHOICES = f"one of {', '.join(map(repr, MODES))}, a PyTensor Mode, or None"


def backend_of(mode: str | Mode | None = None) -> Backend:
    """Return the backend that runs functions compiled in ``mode``."""
    linker = resolve_mode(mode).linker
    for kind, backend in _BACKENDS.items():
        if isinstance(linker, kind):
            return backend
    if isinstance(linker, PerformLinker) or (isinstance(linker, VMLinker) and not linker.c_thunks):
        return _PYTHON
    return _C


def enabled_backend(mode: str | Mode | None = None) -> Backend:
    """Return the backend of ``mode``, ready to run loops; refuse one that cannot."""
    backend = backend_of(mode)
    backend.enable(resolve_mode(mode) if mode is None else mode)
    return backend
