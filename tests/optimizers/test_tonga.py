"""TONGA against dense running covariances."""

from __future__ import annotations

import math

import numpy as np
import pytensor
import pytest
from helpers import oracles
from helpers.compiled import nodes_of
from helpers.small_steps import exponential, line, start

import symng
from symng import vectors


def gradient_function(case):
    """Return a function of a batch: the gradient at the present parameters."""
    f = pytensor.function(list(case.givens), pytensor.grad(case.loss, list(case.params)))
    return lambda batch: np.concatenate([g.ravel() for g in f(*batch)])


def batches_of(case, count, size=4):
    rng = np.random.default_rng(3)
    return [
        (rng.standard_normal((size, 3)), oracles.draw_targets(case.kinds[0], rng, (size, 3)))
        for _ in range(count)
    ]


def covariance(gradients, decay, centered):
    """Return the covariance of all gradients, each weighted by its age."""
    weights = decay ** np.arange(len(gradients))[::-1]
    weights = weights / weights.sum()
    g = np.array(gradients)
    g = g - weights @ g * centered
    return (weights[:, None] * g).T @ g


# The covariance


@pytest.mark.parametrize("centered", [False, True])
def test_covariance_is_exact_up_to_the_rank(centered):
    case, damping, size = oracles.mlp_case("categorical"), 0.05, 0.1
    gradient_of, gradients = gradient_function(case), []
    optimizer = symng.TONGA(rank=6, decay=0.8, damping=damping, centered=centered, step_size=size)
    step, theta = start(optimizer, case.objective)
    for batch in batches_of(case, 6):
        gradients.append(gradient_of(batch))
        C = covariance(gradients, 0.8, centered)
        update = size * np.linalg.solve(C + damping * np.eye(case.size), gradients[-1])
        info = step(batch)
        assert oracles.relative_error(theta - vectors.get_flat(case.params), update) < 1e-10
        theta = theta - update
        assert info.accepted and info.step_size == size and info.damping == damping
        assert info.update_norm == pytest.approx(np.linalg.norm(update))
        assert (
            info.gradient_norm == pytest.approx(np.linalg.norm(gradients[-1]))
            and info.status is None
        )
    U, weight = step.state["factor"].get_value(), step.state["weight"].get_value()
    assert weight == pytest.approx((1 - 0.8**6) / (1 - 0.8))
    assert np.allclose(U.T @ U / weight, C, atol=1e-14 + 1e-12 * abs(C).max())
    assert np.allclose(U @ U.T, np.diag(np.diag(U @ U.T)), atol=1e-12)  # eigenvectors
    if centered:
        weights = 0.8 ** np.arange(6)[::-1]
        assert np.allclose(
            step.state["mean"].get_value(), weights @ gradients / weights.sum(), rtol=1e-12
        )


def test_beyond_the_rank_it_is_the_best_approximation():
    case, rank, decay, damping, size = oracles.mlp_case("bernoulli"), 2, 0.9, 0.02, 0.05
    gradient_of = gradient_function(case)
    step, theta = start(
        symng.TONGA(rank=rank, decay=decay, damping=damping, step_size=size), case.objective
    )
    kept, weight = np.zeros((case.size, case.size)), 0.0
    for i, batch in enumerate(batches_of(case, 7)):
        gradient = gradient_of(batch)
        total, weight = decay * kept + np.outer(gradient, gradient), decay * weight + 1
        update = size * np.linalg.solve(total / weight + damping * np.eye(case.size), gradient)
        values, Q = np.linalg.eigh(total)
        kept = (Q[:, -rank:] * values[-rank:]) @ Q[:, -rank:].T
        # Something is lost.
        assert i < rank or np.linalg.norm(total - kept) > 1e-3 * np.linalg.norm(total)
        assert step(batch).accepted
        assert oracles.relative_error(theta - vectors.get_flat(case.params), update) < 1e-9
        theta = theta - update
        U = step.state["factor"].get_value()
        assert U.shape == (rank, case.size) and oracles.relative_error(U.T @ U, kept) < 1e-10


@pytest.mark.parametrize("centered", [False, True])
def test_single_examples_without_decay_make_the_empirical_fisher_matrix(centered):
    case = oracles.mlp_case("categorical")
    # Stays where it is.
    optimizer = symng.TONGA(rank=5, decay=1.0, centered=centered, step_size=1e-12)
    step, _ = start(optimizer, case.objective)
    arrays = list(case.givens.values())
    for n in range(5):
        step(tuple(a[n : n + 1] for a in arrays))
    U = step.state["factor"].get_value()
    assert step.state["weight"].get_value() == 5.0
    assert oracles.relative_error(U.T @ U / 5, oracles.empirical_fisher(case, centered)) < 1e-9


