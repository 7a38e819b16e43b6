"""The scalar recurrences of MINRES-QLP: two-sided reflections of the Lanczos matrix, and what they do to the vectors.

After k steps the Lanczos process gives A V_k = V_{k+1} T_k with T_k tridiagonal, (k+1) by k. Left
reflections make it upper triangular, Q_k T_k = [R_k; 0], with R_k of three diagonals; right
reflections make that lower triangular, R_k P_k = L_k, again of three diagonals. MINRES takes x_k =
D_k t_k with D_k R_k = V_k; MINRES-QLP takes x_k = W_k u_k with W_k = V_k P_k and L_k u_k = t_k.
Both are the same x_k in exact arithmetic as long as R_k is not singular, MINRES at less cost where
vectors are dear, QLP with smaller errors when R_k is ill-conditioned, and of minimum length when
R_k is singular. Because W_k = D_k R_k P_k = D_k L_k, one may pass from the first to the second at
any step.

A superscript in a comment counts how often reflections have changed an entry, as in the papers.
"""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

Scalars = dict[str, TensorVariable]


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
    """Return a / b, and 0 for b = 0: the component along a zero pivot of a solution of minimum length."""
    zero = pt.eq(b, 0)
    return pt.switch(zero, pt.zeros_like(a), a / pt.switch(zero, pt.ones_like(b), b))


def reset(beta: TensorVariable) -> Scalars:
    """Return the scalars before step 1 on a residual of norm ``beta``.

    Invariants after step k - 1:

    - beta = β_k, beta_old = β_{k-1}; c and s the last left reflection; phi = φ_{k-1} =
      norm(r_{k-1});
    - delta = δ_k, epsilon = ε_k: the entries of column k above the diagonal, δ_k before that
      reflection;
    - pivot2 = γ⁽⁵⁾_{k-2}, pivot1 = γ⁽⁴⁾_{k-1}, theta = ϑ_{k-1}: the end of L_{k-1};
    - rest2, rest1: the right-hand sides of L u = t in rows k - 2 and k - 1, less the terms whose u
      is final;
    - u2, u1: the last two entries of u; chi_final: the norm of the entries before; chi =
      norm(x_{k-1}).
    """
    zero = pt.zeros_like(beta)
    names = "beta_old s delta epsilon pivot2 pivot1 theta rest2 rest1 u2 u1 chi_final chi"
    scalars = dict.fromkeys(names.split(), zero)
    return {**scalars, "beta": beta, "c": -pt.ones_like(beta), "phi": beta}


def qlp_step(
    s: Scalars, alpha: Any, beta: Any, size: Any, limit: Any, tolerance: Any, small_residual: Any
) -> Scalars:
    """Return the scalars after step k, for α_k and β_{k+1}.

    The last pivot of L_k is taken as zero, u_k with it (``truncated``), when it is below ``size`` /
    ``limit``, for the estimate ``size`` of norm(A); or when x_{k-1} is a least-squares solution to
    ``tolerance`` already and the step does not bring the residual down to ``small_residual``: it
    would make x so long that it passes the test of the residual by its length. ``root`` = norm([γ_k
    δ_{k+1}]) = norm(A r_{k-1}) / norm(r_{k-1}) is the measure of least squares; root <= γ⁽²⁾_k.
    What only the vectors need (c2, s2, c3, s3, delta2, gamma2, tau, u3) is returned as well.
    """
    # The previous left reflection, on column k and on the new β in column k + 1:
    # [c s; s -c] [δ_k 0; α_k β_{k+1}] = [δ⁽²⁾_k ε_{k+1}; γ_k δ_{k+1}].
    delta2 = s["c"] * s["delta"] + s["s"] * alpha
    gamma = s["s"] * s["delta"] - s["c"] * alpha
    epsilon = s["s"] * beta
    delta = -s["c"] * beta
    root = hypot(gamma, delta)

    # The current left reflection: [γ_k; β_{k+1}] -> [γ⁽²⁾_k; 0], and [φ_{k-1}; 0] -> [τ_k; φ_k].
    c1, s1, gamma2 = reflection(gamma, beta)
    tau, phi = c1 * s["phi"], s1 * s["phi"]

    # The first right reflection, on columns k - 2 and k: [γ⁽⁵⁾_{k-2} ε_k] -> [γ⁽⁶⁾_{k-2} 0].
    c2, s2, pivot3 = reflection(s["pivot2"], s["epsilon"])
    theta2 = c2 * s["theta"] + s2 * delta2
    delta3 = s2 * s["theta"] - c2 * delta2
    eta = s2 * gamma2
    gamma3 = -c2 * gamma2

    # The second right reflection, on columns k - 1 and k: [γ⁽⁴⁾_{k-1} δ⁽³⁾_k] -> [γ⁽⁵⁾_{k-1} 0].
    c3, s3, pivot2 = reflection(s["pivot1"], delta3)
    theta = s3 * gamma3
    pivot1 = -c3 * gamma3

    # The last three rows of L u = t. Row k - 2 is final now, rows k - 1 and k are not.
    u3 = divide(s["rest2"], pivot3)
    rest2 = s["rest1"] - theta2 * u3
    u2 = divide(rest2, pivot2)
    rest1 = tau - eta * u3
    last = rest1 - theta * u2
    truncated = (abs(pivot1) * limit <= size) | (
        (gamma2 <= tolerance * size) & (phi > small_residual)
    )
    u1 = pt.switch(truncated, pt.zeros_like(last), divide(last, pivot1))
    chi_final = hypot(s["chi_final"], u3)
    return {
        "beta_old": s["beta"],
        "beta": beta,
        "c": c1,
        "s": s1,
        "delta": delta,
        "epsilon": epsilon,
        "phi": phi,
        "pivot2": pivot2,
        "pivot1": pivot1,
        "theta": theta,
        "rest2": rest2,
        "rest1": rest1,
        "u2": u2,
        "u1": u1,
        "chi_final": chi_final,
        "chi": hypot(chi_final, u2, u1),
        "residual": pt.switch(truncated, hypot(phi, last), phi),
        "truncated": truncated,
        "root": root,
        "gamma2": gamma2,
        "delta2": delta2,
        "tau": tau,
        "pivot3": pivot3,
        "u3": u3,
        "c2": c2,
        "s2": s2,
        "c3": c3,
        "s3": s3,
    }


