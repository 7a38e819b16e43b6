"""Normal approximations of posteriors of PyMC models, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

pm = pytest.importorskip("pymc", minversion="6.0")

import symng  # noqa: E402

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
    w, sigma = tree["posterior"]["w"].values[0, 0], float(tree["posterior"]["sigma"].values[0, 0])
    fit = tree["fit"]
    np.testing.assert_allclose(fit["mean_vector"], [*w, np.log(sigma)])
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
