"""The outer loop: which examples it takes, when it stops, what it records and refuses."""

from __future__ import annotations

import math
import time

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.small_steps import TIGHT, Unit, descent, line, regression, train

import symng
from symng.training.batches import BatchSampler
from symng.training.step import CompiledStep

COLUMNS = (
    "step",
    "seconds",
    "loss",
    "new_loss",
    "damping",
    "reduction_ratio",
    "step_size",
    "beta",
    "solver_status",
    "solver_iterations",
    "iterates_skipped",
    "residual_norm",
    "gradient_norm",
    "update_norm",
    "accepted",
    "restarted",
    "acceleration_ratio",
    "search_evaluations",
)
N = 20


@pytest.fixture
def seen(monkeypatch):
    """The examples in gradient, metric and search batch of every step that is taken."""
    taken = []
    run = CompiledStep.run

    def spy(self, *batches, **options):
        taken.append(
            [None if batch is None else batch[0][:, 0].astype(int).tolist() for batch in batches]
        )
        return run(self, *batches, **options)

    monkeypatch.setattr(CompiledStep, "run", spy)
    return taken


# Which examples


def test_minibatches_without_replacement(seen):
    train(batch_size=6, max_steps=7)
    batches = [gradient for gradient, metric, search in seen]
    assert all(len(set(batch)) == 6 for batch in batches)
    for epoch in (batches[:3], batches[3:6]):
        assert len({i for batch in epoch for i in batch}) == 18  # 2 of 20 are left over
    assert {*batches[0], *batches[1], *batches[2]} != {*batches[3], *batches[4], *batches[5]}
    assert all(metric is None and search is None for _, metric, search in seen)


def test_targets_go_with_their_inputs(monkeypatch):
    objective, (X, T) = regression()
    given = []
    monkeypatch.setattr(
        CompiledStep, "run", lambda self, *b, **_: given.append(b[0]) or symng.StepInfo(loss=1.0)
    )
    train(objective=objective, data=(X, T), batch_size=7)
    assert all(
        (T[x[:, 0].astype(int)] == t).all() and (X[x[:, 0].astype(int)] == x).all()
        for x, t in given
    )


@pytest.mark.parametrize("size", [None, N])
def test_full_batch_in_order(seen, size):
    train(batch_size=size, max_steps=3)
    assert seen == [[list(range(N)), None, None]] * 3


@pytest.mark.parametrize(
    "batch, metric, wanted", [(6, None, 6), (6, 14, 14), (15, None, 5), (6, 1, 1)]
)
def test_other_examples_are_never_those_of_the_gradient(seen, batch, metric, wanted):
    train(
        descent(), batch_size=batch, metric_batch="other", metric_batch_size=metric, max_steps=150
    )
    for gradient, others, _ in seen:
        assert len(set(others)) == wanted and not set(others) & set(gradient)
    assert {i for _, others, _ in seen for i in others} == set(range(N))


def test_metric_data_of_its_own(seen):
    own = np.column_stack([np.arange(100, 108), np.ones((8, 2))]).astype(float)
    train(
        descent(),
        batch_size=6,
        metric_batch="own",
        metric_data=(own,),
        metric_batch_size=4,
        max_steps=4,
    )
    assert all(set(others) <= set(range(100, 108)) and len(others) == 4 for _, others, _ in seen)
    assert set(seen[0][1]) | set(seen[1][1]) == set(range(100, 108))
    seen.clear()
    # Fewer than the gradient's: all of them.
    train(descent(), metric_batch="own", metric_data=(own,), max_steps=2)
    assert [others for _, others, _ in seen] == [list(range(100, 108))] * 2


def test_one_example_at_a_time_has_the_metric_of_all_its_own_data(seen):
    own = np.column_stack([np.arange(100, 108), np.ones((8, 2))]).astype(float)
    given = dict(metric_batch="own", metric_data=(own,), max_steps=N)
    train(descent(), batch_size=1, **given)
    assert all(len(gradient) == 1 for gradient, _, _ in seen)
    assert {i for gradient, _, _ in seen for i in gradient} == set(range(N))
    assert [others for _, others, _ in seen] == [list(range(100, 108))] * N
    seen.clear()
    train(descent(), batch_size=1, metric_batch_size=3, **given)
    assert {len(others) for _, others, _ in seen} == {3}


