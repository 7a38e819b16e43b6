"""The bridge to SciPy: objectives, residuals, natural gradient as a method, and operators."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.modes import modes
from scipy.optimize import least_squares, minimize
from scipy.sparse.linalg import eigsh, lsmr, lsqr

import symng

MODE = "FAST_COMPILE"


def flat(case):
    """Return the parameters of a case as one vector."""
    return np.concatenate([p.get_value().ravel() for p in case.params])


def problem_of(case, **options):
    return case.objective.to_scipy(*case.givens.values(), **{"mode": MODE} | options)


def gradient_of(case):
    """Return the gradient by differences."""
    return oracles.jacobian(case.loss, case.params, case.givens)


def test_functions_against_differences():
    case = oracles.mlp_case("categorical")
    p = problem_of(case)
    assert p.x0.dtype == "float64"
    np.testing.assert_array_equal(p.x0, flat(case))
    at = p.x0 + 0.1
    v = np.random.default_rng(0).standard_normal(len(at))
    loss, slope, product = p.fun(at), p.jac(at), p.hessp(at, v)
    np.testing.assert_array_equal(flat(case), p.x0)  # they leave the parameters alone
    p.set(at)
    np.testing.assert_array_equal(flat(case), at)
    assert abs(loss - oracles.value(case.loss, case.givens)) < 1e-12
    assert oracles.relative_error(slope, gradient_of(case)) < 1e-9
    assert oracles.relative_error(product, oracles.hessian(case) @ v) < 1e-8


def test_the_metric_may_take_the_place_of_the_hessian():
    case = oracles.mlp_case("categorical")
    p = problem_of(case, metric=symng.Fisher())
    at = p.x0 - 0.2
    v = np.random.default_rng(0).standard_normal(len(at))
    product = p.hessp(at, v)
    p.set(at)
    assert oracles.relative_error(product, oracles.fisher(case) @ v) < 1e-9


@pytest.mark.parametrize("mode", modes("CVM", "NUMBA", "JAX", slow=("CVM", "NUMBA", "JAX")))
def test_functions_on_backends_in_float32(mode):
    case, reference = (oracles.mlp_case("bernoulli", dtype=d) for d in ("float32", "float64"))
    p, q = problem_of(case, mode=mode), problem_of(reference)
    v = np.ones(len(p.x0))
    assert abs(p.fun(p.x0) - q.fun(q.x0)) < 1e-5
    assert oracles.relative_error(p.jac(p.x0), q.jac(q.x0)) < 1e-4
    assert oracles.relative_error(p.hessp(p.x0, v), q.hessp(q.x0, v)) < 1e-4
    assert p.jac(p.x0).dtype == "float64"


def linear_case():
    """Return a least-squares model, its data and the solution."""
    rng = np.random.default_rng(0)
    X, T = rng.standard_normal((20, 3)), rng.standard_normal(20)
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.zeros(3), name="w")
    y = x @ w
    objective = symng.Objective(pt.sqr(y - t).mean() / 2, y, [w], inputs=[x], targets=[t])
    return objective, (X, T), np.linalg.lstsq(X, T)[0], (y - t, {x: X, t: T})


@pytest.mark.parametrize("method", ["trust-ncg", "Newton-CG", "trust-krylov"])
def test_newton_methods(method):
    objective, batch, solution, _ = linear_case()
    p = objective.to_scipy(*batch, mode=MODE)
    p.set(minimize(p.fun, p.x0, jac=p.jac, hessp=p.hessp, method=method).x)
    np.testing.assert_allclose(objective.params[0].get_value(), solution, atol=1e-4)


def test_a_sum_of_objectives():
    objective, (X, T), _, _ = linear_case()
    p = (objective + 0.5 * objective).to_scipy((X, T), (X, T), mode=MODE)
    q = objective.to_scipy(X, T, mode=MODE)
    at, v = p.x0 + 1, np.array([1.0, -1.0, 2.0])
    assert abs(p.fun(at) - 1.5 * q.fun(at)) < 1e-12
    np.testing.assert_allclose(p.jac(at), 1.5 * q.jac(at))
    np.testing.assert_allclose(p.hessp(at, v), 1.5 * q.hessp(at, v))


def test_natural_gradient_as_a_method():
    objective, batch, solution, _ = linear_case()
    p = objective.to_scipy(*batch, mode=MODE)
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result.fun)

    method = symng.scipy.natural_gradient(p, symng.NaturalGradient(damping=1e-3), mode=MODE)
    result = minimize(p.fun, p.x0, method=method, tol=1e-6, callback=callback)
    np.testing.assert_allclose(result.x, solution, atol=1e-5)
    assert result.success and result.nit == len(seen) and "gradient" in result.message
    assert result.fun == p.fun(result.x)
    np.testing.assert_array_equal(objective.params[0].get_value(), p.x0)
    short = minimize(p.fun, p.x0, method=method, options={"maxiter": 1})
    assert short.nit == 1 and not short.success


def test_a_callback_stops_natural_gradient():
    objective, batch, _, _ = linear_case()
    p = objective.to_scipy(*batch, mode=MODE)

    def callback(xk):
        assert len(xk) == 3
        raise StopIteration

    method = symng.scipy.natural_gradient(p, symng.NaturalGradient(damping=1.0), mode=MODE)
    assert minimize(p.fun, p.x0, method=method, callback=callback).nit == 1


def test_residuals_and_their_jacobian():
    case = oracles.mlp_case("gaussian")
    t = case.objective.targets[0]
    r = case.objective.output - t
    q = symng.scipy.residuals(r, case.params, case.givens, mode=MODE)
    J = q.jac(q.x0)
    dense = oracles.jacobian(r, case.params, case.givens).reshape(J.shape)
    assert J.shape == (15, len(q.x0))
    assert oracles.relative_error(J @ np.eye(len(q.x0)), dense) < 1e-9
    assert oracles.relative_error(J.T @ np.eye(15), dense.T) < 1e-9
    np.testing.assert_allclose(q.fun(q.x0), oracles.value(r, case.givens).ravel())


def test_least_squares_lsmr_and_lsqr():
    _, (_, T), solution, (r, givens) = linear_case()
    w = next(v for v in pytensor.graph.traversal.graph_inputs([r]) if v.name == "w")
    q = symng.scipy.residuals(r, [w], givens, mode=MODE)
    q.set(least_squares(q.fun, q.x0, jac=q.jac).x)
    np.testing.assert_allclose(w.get_value(), solution, atol=1e-7)
    for solver in (lsmr, lsqr):
        np.testing.assert_allclose(solver(q.jac(q.x0), T)[0], solution, atol=1e-4)


def test_scipy_gets_no_symbolic_operator():
    A = symng.LinearOperator(lambda v: 2.0 * v, size=5)
    with pytest.raises(TypeError, match=r"SciPy takes a compiled operator: A.to_scipy"):
        eigsh(A, k=1)
    assert eigsh(A.to_scipy(mode=MODE), k=1, return_eigenvectors=False).round(8) == 2


def test_mistakes():
    objective, (X, T), _, _ = linear_case()
    with pytest.raises(ValueError, match="batch: expected 2 arrays"):
        objective.to_scipy(X)
    with pytest.raises(TypeError, match="metric: expected a metric such as symng.Fisher"):
        objective.to_scipy(X, T, metric="fisher")
    with pytest.raises(TypeError, match="problem: expected what objective.to_scipy"):
        symng.scipy.natural_gradient(objective)
    p = objective.to_scipy(X, T, mode=MODE)
    method = symng.scipy.natural_gradient(p, mode=MODE)
    with pytest.raises(ValueError, match="bounds: expected none for natural_gradient"):
        minimize(p.fun, p.x0, method=method, bounds=[(0, 1)] * 3)
    with pytest.raises(TypeError, match="options: expected maxiter and tol, got gtol"):
        minimize(p.fun, p.x0, method=method, options={"gtol": 1})
