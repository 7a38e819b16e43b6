"""A start by Adam and the rest as one run: history, limits, and the checkpoints of both."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
import pytest
from start_by_adam import minimize_after_adam

import symng
from symng.models import autoencoder, binary_cross_entropy_with_logits

rng = np.random.default_rng(0)
IMAGES = rng.random((60, 8))


def make_objective() -> symng.Objective:
    x = pt.matrix("x")
    model = autoencoder(x, [8, 4, 2], seed=0)
    loss = binary_cross_entropy_with_logits(model.preactivation, x).mean()
    return symng.Objective(loss, output=model.output, params=model.params, inputs=[x])


def run(objective, start=6, max_steps=10, max_seconds=None, **more):
    return minimize_after_adam(
        objective,
        symng.NaturalGradient(solver=symng.CG(maxiter=2), damping=1.0),
        (IMAGES,),
        start=start,
        start_batch=10,
        start_step_size=1e-3,
        start_evaluate_every=4,
        batch_size=20,
        metric_batch="other",
        metric_batch_size=10,
        search_batch="same",
        evaluate_every=2,
        max_steps=max_steps,
        max_seconds=max_seconds,
        evaluate=lambda: {"squared_error": 1.0},
        progress=False,
        mode="FAST_COMPILE",
        **more,
    )


@pytest.fixture(scope="module")
def whole():
    """Return the parameters and the result of a run of 6 and 4 steps."""
    objective = make_objective()
    result = run(objective)
    return [p.get_value() for p in objective.params], result


def test_history_of_both(whole):
    _, result = whole
    history = result.history
    assert result.steps == len(history) == 10 and result.status == "max_steps"
    np.testing.assert_array_equal(history["step"], np.arange(1, 11))
    assert (np.diff(history["seconds"]) > 0).all() and history["seconds"][-1] == result.seconds
    evaluated = history["step"][np.isfinite(history["squared_error"])]
    np.testing.assert_array_equal(evaluated, [4, 6, 8, 10])
    np.testing.assert_array_equal(np.isfinite(history["damping"]), history["step"] > 6)


@pytest.mark.parametrize(
    "start, max_steps, damped",
    [(0, 3, 3), (6, 6, 0), (6, 4, 0), (1, 2, 1)],
    ids=["no start", "start alone", "part of it", "one of each"],
)
def test_limits_are_of_both(start, max_steps, damped):
    result = run(make_objective(), start, max_steps)
    assert result.steps == max_steps
    assert np.isfinite(result.history["damping"]).sum() == damped


def test_time_is_of_both():
    result = run(make_objective(), max_steps=None, max_seconds=1e-9)
    assert result.steps == 1 and result.status == "max_seconds"


def test_runs_go_on_from_their_checkpoints(whole, tmp_path):
    params, result = whole
    path = tmp_path / "run.npz"
    run(make_objective(), max_steps=4, checkpoint=path)
    assert not path.exists()
    run(make_objective(), max_steps=8, checkpoint=path)
    objective = make_objective()
    again = run(objective, checkpoint=path)
    for p, value in zip(objective.params, params, strict=True):
        np.testing.assert_array_equal(p.get_value(), value)
    assert again.steps == 10
    for column in ("step", "loss", "damping", "squared_error"):
        np.testing.assert_array_equal(again.history[column], result.history[column], column)


def test_an_interrupt_soon_after_the_start_keeps_what_was_evaluated():
    def interrupt(row):
        if np.isfinite(row["damping"]):
            raise KeyboardInterrupt

    history = run(make_objective(), callback=interrupt).history
    assert len(history) == 7 and np.isfinite(history["squared_error"]).sum() == 2
