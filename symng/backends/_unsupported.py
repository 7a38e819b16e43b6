"""The backends of PyTensor that have no scan, and so run no solver."""

from __future__ import annotations

from typing import ClassVar

from pytensor.compile.mode import Mode

from symng._checks import argument_error
from symng.backends.base import Backend


class _WithoutScan(Backend):
    """A backend that is refused."""

    title: ClassVar[str]

    def enable(self, mode: str | Mode) -> None:
        raise argument_error(
            "mode",
            "a backend that has scan, the loop of the solvers",
            mode,
            f"PyTensor's {self.title} backend has no scan; use 'CVM', 'NUMBA' or 'JAX'.",
            NotImplementedError,
        )


class MLX(_WithoutScan):
    """Apple's MLX."""

    name, mode_name, title = "mlx", "MLX", "MLX"


class PyTorch(_WithoutScan):
    """PyTorch."""

    name, mode_name, title = "pytorch", "PYTORCH", "PyTorch"
