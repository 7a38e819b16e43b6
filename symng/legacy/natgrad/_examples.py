"""What all data of natgrad have: shared arrays, and rows of the held-out examples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_instance, check_number


def check_arguments(rng: object, unlabled: object, **sizes: object) -> None:
    """Refuse arguments that no data of natgrad take."""
    if unlabled not in (0, 1, 2):
        raise argument_error("unlabled", "0, 1 or 2", unlabled)
    check_instance("rng", rng, np.random.RandomState, "a numpy.random.RandomState")
    for name, size in sizes.items():
        whole = not (isinstance(size, float) and size.is_integer())
        check_number(name, size, minimum=1, integer=whole)


def check_file(path: str | os.PathLike[str], expected: str, hint: str) -> None:
    """Refuse the path of a file that does not exist."""
    check_instance("path", path, (str, os.PathLike), expected)
    if not Path(path).is_file():
        got = Verbatim(f"{os.fspath(path)!r}, which is no file")
        raise argument_error("path", expected, got, hint, FileNotFoundError)


class Examples:
    """Shared variables of inputs and classes, set by the subclass; rows of those held out."""

    _train_x: TensorVariable
    _train_y: TensorVariable
    _valid_x: TensorVariable
    _valid_y: TensorVariable
    _test_x: TensorVariable
    _test_y: TensorVariable

    def valid_x(self, start: Any, end: Any) -> TensorVariable:
        """Return rows of the validation inputs."""
        return self._valid_x[start:end]

    def valid_y(self, start: Any, end: Any) -> TensorVariable:
        """Return validation classes."""
        return self._valid_y[start:end]

    def test_x(self, start: Any, end: Any) -> TensorVariable:
        """Return rows of the test inputs."""
        return self._test_x[start:end]

    def test_y(self, start: Any, end: Any) -> TensorVariable:
        """Return test classes."""
        return self._test_y[start:end]