def test_online_natural_gradient_is_that_of_section_3(seen):
    """F of a held-out set, g of one example: against NumPy."""
    objective, (X, T) = regression()
    own = np.random.default_rng(2).standard_normal((30, 3))
    optimizer = symng.NaturalGradient(solver=TIGHT["CG"], damping=0.3, step_size=0.01)
    given = dict(metric_batch="own", metric_data=(own,), batch_size=1, mode="FAST_COMPILE")
    train(optimizer, objective, (X, T), max_steps=8, **given)
    w, A = np.zeros(3), own.T @ own / len(own) + 0.3 * np.eye(3)
    for (i,), _, _ in seen:
        w -= 0.01 * np.linalg.solve(A, X[i] * (X[i] @ w - T[i]))
    assert len(seen) == 8
    np.testing.assert_allclose(objective.params[0].get_value(), w, rtol=1e-9)


@pytest.mark.parametrize("kind", ["other", "all"])
def test_search_batch(seen, kind):
    optimizer = descent(step_size=symng.BacktrackingLineSearch(size=1e-3))
    train(optimizer, batch_size=6, search_batch=kind, max_steps=4)
    for gradient, _, search in seen:
        assert (
            search == list(range(N))
            if kind == "all"
            else len(search) == 6 and not set(search) & set(gradient)
        )


@pytest.mark.parametrize("size, disjoint", [(6, True), (8, False)])
def test_metric_and_search_batches_are_disjoint_where_examples_suffice(seen, size, disjoint):
    optimizer = descent(step_size=symng.BacktrackingLineSearch(size=1e-3))
    train(optimizer, batch_size=size, metric_batch="other", search_batch="other", max_steps=40)
    assert len(seen) == 40
    for gradient, metric, search in seen:
        assert len(set(metric)) == len(set(search)) == size and not set(gradient) & (
            set(metric) | set(search)
        )
        assert not (disjoint and set(metric) & set(search))
    assert (
        {i for _, metric, _ in seen for i in metric}
        == {i for _, _, search in seen for i in search}
        == set(range(N))
    )


def test_metric_that_reaches_the_targets_gets_them(monkeypatch):
    given = []
    monkeypatch.setattr(
        CompiledStep, "run", lambda self, *b, **_: given.append(b) or symng.StepInfo(loss=1.0)
    )
    train(descent(metric=symng.EmpiricalFisher()), batch_size=5, metric_batch="other")
    train(descent(metric=symng.Fisher()), batch_size=5, metric_batch="other")
    assert [len(metric) for _, metric, _ in given] == [2] * 5 + [1] * 5


def test_same_seed_same_numbers():
    def losses(seed):
        return train(descent(), batch_size=6, metric_batch="other", seed=seed, max_steps=8).history[
            "loss"
        ]

    assert (losses(3) == losses(3)).all() and (losses(3) != losses(4)).any()


# Stopping and recording


def test_history_has_one_row_a_step_and_the_columns():
    result = train(descent(), max_steps=4)
    assert result.history.columns == COLUMNS and len(result.history) == result.steps == 4
    assert result.stopped == "max_steps" and result.compile_seconds > 0
    history = result.history.to_dict()
    assert history["step"].tolist() == [1, 2, 3, 4] and history["accepted"].dtype == bool
    assert (np.diff(history["seconds"]) > 0).all() and history["seconds"][-1] == result.seconds
    assert (np.diff(history["loss"]) < 0).all() and np.allclose(
        history["loss"][1:], history["new_loss"][:-1]
    )
    assert (history["solver_status"] == symng.Status.CONVERGED).all() and (
        history["damping"] == 1.0
    ).all()
    assert result.step.state["step"].get_value() == 4 and "history" not in repr(result)


def test_sgd_has_the_same_columns():
    history = train(max_steps=2).history
    assert history.columns == COLUMNS and np.isnan(history["damping"]).all()
    assert (history["solver_status"] == -1).all()


def test_no_steps():
    result = train(max_steps=0)
    assert (result.steps, len(result.history), result.stopped, result.compile_seconds) == (
        0,
        0,
        "max_steps",
        0,
    )


