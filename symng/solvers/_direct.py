"""What the direct solvers share: checks, iterative refinement and the verdict."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_number, is_symbolic
from symng.graphs.config import choice, config, flag, number
from symng.graphs.types import Scalar
from symng.operators import LinearOperator
from symng.solvers._arguments import Operator, Vector
from symng.solvers._system import System, dot, first_true, make_system, norm
from symng.solvers.base import Solver
from symng.solvers.solution import Solution, Status

SolveDtype = Literal["float32", "float64"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Factorization:
    """A factorization of A + λI, for A = R^T R.

    Attributes
    ----------
    apply : callable
        From a vector r to (A + λI)^-1 r.
    finite, definite : symbolic Boolean scalar
        Whether no number overflows, and whether the matrix is positive definite to precision.
    trace : symbolic scalar
        The trace of A + λI, an upper bound of its norm.
    norm, condition : symbolic scalar, optional
        Estimates from below of its norm and condition number.
    """

    apply: Callable[[TensorVariable], TensorVariable]
    finite: TensorVariable
    definite: TensorVariable
    trace: TensorVariable
    norm: TensorVariable | None = None
    condition: TensorVariable | None = None


@config
class DirectSolver(Solver):
    """Solve (A + λI) x = b by a factorization made of R, where A = R^T R.

    Subclasses implement `factorize`.
    """

    rtol: Scalar = number(default=1e-5, minimum=0, symbolic=True)
    solve_dtype: SolveDtype | None = choice(SolveDtype, default=None)
    proximal: bool = flag(default=False)

    needs_full_batch = True
    needs_damping: ClassVar[bool] = True  # whether λ must be above 0
    rows_or_columns: ClassVar[Literal["rows", "columns"]] = "rows"  # what each product gives of R

    @abstractmethod
    def factorize(self, rows: TensorVariable, shift: TensorVariable) -> Factorization:
        """Return the factorization of R^T R + λI, for finite λ of the right sign."""

    def solve(
        self,
        A: Operator,
        b: Vector,
        damping: Scalar = 0.0,
        x0: Vector | None = None,
        preconditioner: Operator | None = None,
    ) -> Solution:
        """Return the solution of (A + λI) x = b as symbolic variables.

        Parameters
        ----------
        A : LinearOperator
            With a ``factor``: one that `Fisher` or `EmpiricalFisher` makes.
        b : symbolic vector
            The right-hand side, float32 or float64.
        damping : float or symbolic scalar
            λ, above 0 for `Woodbury` and at least 0 for `QR`.
        x0 : symbolic vector, optional
            With ``proximal`` what x stays close to, otherwise unused: nothing is iterated.
        preconditioner : None
            There is nothing to precondition.

        Returns
        -------
        Solution
            ``niter`` is the number of rows of R. The status is ``BREAKDOWN`` where A + λI is
            singular to precision, and for a symbolic damping that turns out to be out of range;
            ``x`` is zero where there is no factorization.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.
        """
        if not isinstance(A, LinearOperator) or A.factor is None:
            raise argument_error(
                "A",
                "a LinearOperator with a factor, as symng.Fisher or symng.EmpiricalFisher makes",
                A,
                "A sum of operators, a batch in chunks, and a model with parameters that only the "
                "loss uses have none; use symng.CG or symng.MinresQLP.",
                TypeError,
            )
        if not is_symbolic(damping):
            check_number("damping", damping, minimum=0)
            if self.needs_damping:
                check_number("damping", damping, above=0)
        if preconditioner is not None:
            raise argument_error(
                "preconditioner",
                "none",
                Verbatim("one"),
                "A direct solver has nothing to precondition.",
            )
        system = make_system(A, b, damping, x0 if self.proximal else None)
        dtype = self.solve_dtype or system.b.dtype
        rows = pt.cast(A.factor.materialise(system.b, by=self.rows_or_columns), dtype)
        return self._solve(system, rows, pt.cast(damping, dtype), centered=not system.cold)

    def _solve(
        self, system: System, rows: TensorVariable, shift: TensorVariable, centered: bool
    ) -> Solution:
        """Return the solution, whose direction is computed in the dtype of ``rows``."""
        dtype = rows.dtype
        in_range = pt.isfinite(shift) & (shift > 0 if self.needs_damping else shift >= 0)
        # The factorization must not meet a NaN or a negative pivot; the verdict reports them.
        safe = pt.switch(in_range, shift, pt.ones_like(shift))
        factorization = self.factorize(rows, safe)
        finite = factorization.finite & pt.isfinite(shift)

        b, center = pt.cast(system.b, dtype), pt.cast(system.start, dtype)
        right = b + safe * center if centered else b

        def multiply(x: TensorVariable) -> TensorVariable:
            return pt.dot(pt.dot(rows, x), rows)

        def residual(x: TensorVariable) -> TensorVariable:
            return right - multiply(x) - safe * x

        if centered:  # λ times the center might drown b
            x = center + factorization.apply(b - multiply(center))
        else:
            x = factorization.apply(b)
        x = x + factorization.apply(residual(x))  # iterative refinement
        definite = factorization.definite & in_range & pt.isfinite(dot(x, x))
        handed_back = pt.cast(pt.switch(finite & definite, x, pt.zeros_like(x)), system.b.dtype)
        x = pt.cast(handed_back, dtype)
        x_norm, r_norm, b_norm = norm(x), norm(residual(x)), norm(right)
        eps = max(system.eps, float(np.finfo(dtype).eps))
        explained = r_norm <= pt.cast(10 * eps, dtype) * (factorization.trace * x_norm + b_norm)
        status = first_true(
            (pt.invert(finite), Status.NOT_FINITE),
            (pt.invert(definite), Status.BREAKDOWN),
            (r_norm <= pt.cast(self.rtol, dtype) * b_norm, Status.CONVERGED),
            (explained, Status.CONVERGED_TO_PRECISION),
            default=Status.BREAKDOWN,
        )
        status = pt.switch(pt.eq(system.status, Status.RUNNING), status, system.status)
        return Solution(
            x=handed_back * system.scale,
            status=status,
            niter=pt.cast(rows.shape[0], "int64"),
            residual_norm=system.number(r_norm) * system.scale,
            x_norm=system.number(x_norm) * system.scale,
            norm_estimate=_optional_number(system, factorization.norm),
            condition_estimate=_optional_number(system, factorization.condition),
        )


def _optional_number(system: System, value: TensorVariable | None) -> TensorVariable | None:
    """Return an estimate in the dtype of the system."""
    return None if value is None else system.number(value)


def describe_bytes(numbers: int, dtype: str) -> str:
    """Return the memory that so many ``numbers`` take, as text."""
    size = numbers * np.dtype(dtype).itemsize
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{max(size / 1e6, 0.01):.2g} MB"
