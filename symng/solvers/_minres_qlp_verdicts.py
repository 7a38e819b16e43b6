"""The tests of MINRES-QLP: after a step, on a residual of x, and on A r.

But for the defaults, no paper gives the constants below. They are empirical, and hold for the named
systems of `tests/solvers/test_problems.py` in both dtypes.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.solvers._minres_qlp_state import LeastSquaresTests, MinresQLPState, select
from symng.solvers._qlp import QLPStep, hypot, pivots_and_condition, qlp_step
from symng.solvers._system import (
    System,
    dot,
    equal,
    first_true,
    integer,
    is_any,
    iteration_limit,
    norm,
    norm_of_any_size,
    where,
)
from symng.solvers._verification import Phase, judge, pays_off
from symng.solvers.solution import Status

# Defaults of the settings. In float64 QLP takes over at the condition of Algorithm 937.
_RTOL = {"float64": 1e-8, "float32": 1e-5}
_TRANSITION = {"float64": 1e7, "float32": 1e4}
# A pivot below norm(A) ε / 0.03 may be all rounding error, whatever condition the user allows.
_PIVOT_LIMIT = 0.03
# A pivot, or a norm(A r) / norm(r), below 10 ε norm(A) is a rounding error of zero.
_ZERO_PIVOT = 10.0
# What rounding errors leave of a residual: 10 ε (norm(A) norm(x) + norm(b)). What those of the
# whole solve leave of A r: 20 √ε norm(A) norm(r).
_ROUNDING, _ROUNDING_OF_SOLVE = 10.0, 20.0
# norm(A r) / (norm(A) norm(r)) below this is nearly what lost orthogonality leaves of zero, so that
# a new start is better than more steps; the second while x grows along a null vector. In float32
# such a bound is no less than a useful tolerance, so nothing counts as stalled there.
_STALL = {"float64": (4e-11, 1e-7), "float32": (0.0, 0.0)}
# x grows along a null vector while the last pivot is below this times norm(A r) / norm(r).
_GROWING = 0.01
# After a claim of a least-squares solution that A r did not bear out, the next must be this much
# better.
_BETTER_CLAIM = 0.1
# The norm of a candidate may exceed the one credited to it by this factor before it passes the test
# of the residual by its length.
_CREDIT = 1.5
# A residual of least squares is at most norm(b), up to rounding; and the null vector is taken out
# of x only where that changes r by at most half.
_LARGEST_RESIDUAL, _LIFTING = 1.01, 0.5
# The next multiple to take out of x is at most this times the one before: what rounding errors and
# other eigenvectors in r have left of it.
_LIFTING_AGAIN = 1e-3
# r·A r / r·r times the least eigenvalue is at most this times (norm(A r) / norm(r))² where r is a
# null vector but for its components along the other eigenvectors.
_OTHERS = 10.0


class StoppingTests:
    """The settings and tests of one solve, as scalars of its dtype."""

    def __init__(self, settings: Any, system: System, scale_M: TensorVariable | None) -> None:
        self.system, self.recompute = system, settings.recompute
        number, eps, dtype = system.number, system.eps, system.b.type.dtype
        self.zero, self.eps = number(0), number(eps)
        self.rtol = number(_RTOL[dtype] if settings.rtol is None else settings.rtol)
        # Norms in M⁻¹ are those of the scaled system times this.
        self.norm_scale = number(1) if scale_M is None else pt.sqrt(scale_M)
        self.atol = number(settings.atol) / system.scale / self.norm_scale
        self.limit = iteration_limit(system, settings.maxiter)
        bound = settings.max_norm
        self.max_norm = None if bound is None else number(bound) / system.scale
        largest, given = number(_PIVOT_LIMIT / eps), settings.condition_limit
        self.condition_limit = largest if given is None else pt.minimum(number(given), largest)
        self.truncates_zeros = pt.ge(self.condition_limit, largest)  # and no other pivots
        transition = settings.transition_condition
        self.transition = number(_TRANSITION[dtype] if transition is None else transition)
        self.zero_tolerance = number(_ZERO_PIVOT * eps)
        self.stall, self.growing_stall = (number(value) for value in _STALL[dtype])
        self.y = system.invert_preconditioner(system.b)
        self.by = dot(system.b, self.y)
        self.b_norm = pt.sqrt(pt.maximum(self.by, self.zero))  # in the norm of M⁻¹

    def after_step(
        self,
        s: MinresQLPState,
        step: TensorVariable,
        alpha: TensorVariable,
        beta: TensorVariable,
        ry: TensorVariable,
        finite: TensorVariable,
    ) -> tuple[MinresQLPState, QLPStep, TensorVariable, TensorVariable]:
        """Return the scalars after step k, that step, and whether x_k and whether x_0 is taken.

        If neither is, x_{k-1} is kept.
        """
        f = s.factors
        # The norm of column k of the Lanczos matrix, which does not hold β_1 = norm(b).
        column = hypot(pt.switch(f.beta_old > 0, f.beta, self.zero), alpha, beta)
        norm_A = pt.maximum(s.norm_estimate, column)
        ls_rtols = self._ls_rtol(s, norm_A)
        ls_rtol = ls_rtols[1]
        n = self._qlp_step(s, alpha, beta, norm_A, ls_rtol)
        ls = self._least_squares_tests(s, n, norm_A, *ls_rtols)
        credited, met, precise = self._residual_tests(s, n, norm_A, ls)
        smallest, condition = pivots_and_condition(s.smallest, n.right, norm_A)
        niter = s.niter + 1

        halts = [
            (self._is_too_long(s, n, norm_A), Status.NORM_LIMIT),
            (n.truncated, Status.CONDITION_LIMIT),
            (ls.stalled | (beta <= self.eps * norm_A), Status.BREAKDOWN),
            (niter >= self.limit, Status.MAX_ITERATIONS),
        ]
        first_column = pt.switch(f.beta_old > 0, s.first_column, column)
        to_start = self._starts_in_null_space(s, first_column, norm_A)
        if self.recompute:
            met_last = ls.nearly & reduce(or_, [halt for halt, _ in halts])
            halts.insert(0, (met_last, Status.LEAST_SQUARES))

        pending = first_true(
            (pt.invert(finite), Status.NOT_FINITE),
            (ry < 0, Status.BAD_PRECONDITIONER),
            (to_start, Status.LEAST_SQUARES),
            (met, Status.CONVERGED),
            (precise, Status.CONVERGED_TO_PRECISION),
            (ls.met, Status.LEAST_SQUARES),
            (ls.precise, Status.LEAST_SQUARES_TO_PRECISION),
            *halts,
            default=Status.RUNNING,
        )
        advance = step & pt.invert(self._keeps_last(pending, n, ls.stalled))
        qlp = n.truncated | (condition >= self.transition)
        qlp = qlp | (norm_A >= self.transition * n.left.gamma2)
        stop, keep = pt.neq(pending, Status.RUNNING), step & finite
        stepped = s._replace(
            factors=select(advance, n.factors, f),
            in_qlp=pt.cast(pt.neq(s.in_qlp, 0) | (advance & qlp), "int64"),
            norm_estimate=pt.switch(keep, norm_A, s.norm_estimate),
            smallest=pt.switch(keep, smallest, s.smallest),
            condition=pt.switch(keep, condition, s.condition),
            r_norm=pt.switch(advance, n.residual, f.phi),
            ls_norm=pt.switch(finite, self.norm_scale * f.phi * n.left.relative_Ar, s.ls_norm),
            credited=pt.switch(to_start, self.zero, credited),
            first_column=first_column,
            phase=pt.switch(stop, integer(Phase.VERIFY), integer(Phase.STEP)),
            pending=pending,
            niter=niter,
            status=integer(Status.RUNNING) if self.recompute else pending,
        )
        return stepped, n, advance, step & to_start

    def _starts_in_null_space(
        self, s: MinresQLPState, first_column: TensorVariable, norm_A: TensorVariable
    ) -> TensorVariable:
        """Return whether r_0 is a null vector, so that x_0 is the shortest solution.

        That A v_1 is small shows once other vectors have given an estimate of norm(A). All of x_k -
        x_0 is then made of rounding errors. Later starts know norm(A) at once.
        """
        if not self.recompute:
            return pt.constant(np.array(False))
        noise = first_column <= self.zero_tolerance * norm_A
        return noise & (s.factors.beta_old > 0) & pt.isinf(s.verified)

    def _ls_rtol(
        self, s: MinresQLPState, norm_A: TensorVariable
    ) -> tuple[TensorVariable, TensorVariable]:
        """Return the tolerances of norm(A r) / (norm(A) norm(r)), stricter after a refuted claim.

        The second is that of an x_{k-1} whose null vector is still to be taken out.
        """
        better = self.system.number(_BETTER_CLAIM) * s.ls_verified / norm_A
        rtol = pt.minimum(self.rtol, better)
        if not self.recompute:
            return rtol, rtol
        # A r grows where the null vector is taken out of x. Lanczos vectors that are no longer
        # orthogonal let it fall to √ε norm(A) norm(r) or so, whatever is asked for.
        theta = s.null.of_iterate(s.factors, pt.neq(s.in_qlp, 0))
        floor = pt.minimum(rtol, self.system.number(self.system.eps**0.5))
        return rtol, pt.maximum(rtol / (self.system.number(1) + theta * norm_A), floor)

    def _qlp_step(
        self,
        s: MinresQLPState,
        alpha: TensorVariable,
        beta: TensorVariable,
        norm_A: TensorVariable,
        ls_rtol: TensorVariable,
    ) -> QLPStep:
        """Return step k of the recurrences."""
        f = s.factors
        before = norm_A * hypot(f.chi, s.start_norm) + self.b_norm
        # A first pivot that is only a rounding error would lengthen x along a null vector.
        noise = pt.eq(f.beta_old, 0) & (abs(alpha) <= self.zero_tolerance * norm_A)
        alpha = pt.switch(noise, self.zero, alpha)
        return qlp_step(f, alpha, beta, norm_A, self.condition_limit, ls_rtol, self.rtol * before)

    def _least_squares_tests(
        self,
        s: MinresQLPState,
        n: QLPStep,
        norm_A: TensorVariable,
        loose: TensorVariable,
        strict: TensorVariable,
    ) -> LeastSquaresTests:
        """Return the tests of x_{k-1} as a least-squares solution, by norm(A r) / norm(r)."""
        number, relative_Ar = self.system.number, n.left.relative_Ar
        half = number(0.5)
        slow = n.left.phi > half * s.factors.phi
        growing = slow & (abs(n.right.pivot1) <= number(_GROWING) * relative_Ar)
        stall = pt.switch(growing, self.growing_stall, self.stall) * norm_A
        stalled = slow & (relative_Ar <= pt.minimum(stall, half * s.ls_verified))
        if not self.recompute or self.system.precondition is not None:
            stalled = pt.zeros_like(stalled)
        return LeastSquaresTests(
            met=relative_Ar <= strict * norm_A,
            nearly=relative_Ar <= loose * norm_A,
            precise=relative_Ar <= self.zero_tolerance * norm_A,
            growing=growing,
            stalled=stalled,
        )

    def _residual_tests(
        self, s: MinresQLPState, n: QLPStep, norm_A: TensorVariable, ls: LeastSquaresTests
    ) -> tuple[TensorVariable, TensorVariable, TensorVariable]:
        """Return the norm credited to x_k, and whether x_k solves the system, to rtol and to ε.

        Once x_{k-1} solves the least-squares problem, or x grows along a null vector, what x gains
        in length is not credited: x_k would pass by that alone.
        """
        chi = n.factors.chi
        longer_for_nothing = ls.met | ls.precise | ls.growing
        credited = pt.switch(longer_for_nothing, pt.minimum(chi, s.credited), chi)
        size = norm_A * hypot(credited, s.start_norm) + self.b_norm
        met = (n.residual <= self.rtol * size) | (n.residual <= self.atol)
        return credited, met, n.residual <= self.eps * size

    def _is_too_long(self, s: MinresQLPState, n: QLPStep, norm_A: TensorVariable) -> TensorVariable:
        """Return whether x_k passes max_norm; by default that is norm(b) / (ε norm(A))."""
        if self.max_norm is None:
            return n.factors.chi * norm_A * self.eps >= self.b_norm
        return hypot(n.factors.chi, s.start_norm) > self.max_norm * s.scale_A

    def _keeps_last(
        self, pending: TensorVariable, n: QLPStep, stalled: TensorVariable
    ) -> TensorVariable:
        """Return whether x_{k-1} is kept.

        A least-squares verdict is about x_{k-1}, and norm(A r) may grow again. But an x_k without
        the last pivot is x_{k-1} made shorter, and is taken where nothing is verified.
        """
        least_squares = is_any(pending, Status.LEAST_SQUARES, Status.LEAST_SQUARES_TO_PRECISION)
        invalid = is_any(pending, Status.NOT_FINITE, Status.BAD_PRECONDITIONER)
        if not self.recompute:
            least_squares = least_squares & pt.invert(n.truncated)
        halted = stalled & pt.eq(pending, Status.BREAKDOWN)
        return least_squares | invalid | pt.eq(pending, Status.NORM_LIMIT) | halted

    def after_residual(
        self,
        s: MinresQLPState,
        phase: TensorVariable,
        x: TensorVariable,
        xr: TensorVariable,
        r_norm: TensorVariable,
        ry: TensorVariable,
        beta: TensorVariable,
    ) -> MinresQLPState:
        """Return the state after a product with x, the start or a candidate, judged by r.

        ``beta`` is the root of r·M⁻¹r.
        """
        plain = self.system.precondition is None
        start, verify = equal(phase, Phase.START), equal(phase, Phase.VERIFY)
        more = s.niter < self.limit
        grown = hypot(s.factors.chi, s.start_norm)
        # The scale of A is not known yet when x0 is judged, so its squares may overflow.
        x_norm = norm(x) if self.system.cold else norm_of_any_size(x)
        x_norm = x_norm if plain else where(start, self.zero, grown)
        bound = hypot(s.credited, s.start_norm) * self.system.number(_CREDIT)
        credited = where(verify, pt.minimum(x_norm, bound), x_norm)
        size = s.norm_estimate * credited + self.b_norm
        met = (beta <= self.rtol * size) | (beta <= self.atol)
        precise = verify & (beta <= self.system.number(_ROUNDING) * self.eps * size)
        verdict = first_true(
            (met, Status.CONVERGED),
            ((ry <= 0) & (r_norm > 0), Status.BAD_PRECONDITIONER),
            (start & pt.invert(more), Status.MAX_ITERATIONS),
            (precise, Status.CONVERGED_TO_PRECISION),
            default=Status.RUNNING,
        )
        claimed = is_any(s.pending, Status.CONVERGED, Status.CONVERGED_TO_PRECISION)
        resume = claimed & pt.invert(precise) & pays_off(beta, s.verified) & more
        # Neither solved nor gone on from: perhaps it solves the least-squares problem.
        look = verify & pt.eq(verdict, Status.RUNNING) & pt.invert(resume)
        return s._replace(
            start_norm=x_norm,
            credited=self.zero,
            # x - θ y with θ = x·r / r·y is orthogonal, in the norm of M, to y = M⁻¹r.
            lifting=pt.switch(ry > 0, xr / ry, self.zero),
            verified=where(verify, beta, s.verified),
            phase=where(look, integer(Phase.LEAST_SQUARES), integer(Phase.STEP)),
            pending=where(look, s.pending, verdict),
            status=verdict,
        )

    def after_least_squares(
        self, s: MinresQLPState, Ar: TensorVariable, rAr: TensorVariable
    ) -> tuple[MinresQLPState, TensorVariable]:
        """Return the state after judging a candidate by A r, and the multiple of M⁻¹r to remove."""
        number, eps, pending = self.system.number, self.system.eps, s.pending
        ls_norm, more = norm(Ar), s.niter < self.limit
        relative_Ar = ls_norm / s.r_norm
        size = s.norm_estimate * s.start_norm + self.b_norm
        # What rounding errors in b - A x leave of it; and what those of the whole solve may, once
        # the recurrence or a pivot that is all but zero has called the system inconsistent.
        rounding = number(_ROUNDING * eps) * size / s.r_norm
        # Those in r are multiplied by A where they have left x with the null vector.
        lifted = pt.isfinite(s.lifted)
        growth = pt.switch(lifted, s.lifted * s.norm_estimate, self.zero) + number(1)
        slack = pt.maximum(rounding * growth, number(_ROUNDING_OF_SOLVE * eps**0.5))
        small = relative_Ar <= slack * s.norm_estimate
        claimed = is_any(pending, Status.LEAST_SQUARES, Status.LEAST_SQUARES_TO_PRECISION)
        inconsistent = claimed | (self.truncates_zeros & pt.eq(pending, Status.CONDITION_LIMIT))
        null = self._is_all_but_null(s, ls_norm, relative_Ar, rAr)
        if self.system.precondition is None:
            met, precise = relative_Ar <= self.rtol * s.norm_estimate, inconsistent & small
        else:
            # These norms are not those of the test, so the recurrence is believed.
            met, precise = pt.eq(pending, Status.LEAST_SQUARES), inconsistent
        met, precise = met & null, precise & null
        # A claim that A r does not bear out, and a halt, get another start from x while that pays.
        # Where it was borne out before the null vector has left x, rounding errors are the cause.
        refuted = claimed & (relative_Ar > rounding * s.norm_estimate)
        refuted = refuted & pt.invert(small & lifted)
        halted = pt.eq(pending, Status.BREAKDOWN)
        again = refuted | (inconsistent & pt.invert(precise)) | halted
        again = again & pt.invert(met) & more & pays_off(relative_Ar, s.ls_verified)
        verdict = judge(
            pending,
            pending < Status.MAX_ITERATIONS,
            (met, Status.LEAST_SQUARES),
            (precise, Status.LEAST_SQUARES_TO_PRECISION),
            resume=again,
            more=more,
        )
        # x without the null vector has another residual, so it is judged again.
        long = abs(s.lifting) * s.r_norm > number(_ROUNDING * eps) * s.start_norm
        long = long & (abs(s.lifting) <= number(_LIFTING_AGAIN) * s.lifted)
        shorten = (met | precise) & pt.invert(again) & long
        # A start after a halt leaves out the null vector, too: x would only grow along it again.
        lift = pt.switch(again, halted & null & small, shorten)
        lifting = pt.switch(lift, s.lifting, self.zero)
        judged = s._replace(
            ls_norm=ls_norm,
            lifting=self.zero,
            lifted=pt.switch(shorten, abs(lifting), number(float("inf"))),
            ls_verified=pt.switch(shorten, s.ls_verified, relative_Ar),
            phase=pt.switch(shorten, integer(Phase.VERIFY), integer(Phase.STEP)),
            pending=pt.switch(shorten, pending, verdict),
            status=pt.switch(shorten, integer(Status.RUNNING), verdict),
        )
        return judged, lifting

    def _is_all_but_null(
        self,
        s: MinresQLPState,
        ls_norm: TensorVariable,
        relative_Ar: TensorVariable,
        rAr: TensorVariable,
    ) -> TensorVariable:
        """Return whether r is so near a null vector that it can be taken out of x.

        Without that, x is no least-squares solution that could be returned.
        """
        number = self.system.number
        fit = abs(s.lifting) * ls_norm <= number(_LIFTING) * s.r_norm
        if self.system.precondition is not None:
            return fit
        # r is a null vector if r·A r / r·r is small. The components of r along other eigenvectors
        # enter it squared, a small eigenvalue does not.
        quotient = abs(rAr) / pt.sqr(s.r_norm)
        others = pt.minimum(s.smallest, s.norm_estimate)
        null = (quotient <= self.zero_tolerance * s.norm_estimate) | (
            quotient * others <= number(_OTHERS) * pt.sqr(relative_Ar)
        )
        null = null | pt.isfinite(s.lifted)  # it was one before that has left x
        return fit & null & (s.r_norm <= number(_LARGEST_RESIDUAL) * self.system.b_norm)
