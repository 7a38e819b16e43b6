"""MINRES-QLP: minimum-length solutions of symmetric systems, indefinite or singular ones, too.

`MinresQLP` for the user, and the loop. The scalar recurrences are in `_qlp`, the state in
`_minres_qlp_state`, and what decides over it in `_minres_qlp_verdicts`. The Lanczos process of a
symmetric matrix is that of C. C. Paige and M. A. Saunders, Solution of sparse indefinite systems of
linear equations, SIAM J. Numer. Anal. 12(4) (1975) 617-629; the other papers are those in the
docstring of `MinresQLP`.
"""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, is_symbolic
from symng.graphs.config import config, flag, number
from symng.graphs.loops import optimization_barrier, while_loop
from symng.graphs.types import Integer, Scalar
from symng.solvers._arguments import Operator, Vector
from symng.solvers._minres_qlp_state import MinresQLPState, select
from symng.solvers._minres_qlp_verdicts import StoppingTests
from symng.solvers._null_component import NullComponent
from symng.solvers._qlp import initial_factors, vector_weights
from symng.solvers._system import (
    System,
    dot,
    equal,
    first_true,
    integer,
    make_system,
    norm,
    power_of_two,
    scale_preconditioner,
    where,
)
from symng.solvers._verification import MAX_VERIFICATIONS, Phase, is_running
from symng.solvers.base import AdjustableSettings, Solver
from symng.solvers.solution import Solution, Status


