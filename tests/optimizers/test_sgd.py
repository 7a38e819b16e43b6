"""Gradient descent, and optimizers as updates for `pytensor.function`."""

from __future__ import annotations

import math

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.small_steps import exponential, line, natural, start

import symng
from symng import vectors

# Gradient descent


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_the_recursion(momentum, nesterov):
    case = oracles.mlp_case("categorical")
    batch = tuple(case.givens.values())
    step, theta = start(
        symng.SGD(step_size=0.3, momentum=momentum, nesterov=nesterov), case.objective
    )
    velocity = np.zeros(case.size)
    for i in range(4):
        gradient = oracles.example_gradients(case).mean(axis=0)
        if i == 3 and momentum:
            momentum = 0.5
            step.hyperparameters["momentum"].set_value(momentum)
        velocity = momentum * velocity + gradient
        update = 0.3 * (gradient + momentum * velocity if nesterov else velocity)
        info = step(batch)
        theta = theta - update
        assert oracles.relative_error(vectors.get_flat(case.params), theta) < 1e-12
        assert info.update_norm == pytest.approx(np.linalg.norm(update)) and info.step_size == 0.3
        assert (
            info.accepted
            and info.status is None
            and math.isnan(info.damping)
            and math.isnan(info.reduction_ratio)
        )


def test_sgd_rejects_what_is_not_finite():
    objective, w, batch = exponential()
    step, _ = start(symng.SGD(step_size=0.1, momentum=0.5), objective)
    step(batch)
    good, velocity = w.get_value(), step.state["velocity"].get_value()
    # Infinite gradient, NaN in the parameters.
    for value in (
        np.array([1e3, 0.0]),
        np.array([np.nan, 0.0]),
    ):
        w.set_value(value)
        info = step(batch)
        assert not info.accepted and info.update_norm == 0
        assert np.array_equal(w.get_value(), value, equal_nan=True)
        assert (step.state["velocity"].get_value() == velocity).all()
    w.set_value(good)
    assert step(batch).accepted and np.isfinite(w.get_value()).all()


# As updates for pytensor.function


@pytest.mark.parametrize(
    "make",
    [
        lambda: natural(
            damping=symng.LevenbergMarquardt(initial=1.0), step_size=lambda step: 1 / (1 + step)
        ),
        lambda: natural(step_size=lambda step: pt.switch(pt.eq(step, 0), 1.0, 0.5), damping=1.0),
        lambda: natural(step_size=0.5, damping=0.5),
        lambda: symng.SGD(step_size=lambda step: 0.5 / (1 + step), momentum=0.9, nesterov=True),
    ],
)
def test_updates_are_the_compiled_step(make):
    one, two = line(), line()
    step, _ = start(make(), one.objective)
    updates = make().updates(two.objective)
    assert two.w in updates
    function = pytensor.function([*two.objective.inputs, *two.objective.targets], updates=updates)
    for _ in range(3):
        step(one.batch)
        function(*two.batch)
        assert np.allclose(one.value, two.value, rtol=1e-14, atol=0) and (two.value != 0).all()
    state = {v.name: v.get_value() for v in updates if v is not two.w}
    for name, variable in step.state.items():
        assert np.allclose(state[name], variable.get_value())


def test_updates_of_a_schedule_that_is_not_symbolic():
    with pytest.raises(
        ValueError,
        match="^step_size: expected a schedule that takes a symbolic step number, got .*Use comp",
    ):
        symng.SGD(step_size=lambda step: 0.1 if step < 3 else 0.01).updates(line().objective)
    with pytest.raises(TypeError, match="^objective: expected a symng.Objective, got "):
        symng.SGD().updates(line().w)
