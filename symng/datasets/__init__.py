"""Data for the experiments, made or read with NumPy and SciPy only."""

from __future__ import annotations

from symng.datasets.adding import adding
from symng.datasets.curves import curves

__all__ = ["adding", "curves"]
