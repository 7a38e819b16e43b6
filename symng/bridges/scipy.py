"""For `scipy.optimize`: natural gradient as a method, and residuals with their Jacobian."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import LinearOperator

from symng._checks import Verbatim, argument_error
from symng.backends import compile_with_data
from symng.graphs import vectors
from symng.graphs.derivatives import pullback, pushforward
from symng.graphs.rebuild import rebuild, replacements
from symng.graphs.types import ModeLike
from symng.objective.scipy_functions import ScipyProblem
from symng.optimizers import NaturalGradient, Optimizer
from symng.training import minimize

__all__ = ["Residuals", "natural_gradient", "residuals"]

# The endings of a run that `scipy.optimize` calls a success.
_SUCCESS = ("converged", "zero_gradient", "target_loss")


def natural_gradient(
    problem: ScipyProblem, optimizer: Optimizer | None = None, mode: ModeLike = None
) -> Callable[..., OptimizeResult]:
    """Return a ``method`` for `scipy.optimize.minimize` that takes steps of a symng optimizer.

    Parameters
    ----------
    problem : ScipyProblem
        What ``objective.to_scipy`` returns: the model and its batch.
    optimizer : Optimizer, optional
        Default: ``NaturalGradient()``.
    mode : str or Mode, optional
        PyTensor mode of the steps; default that of `symng.set_mode`.

    Returns
    -------
    callable
        It takes the arguments that SciPy gives to a method. Its ``options`` are ``maxiter``
        (default 200) and ``tol``, the ``gradient_tolerance`` of `symng.minimize`. The parameters of
        the model are as before when it returns.

    Notes
    -----
    ``fun`` must be that of ``problem``: the metric belongs to its model.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> from scipy.optimize import minimize
    >>> x, t = pt.matrix("x"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> loss = pt.sqr(y - t).mean() / 2
    >>> objective = symng.Objective(loss, y, [w], inputs=[x], targets=[t])
    >>> p = objective.to_scipy(np.eye(2), np.array([1.0, 2.0]), mode="FAST_COMPILE")
    >>> optimizer = symng.NaturalGradient(damping=1e-6)
    >>> method = symng.scipy.natural_gradient(p, optimizer, mode="FAST_COMPILE")
    >>> result = minimize(p.fun, p.x0, method=method, tol=1e-5)
    >>> result.x.round(4), result.success
    (array([1., 2.]), True)
    """
    if not isinstance(problem, ScipyProblem):
        raise argument_error(
            "problem", "what objective.to_scipy(*batch) returns", problem, error=TypeError
        )
    chosen = NaturalGradient() if optimizer is None else optimizer

    def method(
        fun: Callable[..., float],
        x0: np.ndarray,
        args: tuple[Any, ...] = (),
        callback: Callable[..., object] | None = None,
        bounds: object = None,
        constraints: object = (),
        maxiter: int = 200,
        tol: float | None = None,
        **others: Any,
    ) -> OptimizeResult:
        given = {"args": args, "bounds": bounds, "constraints": constraints}
        for name, value in given.items():
            if value is not None and np.size(np.asarray(value, dtype=object)):
                raise argument_error(name, "none for natural_gradient", value)
        options = [name for name in others if name not in ("jac", "hess", "hessp")]
        if options:
            got = Verbatim(", ".join(options))
            raise argument_error("options", "maxiter and tol", got, error=TypeError)
        params = problem.objective.params
        before = vectors.get_flat(params)

        def report(row: object) -> bool:
            """Call the callback in one of SciPy's two forms; return whether it stops the run."""
            assert callback is not None
            x = vectors.get_flat(params).astype("float64")
            try:
                if "intermediate_result" in inspect.signature(callback).parameters:
                    callback(intermediate_result=OptimizeResult(x=x, fun=fun(x)))
                else:
                    callback(x)
            except StopIteration:
                return True
            return False

        problem.set(x0)
        try:
            result = minimize(
                problem.objective,
                chosen,
                problem.batch,
                max_steps=maxiter,
                gradient_tolerance=tol,
                callback=None if callback is None else report,
                progress=False,
                mode=mode,
            )
            x = vectors.get_flat(params).astype("float64")
        finally:
            vectors.set_flat(params, before)
        return OptimizeResult(
            x=x,
            fun=fun(x),
            nit=result.steps,
            success=result.status in _SUCCESS,
            status=int(result.status not in _SUCCESS),
            message=result.message or result.status,
        )

    return method


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Residuals:
    """What `residuals` returns, for `scipy.optimize.least_squares` and the solvers of SciPy.

    Attributes
    ----------
    fun : callable
        From the flat vector of the parameters to the m residuals.
    jac : callable
        From the flat vector to the Jacobian there, of shape (m, n), as a SciPy operator.
    x0 : ndarray
        The parameters at the time of the call, as one flat vector.
    params : tuple of shared variables
        The parameters.
    """

    fun: Callable[[ArrayLike], np.ndarray]
    jac: Callable[[ArrayLike], LinearOperator]
    x0: np.ndarray
    params: tuple[SharedVariable, ...]

    def set(self, x: ArrayLike) -> None:
        """Set the parameters from a flat vector, such as the ``x`` of a result."""
        vectors.set_flat(self.params, x)


def residuals(
    graph: TensorVariable,
    params: Sequence[SharedVariable],
    givens: Mapping[TensorVariable, ArrayLike] | None = None,
    mode: ModeLike = None,
) -> Residuals:
    """Compile residuals and products with their Jacobian for SciPy.

    Parameters
    ----------
    graph : TensorVariable
        The residuals, of any shape; they come in C order.
    params : sequence of shared variables
        What the Jacobian is taken with respect to.
    givens : mapping, optional
        Arrays for the inputs of the graph.
    mode : str or Mode, optional
        PyTensor mode; default that of `symng.set_mode`.

    Returns
    -------
    Residuals
        With ``fun``, ``jac`` and ``x0``, and ``set`` for the way back.

    Notes
    -----
    The Jacobian is not formed: a product with it is a pushforward, one with its transpose a
    pullback. `scipy.optimize.least_squares` then takes its solver ``lsmr``.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> from scipy.optimize import least_squares
    >>> w = pytensor.shared(np.array([3.0, 1.0]), name="w")
    >>> r = pt.stack([w[0] - 1, 10 * (w[1] - w[0] ** 2)])  # Rosenbrock's function
    >>> problem = symng.scipy.residuals(r, [w], mode="FAST_COMPILE")
    >>> problem.set(least_squares(problem.fun, problem.x0, jac=problem.jac).x)
    >>> w.get_value().round(6)
    array([1., 1.])
    """
    params, givens = tuple(params), dict(givens or {})
    r = pt.as_tensor_variable(graph).flatten()
    dtype = r.type.dtype
    size = vectors.count(params)
    x, v = (pt.vector(name, dtype=dtype, shape=(size,)) for name in "xv")
    u = pt.vector("u", dtype=dtype)
    along = pushforward([r], list(params), vectors.split(v, params))[0]
    slopes = pullback([r], list(params), [u], disconnected_inputs="ignore")
    at_x = replacements(params, vectors.split(x, params))
    r, along, back = rebuild([r, along, vectors.ravel(slopes, params)], at_x)
    inputs = list(givens)
    arrays = [np.asarray(a, dtype=v.type.dtype) for v, a in givens.items()]
    fun, matvec, rmatvec = (
        compile_with_data([*inputs, *own], output, arrays, mode, "float64")
        for own, output in (([x], r), ([x, v], along), ([x, u], back))
    )

    def jac(x: ArrayLike) -> LinearOperator:
        x = np.array(x, dtype="float64")  # a copy: SciPy may change its own
        return LinearOperator(
            (len(fun(x)), size),
            matvec=lambda v: matvec(x, v),
            rmatvec=lambda u: rmatvec(x, u),
            dtype="float64",
        )

    x0 = vectors.get_flat(params).astype("float64")
    return Residuals(fun=fun, jac=jac, x0=x0, params=params)
