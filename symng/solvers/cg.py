"""The method of conjugate gradients.

References
----------
M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems, J. Res. Nat. Bur. Standards
49 (1952) 409-436.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import check_flag
from symng._loop import State, while_loop
from symng.solvers._system import System, check_settings, choose, dot, make_system, norm
from symng.solvers.solution import Solution, Status

# What a round of the loop multiplies: the direction, or x (the residual of x0, the residual of a candidate solution).
_STEP, _START, _VERIFY = 0, 1, 2
# Rounds that verify and then go on halve the residual, so there are few of them.
_MAX_VERIFICATIONS = 80


@dataclass(frozen=True, kw_only=True)
class CG:
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
        Compute the residual norm from ``x`` itself, one product at the end. A solution whose recurrence met the
        tolerance but whose residual does not is worked on until it does or until rounding errors stop the progress.
        With False the product is saved and the residual norm is that of the recurrence.
    check : bool, default False
        Test A for symmetry, and the preconditioner for symmetry and positive definiteness, before the first step, by
        three and two more products. It is a test on two vectors, not a proof.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of range.

    Notes
    -----
    Cost: one product an iteration, one for ``x0`` if given, one for the residual at the end. Memory: three vectors
    beside b and what the product needs. Symbolic settings, say shared variables, change without a recompilation.

    Verdicts beside ``CONVERGED``, ``ZERO_RHS``, ``MAX_ITERATIONS``, ``NOT_FINITE`` and those of ``check``:

    - ``NEGATIVE_CURVATURE``: d·(A + λI)d <= ε norm(A) norm(d)² for a direction d, with ε the rounding unit. ``x`` is
      the iterate before it, ``direction`` is d, ``curvature`` is d·(A + λI)d / d·d. A negative curvature tells an
      indefinite matrix. A curvature of zero, up to rounding, tells a singular one with b outside its range.
    - ``CONVERGED_TO_PRECISION``: the residual is below 10 ε (norm(A) norm(x) + norm(b)), above the tolerance but
      well below norm(b).
    - ``BREAKDOWN``: rounding errors stopped the progress before that.
    - ``BAD_PRECONDITIONER``: r·M⁻¹r <= 0 for a residual r that is not zero.

    References
    ----------
    M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems, J. Res. Nat. Bur.
    Standards 49 (1952) 409-436.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.solvers import CG
    >>> A, b = pt.constant(np.array([[4.0, 1.0], [1.0, 3.0]])), pt.constant(np.array([1.0, 2.0]))
    >>> solution = CG(rtol=1e-10).solve(lambda v: A @ v, b)
    >>> (11 * solution.x).eval(mode="FAST_COMPILE").round(6).tolist()
    [1.0, 7.0]
    """

    rtol: Any = 1e-5
    atol: Any = 0.0
    maxiter: Any = None
    recompute: bool = True
    check: bool = False

    def __post_init__(self) -> None:
        check_settings(self, ())
        check_flag("recompute", self.recompute)
        check_flag("check", self.check)

    def solve(self, A: Any, b: Any, damping: Any = 0.0, x0: Any = None, preconditioner: Any = None) -> Solution:
        """Return the solution of (A + λI) x = b as symbolic variables.

        Parameters
        ----------
        A : LinearOperator or callable
            The product with a symmetric matrix: from symbolic vector to symbolic vector of the same length and dtype.
        b : symbolic vector
            The right-hand side, float32 or float64; its dtype is that of the solve.
        damping : float or symbolic scalar, default 0.0
            The multiple λ of the identity added to A; of either sign.
        x0 : symbolic vector, optional
            Where to start; default zero. Not used when b is zero.
        preconditioner : LinearOperator or callable, optional
            The product with M⁻¹, for a symmetric positive definite M near A + λI.

        Returns
        -------
        Solution
            With ``curvature`` and ``direction``.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.
        """
        system = make_system(A, b, damping, x0, preconditioner, self.check)
        initial = self._initial(system)
        limit = initial.pop("limit")
        final = while_loop(
            lambda state: self._round(system, limit, state),
            lambda state: pt.eq(state["status"], Status.RUNNING),
            initial,
            limit + 1 + _MAX_VERIFICATIONS,
        )
        return self._solution(system, final)

    def _tolerance(self, system: System) -> TensorVariable:
        """Return the residual norm to reach, in units of the scaled b."""
        return system.number(self.rtol) * system.b_norm + system.number(self.atol) / system.scale

    def _initial(self, system: System) -> dict[str, Any]:
        """Return the state before the first round."""
        b, x0 = system.b, system.x0
        limit = pt.cast(10 * system.size if self.maxiter is None else self.maxiter, "int64")
        z = b if system.precondition is None else system.precondition(b)
        rz = dot(b, z)
        status = system.verdict
        running = pt.eq(status, Status.RUNNING)
        if x0 is None:
            status = choose(running & (rz <= 0), Status.BAD_PRECONDITIONER, status)
            status = choose(running & pt.invert(pt.isfinite(rz)), Status.NOT_FINITE, status)
            status = choose(running & (system.b_norm <= self._tolerance(system)), Status.CONVERGED, status)
        nan = system.number(float("nan"))
        known = pt.eq(status, Status.ZERO_RHS) if x0 is not None else pt.neq(system.verdict, Status.NOT_FINITE)
        return {
            "x": system.start,
            "r": b,
            "p": z if x0 is None else pt.zeros_like(b),
            "rz": rz,
            "r_norm": pt.switch(known, system.b_norm, nan),
            "verified": system.number(float("inf")),
            "norm": system.number(0),
            "curvature": nan,
            "mode": pt.constant(_STEP if x0 is None else _START, dtype="int64"),
            "verdict": pt.constant(int(Status.RUNNING), dtype="int64"),
            "niter": pt.constant(0, dtype="int64"),
            "status": status,
            "limit": limit,
        }

    def _round(self, system: System, limit: TensorVariable, s: State) -> dict[str, Any]:
        """Make one product, and with it a step or a residual."""
        step, start = pt.eq(s["mode"], _STEP), pt.eq(s["mode"], _START)
        # A symbolic limit of 0 leaves nothing to step.
        idle = step & (s["niter"] >= limit)
        v = pt.switch(step, s["p"], s["x"])
        q = system.product(v)
        vq = dot(v, q)

        # Curvature along p. Both sums are over p when this is a step, and not looked at otherwise.
        pp = dot(v, v)
        curvature = vq / pp
        norm_estimate = pt.switch(step & pt.isfinite(vq), pt.maximum(s["norm"], abs(curvature)), s["norm"])
        flat = step & (curvature <= system.number(system.eps) * norm_estimate)
        advance = step & pt.isfinite(vq) & pt.invert(flat) & pt.invert(idle)

        # x + alpha p, and r - alpha q or, when v is x, b - q.
        alpha = pt.switch(advance, s["rz"] / vq, system.number(0))
        r = pt.switch(step, s["r"], system.b) - pt.switch(step, alpha, system.number(1)) * q
        z = r if system.precondition is None else system.precondition(r)
        rz = dot(r, z)
        r_norm = norm(r)
        finite = pt.isfinite(vq) & pt.isfinite(rz) & pt.isfinite(r_norm)
        alpha = pt.switch(finite, alpha, system.number(0))
        x = s["x"] + alpha * s["p"]
        niter = s["niter"] + pt.cast(step & pt.invert(idle), "int64")

        # What stops the steps, the weakest reason first.
        r_norm = pt.switch(finite & (advance | pt.invert(step)), r_norm, s["r_norm"])
        tolerance = self._tolerance(system)
        met = r_norm <= tolerance
        verdict = choose(niter >= limit, Status.MAX_ITERATIONS, pt.zeros_like(s["verdict"]))
        verdict = choose((rz <= 0) & (r_norm > 0) & pt.invert(flat), Status.BAD_PRECONDITIONER, verdict)
        verdict = choose(flat, Status.NEGATIVE_CURVATURE, verdict)
        # Below rounding level the recurrence tells nothing, so it ends there even with a tolerance of zero.
        floor = pt.switch(step, system.number(system.eps) * system.b_norm, system.number(0))
        verdict = choose(r_norm <= pt.maximum(tolerance, floor), Status.CONVERGED, verdict)

        # A residual of x itself settles it, unless the recurrence was ahead of it and there is still progress.
        verifying = pt.eq(s["mode"], _VERIFY)
        progress = (r_norm <= system.number(0.5) * s["verified"]) & (niter < limit) & (rz > 0)
        resume = verifying & pt.eq(s["verdict"], Status.CONVERGED) & pt.invert(met) & progress
        settled = choose(pt.eq(s["verdict"], Status.CONVERGED), Status.BREAKDOWN, s["verdict"])
        settled = choose((niter >= limit) & pt.eq(settled, Status.BREAKDOWN), Status.MAX_ITERATIONS, settled)
        settled = choose(met, Status.CONVERGED, settled)
        settled = pt.switch(resume, pt.zeros_like(settled), settled)
        verdict = pt.switch(verifying, settled, verdict)
        ended = pt.neq(verdict, Status.RUNNING)
        if self.recompute:
            ended = ended & pt.invert(step)
        status = pt.switch(ended, verdict, pt.zeros_like(s["status"]))
        status = choose(pt.invert(finite), Status.NOT_FINITE, status)
        mode = pt.switch(step & pt.neq(verdict, Status.RUNNING), _VERIFY, _STEP)

        # z + beta p, and z alone after a residual. A direction that ends the solve is kept.
        beta = pt.switch(step, rz / s["rz"], system.number(0))
        p = pt.switch(pt.neq(verdict, Status.RUNNING) & pt.invert(start), s["p"], z + beta * s["p"])
        return {
            "x": x,
            "r": r,
            "p": p,
            "rz": rz,
            "r_norm": r_norm,
            "verified": pt.switch(verifying, r_norm, s["verified"]),
            "norm": norm_estimate,
            "curvature": pt.switch(step & finite, curvature, s["curvature"]),
            "mode": mode,
            "verdict": verdict,
            "niter": niter,
            "status": status,
        }

    def _solution(self, system: System, final: State) -> Solution:
        """Scale the final state back and look whether rounding errors explain a residual that is too large."""
        x_norm, r_norm, status = norm(final["x"]), final["r_norm"], final["status"]
        eps = system.eps
        precise = r_norm <= system.number(10 * eps) * (final["norm"] * x_norm + system.b_norm)
        # A long x passes this also where it only follows a null vector; less so when the recurrence has converged.
        share = pt.switch(pt.eq(status, Status.BREAKDOWN), system.number(eps**0.25), system.number(eps**0.5))
        precise = precise & (r_norm <= share * system.b_norm)
        short = pt.eq(status, Status.BREAKDOWN) | pt.eq(status, Status.MAX_ITERATIONS)
        short = short | pt.eq(status, Status.NEGATIVE_CURVATURE)
        return Solution(
            x=final["x"] * system.scale,
            status=choose(short & precise, Status.CONVERGED_TO_PRECISION, status),
            niter=final["niter"],
            residual_norm=r_norm * system.scale,
            x_norm=x_norm * system.scale,
            norm_estimate=final["norm"],
            curvature=final["curvature"],
            direction=final["p"],
        )
