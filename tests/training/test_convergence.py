"""When a run has converged, by which test, and that a resumed run ends as one without a break."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import needs_jax
from helpers.small_steps import exponential, line, natural, regression, train

import symng
from symng.training.convergence import ConvergenceTest, Tolerances

MODE = "FAST_COMPILE"
JAX = pytest.param("JAX", "float32", marks=[needs_jax, pytest.mark.slow])


def ends(rows, *, stays=True, dtype="float64", start=(3.0, 4.0), **tolerances):
    """Return the number of the row that ends a run, and the message; (None, "") where none does.

    A row has loss, new loss, gradient norm, update norm and whether it was accepted.
    """
    w = pytensor.shared(np.array(start, dtype=dtype))
    test = ConvergenceTest(Tolerances(**tolerances), [w], stays, symng.History())
    names = ("loss", "new_loss", "gradient_norm", "update_norm", "accepted")
    for number, row in enumerate(rows, 1):
        test.see(dict(zip(names, row, strict=True)))
        if test.message:
            return number, test.message
    return None, ""


def steps(losses, gradients, update=1.0, accepted=True):
    """Return rows of a run with these losses, whose gradients follow the last of theirs."""
    following = [*losses[1:], losses[-1]]
    gradients = [*gradients, *[gradients[-1]] * (len(losses) - len(gradients))]
    return [
        (a, b, g, update, accepted) for a, b, g in zip(losses, following, gradients, strict=True)
    ]


# The tests, on rows


def test_gradient():
    rows = steps([5.0, 4.0, 3.0, 2.0], [10.0, 1.0, 1e-3, 1e-9])
    number, message = ends(rows, gradient=1e-4)
    assert number == 3
    assert message == (
        "The gradient has converged: its norm 0.001 is at most gradient_tolerance=0.0001 times "
        "that of the first step, 10."
    )
    assert ends(rows, gradient=1e-11) == (None, "")
    # It is that of the parameters before the step, whatever became of the step.
    assert ends([*rows[:2], (*rows[2][:4], False)], gradient=1e-4)[0] == 3
    # That of the first step is not known to be finite.
    assert ends([(np.nan, np.nan, np.nan, 1.0, True), *rows], gradient=1e-4)[0] == 4


def test_loss_in_three_steps_in_a_row():
    changes = [1.0, 1e-3, 1e-9, 1.0, 1e-9, 1e-9, 1e-9, 1e-9]
    losses = [8.0, *8.0 - np.cumsum(changes)]
    number, message = ends(steps(losses, [1.0]), loss=1e-8)
    assert number == 7
    assert message == (
        "The loss has converged: in 3 steps in a row it changed by at most loss_tolerance=1e-08 of "
        "its value, in the last one by 1e-09 at 5.999."
    )
    # Changes are those of the next loss where the optimizer does not evaluate its step.
    unknown = [(loss, np.nan, 1.0, 1.0, True) for loss in losses]
    assert ends(unknown, loss=1e-8)[0] == 8


def test_steps_that_were_undone_are_no_change():
    rejected = (2.0, 2.0, 1.0, 0.0, False)
    moved, still = (3.0, 2.0, 1.0, 1.0, True), (2.0, 2.0, 1.0, 1.0, True)
    assert ends([moved, *[rejected] * 50], loss=1e-8, update=1e-8)[0] is None
    assert ends([moved, still, rejected, still, rejected, still], loss=1e-8)[0] == 6
    # The loss before and after a step that was undone is no change of an optimizer, either.
    unknown, undone = (2.0, np.nan, 1.0, 1.0, True), (2.0, np.nan, 1.0, 0.0, False)
    assert ends([(3.0, *unknown[1:]), *[undone, unknown] * 9], loss=1e-8)[0] is None


def test_update():
    rows = [(1.0, 0.9, 1.0, size, True) for size in (1.0, 1e-3, 4e-6)]
    number, message = ends(rows, update=1e-6)  # of parameters of norm 5
    assert number == 3
    assert message == (
        "The parameters have converged: the norm of the update, 4e-06, is at most "
        "update_tolerance=1e-06 times theirs, 5."
    )
    assert ends(rows, update=1e-7)[0] is None


def test_default_wants_a_loss_and_a_gradient_that_have_gone_down():
    falling, flat = list(2.0 + 0.5 ** np.arange(8)), [2.0] * 20
    small = [1.0] * 8 + [1e-13]
    number, message = ends(steps(falling + flat, small))
    assert number == 8 + 9
    assert message == (
        "The loss has converged: it is 2 up to rounding errors in 9 steps in a row, and the norm "
        "of its gradient fell from 1 to 1e-13."
    )
    rounding = [2.0 + 2 * np.finfo(float).eps * (k % 2) for k in range(20)]
    assert ends(steps(falling + rounding, small))[0] == 8 + 9
    assert ends(steps(falling + flat, [1.0, 1e-9]))[0] is None  # a plateau
    # The change of step n is 2^-n, and four units of rounding are 2^-49.
    assert ends(steps(list(2.0 + 0.5 ** np.arange(60)), small))[0] == 49 + 8
    for stays, loss in ((False, "auto"), (True, None)):
        assert ends(steps(falling + flat, small), stays=stays, loss=loss)[0] is None
    improving = [2.0 - 1e-14 * k for k in range(30)]
    assert ends(steps(falling + improving, small))[0] is None


def test_rounding_errors_are_those_of_the_dtype():
    noise = [1.0 + 2e-7 * (k % 2) for k in range(20)]
    rows = steps([8.0, *noise], [1.0, 1e-6])
    assert ends(rows, dtype="float32")[0] == 10 and ends(rows)[0] is None


def test_a_loss_near_zero_is_compared_with_the_first_one():
    falling, floor = list(0.1 ** np.arange(31.0)), [1e-31, 3e-32, 9e-32] * 9
    assert 30 < ends(steps(falling + floor, [1.0] * 9 + [1e-16]))[0] <= 31 + 9
    assert ends(steps(falling, [1.0] * 9 + [1e-16]), loss=1e-3)[0] > 15


def test_a_gradient_of_zero_from_the_start_is_not_convergence():
    saddle = [(1.0, 1.0, 0.0, 0.0, True)] * 30
    assert ends(saddle, gradient=0.5, loss=0.5, update=0.5) == (None, "")
    assert ends(saddle)[0] is None


@pytest.mark.parametrize("tolerances", [dict(loss=1e-3), dict(update=1e-3)])
def test_steps_of_loose_solves_are_no_convergence(tolerances):
    def test_after(statuses):
        w = pytensor.shared(np.array([3.0, 4.0]))
        test = ConvergenceTest(Tolerances(**tolerances), [w], True, symng.History())
        for status in statuses:
            row = dict(loss=2.0, new_loss=2.0, gradient_norm=1.0, update_norm=1e-5, accepted=True)
            test.see(row | dict(solver_status=float(status)))
        return test

    loose, tight = symng.Status.MAX_ITERATIONS, symng.Status.CONVERGED
    assert test_after([tight] * 3).message
    for status in (loose, symng.Status.NEGATIVE_CURVATURE):
        assert not test_after([tight, tight, status]).message
    assert not test_after([loose] * 99).stall
    stalled = test_after([loose] * 100)
    assert not stalled.message and "100 in a row" in stalled.stall
    assert "MAX_ITERATIONS" in stalled.stall and "Raise maxiter" in stalled.stall
    assert not test_after([loose] * 99 + [tight] + [loose] * 9).stall


# In a run


def halving(**settings):
    """Train `line` with steps that halve the distance from the solution; full batches."""
    model = line(start=(3.0, 3.0))  # which is 4 away
    result = train(
        natural(step_size=0.5), model.objective, model.batch, max_steps=200, mode=MODE, **settings
    )
    return model, result


def test_a_run_ends_as_its_tolerances_say():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a success has no warning
        model, result = halving(gradient_tolerance=1e-3)
        assert result.status == "converged" and result.steps == 11  # 2^-10 before the step
        np.testing.assert_allclose(model.value, [3.0, -1 + 4 / 2**11], rtol=1e-12)
        assert result.message.startswith("The gradient has converged: its norm 0.00391 is at most")
        assert f"status: converged. {result.message}" in repr(result)
        model, result = halving(update_tolerance=1e-2)  # norm(w) is 3.16, the update 2^(2 - k)
        assert result.steps == 7 and "the norm of the update, 0.0312, is at most" in result.message
        _, result = halving(loss_tolerance=0.99)  # of one step 0.75
        assert result.steps == 3 and "in the last one by 0.375 at 0.5." in result.message


def test_full_batches_converge_by_default_and_others_do_not():
    _, result = halving()
    assert result.status == "converged" and "up to rounding errors" in result.message
    assert 40 < result.steps < 120 and result.loss < 1e-31
    count = pytensor.shared(0.0)
    settings = ({"loss_tolerance": None}, {"batch_size": 4}, {"average_decay": 0.9})
    for off in (*settings, {"updates": {count: count + 1}}):
        _, result = halving(**off)
        assert result.status == "zero_gradient"  # after nine steps at the solution itself


@pytest.mark.parametrize("mode, dtype", [(MODE, "float64"), (MODE, "float32"), JAX])
def test_loss_that_is_not_zero_at_the_optimum(mode, dtype):
    objective, w, data = exponential(dtype)
    optimizer = symng.NaturalGradient(solver=symng.CG(), damping=1e-3)
    result = train(optimizer, objective, data, max_steps=100, mode=mode)
    assert result.status == "converged" and result.steps < 50
    np.testing.assert_allclose(
        w.get_value(), np.log([3, 5]), rtol=1e-5 if dtype == "float32" else 1e-12
    )


def test_other_reasons_have_the_say():
    assert halving(gradient_tolerance=0.9, target_loss=100.0)[1].status == "target_loss"
    assert halving(gradient_tolerance=0.9, callback=lambda row: True)[1].status == "callback"
    _, result = train_sgd(gradient_tolerance=1e-3, max_steps=2)
    assert result.status == "max_steps" and result.message == ""
    # The message is that of the end, also where other parameters are put back.
    rising = itertools.count()
    _, result = halving(
        update_tolerance=0.5,
        evaluate=lambda: next(rising),
        early_stopping=symng.EarlyStopping(monitor="evaluate", restore_best=True),
    )
    assert result.status == "converged" and result.best_step == 1 and "0.5 times" in result.message
    # Where both are met at once, the better news.
    model = line(start=(3.0, 3.0))
    result = train(
        natural(step_size=0.5), model.objective, model.batch, max_steps=11, gradient_tolerance=1e-3
    )
    assert result.status == "converged"


def train_sgd(**settings):
    objective, data = regression()
    return objective, train(symng.SGD(step_size=1e-3), objective, data, **settings)


def test_optimizers_that_do_not_evaluate_their_steps_converge():
    model = line(start=(3.0, 3.0))
    settings = {"loss_tolerance": 0.99, "max_steps": 50, "mode": MODE}
    result = train(symng.SGD(step_size=0.5), model.objective, model.batch, **settings)
    assert result.status == "converged" and result.steps == 4  # three changes


def test_a_tolerance_is_a_limit():
    model = line(start=(3.0, 3.0))
    settings = {"max_steps": None, "mode": MODE}
    for name in ("gradient_tolerance", "loss_tolerance", "update_tolerance"):
        result = train(
            natural(step_size=0.5), model.objective, model.batch, **settings, **{name: 0.1}
        )
        assert result.status == "converged"
    with pytest.raises(ValueError, match="^max_steps: expected a limit, got None. .* a tolerance"):
        train(natural(), model.objective, model.batch, **settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"gradient_tolerance": -1e-3}, "gradient_tolerance: expected a finite number, at least 0"),
        ({"gradient_tolerance": "auto"}, "gradient_tolerance: expected a finite number"),
        ({"update_tolerance": 1.0}, "update_tolerance: expected .* below 1, got 1.0"),
        ({"loss_tolerance": "tight"}, "loss_tolerance: expected .*, \"auto\" or None, got 'tight'"),
        ({"loss_tolerance": np.nan}, "loss_tolerance: expected a finite number"),
        ({"gtol": 1e-3}, "gtol: .* symng calls it gradient_tolerance"),
        ({"ftol": 1e-3}, "ftol: .* symng calls it loss_tolerance"),
        ({"xtol": 1e-3}, "xtol: .* symng calls it update_tolerance"),
    ],
)
def test_tolerances_that_are_none(settings, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        train(**settings)


# After a break


@pytest.mark.parametrize(
    "tolerances",
    [{"gradient_tolerance": 1e-3}, {"loss_tolerance": 0.75}, {"update_tolerance": 1e-2}, {}],
    ids=lambda tolerances: "".join(tolerances) or "default",
)
def test_a_resumed_run_ends_as_one_without_a_break(tmp_path, tolerances):
    path = tmp_path / "run.npz"
    whole_model, whole = halving(**tolerances)
    settings = {"mode": MODE, "checkpoint": path, **tolerances}
    for steps in (2, whole.steps - 1, 200, 200):  # the last has nothing left to do
        model = line(start=(3.0, 3.0))
        optimizer = natural(step_size=0.5)
        result = train(optimizer, model.objective, model.batch, max_steps=steps, **settings)
        assert result.status == ("max_steps" if steps < whole.steps else "converged")
    assert result.steps == whole.steps and result.message == whole.message
    assert (model.value == whole_model.value).all() and result.compile_seconds == 0


def test_a_checkpoint_of_other_data_says_nothing(tmp_path):
    path = tmp_path / "run.npz"
    halving(gradient_tolerance=1e-3, checkpoint=path)
    model = line(start=(3.0, 3.0), solution=(30.0, -10.0))
    with pytest.warns(UserWarning, match="data of the same shapes but with other values"):
        result = train(
            natural(step_size=0.5),
            model.objective,
            model.batch,
            checkpoint=path,
            gradient_tolerance=1e-3,
            max_steps=200,
        )
    assert result.status == "converged" and result.steps > 20
    np.testing.assert_allclose(model.value, [30.0, -10.0], rtol=1e-2)


def steep_and_flat():
    """Return a regression whose second feature is ten thousand times smaller than the first."""
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.array([-1e-2, 0.0]), name="w")
    y = x @ w
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    )
    X = np.array([[1e4, 1], [1e4, -1], [-1e4, 1], [-1e4, -1]])
    return objective, (X, X @ [1e-4, 1e2])


def test_a_run_of_one_iteration_a_step_is_not_converged_half_way():
    objective, data = steep_and_flat()
    optimizer = symng.NaturalGradient(solver=symng.CG(maxiter=1), damping=0.0)
    settings = dict(data=data, mode=MODE, max_steps=30, progress=False, update_tolerance=1e-3)
    result = symng.minimize(objective, optimizer, **settings)
    # Its third step is one of 0.005 in parameters of norm 50.5, at a loss of 1225.
    assert result.status == "max_steps"
    assert result.loss < 100


def test_a_run_whose_solves_are_loose_ends_as_stalled():
    objective, data = steep_and_flat()
    optimizer = symng.NaturalGradient(solver=symng.CG(maxiter=1), damping=0.0, step_size=1e-5)
    settings = dict(data=data, mode=MODE, progress=False, loss_tolerance=1e-3)
    with pytest.warns(RuntimeWarning, match="ended early: the last as MAX_ITERATIONS"):
        result = symng.minimize(objective, optimizer, **settings)
    assert result.status == "stalled" and result.steps == 100
    assert "Raise maxiter" in result.message
