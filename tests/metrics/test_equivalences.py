"""What the paper proves equal is equal.

Matrices that agree in expectation, ratios in their limits.
"""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.oracles import mlp_case, relative_error

import symng


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli", "categorical"])
def test_empirical_fisher_is_the_fisher_matrix_on_targets_of_the_model(kind):
    """In expectation, uncentered, with targets drawn from p(t | x).

    By 20 batches, each with all examples 200 times.
    """
    case, batches, repeats = mlp_case(kind, "r"), 20, 200
    (x, X), (t, _) = case.givens.items()
    generator = pt.random.shared_rng(np.random.default_rng(0))
    following, targets = case.objective.likelihood.sample(case.objective.output, generator)
    draw = pytensor.function([x], targets, updates={generator: following})
    X = np.tile(X, (repeats, 1))
    vs = np.random.default_rng(1).standard_normal((3, case.size))
    U = symng.EmpiricalFisher()(case.objective)
    multiply = pytensor.function([x, t], [U @ v for v in vs])
    found = [multiply(X, draw(X)) for _ in range(batches)]
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(batches)
    wanted = vs @ oracles.fisher(case)
    assert (
        relative_error(
            pt.stack([symng.Fisher()(case.objective) @ v for v in vs]).eval({x: X}), wanted
        )
        < 1e-10
    )
    z = (mean - wanted) / error
    # Deviations as large as chance makes them.
    assert abs(z).max() < 6 and 0.6 < np.sqrt(np.mean(z**2)) < 1.6
    assert relative_error(mean, wanted) < 0.05


# Reduction ratios


@pytest.fixture(scope="module")
def least_squares():
    """Return linear least squares, whose Hessian is the Fisher matrix, with its batch."""
    rng = np.random.default_rng(1)
    x, t, w = pt.matrix("x"), pt.vector("t"), pytensor.shared(np.array([1.0, -2.0, 0.5]), name="w")
    y = x @ w
    objective = symng.Objective(pt.sqr(y - t).mean() / 2, y, [w], [x], [t])
    X = rng.standard_normal((20, 3)) * [1.0, 0.5, 2.0]
    return objective, (X, rng.standard_normal(20))


@pytest.mark.parametrize(
    "ratio, damped_model, limits",
    [
        ("linear", True, (0.5, 1.0)),
        ("quadratic", True, (1.0, 2.0)),
        ("quadratic", False, (1.0, 1.0)),
    ],
)
def test_limits_of_the_reduction_ratios(least_squares, ratio, damped_model, limits):
    """As the damping goes to 0 and to infinity, with exact solves and step size 1.

    Between them, what NumPy says.
    """
    objective, (X, T) = least_squares
    (w,), H = objective.params, X.T @ X / len(X)
    rule = symng.LevenbergMarquardt(initial=1.0, ratio=ratio, damped_model=damped_model)
    optimizer = symng.NaturalGradient(solver=symng.CG(rtol=1e-14, maxiter=20), damping=rule)
    step = symng.compile_step(objective, optimizer)
    start = w.get_value()
    g = X.T @ (X @ start - T) / len(X)
    found = []
    for damping in (1e-7, 0.1, 1.0, 10.0, 1e5):
        w.set_value(start)
        step.state["damping"].set_value(damping)
        found.append(step((X, T)).reduction_ratio)
        p = np.linalg.solve(H + damping * np.eye(3), g)
        predicted = g @ p
        if ratio == "quadratic":
            predicted -= p @ (H + damping * damped_model * np.eye(3)) @ p / 2
        assert abs(found[-1] - (g @ p - p @ H @ p / 2) / predicted) < 1e-8
    w.set_value(start)
    assert abs(found[0] - limits[0]) < 1e-5
    assert abs(found[-1] - limits[1]) < 1e-4
    assert (np.diff(found) > -1e-8).all()
