"""A damping of the solve apart from that of the quadratic model, against dense matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.small_steps import TIGHT, Unit, line, natural, regression, start

import symng
from symng import vectors

QM = symng.QuadraticModelStep
RULE = symng.LevenbergMarquardt(initial=0.5, ratio="quadratic", upper=0.9, minimum=0.0)


@pytest.mark.parametrize("kind", ["number", "function"])
def test_the_solve_has_its_damping_and_the_model_its_own(kind):
    """CG knows its residual, which is one of the solve's damping and of no use to the model."""
    case = oracles.mlp_case("categorical")
    setting: Any = 4.0 if kind == "number" else lambda damping: 8 * damping
    optimizer = symng.NaturalGradient(
        solver=TIGHT["CG"], damping=RULE, step_size=QM(), solve_damping=setting
    )
    step, theta = start(optimizer, case.objective)
    dampings = []
    for _ in range(3):
        g = oracles.example_gradients(case).mean(axis=0)
        F, identity = oracles.fisher(case), np.eye(case.size)
        info = step(tuple(case.givens.values()))
        strong = 4.0 if kind == "number" else 8 * info.damping
        p, A = np.linalg.solve(F + strong * identity, g), F + info.damping * identity
        alpha = (g @ p) / (p @ A @ p)
        assert info.accepted and info.step_size == pytest.approx(alpha, rel=1e-8)
        assert alpha > 1.5  # the solve is damped more, its step shorter than the model asks for
        moved = vectors.get_flat(case.params)
        assert oracles.relative_error(theta - moved, alpha * p) < 1e-8
        promised = alpha * (g @ p) / 2
        assert info.reduction_ratio == pytest.approx((info.loss - info.new_loss) / promised)
        dampings.append(info.damping)
        theta = moved
    assert dampings[0] == 0.5 and dampings[2] < dampings[0]  # the rule adapts the model's


def test_the_ratio_of_a_fixed_step_is_that_of_the_model():
    model = line()
    step, before = start(
        symng.NaturalGradient(solver=Unit(), damping=RULE, solve_damping=3.0), model.objective
    )
    info = step(model.batch)
    p = (before - model.solution) / 4
    promised = 4 * p @ p - 1.5 * p @ p / 2
    assert np.allclose(model.value, before - p) and info.damping == 0.5
    assert info.reduction_ratio == pytest.approx((info.loss - info.new_loss) / promised)


def test_a_symbolic_one_and_one_that_is_set_between_steps():
    mine = pytensor.shared(1.0, name="mine")
    for setting in (mine * 3.0, 3.0):
        model = line()
        step, before = start(natural(damping=0.0, solve_damping=setting), model.objective)
        assert np.allclose((step(model.batch), model.value)[1], model.solution / 4)
        model.w.set_value(before)
        if setting == 3.0:
            step.hyperparameters["solve_damping"].set_value(-1.0)
            with pytest.raises(ValueError, match="^solve_damping: expected .* at least 0"):
                step(model.batch)
            step.hyperparameters["solve_damping"].set_value(9.0)
        else:
            assert "solve_damping" not in step.hyperparameters
            mine.set_value(3.0)
        assert np.allclose((step(model.batch), model.value)[1], model.solution / 10)


@pytest.mark.parametrize("solver", [TIGHT["CG"], TIGHT["MinresQLP"]], ids=["CG", "MinresQLP"])
def test_coefficients_of_the_plane_are_those_of_the_model(solver):
    objective, (X, T) = regression()
    settings = {"damping": 0.5, "solve_damping": 60.0, "solver": solver}
    optimizer = symng.NaturalConjugateGradient(beta=symng.QuadraticModel(), **settings)
    step, theta = start(optimizer, objective)
    F, previous = X.T @ X / len(X), np.zeros(3)
    for i in range(3):
        g = X.T @ (X @ theta - T) / len(X)
        n = np.linalg.solve(F + 60.0 * np.eye(3), g)
        plane = np.array([n, previous][: 1 + (i > 0)])
        best = np.linalg.lstsq(plane @ (F + 0.5 * np.eye(3)) @ plane.T, plane @ g, rcond=None)[0]
        step((X, T))
        moved = vectors.get_flat(objective.params)
        assert oracles.relative_error(theta - moved, best @ plane) < 1e-7
        theta, previous = moved, theta - moved


