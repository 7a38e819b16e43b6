"""The estimates that the original solvers made of norm(A) and of the condition number.

Those of MINRES-QLP take β_{k-1} for β_k, so norm(b) enters norm(A) at the second step. MINRES takes
the condition number from the lengths of its directions. With ``quirks=True`` they are what is
reported.
"""

from __future__ import annotations

from typing import NamedTuple

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.loops import while_loop
from symng.solvers import Solution


class _Scalars(NamedTuple):
    """What one step of the recurrences hands to the next, in the names of the paper."""

    k: TensorVariable
    beta_before: TensorVariable  # β_{k-1}
    beta: TensorVariable  # β_k
    c: TensorVariable  # the last left reflection
    s: TensorVariable
    delta: TensorVariable
    epsilon: TensorVariable
    theta: TensorVariable
    pivot2: TensorVariable
    pivot1: TensorVariable
    norm: TensorVariable  # the estimate of norm(A)
    least_before: TensorVariable  # the smallest pivot, after k - 2 steps and after k - 1
    least: TensorVariable
    relative_Ar: TensorVariable  # norm(A r_{k-1}) / norm(r_{k-1})
    direction2: TensorVariable  # MINRES's d_{k-1} and d_k, in the Lanczos vectors
    direction1: TensorVariable
    directions: TensorVariable  # the sum of their squares


class Estimates(NamedTuple):
    """The original's numbers at the last step."""

    norm: TensorVariable
    condition: TensorVariable
    relative_Ar: TensorVariable
    directions_norm: TensorVariable  # the Frobenius norm of all directions of MINRES


def original_estimates(solution: Solution, b_norm: TensorVariable) -> Estimates:
    """Return the estimates of the original from the Lanczos matrix of a solve."""
    T = solution.tridiagonal
    assert T is not None
    zero, one = pt.zeros_like(b_norm), pt.ones_like(b_norm)
    initial = _Scalars(
        k=pt.constant(0, dtype="int64"),
        beta_before=zero,
        beta=b_norm,
        c=-one,
        s=zero,
        delta=zero,
        epsilon=zero,
        theta=zero,
        pivot2=zero,
        pivot1=zero,
        norm=zero,
        least_before=zero + float("inf"),
        least=zero + float("inf"),
        relative_Ar=zero,
        direction2=pt.zeros_like(T[:, 0]),
        direction1=pt.zeros_like(T[:, 0]),
        directions=zero,
    )
    final = while_loop(
        lambda s: _step(s, T[s.k, 0], T[s.k, 1]),
        lambda s: s.k < solution.niter,
        initial,
        T.shape[0],
    )
    none = pt.eq(solution.niter, 0)
    return Estimates(
        norm=final.norm,
        condition=pt.switch(none, one, final.norm / final.least),
        relative_Ar=final.relative_Ar,
        directions_norm=pt.sqrt(final.directions),
    )


def _step(f: _Scalars, alpha: TensorVariable, beta: TensorVariable) -> _Scalars:
    """Return the scalars after column k of T, with its diagonal entry and the one below it."""
    column = _length(f.beta_before, alpha, beta)
    delta2, gamma = f.c * f.delta + f.s * alpha, f.s * f.delta - f.c * alpha
    epsilon, delta = f.s * beta, -f.c * beta
    c, s, gamma2 = _reflection(gamma, beta)
    # d_k = (v_k - ε_k d_{k-2} - δ_k d_{k-1}) / γ_k.
    v = pt.eq(pt.arange(f.direction1.shape[0]), f.k).astype(gamma2.dtype)
    direction = (v - f.epsilon * f.direction2 - delta2 * f.direction1) / gamma2
    # The two right reflections, and the final pivot, which the next column makes of pivot2.
    c2, s2, _ = _reflection(f.pivot2, f.epsilon)
    theta2 = s2 * f.theta - c2 * delta2
    gamma3 = -c2 * gamma2
    c3, s3, pivot2 = _reflection(f.pivot1, theta2)
    theta, pivot1 = s3 * gamma3, -c3 * gamma3
    final = _length(pivot2, epsilon)
    norm = pt.maximum(f.norm, pt.maximum(column, pt.maximum(final, abs(pivot1))))
    first = pt.eq(f.k, 0)
    candidates = pt.minimum(final, abs(pivot1))
    least = pt.switch(first, abs(pivot1), pt.minimum(f.least_before, candidates))
    return _Scalars(
        k=f.k + 1,
        beta_before=f.beta,
        beta=beta,
        c=c,
        s=s,
        delta=delta,
        epsilon=epsilon,
        theta=theta,
        pivot2=pivot2,
        pivot1=pivot1,
        norm=norm,
        least_before=pt.switch(first, abs(pivot1), f.least),
        least=least,
        relative_Ar=_length(gamma, delta),
        direction2=f.direction1,
        direction1=direction,
        directions=f.directions + pt.sqr(direction).sum(),
    )


def _length(*values: TensorVariable) -> TensorVariable:
    """Return the root of the sum of squares."""
    return pt.sqrt(sum(pt.sqr(value) for value in values))


def _reflection(
    a: TensorVariable, b: TensorVariable
) -> tuple[TensorVariable, TensorVariable, TensorVariable]:
    """Return c, s and r >= 0 with [c s; s -c] [a; b] = [r; 0]; c = 1 and s = 0 for a = b = 0."""
    r = _length(a, b)
    zero = pt.eq(r, 0)
    safe = pt.switch(zero, pt.ones_like(r), r)
    return pt.switch(zero, pt.ones_like(r), a / safe), b / safe, r
