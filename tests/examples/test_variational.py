"""examples/variational has the right metric and bounds, and draws."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

import symng

FOLDER = Path(__file__).parents[2] / "examples" / "variational"
rng = np.random.default_rng(0)
N = 3


@pytest.fixture
def gaussians(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gaussians")


@pytest.fixture
def models(gaussians):
    return importlib.import_module("models")


def at_random(q):
    """Return q with parameters at random, and its mean and precision matrix."""
    root = rng.standard_normal((N, N))
    P = root @ root.T + np.eye(N)
    full = hasattr(q, "rows")
    P = P if full else np.diag(np.diag(P))
    q.linear.set_value(rng.standard_normal(N))
    q.precision.set_value(P[q.rows, q.columns] if full else np.diag(P))
    return q, np.linalg.solve(P, q.linear.get_value()), P


def dense_fisher(q, m, P):
    """Return J^T I J: the Fisher matrix I of mean and covariance, and their Jacobian J."""
    S = np.linalg.inv(P)
    columns = []
    for e in np.eye(N + q.precision.get_value().size):
        dP = np.zeros((N, N))
        rows, others = (q.rows, q.columns) if hasattr(q, "rows") else (range(N), range(N))
        dP[rows, others] = dP[others, rows] = e[N:]
        columns.append((S @ (e[:N] - dP @ m), -S @ dP @ S))
    return np.array(
        [
            [a @ P @ b + np.trace(P @ A @ P @ B) / 2 for b, B in columns]  # of two tangents
            for a, A in columns
        ]
    )


@pytest.mark.parametrize("kind", ["MeanField", "FullRank"])
def test_product_is_that_of_the_dense_closed_form(gaussians, kind):
    q, m, P = at_random(getattr(gaussians, kind)(N))
    mean, covariance = q.moments()
    np.testing.assert_allclose(mean, m)
    np.testing.assert_allclose(covariance, np.linalg.inv(P))
    np.testing.assert_allclose(q.log_det.eval(), -np.linalg.slogdet(P)[1])
    objective = symng.Objective(
        q.mean.sum() + q.log_det, pt.concatenate(q.params)[None], q.params, inputs=[]
    )
    metric = gaussians.NormalFisher(q=q)
    F = dense_fisher(q, m, P)
    matrix = metric(objective).materialise().eval(mode="FAST_COMPILE")
    np.testing.assert_allclose(matrix, F, rtol=1e-9, atol=1e-12)
    v = pt.as_tensor_variable(rng.standard_normal(len(F)))
    x = metric.inverse(objective)(None, 0.0)(v).eval(mode="FAST_COMPILE")
    np.testing.assert_allclose(F @ x, v.eval(), rtol=1e-8, atol=1e-10)


def test_other_parameters_are_coupled_with_q(gaussians, models):
    x, y = models.process_data(12, 0)
    bound = models.process_bound(np.linspace(-3, 3, N), x, y)
    at_random(bound.q)
    objective, metric = bound.objective, gaussians.NormalFisher(q=bound.q)
    matrix, inverse = pytensor.function(
        [],
        [
            metric(objective).materialise(),
            symng.LinearOperator(
                metric.inverse(objective)(None, 0.0), size=objective.size, dtype="float64"
            ).materialise(),
        ],
        mode="FAST_COMPILE",
    )()
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(matrix @ inverse, np.eye(len(matrix)), atol=1e-6)
    assert np.linalg.eigvalsh(matrix)[0] > 0
    gradient = pytensor.function(
        [], pytensor.grad(objective.loss, list(objective.params)), mode="FAST_COMPILE"
    )
    found = []
    for sign in (1, -1):  # C by differences
        bound.others[1].set_value(np.array(1e-6 * sign))
        found.append(np.concatenate([g.ravel() for g in gradient()[:2]]))
    bound.others[1].set_value(np.array(0.0))
    size = len(found[0])
    C = (found[0] - found[1]) / 2e-6
    np.testing.assert_allclose(matrix[:size, size + 1], C, rtol=1e-5, atol=1e-5)


def collapsed(inducing, x, y, jitter):
    """Return the negative bound of the best q, of Titsias, with all hyperparameters 1."""

    def kernel(a, b):
        return np.exp(-((a[:, None] - b) ** 2) / 2)

    K = kernel(inducing, inducing) + jitter * np.eye(len(inducing))
    Q = kernel(x, inducing) @ np.linalg.solve(K, kernel(inducing, x))
    C = Q + np.eye(len(x))
    fit = y @ np.linalg.solve(C, y) + np.linalg.slogdet(C)[1] + len(x) * np.log(2 * np.pi)
    return (fit + len(x) * (1 + jitter) - np.trace(Q)) / 2


def test_one_step_finds_the_best_q_of_a_process(gaussians, models):
    x, y = models.process_data(15, 0)
    inducing = np.linspace(-3, 3, 4)
    bound = models.process_bound(inducing, x, y)
    fixed = symng.Objective(bound.objective.loss, bound.objective.output, bound.q.params, inputs=[])
    metric = gaussians.NormalFisher(q=bound.q)
    optimizer = symng.NaturalGradient(
        metric=metric,
        solver=symng.CG(rtol=1e-10),
        preconditioner=metric.inverse(fixed),
        damping=0.0,
    )
    step = symng.compile_step(fixed, optimizer, mode="FAST_COMPILE")
    step(())
    expected = collapsed(inducing, x, y, models.JITTER)
    np.testing.assert_allclose(float(fixed.loss.eval(mode="FAST_COMPILE")), expected, rtol=1e-9)


def test_bound_of_a_regression_is_that_of_an_integral(models, gaussians):
    peers = importlib.import_module("peers")
    X, T = models.logistic_data(1, 6, 0)
    q = gaussians.FullRank(1)
    q.linear.set_value([0.6])
    q.precision.set_value([2.0])
    bound = models.logistic_bound(q, X, T, scale=1.5)
    w = np.linspace(-8, 8, 4001)
    density = np.exp(-((w - 0.3) ** 2)) / np.sqrt(np.pi)
    log_prior = -((w / 1.5) ** 2) / 2 - np.log(1.5 * np.sqrt(2 * np.pi))
    log_joint = log_prior - np.logaddexp(0, -T[:, None] * X * w).sum(axis=0)
    value = np.sum(density * (log_joint - np.log(density + 1e-300))) * (w[1] - w[0])
    np.testing.assert_allclose(-float(bound.objective.loss.eval()), value, rtol=1e-6)
    np.testing.assert_allclose(peers.logistic_value(*q.moments(), X, T, 1.5), value, rtol=1e-6)


@pytest.mark.slow
def test_the_program_draws(models, tmp_path, capsys):
    program = importlib.import_module("variational")
    line = "--steps 4 --features 2 --examples 15 --inducing 4 --mode FAST_COMPILE --out"
    assert program.main([*line.split(), str(tmp_path)]) == 0
    *rows, _ = capsys.readouterr().out.splitlines()
    assert [row.split(": ")[0].split(", ", 1)[1] for row in rows] == [
        "symng, mean-field",
        "symng, full-rank",
        "symng",
    ]
    assert (tmp_path / "variational.png").read_bytes().startswith(b"\x89PNG")
