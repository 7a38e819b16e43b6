"""Settings that are changed between steps: taken without a recompilation, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_steps import Unit, line

import symng

NAN, INF = float("nan"), float("inf")


def compiled(optimizer=None, dtype="float64"):
    """Return a model and its step, which is compiled when it is first taken."""
    model = line(dtype)
    optimizer = (
        symng.NaturalGradient(solver=Unit(), warm_start=0.5) if optimizer is None else optimizer
    )
    return model, symng.compile_step(model.objective, optimizer)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("damping", -5.0, "a finite number, at least 0, got -5.0"),
        ("damping", NAN, "a finite number, at least 0, got nan"),
        ("damping", INF, "a finite number, at least 0, got inf"),
        ("step_size", -1.0, ".*, above 0 .*got -1.0"),
        ("step_size", NAN, ".* got nan"),
        ("step_size", INF, "a finite number.* got inf"),
        ("warm_start", 1.5, ".* at most 1 .*got 1.5"),
        ("warm_start", -0.5, ".* at least 0 .*got -0.5"),
    ],
)
def test_settings_of_an_optimizer(name, value, message):
    model, step = compiled()
    (step.state | step.hyperparameters)[name].set_value(value)
    with pytest.raises(ValueError, match=f"^{name}: expected {message}"):
        step(model.batch)
    assert not step.functions and (model.value == 0).all() and step.state["step"].get_value() == 0


@pytest.mark.parametrize(
    "solver", [symng.CG(maxiter=5), symng.MinresQLP(maxiter=5, rtol=1e-4, max_norm=1e9)]
)
def test_settings_of_a_solver(solver):
    model, step = compiled(symng.NaturalGradient(solver=solver))
    for name, value in (("rtol", -1.0), ("rtol", NAN), ("atol", -1.0), ("maxiter", -3)):
        variable = step.hyperparameters[name]
        before = variable.get_value()
        variable.set_value(value)
        with pytest.raises(ValueError, match=f"^{name}: expected .*at least 0.* got {value}"):
            step(model.batch)
        variable.set_value(before)


def test_momentum():
    model, step = compiled(symng.SGD(momentum=0.5))
    step.hyperparameters["momentum"].set_value(1.0)
    with pytest.raises(ValueError, match="^momentum: expected .* below 1.* got 1.0"):
        step(model.batch)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_good_values_are_taken_and_bad_ones_can_be_mended(dtype):
    model, step = compiled(dtype=dtype)
    step.hyperparameters["step_size"].set_value(0.1)  # which float32 cannot hold
    step.state["damping"].set_value(1.0)
    info = step(model.batch)
    assert info.accepted and info.damping == 1.0 and info.step_size == pytest.approx(0.1)
    np.testing.assert_allclose(model.value, 0.1 * model.solution / 2, rtol=1e-6)
    step.state["damping"].set_value(-1.0)
    for _ in range(2):  # not only once
        with pytest.raises(ValueError, match="^damping: expected"):
            step.run(model.batch)
    step.state["damping"].set_value(0.0)
    assert step(model.batch).accepted


def test_schedules_may_give_zero():
    model, step = compiled(
        symng.NaturalGradient(solver=Unit(), step_size=lambda number: float(number == 0))
    )
    for size in (1.0, 0.0, 0.0):
        assert step(model.batch).step_size == size
