"""What a linear solve returns: the solution, a verdict, and the measures behind it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pytensor.tensor.variable import TensorVariable


class Status(IntEnum):
    """The verdict of a linear solve.

    A solver returns it as a symbolic integer; ``Status(int(value))`` gives the name back. The
    values 1 to 9 are successes; `message` holds a sentence that names the cause and what to do.

    Examples
    --------
    >>> from symng.solvers import Status
    >>> status = Status(11)
    >>> status.name, status.success
    ('NORM_LIMIT', False)
    >>> print(Status.ZERO_RHS.message)
    The right-hand side is zero, so the solution is zero; there was nothing to iterate.
    """

    RUNNING = 0
    CONVERGED = 1
    CONVERGED_TO_PRECISION = 2
    LEAST_SQUARES = 3
    LEAST_SQUARES_TO_PRECISION = 4
    ZERO_RHS = 5
    SMALL_PROGRESS = 6
    MAX_ITERATIONS = 10
    NORM_LIMIT = 11
    CONDITION_LIMIT = 12
    NEGATIVE_CURVATURE = 13
    BREAKDOWN = 14
    NOT_FINITE = 15
    NOT_SYMMETRIC = 16
    BAD_PRECONDITIONER = 17

    @property
    def success(self) -> bool:
        """Return whether the solve reached its goal.

        ``x`` solves the system, its least-squares problem, or, for ``SMALL_PROGRESS``, the
        quadratic as far as was asked.
        """
        return Status.CONVERGED <= self <= Status.SMALL_PROGRESS

    @property
    def message(self) -> str:
        """Return a sentence that names the cause of the verdict and what to do."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "The solve has not ended; no compiled solver returns this.",
    Status.CONVERGED: (
        "The residual meets the tolerances rtol and atol: norm(r) <= rtol norm(b), but with "
        "MinresQLP norm(r) <= rtol (norm(A) norm(x) + norm(b)), much larger if A is "
        "ill-conditioned."
    ),
    Status.CONVERGED_TO_PRECISION: (
        "The residual is as small as the dtype and the condition of the system allow, but above "
        "the tolerance; raise rtol, precondition, or solve in float64 if that is not enough."
    ),
    Status.LEAST_SQUARES: (
        "The system has no solution, because b is not in the range of A; x solves it in the "
        "least-squares sense to rtol. Add damping if a plain solution is wanted."
    ),
    Status.LEAST_SQUARES_TO_PRECISION: (
        "The system has no solution, because b is not in the range of A; x solves it in the "
        "least-squares sense as well as the dtype allows. Add damping if a plain solution is "
        "wanted."
    ),
    Status.ZERO_RHS: (
        "The right-hand side is zero, so the solution is zero; there was nothing to iterate."
    ),
    Status.SMALL_PROGRESS: (
        "The quadratic falls by less than progress_rtol in an iteration; x is the last iterate. "
        "Lower progress_rtol to come closer."
    ),
    Status.MAX_ITERATIONS: (
        "The iteration limit was met before the tolerance; x is the last iterate, or one of less "
        "residual where rounding errors have spoiled that. Raise maxiter or rtol, add damping, or "
        "precondition."
    ),
    Status.NORM_LIMIT: (
        "The norm of x would pass max_norm, so x is the last iterate below it; the system is "
        "singular or nearly so. Raise max_norm or add damping."
    ),
    Status.CONDITION_LIMIT: (
        "The estimated condition number passed condition_limit; the system is singular or nearly "
        "so. Raise condition_limit, add damping, or precondition."
    ),
    Status.NEGATIVE_CURVATURE: (
        "A direction of zero or negative curvature was met, so the matrix is not positive "
        "definite; x is the iterate before it or, where the curvature is zero and the system has "
        "no solution, one of least residual. Use that direction, add damping, or use MinresQLP."
    ),
    Status.BREAKDOWN: (
        "Rounding errors stopped the iteration before any test was met; x is the best iterate. "
        "Check that the product is symmetric and linear, add damping, or solve in float64."
    ),
    Status.NOT_FINITE: (
        "A NaN or an infinity was met in the product, the right-hand side, x0 or the "
        "preconditioner; x is the last finite iterate. Check the data and parameters behind them."
    ),
    Status.NOT_SYMMETRIC: (
        "The product is not symmetric: u.(A v) and v.(A u) differ by more than rounding. Check "
        "the operator; these solvers need a symmetric one."
    ),
    Status.BAD_PRECONDITIONER: (
        "The preconditioner is not symmetric positive definite. Give one that is, or none."
    ),
}


# Verdicts of solves that give no usable direction.
NO_DIRECTION = (Status.NOT_FINITE, Status.NOT_SYMMETRIC, Status.BAD_PRECONDITIONER)

# A residual above this share of norm(b) is that of x = 0, up to rounding errors.
NO_GAIN = 1 - 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """What a linear solve returns, as symbolic variables.

    Entries that a solver does not give are None.

    Parameters
    ----------
    x : symbolic vector
        The solution; always finite.
    status : symbolic integer scalar
        The verdict, a `Status`.
    niter : symbolic integer scalar
        The iterations made, products for x0 and for the final residual not counted. With
        ``NEGATIVE_CURVATURE``, the iteration in which the direction was met.
    residual_norm : symbolic scalar
        norm(b - (A + λI) x) of the ``x`` handed back, with the damping λ.
    x_norm : symbolic scalar
        norm(x).
    least_squares_norm : symbolic scalar, optional
        norm((A + λI) r), which is zero at a least-squares solution.
    norm_estimate : symbolic scalar, optional
        An estimate of norm(A + λI), from below.
    condition_estimate : symbolic scalar, optional
        An estimate of the condition number: on the Krylov space, or by `QR` from below.
    curvature : symbolic scalar, optional
        d.(A + λI) d / d.d of the last direction d.
    direction : symbolic vector, optional
        With ``NEGATIVE_CURVATURE`` the direction of non-positive curvature, else zero.
    iterates : symbolic matrix, optional
        The iterates kept, as rows in order. There are as many rows as the iteration limit may need;
        those after ``iterates_count`` are zero. Row ``iterates_count - 1`` is ``x``, even after no
        iteration.
    iterates_count : symbolic integer scalar, optional
        The number of rows filled; at least 1.
    residual : symbolic vector, optional
        b - (A + λI) x, as the solver's loop has it.
    tridiagonal : symbolic matrix, optional
        The Lanczos matrix T: row k holds its diagonal entry α and the entry β beside it, towards
        row k + 1. There are as many rows as the iteration limit; those after ``niter`` are zero.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.solvers import CG, Status
    >>> solution = CG().solve(lambda v: 2 * v, pt.constant(np.array([2.0, 4.0])))
    >>> solution.x.eval(mode="FAST_COMPILE").round(6).tolist()
    [1.0, 2.0]
    >>> Status(int(solution.status.eval(mode="FAST_COMPILE"))).name
    'CONVERGED'
    """

    x: TensorVariable
    status: TensorVariable
    niter: TensorVariable
    residual_norm: TensorVariable
    x_norm: TensorVariable | None = None
    least_squares_norm: TensorVariable | None = None
    norm_estimate: TensorVariable | None = None
    condition_estimate: TensorVariable | None = None
    curvature: TensorVariable | None = None
    direction: TensorVariable | None = None
    iterates: TensorVariable | None = None
    iterates_count: TensorVariable | None = None
    residual: TensorVariable | None = None
    tridiagonal: TensorVariable | None = None
