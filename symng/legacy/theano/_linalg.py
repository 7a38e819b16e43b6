"""``theano.tensor.nlinalg`` and ``slinalg`` under their old names."""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt
from pytensor.tensor import linalg

__all__ = [
    "AllocDiag",
    "ExtractDiag",
    "alloc_diag",
    "diag",
    "extract_diag",
    "matrix_inverse",
    "solve_lower_triangular",
    "solve_upper_triangular",
    "trace",
]

matrix_inverse = linalg.inv


def solve_lower_triangular(a: Any, b: Any) -> Any:
    """Return the solution of a system with a lower triangular matrix."""
    return linalg.solve_triangular(a, b, lower=True)


def solve_upper_triangular(a: Any, b: Any) -> Any:
    """Return the solution of a system with an upper triangular matrix."""
    return linalg.solve_triangular(a, b, lower=False)


def trace(x: Any) -> Any:
    """Return the sum of the diagonal."""
    return pt.diagonal(pt.as_tensor_variable(x)).sum()


def extract_diag(x: Any) -> Any:
    """Return the diagonal of a matrix."""
    return pt.diagonal(pt.as_tensor_variable(x))


def alloc_diag(x: Any) -> Any:
    """Return the matrix with a diagonal."""
    return pt.diag(pt.as_tensor_variable(x))


def diag(x: Any) -> Any:
    """Return the matrix of a diagonal, or the diagonal of a matrix."""
    return pt.diag(pt.as_tensor_variable(x))


def AllocDiag(*_: Any) -> Any:
    """Return the function that makes a matrix of a diagonal."""
    return alloc_diag


def ExtractDiag(*_: Any) -> Any:
    """Return the function that takes the diagonal of a matrix."""
    return extract_diag
