"""The recurrences of MINRES-QLP: reflections of the Lanczos matrix from both sides.

After k steps the Lanczos process gives A V_k = V_{k+1} T_k with T_k tridiagonal, (k+1) by k. Left
reflections make it upper triangular, Q_k T_k = [R_k; 0], with R_k of three diagonals; right
reflections make that lower triangular, R_k P_k = L_k, again of three diagonals. MINRES takes x_k =
D_k t_k with D_k R_k = V_k; MINRES-QLP takes x_k = W_k u_k with W_k = V_k P_k and L_k u_k = t_k.
Both are the same x_k in exact arithmetic as long as R_k is not singular. MINRES takes fewer vector
operations; QLP has smaller errors when R_k is ill-conditioned, and minimum length when R_k is
singular. Because W_k = D_k R_k P_k = D_k L_k, one may pass from the first to the second at any
step.

A superscript counts how often reflections have changed an entry. Symbols are those of [1]_ and [2]_
in `minres_qlp`: Q_k is the left reflection of step k, P_{k-2,k} and P_{k-1,k} are the right ones,
and `reflection` is their SymOrtho.
"""

from __future__ import annotations

from typing import NamedTuple

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable


def hypot(*values: TensorVariable) -> TensorVariable:
    """Return the root of the sum of squares without over- or underflow of the squares."""
    size = abs(values[0])
    for value in values[1:]:
        size = pt.maximum(size, abs(value))
    safe = pt.switch(size > 0, size, pt.ones_like(size))
    total = pt.sqr(values[0] / safe)
    for value in values[1:]:
        total = total + pt.sqr(value / safe)
    return size * pt.sqrt(total)


def reflection(
    a: TensorVariable, b: TensorVariable
) -> tuple[TensorVariable, TensorVariable, TensorVariable]:
    """Return c, s and r >= 0 with [c s; s -c] [a; b] = [r; 0]; c = 1 and s = 0 for a = b = 0."""
    r = hypot(a, b)
    zero = pt.eq(r, 0)
    safe = pt.switch(zero, pt.ones_like(r), r)
    return pt.switch(zero, pt.ones_like(r), a / safe), b / safe, r


def divide(a: TensorVariable, b: TensorVariable) -> TensorVariable:
    """Return a / b, or 0 for b = 0: a minimum-length solution ignores a zero pivot."""
    zero = pt.eq(b, 0)
    return pt.switch(zero, pt.zeros_like(a), a / pt.switch(zero, pt.ones_like(b), b))


class Factors(NamedTuple):
    """The scalars that step k needs of the steps before it."""

    beta_old: TensorVariable  # β_{k-1}; 0 at the first step
    beta: TensorVariable  # β_k
    c: TensorVariable  # the left reflection Q_{k-1}
    s: TensorVariable
    delta: TensorVariable  # δ_k, above the diagonal in column k, before that reflection
    epsilon: TensorVariable  # ε_k, above δ_k
    phi: TensorVariable  # φ_{k-1} = norm(r_{k-1})
    pivot2: TensorVariable  # γ⁽⁵⁾_{k-2}, γ⁽⁴⁾_{k-1} and between them ϑ_{k-1}: the end of L_{k-1}
    pivot1: TensorVariable
    theta: TensorVariable
    rest2: TensorVariable  # t_{k-2} and t_{k-1}, less the terms of L u = t whose u is final
    rest1: TensorVariable
    u2: TensorVariable  # the last two entries of u
    u1: TensorVariable
    chi_final: TensorVariable  # the norm of the entries before them
    chi: TensorVariable  # norm(x_{k-1})


def initial_factors(beta: TensorVariable) -> Factors:
    """Return the scalars before step 1 on a residual of norm ``beta``."""
    zeros = dict.fromkeys(Factors._fields, pt.zeros_like(beta))
    return Factors(**{**zeros, "beta": beta, "phi": beta, "c": -pt.ones_like(beta)})


class Left(NamedTuple):
    """Column k of R, and what Q_{k-1} and Q_k do to later columns and the right-hand side."""

    c: TensorVariable  # Q_k
    s: TensorVariable
    delta2: TensorVariable  # δ⁽²⁾_k
    gamma2: TensorVariable  # γ⁽²⁾_k, the pivot of R
    epsilon: TensorVariable  # ε_{k+1}
    delta: TensorVariable  # δ_{k+1}
    tau: TensorVariable  # τ_k
    phi: TensorVariable  # φ_k
    relative_Ar: TensorVariable  # norm(A r_{k-1}) / norm(r_{k-1}); at most γ⁽²⁾_k


