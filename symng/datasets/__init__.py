"""Data for the experiments, made or read with NumPy and SciPy only."""

from __future__ import annotations

from symng.datasets.adding import adding
from symng.datasets.contrast import local_contrast_normalization
from symng.datasets.curves import curves
from symng.datasets.faces import Faces, faces

__all__ = ["Faces", "adding", "curves", "faces", "local_contrast_normalization"]