def vector_weights(
    s: Scalars, n: Scalars, qlp_before: Any, qlp: Any, step: Any, end: Any
) -> list[list[TensorVariable]]:
    """Return the weights that make the next w1, w2 and x - (old x) out of v_k and the old w1 and w2.

    In the MINRES phase w1 = d_{k-1}, w2 = d_{k-2} and x = x_{k-1}. In the QLP phase w1 =
    w⁽²⁾_{k-1}, w2 = w⁽³⁾_{k-2}, and x lacks its last two terms, x_{k-1} = x + u2 w2 + u1 w1; with
    ``end`` they are put in. Without ``step`` the vectors stay. All of it is linear, so both phases
    and the passage between them are one pass over the vectors.
    """
    zero, one = pt.zeros_like(s["u1"]), pt.ones_like(s["u1"])

    # The passage, W = D L, as weights of (w1, w2):
    # w1 <- γ⁽⁴⁾ d_{k-1}, w2 <- γ⁽⁵⁾ d_{k-2} + ϑ d_{k-1}, x <- x - u2 w2 - u1 w1.
    w1_w1 = pt.switch(qlp_before, one, s["pivot1"])
    w2_w1 = pt.switch(qlp_before, zero, s["theta"])
    w2_w2 = pt.switch(qlp_before, one, s["pivot2"])
    x_w1 = pt.switch(qlp_before, zero, -s["u2"] * w2_w1 - s["u1"] * w1_w1)
    x_w2 = pt.switch(qlp_before, zero, -s["u2"] * w2_w2)

    def passed(of_v: Any, of_w1: Any, of_w2: Any) -> list[Any]:
        """Return weights of (v, passed w1, passed w2) as weights of (v, w1, w2)."""
        return [of_v, of_w1 * w1_w1 + of_w2 * w2_w1, of_w2 * w2_w2]

    # The right reflections on columns [w2, w1, v]: (w2, v) <- (c2 w2 + s2 v, s2 w2 - c2 v); (w1, v)
    # <- (c3 w1 + s3 v, s3 w1 - c3 v). The first is final: x + u3 w2.
    c2, s2, c3, s3, u3 = n["c2"], n["s2"], n["c3"], n["s3"], n["u3"]
    qlp_w1 = passed(c3 * c2, s3, -c3 * s2)
    qlp_w2 = passed(-s3 * c2, c3, s3 * s2)
    qlp_x = [a + b for a, b in zip(passed(u3 * s2, zero, u3 * c2), [zero, x_w1, x_w2], strict=True)]

    # MINRES: d_k = (v_k - δ⁽²⁾_k d_{k-1} - ε_k d_{k-2}) / γ⁽²⁾_k, x_k = x_{k-1} + τ_k d_k.
    minres_w1 = [divide(value, n["gamma2"]) for value in (one, -n["delta2"], -s["epsilon"])]
    minres_w2 = [zero, one, zero]
    minres_x = [n["tau"] * value for value in minres_w1]

    stay = ([zero, one, zero], [zero, zero, one], [zero, zero, zero])
    w1, w2, x = (
        [pt.switch(step, pt.switch(qlp, a, b), c) for a, b, c in zip(*triple, strict=True)]
        for triple in zip(
            (qlp_w1, qlp_w2, qlp_x), (minres_w1, minres_w2, minres_x), stay, strict=True
        )
    )
    u1 = pt.switch(end & qlp, pt.switch(step, n["u1"], s["u1"]), zero)
    u2 = pt.switch(end & qlp, pt.switch(step, n["u2"], s["u2"]), zero)
    x = [c + u1 * a + u2 * b for a, b, c in zip(w1, w2, x, strict=True)]
    return [w1, w2, x]
