"""What a callback may do to the run, and damping rules that see more of a step than its ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import modes

import symng


def linear_model():
    """Return a linear regression and its data."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3))
    x, t = pt.dmatrix("x"), pt.dvector("t")
    w = pytensor.shared(np.zeros(3), name="w")
    y = x @ w
    objective = symng.Objective(pt.sqr(y - t).mean() / 2, y, [w], inputs=[x], targets=[t])
    return objective, (X, X @ [1.0, -2.0, 3.0])


@pytest.mark.parametrize("mode", [None, *modes("JAX", slow=("JAX",))])
def test_a_callback_of_two_arguments_changes_the_state(mode):
    objective, data = linear_model()
    seen = []

    def callback(row, step):
        seen.append(step)
        step.state["damping"].set_value(np.asarray(10.0 * row["step"]))

    optimizer = symng.NaturalGradient(damping=symng.LevenbergMarquardt(initial=1.0))
    result = symng.minimize(
        objective,
        optimizer,
        data,
        max_steps=4,
        progress=False,
        callback=callback,
        mode=mode or "FAST_COMPILE",
    )
    np.testing.assert_allclose(result.history["damping"], [1, 10, 20, 30])
    assert all(isinstance(step, symng.CompiledStep) for step in seen)


@pytest.mark.parametrize(
    "callback", [lambda row, more=None: more, lambda *rest: len(rest) != 1], ids=["default", "all"]
)
def test_a_callback_that_can_do_with_one_argument_gets_one(callback):
    objective, data = linear_model()
    result = symng.minimize(
        objective, symng.SGD(0.1), data, max_steps=3, progress=False, callback=callback
    )
    assert result.steps == 3


@dataclass(frozen=True, kw_only=True)
class Recording(symng.Damping):
    """Put the number of the step, the iterations and the verdict into the digits of the damping."""

    start = 1.0

    def next(self, damping, rho, failed):
        raise AssertionError("adapt stands in for it")

    def adapt(self, damping, rho, failed, *, step, niter, status):
        return 10000.0 * step + 100.0 * niter + status


@pytest.mark.parametrize("kind", [symng.NaturalGradient, symng.NaturalConjugateGradient])
def test_a_damping_rule_sees_step_iterations_and_verdict(kind):
    objective, data = linear_model()
    solver = symng.MinresQLP(maxiter=2, rtol=1e-10)
    optimizer = kind(solver=solver, damping=Recording())
    history = symng.minimize(objective, optimizer, data, max_steps=3, progress=False).history
    expected = (
        10000.0 * np.arange(3) + 100.0 * history["solver_iterations"] + history["solver_status"]
    )
    np.testing.assert_allclose(history["damping"][1:], expected[:2])
    assert history["solver_iterations"][0] == 2
