"""Residual smoothing: the iterate that CG returns where rounding errors or a null vector spoil x.

x̄ is the mean of the iterates x_j with weights 1 / (r_j·M⁻¹r_j), and r̄ that of their residuals. As
these are orthogonal in M⁻¹, r̄·M⁻¹r̄ = 1 / Σ 1 / (r_j·M⁻¹r_j), and x̄ is the iterate of MINRES, whose
residual is the least over the Krylov space (Zhou and Walker). It stays moderate where b is not in
the range of A, while x grows along a null vector without bound.
"""

from __future__ import annotations

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.solvers._hestenes_stiefel import Line
from symng.solvers._system import System, first_true, is_any
from symng.solvers.solution import Status

# The constants are empirical, and hold for the named systems of `tests/solvers/test_problems.py`.
# What rounding errors leave of a residual, at most: this times ε (norm(A) norm(x) + norm(b)).
_ROUNDING = 10.0
# p is a null vector only if norm(A p) is below this times √ε norm(A) norm(p).
_NULL_VECTOR = 10.0
# A residual that rounding errors explain counts as solved when it is below ε to this power times
# norm(b), too: an x that is long because it follows a null vector makes the errors look large. The
# recurrence has converged before a breakdown, so a weaker bound will do there.
_PRECISE, _PRECISE_AFTER_BREAKDOWN = 0.5, 0.25


def smoothing_weight(
    system: System,
    smoothed_rz: TensorVariable,
    rz: TensorVariable,
    Ax_bound: TensorVariable,
    advance: TensorVariable,
    start: TensorVariable,
) -> tuple[TensorVariable, TensorVariable]:
    """Return the weight of x in the next mean x̄, and r̄·M⁻¹r̄ of that mean.

    ``Ax_bound`` is norm(A) norm(x); an x so long that half the digits of A x are lost does not
    count.
    """
    zero, one = pt.zeros_like(rz), pt.ones_like(rz)
    counts = advance & (system.number(system.eps**0.5) * Ax_bound <= system.b_norm)
    weight = smoothed_rz / (smoothed_rz + rz)
    weight = pt.switch(start, one, pt.switch(counts, weight, zero))
    return weight, pt.switch(weight > 0, weight * rz, smoothed_rz)


def is_null(system: System, line: Line) -> TensorVariable:
    """Return whether p is a null vector of A.

    In an indefinite matrix a zero curvature may also be a balance of both signs: A p is large then.
    """
    bound = system.number(_NULL_VECTOR) * system.number(system.eps**0.5) * line.norm_A
    zero = abs(line.curvature) <= system.number(system.eps) * line.norm_A
    return zero & (line.qq <= pt.sqr(bound) * line.pp)


def is_precise(
    system: System, r_norm: TensorVariable, Ax_bound: TensorVariable, after_breakdown: bool = False
) -> TensorVariable:
    """Return whether rounding errors explain a residual that is well below norm(b)."""
    power = _PRECISE_AFTER_BREAKDOWN if after_breakdown else _PRECISE
    explained = r_norm <= system.number(_ROUNDING * system.eps) * (Ax_bound + system.b_norm)
    return explained & (r_norm <= system.number(system.eps**power) * system.b_norm)


def final_status(
    system: System, status: TensorVariable, r_norm: TensorVariable, Ax_bound: TensorVariable
) -> TensorVariable:
    """Return the verdict on the last x: rounding errors alone may explain its residual."""
    cut_short = is_any(status, Status.NEGATIVE_CURVATURE, Status.MAX_ITERATIONS)
    precise = cut_short & is_precise(system, r_norm, Ax_bound)
    halted = pt.eq(status, Status.BREAKDOWN)
    precise |= halted & is_precise(system, r_norm, Ax_bound, after_breakdown=True)
    return first_true((precise, Status.CONVERGED_TO_PRECISION), default=status)


def is_spoiled(
    system: System,
    pending: TensorVariable,
    claimed: TensorVariable,
    step: TensorVariable,
    niter: TensorVariable,
    r_norm: TensorVariable,
    Ax_bound: TensorVariable,
) -> TensorVariable:
    """Return whether a solve fails with an x that rounding errors have made worse than x = 0.

    An iteration limit is most often meant to cut the solve short. Then the last iterate is the
    solution, even where its residual is large: φ falls from each iterate to the next. But after n
    iterations only rounding errors keep a solve from converging.
    """
    worse = r_norm + system.number(_ROUNDING * system.eps) * Ax_bound > system.b_norm
    overdue = pt.eq(pending, Status.MAX_ITERATIONS) & (niter >= system.length) & step
    failed = is_any(pending, Status.MAX_ITERATIONS, Status.BREAKDOWN)
    return worse & (overdue | (failed & claimed))
