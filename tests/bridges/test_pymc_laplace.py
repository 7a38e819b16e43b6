"""Normal approximations of posteriors of PyMC models, against dense matrices."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

pm = pytest.importorskip("pymc", minversion="6.0")

import symng  # noqa: E402
from symng.bridges import _pymc_normal  # noqa: E402
from symng.bridges._pymc_normal import approximate, dense, matrix_free  # noqa: E402

rng = np.random.default_rng(0)
X = rng.standard_normal((30, 2))
Y = X @ [1.0, -0.5] + 0.3 * rng.standard_normal(30)
QUIET = dict(progressbar=False, compile_kwargs={"mode": "FAST_COMPILE"})


def regression():
    with pm.Model() as model:
        w = pm.Normal("w", 0.0, 2.0, shape=2)
        sigma = pm.Exponential("sigma", 1.0)
        pm.Normal("y", pm.math.dot(X, w), sigma, observed=Y)
    return model


def fisher_at(w, sigma):
    """Return the Fisher matrix in w and log sigma, with the Hessian of the priors."""
    A = np.zeros((3, 3))
    A[:2, :2] = X.T @ X / sigma**2 + np.eye(2) / 4
    A[2, 2] = 2 * len(Y) + sigma  # of the prior: sigma - log sigma, the latter the Jacobian
    return A


def hessian_at(w, sigma):
    e = Y - X @ w
    A = fisher_at(w, sigma)
    A[2, 2] = 2 * (e**2).sum() / sigma**2 + sigma
    A[:2, 2] = A[2, :2] = 2 * X.T @ e / sigma**2
    return A


@pytest.mark.parametrize("curvature, matrix_at", [("hessian", hessian_at), ("fisher", fisher_at)])
def test_covariance_is_the_inverse_of_the_curvature(curvature, matrix_at):
    tree = symng.pymc.laplace(regression(), curvature=curvature, **QUIET)
    assert bool(tree["optimizer_result"]["success"])
    fit = tree["fit"]
    *w, log_sigma = fit["mean_vector"].values
    sigma = np.exp(log_sigma)
    np.testing.assert_allclose(
        fit["covariance_matrix"], np.linalg.inv(matrix_at(w, sigma)), rtol=1e-8, atol=1e-12
    )
    # The mode of the density of log sigma: the slope of its Jacobian is 1.
    e = Y - X @ w
    np.testing.assert_allclose((e**2).sum() / sigma**2 - len(Y) - sigma + 1, 0, atol=1e-5)
    assert list(fit["covariance_matrix"]["rows"].values) == ["w[0]", "w[1]", "sigma_log__"]


def test_a_mode_without_curvature_is_refused():
    with pm.Model() as model:
        a = pm.Flat("a", initval=1.0)
        b = pm.Flat("b", initval=2.0)
        pm.Normal("y", a + b, 1.0, observed=np.ones(3))
    with pytest.raises(ValueError, match="curvature: expected one that is positive definite"):
        symng.pymc.laplace(model, **QUIET)


def test_draws_are_those_of_the_normal():
    tree = symng.pymc.laplace(regression(), draws=400, random_seed=1, **QUIET)
    assert tree["posterior"]["w"].shape == (1, 400, 2)
    draws = np.column_stack(
        [tree["posterior"]["w"].values[0], np.log(tree["posterior"]["sigma"].values[0])]
    )
    root = np.linalg.cholesky(tree["fit"]["covariance_matrix"].values)
    z = np.linalg.solve(root, (draws - tree["fit"]["mean_vector"].values).T)
    # Standard normal numbers, up to four standard errors.
    np.testing.assert_allclose(z.mean(axis=1), 0, atol=4 / np.sqrt(400))
    np.testing.assert_allclose(np.cov(z), np.eye(3), atol=4 * np.sqrt(2 / 400))
    again = symng.pymc.laplace(regression(), draws=1, random_seed=1, **QUIET)
    np.testing.assert_array_equal(again["posterior"]["w"][0, 0], tree["posterior"]["w"][0, 0])


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
def test_draws_have_the_inverse_as_covariance(condition):
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0]
    A = (Q * np.geomspace(1, condition, 40)) @ Q.T
    A = A * np.outer(scales := np.geomspace(1e-3, 1e3, 40), scales)
    inverse = np.linalg.inv(A)
    # Relative to the standard deviations.
    relative = np.sqrt(np.outer(np.diag(inverse), np.diag(inverse)))
    draw, solve = matrix_free(lambda v: A @ v, 40, "hessian")
    for function in (draw, dense(A, "hessian")[0]):
        root = np.array([function(row) for row in np.eye(40)]).T
        np.testing.assert_allclose((root @ root.T) / relative, inverse / relative, atol=1e-4)
    b = scales * np.ones(40)
    np.testing.assert_allclose(solve(b), np.linalg.solve(A, b), rtol=1e-3, atol=1e-9)


def test_an_indefinite_matrix_is_refused_without_being_formed():
    values = np.linspace(-0.1, 3.0, 30)
    draw, _ = matrix_free(lambda v: values * v, 30, "hessian")
    with pytest.raises(ValueError, match="curvature: expected one that is positive definite"):
        draw(np.ones(30))


def test_a_large_matrix_is_never_formed():
    n = 3000
    curvature = np.linspace(1.0, 3.0, n)
    A = symng.LinearOperator(lambda v: curvature * v, size=n)
    tracemalloc.start()
    draw, block = approximate(A, "fisher", [0, n - 1], "FAST_COMPILE")
    drawn = draw(np.ones(n))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(block, np.diag([1.0, 1 / 3.0]), atol=1e-6)
    np.testing.assert_allclose(drawn, curvature**-0.5, rtol=1e-5)
    assert peak < 8 * n * n / 10


def test_a_large_model_has_the_covariance_that_is_asked_for(monkeypatch):
    arguments = dict(draws=2, random_seed=0, **QUIET)
    expected = symng.pymc.laplace(regression(), **arguments)["fit"]["covariance_matrix"]
    monkeypatch.setattr(_pymc_normal, "MAX_FORMED", 2)
    monkeypatch.setattr(symng.bridges.pymc, "MAX_FORMED", 2)
    tree = symng.pymc.laplace(regression(), covariance_of=["sigma"], **arguments)
    found = tree["fit"]["covariance_matrix"]
    assert list(found["covariance_rows"].values) == ["sigma_log__"]
    np.testing.assert_allclose(found, expected[2:, 2:], rtol=1e-8)
    tree = symng.pymc.laplace(regression(), **arguments)
    assert "covariance_matrix" not in tree["fit"]
    assert tree["posterior"]["w"].shape == (1, 2, 2)


def test_all_draws_of_a_large_model_are_of_the_curvature_at_the_mode(monkeypatch):
    monkeypatch.setattr(_pymc_normal, "MAX_FORMED", 2)
    monkeypatch.setattr(symng.bridges.pymc, "MAX_FORMED", 2)
    tree = symng.pymc.laplace(regression(), draws=3, random_seed=0, **QUIET)
    w = tree["posterior"]["w"].values[0]
    mode = tree["fit"]["mean_vector"].values
    matrix = hessian_at(mode[:2], np.exp(mode[2]))
    draw, _ = matrix_free(lambda v: matrix @ v, 3, "hessian")
    rng = np.random.default_rng(0)
    expected = [mode[:2] + draw(rng.standard_normal(3))[:2] for _ in range(3)]
    np.testing.assert_allclose(w, expected, rtol=1e-6)
