"""The conjugate gradients of ``theano_optimize``: ``from symng.legacy import lincg``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.loops import while_loop
from symng.legacy._lists import ListSystem, nan_for_zero
from symng.solvers import CG

__all__ = ["linear_cg", "linear_cg_precond"]


def linear_cg(
    compute_Gv: Callable[..., Any],
    bs: Sequence[Any],
    rtol: Any = 1e-6,
    maxit: Any = 1000,
    damp: Any = 0,
    floatX: Any = None,
    profile: Any = 0,
    quirks: bool = False,
) -> list[TensorVariable]:
    """Solve (G + λI) x = b by conjugate gradients from zero, with lists of tensors.

    It makes at least one round, and stops after the first that leaves r·r < ``rtol``: an absolute
    test of the squared residual.

    Parameters
    ----------
    compute_Gv : callable
        From the tensors of v to the list of those of G v, for a positive definite G.
    bs : list of tensors
        The right-hand side.
    rtol : float or symbolic scalar, default 1e-6
        The bound on r·r, in units of b squared.
    maxit : int or symbolic integer scalar, default 1000
        The iteration limit.
    damp : float or symbolic scalar, default 0
        λ.
    floatX, profile
        Without effect; the dtype is that of ``bs``.
    quirks : bool, default False
        Make no test but that of r·r, as the original: go on beyond directions of negative
        curvature, and return NaN for b = 0, not zero.

    Returns
    -------
    list of tensors
        The solution, in the shapes of ``bs``.

    Notes
    -----
    A solve by `symng.CG`, whose ``rtol`` is relative to norm(b) and whose verdict this function
    drops.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.lincg import linear_cg
    >>> A, b = pt.constant(np.diag([1.0, 4.0])), pt.constant(np.array([3.0, 8.0]))
    >>> [x] = linear_cg(lambda v: [pt.dot(A, v)], [b], rtol=1e-20)
    >>> x.eval(mode="FAST_COMPILE").round(6).tolist()
    [3.0, 2.0]
    """
    system = ListSystem(compute_Gv, bs, damp=damp)
    return _plain(system, rtol, maxit) if quirks else _solve(system, rtol, maxit, quirks)


def linear_cg_precond(
    compute_Gv: Callable[..., Any],
    bs: Sequence[Any],
    Msz: Sequence[Any],
    rtol: Any = 1e-16,
    maxit: Any = 100000,
    floatX: Any = None,
    quirks: bool = False,
) -> list[TensorVariable]:
    """Solve G x = b by preconditioned conjugate gradients from zero, with lists of tensors.

    It makes at least one round, and stops after the first that leaves r·M⁻¹r < ``rtol``.

    Parameters
    ----------
    compute_Gv : callable
        As for `linear_cg`.
    bs : list of tensors
        The right-hand side.
    Msz : list of tensors
        The diagonal of M, positive, in the shapes of ``bs``.
    rtol : float or symbolic scalar, default 1e-16
        The bound on r·M⁻¹r.
    maxit : int or symbolic integer scalar, default 100000
        The iteration limit.
    floatX
        Without effect.
    quirks : bool, default False
        Leave the test out, as the original did by mistake: go on to ``maxit``, or until rounding
        errors stop the progress.

    Returns
    -------
    list of tensors
        The solution, in the shapes of ``bs``.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.lincg import linear_cg_precond
    >>> d, b = pt.constant(np.array([1.0, 4.0])), pt.constant(np.array([3.0, 8.0]))
    >>> [x] = linear_cg_precond(lambda v: [d * v], [b], [d])
    >>> x.eval(mode="FAST_COMPILE").round(6).tolist()
    [3.0, 2.0]
    """
    return _solve(ListSystem(compute_Gv, bs, Ms=Msz), 0.0 if quirks else rtol, maxit, quirks)


def _solve(system: ListSystem, rtol: Any, maxit: Any, quirks: bool) -> list[TensorVariable]:
    """Return x of a solve that makes a round before it tests r·r < rtol."""
    bb, bound = pt.dot(system.b, system.b), pt.cast(pt.as_tensor_variable(rtol), system.dtype)
    at_once = bb < bound
    solver = CG(
        rtol=0.0,
        atol=pt.switch(at_once, pt.zeros_like(bound), pt.sqrt(bound)),
        maxiter=pt.switch(at_once, 1, pt.cast(pt.as_tensor_variable(maxit), "int64")),
        recompute=False,
    )
    x, _ = system.solve(solver)
    return nan_for_zero(x, system.b) if quirks else x


def _plain(system: ListSystem, rtol: Any, maxit: Any) -> list[TensorVariable]:
    """Return x of the recurrences alone, with the one test r·r < rtol after each round."""
    bound, damp = (pt.cast(pt.as_tensor_variable(v), system.dtype) for v in (rtol, system.damp))

    def step(s: dict[str, TensorVariable]) -> dict[str, TensorVariable]:
        Ap = system.product(s["p"]) + damp * s["p"]
        alpha = s["rr"] / pt.dot(s["p"], Ap)
        r = s["r"] - alpha * Ap
        rr = pt.dot(r, r)
        p = r + rr / s["rr"] * s["p"]
        return dict(x=s["x"] + alpha * s["p"], r=r, p=p, rr=rr, small=rr < bound)

    b = system.b
    start = dict(x=pt.zeros_like(b), r=b, p=b, rr=pt.dot(b, b), small=pt.constant(np.array(False)))
    final = while_loop(step, lambda s: pt.invert(s["small"]), start, maxit)
    return system.cut(final["x"])
