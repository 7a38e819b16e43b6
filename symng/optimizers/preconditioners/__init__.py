"""Preconditioners of the damped metric."""

from symng.optimizers.preconditioners.base import Preconditioner, as_preconditioner
from symng.optimizers.preconditioners.jacobi import JacobiPreconditioner
from symng.optimizers.preconditioners.kronecker import KroneckerPreconditioner
from symng.optimizers.preconditioners.martens import (
    MartensPreconditioner,
    as_preconditioner_or_martens,
)
from symng.optimizers.preconditioners.nystrom import NystromPreconditioner

__all__ = [
    "JacobiPreconditioner",
    "KroneckerPreconditioner",
    "MartensPreconditioner",
    "NystromPreconditioner",
    "Preconditioner",
    "as_preconditioner",
    "as_preconditioner_or_martens",
]