def test_target_loss():
    result = train(max_steps=1000, target_loss=1.0)
    losses = result.history["loss"]
    assert result.stopped == "target_loss" and losses[-1] <= 1.0 and (losses[:-1] > 1.0).all()


def test_max_seconds_counts_training_alone():
    def slow(row):
        time.sleep(0.05)

    result = train(
        max_steps=None, max_seconds=0.02, callback=slow, evaluate=lambda: time.sleep(0.05)
    )
    assert result.stopped == "max_seconds" and result.seconds >= 0.02
    assert len(result.history) > 1 and result.history["seconds"][-2] < 0.02


@pytest.mark.parametrize(
    "answer, stops", [(True, True), (np.True_, True), (None, False), (False, False), ("no", False)]
)
def test_callback(answer, stops):
    rows = []

    def callback(row):
        rows.append(row)
        return answer if row["step"] == 2 else None

    result = train(callback=callback, max_steps=4)
    assert result.stopped == ("callback" if stops else "max_steps") and len(rows) == (
        2 if stops else 4
    )
    assert set(rows[0]) == set(COLUMNS)
    assert rows[0] == {**result.history.row(0)} or math.isnan(rows[0]["damping"])


def test_evaluation_columns_data_and_period():
    arguments = []

    def evaluate(*data):
        arguments.append(data)
        return {"error": np.float32(len(arguments)), "count": len(arguments)}

    X = np.ones(3)
    history = train(evaluate=evaluate, evaluate_data=(X, 7), evaluate_every=3, max_steps=8).history
    assert history.columns == (*COLUMNS, "error", "count")
    wanted = [math.nan, math.nan, 1, math.nan, math.nan, 2, math.nan, 3]  # and after the last step
    assert np.array_equal(history["error"], wanted, equal_nan=True)
    assert all(data[0] is X and data[1] == 7 for data in arguments)
    assert train(evaluate=lambda: 2, max_steps=2).history["evaluate"].tolist() == [2.0, 2.0]
    assert train(evaluate=lambda: None, max_steps=2).history.columns == COLUMNS


def test_evaluation_after_a_callback_has_stopped_the_run():
    history = train(
        evaluate=lambda: 1.0, evaluate_every=10, callback=lambda row: row["step"] == 2
    ).history
    assert np.array_equal(history["evaluate"], [math.nan, 1.0], equal_nan=True)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"loss": 1.0}, "evaluate: expected names that no column of the history has, got 'loss'"),
        (np.ones(3), "evaluate: expected a number, or a mapping .* got an array of shape"),
        ({"error": "small"}, "evaluate: expected a number, or a mapping"),
    ],
)
def test_what_evaluate_may_not_return(values, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        train(evaluate=lambda: values)


def test_rejected_steps_are_recorded_and_a_hopeless_run_ends():
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.zeros(2), name="w")
    y = pt.exp(x @ w)
    objective = symng.Objective(
        (y - t * (x @ w)).mean(), output=y, params=[w], inputs=[x], targets=[t]
    )
    data = np.eye(2), np.array([3.0, 5.0])
    with pytest.warns(RuntimeWarning, match="Step after step failed and changed nothing"):
        # Nothing changes from try to try.
        result = train(descent(step_size=1e6), objective, data, batch_size=2, max_steps=50)
    assert (
        result.stopped == "diverged"
        and len(result.history) == 9
        and not result.history["accepted"].any()
    )
    assert (w.get_value() == 0).all()
    # On full batches the steps become shorter, to where one is good.
    result = train(descent(step_size=1e6), objective, data, max_steps=50)
    accepted, losses = result.history["accepted"], result.history["loss"]
    assert not accepted[:9].any() and accepted.any() and (np.diff(losses) <= 0).all()
    w.set_value(np.zeros(2))
    # Where the damping grows there is hope, and it is found.
    rule = symng.LevenbergMarquardt(initial=1.0, increase=10.0)
    result = train(descent(step_size=1e6, damping=rule), objective, data, max_steps=8)
    accepted, losses = result.history["accepted"], result.history["loss"]
    assert (
        result.stopped == "max_steps"
        and not accepted[0]
        and accepted.any()
        and (w.get_value() != 0).any()
    )
    assert (np.diff(losses) <= 0).all()  # the steps that are finite but raise the loss are refused
    with pytest.warns(RuntimeWarning, match="The loss blew up"):
        result = train(
            symng.SGD(step_size=1e-3),
            objective,
            data,
            max_steps=20,
            callback=lambda row: w.set_value([np.nan] * 2),
        )
    assert result.stopped == "diverged" and len(result.history) == 10


