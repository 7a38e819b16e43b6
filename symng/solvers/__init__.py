"""Symbolic solvers of symmetric linear systems that are known by their products."""

from symng.solvers.base import Solver
from symng.solvers.cg import CG
from symng.solvers.implicit import solve
from symng.solvers.minres_qlp import MinresQLP
from symng.solvers.preconditioners import diagonal_preconditioner
from symng.solvers.qr import QR
from symng.solvers.solution import Solution, Status
from symng.solvers.woodbury import Woodbury

__all__ = [
    "CG",
    "QR",
    "MinresQLP",
    "Solution",
    "Solver",
    "Status",
    "Woodbury",
    "diagonal_preconditioner",
    "solve",
]
