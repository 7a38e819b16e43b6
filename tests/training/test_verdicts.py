"""Why a run ends by itself, and what it leaves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

import symng
from symng.training.info import StepInfo
from symng.training.verdicts import Watch

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 2))
T = X @ np.array([3.0, -1.0])


def least_squares(start=(0.0, 0.0)):
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.array(start), name="w")
    y = x @ w
    return symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    ), w


def train(objective, optimizer, data=(X, T), **settings):
    return symng.minimize(
        objective, optimizer, data=data, progress=False, mode="FAST_COMPILE", **settings
    )


def judged(losses, full_batch=True, before=(), **info):
    """Return the verdict on a run of these losses and when it came.

    The parameter is the number of the step.
    """
    w = pytensor.shared(np.zeros(1), name="w")
    step = SimpleNamespace(
        objective=SimpleNamespace(params=[w], dtype="float64"), state={}, sync_to_host=lambda: None
    )
    watch = Watch(step, full_batch, 1, before)
    for number, loss in enumerate(losses):
        watch.remember()
        w.set_value(np.array([number + 1.0]))
        verdict = watch.judge(
            StepInfo(loss=loss, **{"update_norm": 1.0, "gradient_norm": 1.0} | info),
            last=number + 1 == len(losses),
        )
        if verdict:
            break
    return (
        verdict,
        number + 1,
        watch.restore() if verdict == "diverged" else False,
        w.get_value()[0],
    )


def test_a_loss_that_blows_up():
    assert judged([0.7, 0.6, *(10.0**k for k in range(40))]) == ("diverged", 2 + 3 + 9, True, 1.0)
    assert judged([0.7, 0.6, *[1e6] * 30]) == ("diverged", 11, True, 1.0)
    # at the end of the run.
    assert judged([0.7, 0.6, 1e9, 1e12, 1e15]) == (
        "diverged",
        5,
        True,
        1.0,
    )


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 50.0, 30.0, 10.0, 1.0],  # a spike
        [1.0, *(1e6 / 2**k for k in range(12))],  # that comes down
        [0.0, *[2.0] * 20],
        [0.0, -300.0, *[100.0] * 20],  # a log-density
        [-1e4, *[1e5] * 20],
        [1e-9, *(1e-9 * 10.0**k for k in range(6)), *[1e-3] * 20],  # Adam beside an optimum
        [5.0, 1e-30, *[5.0] * 20],
    ],
)
def test_a_loss_that_does_not(losses):
    assert judged(losses)[0] is None


def test_batches_with_losses_of_their_own():
    noisy = [1e-6, *(10.0 ** RNG.uniform(-1, 1, 200))]
    assert judged(noisy, full_batch=False)[0] is None
    assert judged([*noisy, *(3.0**k for k in range(60))], full_batch=False)[0] == "diverged"
    assert judged([1e9] * 12, before=[1.0, 0.5])[0] == "diverged"  # after a checkpoint
    assert judged([1e9] * 12)[0] is None


def test_a_run_that_diverges_keeps_its_best_parameters_and_all_of_its_history():
    objective, w = least_squares()
    with pytest.warns(
        RuntimeWarning, match="^minimize: The loss blew up. The parameters are those of its lowest"
    ):
        result = train(
            objective, symng.SGD(step_size=5.0), max_steps=300, evaluate=lambda: w.get_value()[0]
        )
    losses = result.history["loss"]
    assert (
        result.status == "diverged"
        and result.steps == len(losses) < 40
        and losses[-1] > 1e3 * losses[0]
    )
    assert (
        result.loss == losses.min() == losses[0]
        and (w.get_value() == 0).all()
        and (result.params["w"] == 0).all()
    )
    assert result.history["evaluate"][-1] == 0.0  # of the parameters that are left
    assert "diverged. The loss blew up" in repr(result)


def test_full_batches_refuse_a_step_that_raises_the_loss():
    rule = symng.LevenbergMarquardt(initial=1e-3)
    for settings, refused in (({}, True), ({"batch_size": 12}, False)):
        objective, _ = least_squares()
        optimizer = symng.NaturalGradient(damping=rule, step_size=2.5)
        result = train(objective, optimizer, max_steps=4, **settings)
        accepted, losses = result.history["accepted"], result.history["loss"]
        assert accepted.all() != refused and result.step.optimizer is optimizer
        assert (losses[1:] > losses[:-1]).any() != refused
        assert (result.history["damping"][1:] > result.history["damping"][:-1]).all()


@pytest.mark.parametrize(
    "damping, batch_size",
    [(symng.LevenbergMarquardt(initial=1e-3, reject_below=-100.0), None), (1e-3, 3)],
    ids=["a threshold", "a fixed damping with a batch size"],
)
def test_where_steps_that_raise_the_loss_are_taken(damping, batch_size):
    objective, _ = least_squares()
    optimizer = symng.NaturalGradient(damping=damping, step_size=2.5)
    result = train(objective, optimizer, max_steps=3, batch_size=batch_size)
    losses = result.history["loss"]
    assert result.history["accepted"].all() and losses[-1] > losses[0]


def test_a_fixed_damping_on_a_loss_that_no_step_lowers_ends():
    """Its gradient has the wrong sign: steps become so short that the loss stays, but not lower."""
    objective, _ = least_squares()
    loss = 2 * pytensor.gradient.disconnected_grad(objective.loss) - objective.loss
    wrong = symng.Objective(
        loss,
        objective.output,
        objective.params,
        objective.inputs,
        objective.targets,
        likelihood=symng.Gaussian(),
    )
    with pytest.warns(RuntimeWarning, match="belong together"):
        result = train(wrong, symng.NaturalGradient(damping=0.1), max_steps=400)
    assert result.status == "refused" and result.steps < 300


def test_rounding_errors_are_not_refused():
    objective, w = least_squares(start=(3.0, -1.0))
    objective = symng.Objective(
        objective.loss + 1e3, objective.output, [w], objective.inputs, objective.targets
    )
    w.set_value(np.array([3.0 + 1e-9, -1.0]))
    result = train(
        objective,
        symng.NaturalGradient(damping=symng.LevenbergMarquardt(initial=1e-4)),
        max_steps=5,
    )
    assert result.history["accepted"].all()


def test_norm_of_parameters_that_are_zero():
    objective, w = least_squares()
    loss = objective.loss + 0.1 * pt.sqrt(pt.sqr(w).sum())  # of no gradient at 0
    objective = symng.Objective(loss, objective.output, [w], objective.inputs, objective.targets)
    for optimizer in (symng.NaturalGradient(), symng.SGD(step_size=0.1)):
        for limit, steps in ((50, 9), (4, 4)):
            with pytest.warns(RuntimeWarning, match="^minimize: No step was finite"):
                result = train(objective, optimizer, max_steps=limit)
            assert (
                result.status == "not_finite"
                and result.steps == steps
                and (w.get_value() == 0).all()
            )


def test_gradient_that_is_zero():
    x, t = pt.matrix("x"), pt.vector("t")
    w, v = (pytensor.shared(np.zeros(s), name=n) for s, n in (((2, 3), "w"), (3, "v")))
    y = pt.tanh(x @ w) @ v  # a saddle
    objective = symng.Objective(
        pt.sqr(y - t).mean(), output=y, params=[w, v], inputs=[x], targets=[t]
    )
    for settings, steps in (({}, 9), ({"batch_size": 1}, 24), ({"max_steps": 3}, 3)):
        result = train(objective, symng.NaturalGradient(), **{"max_steps": 40} | settings)
        assert (
            result.status == "zero_gradient"
            and result.steps == steps
            and "saddle" in result.message
        )
    # One batch without a gradient ends nothing.
    X1 = np.vstack([np.zeros((11, 2)), np.ones((1, 2))])
    objective, w = least_squares()
    result = train(
        objective, symng.SGD(step_size=0.1), data=(X1, X1 @ np.ones(2)), batch_size=1, max_steps=30
    )
    assert result.status == "max_steps" and (w.get_value() > 0).all()


# Steps that are refused


def test_a_hundred_refused_steps_end_a_run():
    refused = {"accepted": False, "new_loss": 1.5}
    assert judged([1.0] * 150, **refused)[:2] == ("refused", 100)
    assert judged([1.0] * 99, **refused)[0] is None
    assert judged([1.0] * 150, full_batch=False, **refused)[:2] == ("refused", 100)


def test_the_message_says_why_the_last_step_was_refused():
    """The loss has nothing to do with its gradient, which the damping cannot help."""
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.array([1.0, 2.0]), name="w")
    y = x @ w
    backwards = pytensor.gradient.grad_scale(pt.sqr(y - t).mean() / 2, -1.0)
    objective = symng.Objective(backwards, y, [w], [x], [t], likelihood=symng.Gaussian())
    optimizer = symng.NaturalGradient(damping=symng.LevenbergMarquardt())
    with pytest.warns(RuntimeWarning, match="would have raised the loss"):
        result = train(objective, optimizer, max_steps=300)
    assert result.status == "refused" and result.steps == 100
    assert "100 steps in a row were refused and changed nothing" in result.message
    np.testing.assert_array_equal(w.get_value(), [1.0, 2.0])