FIXED = {
    "natural gradient": symng.NaturalGradient(damping=1e-3, step_size=8.0),
    "by the model": symng.NaturalGradient(damping=1e-3, step_size=symng.QuadraticModelStep()),
    "hessian-free": symng.HessianFree(damping=1e-3, step_size=8.0, solver=symng.CG(maxiter=5)),
    "conjugate": symng.NaturalConjugateGradient(damping=1e-3, beta="polak-ribiere", step_size=8.0),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("by the model", "conjugate") else ())
        for name in FIXED
    ],
)
def test_full_batches_never_raise_the_loss_with_a_fixed_damping(name):
    """The steps after one that would are shorter, and grow back."""
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.array([2.0, -1.5, 0.5]), name="w")
    y = pt.tanh(x @ w)
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    )
    rng = np.random.default_rng(3)
    inputs = rng.standard_normal((20, 3))
    data = inputs, np.tanh(inputs @ [0.5, 1.0, -1.0])
    result = train(FIXED[name], objective, data, max_steps=30)
    accepted, losses = result.history["accepted"], result.history["loss"]
    sizes = result.history["step_size"]
    assert (np.diff(losses) <= 4e-16).all() and losses[-1] < 0.7 * losses[0]
    if name != "by the model":
        assert not accepted.all() and sizes.max() == 8.0
        (refused,) = np.nonzero(~accepted[:-1].astype(bool))
        np.testing.assert_array_equal(sizes[refused + 1], sizes[refused] / 2)
        # With minibatches the steps are as long as asked for.
        w.set_value(np.array([2.0, -1.5, 0.5]))
        short = train(FIXED[name], objective, data, batch_size=20, max_steps=3)
        assert (short.history["step_size"] == 8.0).all()


# What is refused


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"data": regression()[1][:1]}, "data: expected 2 arrays \\(x, t\\), got 1"),
        ({"data": regression()[1][0]}, "data: expected a tuple"),
        ({"data": (np.ones((4, 3)), np.ones(3))}, "data: expected the same number of examples"),
        ({"data": (np.ones((0, 3)), np.ones(0))}, "data: expected at least one example"),
        ({"data": (np.ones((4, 3), dtype=int), np.ones(4))}, "data, x: expected dtype float64"),
        (
            {"data": (np.ones((4, 3)), np.array([1, 2, np.nan, np.nan]))},
            "data, t: .*NaN, first in example 2",
        ),
        ({"batch_size": 0}, "batch_size: expected a whole number, at least 1"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number"),
        ({"batch_size": N + 1}, f"batch_size: expected at most the {N} examples of data"),
        ({"metric_batch": "others"}, "metric_batch: expected one of 'same', 'other', 'own'"),
        (
            {"metric_batch": "other"},
            "metric_batch: expected examples outside of the gradient batch, got none",
        ),
        (
            {"metric_batch": "other", "batch_size": 15, "metric_batch_size": 6},
            "metric_batch_size: .* at most the 5",
        ),
        ({"metric_batch_size": 5}, "metric_batch_size: expected none with metric_batch='same'"),
        (
            {"metric_data": (np.ones((4, 3)),)},
            "metric_data: expected none with metric_batch='same'",
        ),
        (
            {"metric_data": (np.ones((4, 3)),), "metric_batch": "other", "batch_size": 5},
            "metric_data: expected none",
        ),
        ({"metric_batch": "own"}, "metric_data: expected a tuple of arrays"),
        (
            {"metric_batch": "own", "metric_data": (np.ones((4, 3)), np.ones(4))},
            "metric_data: .*needs no targets",
        ),
        (
            {"metric_batch": "own", "metric_data": (np.ones((4, 3)) * np.nan,)},
            "metric_data, x: .*NaN",
        ),
        (
            {"metric_batch": "own", "metric_data": (np.ones((4, 3)),), "metric_batch_size": 5},
            "metric_batch_size: expected at most the 4 examples of metric_data",
        ),
        ({"search_batch": "own"}, "search_batch: expected one of 'same', 'other', 'all'"),
        ({"search_batch": "all"}, "search_batch: expected none without a line search"),
        ({"search_batch": "other"}, "search_batch: expected examples outside"),
        ({"checkpoint": 3}, "checkpoint: expected the name of a file, got 3 \\(int\\)"),
        ({"max_steps": -1}, "max_steps: expected a whole number, at least 0"),
        ({"max_steps": None}, "max_steps: expected a limit"),
        ({"max_seconds": 0}, "max_seconds: expected a number, above 0"),
        ({"max_seconds": math.nan}, "max_seconds: expected"),
        ({"target_loss": math.nan}, "target_loss: expected"),
        ({"evaluate": 1}, "evaluate: expected a callable"),
        ({"evaluate_every": 0}, "evaluate_every: expected a whole number, at least 1"),
        ({"evaluate_data": (1,)}, "evaluate_data: expected none without evaluate"),
        ({"evaluate": print, "evaluate_data": np.ones(3)}, "evaluate_data: expected a tuple"),
        ({"callback": "stop"}, "callback: expected a callable"),
        ({"seed": -1}, "seed: expected a whole number, at least 0"),
        ({"seed": None}, "seed: expected"),
        ({"progress": 1}, "progress: expected True or False"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds: expected"),
        ({"mode": "FORTRAN"}, "mode: expected one of"),
    ],
)
def test_bad_arguments_are_refused_before_compilation(settings, message, monkeypatch):
    for compile_ in ("objective.dry_run.compile_in_python", "training.program.compile_function"):
        monkeypatch.setattr(f"symng.{compile_}", lambda *a, **k: pytest.fail("compiled"))
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        train(descent(), **settings)


