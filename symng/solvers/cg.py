"""The method of conjugate gradients: `CG` for the user, the state of its loop, and the loop.

The step is in `_hestenes_stiefel`; `_smoothing` keeps an iterate for where x is lost,
`_verification` holds a claimed residual against that of x, `_martens` ends by small progress.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, is_symbolic
from symng.graphs.config import config, flag, number
from symng.graphs.loops import while_loop
from symng.graphs.types import Integer, Scalar
from symng.solvers._arguments import Operator, Vector
from symng.solvers._hestenes_stiefel import Line, multiply, next_iterate, squared_norm
from symng.solvers._martens import (
    initial_history,
    initial_iterates,
    keep,
    kept_numbers,
    record,
    row_of,
)
from symng.solvers._smoothing import final_status, is_null, is_precise, is_spoiled, smoothing_weight
from symng.solvers._system import (
    System,
    dot,
    equal,
    first_true,
    integer,
    iteration_limit,
    make_system,
    norm,
    norm_of_any_size,
    scale_preconditioner,
    where,
)
from symng.solvers._verification import MAX_VERIFICATIONS, Phase, is_running, judge, pays_off
from symng.solvers.base import AdjustableSettings, Solver
from symng.solvers.solution import Solution, Status


@config
class CG(Solver):
    """Solve (A + λI) x = b for symmetric positive definite A + λI by conjugate gradients.

    Each step minimizes φ(x) = x·(A + λI)x / 2 - b·x over the Krylov space of b. The solve ends when
    norm(b - (A + λI) x) <= rtol norm(b) + atol.

    Parameters
    ----------
    rtol : float or symbolic scalar, default 1e-5
        The tolerance relative to norm(b); at least 0.
    atol : float or symbolic scalar, default 0.0
        The absolute tolerance, in units of b; at least 0.
    maxiter : int or symbolic integer scalar, optional
        The iteration limit; at least 0. Default: 10 n for a system of n unknowns.
    recompute : bool, default True
        Compute the residual norm from ``x`` itself, one product at the end. If the recurrence met
        the tolerance but the residual does not, the solve goes on until it does or until rounding
        errors stop the progress. With False the product is saved and the residual norm is that of
        the recurrence.
    check : bool, default False
        Test A for symmetry, and the preconditioner for symmetry and positive definiteness, on two
        vectors before the first step: three products with the one, two with the other.
    progress_rtol : float or symbolic scalar, optional
        The relative progress of φ in an iteration, as a mean over the last k, below which the solve
        ends, with ``SMALL_PROGRESS``; at least 0 (Martens [4]_: 5e-4). After iteration i that is

            i > k,  φ(x_i) < 0,  (φ(x_i) - φ(x_{i-k})) / φ(x_i) < k progress_rtol,

        with k = max(10, ceil(i / 10)), at most 128. Default: no such test.
    keep_iterates : float, optional
        A growth factor above 1 (Martens: 1.3): the solution also holds the iterates numbered
        ceil(keep_iterates^j), for j = 0, 1, ..., and the last one. Needs a ``maxiter`` that is a
        plain number. Default: none are kept.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of range.

    Notes
    -----
    A solution holds ``norm_estimate``, ``curvature`` and ``direction``, and where asked for
    ``iterates`` and ``iterates_count``.

    Cost: one product an iteration, one for ``x0`` if given, one for the residual at the end.
    Memory: four vectors besides b and what the product needs, and the iterates kept, which every
    iteration copies. φ costs no product: it is -x·(b + r) / 2 with r the residual. Symbolic
    settings, say shared variables, change without a recompilation.

    Where b is not in the range of a singular A + λI, φ has no minimum and the iterates of CG grow
    along a null vector without bound. Such a solve hands back another vector x̄ of the Krylov
    space: the mean of the iterates x_j with weights 1 / (r_j·M⁻¹r_j), whose residual is the least
    in the norm of M⁻¹ [2]_. That is the iterate of MINRES, and without a preconditioner a
    least-squares solution to about √ε, as far as iterates of norm(A) norm(x) <= norm(b) / √ε lead.
    Its residual norm comes from a product with it, except in a solve from zero without
    preconditioner whose ``recompute`` is False: there it is that of the recurrence, too.

    Verdicts besides ``CONVERGED``, ``ZERO_RHS``, ``MAX_ITERATIONS``, ``NOT_FINITE`` and those of
    ``check``:

    - ``NEGATIVE_CURVATURE``: d·(A + λI)d <= ε norm(A) norm(d)² for a direction d, with ε the
      rounding unit. ``direction`` is d, ``curvature`` is d·(A + λI)d / d·d. A negative curvature
      means an indefinite matrix, and ``x`` is the iterate before it. A curvature of zero, up to
      rounding, means a singular one with b outside its range, and ``x`` is x̄ without its component
      along d [3]_.
    - ``CONVERGED_TO_PRECISION``: the residual is below 10 ε (norm(A) norm(x) + norm(b)), above the
      tolerance but well below norm(b).
    - ``BREAKDOWN``: rounding errors stopped the progress before that. Here, and with
      ``MAX_ITERATIONS`` after n or more iterations, x̄ takes the place of an iterate whose residual
      is above norm(b).
    - ``SMALL_PROGRESS``: the test of ``progress_rtol``.
    - ``BAD_PRECONDITIONER``: r·M⁻¹r <= 0 for a residual r that is not zero.

    References
    ----------
    .. [1] M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems,
       J. Res. Nat. Bur. Standards 49 (1952) 409-436.
    .. [2] L. Zhou and H. F. Walker, Residual smoothing techniques for iterative methods, SIAM J.
       Sci. Comput. 15(2) (1994) 297-312.
    .. [3] Y. Liu, A. Milzarek and F. Roosta, Obtaining pseudo-inverse solutions with MINRES,
       arXiv:2309.17096 (2023).
    .. [4] J. Martens, Deep learning via Hessian-free optimization, ICML 2010, section 4.4.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.solvers import CG
    >>> A, b = pt.constant(np.array([[4.0, 1.0], [1.0, 3.0]])), pt.constant(np.array([1.0, 2.0]))
    >>> solution = CG(rtol=1e-10).solve(lambda v: A @ v, b)
    >>> (11 * solution.x).eval(mode="FAST_COMPILE").round(6).tolist()
    [1.0, 7.0]
    """

    rtol: Scalar = number(default=1e-5, minimum=0, symbolic=True)
    atol: Scalar = number(default=0.0, minimum=0, symbolic=True)
    maxiter: Integer | None = number(default=None, minimum=0, integer=True, symbolic=True)
    recompute: bool = flag(default=True)
    check: bool = flag(default=False)
    progress_rtol: Scalar | None = number(default=None, minimum=0, symbolic=True)
    keep_iterates: float | None = number(default=None, above=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_iterates is not None and (self.maxiter is None or is_symbolic(self.maxiter)):
            raise argument_error(
                "maxiter",
                "a plain number where keep_iterates is given",
                self.maxiter,
                "Room is made for the iterates of so many iterations.",
                TypeError,
            )

    @property
    def keeps_iterates(self) -> bool:
        return self.keep_iterates is not None

    def adjustable_settings(self) -> AdjustableSettings:
        settings = super().adjustable_settings()
        if self.keeps_iterates:  # maxiter says how many there is room for
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
        return CGLoop(self, make_system(A, b, damping, x0, preconditioner, self.check)).solve()


class CGState(NamedTuple):
    """What one round of the loop hands to the next; x and b are divided by max|b|."""

    x: TensorVariable
    r: TensorVariable  # b - (A + λI) x
    p: TensorVariable  # what the next round multiplies: the direction, or x
    smoothed: TensorVariable  # x̄; at NEGATIVE_CURVATURE the direction instead
    rz: TensorVariable  # r·M⁻¹r
    smoothed_rz: TensorVariable  # r̄·M⁻¹r̄
    xx: TensorVariable  # x·x
    r_norm: TensorVariable
    verified: TensorVariable  # norm(r) when last verified
    norm_estimate: TensorVariable  # of norm(A + λI), from below
    curvature: TensorVariable  # p·(A + λI)p / p·p of the last direction
    phase: TensorVariable
    pending: TensorVariable  # the verdict that ended the steps, until x is verified
    niter: TensorVariable
    status: TensorVariable
    phi: TensorVariable | None  # the last values of φ
    iterates: TensorVariable | None  # those kept, as rows

    @property
    def Ax_bound(self) -> TensorVariable:
        """The product norm(A) norm(x): rounding errors of A x are about ε times this."""
        return self.norm_estimate * pt.sqrt(self.xx)


class CGLoop:
    """The settings of one solve as scalars of its dtype, and the rounds of its loop."""

    def __init__(self, settings: CG, system: System) -> None:
        (system, _), number = scale_preconditioner(system), system.number
        self.system, self.recompute = system, settings.recompute
        self.zero, self.eps = number(0), number(system.eps)
        self.tolerance = (
            number(settings.rtol) * system.b_norm + number(settings.atol) / system.scale
        )
        self.limit = iteration_limit(system, settings.maxiter)
        # Whether x is never multiplied. Then the phases fall away while the graph is built.
        self.steps_only = not settings.recompute and system.cold and system.precondition is None
        progress, growth, room = settings.progress_rtol, settings.keep_iterates, settings.maxiter
        self.progress_rtol = None if progress is None else number(progress)
        self.kept = [] if growth is None else kept_numbers(growth, int(np.asarray(room)))

    def solve(self) -> Solution:
        """Run the loop and return its solution."""
        limit = self.limit + 1 + MAX_VERIFICATIONS
        return self.solution(while_loop(self.round, is_running, self.initial(), limit))

    def initial(self) -> CGState:
        """Return the state before the first round; with x0, that round makes r and p."""
        system, b, cold = self.system, self.system.b, self.system.cold
        z = system.invert_preconditioner(b) if cold else system.start
        rz = dot(b, z)
        status, known = system.status, pt.eq(system.status, Status.ZERO_RHS)
        if cold:
            verdict = first_true(
                (system.b_norm <= self.tolerance, Status.CONVERGED),
                (pt.invert(pt.isfinite(rz)), Status.NOT_FINITE),
                (rz <= 0, Status.BAD_PRECONDITIONER),
                default=Status.RUNNING,
            )
            status = pt.switch(pt.eq(status, Status.RUNNING), verdict, status)
            known = pt.neq(system.status, Status.NOT_FINITE)
        nan, inf = system.number(float("nan")), system.number(float("inf"))
        return CGState(
            x=system.start,
            r=b,
            p=z,
            smoothed=system.start,
            rz=rz,
            smoothed_rz=rz,
            xx=self.zero,
            r_norm=pt.switch(known, system.b_norm, nan),
            verified=inf,
            norm_estimate=self.zero,
            curvature=nan,
            phase=integer(Phase.STEP if cold else Phase.START),
            pending=integer(Status.RUNNING),
            niter=integer(0),
            status=status,
            phi=None if self.progress_rtol is None else initial_history(b.dtype),
            iterates=initial_iterates(system.start, self.kept) if self.kept else None,
        )

    def round(self, s: CGState) -> CGState:
        """Return the state after a step along the direction, or a product that verifies x."""
        system = self.system
        phase = integer(Phase.STEP) if self.steps_only else s.phase
        step, start, verify = (equal(phase, of) for of in (Phase.STEP, Phase.START, Phase.VERIFY))

        line = multiply(system, s.p, s.norm_estimate, step)
        counts = step & (s.niter < self.limit)  # a symbolic limit may be 0
        advance = counts & pt.isfinite(line.pq) & pt.invert(line.flat)
        alpha = pt.switch(advance, s.rz / line.pq, self.zero)
        x, r, rz, p = next_iterate(system, line, alpha, s.x, s.r, s.rz, step)

        r_norm = norm(r)
        finite = pt.isfinite(line.pq) & pt.isfinite(rz) & pt.isfinite(r_norm)
        xx = squared_norm(system, line, alpha, s.x, s.xx)
        n = s._replace(
            r=r,
            rz=rz,
            xx=where(step, pt.switch(finite, xx, s.xx), line.pp),
            r_norm=pt.switch(finite & (advance | pt.invert(step)), r_norm, s.r_norm),
            norm_estimate=line.norm_A,
            curvature=pt.switch(step & finite, line.curvature, s.curvature),
            niter=s.niter + pt.cast(counts, "int64"),
        )
        phi, slow = self._progress(s, n, line, alpha, advance)
        claimed = verify & pt.eq(s.pending, Status.CONVERGED)
        ended_by = self._ended_by(n, step, line.flat, slow)
        pending = where(verify, self._verified(s, n, claimed), ended_by)

        # Where x is lost x̄ takes its place, to be verified.
        null, lifting = self._null_vector(s, n, line)
        spoiled = is_spoiled(system, pending, claimed, step, n.niter, n.r_norm, n.Ax_bound)
        use_smoothed = finite & (null | spoiled)
        weight, smoothed_rz = smoothing_weight(
            system, s.smoothed_rz, rz, n.Ax_bound, advance & finite, start & finite
        )
        r_norm = n.r_norm
        if self.steps_only:
            r_norm = pt.switch(use_smoothed, pt.sqrt(smoothed_rz), r_norm)
        check, ended = self._end(step, pt.neq(pending, Status.RUNNING), use_smoothed)
        status = pt.switch(ended, pending, integer(Status.RUNNING))

        # The vectors, in one pass over them.
        x = pt.switch(use_smoothed, s.smoothed - lifting * line.p, pt.switch(finite, x, s.x))
        smoothed = (system.number(1) - weight) * s.smoothed + weight * x
        return n._replace(
            x=x,
            p=where(check, x, p),
            smoothed=pt.switch(line.flat, line.p, smoothed),
            smoothed_rz=smoothed_rz,
            r_norm=r_norm,
            verified=where(verify, r_norm, s.verified),
            phase=where(check, integer(Phase.VERIFY), integer(Phase.STEP)),
            pending=pending,
            status=first_true((pt.invert(finite), Status.NOT_FINITE), default=status),
            phi=phi,
            iterates=keep(s.iterates, self.kept, n.niter, x),
        )

    def _progress(
        self, s: CGState, n: CGState, line: Line, alpha: TensorVariable, advance: TensorVariable
    ) -> tuple[TensorVariable | None, TensorVariable]:
        """Return the last values of φ, and whether it has almost stopped falling."""
        if s.phi is None or self.progress_rtol is None:
            return None, pt.constant(np.array(False))
        # φ = x·(A + λI)x / 2 - b·x at x + α p, where (A + λI) x = b - r.
        total = self.system.b + n.r
        value = self.system.number(-0.5) * (dot(s.x, total) + alpha * dot(line.p, total))
        return record(s.phi, value, n.niter, advance, self.progress_rtol)

    def _null_vector(
        self, s: CGState, n: CGState, line: Line
    ) -> tuple[TensorVariable, TensorVariable]:
        """Return whether p is a null vector, and the multiple of it to take out of x̄.

        Then b is outside range(A), x has grown along p = M⁻¹r̄, and x̄ is shorter without it [3]_.
        """
        null = line.flat & is_null(self.system, line)
        null = null & pt.invert(is_precise(self.system, n.r_norm, n.Ax_bound))
        return null, pt.switch(null, dot(line.p, s.smoothed) / line.pp, self.zero)

    def _end(
        self, step: TensorVariable, stop: TensorVariable, use_smoothed: TensorVariable
    ) -> tuple[TensorVariable, TensorVariable]:
        """Return whether x is multiplied next, and whether the solve ends without that."""
        if self.steps_only:
            return pt.constant(np.array(False)), stop
        ended = stop & pt.invert(use_smoothed)
        if self.recompute:
            ended = ended & pt.invert(step)
        return (step & stop) | use_smoothed, ended

    def _ended_by(
        self, n: CGState, step: TensorVariable, flat: TensorVariable, slow: TensorVariable
    ) -> TensorVariable:
        """Return the verdict that ends the steps, ``RUNNING`` if none does."""
        # Below the floor the recurrence is all rounding errors, whatever the tolerance.
        floor = where(step, self.eps * self.system.b_norm, self.zero)
        return first_true(
            (n.r_norm <= pt.maximum(self.tolerance, floor), Status.CONVERGED),
            (flat, Status.NEGATIVE_CURVATURE),
            ((n.rz <= 0) & (n.r_norm > 0), Status.BAD_PRECONDITIONER),
            (slow, Status.SMALL_PROGRESS),
            (n.niter >= self.limit, Status.MAX_ITERATIONS),
            default=Status.RUNNING,
        )

    def _verified(self, s: CGState, n: CGState, claimed: TensorVariable) -> TensorVariable:
        """Return the verdict after a product with x, ``RUNNING`` to go on from there."""
        met, more = n.r_norm <= self.tolerance, n.niter < self.limit
        resume = claimed & pt.invert(met) & pays_off(n.r_norm, s.verified) & more & (n.rz > 0)
        return judge(s.pending, claimed, (met, Status.CONVERGED), resume=resume, more=more)

    def solution(self, final: CGState) -> Solution:
        """Return the solution that the final state holds, in units of b."""
        scale, iterates, x_norm = self.system.scale, final.iterates, norm_of_any_size(final.x)
        flat = pt.eq(final.status, Status.NEGATIVE_CURVATURE)
        bound = final.norm_estimate * x_norm
        status = final_status(self.system, final.status, final.r_norm, bound)
        return Solution(
            x=final.x * scale,
            status=first_true((pt.isinf(x_norm * scale), Status.NOT_FINITE), default=status),
            niter=final.niter,
            residual_norm=final.r_norm * scale,
            x_norm=x_norm * scale,
            norm_estimate=final.norm_estimate,
            curvature=final.curvature,
            direction=pt.switch(flat, final.smoothed, self.zero),
            iterates=None if iterates is None else iterates * scale,
            iterates_count=None if iterates is None else row_of(final.niter, self.kept) + 1,
            # That of x̄ is unknown where no product is made for it.
            residual=None if self.steps_only else final.r * scale,
        )
