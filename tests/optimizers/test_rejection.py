"""Steps that are refused or not finite, and steps about which nothing can be said."""

from __future__ import annotations

import math

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.small_steps import TIGHT, Unit, exponential, line, start

import symng
from symng.optimizers._step import has_direction


def test_refused_step_leaves_the_parameters_and_raises_the_damping():
    model = line()
    rule = symng.LevenbergMarquardt(initial=1.0, reject_below=0.0)
    step, before = start(
        symng.NaturalGradient(solver=Unit(), damping=rule, step_size=10.0), model.objective
    )
    info = step(model.batch)
    assert (
        not info.accepted
        and info.update_norm == 0
        and info.new_loss > info.loss
        and info.reduction_ratio < 0
    )
    assert (model.value == before).all() and step.state["damping"].get_value() == 1.5
    step.hyperparameters["step_size"].set_value(1.0)
    info = step(model.batch)
    assert info.accepted and info.damping == 1.5 and np.allclose(model.value, model.solution / 2.5)
    assert info.reduction_ratio == pytest.approx(1 - 1 / 2.5 / 2)  # by hand


def test_refusal_of_an_ascent_direction():
    # The damped Hessian -2 + 1 is negative, so that the solution climbs; the model predicts an
    # increase.
    x = pt.vector("x")
    w = pytensor.shared(np.array([1.0]), name="w")
    objective = symng.Objective(-(pt.sqr(w) * x).mean(), output=w[0] * x, params=[w], inputs=[x])
    rule = symng.LevenbergMarquardt(initial=1.0, reject_below=0.0)
    optimizer = symng.NaturalGradient(
        metric=symng.Hessian(), solver=symng.MinresQLP(), damping=rule, step_size=0.1
    )
    step, _ = start(optimizer, objective)
    info = step((np.ones(1),))
    assert info.new_loss > info.loss and info.reduction_ratio > 0  # both signs are wrong
    assert not info.accepted and w.get_value() == 1.0 and step.state["damping"].get_value() == 1.5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_overflow_is_rejected_and_the_next_good_step_works(dtype):
    objective, w, batch = exponential(dtype)
    optimizer = symng.NaturalGradient(
        solver=Unit(), damping=symng.LevenbergMarquardt(initial=1.0), warm_start=0.9
    )
    step, before = start(optimizer, objective)
    step.state["direction"].set_value(np.ones(2, dtype=dtype))
    for crazy in (1e6, 1e37):
        step.hyperparameters["step_size"].set_value(crazy)
        damping = float(step.state["damping"].get_value())
        info = step(batch)
        assert not info.accepted and not math.isfinite(info.new_loss) and info.update_norm == 0
        assert (w.get_value() == before).all()
        assert float(step.state["damping"].get_value()) == pytest.approx(1.5 * damping)
        assert (step.state["direction"].get_value() == 0).all()
    step.hyperparameters["step_size"].set_value(0.5)
    info = step(batch)
    assert info.accepted and info.new_loss < info.loss and np.isfinite(w.get_value()).all()
    assert (step.state["direction"].get_value() != 0).all()
    assert w.get_value().dtype == dtype


def test_update_that_overflows_is_rejected_although_the_loss_does_not():
    x = pt.vector("x", dtype="float32")
    w = pytensor.shared(np.array([0.1], dtype="float32"), name="w")
    y = pt.tanh(w[0] * x)  # finite at infinity
    # of a large gradient.
    objective = symng.Objective(pt.sqr(y - 1000).mean() / 2, output=y, params=[w], inputs=[x])
    step, _ = start(symng.NaturalGradient(solver=Unit(), damping=0.0), objective)
    step.hyperparameters["step_size"].set_value(3e38)
    info = step((np.ones(1, dtype="float32"),))
    assert not info.accepted and np.isfinite(info.loss) and w.get_value() == np.float32(0.1)


def maximum():
    """Return an objective whose Hessian is -I."""
    x = pt.matrix("x")
    w = pytensor.shared(np.array([1.0, -2.0]), name="w")
    y = x @ w
    return (
        symng.Objective(-pt.sqr(y).mean() / 2, output=y, params=[w], inputs=[x]),
        w,
        (2**0.5 * np.eye(2),),
    )


def test_solve_that_ends_at_negative_curvature_without_progress_is_rejected():
    objective, w, batch = maximum()
    rule = symng.LevenbergMarquardt(initial=0.5)
    step = symng.compile_step(
        objective, symng.NaturalGradient(metric=symng.Hessian(), solver=symng.CG(), damping=rule)
    )
    before = w.get_value()
    for damping in (0.5, 0.75):  # Hessian and damping together are negative
        info = step(batch)
        assert (
            info.status is symng.Status.NEGATIVE_CURVATURE
            and not info.accepted
            and info.damping == damping
        )
        assert (
            info.residual_norm == pytest.approx(info.gradient_norm)
            and (w.get_value() == before).all()
        )
    info = step(batch)
    assert info.accepted and info.damping == 1.125
    np.testing.assert_allclose(w.get_value(), 9 * before, rtol=1e-4)