def left_reflections(f: Factors, alpha: TensorVariable, beta: TensorVariable) -> Left:
    """Return column k of R, for α_k and β_{k+1}."""
    # Q_{k-1} on column k and on the new β in column k + 1:
    # [c s; s -c] [δ_k 0; α_k β_{k+1}] = [δ⁽²⁾_k ε_{k+1}; γ_k δ_{k+1}].
    delta2 = f.c * f.delta + f.s * alpha
    gamma = f.s * f.delta - f.c * alpha
    epsilon = f.s * beta
    delta = -f.c * beta

    # Q_k: [γ_k; β_{k+1}] -> [γ⁽²⁾_k; 0], and [φ_{k-1}; 0] -> [τ_k; φ_k].
    c, s, gamma2 = reflection(gamma, beta)
    tau, phi = c * f.phi, s * f.phi
    return Left(c, s, delta2, gamma2, epsilon, delta, tau, phi, hypot(gamma, delta))


class Right(NamedTuple):
    """The last three rows of L, and the right reflections that made them."""

    c2: TensorVariable  # P_{k-2,k}
    s2: TensorVariable
    c3: TensorVariable  # P_{k-1,k}
    s3: TensorVariable
    pivot3: TensorVariable  # γ⁽⁶⁾_{k-2}, final now
    pivot2: TensorVariable  # γ⁽⁵⁾_{k-1}
    pivot1: TensorVariable  # γ⁽⁴⁾_k
    theta2: TensorVariable  # ϑ⁽²⁾_{k-1}
    theta: TensorVariable  # ϑ_k
    eta: TensorVariable  # η_k


def right_reflections(f: Factors, left: Left) -> Right:
    """Return the last rows of L with column k of R taken in."""
    # P_{k-2,k}, on columns k - 2 and k: [γ⁽⁵⁾_{k-2} ε_k] -> [γ⁽⁶⁾_{k-2} 0].
    c2, s2, pivot3 = reflection(f.pivot2, f.epsilon)
    theta2 = c2 * f.theta + s2 * left.delta2
    delta3 = s2 * f.theta - c2 * left.delta2
    eta = s2 * left.gamma2
    gamma3 = -c2 * left.gamma2

    # P_{k-1,k}, on columns k - 1 and k: [γ⁽⁴⁾_{k-1} δ⁽³⁾_k] -> [γ⁽⁵⁾_{k-1} 0].
    c3, s3, pivot2 = reflection(f.pivot1, delta3)
    theta = s3 * gamma3
    pivot1 = -c3 * gamma3
    return Right(c2, s2, c3, s3, pivot3, pivot2, pivot1, theta2, theta, eta)


class QLPStep(NamedTuple):
    """What step k makes of column k of the Lanczos matrix."""

    factors: Factors  # for step k + 1
    left: Left
    right: Right
    u3: TensorVariable  # entry k - 2 of u, final now
    truncated: TensorVariable  # whether the last pivot is taken as zero
    residual: TensorVariable  # norm(r_k)


def qlp_step(
    f: Factors,
    alpha: TensorVariable,
    beta: TensorVariable,
    norm_A: TensorVariable,
    condition_limit: TensorVariable,
    ls_rtol: TensorVariable,
    small_residual: TensorVariable,
) -> QLPStep:
    """Return step k, for α_k and β_{k+1}.

    The last pivot of L_k is taken as zero, u_k with it (``truncated``), when it is below ``norm_A``
    / ``condition_limit``; or when x_{k-1} is a least-squares solution to ``ls_rtol`` already and
    the step does not bring the residual down to ``small_residual``: it would make x so long that it
    passes the test of the residual by its length.
    """
    left = left_reflections(f, alpha, beta)
    right = right_reflections(f, left)

    # The last three rows of L u = t. Row k - 2 is final now, rows k - 1 and k are not.
    u3 = divide(f.rest2, right.pivot3)
    rest2 = f.rest1 - right.theta2 * u3
    u2 = divide(rest2, right.pivot2)
    rest1 = left.tau - right.eta * u3
    last = rest1 - right.theta * u2
    needless = (left.gamma2 <= ls_rtol * norm_A) & (left.phi > small_residual)
    truncated = (abs(right.pivot1) * condition_limit <= norm_A) | needless
    u1 = pt.switch(truncated, pt.zeros_like(last), divide(last, right.pivot1))
    chi_final = hypot(f.chi_final, u3)
    factors = Factors(
        beta_old=f.beta,
        beta=beta,
        c=left.c,
        s=left.s,
        delta=left.delta,
        epsilon=left.epsilon,
        phi=left.phi,
        pivot2=right.pivot2,
        pivot1=right.pivot1,
        theta=right.theta,
        rest2=rest2,
        rest1=rest1,
        u2=u2,
        u1=u1,
        chi_final=chi_final,
        chi=hypot(chi_final, u2, u1),
    )
    residual = pt.switch(truncated, hypot(left.phi, last), left.phi)
    return QLPStep(factors, left, right, u3, truncated, residual)


