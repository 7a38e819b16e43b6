"""`ksd`: the tests of the original ksd-theano, its steps against dense matrices, and its runs.

``data/ksd.json`` holds what the original gave on Theano 0.6: subspaces in float64, and runs of an
autoencoder on made-up curves in float32, as its script for the curves has them.
"""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import scipy.optimize
from helpers.originals import BOUNDS as ORIGINALS
from helpers.originals import recorded
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

RECORDED, BOUNDS = recorded("ksd"), ORIGINALS["ksd"]


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

    @pytest.mark.parametrize("name", ["plain", "preconditioned"])
    def test_quirks_give_the_recorded_subspace(self, name):
        rng = np.random.RandomState(0)
        a = rng.normal(size=(10, 10))
        A, C, b, d = a @ a.T, rng.uniform(0.01, 1, 10), rng.normal(size=10), rng.normal(size=10)
        precon = None if name == "plain" else lambda v: C * v
        P, H = get_subspace(lambda v: A @ v, b, 4, precon, d, quirks=True)
        for found, key in ((P, "P"), (H, "H"), (floor_matrix(H, 0.1), "floored")):
            np.testing.assert_allclose(
                found, RECORDED[name][key], atol=BOUNDS["subspaces"], err_msg=key
            )

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


class Shuffled:
    """Batches of a matrix of examples, in an order drawn at each update, as the script has them."""

    def __init__(self, data, size, count):
        self.data, self.size, self.number_batches = data, size, count
        self.indices = list(range(len(data)))
        self.update()

    def iterate(self, update=True):
        for k in range(self.number_batches):
            yield [self.data[self.indices[k * self.size : (k + 1) * self.size]]]

    def update(self):
        np.random.shuffle(self.indices)  # noqa: NPY002 - seeded as the original is


@pytest.fixture(scope="module")
def autoencoder():
    """Return the autoencoder of the record in float32, and curves on images of 8 x 8 pixels."""
    rng, x, rows = np.random.RandomState(1), np.linspace(-1, 1, 8), np.arange(8)
    middle = 3.5 + np.dot(rng.uniform(-2, 2, (60, 3)), [x**0, x, x**2])
    curves = np.exp(-((rows[None, :, None] - middle[:, None, :]) ** 2))
    shapes = [(64, 8), (8, 3), (3, 8), (8, 64)]
    with pytensor.config.change_flags(floatX="float32"):
        W = [
            pytensor.shared(np.array(values, "float32").reshape(shape))
            for values, shape in zip(RECORDED["first"], shapes, strict=True)
        ]
        b = [pytensor.shared(np.zeros(shape[1], "float32")) for shape in shapes]
        inputs = pt.fmatrix("x")
        a = inputs
        for k in range(4):
            s = a @ W[k] + b[k]
            a = s if k == 1 else 1 / (1 + pt.exp(-s))
        log, log_of_rest = s - pt.log(1 + pt.exp(s)), -s - pt.log(1 + pt.exp(-s))
        cost = -(inputs * log + (1 - inputs) * log_of_rest).sum()
        model = Model(W + b, [inputs], s, [cost, 64 * pt.sqr(a - inputs).mean()])
    return model, curves.reshape(60, 64).astype("float32"), [p.get_value() for p in W + b]


# BFGS in float32 ends at its limit, or where rounding errors end its line search.
@pytest.mark.filterwarnings("ignore:Maximum number of iterations:scipy.optimize.OptimizeWarning")
@pytest.mark.filterwarnings("ignore:Desired error not:scipy.optimize.OptimizeWarning")
@pytest.mark.parametrize(
    "name, settings",
    [
        ("curves", {"preconditioning": "None"}),
        pytest.param("martens", {"preconditioning": "martens"}, marks=pytest.mark.slow),
        pytest.param("jacobi", {"preconditioning": "jacobi"}, marks=pytest.mark.slow),
        pytest.param("hessian", {"matrix_type": "H"}, marks=pytest.mark.slow),
    ],
)
def test_a_run_of_the_original(name, settings, autoencoder, monkeypatch):
    model, curves, first = autoencoder
    for p, value in zip(model.p, first, strict=True):
        p.set_value(value)
    np.random.seed(2)  # noqa: NPY002 - as the original was run
    data, rows = [Shuffled(curves, 20, count) for count in (3, 2, 2)], []
    subspace, minimize = ksd.get_subspace, scipy.optimize.fmin_bfgs

    def watched_subspace(matvec, b, *args):
        P, H = subspace(matvec, b, *args)
        rows.append(dict(gradient_norm=np.linalg.norm(b), H=np.diag(H)))
        return P, H

    def watched_minimize(*args, **options):
        results = minimize(*args, **options)
        rows[-1]["cost"] = results[1]
        return results

    monkeypatch.setattr(ksd, "get_subspace", watched_subspace)
    monkeypatch.setattr(scipy.optimize, "fmin_bfgs", watched_minimize)
    with pytensor.config.change_flags(floatX="float32"):
        krylov_descent(model, *data, iterations=3, space_size=6, maxfun=10, quirks=True, **settings)
    # In float32 the line searches stop where rounding errors decide, other ones on each processor.
    # The third step begins where the second has stopped.
    first, last = {key: BOUNDS[key] for key in ORIGINALS["ksd, third"]}, ORIGINALS["ksd, third"]
    theirs = RECORDED[f"run_{name}"]["rows"]
    for row, wanted, tolerances in zip(rows, theirs, (first, first, last), strict=True):
        for key, rtol in tolerances.items():
            np.testing.assert_allclose(row[key], wanted[key], rtol=rtol, err_msg=key)
