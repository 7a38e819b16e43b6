"""The MINRES-QLP of ``theano_optimize``: ``from symng.legacy.minresQLP import minresQLP``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytensor
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng import solvers
from symng.legacy._estimates import original_estimates
from symng.legacy._flags import eps_of, flag_of, relative_residual
from symng.legacy._lists import ListSystem
from symng.solvers import Solution, Status

__all__ = ["MinresQLP", "messages", "minresQLP"]

# By flag + 1.
messages = [
    "b is an eigenvector, and so is x.",
    "The right-hand side is zero, and so is x.",
    "x solves the system to rtol.",
    "x is the shortest solution of the least-squares problem to rtol.",
    "x solves the system to the precision of the dtype.",
    "x is the shortest solution of the least-squares problem to the precision of the dtype.",
    "x is so long that it is an eigenvector but for rounding errors.",
    "The norm of x passed maxxnorm.",
    "The condition number passed Acondlim.",
    "The iteration limit was met.",
    "The iteration broke down, or met a number that is not finite.",
]

_FLAGS = {
    Status.ZERO_RHS: 0,
    Status.CONVERGED: 1,
    Status.LEAST_SQUARES: 2,
    Status.CONVERGED_TO_PRECISION: 3,
    Status.LEAST_SQUARES_TO_PRECISION: 4,
    Status.NORM_LIMIT: 6,
    Status.CONDITION_LIMIT: 7,
    Status.MAX_ITERATIONS: 8,
}
_BREAKDOWN = 9
_EIGENVECTOR = -1
# A residual after one iteration below this many units of rounding is zero.
_ROUNDING = 10.0


class MinresQLP:
    """Solve (A + λI) x = b by MINRES-QLP, with tensors: called as ``op(*bs)``.

    Parameters
    ----------
    compute_Gv : callable
        From the tensors of v to a pair: the list of the tensors of A v, and an empty mapping of
        updates; or to the list alone.
    param_shapes : list of shapes
        Those of the tensors of b.
    Ms : list of tensors, optional
        The diagonal of a preconditioner M, positive, in these shapes.
    rtol : float or symbolic scalar, default 1e-6
        The tolerance of the residual and of the least-squares problem.
    maxit : int, default 100
        The iteration limit.
    damp : float or symbolic scalar, default 0
        λ.
    maxxnorm : float or symbolic scalar, default 1e7
        The bound on norm(x).
    Acondlim : float or symbolic scalar, default 1e15
        The bound on the condition number.
    TranCond : float or symbolic scalar, default 1e7
        The condition number at which MINRES hands over to QLP.
    mode, gpu, profile
        Without effect.
    quirks : bool, default False
        As the original: QLP from the first iteration, whatever ``TranCond``; the residual of the
        recurrence; estimates in which norm(b) is taken for a part of norm(A); x = 0 where b is an
        eigenvector to the last bit. ``maxit`` must be a plain number then.

    Notes
    -----
    A solve by `symng.MinresQLP`. `minresQLP` describes the results.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.minresQLP import MinresQLP
    >>> d, b = pt.constant(np.array([1.0, -4.0])), pt.constant(np.array([3.0, 8.0]))
    >>> x, flag, iters, relres, Anorm, Acond = MinresQLP(lambda v: ([d * v], {}), [(2,)])(b)
    >>> x.eval(mode="FAST_COMPILE").round(6).tolist()
    [3.0, -2.0]
    """

    def __init__(
        self,
        compute_Gv: Callable[..., Any],
        param_shapes: Sequence[Any],
        Ms: Sequence[Any] | None = None,
        rtol: Any = 1e-6,
        maxit: Any = 100,
        damp: Any = 0,
        maxxnorm: Any = 1e7,
        Acondlim: Any = 1e15,
        TranCond: Any = 1e7,
        mode: Any = None,
        gpu: Any = 0,
        profile: Any = 0,
        quirks: bool = False,
    ) -> None:
        self.compute_Gv, self.param_shapes, self.Ms, self.damp = compute_Gv, param_shapes, Ms, damp
        self.quirks = quirks
        self.solver = solvers.MinresQLP(
            rtol=rtol,
            maxiter=int(maxit) if quirks else maxit,
            max_norm=maxxnorm,
            condition_limit=Acondlim,
            transition_condition=1.0 if quirks else TranCond,
            recompute=not quirks,
            keep_tridiagonal=quirks,
        )

    def __call__(self, *bs: Any) -> list[TensorVariable]:
        """Return the tensors of x, and flag, iterations, relres, Anorm and Acond in floatX."""
        system = ListSystem(self.compute_Gv, bs, self.param_shapes, self.Ms, self.damp)
        x, solution = system.solve(self.solver)
        b_norm = pt.sqrt(pt.dot(system.b, system.b))
        scalars = _scalars(solution, b_norm)
        plain = self.Ms is None
        if self.quirks:
            estimates = original_estimates(solution, b_norm)
            relres = relative_residual(solution, b_norm, estimates.norm)
            scalars[2:] = [relres, estimates.norm, estimates.condition]
        elif plain:
            exact = scalars[2] <= _ROUNDING * eps_of(b_norm)
            eigenvector = pt.eq(solution.niter, 1) & exact & (scalars[0] > 0)
            scalars[0] = pt.switch(eigenvector, _EIGENVECTOR, scalars[0])
        if self.quirks and plain:
            assert solution.tridiagonal is not None
            # The original forgets x then, and the numbers stay those from before the step.
            forgotten = pt.eq(solution.niter, 1) & pt.eq(solution.tridiagonal[0, 1], 0)
            before = (_EIGENVECTOR, 1, 1, 0, 1)
            scalars = [pt.switch(forgotten, a, b) for a, b in zip(before, scalars, strict=True)]
            x = [pt.switch(forgotten, pt.zeros_like(part), part) for part in x]
        return [*x, *(pt.cast(value, pytensor.config.floatX) for value in scalars)]


def _scalars(s: Solution, b_norm: TensorVariable) -> list[TensorVariable]:
    """Return flag, iterations, relres, Anorm and Acond."""
    assert s.norm_estimate is not None and s.condition_estimate is not None
    flag = flag_of(s, _FLAGS, _BREAKDOWN, b_norm)
    return [flag, s.niter, relative_residual(s, b_norm), s.norm_estimate, s.condition_estimate]


def minresQLP(
    compute_Av: Callable[..., Any],
    bs: Any,
    param_shapes: Any,
    rtol: Any = 1e-6,
    maxit: Any = 20,
    Ms: Any = None,
    damp: Any = 0.0,
    maxxnorm: Any = 1e15,
    Acondlim: Any = 1e16,
    TranCond: Any = 1e7,
    mode: Any = None,
    profile: Any = 0,
    quirks: bool = False,
) -> list[Any]:
    """Solve (A + λI) x = b by MINRES-QLP for any symmetric A, at minimum length.

    Parameters
    ----------
    compute_Av : callable
        From the tensors of v to a pair: the list of the tensors of A v, and an empty mapping of
        updates; or to the list alone.
    bs : list of tensors or tensor
        The right-hand side.
    param_shapes : list of shapes or shape
        Those of ``bs``, or that of its one tensor.
    rtol : float or symbolic scalar, default 1e-6
        The tolerance of the residual and of the least-squares problem.
    maxit : int, default 20
        The iteration limit.
    Ms : list of tensors or tensor, optional
        The diagonal of a preconditioner M, positive, as ``bs`` is given.
    damp : float or symbolic scalar, default 0.0
        λ.
    maxxnorm : float or symbolic scalar, default 1e15
        The bound on norm(x).
    Acondlim : float or symbolic scalar, default 1e16
        The bound on the condition number.
    TranCond : float or symbolic scalar, default 1e7
        The condition number at which MINRES hands over to QLP.
    mode, profile
        Without effect.
    quirks : bool, default False
        See `MinresQLP`.

    Returns
    -------
    list
        The solution, a list of tensors or a tensor as ``bs`` is; and as scalars of floatX the flag
        (with 1 added an index of ``messages``), the iterations, norm(r) / (norm(A) norm(x) +
        norm(b)), and the estimates of norm(A + λI) and of its condition number.

    Notes
    -----
    A solve by `symng.MinresQLP`. With ``Ms`` norms are those of M^(-1/2) r, M^(1/2) x and
    M^(-1/2) (A + λI) M^(-1/2).

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> from symng.legacy.minresQLP import messages, minresQLP
    >>> d, b = pt.constant(np.array([1.0, -4.0])), pt.constant(np.array([3.0, 8.0]))
    >>> x, flag, *_ = minresQLP(lambda v: ([d * v], {}), b, (2,))
    >>> f = pytensor.function([], [x, flag], mode="FAST_COMPILE")
    >>> f()[0].round(6).tolist(), messages[int(f()[1]) + 1]
    ([3.0, -2.0], 'x solves the system to rtol.')
    """
    as_list = isinstance(bs, list | tuple)
    if not as_list:
        bs, param_shapes, Ms = [bs], [param_shapes], None if Ms is None else [Ms]
    solve = MinresQLP(
        compute_Av,
        param_shapes,
        Ms=Ms,
        rtol=rtol,
        maxit=maxit,
        damp=damp,
        maxxnorm=maxxnorm,
        Acondlim=Acondlim,
        TranCond=TranCond,
        quirks=quirks,
    )
    results = solve(*bs)
    sol = results[: len(bs)]
    return [sol if as_list else sol[0], *results[len(bs) :]]
