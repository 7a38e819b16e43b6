"""Say why a compiled function failed: because of its arrays, its backend or the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.linalg import LinAlgError
from numpy.typing import ArrayLike
from pytensor.raise_op import CheckAndRaise

from symng.backends._tracebacks import failing_op, frames_of
from symng.backends.base import Backend

T = TypeVar("T")

ARRAY_ERRORS = (ValueError, IndexError, TypeError, AssertionError)
"""Errors that arrays of wrong shapes, dtypes or lengths raise."""

_MODES = ("CVM", "FAST_COMPILE", "NUMBA", "JAX")
_MEMORY_ERRORS = ("RESOURCE_EXHAUSTED", "out of memory", "Unable to allocate")


def evaluate(
    function: Callable[[Sequence[ArrayLike]], T],
    arrays: Sequence[ArrayLike],
    name: str,
    hint: Callable[[], str] | None = None,
) -> T:
    """Return the result of a function in plain Python, which fails only on arrays that do not fit.

    The message calls the arrays ``name`` and ends with what ``hint`` returns, a sentence on the
    likely reason.

    Raises
    ------
    ValueError
        When the function fails; a LinAlgError if it raises one.
    """
    try:
        return function(arrays)
    except ARRAY_ERRORS as error:
        message = (
            f"{name}: the model cannot be evaluated on arrays of shapes {_shapes(arrays)}: "
            f"{first_line(error)}."
        )
        if isinstance(error, LinAlgError):
            raise LinAlgError(
                f"{message} The shapes are right; the values of arrays or parameters are not."
            ) from error
        if not isinstance(failing_op(error), CheckAndRaise):  # which speaks for itself
            message += " Check them against the shapes of the parameters."
        raise ValueError(f"{message} {_text_of(hint)}".rstrip()) from error


def backend_failure(
    error: Exception, backend: Backend, arrays: Sequence[ArrayLike] = ()
) -> Exception:
    """Return what to raise for an ``error`` of a compiled function on arrays that fit.

    It names the mode, the backend's own message and, where known, the op. It is a RuntimeError,
    unless the type of ``error`` says more.
    """
    location = backend.locate(error)
    where = f" in {location}" if location and location not in first_line(error) else ""
    fits = (
        f" Plain Python evaluates the model on these arrays, of shapes {_shapes(arrays)}."
        if arrays
        else ""
    )
    kind, hint = _kind_and_hint(error, backend)
    return kind(
        f"mode: expected one that runs this model, got {backend.mode_name}, which fails{where}: "
        f"{first_line(error)}.{fits} {hint}"
    )


def _kind_and_hint(error: Exception, backend: Backend) -> tuple[type[Exception], str]:
    """Return what type of exception stands for the ``error`` of a backend, and what to do."""
    if isinstance(error, MemoryError) or any(text in str(error) for text in _MEMORY_ERRORS):
        return MemoryError, "Take smaller batches, or chunk_size=."
    if isinstance(error, LinAlgError):
        return LinAlgError, "The values are the reason: take smaller steps, or more damping."
    kind = NotImplementedError if isinstance(error, NotImplementedError) else RuntimeError
    *others, last = [repr(mode) for mode in _MODES if mode != backend.mode_name]
    return kind, f"Try another mode: {', '.join(others)} or {last}."


def comes_from(error: Exception, package: str) -> bool:
    """Return whether ``error`` was raised in a call into ``package``, not by symng's code.

    What symng adds to a backend counts as the backend.
    """
    modules = [f"{module}." for module, _ in frames_of(error)]
    own = modules[-1].startswith("symng.") and not modules[-1].startswith("symng.backends._")
    return not own and any(module.startswith(f"{package}.") for module in modules)


@contextmanager
def compiling(backend: Backend) -> Iterator[None]:
    """Name the backend, and what to do, in an error that it raises while it compiles."""
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


def _shapes(arrays: Sequence[ArrayLike]) -> str:
    """Return the shapes of arrays, separated by commas."""
    return ", ".join(str(np.shape(a)) for a in arrays)


def _text_of(hint: Callable[[], str] | None) -> str:
    """Return what ``hint`` does, or nothing where it fails: it must not hide the message."""
    try:
        return "" if hint is None else hint()
    except Exception:
        return ""