@config
class MinresQLP(Solver):
    """Solve (A + λI) x = b for any symmetric A by MINRES-QLP, at minimum length.

    If the solution is not unique, x is the shortest; if there is none, because b is not in the
    range of A + λI, it is the shortest x that minimizes norm(b - (A + λI) x). The solve ends when

        norm(r) <= max(rtol (norm(A + λI) norm(x) + norm(b)), atol),  r = b - (A + λI) x,  or
        norm((A + λI) r) <= rtol norm(A + λI) norm(r),

    with an estimate of norm(A + λI) from the Lanczos process.

    Parameters
    ----------
    rtol : float or symbolic scalar, optional
        The tolerance of both tests; at least 0. Default: 1e-8 in float64, 1e-5 in float32.
    atol : float or symbolic scalar, default 0.0
        The absolute tolerance of norm(r), in units of b; at least 0. With a preconditioner it is
        compared with the norm of r in M⁻¹, as ``rtol`` is.
    maxiter : int or symbolic integer scalar, optional
        The iteration limit; at least 0. Default: 10 n for a system of n unknowns.
    max_norm : float or symbolic scalar, optional
        The bound on norm(x), in units of x; positive. Default: norm(b) / (ε norm(A + λI)) with ε
        the rounding unit of the dtype, 2.2e-16 or 1.2e-7.
    condition_limit : float or symbolic scalar, optional
        The bound on the estimated condition number; positive. A component of x whose pivot is below
        norm(A + λI) / condition_limit is left out. Default and largest limit in force: 0.03 / ε, so
        1.4e14 in float64, 2.5e5 in float32; a smaller pivot may be all rounding error.
    transition_condition : float or symbolic scalar, optional
        The estimated condition number at which MINRES hands over to QLP; positive. 1 means QLP
        throughout. Default: 1e7 in float64, 1e4 in float32. A singular pivot always hands over.
    recompute : bool, default True
        Compute the residual from ``x`` itself, one product at the end, one more for norm((A + λI)
        r) on a least-squares verdict, and two more where a null vector is taken out of x. If ``x``
        does not pass the test, the solve goes on until it does or until rounding errors stop the
        progress. With False the products are saved and the norms are those of the recurrences. With
        a preconditioner the first product is made all the same: the recurrence knows r only in the
        norm of M⁻¹.
    check : bool, default False
        Test A for symmetry, and the preconditioner for symmetry and positive definiteness, on two
        vectors before the first step: three products with the one, two with the other.
    keep_tridiagonal : bool, default False
        Keep the Lanczos matrix T of the steps, the ``tridiagonal`` of a solution. Its eigenvalues,
        the Ritz values, approximate those of A + λI at both ends of the spectrum. Needs a plain
        ``maxiter``, and ``recompute=False``, so that the process starts only once.

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
    five vectors besides b and what the product needs, six with a preconditioner. Symbolic settings,
    say shared variables, change without a recompilation.

    With a preconditioner M the tests are made in the norms of M⁻¹ (residuals) and M (solutions),
    norm(A + λI) is that of M^(-1/2) (A + λI) M^(-1/2), and a solution that is not unique is the one
    of least M-norm. With ``x0``, the correction x - x0 is of minimum length, not x itself.

    On a least-squares verdict the last residual is all but a null vector of A + λI, and the only
    one that x may contain; it is taken out of x, as in [3]_, and the verdict is that on the x which
    is left. If its Rayleigh quotient shows a small eigenvalue instead, the solve goes on.
    ``LEAST_SQUARES_TO_PRECISION`` says that the system is inconsistent as far as the dtype can
    tell, and that norm((A + λI) r) is within 20 √ε norm(A + λI) norm(r) of zero, or within what
    rounding errors leave of r. With a tolerance near ε times the condition number such a solve may
    also end with ``CONDITION_LIMIT``. For b in the null space, norm((A + λI) b) <= 10 ε norm(A +
    λI) norm(b), x is zero.

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

    rtol: Scalar | None = number(default=None, minimum=0, symbolic=True)
    atol: Scalar = number(default=0.0, minimum=0, symbolic=True)
    maxiter: Integer | None = number(default=None, minimum=0, integer=True, symbolic=True)
    max_norm: Scalar | None = number(default=None, above=0, finite=False, symbolic=True)
    condition_limit: Scalar | None = number(default=None, above=0, finite=False, symbolic=True)
    transition_condition: Scalar | None = number(default=None, above=0, finite=False, symbolic=True)
    recompute: bool = flag(default=True)
    check: bool = flag(default=False)
    keep_tridiagonal: bool = flag(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.keep_tridiagonal:
            return
        if self.maxiter is None or is_symbolic(self.maxiter):
            expected = "a plain number where keep_tridiagonal is True"
            hint = "Room is made for the rows of so many iterations."
            raise argument_error("maxiter", expected, self.maxiter, hint, TypeError)
        if self.recompute:
            expected = "False where keep_tridiagonal is True"
            hint = "A verified solve may start again, and then has no one Lanczos matrix."
            raise argument_error("recompute", expected, self.recompute, hint)

    def adjustable_settings(self) -> AdjustableSettings:
        settings = super().adjustable_settings()
        if self.keep_tridiagonal:  # maxiter says how many rows there is room for
            settings.pop("maxiter")
        return settings

    def solve(
        self,
        A: Operator,
        b: Vector,
        damping: Scalar = 0.0,
        x0: Vector | None = None,
        preconditioner: Operator | None = None,
    ) -> Solution:
        system = make_system(A, b, damping, x0, preconditioner, self.check)
        return MinresQLPLoop(self, system).solve()


class MinresQLPLoop:
    """The rounds of one solve: Lanczos steps, and products that verify x."""

    def __init__(self, settings: MinresQLP, system: System) -> None:
        system, scale_M = scale_preconditioner(system)
        self.system, self.scale_M, self.recompute = system, scale_M, settings.recompute
        room = np.asarray(settings.maxiter)
        self.rows = int(room) if settings.keep_tridiagonal else None
        self.tests = StoppingTests(settings, system, scale_M)
        self.zero = system.number(0)

    def solve(self) -> Solution:
        """Run the loop and return its solution."""
        s, phase = self.initial(), None
        if not self.recompute:
            # Then all rounds of the loop are steps, which saves passes over the vectors: the
            # residual of x0 is a round ahead of it.
            if not self.system.cold:
                s = select(is_running(s), self.round(s, Phase.START), s)
            phase = Phase.STEP
        limit = self.tests.limit + 1 + MAX_VERIFICATIONS
        final = while_loop(lambda state: self.round(state, phase), is_running, s, limit)
        return self._in_units_of_the_system(final)

    def _in_units_of_the_system(self, final: MinresQLPState) -> Solution:
        """Return the solution that the final state holds, for A, b and M⁻¹ as given."""
        scale, scale_A = self.system.scale, final.scale_A
        norm_scale = scale_A if self.scale_M is None else scale_A * self.scale_M
        x_norm = norm(final.x) * (scale / scale_A)
        return Solution(
            x=final.x * (scale / scale_A),
            status=first_true((pt.isinf(x_norm), Status.NOT_FINITE), default=final.status),
            niter=final.niter,
            residual_norm=self._residual_norm(final) * scale,
            x_norm=x_norm,
            least_squares_norm=final.ls_norm * norm_scale * scale,
            norm_estimate=final.norm_estimate * norm_scale,
            condition_estimate=final.condition,
            tridiagonal=None if final.tridiagonal is None else final.tridiagonal * norm_scale,
        )

    def _residual_norm(self, final: MinresQLPState) -> TensorVariable:
        """Return norm(b - A x): by a product where steps know r in the norm of M⁻¹ alone."""
        if self.recompute or self.system.precondition is None:
            return final.r_norm
        r_norm = norm(self.system.b - self.system.product(final.x) / final.scale_A)
        return pt.switch(pt.isfinite(final.r_norm), r_norm, final.r_norm)

    def initial(self) -> MinresQLPState:
        """Return the state before the first round; with x0, that round makes r."""
        system, tests, cold = self.system, self.tests, self.system.cold
        table = [
            (pt.invert(pt.isfinite(tests.by)), Status.NOT_FINITE),
            (tests.by <= 0, Status.BAD_PRECONDITIONER),
        ]
        if cold:
            tolerance = pt.maximum(tests.rtol * tests.b_norm, tests.atol)
            table.append((tests.b_norm <= tolerance, Status.CONVERGED))
            table.append((tests.limit <= 0, Status.MAX_ITERATIONS))
        running = pt.eq(system.status, Status.RUNNING)
        status = pt.switch(running, first_true(*table, default=Status.RUNNING), system.status)
        zero_rhs = pt.eq(status, Status.ZERO_RHS)
        known = pt.neq(system.status, Status.NOT_FINITE) if cold else zero_rhs
        nan, inf = system.number(float("nan")), system.number(float("inf"))
        zeros = pt.zeros_like(system.b)
        return MinresQLPState(
            x=system.start,
            r1=zeros,
            r2=system.b,
            scale_A=system.number(1),
            y=None if system.precondition is None else tests.y,
            w1=zeros,
            w2=zeros,
            factors=initial_factors(tests.b_norm),
            in_qlp=pt.cast(tests.transition <= 1, "int64"),
            norm_estimate=self.zero,
            smallest=inf,
            condition=system.number(1),
            r_norm=pt.switch(known, system.b_norm, nan),
            ls_norm=pt.switch(zero_rhs, self.zero, nan),
            start_norm=self.zero,
            credited=self.zero,
            lifting=self.zero,
            lifted=inf,
            null=NullComponent.of_start(self.zero),
            first_column=self.zero,
            verified=inf,
            ls_verified=inf,
            phase=integer(Phase.STEP if cold else Phase.START),
            pending=integer(Status.RUNNING),
            niter=integer(0),
            status=status,
            tridiagonal=None if self.rows is None else pt.zeros((self.rows, 2), system.b.dtype),
        )

    def _multiply(
        self, s: MinresQLPState, step: TensorVariable, of_x: TensorVariable
    ) -> tuple[MinresQLPState, TensorVariable, TensorVariable, TensorVariable]:
        """Return state, v, q and α of a Lanczos step, for r1 = β_{k-1} v_{k-1} and r2 = β_k v_k.

            v_k = r2 / β_k,  q = A v_k - β_k v_{k-1},  α_k = v_k·q,  β_{k+1} v_{k+1} = q - α_k v_k.

        With a preconditioner r1 and r2 hold M times these, and v_k = M⁻¹ r2 / β_k. In a round of x,
        v = x and q = b - A x; in one of least squares, v = y = M⁻¹r and q = A y. Here A is divided
        by the power of two below max|A v_1|, and x is multiplied by it, so that squares are finite
        and rounding errors the same; the state returned is that in these units.
        """
        f, one = s.factors, pt.ones_like(self.zero)
        y = s.r2 if s.y is None else s.y
        v = optimization_barrier(where(of_x, s.x, where(step, one / f.beta, one) * y))
        product = self.system.product(v)
        first = step & pt.eq(s.niter, 0)
        power = power_of_two(abs(product).max())
        scale_A = pt.switch(first, power, s.scale_A)
        if not self.system.cold:
            change = scale_A / s.scale_A
            s = s._replace(x=change * s.x, start_norm=change * s.start_norm)
        s = s._replace(scale_A=scale_A)
        product = product / scale_A
        back = pt.switch(step & (f.beta_old > 0), f.beta / f.beta_old, self.zero)
        q = where(of_x, self.system.b - product, product - back * s.r1)
        return s, v, q, dot(v, q)

    def round(self, s: MinresQLPState, phase: Phase | None = None) -> MinresQLPState:
        """Return the state after a Lanczos step, or a product with x or its residual to judge x.

        ``phase`` is given where it is known while the graph is built.
        """
        system, tests, zero = self.system, self.tests, self.zero
        now = s.phase if phase is None else integer(phase)
        step, least_squares = equal(now, Phase.STEP), equal(now, Phase.LEAST_SQUARES)
        of_x = equal(now, Phase.START) | equal(now, Phase.VERIFY)

        # A Lanczos step; or the residual of x; or that of x without a multiple θ of y = M⁻¹r.
        s, v, q, alpha = self._multiply(s, step, of_x)
        f = s.factors
        judged, lifting = tests.after_least_squares(s, q, alpha)
        r = where(step, q - alpha / f.beta * s.r2, where(of_x, q, lifting * q + s.r2))
        next_y = system.invert_preconditioner(r)
        ry = dot(r, next_y)
        beta = pt.sqrt(pt.maximum(ry, zero))
        finite = pt.isfinite(alpha) & pt.isfinite(ry)

        # The scalars after a step; or after a product that judges x, and a new start from there.
        stepped, n, advance, to_start = tests.after_step(s, step, alpha, beta, ry, finite)
        r_norm = beta if s.y is None else norm(r)
        of_residual = tests.after_residual(s, now, v, alpha, r_norm, ry, beta)
        judged = select(of_x, of_residual, judged)._replace(
            factors=initial_factors(beta),
            null=NullComponent.of_start(judged.lifting - lifting),
            r_norm=r_norm,
            # What steps alone change, and only where the phase is that of a step.
            in_qlp=stepped.in_qlp,
            norm_estimate=stepped.norm_estimate,
            smallest=stepped.smallest,
            condition=stepped.condition,
        )
        in_qlp = pt.neq(s.in_qlp, 0), pt.neq(stepped.in_qlp, 0)
        end = step & pt.neq(stepped.pending, Status.RUNNING)
        weights = vector_weights(f, n, *in_qlp, advance, end)
        stepped = stepped._replace(null=s.null.after_step(f, alpha, *weights))
        out = select(step, stepped, judged)

        # The vectors, each a sum of v and the old w1 and w2. The null vector is taken out of x.
        (a1, a2, a3), (b1, b2, b3), (x1, x2, x3) = weights
        x1 = where(least_squares, pt.switch(finite, -lifting, x1), x1)
        tridiagonal = s.tridiagonal
        if tridiagonal is not None:
            row = tridiagonal[s.niter].set(pt.stack([alpha, beta]))
            tridiagonal = where(step, row, tridiagonal)
        x = s.x + (x1 * v + x2 * s.w1 + x3 * s.w2)
        return out._replace(
            x=where(to_start, s.scale_A * system.start, x),
            r1=s.r2,
            r2=r,
            y=None if s.y is None else next_y,
            w1=a1 * v + a2 * s.w1 + a3 * s.w2,
            w2=b1 * v + b2 * s.w1 + b3 * s.w2,
            status=first_true((pt.invert(finite), Status.NOT_FINITE), default=out.status),
            tridiagonal=tridiagonal,
        )
