"""What the command lines of the examples share."""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
import sys
from collections.abc import Callable

import symng


def whole(text: str) -> int:
    """Read a whole number of at least 1."""
    return int(_read(text, int, lambda n: n >= 1, "a whole number of at least 1"))


def count(text: str) -> int:
    """Read a whole number of at least 0."""
    return int(_read(text, int, lambda n: n >= 0, "a whole number of at least 0"))


seed = count


def positive(text: str) -> float:
    """Read a finite number above 0."""
    return _read(text, float, lambda n: 0 < n < math.inf, "a finite number above 0")


def nonnegative(text: str) -> float:
    """Read a finite number of at least 0."""
    return _read(text, float, lambda n: 0 <= n < math.inf, "a finite number of at least 0")


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    return _read(text, float, lambda n: 0 <= n <= 1, "a number from 0 to 1")


def _read(
    text: str, kind: type[int | float], is_allowed: Callable[[float], bool], expected: str
) -> float:
    """Return a number, or refuse the text with a message for the command line."""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not is_allowed(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
    return value


def add_mode(parser: argparse.ArgumentParser) -> None:
    """Add the option for the backend, which is JAX by default where it is installed."""
    parser.add_argument(
        "--mode",
        default="JAX" if importlib.util.find_spec("jax") else None,
        help="PyTensor mode: CVM, NUMBA or JAX; default JAX where it is installed, else PyTensor's "
        "own",
    )


def is_ready(options: argparse.Namespace) -> bool:
    """Make the folder of the results; print why it, or the mode, cannot be used, if so."""
    try:
        symng.resolve_mode(options.mode)
        options.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return False
    return True


def in_terms_of(option: str, error: BaseException) -> str:
    """Return the message of an error about a ``path`` that the user gave by an option."""
    return re.sub(r"^(\[Errno \d+\] )?path:", f"{option}:", str(error))
