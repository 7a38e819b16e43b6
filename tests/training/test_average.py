"""The average of the parameters: NumPy's, of less noise, and the same after a resumed run."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_steps import Unit, descent, line, regression, train

import symng


def averages(iterates, decay):
    """Return the weighted means of the iterates up to each, computed from all of them."""
    return [
        np.average(iterates[: k + 1], axis=0, weights=decay ** np.arange(k, -1.0, -1))
        for k in range(len(iterates))
    ]


OPTIMIZERS = {
    "SGD": symng.SGD(step_size=0.1, momentum=0.5),
    "Adam": symng.Adam(step_size=0.1),
    "TONGA": symng.TONGA(rank=2),
    "natural gradient": symng.NaturalGradient(solver=Unit(), damping=3.0),
    # In two stages.
    "subspace": symng.KrylovSubspaceDescent(basis_size=1, damping=5.0, max_iterations=0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_the_weighted_mean_of_the_iterates(name):
    model = line(start=(5.0, 2.0))
    step = symng.compile_step(model.objective, OPTIMIZERS[name], average_decay=0.8)
    assert (step.state["average"].get_value() == [5.0, 2.0]).all()
    iterates, kept = [], []
    for _ in range(6):
        step(model.batch)
        iterates.append(model.value)
        kept.append(step.state["average"].get_value())
    np.testing.assert_allclose(kept, averages(iterates, 0.8), rtol=0, atol=1e-14)
    assert abs(kept[-1] - iterates[-1]).max() > 1e-3


def test_a_decay_of_zero_is_the_parameters():
    model = line()
    step = symng.compile_step(model.objective, symng.SGD(step_size=0.1), average_decay=0.0)
    for _ in range(3):
        step(model.batch)
        assert (step.state["average"].get_value() == model.value).all()


def test_the_steps_do_not_depend_on_it():
    plain, averaged = (
        train(descent(damping=symng.LevenbergMarquardt()), batch_size=4, average_decay=decay)
        for decay in (None, 0.9)
    )
    assert (plain.params["w"] == averaged.params["w"]).all()
    assert plain.average_params is None and "average" not in plain.step.state


def test_it_is_nearer_to_the_optimum_than_the_last_step_of_noisy_descent():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3))
    T = X @ [1.0, -2.0, 3.0] + rng.standard_normal(200)
    optimum = np.linalg.lstsq(X, T)[0]
    errors = {"last": [], "average": []}
    for seed in range(3):
        result = train(
            symng.SGD(step_size=0.1),
            regression()[0],
            (X, T),
            batch_size=2,
            max_steps=300,
            seed=seed,
            average_decay=0.98,
        )
        for kind, params in (("last", result.params), ("average", result.average_params)):
            errors[kind].append(np.linalg.norm(params["w"] - optimum))
    assert np.mean(errors["average"]) < 0.4 * np.mean(errors["last"])


def test_float32_stays():
    model = line("float32")
    step = symng.compile_step(model.objective, symng.SGD(step_size=0.1), average_decay=0.9)
    for _ in range(3):
        step(model.batch)
    assert step.state["average"].get_value().dtype == np.float32
    assert step.state["average_weight"].get_value() == pytest.approx(1 + 0.9 + 0.81)


def test_evaluate_sees_the_average_and_the_callback_does_not():
    objective, data = regression()
    w = objective.params[0]
    evaluated, iterates = [], []
    result = train(
        symng.SGD(step_size=1e-3),
        objective,
        data,
        batch_size=5,
        average_decay=0.7,
        evaluate=lambda: evaluated.append(w.get_value()),
        callback=lambda row: iterates.append(w.get_value()),
    )
    wanted = averages(iterates, 0.7)
    np.testing.assert_allclose(evaluated, wanted, rtol=1e-14)
    np.testing.assert_allclose(result.average_params["w"], wanted[-1], rtol=1e-14)
    assert (result.params["w"] == iterates[-1]).all() and (w.get_value() == iterates[-1]).all()


def test_parameters_get_their_values_back_after_an_error_and_ctrl_c():
    for error in (RuntimeError, KeyboardInterrupt):
        model = line()
        step = symng.compile_step(model.objective, symng.SGD(step_size=0.1), average_decay=0.5)
        step(model.batch), step(model.batch)
        before = model.value
        with step.use_average():
            inside = model.value
        assert (inside == step.state["average"].get_value()).all() and (inside != before).any()
        with pytest.raises(error), step.use_average():
            raise error
        assert (model.value == before).all()

    def stop():
        raise KeyboardInterrupt

    result = train(average_decay=0.9, evaluate=stop)
    assert result.status == "interrupted" and result.steps == 1
    assert (result.params["w"] == result.average_params["w"]).all()


def test_resumed_run_has_the_average_of_the_uninterrupted_one(tmp_path):
    path = tmp_path / "run.npz"
    settings = {"batch_size": 6, "average_decay": 0.9, "seed": 3}
    whole = train(max_steps=9, **settings)
    for steps in (2, 5, 9):
        resumed = train(max_steps=steps, checkpoint=path, **settings)
    assert (whole.average_params["w"] == resumed.average_params["w"]).all()
    assert (whole.params["w"] == resumed.params["w"]).all()
    with pytest.warns(UserWarning, match="average_decay 0.5 where the file has 0.9"):
        train(max_steps=10, checkpoint=path, **settings | {"average_decay": 0.5})
    with pytest.raises(ValueError, match="state_average missing where the file has"):
        train(max_steps=10, checkpoint=path, **settings | {"average_decay": None})


def test_it_begins_anew_where_parameters_are_restored():
    with pytest.warns(RuntimeWarning, match="The loss blew up"):
        result = train(symng.SGD(step_size=1e3), max_steps=40, average_decay=0.9)
    assert result.status == "diverged" and (result.params["w"] == 0).all()
    assert (result.average_params["w"] == 0).all()


@pytest.mark.parametrize("value", [1.0, -0.1, np.nan, "0.9", True])
def test_what_is_no_decay(value):
    message = "^average_decay: expected a finite number, at least 0 and below 1, got .* weight of"
    with pytest.raises((ValueError, TypeError), match=message):
        train(average_decay=value)
    with pytest.raises((ValueError, TypeError), match=message):
        symng.compile_step(line().objective, symng.SGD(), average_decay=value)


def test_an_average_that_is_not_kept_cannot_be_used():
    step = symng.compile_step(line().objective, symng.SGD())
    with pytest.raises(ValueError, match="^average_decay: .*Give it to compile_step"):
        with step.use_average():
            pass
    with pytest.raises(TypeError, match="symng calls it average_decay: give average_decay=0.9"):
        train(ema=0.9)


@pytest.mark.slow
def test_on_jax():
    pytest.importorskip("jax")
    objective, data = regression()
    w = objective.params[0]
    evaluated, iterates = [], []
    result = train(
        symng.SGD(step_size=1e-3),
        objective,
        data,
        mode="JAX",
        average_decay=0.7,
        evaluate=lambda: evaluated.append(w.get_value()),
        callback=lambda row: iterates.append(w.get_value()),
    )
    np.testing.assert_allclose(evaluated, averages(iterates, 0.7), rtol=1e-12)
    assert isinstance(result.average_params["w"], np.ndarray)
