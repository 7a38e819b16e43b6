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
from symng.backends._jax import Jax, MeshLinker
from symng.backends._numba import Numba
from symng.backends._unsupported import MLX, PyTorch
from symng.backends.base import Backend
from symng.graphs.types import ModeLike

MODES = ("CVM", "NUMBA", "JAX", "FAST_COMPILE", "FAST_RUN")
"""Names of the modes that run every graph of this package."""

_EXPECTED = f"one of {', '.join(map(repr, MODES))}, a PyTensor Mode, or None"

# PyTensor makes these when they are first asked for.
_DEBUG_MODES = ("MODE", "DEBUGMODE", "DEBUG_MODE", "NANGUARDMODE")

_C, _PYTHON = C(), Python()
_BACKENDS: dict[type, Backend] = {
    JAXLinker: Jax(),
    NumbaLinker: Numba(),
    PytorchLinker: PyTorch(),
    MLXLinker: MLX(),
}

_mode: ModeLike = None


def set_mode(mode: ModeLike) -> None:
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
    """Return the mode that None means, by the order in `set_mode`."""
    if _mode is not None:
        return resolve_mode(_mode)
    has_flags = pytensor.config.mode != "Mode" or pytensor.config.linker != "auto"
    return pytensor_mode() if has_flags or not importlib.util.find_spec("jax") else get_mode("JAX")


def pytensor_mode() -> Mode:
    """Return PyTensor's default mode."""
    return get_mode(None)


def fallback_mode(mode: ModeLike) -> Mode | None:
    """Return the mode to try where ``mode`` cannot run a graph, or None.

    None unless ``mode`` is the default and that is JAX's: a model that ran before JAX was installed
    must still run.
    """
    if mode is not None or not backend_of().is_optional_default:
        return None
    return pytensor_mode()


def resolve_mode(mode: ModeLike) -> Mode:
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
        raise argument_error("mode", _EXPECTED, mode, error=TypeError)
    name = "CVM" if mode.upper() == "C" else mode.upper()
    if name not in predefined_modes and name not in (*MODES, *_DEBUG_MODES):
        raise argument_error("mode", _EXPECTED, mode)
    return get_mode(name)


def backend_of(mode: ModeLike = None) -> Backend:
    """Return the backend that runs functions compiled in ``mode``."""
    linker = resolve_mode(mode).linker
    if isinstance(linker, MeshLinker):
        return linker.backend
    for kind, backend in _BACKENDS.items():
        if isinstance(linker, kind):
            return backend
    if isinstance(linker, PerformLinker) or (isinstance(linker, VMLinker) and not linker.c_thunks):
        return _PYTHON
    return _C


def enabled_backend(mode: ModeLike = None) -> Backend:
    """Return the backend of ``mode``, ready to run loops; refuse one that cannot."""
    backend = backend_of(mode)
    backend.enable(resolve_mode(mode) if mode is None else mode)
    return backend


def mode_on_devices(mode: ModeLike, devices: object) -> Mode:
    """Return the mode that splits the examples of a batch over devices, or refuse them."""
    return enabled_backend(mode).on_devices(resolve_mode(mode), devices)