def pivots_and_condition(
    smallest: TensorVariable, right: Right, norm_A: TensorVariable
) -> tuple[TensorVariable, TensorVariable]:
    """Return the smallest final pivot, and the condition, which counts all pivots."""
    inf = pt.constant(float("inf"), dtype=smallest.type.dtype)
    smallest = pt.minimum(smallest, pt.switch(right.pivot3 > 0, right.pivot3, inf))
    least = smallest
    for pivot in (right.pivot2, abs(right.pivot1)):
        least = pt.minimum(least, pt.switch(pivot > 0, pivot, inf))
    return smallest, pt.maximum(norm_A / least, pt.ones_like(least))


Weights = list[TensorVariable]  # of v_k, w1 and w2


def vector_weights(
    f: Factors,
    n: QLPStep,
    qlp_before: TensorVariable,
    qlp: TensorVariable,
    step: TensorVariable,
    end: TensorVariable,
) -> tuple[Weights, Weights, Weights]:
    """Return the next w1 and w2 and the change of x as weights of v_k and the old w1 and w2.

    In the MINRES phase w1 = d_{k-1}, w2 = d_{k-2} and x = x_{k-1}. In the QLP phase w1 =
    w⁽²⁾_{k-1}, w2 = w⁽³⁾_{k-2}, and x lacks its last two terms, x_{k-1} = x + u2 w2 + u1 w1; with
    ``end`` they are added. Without ``step`` the vectors stay. All of it is linear, so both phases
    and the passage between them are one pass over the vectors.
    """
    zero, one = pt.zeros_like(f.u1), pt.ones_like(f.u1)

    # The passage, W = D L, as weights of (w1, w2):
    # w1 <- γ⁽⁴⁾ d_{k-1}, w2 <- γ⁽⁵⁾ d_{k-2} + ϑ d_{k-1}, x <- x - u2 w2 - u1 w1.
    w1_w1 = pt.switch(qlp_before, one, f.pivot1)
    w2_w1 = pt.switch(qlp_before, zero, f.theta)
    w2_w2 = pt.switch(qlp_before, one, f.pivot2)
    x_w1 = pt.switch(qlp_before, zero, -f.u2 * w2_w1 - f.u1 * w1_w1)
    x_w2 = pt.switch(qlp_before, zero, -f.u2 * w2_w2)

    def passed(of_v: TensorVariable, of_w1: TensorVariable, of_w2: TensorVariable) -> Weights:
        """Return weights of (v, passed w1, passed w2) as weights of (v, w1, w2)."""
        return [of_v, of_w1 * w1_w1 + of_w2 * w2_w1, of_w2 * w2_w2]

    # The right reflections on columns [w2, w1, v]: (w2, v) <- (c2 w2 + s2 v, s2 w2 - c2 v); (w1, v)
    # <- (c3 w1 + s3 v, s3 w1 - c3 v). The first is final: x + u3 w2.
    c2, s2, c3, s3, u3 = n.right.c2, n.right.s2, n.right.c3, n.right.s3, n.u3
    qlp_w1 = passed(c3 * c2, s3, -c3 * s2)
    qlp_w2 = passed(-s3 * c2, c3, s3 * s2)
    qlp_x = [a + b for a, b in zip(passed(u3 * s2, zero, u3 * c2), [zero, x_w1, x_w2], strict=True)]

    # MINRES: d_k = (v_k - δ⁽²⁾_k d_{k-1} - ε_k d_{k-2}) / γ⁽²⁾_k, x_k = x_{k-1} + τ_k d_k.
    minres_w1 = [divide(value, n.left.gamma2) for value in (one, -n.left.delta2, -f.epsilon)]
    minres_w2 = [zero, one, zero]
    minres_x = [n.left.tau * value for value in minres_w1]

    w1 = _select(step, _select(qlp, qlp_w1, minres_w1), [zero, one, zero])
    w2 = _select(step, _select(qlp, qlp_w2, minres_w2), [zero, zero, one])
    x = _select(step, _select(qlp, qlp_x, minres_x), [zero, zero, zero])
    u1 = pt.switch(end & qlp, pt.switch(step, n.factors.u1, f.u1), zero)
    u2 = pt.switch(end & qlp, pt.switch(step, n.factors.u2, f.u2), zero)
    x = [c + u1 * a + u2 * b for a, b, c in zip(w1, w2, x, strict=True)]
    return w1, w2, x


def _select(condition: TensorVariable, a: Weights, b: Weights) -> Weights:
    """Return the weights of ``a`` where a condition holds, else those of ``b``."""
    return [pt.switch(condition, value, other) for value, other in zip(a, b, strict=True)]
