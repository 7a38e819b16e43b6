"""Messages for failures of a compiled function, by its arrays, backend or memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.linalg import LinAlgError
from pytensor.raise_op import CheckAndRaise

from symng.backends._tracebacks import failing_op, frames_of
from symng.backends.base import Backend

ARRAY_ERRORS = (ValueError, IndexError, TypeError, AssertionError)
"""Errors that arrays of wrong shapes, dtypes or lengths raise."""

_MODES = ("CVM", "FAST_COMPILE", "NUMBA", "JAX")
_MEMORY_ERRORS = ("RESOURCE_EXHAUSTED", "out of memory", "Unable to allocate")


def evaluate(
    function: Callable[[Sequence[Any]], Any],
    arrays: Sequence[Any],
    name: str,
    hint: Callable[[], str] | None = None,
) -> Any:
    """Call a function in plain Python; if it fails, raise that the arrays do not fit.

    The message calls them ``name`` and ends with ``hint``, a sentence on the likely reason.

    Raises
    ------
    ValueError
        When the function fails; a LinAlgError if it raises one.
    """
    try:
        return function(arrays)
    except ARRAY_ERRORS as error:
        shapes = _shapes(arrays)
        message = f"{name}: the model cannot be evaluated on arrays of shapes {shapes}: "
        message += f"{first_line(error)}."
        if isinstance(error, LinAlgError):
            raise LinAlgError(
                f"{message} The shapes are right; the values of arrays or parameters are not."
            ) from error
        if not isinstance(failing_op(error), CheckAndRaise):  # which speaks for itself
            message += " Check them against the shapes of the parameters."
        raise ValueError(f"{message} {_quietly(hint)}".rstrip()) from error


def backend_failure(error: Exception, backend: Backend, arrays: Sequence[Any] = ()) -> Exception:
    """Return what to raise for an ``error`` of a compiled function on arrays that fit.

    It names the mode, the backend's own message and, where known, the op. It is a RuntimeError,
    unless the type of ``error`` says more.
    """
    mode = backend.mode_name
    location = backend.locate(error)
    where = f" in {location}" if location and location not in first_line(error) else ""
    fits = (
        f" Plain Python evaluates the model on these arrays, of shapes {_shapes(arrays)}."
        if arrays
        else ""
    )
    others = [f"{other!r}" for other in _MODES if other != mode]
    kind: type[Exception] = RuntimeError
    hint = f"Try another mode: {', '.join(others[:-1])} or {others[-1]}."
    if isinstance(error, MemoryError) or any(text in str(error) for text in _MEMORY_ERRORS):
        kind, hint = MemoryError, "Take smaller batches, or chunk_size=."
    elif isinstance(error, LinAlgError):
        kind, hint = (
            LinAlgError,
            "The values are the reason: take smaller steps, or more damping.",
        )
    elif isinstance(error, NotImplementedError):
        kind = NotImplementedError
    return kind(
        f"mode: expected one that runs this model, got {mode}, which fails{where}: "
        f"{first_line(error)}.{fits} {hint}"
    )


def comes_from(error: Exception, package: str) -> bool:
    """Return whether ``error`` was raised in a call into ``package``, not by symng's code."""
    modules = [module for module, _ in frames_of(error)]
    own = modules[-1].split(".")[0] == __name__.split(".")[0]
    return not own and any(f"{module}.".startswith(f"{package}.") for module in modules)


@contextmanager
def compiling(backend: Backend) -> Iterator[None]:
    """Name the backend, and a way out, in an error that it raises while it compiles."""
    try:
        yield
    except Exception as error:
        if not comes_from(error, "pytensor.link"):
            raise
        raise backend_failure(error, backend) from error


def first_line(error: Exception) -> str:
    """Return the first line of the message of an error, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).strip().rstrip(".:")


def _shapes(arrays: Sequence[Any]) -> str:
    """Return the shapes of arrays, separated by commas."""
    return ", ".join(str(np.shape(a)) for a in arrays)


def _quietly(hint: Callable[[], str] | None) -> str:
    """Return a hint, or nothing where it fails: it must not hide the message that it is for."""
    try:
        return "" if hint is None else hint()
    except Exception:
        return ""
