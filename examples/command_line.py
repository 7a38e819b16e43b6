"""What the command lines of the examples share."""

from __future__ import annotations

import argparse
import importlib.util
import math
import re


def whole(text: str) -> int:
    """Read a whole number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


def seed(text: str) -> int:
    """Read a whole number of at least 0."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {text}")
    return int(text)


def positive(text: str) -> float:
    """Read a finite number above 0."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return float(text)


def add_mode(parser: argparse.ArgumentParser) -> None:
    """Let the user choose a backend: JAX where it is installed, if nothing is said."""
    parser.add_argument(
        "--mode",
        default="JAX" if importlib.util.find_spec("jax") else None,
        help="PyTensor mode: CVM, NUMBA or JAX; default JAX where it is installed, else PyTensor's "
        "own",
    )


def in_terms_of(option: str, error: BaseException) -> str:
    """Return the message of an error about a ``path`` that the user gave by an option."""
    return re.sub(r"^(\[Errno \d+\] )?path:", f"{option}:", str(error))