def test_metric_batch_for_an_optimizer_without_metric():
    with pytest.raises(
        ValueError,
        match="^metric_batch: expected 'same': the optimizer has no metric, got 'other'",
    ):
        train(symng.SGD(), batch_size=5, metric_batch="other")
    with pytest.raises(ValueError, match="^search_batch: expected none for SGD"):
        train(symng.SGD(), batch_size=5, search_batch="all")


def test_metric_data_without_the_targets_it_needs():
    with pytest.raises(
        ValueError,
        match="^metric_data: expected 2 arrays .*, got 1. The metric reaches the targets",
    ):
        train(
            descent(metric=symng.EmpiricalFisher()),
            metric_batch="own",
            metric_data=(np.ones((4, 3)),),
        )


def test_batch_size_by_a_schedule(tmp_path):
    sizes = []

    def schedule(step):
        return 2 + step if step < 3 else 100

    def run(**options):
        model = line()
        return model, symng.minimize(
            model.objective,
            symng.NaturalGradient(solver=Unit(), damping=1.0, step_size=0.1),
            model.batch,
            batch_size=schedule,
            progress=False,
            mode="FAST_COMPILE",
            **options,
        )

    sampler = BatchSampler.next

    def spied(self, step):
        batches = sampler(self, step)
        sizes.append(tuple(None if b is None else len(b[0]) for b in batches))
        return batches

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchSampler, "next", spied)
        run(max_steps=4)
        assert sizes == [(2, None, None), (3, None, None), (4, None, None), (4, None, None)]
        sizes.clear()
        run(max_steps=3, metric_batch="other", metric_batch_size=1)  # cut to what the metric leaves
        assert sizes == [(2, 1, None), (3, 1, None), (3, 1, None)]

    whole, _ = run(max_steps=4)
    path = tmp_path / "run.npz"
    run(max_steps=2, checkpoint=path)
    resumed, _ = run(max_steps=4, checkpoint=path)
    np.testing.assert_array_equal(resumed.value, whole.value)


@pytest.mark.parametrize("value", [0, 1.5, None])
def test_bad_schedule_of_the_batch_size(value):
    model = line()
    with pytest.raises((TypeError, ValueError), match="its schedule at step 0"):
        symng.minimize(
            model.objective, symng.SGD(step_size=0.1), model.batch, batch_size=lambda step: value
        )
