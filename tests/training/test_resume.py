"""Ctrl-C and checkpoints: no step is lost, and a resumed run is the uninterrupted one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.small_steps import descent, line, regression, train

import symng
from symng.training.checkpoint import save_checkpoint
from symng.training.step import CompiledStep

N = 20


# Ctrl-C


@pytest.mark.parametrize("where", ["callback", "evaluate"])
def test_interrupt_returns_the_result_so_far(where):
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    result = train(**{where: interrupt}, max_steps=10)
    assert result.stopped == "interrupted" and result.steps == len(result.history) == 3


@pytest.fixture
def ctrl_c():
    """Make Ctrl-C raise KeyboardInterrupt also in background runs, where SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_interrupt_during_a_step_lets_it_finish(monkeypatch):
    run = CompiledStep.run
    taken = []

    def interrupted(self, *batches, **options):
        if len(taken) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        taken.append(1)
        return run(self, *batches, **options)

    monkeypatch.setattr(CompiledStep, "run", interrupted)
    result = train(max_steps=10)
    assert result.stopped == "interrupted" and len(result.history) == len(taken) == 3
    assert result.step.state["step"].get_value() == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("ctrl_c")
def test_interrupt_while_a_step_is_recorded_loses_none(monkeypatch):
    append = symng.History.append

    def interrupted(self, **row):
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        append(self, **row)

    monkeypatch.setattr(symng.History, "append", interrupted)
    result = train(max_steps=10)
    assert (
        result.stopped == "interrupted"
        and result.history["step"].tolist() == [1, 2, 3]
        and result.steps == 3
    )


@pytest.mark.usefixtures("ctrl_c")
def test_second_interrupt_ends_the_step(monkeypatch):
    def stuck(self, *batches, **options):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        raise AssertionError("not interrupted")

    monkeypatch.setattr(CompiledStep, "run", stuck)
    result = train(max_steps=10)
    assert result.stopped == "interrupted" and result.steps == len(result.history) == 0


def test_runs_outside_of_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(train(max_steps=2)))
    thread.start()
    thread.join()
    assert results[0].stopped == "max_steps"


