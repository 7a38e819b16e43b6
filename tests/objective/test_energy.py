"""Models given by energies and samples: a Boltzmann machine with a list of all states."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.compiled import columns, wide_tensors
from helpers.oracles import relative_error
from scipy import special

import symng

VISIBLE, HIDDEN = 3, 2
STATES = np.array(list(product((0.0, 1.0), repeat=VISIBLE)))


def make_params(seed: int = 0, dtype: str = "float64") -> list[Any]:
    """Return W, b and c as shared variables."""
    rng = np.random.default_rng(seed)
    shapes = {"W": (VISIBLE, HIDDEN), "b": (VISIBLE,), "c": (HIDDEN,)}
    return [
        pytensor.shared(rng.standard_normal(shape).astype(dtype), name=name)
        for name, shape in shapes.items()
    ]


def make(params: list[Any], dtype: str = "float64", **options: Any) -> symng.EnergyObjective:
    """Return the objective of a machine with parameters W, b, c.

    The hidden units are summed out of the energy.
    """
    W, b, c = params
    v, s = pt.matrix("v", dtype=dtype), pt.matrix("s", dtype=dtype)
    return symng.EnergyObjective(
        lambda x: -(x @ b) - pt.softplus(x @ W + c).sum(axis=1),
        params,
        **({"data": v, "samples": s} | options),
    )


# References in NumPy


def values_of(params: list[Any]) -> np.ndarray:
    return np.concatenate([p.get_value().ravel() for p in params])


def parts(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights, biases = theta[: VISIBLE * HIDDEN], theta[VISIBLE * HIDDEN :]
    return weights.reshape(VISIBLE, HIDDEN), biases[:VISIBLE], biases[VISIBLE:]


def energies(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    W, b, c = parts(theta)
    return -x @ b - np.logaddexp(0, x @ W + c).sum(axis=1)


def gradients(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the gradient of the energy of each row."""
    W, _, c = parts(theta)
    h = special.expit(x @ W + c)
    return -np.concatenate([(x[:, :, None] * h[:, None, :]).reshape(len(x), -1), x, h], axis=1)


def probabilities(theta: np.ndarray) -> np.ndarray:
    return special.softmax(-energies(theta, STATES))


def nll(theta: np.ndarray, x: np.ndarray) -> float:
    """Return the exact mean negative log-likelihood."""
    return energies(theta, x).mean() + special.logsumexp(-energies(theta, STATES))


