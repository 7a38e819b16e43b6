"""MINRES-QLP: minimum-length solutions of symmetric systems that may be indefinite, singular or inconsistent.

References
----------
[1] S.-C. T. Choi, C. C. Paige and M. A. Saunders, MINRES-QLP: a Krylov subspace method for
indefinite or singular
    symmetric systems, SIAM J. Sci. Comput. 33(4) (2011) 1810-1836.
[2] S.-C. T. Choi and M. A. Saunders, Algorithm 937: MINRES-QLP for symmetric and Hermitian linear
equations and
    least-squares problems, ACM Trans. Math. Softw. 40(2) (2014) 16.
[3] Y. Liu, A. Milzarek and F. Roosta, Obtaining pseudo-inverse solutions with MINRES,
arXiv:2309.17096 (2023). [4] C. C. Paige and M. A. Saunders, Solution of sparse indefinite systems
of linear equations, SIAM J. Numer. Anal.
    12(4) (1975) 617-629.
"""

from __future__ import annotations

from typing import Any

from symng.graphs.config import config, flag, number
from symng.solvers._minres_qlp_round import Run
from symng.solvers._system import make_system, norm
from symng.solvers.base import Solver
from symng.solvers.solution import Solution


@config
class MinresQLP(Solver):
    """Solve (A + λI) x = b for any symmetric A by MINRES-QLP, at minimum length if the solution is not unique.

    If b is not in the range of A + λI, x is the shortest of all that minimize norm(b - (A + λI) x).
    The solve ends when

        norm(r) <= rtol (norm(A + λI) norm(x) + norm(b)) + atol,  r = b - (A + λI) x,  or
        norm((A + λI) r) <= rtol norm(A + λI) norm(r),

    with an estimate of norm(A + λI) from the Lanczos process.

    Parameters
    ----------
    rtol : float or symbolic scalar, optional
        The tolerance of both tests; at least 0. Default: 1e-8 in float64, 1e-5 in float32.
    atol : float or symbolic scalar, default 0.0
        The absolute tolerance of norm(r), in units of b; at least 0.
    maxiter : int or symbolic integer scalar, optional
        The iteration limit; at least 0. Default: 10 n for a system of n unknowns.
    max_norm : float or symbolic scalar, optional
        The bound on norm(x), in units of x; positive. Default: norm(b) / (ε norm(A + λI)) with ε
        the rounding unit of the dtype, 2.2e-16 or 1.2e-7.
    condition_limit : float or symbolic scalar, optional
        The bound on the estimated condition number; positive. A component of x whose pivot is below
        norm(A + λI) / condition_limit is left out. Default and largest limit in force: 0.03 / ε, so
        1.4e14 in float64, 2.5e5 in float32; a smaller pivot cannot be told from rounding errors.
    transition_condition : float or symbolic scalar, optional
        The estimated condition number at which MINRES hands over to QLP; positive. 1 means QLP
        throughout. Default: 1e7 in float64, 1e4 in float32. A singular pivot always hands over.
    recompute : bool, default True
        Compute the residual from ``x`` itself, one product at the end, and one more for norm((A +
        λI) r) on a least-squares verdict. A solution that does not pass the test is worked on until
        it does or until rounding errors stop the progress. With False the products are saved and
        the norms are those of the recurrences.
    check : bool, default False
        Test A for symmetry, and the preconditioner for symmetry and positive definiteness, before
        the first step, by three and two more products. It is a test on two vectors, not a proof.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of range.

    Notes
    -----
    A solution holds ``least_squares_norm``, ``norm_estimate`` and ``condition_estimate``. Where
    the residual test is met, ``least_squares_norm`` is that of the iterate before ``x``, from the
    recurrence.

    Cost: one product an iteration, one for ``x0`` if given, and those of ``recompute``. Memory:
    five vectors beside b and what the product needs, six with a preconditioner. Symbolic settings,
    say shared variables, change without a recompilation.

    With a preconditioner M the tests are made in the norms of M⁻¹ (residuals) and M (solutions),
    norm(A + λI) is that of M^(-1/2) (A + λI) M^(-1/2), and a solution that is not unique is the one
    of least M-norm. With ``x0``, the correction x - x0 is of minimum length, not x itself.

    On a least-squares verdict the last residual is all but a null vector of A + λI, and the only
    one that x may contain; it is taken out of x, as in [3]_. If its Rayleigh quotient tells of a
    small eigenvalue instead, the solve goes on. ``LEAST_SQUARES_TO_PRECISION`` says that the system
    is inconsistent as far as the dtype can tell, and that norm((A + λI) r) is within 20 √ε norm(A +
    λI) norm(r) of zero, or within what rounding errors leave of r. With a tolerance near ε times
    the condition number such a solve may also end with ``CONDITION_LIMIT``.

    References
    ----------
    .. [1] S.-C. T. Choi, C. C. Paige and M. A. Saunders, MINRES-QLP: a Krylov subspace method for
       indefinite or singular symmetric systems, SIAM J. Sci. Comput. 33(4) (2011) 1810-1836.
    .. [2] S.-C. T. Choi and M. A. Saunders, Algorithm 937: MINRES-QLP for symmetric and Hermitian
       linear equations and least-squares problems, ACM Trans. Math. Softw. 40(2) (2014) 16.
    .. [3] Y. Liu, A. Milzarek and F. Roosta, Obtaining pseudo-inverse solutions with MINRES,
       arXiv:2309.17096 (2023).

    Examples
    --------
    A singular system without a solution, and the shortest least-squares solution:

    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.solvers import MinresQLP, Status
    >>> A, b = pt.constant(np.diag([1.0, -2.0, 0.0])), pt.constant(np.array([1.0, 4.0, 5.0]))
    >>> solution = MinresQLP().solve(lambda v: A @ v, b)
    >>> (solution.x.eval(mode="FAST_COMPILE").round(6) + 0.0).tolist()
    [1.0, -2.0, 0.0]
    >>> Status(int(solution.status.eval(mode="FAST_COMPILE"))).name
    'LEAST_SQUARES'
    """

    rtol: Any = number(default=None, minimum=0, symbolic=True)
    atol: Any = number(default=0.0, minimum=0, symbolic=True)
    maxiter: Any = number(default=None, minimum=0, integer=True, symbolic=True)
    max_norm: Any = number(default=None, above=0, finite=False, symbolic=True)
    condition_limit: Any = number(default=None, above=0, finite=False, symbolic=True)
    transition_condition: Any = number(default=None, above=0, finite=False, symbolic=True)
    recompute: bool = flag(default=True)
    check: bool = flag(default=False)

    def solve(
        self, A: Any, b: Any, damping: Any = 0.0, x0: Any = None, preconditioner: Any = None
    ) -> Solution:
        system = make_system(A, b, damping, x0, preconditioner, self.check)
        run = Run(self, system)
        final = run.loop(run.initial())
        scale = system.scale
        return Solution(
            x=final["x"] * scale,
            status=final["status"],
            niter=final["niter"],
            residual_norm=final["r_norm"] * scale,
            x_norm=norm(final["x"]) * scale,
            least_squares_norm=final["ls_norm"] * scale,
            norm_estimate=final["norm"],
            condition_estimate=final["condition"],
        )
