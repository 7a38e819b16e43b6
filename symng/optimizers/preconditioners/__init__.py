"""Preconditioners of the damped metric."""

from symng.optimizers.preconditioners.base import (
    JacobiPreconditioner,
    KroneckerPreconditioner,
    Preconditioner,
    as_preconditioner,
    is_preconditioner,
)

__all__ = [
    "JacobiPreconditioner",
    "KroneckerPreconditioner",
    "Preconditioner",
    "as_preconditioner",
    "is_preconditioner",
]
