"""Compile graphs on PyTensor's backends, and add what JAX lacks: loops and lengths.

This is the only place that calls ``pytensor.function``. Importing it does not import jax.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytensor
from pytensor.compile.mode import Mode, get_mode, predefined_modes
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import graph_inputs
from pytensor.link.basic import PerformLinker
from pytensor.link.jax.linker import JAXLinker
from pytensor.link.mlx.linker import MLXLinker
from pytensor.link.numba.linker import NumbaLinker
from pytensor.link.pytorch.linker import PytorchLinker
from pytensor.link.vm import VMLinker

from symng._checks import argument_error, check_number, warn
from symng.backends.failures import compiling, first_line
from symng.backends.plain import PLAIN as PLAIN
from symng.backends.plain import STABLE as STABLE

MODES = ("CVM", "NUMBA", "JAX", "FAST_COMPILE", "FAST_RUN")
"""The modes that run every graph of this package, by name."""

_OTHER_MODES = (
    "MODE",
    "DEBUGMODE",
    "DEBUG_MODE",
    "NANGUARDMODE",
)  # known to PyTensor, for debugging
_LINKERS: dict[type, str] = {
    JAXLinker: "jax",
    NumbaLinker: "numba",
    PytorchLinker: "pytorch",
    MLXLinker: "mlx",
}
_WIDE = ("float64", "complex128")


def enable_jax() -> None:
    """Teach PyTensor's JAX backend to run while scans, and to compute with shapes.

    PyTensor refuses to convert a `pytensor.scan` that may stop early (``until``) to JAX. After this call
    such a scan becomes a `jax.lax.while_loop`. And whatever follows from the shapes of arrays
    alone, such as the length of a reshape, an arange or a split, is computed while JAX traces the
    function. `symng.compile_step` and `symng.minimize` make the call by themselves; make it for
    graphs that you compile with ``mode="JAX"`` on your own. A second call does nothing.

    Raises
    ------
    ImportError
        When jax is not installed.

    Notes
    -----
    JAX arrays have fixed shapes, so of a loop that may stop early only the last value of each
    output can be read (``out[-1]``); a graph that wants all of them, as the gradient through such a
    loop does, is refused with a NotImplementedError while it is compiled. The number of steps may
    be symbolic.

    Two graph rewrites are added for the JAX backend only: one that keeps the storage of such a loop
    to its last value when its initial state is a constant, and one that takes a pointless cast to
    float64 away from float32 sums (PyTensor's JAX backend sums in float32 and casts the result).

    JAX computes in 64 bits only if PyTensor's ``floatX`` is "float64" (the default) when its JAX
    backend is first used, or after ``jax.config.update("jax_enable_x64", True)``.

    Examples
    --------
    >>> import pytensor
    >>> import pytensor.tensor as pt
    >>> from pytensor.scan.utils import until
    >>> import symng
    >>> symng.enable_jax()
    >>> x = pt.dscalar("x")
    >>> def halve(state):
    ...     return state / 2, until(state < 4)
    >>> halves = pytensor.scan(halve, outputs_info=[x], n_steps=100, return_updates=False)
    >>> f = pytensor.function([x], halves[-1], mode="JAX")
    >>> float(f(10.0))
    1.25
    """
    try:
        import jax  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "mode: expected an installed jax for the JAX backend, got none. Install it with: pip "
            "install jax"
        ) from error
    from symng.backends._jax_scan import register

    register()


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
        usable_backend(mode)
    _mode = mode


def default_mode() -> Mode:
    """Return the mode that None means: that of `set_mode`, or of PyTensor's flags, else JAX's, else PyTensor's own."""
    if _mode is not None:
        return resolve_mode(_mode)
    asked = pytensor.config.mode != "Mode" or pytensor.config.linker != "auto"
    return get_mode("JAX") if not asked and importlib.util.find_spec("jax") else pytensor_mode()


def pytensor_mode() -> Mode:
    """Return the mode that PyTensor takes by default."""
    return get_mode(None)


def resolve_mode(mode: str | Mode | None) -> Mode:
    """Return the PyTensor mode that ``mode`` means: a name in any case, a mode, or None for the default.

    "C" is taken for "CVM": the linker that compiles a whole graph to one piece of C has no scan.
    """
    if mode is None:
        return default_mode()
    if isinstance(mode, Mode):
        return mode
    if not isinstance(mode, str):
        raise argument_error("mode", _mode_choices(), mode, error=TypeError)
    name = mode.upper()
    if name == "C":
        name = "CVM"
    if name not in predefined_modes and name not in MODES and name not in _OTHER_MODES:
        raise argument_error("mode", _mode_choices(), mode)
    return get_mode(name)


def backend_of(mode: str | Mode | None = None) -> str:
    """Name what runs a function compiled in ``mode``: "c", "python", "numba", "jax", "pytorch" or "mlx"."""
    linker = resolve_mode(mode).linker
    for kind, name in _LINKERS.items():
        if isinstance(linker, kind):
            return name
    if isinstance(linker, PerformLinker) or (isinstance(linker, VMLinker) and not linker.c_thunks):
        return "python"
    return "c"


def usable_backend(mode: str | Mode | None = None) -> str:
    """Return the backend of ``mode`` as `backend_of` does, made ready to run loops; refuse one that cannot."""
    backend = backend_of(mode)
    if backend in ("mlx", "pytorch"):
        title = {"mlx": "MLX", "pytorch": "PyTorch"}[backend]
        raise argument_error(
            "mode",
            "a backend that has scan, the loop of the solvers",
            resolve_mode(mode) if mode is None else mode,
            f"PyTensor's {title} backend has no scan; use 'CVM', 'NUMBA' or 'JAX'.",
            NotImplementedError,
        )
    if backend == "jax":
        enable_jax()
    return backend


def compile_function(
    inputs: Sequence[Variable],
    outputs: Variable | Sequence[Variable] | None = None,
    updates: Mapping[SharedVariable, Variable]
    | Iterable[tuple[SharedVariable, Variable]]
    | None = None,
    mode: str | Mode | None = None,
    name: str | None = None,
    **kwargs: Any,
) -> Any:
    """Compile a function with `pytensor.function`, after making sure that the backend can run it.

    Parameters
    ----------
    inputs, outputs, updates, name, **kwargs
        As in `pytensor.function`.
    mode : str, Mode or None, default None
        A name in any case, a PyTensor mode, or None for the default (see `set_mode`).

    Returns
    -------
    pytensor.compile.executor.Function
        The compiled function. On JAX it hands back JAX arrays, before they are computed: see
        `to_numpy`. Its arguments are checked and turned into NumPy arrays unless its
        ``trust_input`` is set to True, which is right only where every argument is known to be an
        array of the declared dtype and number of dimensions.

    Raises
    ------
    ValueError
        When ``mode`` is not a known name, or JAX would silently turn float64 into float32.
    ImportError
        When ``mode`` is JAX and jax is not installed.
    NotImplementedError
        When the backend has no scan (MLX, PyTorch).
    """
    backend = usable_backend(mode)
    pairs: dict[Any, Any] = dict(updates or {})
    if backend == "jax":
        _check_width([*inputs, *_listed(outputs), *pairs, *pairs.values()])
    with collection_paused(), warnings.catch_warnings(), compiling(backend):
        # JAX cannot check while it runs, and PyTensor warns of each check.
        warnings.filterwarnings("ignore", message="Skipping Assert", category=UserWarning)
        mode = _tuned(resolve_mode(mode), backend)
        return pytensor.function(inputs, outputs, updates=pairs, mode=mode, name=name, **kwargs)


def warn_of_other_backend(error: Exception, backend: str) -> None:
    """Warn that a graph runs on ``backend``, since JAX, which was taken by default, cannot run it."""
    cause = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    warn(
        f"mode: JAX, the default, cannot run this model ({cause}). It runs on the backend "
        f"{backend!r}. Choose one with "
        "mode= or symng.set_mode to have no warning."
    )


@contextmanager
def collection_paused() -> Iterator[None]:
    """Do without Python's cyclic garbage collector for a while.

    Graphs are made of a hundred thousand objects that live on. To look through them again and again
    takes a fifth of the time that it takes to build and rewrite one.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def to_numpy(values: Any) -> Any:
    """Return what a compiled function returned as NumPy arrays of one's own, waiting for JAX to finish.

    Lists, tuples and dictionaries are gone through. The arrays are writable and share no memory
    with a device buffer that a later call may reuse.
    """
    if isinstance(values, Mapping):
        return {key: to_numpy(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(to_numpy(value) for value in values)
    return values if isinstance(values, np.ndarray | np.generic) else np.array(values)


def keep_memory(size: int = 2**31 - 1) -> bool:
    """Let the process keep the memory of arrays that are done with for the arrays that come next.

    The C library hands a large array's memory back to the system as soon as the array is gone, and
    the system clears it page by page for the next array. With models of a million parameters or
    batches of thousands of examples that is a tenth to a fifth of the time of a step on the CPU.
    This setting is the whole process's, so it is left to you.

    Parameters
    ----------
    size : int, default 2147483647
        How many bytes may be kept, and how large an array may be whose memory is; from 1 to
        2147483647.

    Returns
    -------
    bool
        Whether the C library took it. Only glibc, the C library of most Linux systems, does.

    Raises
    ------
    TypeError, ValueError
        If ``size`` is not as described.

    Notes
    -----
    It is ``mallopt`` of M_MMAP_THRESHOLD and M_TRIM_THRESHOLD. The same without a call, for any
    program: start it with the environment variables ``MALLOC_MMAP_THRESHOLD_`` and
    ``MALLOC_TRIM_THRESHOLD_`` set to ``size``. The largest amount of memory in use at a time stays
    about what it was; what is freed later is not seen by other processes.

    Examples
    --------
    >>> import symng
    >>> symng.keep_memory() in (True, False)
    True
    """
    check_number("size", size, minimum=1, maximum=2**31 - 1, integer=True)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim, mmap = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return all([mallopt(option, int(size)) == 1 for option in (mmap, trim)])


def place(arrays: Iterable[Any], backend: str) -> list[Any]:
    """Put arrays that serve many calls where ``backend`` (of `backend_of`) reads them without a copy.

    For JAX that is its device, and it spares the copy only in functions with ``trust_input`` set to
    True: otherwise PyTensor turns every argument into a NumPy array, which is sent anew. Elsewhere
    arrays are made contiguous.
    """
    if backend == "jax":
        import jax

        return [jax.device_put(array) for array in arrays]
    return [np.ascontiguousarray(array) for array in arrays]


def settle(variables: Iterable[SharedVariable]) -> None:
    """Make shared variables hold NumPy arrays of their own dtype again.

    An update made on JAX leaves a JAX array in the shared variable: ``get_value`` then hands out
    one, which cannot be written to, and functions compiled for C or Numba refuse it. Costs a copy
    to the host, and one back at the next call; waits for JAX to finish.
    """
    for variable in variables:
        value = variable.get_value(borrow=True)
        if hasattr(variable.type, "dtype") and not isinstance(value, np.ndarray):
            variable.set_value(np.array(value, dtype=variable.type.dtype), borrow=True)


# Rewrites that ask of each matrix product whether a factor is diagonal, orthogonal or a selection.
# The products of a model are not, and to ask takes a twelfth of the time of all rewrites.
_LINEAR_ALGEBRA = (
    "dot_diag_to_elemwise",
    "selection_dot_to_indexing",
    "orthogonal_dot_transpose_to_eye",
)


def _tuned(mode: Mode, backend: str) -> Mode:
    """Return the mode with what makes loops over long vectors fast on its backend, and their compilation short."""
    mode = mode.excluding(*_LINEAR_ALGEBRA)
    # The state of a loop is handed from round to round, as on the other backends, instead of being
    # copied into its buffer each time. Not where PyTensor keeps the memory of intermediates: it
    # would write the next over the state.
    if backend == "c" and pytensor.config.allow_gc:
        return mode.including("scan_save_mem_no_prealloc").excluding("scan_save_mem_prealloc")
    if backend == "numba":
        from symng.backends import _numba

        _numba.register()
        return mode.including(_numba.TAG)
    return mode


def _mode_choices() -> str:
    """Say which modes there are."""
    return "one of " + ", ".join(repr(name) for name in MODES) + ", a PyTensor Mode, or None"


def _listed(outputs: Any) -> list[Variable]:
    """Return the outputs of a function as a list, in whichever form they were given."""
    if outputs is None:
        return []
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _check_width(variables: list[Any]) -> None:
    """Refuse float64 where JAX is set to 32 bits: it would compute in float32 and not say so."""
    import jax

    if jax.dtypes.canonicalize_dtype("float64") == np.float64:
        return
    found = [v for v in variables if isinstance(v, Variable)]
    found += [v for v in graph_inputs(found) if isinstance(v, SharedVariable)]
    for variable in found:
        if getattr(variable.type, "dtype", None) in _WIDE:
            raise argument_error(
                "mode",
                "float32 inputs, parameters and outputs, because JAX is set to 32 bits",
                variable,
                "Use float32, or run with PYTENSOR_FLAGS=floatX=float64, or call "
                "jax.config.update('jax_enable_x64', True) before compiling.",
            )
