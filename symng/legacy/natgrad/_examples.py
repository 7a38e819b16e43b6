"""What all data of natgrad have: shared arrays, and rows of the held-out examples."""

from __future__ import annotations

from typing import Any

from pytensor.tensor.variable import TensorVariable


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