def test_run_at_negative_curvature_with_a_damping_that_stays_is_ended():
    objective, _w, batch = maximum()
    optimizer = symng.NaturalGradient(metric=symng.Hessian(), solver=symng.CG(), damping=0.5)
    with pytest.warns(RuntimeWarning, match="Step after step failed and changed nothing"):
        result = symng.minimize(objective, optimizer, data=batch, max_steps=20, progress=False)
    assert result.stopped == "diverged" and not result.history["accepted"].any()


@pytest.mark.parametrize(
    "status, residual, good",
    [
        ("NEGATIVE_CURVATURE", 4.9, True),
        ("NEGATIVE_CURVATURE", 5.0, False),
        ("NEGATIVE_CURVATURE", 7.0, False),
        ("MAX_ITERATIONS", 7.0, True),
        ("NOT_FINITE", 1.0, False),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_has_direction(status, residual, good, dtype):
    gradient = pt.constant(np.array([3.0, 4.0], dtype))
    solution = symng.Solution(
        x=gradient,
        status=pt.constant(int(symng.Status[status])),
        niter=pt.constant(1),
        residual_norm=pt.constant(np.array(residual, dtype)),
    )
    assert bool(has_direction(solution, gradient).eval()) == good


def test_nan_in_gradient_and_in_metric():
    # The norm has no gradient at 0; the recipe on the output is 0 / 0 where the sigmoid saturates.
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(np.zeros((2, 1)), name="w")
    r = x @ w
    loss = (pt.softplus(r) - t * r).sum(axis=1).mean() + 0.01 * pt.sqrt(pt.sqr(w).sum())
    objective = symng.Objective(loss, output=pt.sigmoid(r), params=[w], inputs=[x], targets=[t])
    optimizer = symng.NaturalGradient(
        metric=symng.Fisher(form="output"),
        solver=symng.CG(),
        warm_start=0.5,
        damping=symng.LevenbergMarquardt(initial=1.0),
    )
    step, _ = start(optimizer, objective)
    batch = np.array([[1.0, 2.0], [1.0, -1.0], [0.5, 1.0]]), np.array([[1.0], [0.0], [0.0]])
    damping = 1.0
    for bad in ([[0.0], [0.0]], [[1e4], [0.0]]):
        step.state["direction"].set_value(np.ones(2))
        w.set_value(np.array(bad))
        info = step(batch)
        assert math.isfinite(info.loss) and info.status is symng.Status.NOT_FINITE
        assert not info.accepted and info.update_norm == 0 and (w.get_value() == bad).all()
        assert step.state["damping"].get_value() == pytest.approx(damping := 1.5 * damping)
        assert (step.state["direction"].get_value() == 0).all()
    w.set_value(np.array([[0.3], [-0.2]]))
    info = step(batch)
    assert info.accepted and info.status is symng.Status.CONVERGED and info.new_loss < info.loss


def test_fixed_damping_stays_after_a_failed_step():
    objective, w, batch = exponential()
    step, _ = start(symng.NaturalGradient(solver=Unit(), damping=2.0, step_size=1e6), objective)
    assert (
        not step(batch).accepted
        and step.state["damping"].get_value() == 2.0
        and (w.get_value() == 0).all()
    )


@pytest.mark.parametrize("solver", ["CG", "MinresQLP"])
def test_at_the_optimum_nothing_happens(solver):
    model = line(start=(3.0, -1.0))
    rule = symng.LevenbergMarquardt(initial=1.0, reject_below=0.0)
    step, before = start(
        symng.NaturalGradient(solver=TIGHT[solver], damping=rule, warm_start=0.9), model.objective
    )
    step.state["direction"].set_value(np.ones(2))
    for _ in range(3):
        info = step(model.batch)
        assert (
            info.status is symng.Status.ZERO_RHS
            and info.gradient_norm == 0
            and info.update_norm == 0
        )
        assert math.isnan(info.reduction_ratio) and info.solver_iterations == 0
        assert (model.value == before).all() and step.state["damping"].get_value() == 1.0
        assert (step.state["direction"].get_value() == 0).all()
    model.w.set_value(np.zeros(2))  # and it still works
    assert step(model.batch).accepted and np.allclose(model.value, model.solution / 2)


def test_rounding_errors_near_the_optimum_leave_the_damping():
    # A loss of 1 whose changes are below what float32 can hold: nothing can be said about the
    # model.
    x = pt.vector("x", dtype="float32")
    w = pytensor.shared(np.array([1e-5], dtype="float32"), name="w")
    y = w[0] * x
    one = np.float32(1)
    objective = symng.Objective(
        pt.sqr(y).mean() / np.float32(2) + one, output=y, params=[w], inputs=[x]
    )
    rule = symng.LevenbergMarquardt(initial=3.0)
    step, _ = start(symng.NaturalGradient(solver=Unit(), damping=rule), objective)
    info = step((np.ones(2, dtype="float32"),))
    assert info.accepted and info.loss == info.new_loss == 1.0
    assert step.state["damping"].get_value() == 3.0
    w.set_value(np.array([1.0], dtype="float32"))
    step((np.ones(2, dtype="float32"),))
    assert step.state["damping"].get_value() == 2.0
