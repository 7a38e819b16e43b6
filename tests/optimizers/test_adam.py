"""Adam against the formulas of Kingma and Ba in NumPy."""

from __future__ import annotations

import numpy as np
import pytensor
import pytest
from helpers import oracles
from helpers.compiled import nodes_of
from helpers.small_steps import exponential, line, start

import symng
from symng import vectors


def test_ten_steps_are_the_formulas():
    case, alpha, beta1, beta2, epsilon = oracles.mlp_case("categorical"), 0.02, 0.8, 0.99, 1e-3
    batch = tuple(case.givens.values())
    gradients = pytensor.function(list(case.givens), pytensor.grad(case.loss, list(case.params)))
    optimizer = symng.Adam(step_size=alpha, beta1=beta1, beta2=beta2, epsilon=epsilon)
    step, theta = start(optimizer, case.objective)
    m = v = np.zeros(case.size)
    for t in range(1, 11):
        g = np.concatenate([part.ravel() for part in gradients(*batch)])
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        update = alpha * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
        info = step(batch)
        theta = theta - update
        assert oracles.relative_error(vectors.get_flat(case.params), theta) < 1e-12
        assert (
            info.accepted
            and info.update_norm == pytest.approx(np.linalg.norm(update))
            and info.step_size == alpha
        )
        assert info.gradient_norm == pytest.approx(np.linalg.norm(g)) and info.status is None


def test_defaults_are_those_of_the_paper():
    model = line("float32")
    step, _ = start(symng.Adam(), model.objective)
    step(model.batch)
    assert np.allclose(model.value, 0.001 * np.sign(model.solution), rtol=1e-5)
    settings = {name: float(v.get_value()) for name, v in step.hyperparameters.items()}
    assert settings == pytest.approx(
        {"step_size": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}, rel=1e-6
    )


def test_settings_change_between_steps():
    model = line()
    step, _ = start(symng.Adam(step_size=0.5, beta1=0.9, beta2=0.9, epsilon=0.0), model.objective)
    gradients = []
    for settings in ({}, {"step_size": 0.25, "beta1": 0.5, "beta2": 0.25, "epsilon": 2.0}):
        for name, value in settings.items():
            step.hyperparameters[name].set_value(value)
        gradients.append(model.value - model.solution)
        before = model.value
        info = step(model.batch)
    # With weights 0.1 and 0.9 for the past, and then 0.5 and 0.75 for the present.
    one, two = gradients
    m = (0.5 * 0.1 * one + 0.5 * two) / (0.5 * 0.1 + 0.5)
    v = (0.25 * 0.1 * one**2 + 0.75 * two**2) / (0.25 * 0.1 + 0.75)
    assert (
        np.allclose(before - model.value, 0.25 * m / (np.sqrt(v) + 2.0), rtol=1e-12)
        and info.step_size == 0.25
    )


def test_what_is_not_finite_changes_nothing():
    objective, w, batch = exponential("float32")
    step, _ = start(symng.Adam(), objective)
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
    assert step.state["step"].get_value() == 4
    w.set_value(good)
    assert step(batch).accepted and np.isfinite(w.get_value()).all()


def test_float32_stays():
    case = oracles.mlp_case("categorical", dtype="float32")
    step, before = start(symng.Adam(), case.objective)
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


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"step_size": 0.0}, "step_size: expected .* above 0"),
        (
            {"step_size": symng.BacktrackingLineSearch()},
            "step_size: expected .* Adam makes no line search",
        ),
        ({"beta1": 1.0}, "beta1: expected .* below 1"),
        ({"beta2": -0.1}, "beta2: expected .* at least 0"),
        ({"epsilon": -1e-8}, "epsilon: expected .* at least 0"),
        ({"epsilon": "1e-8"}, "epsilon: expected"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        symng.Adam(**settings)