@pytest.mark.slow
def test_real_interrupt(tmp_path):
    code = """
        import signal
        import numpy as np, pytensor, pytensor.tensor as pt, symng
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pytensor.config.mode = "FAST_COMPILE"
        x = pt.matrix("x")
        w = pytensor.shared(np.ones(2), name="w")
        y = x @ w
        objective = symng.Objective(pt.sqr(y).mean(), output=y, params=[w], inputs=[x])
        result = symng.minimize(objective, symng.SGD(step_size=1e-9), (np.eye(2),),
                                max_steps=None, max_seconds=100, progress=False,
                                callback=lambda row: print("step", row["step"], flush=True),
                                checkpoint="run.npz")
        print(result.stopped, result.steps == len(result.history), flush=True)
    """
    code = "\n".join(text[8:] for text in code.splitlines())
    environment = {**os.environ, "PYTHONPATH": str(Path(symng.__file__).parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    try:
        assert process.stdout.readline() == "step 1\n"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and rest.splitlines()[-1] == "interrupted True"
    assert (tmp_path / "run.npz").exists()


# Checkpoints


@pytest.mark.parametrize("metric", ["same", "other", "own"])
def test_resumed_run_is_the_uninterrupted_one(tmp_path, metric):
    path = tmp_path / "run.npz"
    _, (X, _T) = regression()
    settings = {
        "batch_size": 6,
        "metric_batch": metric,
        "metric_data": (X[:9],) if metric == "own" else None,
    }
    settings |= {"metric_batch_size": 4} if metric == "own" else {}
    rule = symng.LevenbergMarquardt(initial=30.0)

    def optimizer():
        return descent(damping=rule, warm_start=0.5, step_size=lambda step: 0.1 / (1 + step))

    whole = train(
        optimizer(), **settings, max_steps=11, seed=5, evaluate=lambda: 1, evaluate_every=4
    )
    wanted = whole.step.objective.params[0].get_value()
    for i, steps in enumerate((4, 5, 11)):
        resumed = train(
            optimizer(),
            **settings,
            max_steps=steps,
            seed=5 + i,
            checkpoint=path,
            evaluate=lambda: 1,
            evaluate_every=4,
        )
        assert resumed.steps == steps
    assert (resumed.step.objective.params[0].get_value() == wanted).all()
    for name, variable in whole.step.state.items():
        assert (variable.get_value() == resumed.step.state[name].get_value()).all(), name
    one, two = whole.history.to_dict(), resumed.history.to_dict()
    assert one.keys() == two.keys() and len(two["step"]) == 11
    for name in set(one) - {"seconds", "evaluate"}:
        assert (
            np.array_equal(one[name], two[name], equal_nan=True)
            and one[name].dtype == two[name].dtype
        ), name
    assert (np.diff(two["seconds"]) > 0).all()
    # Nothing is left to do.
    finished = train(optimizer(), **settings, max_steps=11, checkpoint=path)
    assert finished.steps == 11 and finished.compile_seconds == 0
    assert (finished.step.objective.params[0].get_value() == wanted).all()


def test_best_parameters_from_before_a_break_are_put_back(tmp_path):
    path = tmp_path / "run.npz"
    # The loss rises from the first step on.
    train(symng.SGD(step_size=1e3), checkpoint=path, max_steps=2)
    objective, data = regression()
    with pytest.warns(RuntimeWarning, match="The loss blew up"):
        result = train(symng.SGD(step_size=1e3), objective, data, checkpoint=path, max_steps=30)
    assert result.status == "diverged" and result.steps > 2
    assert (objective.params[0].get_value() == 0).all() and result.loss == result.history["loss"][0]


def test_settings_of_a_resumed_run_are_the_new_ones(tmp_path):
    path = tmp_path / "run.npz"
    train(symng.SGD(step_size=1e-3), checkpoint=path, max_steps=2)
    with pytest.warns(UserWarning, match="The run continues with") as caught:
        history = train(symng.SGD(step_size=1e-4), checkpoint=path, max_steps=4).history
    changed = "got step_size FixedStep(size=0.0001) where the file has FixedStep(size=0.001). "
    changed += "The run continues with"
    assert len(caught) == 1 and changed in str(caught[0].message)
    assert history["step_size"].tolist() == [1e-3, 1e-3, 1e-4, 1e-4]


def test_other_settings_and_data_of_a_resumed_run_are_warned_of(tmp_path):
    path = tmp_path / "run.npz"
    _, (X, T) = regression()
    rule = symng.LevenbergMarquardt(initial=3.0)

    def run(steps, data=(X, T), **settings):
        optimizer = descent(**{"damping": rule, "step_size": lambda step: 1e-3} | settings)
        return train(optimizer, data=data, checkpoint=path, max_steps=steps)

    run(1)
    first = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(2)  # another lambda of the same place is no other setting
    other = X.copy()
    other[-1, -1] += 1e-9
    for change, told in (
        (
            {"metric": symng.GaussNewton()},
            "got metric GaussNewton() where the file has Fisher(form='natural').",
        ),
        (
            {"damping": symng.LevenbergMarquardt(initial=9.0)},
            "got damping LevenbergMarquardt(initial=9.0, ratio='linear'",
        ),
        (
            {"data": (other, T)},
            "got data of the same shapes but with other values. The run continues with what is "
            "given now",
        ),
    ):
        path.write_bytes(first)
        with pytest.warns(
            UserWarning, match="^checkpoint: expected the settings and data of '.*run.npz'"
        ) as caught:
            assert run(3, **change).steps == 3
        assert len(caught) == 1 and told in str(caught[0].message)
        assert caught[0].filename.endswith("small_steps.py")  # where minimize was called


def test_refused_checkpoint_names_the_first_difference(tmp_path):
    path = tmp_path / "run.npz"
    train(descent(), checkpoint=path, max_steps=1)
    for change, told in (
        (
            {"optimizer": descent(warm_start=0.5)},
            r"of others: state_direction \(3,\) float64 where the file has none",
        ),
        (
            {"batch_size": 4},
            "run NaturalGradient, batch 4 of 20, .* where the file has NaturalGradient, batch 20 "
            "of 20,",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            train(**{"optimizer": descent(), "checkpoint": path, "max_steps": 2} | change)


def test_checkpoint_after_interrupt_error_and_while_running(tmp_path):
    path = tmp_path / "run.npz"

    def interrupt(row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    assert train(checkpoint=path, callback=interrupt).stopped == "interrupted"
    assert train(checkpoint=path, max_steps=3).steps == 3

    def fail(*data):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):  # the user's own error comes through
        train(checkpoint=path, evaluate=fail)
    resumed = train(checkpoint=path, max_steps=4)
    assert resumed.history["step"].tolist() == [1, 2, 3, 4]

    steps = []

    def look(row):
        steps.append(symng.load_checkpoint(path)[1]["history"]["rows"])

    train(checkpoint=path, max_steps=7, checkpoint_seconds=0.0, callback=look)
    assert steps == [4, 5, 6]


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 5},
        {"metric_batch": "same"},
        {"metric_batch_size": 3},
        {"optimizer": symng.SGD(step_size=1e-3)},
        {"optimizer": descent(warm_start=0.5)},
        {"n": N + 1},
        {"dtype": "float32"},
    ],
)
def test_checkpoint_of_something_else(tmp_path, change):
    path = tmp_path / "run.npz"
    settings = {
        "optimizer": descent(),
        "batch_size": 6,
        "metric_batch": "other",
        "checkpoint": path,
        "max_steps": 2,
    }
    train(**settings)
    objective, data = regression(change.pop("n", N))
    if "dtype" in change:
        model = line(change.pop("dtype"))
        objective, data = (
            model.objective,
            tuple(np.resize(a, (N, *a.shape[1:])) for a in model.batch),
        )
    if isinstance(change.get("optimizer"), symng.SGD):
        change["metric_batch"] = "same"
    kept = path.read_bytes()
    with pytest.raises(
        ValueError,
        match="^checkpoint: expected one of the same model, .* delete the file to start again",
    ):
        train(objective=objective, data=data, **{**settings, **change})
    assert path.read_bytes() == kept and (objective.params[0].get_value() == 0).all()


def test_damaged_and_foreign_files(tmp_path):
    damaged, foreign, other = (
        tmp_path / "damaged.npz",
        tmp_path / "foreign.npz",
        tmp_path / "other.npz",
    )
    train(checkpoint=damaged, max_steps=1)
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    np.savez(foreign, a=np.ones(3))
    save_checkpoint(other, {"a": np.ones(3)}, {"mine": 1})
    for path in (damaged, foreign, other):
        kept = path.read_bytes()
        with pytest.raises(ValueError, match="^checkpoint: expected .*" + re.escape(path.name)):
            train(checkpoint=path)
        assert path.read_bytes() == kept
    with pytest.raises(ValueError, match="^checkpoint: expected a file in a folder that exists"):
        train(checkpoint=tmp_path / "no" / "run.npz")
    with pytest.raises(
        ValueError, match="^checkpoint: expected the name of a file, got the folder"
    ):
        train(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="got the device '/dev/null'"):
        train(checkpoint="/dev/null")


def test_full_disk_is_warned_of_once_and_does_not_end_the_run(tmp_path, monkeypatch):
    calls = []

    def full(*arguments, trial=False, **options):
        if not trial:
            calls.append(1)
            raise OSError(28, "cannot write: No space left on device")

    monkeypatch.setattr("symng.training.checkpoint_file.write_npz", full)
    with pytest.warns(RuntimeWarning) as warned:
        result = train(checkpoint=tmp_path / "run.npz", checkpoint_seconds=0.0, max_steps=4)
    assert result.stopped == "max_steps" and len(result.history) == 4
    told = [str(w.message) for w in warned]
    assert len(told) == 2 and len(calls) == 5
    assert "No space left on device. The run continues" in told[0]
    assert told[1].startswith("checkpoint: the last 4 steps are not in ")


@pytest.mark.parametrize("first, second", [(0.1, "rule"), ("rule", 0.1)])
def test_a_run_goes_on_with_another_damping_rule(first, second, tmp_path):
    """Only a fixed damping keeps by how much steps of full batches are shortened."""
    rule = symng.LevenbergMarquardt(initial=0.1)
    path = tmp_path / "run.npz"
    for damping, steps in ((first, 2), (second, 4)):
        optimizer = descent(damping=rule if damping == "rule" else damping)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = train(optimizer, max_steps=steps, checkpoint=path)
    assert result.steps == 4 and len(result.history) == 4
