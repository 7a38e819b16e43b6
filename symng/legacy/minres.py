"""The MINRES of ``theano_optimize``: ``from symng.legacy.minres import minres``.

Also the names under which natgrad imports both solvers from a package ``minres``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.legacy._estimates import original_estimates
from symng.legacy._flags import flag_of, relative_residual
from symng.legacy._lists import ListSystem, Tensors, nan_for_zero
from symng.legacy.minresQLP import messages as minresQLP_messages
from symng.legacy.minresQLP import minresQLP
from symng.solvers import MinresQLP, Solution, Status

__all__ = [
    "messages",
    "minres",
    "minresQLP",
    "minresQLP_messages",
    "minres_messages",
    "norm",
    "sqnorm",
    "symGivens2",
]

# By flag.
messages = [
    "The right-hand side is zero, and so is x.",
    "x solves the system to rtol.",
    "x solves the least-squares problem to rtol.",
    "x solves the system to the precision of the dtype.",
    "x solves the least-squares problem to the precision of the dtype.",
    "x is so long that it is an eigenvector but for rounding errors.",
    "The norm of x passed maxxnorm.",
    "The condition number passed Acondlim.",
    "The iteration limit was met.",
    "x solves a singular least-squares problem to the precision of the dtype.",
    "x solves a singular least-squares problem to rtol.",
    "x is a null vector to rtol.",
    "The iteration broke down, or met a number that is not finite.",
]
minres_messages = messages

_FLAGS = {
    Status.ZERO_RHS: 0,
    Status.CONVERGED: 1,
    Status.CONVERGED_TO_PRECISION: 3,
    Status.LEAST_SQUARES: 10,
    Status.LEAST_SQUARES_TO_PRECISION: 4,
    Status.NORM_LIMIT: 6,
    Status.CONDITION_LIMIT: 7,
    Status.MAX_ITERATIONS: 8,
}
_BREAKDOWN = 12


def sqnorm(xs: Sequence[Any], ys: Sequence[Any] | None = None) -> TensorVariable:
    """Return the inner product of two lists of tensors; that of ``xs`` with itself by default.

    Parameters
    ----------
    xs, ys : list of tensors
        The tensors, in pairs of one shape.

    Returns
    -------
    symbolic scalar
        The sum of the products of the entries.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.minres import sqnorm
    >>> float(sqnorm([pt.constant(np.array([3.0, 4.0]))]).eval())
    25.0
    """
    return sum((x * y).sum() for x, y in zip(xs, xs if ys is None else ys, strict=True))


def norm(xs: Sequence[Any], ys: Sequence[Any] | None = None) -> TensorVariable:
    """Return the root of `sqnorm`.

    Parameters
    ----------
    xs, ys : list of tensors
        The tensors, in pairs of one shape.

    Returns
    -------
    symbolic scalar
        The norm of ``xs``, or the root of its inner product with ``ys``.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.minres import norm
    >>> float(norm([pt.constant(np.array([3.0, 4.0]))]).eval())
    5.0
    """
    return pt.sqrt(sqnorm(xs, ys))


def symGivens2(a: Any, b: Any) -> tuple[TensorVariable, TensorVariable, TensorVariable]:
    """Return c, s and d >= 0 with [c s; s -c] [a; b] = [d; 0], without overflow.

    Parameters
    ----------
    a, b : symbolic scalars
        The vector to reflect.

    Returns
    -------
    c, s : symbolic scalars
        The reflection; 1 and 0 for a = b = 0.
    d : symbolic scalar
        The norm of (a, b).

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from symng.legacy.minres import symGivens2
    >>> [round(float(value.eval()), 6) for value in symGivens2(pt.constant(3.0), pt.constant(4.0))]
    [0.6, 0.8, 5.0]
    """
    a, b = pt.as_tensor_variable(a), pt.as_tensor_variable(b)
    size = pt.maximum(abs(a), abs(b))
    zero = pt.eq(size, 0)
    safe = pt.switch(zero, pt.ones_like(size), size)
    length = pt.sqrt(pt.sqr(a / safe) + pt.sqr(b / safe))
    safe_length = pt.switch(zero, pt.ones_like(length), length)
    c = pt.switch(zero, pt.ones_like(length), a / safe / safe_length)
    return c, b / safe / safe_length, size * length


def minres(
    compute_Av: Callable[..., Any],
    bs: Any,
    rtol: Any = 1e-6,
    maxit: Any = 20,
    Ms: Any = None,
    damp: Any = 0.0,
    maxxnorm: Any = 1e15,
    Acondlim: Any = 1e16,
    mode: Any = None,
    profile: Any = 0,
    quirks: bool = False,
) -> tuple[Any, ...]:
    """Solve (A + λI) x = b by MINRES for any symmetric A, with lists of tensors.

    Parameters
    ----------
    compute_Av : callable
        From the tensors of v to a pair: the list of the tensors of A v, and an empty mapping of
        updates; or to the list alone.
    bs : list of tensors or tensor
        The right-hand side; a tensor counts as a list of one.
    rtol : float or symbolic scalar, default 1e-6
        The tolerance of ``relres`` and ``relAres``.
    maxit : int, default 20
        The iteration limit.
    Ms : list of tensors or tensor, optional
        The diagonal of a preconditioner M, positive, in the shapes of ``bs``.
    damp : float or symbolic scalar, default 0.0
        λ.
    maxxnorm : float or symbolic scalar, default 1e15
        The bound on norm(x).
    Acondlim : float or symbolic scalar, default 1e16
        The bound on the condition number.
    mode, profile
        Without effect.
    quirks : bool, default False
        As the original: one round more than ``maxit``, no test of ``Acondlim``, NaN for b = 0, the
        residual of the recurrence, and a condition number from the lengths of the directions of x.
        ``maxit`` must be a plain number then.

    Returns
    -------
    sol : list of tensors
        The solution x.
    flag : symbolic int32
        The verdict, an index of ``messages``.
    niters : symbolic int32
        The iterations made.
    relres : symbolic scalar
        The ratio norm(r) / (norm(A) norm(x) + norm(b)) with r = b - (A + λI) x.
    relAres : symbolic scalar
        The ratio norm((A + λI) r) / (norm(A) norm(r)), in the numerator with the residual before
        the last where x solves the system. With ``quirks`` both are those of the residual before
        the last.
    Anorm, Acond : symbolic scalars
        Estimates of norm(A + λI) and of its condition number.
    xnorm, Axnorm : symbolic scalars
        The norms of x and of (A + λI) x, the latter from norm(b)² - norm(r)².
    updates : dict
        Empty.

    Notes
    -----
    A solve by `symng.MinresQLP` that never hands over to QLP. With ``Ms`` norms but ``xnorm`` are
    those of M^(-1/2) r, M^(1/2) x and M^(-1/2) (A + λI) M^(-1/2).

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> from symng.legacy.minres import messages, minres
    >>> d, b = pt.constant(np.array([1.0, -4.0])), pt.constant(np.array([3.0, 8.0]))
    >>> [x], flag, *_ = minres(lambda v: ([d * v], {}), [b])
    >>> f = pytensor.function([], [x, flag], mode="FAST_COMPILE")
    >>> f()[0].round(6).tolist(), messages[int(f()[1])]
    ([3.0, -2.0], 'x solves the system to rtol.')
    """
    bs, Ms = _as_list(bs), None if Ms is None else _as_list(Ms)
    system = ListSystem(compute_Av, bs, Ms=Ms, damp=damp)
    solver = MinresQLP(
        rtol=rtol,
        maxiter=int(maxit) + 1 if quirks else maxit,
        max_norm=maxxnorm,
        condition_limit=None if quirks else Acondlim,
        transition_condition=float("inf"),
        recompute=not quirks,
        keep_tridiagonal=quirks,
    )
    x, solution = system.solve(solver)
    return _results(system, x, solution, quirks)


def _results(system: ListSystem, x: Tensors, s: Solution, quirks: bool) -> tuple[Any, ...]:
    """Return the ten results."""
    b_norm = pt.sqrt(pt.dot(system.b, system.b))
    assert s.least_squares_norm is not None and s.norm_estimate is not None
    flag = flag_of(s, _FLAGS, _BREAKDOWN, b_norm)
    size = s.norm_estimate * s.residual_norm
    zero = pt.zeros_like(size)
    relAres = pt.switch(size > 0, s.least_squares_norm / size, zero)
    Acond = s.condition_estimate
    if quirks:
        estimates = original_estimates(s, b_norm)
        relAres = estimates.relative_Ar / s.norm_estimate
        Acond = s.norm_estimate * estimates.directions_norm
        x = nan_for_zero(x, system.b)
    return (
        x,
        pt.cast(flag, "int32"),
        pt.cast(s.niter, "int32"),
        relative_residual(s, b_norm),
        relAres,
        s.norm_estimate,
        Acond,
        norm(x),
        pt.sqrt(pt.maximum(pt.sqr(b_norm) - pt.sqr(s.residual_norm), zero)),
        {},
    )


def _as_list(value: Any) -> list[Any]:
    """Return a tensor, or a list of tensors, as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]