def draw(theta: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    """Return exact samples."""
    return STATES[np.random.default_rng(seed).choice(len(STATES), count, p=probabilities(theta))]


@cache
def setting() -> tuple[symng.EnergyObjective, np.ndarray, np.ndarray, np.ndarray]:
    """Return the objective, its parameters, 5 examples and 40 samples of it."""
    params = make_params()
    theta = values_of(params)
    return make(params), theta, STATES[[1, 6, 6, 7, 2]], draw(theta, 40)


def matrix(metric: symng.Metric, objective: symng.Objective, *batch: np.ndarray) -> np.ndarray:
    return columns([metric(objective)], dict(zip(objective.inputs, batch, strict=True)))[0]


# Loss, gradient and metrics


def test_loss_and_gradient():
    objective, theta, X, S = setting()
    slopes = pytensor.grad(objective.loss, list(objective.params))
    loss, *found = pytensor.function(list(objective.inputs), [objective.loss, *slopes])(X, S)
    assert abs(loss - (energies(theta, X).mean() - energies(theta, S).mean())) < 1e-12
    wanted = gradients(theta, X).mean(axis=0) - gradients(theta, S).mean(axis=0)
    assert relative_error(np.concatenate([g.ravel() for g in found]), wanted) < 1e-12


@pytest.mark.parametrize(
    "metric", [symng.Fisher(), symng.Fisher(form="output"), symng.GaussNewton()], ids=repr
)
def test_metric_is_the_covariance_of_the_gradients_of_the_samples(metric):
    objective, theta, X, S = setting()
    wanted = np.cov(gradients(theta, S).T, bias=True)
    assert relative_error(matrix(metric, objective, X, S), wanted) < 1e-10


def test_hessian_is_that_of_the_estimated_likelihood():
    objective, theta, X, S = setting()
    got = matrix(symng.Hessian(), objective, X, S)

    def slope(at: np.ndarray) -> np.ndarray:
        """Return that of mean energy of X + log mean exp(energy of S at theta - that at ``at``)."""
        weights = special.softmax(energies(theta, S) - energies(at, S))
        return gradients(at, X).mean(axis=0) - weights @ gradients(at, S)

    wanted = np.array(
        [(slope(theta + 1e-5 * u) - slope(theta - 1e-5 * u)) / 2e-5 for u in np.eye(len(theta))]
    )
    assert relative_error(got, wanted) < 1e-7


def test_empirical_fisher_is_that_of_the_data():
    objective, theta, X, S = setting()
    g = gradients(theta, X)
    centered = np.cov(g.T, bias=True)
    assert (
        relative_error(matrix(symng.EmpiricalFisher(centered=True), objective, X, S), centered)
        < 1e-10
    )
    g = g - gradients(theta, S).mean(axis=0)
    assert (
        relative_error(matrix(symng.EmpiricalFisher(), objective, X, S), g.T @ g / len(g)) < 1e-10
    )


def test_metric_approaches_the_exact_fisher_matrix():
    """With exact samples, each entry within 5 standard errors of the covariance under p."""
    objective, theta, X, _ = setting()
    p, g, count = probabilities(theta), gradients(theta, STATES), 20_000
    g = g - p @ g
    exact = (p[:, None] * g).T @ g
    products = g[:, :, None] * g[:, None, :]
    error = np.sqrt(np.tensordot(p, (products - exact) ** 2, 1) / count)
    got = matrix(symng.Fisher(), objective, X, draw(theta, count))
    assert (abs(got - exact) < 5 * error + 1e-3 * abs(exact).max()).all()
    assert error.max() < 0.02 * abs(exact).max()
    assert relative_error(got, exact) < 0.03


def test_loss_and_likelihood_match():
    objective, _, X, S = setting()
    match = objective.check(X, S)
    assert match and match.reduction == "mean"


# The loss after a step


def test_loss_after_a_step_estimates_the_likelihood():
    """The importance-weighted estimate, with many samples the exact change of the likelihood."""
    objective, theta, X, _ = setting()
    S = draw(theta, 20_000)
    moved = [pytensor.shared(p.get_value()) for p in objective.params]
    change = objective.loss_at(moved) - objective.loss
    f = pytensor.function(list(objective.inputs), change)
    assert abs(f(X, S)) < 1e-12  # nothing has moved yet
    new = theta - 0.5 * (gradients(theta, X).mean(axis=0) - gradients(theta, S).mean(axis=0))
    for p, value in zip(moved, parts(new), strict=True):
        p.set_value(value)
    weights = energies(theta, S) - energies(new, S)
    wanted = (
        (energies(new, X) - energies(theta, X)).mean() + special.logsumexp(weights) - np.log(len(S))
    )
    assert abs(f(X, S) - wanted) < 1e-10
    error = np.std(np.exp(weights)) / np.exp(weights).mean() / np.sqrt(len(S))
    assert abs(f(X, S) - (nll(new, X) - nll(theta, X))) < 5 * error
    assert error < 0.1 * abs(nll(new, X) - nll(theta, X))


# Steps


def test_step_is_the_natural_gradient():
    """Other numbers of samples than of examples, and a metric batch of its own."""
    params = make_params()
    objective, theta = make(params), values_of(params)
    X, S, other = STATES[[1, 6, 6, 7, 2]], draw(theta, 40), draw(theta, 60, seed=2)
    solver = symng.CG(rtol=1e-13, maxiter=100)
    step = symng.compile_step(
        objective, symng.NaturalGradient(solver=solver, damping=0.1, step_size=0.5)
    )
    for metric_batch, of_metric in ((None, S), ((X[:1], other), other)):
        theta = values_of(params)
        g = gradients(theta, X).mean(axis=0) - gradients(theta, S).mean(axis=0)
        F = np.cov(gradients(theta, of_metric).T, bias=True)
        info = step((X, S), metric_batch=metric_batch)
        wanted = theta - 0.5 * np.linalg.solve(F + 0.1 * np.eye(len(theta)), g)
        assert relative_error(values_of(params), wanted) < 1e-10
        assert info.accepted


def test_natural_gradient_with_exact_samples_learns_the_data():
    """The damping follows the estimated likelihood."""
    params = make_params()
    objective = make(params)
    X = STATES[[0, 0, 7, 7, 7, 3]]
    optimizer = symng.NaturalGradient(
        solver=symng.CG(maxiter=11), damping=symng.LevenbergMarquardt(initial=0.1)
    )
    step = symng.compile_step(objective, optimizer)
    first = nll(values_of(params), X)
    for i in range(20):
        step((X, draw(values_of(params), 500, seed=i)))
    entropy = -sum(p * np.log(p) for p in (2 / 6, 3 / 6, 1 / 6))
    assert nll(values_of(params), X) - entropy < 0.05 * (first - entropy)


def test_minimize_with_samples_in_a_shared_variable():
    params = make_params()
    theta = values_of(params)
    X = STATES[[0, 0, 7, 7, 7, 3]]
    chains = pytensor.shared(draw(theta, 50), name="chains")
    objective = make(params, samples=chains)
    assert "samples:    chains, a shared variable" in repr(objective)
    seen = []

    def refresh(info: Any) -> None:
        seen.append(values_of(params))
        chains.set_value(draw(seen[-1], 50, seed=len(seen)))

    optimizer = symng.NaturalGradient(solver=symng.CG(rtol=1e-13, maxiter=100), damping=0.5)
    symng.minimize(objective, optimizer, data=(X,), max_steps=2, callback=refresh, progress=False)
    for seed, after in zip((1, 1), seen, strict=True):
        S = draw(theta, 50, seed=seed)
        g = gradients(theta, X).mean(axis=0) - gradients(theta, S).mean(axis=0)
        F = np.cov(gradients(theta, S).T, bias=True)
        assert (
            relative_error(after, theta - np.linalg.solve(F + 0.5 * np.eye(len(theta)), g)) < 1e-10
        )
        theta = after


def test_float32_stays_float32():
    params = make_params(dtype="float32")
    objective = make(params, "float32")
    assert objective.loss.dtype == objective.example_losses.dtype == "float32"
    v = np.ones(objective.size, "float32")
    outputs = [symng.Fisher()(objective) @ v, objective.loss_at(params), objective.loss]
    f = pytensor.function(list(objective.inputs), outputs)
    assert not wide_tensors(f)
    assert {a.dtype for a in f(STATES.astype("float32"), STATES.astype("float32"))} == {
        np.dtype("float32")
    }


# What is refused


def test_batches_that_do_not_fit():
    objective, _, X, S = setting()
    for batch, message in (
        ((X,), "batch: expected 2 arrays .v, s., got 1"),
        (X, "batch: expected a tuple of 2 arrays"),
        ((X, S[0]), "batch, s: expected an array of 2 axes"),
        ((X, S[:0]), "batch: expected at least one example"),
        ((X * np.nan, S), "batch, v: expected finite values"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            objective.check_batch("batch", batch)


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(energy=3), TypeError, "energy: expected a callable"),
        (
            dict(energy=lambda x: x),
            ValueError,
            "energy: expected a floating-point vector of energies, one for each row",
        ),
        (dict(energy=lambda x: 3.0), ValueError, "energy: expected .* got float"),
        (dict(data=np.ones((2, 2))), TypeError, "data: expected a symbolic batch"),
        (dict(samples=pt.scalar()), TypeError, "samples: expected a symbolic batch"),
        (dict(samples=pt.ones((3, 3))), ValueError, "inputs: expected"),
    ],
)
def test_bad_arguments(options, error, message):
    w = pytensor.shared(np.ones(3), name="w")
    good = dict(energy=lambda x: -x @ w, params=[w], data=pt.matrix("v"), samples=pt.matrix("s"))
    with pytest.raises(error, match=message):
        symng.EnergyObjective(**(good | options))
