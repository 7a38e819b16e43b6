"""One round of the MINRES-QLP loop: a Lanczos step with its tests, or a product that verifies a solution.

The references and the user's side are in `minres_qlp`, the recurrences in `_qlp`.
"""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.loops import State, optimization_barrier, while_loop
from symng.solvers._qlp import hypot, qlp_step, reset, vector_weights
from symng.solvers._system import System, choose, dot, norm
from symng.solvers.solution import Status

# What a round of the loop multiplies: a Lanczos vector; x, for the residual of x0 or of a
# candidate; a residual.
_STEP, _START, _VERIFY, _LEAST_SQUARES = 0, 1, 2, 3
# Rounds that verify and then go on halve the residual, so there are few of them.
MAX_VERIFICATIONS = 100


class Run:
    """Hold the settings of one solve as scalars of its dtype, and its loop body."""

    def __init__(self, settings: Any, system: System) -> None:
        self.system, self.recompute = system, settings.recompute
        number, eps = system.number, system.eps
        single = system.b.dtype == "float32"
        self.zero, self.eps = number(0), number(eps)
        self.rtol = number((1e-5 if single else 1e-8) if settings.rtol is None else settings.rtol)
        self.atol = number(settings.atol) / system.scale
        limit = 10 * system.size if settings.maxiter is None else settings.maxiter
        self.limit = pt.cast(limit, "int64")
        self.max_norm = (
            None if settings.max_norm is None else number(settings.max_norm) / system.scale
        )
        # Pivots past this limit cannot be told from rounding errors, whatever the user allows.
        own_limit, given = number(0.03 / eps), settings.condition_limit
        self.condition_limit = own_limit if given is None else pt.minimum(number(given), own_limit)
        self.zero_pivots = pt.ge(self.condition_limit, own_limit)
        transition = settings.transition_condition
        self.transition = number((1e4 if single else 1e7) if transition is None else transition)
        # Pivots below this multiple of norm(A) are rounding errors of zero.
        self.pivot_tolerance = number(10 * eps)
        # norm(A r) / (norm(A) norm(r)) below this is nearly what lost orthogonality leaves of zero.
        # In float32 that is no less than a useful tolerance, so nothing is called stalled.
        self.stall, self.loose_stall = (
            (self.zero, self.zero) if single else (number(4e-11), number(1e-7))
        )
        y = self.precondition(system.b)
        self.by = dot(system.b, y)
        self.b_measure = pt.sqrt(pt.maximum(self.by, self.zero))
        self.y = y

    def precondition(self, r: TensorVariable) -> TensorVariable:
        """Return M⁻¹ r."""
        return r if self.system.precondition is None else self.system.precondition(r)

    def initial(self) -> State:
        """Return the state before the first round."""
        system, status = self.system, self.system.verdict
        running = pt.eq(status, Status.RUNNING)
        plain = system.x0 is None
        if plain:
            status = choose(running & (self.limit <= 0), Status.MAX_ITERATIONS, status)
            status = choose(
                running & (system.b_norm <= pt.maximum(self.rtol * system.b_norm, self.atol)),
                Status.CONVERGED,
                status,
            )
        status = choose(running & (self.by <= 0), Status.BAD_PRECONDITIONER, status)
        status = choose(running & pt.invert(pt.isfinite(self.by)), Status.NOT_FINITE, status)
        nan = system.number(float("nan"))
        known = (
            pt.neq(system.verdict, Status.NOT_FINITE) if plain else pt.eq(status, Status.ZERO_RHS)
        )
        state = {
            "x": system.start,
            "r1": pt.zeros_like(system.b),
            "r2": system.b,
            "w1": pt.zeros_like(system.b),
            "w2": pt.zeros_like(system.b),
            **reset(self.b_measure),
            "x_base": self.zero,
            "credit": self.zero,
            "lift": self.zero,
            "norm": self.zero,
            "smallest": system.number(float("inf")),
            "condition": system.number(1),
            "r_norm": pt.switch(known, system.b_norm, nan),
            "ls_norm": pt.switch(pt.eq(status, Status.ZERO_RHS), self.zero, nan),
            "verified": system.number(float("inf")),
            "ls_verified": system.number(float("inf")),
            "qlp": pt.cast(self.transition <= 1, "int64"),
            "mode": pt.constant(_STEP if plain else _START, dtype="int64"),
            "verdict": pt.constant(int(Status.RUNNING), dtype="int64"),
            "niter": pt.constant(0, dtype="int64"),
            "status": status,
        }
        if system.precondition is not None:
            state["y"] = self.y
        return state

    def loop(self, s: State) -> State:
        """Run the rounds. Where nothing is verified, all rounds of the loop are steps, which saves passes over vectors.

        The residual of x0, if there is one, is then a round ahead of the loop.
        """
        mode = None
        if not self.recompute:
            if self.system.x0 is not None:
                started, running = self.round(s, _START), pt.eq(s["status"], Status.RUNNING)
                s = {name: pt.switch(running, started[name], s[name]) for name in s}
            mode = _STEP
        return while_loop(
            lambda state: self.round(state, mode),
            lambda state: pt.eq(state["status"], Status.RUNNING),
            s,
            self.limit + 1 + MAX_VERIFICATIONS,
        )

    def round(self, s: State, mode: int | None = None) -> dict[str, Any]:
        """Make one product: with a Lanczos vector, or with x or a residual to verify a solution.

        ``mode`` tells which, where it is known while the graph is built.
        """
        zero, one = self.zero, pt.ones_like(self.zero)
        if mode is not None:
            s = {**s, "mode": pt.constant(mode, dtype="int64")}  # the switches on it then fold
        step, final = pt.eq(s["mode"], _STEP), pt.eq(s["mode"], _LEAST_SQUARES)
        of_x = pt.eq(s["mode"], _START) | pt.eq(s["mode"], _VERIFY)
        r2, y = s["r2"], s.get("y", s["r2"])

        # v = y / β_k, or x, or y.
        shrink = pt.switch(step, one / s["beta"], one)
        v = optimization_barrier(pt.switch(of_x, s["x"], shrink * y))
        product = self.system.product(v)
        # A v_k - (β_k / β_{k-1}) r1, whose product with v_k is α_k; or b - A x; or A y.
        back = pt.switch(step & (s["beta_old"] > 0), s["beta"] / s["beta_old"], zero)
        q = pt.switch(of_x, self.system.b - product, product - back * s["r1"])
        alpha = dot(v, q)
        # r_{k+1} = ... - (α_k / β_k) r2; or b - A x; or the residual r + θ A y of x - θ y.
        ls = self._least_squares(s, q, alpha)
        r = (
            pt.switch(final, ls["lift"], one) * q
            + pt.switch(of_x, zero, pt.switch(step, -alpha / s["beta"], one)) * r2
        )
        next_y = self.precondition(r)
        ry = dot(r, next_y)
        beta = pt.sqrt(pt.maximum(ry, zero))
        finite = pt.isfinite(alpha) & pt.isfinite(ry)

        stepped, n = self._step(s, step, alpha, beta, ry, finite)
        measured = self._measure(s, of_x, v, ls, r, alpha, beta, ry)
        out = {name: pt.switch(step, stepped[name], measured[name]) for name in measured}
        out["status"] = choose(pt.invert(finite), Status.NOT_FINITE, out["status"])
        out["norm"], out["smallest"], out["condition"] = (
            stepped["norm"],
            stepped["smallest"],
            stepped["condition"],
        )

        # Where a solve goes on from a residual, the process starts anew, on that residual.
        fresh = reset(beta)
        for name in fresh:
            value = pt.switch(stepped["advance"], n[name], s[name])
            out[name] = pt.switch(step, value, fresh[name])
        (a1, a2, a3), (b1, b2, b3), (x1, x2, x3) = vector_weights(
            s, n, pt.neq(s["qlp"], 0), pt.neq(stepped["qlp"], 0), stepped["advance"], stepped["end"]
        )
        x1 = pt.switch(final & finite, -ls["lift"], x1)
        w1, w2 = s["w1"], s["w2"]
        out["w1"] = a1 * v + a2 * w1 + a3 * w2
        out["w2"] = b1 * v + b2 * w1 + b3 * w2
        out["x"] = s["x"] + (x1 * v + x2 * w1 + x3 * w2)
        out["r1"], out["r2"] = r2, r
        out["qlp"] = stepped["qlp"]
        if "y" in s:
            out["y"] = next_y
        return {name: out[name] for name in s}

    def _step(
        self, s: State, step: Any, alpha: Any, beta: Any, ry: Any, finite: Any
    ) -> tuple[dict[str, Any], Any]:
        """Make the scalar part of step k and decide whether x_k is taken and whether the steps end."""
        # The norm of column k of the Lanczos matrix, which does not hold β_1 = norm(b).
        column = hypot(pt.switch(s["beta_old"] > 0, s["beta"], self.zero), alpha, beta)
        norm_estimate = pt.maximum(s["norm"], column)
        before = norm_estimate * hypot(s["chi"], s["x_base"]) + self.b_measure
        # A first pivot that is but a rounding error would lengthen x along a null vector.
        noise = pt.eq(s["beta_old"], 0) & (abs(alpha) <= self.pivot_tolerance * norm_estimate)
        alpha = pt.switch(noise, self.zero, alpha)
        # After a claim that x did not bear out, a better one is wanted.
        ls_rtol = pt.minimum(self.rtol, self.system.number(0.1) * s["ls_verified"] / norm_estimate)
        n = qlp_step(
            s, alpha, beta, norm_estimate, self.condition_limit, ls_rtol, self.rtol * before
        )

        # Final pivots are kept for good; those that may still change only count for now.
        inf, half = self.system.number(float("inf")), self.system.number(0.5)
        smallest = pt.minimum(s["smallest"], pt.switch(n["pivot3"] > 0, n["pivot3"], inf))
        least = smallest
        for pivot in (n["pivot2"], abs(n["pivot1"])):
            least = pt.minimum(least, pt.switch(pivot > 0, pivot, inf))
        condition = pt.maximum(norm_estimate / least, pt.ones_like(least))
        qlp = (
            n["truncated"]
            | (condition >= self.transition)
            | (norm_estimate >= self.transition * n["gamma2"])
        )

        niter = s["niter"] + 1
        # Once x_{k-1} solves the least-squares problem, or while x grows along a null vector and so
        # the last pivot is far below that measure, a longer x must not pass just because it is
        # long.
        ls_met = n["root"] <= ls_rtol * norm_estimate
        ls_precise = n["root"] <= self.pivot_tolerance * norm_estimate
        # All but a least-squares solution, and no progress: time for another start, with a residual
        # computed anew.
        slow = n["phi"] > half * s["phi"]
        growing = slow & (abs(n["pivot1"]) <= self.system.number(0.01) * n["root"])
        stall = pt.switch(growing, self.loose_stall, self.stall) * norm_estimate
        stalled = slow & (n["root"] <= pt.minimum(stall, half * s["ls_verified"]))
        if not self.recompute or self.system.precondition is not None:
            stalled = pt.zeros_like(stalled)
        credit = pt.switch(
            ls_met | ls_precise | growing, pt.minimum(n["chi"], s["credit"]), n["chi"]
        )
        size = norm_estimate * hypot(credit, s["x_base"]) + self.b_measure
        met = (n["residual"] <= self.rtol * size) | (n["residual"] <= self.atol)
        precise = n["residual"] <= self.eps * size
        if self.max_norm is None:
            too_long = n["chi"] * norm_estimate * self.eps >= self.b_measure
        else:
            too_long = hypot(n["chi"], s["x_base"]) > self.max_norm

        # The weakest reason first.
        verdict = choose(niter >= self.limit, Status.MAX_ITERATIONS, pt.zeros_like(s["verdict"]))
        verdict = choose(beta <= self.eps * norm_estimate, Status.BREAKDOWN, verdict)
        verdict = choose(stalled, Status.BREAKDOWN, verdict)
        verdict = choose(n["truncated"], Status.CONDITION_LIMIT, verdict)
        verdict = choose(too_long, Status.NORM_LIMIT, verdict)
        verdict = choose(ls_precise, Status.LEAST_SQUARES_TO_PRECISION, verdict)
        verdict = choose(ls_met, Status.LEAST_SQUARES, verdict)
        verdict = choose(precise, Status.CONVERGED_TO_PRECISION, verdict)
        verdict = choose(met, Status.CONVERGED, verdict)
        verdict = choose(ry < 0, Status.BAD_PRECONDITIONER, verdict)
        verdict = choose(pt.invert(finite), Status.NOT_FINITE, verdict)
        # x_k is x_{k-1} with a zero pivot left out, a shorter least-squares solution, or x_{k-1}
        # stays.
        least_squares = pt.eq(verdict, Status.LEAST_SQUARES) | pt.eq(
            verdict, Status.LEAST_SQUARES_TO_PRECISION
        )
        # As that measure is not monotone, x_{k-1} is the one to hand back.
        refuse = least_squares | (verdict >= Status.NOT_FINITE)
        if not self.recompute:
            refuse = refuse & pt.invert(least_squares & n["truncated"])
        refuse = (
            refuse
            | pt.eq(verdict, Status.NORM_LIMIT)
            | (stalled & pt.eq(verdict, Status.BREAKDOWN))
        )
        advance = step & pt.invert(refuse)
        end = step & pt.neq(verdict, Status.RUNNING)

        keep = step & finite
        was_qlp = pt.neq(s["qlp"], 0)
        return {
            "advance": advance,
            "end": end,
            "norm": pt.switch(keep, norm_estimate, s["norm"]),
            "smallest": pt.switch(keep, smallest, s["smallest"]),
            "condition": pt.switch(keep, condition, s["condition"]),
            "qlp": pt.cast(was_qlp | (advance & qlp), "int64"),
            "niter": niter,
            "mode": pt.switch(end, _VERIFY, _STEP),
            "verdict": verdict,
            "status": pt.zeros_like(verdict) if self.recompute else verdict,
            "r_norm": pt.switch(advance, n["residual"], s["phi"]),
            "ls_norm": pt.switch(finite, s["phi"] * n["root"], s["ls_norm"]),
            "x_base": s["x_base"],
            "credit": credit,
            "lift": s["lift"],
            "verified": s["verified"],
            "ls_verified": s["ls_verified"],
        }, n

    def _least_squares(self, s: State, q: Any, rq: Any) -> dict[str, Any]:
        """Judge q = A r of a candidate that does not pass the test of the residual r, and say how much of r x loses."""
        number, pending, more = self.system.number, s["verdict"], s["niter"] < self.limit
        ls_norm, size = norm(q), s["norm"] * s["x_base"] + self.b_measure
        root = ls_norm / s["r_norm"]
        # What rounding errors in b - A x leave of it; and what those of the whole solve may, once
        # the recurrence or a pivot that is all but zero has called the system inconsistent.
        rounding = number(10 * self.system.eps) * size / s["r_norm"]
        slack = pt.maximum(rounding, number(20 * self.system.eps**0.5))
        claimed = pt.eq(pending, Status.LEAST_SQUARES) | pt.eq(
            pending, Status.LEAST_SQUARES_TO_PRECISION
        )
        inconsistent = claimed | (self.zero_pivots & pt.eq(pending, Status.CONDITION_LIMIT))
        # r is all but a null vector, and is taken out of x, unless it is too far from one: then x
        # is not fit.
        fit = abs(s["lift"]) * ls_norm <= number(0.5) * s["r_norm"]
        if self.system.precondition is None:
            met, precise = root <= self.rtol * s["norm"], inconsistent & (root <= slack * s["norm"])
            # r.Ar / r.r tells a small eigenvalue from what r holds of the other vectors, which
            # enters it squared.
            quotient, others = abs(rq) / pt.sqr(s["r_norm"]), pt.minimum(s["smallest"], s["norm"])
            null = (quotient <= self.pivot_tolerance * s["norm"]) | (
                quotient * others <= number(10) * pt.sqr(root)
            )
            fit = fit & null & (s["r_norm"] <= number(1.01) * self.system.b_norm)
        else:
            # Here the norms are not those of the test, so the recurrence is believed.
            met, precise = pt.eq(pending, Status.LEAST_SQUARES), inconsistent
        met, precise = met & fit, precise & fit
        # A claim that x does not bear out gets another start from there as long as that pays.
        again = (claimed & (root > rounding * s["norm"])) | (inconsistent & pt.invert(precise))
        again = again | pt.eq(pending, Status.BREAKDOWN)
        again = again & pt.invert(met) & more & (root <= number(0.5) * s["ls_verified"])

        verdict = pt.switch(pending < Status.MAX_ITERATIONS, int(Status.BREAKDOWN), pending)
        verdict = choose(
            pt.eq(verdict, Status.BREAKDOWN) & pt.invert(more), Status.MAX_ITERATIONS, verdict
        )
        verdict = choose(precise, Status.LEAST_SQUARES_TO_PRECISION, verdict)
        verdict = choose(met, Status.LEAST_SQUARES, verdict)
        verdict = choose(again, Status.RUNNING, verdict)
        # Another start after a halt is made without the null vector, too: there x would only grow
        # along it again.
        halted = pt.eq(pending, Status.BREAKDOWN) & fit & (root <= slack * s["norm"])
        lift = pt.switch(pt.switch(again, halted, met | precise), s["lift"], self.zero)
        return {"norm": ls_norm, "root": root, "verdict": verdict, "lift": lift}

    def _measure(
        self, s: State, of_x: Any, v: Any, ls: Any, r: Any, vr: Any, beta: Any, ry: Any
    ) -> dict[str, Any]:
        """Judge a residual of x (at the start or at the end), or A r at a least-squares solution."""
        plain = self.system.precondition is None
        start, verify = pt.eq(s["mode"], _START), pt.eq(s["mode"], _VERIFY)
        r_norm = beta if plain else norm(r)
        x_norm = norm(v) if plain else pt.switch(start, self.zero, hypot(s["chi"], s["x_base"]))
        x_norm = pt.switch(of_x, x_norm, s["x_base"])
        credit = pt.minimum(x_norm, hypot(s["credit"], s["x_base"]) * self.system.number(1.5))
        size = s["norm"] * pt.switch(verify, credit, x_norm) + self.b_measure
        met = (beta <= self.rtol * size) | (r_norm <= self.atol)
        precise = beta <= self.system.number(10) * self.eps * size
        pending = s["verdict"]
        more = s["niter"] < self.limit

        # A residual of x. What the recurrence called converged goes on from there as long as that
        # pays.
        claimed = pt.eq(pending, Status.CONVERGED) | pt.eq(pending, Status.CONVERGED_TO_PRECISION)
        halved = beta <= self.system.number(0.5) * s["verified"]
        resume = verify & claimed & pt.invert(precise) & halved & more
        found = choose(verify & precise, Status.CONVERGED_TO_PRECISION, pt.zeros_like(pending))
        found = choose(start & pt.invert(more), Status.MAX_ITERATIONS, found)
        found = choose((ry <= 0) & (r_norm > 0), Status.BAD_PRECONDITIONER, found)
        found = choose(met, Status.CONVERGED, found)
        look = verify & pt.eq(found, Status.RUNNING) & pt.invert(resume)

        verdict = pt.switch(of_x, found, ls["verdict"])
        return {
            "niter": s["niter"],
            "mode": pt.switch(look, _LEAST_SQUARES, _STEP),
            "verdict": pt.switch(look, pending, verdict),
            "status": verdict,
            "r_norm": r_norm,
            "ls_norm": pt.switch(of_x, s["ls_norm"], ls["norm"]),
            "x_base": x_norm,
            "credit": pt.switch(of_x, self.zero, s["credit"]),
            # θ = x.r / r.y makes x - θ y orthogonal, in the norm of M, to the null vector y.
            "lift": pt.switch(of_x & (ry > 0), vr / ry, self.zero),
            "verified": pt.switch(verify, beta, s["verified"]),
            "ls_verified": pt.switch(of_x, s["ls_verified"], ls["root"]),
        }
