"""One round of the CG loop: a step with its tests, or a product with x that gives its residual.

The references and the user's side are in `cg`.
"""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.loops import State, while_loop
from symng.solvers._system import System, choose, dot, norm
from symng.solvers.solution import Solution, Status

# What a round of the loop multiplies: the direction, or x (the residual of x0, the residual of a
# candidate solution).
_STEP, _START, _VERIFY = 0, 1, 2
# Rounds that verify and then go on halve the residual, so there are few of them.
_MAX_VERIFICATIONS = 80
# How many values of φ the test of its progress looks back over at most.
HISTORY = 128


class Run:
    """Hold the settings of one solve as scalars of its dtype, and its loop body."""

    def __init__(self, settings: Any, system: System, kept: list[int] | None) -> None:
        self.system, self.recompute, self.kept = system, settings.recompute, kept
        number = system.number
        self.zero, self.eps, self.root_eps = number(0), number(system.eps), number(system.eps**0.5)
        # The residual norm to reach, in units of the scaled b.
        self.tolerance = (
            number(settings.rtol) * system.b_norm + number(settings.atol) / system.scale
        )
        self.limit = pt.cast(
            10 * system.size if settings.maxiter is None else settings.maxiter, "int64"
        )
        # Then a residual is never computed anew, which spares the loop what that takes.
        self.steps_only = (
            not settings.recompute and system.x0 is None and system.precondition is None
        )
        self.progress_rtol = (
            None if settings.progress_rtol is None else number(settings.progress_rtol)
        )

    def precondition(self, r: TensorVariable) -> TensorVariable:
        """Return M⁻¹ r."""
        return r if self.system.precondition is None else self.system.precondition(r)

    def initial(self) -> State:
        """Return the state before the first round."""
        system, b = self.system, self.system.b
        plain = system.x0 is None
        # Where there is a residual of x0 to begin with, that round makes the first z.
        z = self.precondition(b) if plain else system.start
        rz = dot(b, z)
        status = system.verdict
        running = pt.eq(status, Status.RUNNING)
        if plain:
            status = choose(running & (rz <= 0), Status.BAD_PRECONDITIONER, status)
            status = choose(running & pt.invert(pt.isfinite(rz)), Status.NOT_FINITE, status)
            status = choose(running & (system.b_norm <= self.tolerance), Status.CONVERGED, status)
        nan = system.number(float("nan"))
        known = (
            pt.neq(system.verdict, Status.NOT_FINITE) if plain else pt.eq(status, Status.ZERO_RHS)
        )
        state = {
            "x": system.start,
            "r": b,
            "p": z,
            "rz": rz,
            "smooth": system.start,
            "smooth_rz": rz,
            "r_norm": pt.switch(known, system.b_norm, nan),
            "verified": system.number(float("inf")),
            "norm": self.zero,
            "xx": self.zero,
            "curvature": nan,
            "mode": pt.constant(_STEP if plain else _START, dtype="int64"),
            "verdict": pt.constant(int(Status.RUNNING), dtype="int64"),
            "niter": pt.constant(0, dtype="int64"),
            "status": status,
        }
        if self.progress_rtol is not None:
            state["phi"] = pt.zeros((HISTORY,), dtype=b.dtype)
        if self.kept is not None:
            state["iterates"] = pt.zeros((len(self.kept), system.size), dtype=b.dtype)[0].set(
                system.start
            )
        return state

    def loop(self, state: State) -> State:
        """Run the rounds."""
        limit = self.limit + 1 + _MAX_VERIFICATIONS
        return while_loop(self.round, lambda s: pt.eq(s["status"], Status.RUNNING), state, limit)

    def round(self, s: State) -> dict[str, Any]:
        """Make one product, and with it a step or a residual."""
        system, zero, one, two = (
            self.system,
            self.zero,
            self.system.number(1),
            self.system.number(2),
        )
        if self.steps_only:
            s = {**s, "mode": pt.constant(_STEP, dtype="int64")}  # the switches on it then fold
        step, start, verifying = (pt.eq(s["mode"], mode) for mode in (_STEP, _START, _VERIFY))
        # A symbolic limit of 0 leaves nothing to step.
        idle = step & (s["niter"] >= self.limit)
        # The direction of a step, or x where its residual is wanted.
        v = s["p"]
        q = system.product(v)
        vq = dot(v, q)

        # Curvature along p. All sums are over p when this is a step, and not looked at otherwise.
        pp, qq = dot(v, v), dot(q, q)
        curvature = vq / pp
        # norm(A p) / norm(p) is the better bound of norm(A), where its square does not overflow.
        stretch = pt.maximum(abs(curvature), pt.switch(pt.isfinite(qq), pt.sqrt(qq / pp), zero))
        norm_estimate = pt.switch(step & pt.isfinite(vq), pt.maximum(s["norm"], stretch), s["norm"])
        flat = step & (curvature <= self.eps * norm_estimate)
        advance = step & pt.isfinite(vq) & pt.invert(flat) & pt.invert(idle)

        # r - alpha q or, when v is x, b - q.
        alpha = pt.switch(advance, s["rz"] / vq, zero)
        if self.steps_only:
            r = s["r"] - alpha * q
        else:
            of_r, of_b = pt.switch(step, one, zero), pt.switch(step, zero, one)
            r = of_r * s["r"] + of_b * system.b - pt.switch(step, alpha, one) * q
        z = self.precondition(r)
        rz, r_norm = dot(r, z), norm(r)
        finite = pt.isfinite(vq) & pt.isfinite(rz) & pt.isfinite(r_norm)
        alpha = pt.switch(finite, alpha, zero)
        niter = s["niter"] + pt.cast(step & pt.invert(idle), "int64")
        r_norm = pt.switch(finite & (advance | pt.invert(step)), r_norm, s["r_norm"])
        # norm(x + alpha p)², so that x is passed over but once.
        longer = s["xx"] + (two * dot(s["x"], v) + alpha * pp) * alpha
        xx = pt.switch(step, pt.switch(finite, pt.maximum(longer, zero), s["xx"]), pp)
        size = norm_estimate * pt.sqrt(xx)

        # What stops the steps, the weakest reason first.
        met = r_norm <= self.tolerance
        verdict = choose(niter >= self.limit, Status.MAX_ITERATIONS, pt.zeros_like(s["verdict"]))
        if self.progress_rtol is not None:
            phi, slow = self._progress(s, alpha, r, niter, advance)
            verdict = choose(slow, Status.SMALL_PROGRESS, verdict)
        verdict = choose(
            (rz <= 0) & (r_norm > 0) & pt.invert(flat), Status.BAD_PRECONDITIONER, verdict
        )
        verdict = choose(flat, Status.NEGATIVE_CURVATURE, verdict)
        # Below rounding level the recurrence tells nothing, so it ends there even with a tolerance
        # of zero.
        floor = pt.switch(step, self.eps * system.b_norm, zero)
        verdict = choose(r_norm <= pt.maximum(self.tolerance, floor), Status.CONVERGED, verdict)

        # A residual of x itself settles it, unless the recurrence was ahead of it and there is
        # still progress.
        claimed = verifying & pt.eq(s["verdict"], Status.CONVERGED)
        progress = (r_norm <= system.number(0.5) * s["verified"]) & (niter < self.limit) & (rz > 0)
        resume = claimed & pt.invert(met) & progress
        settled = choose(claimed, Status.BREAKDOWN, s["verdict"])
        settled = choose(
            (niter >= self.limit) & pt.eq(settled, Status.BREAKDOWN), Status.MAX_ITERATIONS, settled
        )
        settled = choose(met, Status.CONVERGED, settled)
        settled = pt.switch(resume, pt.zeros_like(settled), settled)
        verdict = pt.switch(verifying, settled, verdict)
        stop = pt.neq(verdict, Status.RUNNING)

        # Where x is lost, x̄ takes its place, and is verified. If p is a null vector, b is not in
        # the range of A, and x as long as rounding errors let it be. That p is a multiple of M⁻¹r̄,
        # and x̄ is shorter without it (Liu, Milzarek and Roosta). In an indefinite matrix a
        # curvature of zero may also be a balance of both signs; then A p is not small.
        null = flat & (abs(curvature) <= self.eps * norm_estimate)
        null = null & (qq <= pt.sqr(system.number(10) * self.root_eps * norm_estimate) * pp)
        null = null & pt.invert(self._is_precise(size, r_norm, 0.5))
        lift = pt.switch(null, dot(v, s["smooth"]) / pp, zero)
        # An iteration limit is most often meant to cut the solve short. Then the last iterate is
        # wanted: φ falls from each iterate to the next, also where the residual grows. But after n
        # iterations nothing but rounding errors keep a solve from its end, and a residual above
        # norm(b) tells that they have taken over.
        useless = r_norm + system.number(10) * self.eps * size > system.b_norm
        overdue = pt.eq(verdict, Status.MAX_ITERATIONS) & (niter >= system.size) & step
        failed = pt.eq(verdict, Status.MAX_ITERATIONS) | pt.eq(verdict, Status.BREAKDOWN)
        fallen = finite & (null | (useless & (overdue | (failed & claimed))))
        share, smooth_rz = self._share(s, start & finite, advance & finite, rz, size)
        if self.steps_only:
            ended = stop
            r_norm = pt.switch(fallen, pt.sqrt(smooth_rz), r_norm)
        else:
            ended = stop & pt.invert(fallen)
        if self.recompute:
            ended = ended & pt.invert(step)
        status = pt.switch(ended, verdict, pt.zeros_like(s["status"]))
        status = choose(pt.invert(finite), Status.NOT_FINITE, status)
        verify = (step & stop) | fallen
        mode = pt.switch(verify, _VERIFY, _STEP)

        # x + alpha p, or x̄ less p; x̄ with x taken into the mean; z + beta p, z alone after a
        # residual, or x where that is multiplied next. The direction that a solve ends at takes the
        # place of x̄, which is not needed any more. As sums with weights these are one pass over
        # the vectors.
        stay, taken = pt.switch(fallen, zero, one), pt.switch(fallen, one, zero)
        x = stay * s["x"] + pt.switch(fallen, -lift, alpha) * v + taken * s["smooth"]
        kept, share = pt.switch(flat, zero, one - share), pt.switch(flat, zero, share)
        smooth = kept * s["smooth"] + share * x + pt.switch(flat, one, zero) * v
        if self.steps_only:
            p = z + rz / s["rz"] * v
        else:
            beta = pt.switch(step & pt.invert(verify), rz / s["rz"], zero)
            p = pt.switch(verify, zero, one) * z + beta * v + pt.switch(verify, one, zero) * x
        out = {
            "x": x,
            "r": r,
            "p": p,
            "rz": rz,
            "smooth": smooth,
            "smooth_rz": smooth_rz,
            "r_norm": r_norm,
            "verified": pt.switch(verifying, r_norm, s["verified"]),
            "norm": norm_estimate,
            "xx": xx,
            "curvature": pt.switch(step & finite, curvature, s["curvature"]),
            "mode": mode,
            "verdict": verdict,
            "niter": niter,
            "status": status,
        }
        if self.progress_rtol is not None:
            out["phi"] = phi
        if self.kept is not None:
            out["iterates"] = s["iterates"][self._row(niter)].set(x)
        return out

    def _share(self, s: State, start: Any, advance: Any, rz: Any, size: Any) -> tuple[Any, Any]:
        """Return the share of x in the mean x̄ that takes it in, and r̄·M⁻¹r̄ of that.

        x̄ is the mean of the iterates x_j with weights 1 / (r_j·M⁻¹r_j), and r̄ that of their
        residuals. As these are orthogonal in M⁻¹, r̄·M⁻¹r̄ = 1 / Σ 1 / (r_j·M⁻¹r_j), and x̄ is the
        iterate of MINRES, whose residual is the least over the Krylov space (Zhou and Walker). It
        stays moderate where b is not in the range of A, while x grows along a null vector without
        bound. An x so long that half the digits of A x are lost no longer counts.
        """
        counts = advance & (self.root_eps * size <= self.system.b_norm)
        share = s["smooth_rz"] / (s["smooth_rz"] + rz)
        share = pt.switch(start, pt.ones_like(rz), pt.switch(counts, share, self.zero))
        return share, pt.switch(share > 0, share * rz, s["smooth_rz"])

    def _progress(self, s: State, alpha: Any, r: Any, niter: Any, advance: Any) -> tuple[Any, Any]:
        """Return the last values of φ with that of x, and whether φ has all but stopped to fall (Martens, 4.4)."""
        number = self.system.number
        # φ = x·(A + λI)x / 2 - b·x with (A + λI)x = b - r, at x + alpha p.
        total = self.system.b + r
        phi = number(-0.5) * (dot(s["x"], total) + alpha * dot(s["p"], total))
        # max(10, ceil(niter / 10)), as far back as the memory goes.
        k = pt.clip((niter + 9) // 10, 10, HISTORY)
        before, here = s["phi"][(niter - k) % HISTORY], niter % HISTORY
        slow = (niter > k) & (phi < 0) & ((phi - before) / phi < number(k) * self.progress_rtol)
        return s["phi"][here].set(pt.switch(advance, phi, s["phi"][here])), advance & slow

    def _row(self, niter: TensorVariable) -> TensorVariable:
        """Return the row of the matrix of iterates for number ``niter``: that of the next number to keep."""
        return pt.sum(pt.lt(pt.constant(self.kept, dtype="int64"), niter), dtype="int64")

    def _is_precise(self, size: Any, r_norm: Any, power: float) -> TensorVariable:
        """Tell whether the residual is what rounding errors leave, and below ε^power norm(b).

        A long x passes the first test also where it only follows a null vector.
        """
        number, eps, b_norm = self.system.number, self.system.eps, self.system.b_norm
        return (r_norm <= number(10 * eps) * (size + b_norm)) & (
            r_norm <= number(eps**power) * b_norm
        )

    def solution(self, final: State) -> Solution:
        """Scale the final state back and look whether rounding errors explain a residual that is too large."""
        scale, status, r_norm, x_norm = (
            self.system.scale,
            final["status"],
            final["r_norm"],
            norm(final["x"]),
        )
        size = final["norm"] * x_norm
        short = pt.eq(status, Status.MAX_ITERATIONS) | pt.eq(status, Status.NEGATIVE_CURVATURE)
        precise = short & self._is_precise(size, r_norm, 0.5)
        # The recurrence has converged before a breakdown, so x does not only follow a null vector.
        precise = precise | (pt.eq(status, Status.BREAKDOWN) & self._is_precise(size, r_norm, 0.25))
        iterates = final.get("iterates")
        return Solution(
            x=final["x"] * scale,
            status=choose(precise, Status.CONVERGED_TO_PRECISION, status),
            niter=final["niter"],
            residual_norm=r_norm * scale,
            x_norm=x_norm * scale,
            norm_estimate=final["norm"],
            curvature=final["curvature"],
            direction=pt.switch(
                pt.eq(status, Status.NEGATIVE_CURVATURE), final["smooth"], self.zero
            ),
            iterates=None if iterates is None else iterates * scale,
            iterates_count=None if iterates is None else self._row(final["niter"]) + 1,
            # Of x̄ the residual is not known where no product is made for it.
            residual=None if self.steps_only else final["r"] * scale,
        )
