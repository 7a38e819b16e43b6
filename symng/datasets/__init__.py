"""Data for the experiments, made or read with NumPy and SciPy only."""

from __future__ import annotations

from symng.datasets.adding import adding
from symng.datasets.contrast import local_contrast_normalization
from symng.datasets.curves import curves
from symng.datasets.deformed_digits import deformed_digits
from symng.datasets.digits import LabeledImages, digits
from symng.datasets.faces import FacesFold, faces
from symng.datasets.mnist import mnist

__all__ = [
    "FacesFold",
    "LabeledImages",
    "adding",
    "curves",
    "deformed_digits",
    "digits",
    "faces",
    "local_contrast_normalization",
    "mnist",
]