def test_settings_change_between_steps():
    case = oracles.mlp_case("gaussian")
    first, second = batches_of(case, 2)
    step, theta = start(
        symng.TONGA(rank=3, step_size=lambda step: 0.5 / (1 + step)), case.objective
    )
    assert set(step.hyperparameters) == {"step_size", "decay", "damping"}
    assert set(step.state) == {"step", "weight", "factor"}
    gradient_of = gradient_function(case)
    gradients = [gradient_of(first)]
    step(first)
    theta = vectors.get_flat(case.params)
    gradients.append(gradient_of(second))
    step.hyperparameters["decay"].set_value(0.25)
    step.hyperparameters["damping"].set_value(2.0)
    info = step(second)
    update = 0.25 * np.linalg.solve(
        covariance(gradients, 0.25, False) + 2 * np.eye(case.size), gradients[1]
    )
    assert info.step_size == 0.25 and info.damping == 2.0
    assert oracles.relative_error(theta - vectors.get_flat(case.params), update) < 1e-11


def test_without_memory_the_step_is_along_the_gradient():
    model = line()
    step, before = start(
        symng.TONGA(rank=1, decay=0.0, damping=1.0, step_size=1.0), model.objective
    )
    for _ in range(3):
        gradient = model.value - model.solution
        before = model.value
        step(model.batch)
        assert np.allclose(before - model.value, gradient / (gradient @ gradient + 1), rtol=1e-12)


# Failures, types, runs


@pytest.mark.parametrize("centered", [False, True])
def test_what_is_not_finite_changes_nothing(centered):
    objective, w, batch = exponential("float32")
    step, _ = start(symng.TONGA(rank=2, centered=centered), objective)
    step(batch)
    good = w.get_value()
    kept = {name: v.get_value() for name, v in step.state.items() if name != "step"}
    # NaN; infinite loss and gradient; a gradient that is finite, with a square that is not.
    for value in ([np.nan, 0.0], [1e3, 0.0], [46.0, 0.0]):
        w.set_value(np.array(value, dtype="float32"))
        with np.errstate(all="ignore"):
            info = step(batch)
        assert not info.accepted and info.update_norm == 0
        assert np.array_equal(w.get_value(), np.array(value, dtype="float32"), equal_nan=True)
        assert all(np.array_equal(step.state[name].get_value(), v) for name, v in kept.items())
    assert math.isfinite(info.loss) and math.isinf(info.gradient_norm)
    w.set_value(good)
    assert step(batch).accepted and np.isfinite(w.get_value()).all()


@pytest.mark.parametrize("centered", [False, True])
def test_float32_stays(centered):
    case = oracles.mlp_case("categorical", dtype="float32")
    step, before = start(symng.TONGA(rank=3, centered=centered), case.objective)
    info = step(tuple(case.givens.values()))
    assert info.accepted and (vectors.get_flat(case.params) != before).any()
    for variable in (*case.params, *(v for name, v in step.state.items() if name != "step")):
        assert variable.get_value().dtype == "float32", variable
    nodes = nodes_of(step.functions[0])
    assert not [
        v
        for n in nodes
        for v in n.outputs
        if getattr(v.type, "ndim", 0) and v.type.dtype == "float64"
    ]


def test_updates_are_the_compiled_step():
    one, two = line(), line()
    step, _ = start(symng.TONGA(rank=2), one.objective)
    updates = symng.TONGA(rank=2).updates(two.objective)
    function = pytensor.function([*two.objective.inputs, *two.objective.targets], updates=updates)
    for _ in range(3):
        step(one.batch)
        function(*two.batch)
    assert np.allclose(one.value, two.value, rtol=1e-14) and two.value.any()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rank": 0}, "rank: expected .* at least 1"),
        ({"rank": 1.5}, "rank: expected a whole number"),
        ({"decay": -0.1}, "decay: expected .* at least 0"),
        ({"decay": 1.1}, "decay: expected .* at most 1"),
        ({"damping": 0.0}, "damping: expected .* above 0"),
        ({"damping": symng.LevenbergMarquardt()}, "damping: expected"),
        ({"centered": 1}, "centered: expected True or False"),
        (
            {"step_size": symng.BacktrackingLineSearch()},
            "step_size: expected .* TONGA makes no line search",
        ),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        symng.TONGA(**settings)
