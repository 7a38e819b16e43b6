"""`ksd`: the tests of the original ksd-theano, and its steps against dense matrices."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import predefined_modes
from scipy.linalg import subspace_angles
from scipy.optimize import check_grad

from symng.backends import UNOPTIMIZED
from symng.legacy import ksd
from symng.legacy.hf import SequenceDataset
from symng.legacy.ksd import (
    Model,
    floor_matrix,
    floor_vector,
    get_optimizer_functions,
    get_subspace,
    krylov_descent,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Compile without rewrites, in both tiers: the models are tiny."""
    monkeypatch.setitem(predefined_modes, "FAST_COMPILE", UNOPTIMIZED)


def definite(rng, n=10):
    a = rng.normal(size=(n, n))
    return a @ a.T


class TestSubspace:
    def test_basis_and_matrix(self):
        rng = np.random.default_rng(0)
        A, C, b, d = definite(rng), rng.uniform(0.01, 1, 10), rng.normal(size=10), np.eye(10)[3]
        P, H = get_subspace(lambda x: A @ x, b, 5, precon=lambda x: C * x, d_prev=d)
        np.testing.assert_allclose(P.T @ P, np.eye(6), atol=1e-10)
        np.testing.assert_allclose(H, P.T @ A @ P, atol=1e-8)
        assert (H == H.T).all() and np.linalg.eigvalsh(H).min() > 0
        CA = np.diag(C) @ A
        krylov = [np.linalg.matrix_power(CA, k) @ (C * b) for k in range(5)]
        assert subspace_angles(P[:, :5], np.array(krylov).T).max() < 1e-4
        rest = d - P @ (P.T @ d)
        np.testing.assert_allclose(rest, 0, atol=1e-10)

    def test_a_direction_in_the_span_leaves_zeros(self):
        b = np.array([1.0, 0.0, 0.0])
        P, H = get_subspace(lambda x: 2 * x, b, 1, d_prev=5 * b)
        np.testing.assert_array_equal(P, [[1, 0], [0, 0], [0, 0]])
        np.testing.assert_array_equal(H, [[2, 0], [0, 0]])

    def test_functions_on_the_subspace_have_the_right_gradient(self):
        rng = np.random.default_rng(1)
        A, b, w, d = definite(rng), *rng.normal(size=(3, 10))
        P, H = get_subspace(lambda x: A @ x, b, 5, d_prev=w)

        def cost(delta, dataset):
            return np.log(1 + np.exp(-(w + delta) @ d))

        def slope(x, dataset):
            return (1 / (1 + np.exp(-(w + x) @ d)) - 1) * d, 0

        functions = get_optimizer_functions(np.linalg.cholesky(H), P, cost, slope, None)
        assert check_grad(*functions, rng.normal(size=6)) < 1e-5


class TestFloor:
    def test_definite_matrix_stays(self):
        A = definite(np.random.default_rng(2))
        np.testing.assert_allclose(floor_matrix(A, 1e-8), A, atol=1e-10)

    def test_small_eigenvalues_are_raised(self):
        Q = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
        found = floor_matrix((Q * [4.0, 1.0, 1e-9]) @ Q.T, 0.5)
        np.testing.assert_allclose(found, (Q * [4.0, 2.0, 2.0]) @ Q.T, atol=1e-10)

    def test_vector(self):
        np.testing.assert_array_equal(floor_vector(np.array([1.0, 10.0, 3.0]), 0.2), [2, 10, 3])


N, D = 6, 3


@pytest.fixture(scope="module")
def logistic():
    """A logistic regression with two outputs, its data, and its matrices in NumPy."""
    rng = np.random.default_rng(4)
    X, W = rng.normal(size=(N, D)), rng.normal(size=(D, 2))
    T = (rng.random((N, 2)) < 0.5).astype(float)
    x, t, w = pt.dmatrix("x"), pt.dmatrix("t"), pytensor.shared(W, name="w")
    s = x @ w
    model = Model([w], [x, t], s, [(pt.softplus(s) - t * s).sum() / x.shape[0], s.sum()])
    Y = 1 / (1 + np.exp(-X @ W))
    slopes = np.einsum("ia,ij->iaj", X, Y - T).reshape(N, -1)
    weights = np.einsum("ij,jl->ijl", Y * (1 - Y), np.eye(2))
    G = np.einsum("ia,ijl,ie->ajel", X, weights, X).reshape(2 * D, 2 * D) / N
    return model, SequenceDataset([[X], [T]], None, 1), slopes, G, W


class TestModel:
    def test_products(self, logistic):
        model, data, slopes, G, _ = logistic
        [batch] = data.iterate(update=False)
        v = np.random.default_rng(5).normal(size=(D, 2))
        for product in (model.function_Gv, model.function_Hv):  # the same: s is linear
            [found] = product(*batch, v, 0.0)
            np.testing.assert_allclose(found.ravel(), G @ v.ravel(), rtol=1e-10)
        gradient, costs = model.gradient_and_costs(data)
        np.testing.assert_allclose(gradient, slopes.mean(axis=0), rtol=1e-10)
        assert len(costs) == 1 and len(costs[0]) == 2

    def test_costs_at_other_parameters_leave_them(self, logistic):
        model, data, slopes, _, W = logistic
        before, after = model.quick_cost(data), model.quick_cost(data, 1e-6 * np.ones(2 * D))
        np.testing.assert_allclose((after - before) / 1e-6, slopes.mean(axis=0).sum(), rtol=1e-4)
        np.testing.assert_array_equal(model.p[0].get_value(), W)

    def test_martens_preconditioner(self, logistic):
        model, data, slopes, _, _ = logistic
        found = ksd._inverse_preconditioner(model, data, "martens")
        D = (slopes**2).sum(axis=0)
        np.testing.assert_allclose(found, np.maximum(D, 1e-4 * D.max()) ** -0.75, rtol=1e-10)

    def test_jacobi_preconditioner_estimates_the_diagonal(self, logistic, monkeypatch):
        model, data, _, G, _ = logistic
        monkeypatch.setattr(ksd, "_DRAWS", 2000)
        np.random.seed(0)  # noqa: NPY002 - the generator that the function draws from
        found = ksd._inverse_preconditioner(model, data, "jacobi")
        np.testing.assert_allclose(found, (2000 * np.diag(G)) ** -0.75, rtol=0.1)


@pytest.mark.parametrize("preconditioning", [False, "martens", "jacobi"])
def test_descent_with_the_full_space_reaches_the_minimum(preconditioning, logistic, capsys):
    model, data, *_, W = logistic
    w = model.p[0]
    w.set_value(W)
    # More examples than the model can fit, so that there is a minimum.
    rng = np.random.default_rng(6)
    X = rng.normal(size=(40, D))
    data = SequenceDataset([[X], [(rng.random((40, 2)) < 0.5).astype(float)]], None, 1)
    settings = dict(iterations=2, space_size=2 * D - 1, preconditioning=preconditioning)
    costs = krylov_descent(model, data, data, data, **settings)
    assert costs[1][0] < costs[0][0]
    gradient, _ = model.gradient_and_costs(data)
    assert np.linalg.norm(gradient) < 1e-4
    printed = capsys.readouterr().out
    assert "iteration: 0 costs:" in printed and "gnorm" in printed
    w.set_value(W)


def test_preconditioner_that_does_not_exist(logistic):
    model, data, *_ = logistic
    with pytest.raises(ValueError, match="preconditioning: expected 'martens', 'jacobi' or False"):
        krylov_descent(model, data, data, data, preconditioning="fisher")