def test_a_preconditioner_is_made_for_the_solve():
    seen = []

    def preconditioner(operator, damping):
        seen.append(damping.eval())
        return lambda v: v

    model = line()
    settings = {"damping": 0.5, "solve_damping": 3.0, "preconditioner": preconditioner}
    step, _ = start(symng.NaturalGradient(solver=symng.CG(), **settings), model.objective)
    step(model.batch)
    assert set(map(float, seen)) == {3.0}


@dataclass(frozen=True, kw_only=True)
class Following(symng.Metric):
    """The damping times the identity: it follows the damping that it is given."""

    damping: Any = 0.0

    def with_damping(self, damping):
        return Following(damping=damping)

    def product(self, objective, v):
        return self.damping * v


def test_a_metric_that_follows_the_damping_follows_both():
    model = line()
    optimizer = symng.NaturalGradient(
        metric=Following(), solver=symng.CG(), damping=0.5, solve_damping=4.0, step_size=QM()
    )
    step, before = start(optimizer, model.objective)
    info = step(model.batch)  # (4 + 4) p = g, and the model is (0.5 + 0.5) |p|^2 / 2
    assert info.step_size == pytest.approx(8.0)
    assert np.allclose(before - model.value, before - model.solution)


def test_updates_and_hessian_free():
    model = line()
    optimizer = natural(damping=RULE, solve_damping=lambda damping: damping + 2.5)
    variables = [*model.objective.inputs, *model.objective.targets]
    function = pytensor.function(variables, updates=optimizer.updates(model.objective))
    function(*model.batch)
    assert np.allclose(model.value, model.solution / 4)
    model.w.set_value(np.zeros(2))
    settings = {"solver": TIGHT["CG"], "preconditioner": None, "warm_start": 0.0}
    optimizer = symng.HessianFree(solve_damping=9.0, step_size=1.0, **settings)
    step, _ = start(optimizer, model.objective)
    step(model.batch)
    assert np.allclose(model.value, model.solution / 10)


@pytest.mark.parametrize(
    "value, message",
    [
        (-1.0, "solve_damping: expected a finite number, at least 0"),
        (math.nan, "solve_damping: expected a finite number"),
        (math.inf, "solve_damping: expected a finite number"),
        ("10", "solve_damping: expected"),
        (True, "solve_damping: expected"),
        (pt.vector(), "solve_damping: expected"),
        (symng.LevenbergMarquardt(), "solve_damping: expected .* rule belongs to damping="),
        (symng.LevenbergMarquardt, "solve_damping: expected .* rule belongs to damping="),
        (lambda damping: -1.0, r"solve_damping \(what it returns\): expected .*, at least 0"),
        (lambda damping: pt.stack([damping]), r"solve_damping \(what it returns\): expected"),
        (lambda damping: None, r"solve_damping \(what it returns\): expected"),
    ],
)
@pytest.mark.parametrize(
    "optimizer", [symng.NaturalGradient, symng.NaturalConjugateGradient, symng.HessianFree]
)
def test_bad_settings(optimizer, value, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        optimizer(solve_damping=value)


def test_repr_and_types():
    optimizer = symng.NaturalGradient(damping=1.0, solve_damping=2)
    assert eval(repr(optimizer), vars(symng)) == optimizer
    case = oracles.mlp_case("categorical", dtype="float32")
    settings = {"damping": RULE, "solve_damping": lambda damping: 10 * damping}
    step, _ = start(
        symng.NaturalGradient(solver=Unit(), step_size=QM(), **settings), case.objective
    )
    for name, record in step.build().records.items():
        assert record.dtype in ("float32", "int64", "bool"), name
