"""The recurrence of conjugate gradients, as Hestenes and Stiefel give it.

With a residual r = b - A x, z = M⁻¹r and a direction p, each step is

    q = A p,  α = r·z / p·q,  x <- x + α p,  r <- r - α q,  p <- M⁻¹r + (r·M⁻¹r / r_old·z_old) p.

A round of the loop may also multiply x: then p is x, and r <- b - q is made anew, and p <- M⁻¹r.
"""

from __future__ import annotations

from typing import NamedTuple

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.solvers._system import System, dot, where


class Line(NamedTuple):
    """What the product q = A p says of φ along x + α p."""

    p: TensorVariable
    q: TensorVariable
    pp: TensorVariable  # p·p
    pq: TensorVariable  # p·q
    qq: TensorVariable  # q·q
    curvature: TensorVariable  # p·q / p·p
    norm_A: TensorVariable  # the estimate of norm(A) with this product taken in
    flat: TensorVariable  # whether the curvature is negative, or zero up to rounding


def multiply(
    system: System, p: TensorVariable, norm_A: TensorVariable, step: TensorVariable
) -> Line:
    """Return the product with p; it counts for norm(A) and ``flat`` only in a ``step``."""
    q = system.product(p)
    pp, pq, qq = dot(p, p), dot(p, q), dot(q, q)
    curvature = pq / pp
    # norm(A p) / norm(p) is the better bound of norm(A), where norm(A p)^2 does not overflow.
    zero = pt.zeros_like(pq)
    ratio = pt.sqrt(qq) / pt.sqrt(pp)  # qq / pp may overflow first
    stretch = pt.maximum(abs(curvature), pt.switch(pt.isfinite(qq), ratio, zero))
    norm_A = pt.switch(step & pt.isfinite(pq), pt.maximum(norm_A, stretch), norm_A)
    flat = step & (curvature <= system.number(system.eps) * norm_A)
    return Line(p, q, pp, pq, qq, curvature, norm_A, flat)


def next_iterate(
    system: System,
    line: Line,
    alpha: TensorVariable,
    x: TensorVariable,
    r: TensorVariable,
    rz: TensorVariable,
    step: TensorVariable,
) -> tuple[TensorVariable, TensorVariable, TensorVariable, TensorVariable]:
    """Return the next x, r, r·M⁻¹r and p."""
    x = x + alpha * line.p
    r = where(step, r - alpha * line.q, system.b - line.q)
    z = system.invert_preconditioner(r)
    next_rz = dot(r, z)
    p = z + where(step, next_rz / rz, pt.zeros_like(rz)) * line.p
    return x, r, next_rz, p


def squared_norm(
    system: System, line: Line, alpha: TensorVariable, x: TensorVariable, xx: TensorVariable
) -> TensorVariable:
    """Return norm(x + α p)² for xx = norm(x)², by x·p, which saves a pass over the new x."""
    growth = (system.number(2) * dot(x, line.p) + alpha * line.pp) * alpha
    return pt.maximum(xx + growth, pt.zeros_like(xx))
