"""The files of a run: what is refused, what is kept, and who may write them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.small_steps import descent, regression, train

import symng
from symng.training import checkpoint_file
from symng.training.checkpoint_file import CheckpointFile
from symng.training.history_file import HistoryFile

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
RULE = symng.LevenbergMarquardt(initial=30.0)
GIVEN = {"batch_size": 6, "metric_batch": "other", "seed": 3}


def optimizer():
    return descent(damping=RULE, warm_start=0.5)


def values_of(result):
    state = {name: v.get_value() for name, v in result.step.state.items()}
    return {"w": result.step.objective.params[0].get_value(), **state}


def assert_same(one, two):
    """Compare parameters, state and history of two runs."""
    a, b = values_of(one), values_of(two)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    np.testing.assert_array_equal(one.history["step"], two.history["step"])
    np.testing.assert_array_equal(one.history["loss"], two.history["loss"])


# Refusals


def alter(change, path):
    """Write a checkpoint again, with its checksum, after a change of arrays and text."""
    arrays, meta = symng.load_checkpoint(path)
    change(arrays, meta)
    symng.save_checkpoint(path, arrays, meta)


def put(where, name, value):
    def change(arrays, meta):
        target = {"arrays": arrays, "meta": meta, "feed": meta["feed"]}[where]
        target.pop(name) if value is ... else target.update({name: value})

    return change


def first(name, value):
    def change(arrays, meta):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[0] = value

    return change


ALTERED = {
    "a parameter is NaN": first("param_0", np.nan),
    "a direction is infinite": first("state_direction", np.inf),
    "the damping is NaN": first("state_damping", np.nan),
    "best parameters with NaN": first("best_0", np.nan),
    "a lowest loss of NaN": put("meta", "lowest", float("nan")),
    "no best parameters": put("arrays", "best_0", ...),
    "more steps than rows": put("meta", "steps", 4),
    "steps in text": put("meta", "steps", "3"),
    "steps of a bool": put("meta", "steps", True),
    "no steps": put("meta", "steps", ...),
    "a state after other steps": first("state_step", 7),
    "negative seconds": put("meta", "seconds", -1.0),
    "infinite seconds": put("meta", "seconds", float("inf")),
    "an order that is no permutation": first("feed_order", 1),
    "an order out of range": first("feed_order", 99),
    "a position out of range": put("feed", "position", 21),
    "a negative position": put("feed", "position", -1),
    "half a position": put("feed", "position", 1.5),
    "no position": put("feed", "position", ...),
    "no generator": put("feed", "rng", ...),
    "another generator": put("feed", "rng", {"bit_generator": "MT19937"}),
    "no feed": put("meta", "feed", ...),
    "a feed in text": put("meta", "feed", "text"),
    "generators of nothing": put("meta", "generators", [{}]),
    "no place in the history": put("meta", "history", {}),
    "another place in the history": put("meta", "history", {"rows": 3, "bytes": 10, "checksum": 0}),
    "too long a history": put("meta", "history", {"rows": 3, "bytes": 2**60, "checksum": 0}),
    "a model in text": put("meta", "model", "text"),
    "settings in text": put("meta", "settings", "text"),
    "no settings of a number": put("meta", "settings", 3),
}


@pytest.mark.parametrize("name", ALTERED)
def test_what_cannot_be_right_is_refused_before_anything_is_set(name, tmp_path):
    path = tmp_path / "run.npz"
    train(optimizer(), **GIVEN, checkpoint=path, max_steps=3)
    alter(ALTERED[name], path)
    kept = path.read_bytes()
    objective, data = regression()
    with pytest.raises(ValueError, match=r"^checkpoint: expected .*run\.npz"):
        train(optimizer(), objective, data, **GIVEN, checkpoint=path, max_steps=5)
    assert (objective.params[0].get_value() == 0).all() and path.read_bytes() == kept


def test_files_of_the_first_format_are_read(tmp_path):
    """They have the history within, and neither a checksum nor a digest of the model."""
    path = tmp_path / "run.npz"
    whole = train(optimizer(), **GIVEN, max_steps=6)
    part = train(optimizer(), **GIVEN, checkpoint=path, max_steps=3)
    arrays, meta = symng.load_checkpoint(path)
    arrays |= {f"history_{name}": column for name, column in part.history.to_dict().items()}
    for name in ("history", "model", "programs", "shared", "not_finite", "state_step"):
        del meta[name]
    Path(f"{path}.history.jsonl").unlink()
    text = json.dumps({"format": 1, "arrays": list(arrays), "meta": meta}).encode()
    with path.open("wb") as file:
        np.savez(file, symng_checkpoint=np.frombuffer(text, "uint8"), **arrays)
    assert_same(train(optimizer(), **GIVEN, checkpoint=path, max_steps=6), whole)


def test_files_of_the_first_format_are_verified_too(tmp_path):
    path = tmp_path / "run.npz"
    part = train(optimizer(), **GIVEN, checkpoint=path, max_steps=3)
    arrays, meta = symng.load_checkpoint(path)
    columns = part.history.to_dict()
    del meta["history"], meta["state_step"]
    for change in ({"state_step": np.array(2)}, {"history_step": np.arange(3)}):
        changed = arrays | {f"history_{n}": c for n, c in columns.items()} | change
        symng.save_checkpoint(path, changed, meta)
        with pytest.raises(ValueError, match=r"run\.npz.*damaged"):
            train(optimizer(), **GIVEN, checkpoint=path, max_steps=5)


# Other models


def model(form="tanh", names="VU", swap=False, factor=1.0):
    """Return a model of two layers of one shape."""
    x, t = pt.matrix("x"), pt.matrix("t")
    V, U = (pytensor.shared(np.eye(2) * (i + 1), name=name) for i, name in enumerate(names))
    y = {"tanh": pt.tanh, "relu": lambda v: pt.maximum(v, 0)}[form](x @ V) @ U
    loss = factor * pt.sqr(y - t).sum(axis=1).mean()
    params = [U, V] if swap else [V, U]
    return symng.Objective(loss, output=y, params=params, inputs=[x], targets=[t])


def run_model(path, steps=2, **given):
    data = (np.arange(6.0).reshape(3, 2) / 6, np.ones((3, 2)))
    mode = given.pop("mode", None)
    objective = model(**given)
    return train(
        symng.SGD(step_size=0.1), objective, data, checkpoint=path, max_steps=steps, mode=mode
    )


@pytest.mark.parametrize(
    "change, told",
    [
        ({"form": "relu"}, "the graph of loss and outputs, or a likelihood, is another one"),
        ({"factor": 2.0}, "the graph of loss and outputs, or a likelihood, is another one"),
        ({"swap": True}, "parameters U, V where the file has V, U"),
        ({"swap": True, "names": "UV"}, "the graph of loss and outputs"),
        ({"names": "AB"}, "parameters A, B where the file has V, U"),
    ],
)
def test_another_model_of_the_same_shapes_is_refused(change, told, tmp_path):
    path = tmp_path / "run.npz"
    run_model(path)
    with pytest.raises(ValueError, match=f"of the same model, .*run.npz' of others: {told}"):
        run_model(path, 3, **change)
    assert run_model(path, 3).steps == 3
    # Another version may make other graphs of one model.
    alter(lambda arrays, meta: meta["programs"].update(PyTensor="2.0"), path)
    if "graph" in told and "names" not in change:
        with pytest.warns(UserWarning, match="got PyTensor .* where the file has 2.0"):
            assert run_model(path, 4, **change).steps == 4


def test_other_programs_are_warned_of(tmp_path):
    path = tmp_path / "run.npz"
    run_model(path, mode="FAST_COMPILE")
    programs = symng.load_checkpoint(path)[1]["programs"]
    assert set(programs) == {"mode", "chunk_size", "floatX", "PyTensor", "symng"}
    alter(lambda arrays, meta: meta["programs"].update(mode="jax", chunk_size="7"), path)
    with pytest.warns(UserWarning, match="mode .* where the file has jax; chunk_size None where"):
        assert run_model(path, 3, mode="FAST_COMPILE").steps == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_model(path, 4, mode="FAST_COMPILE")


# Several files


def test_older_checkpoints_are_kept_and_used_where_the_newest_is_damaged(tmp_path):
    path = tmp_path / "run.npz"
    whole = train(optimizer(), **GIVEN, max_steps=8)
    given = {**GIVEN, "checkpoint": path, "keep": 3, "checkpoint_every": 1}
    train(optimizer(), **given, max_steps=5)
    older = [tmp_path / f"run.npz.{i}" for i in (1, 2)]
    names = {"run.npz", "run.npz.1", "run.npz.2", "run.npz.history.jsonl"}
    assert {p.name for p in tmp_path.iterdir()} == names
    steps = [symng.load_checkpoint(p)[1]["steps"] for p in (path, *older)]
    assert steps == [5, 4, 3]
    for p in (path, older[0]):
        p.write_bytes(p.read_bytes()[:-30])
    with pytest.warns(RuntimeWarning, match=r"run\.npz'.* continues from '.*run\.npz\.2', the one"):
        resumed = train(optimizer(), **given, max_steps=6)
    assert resumed.history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    # What is damaged took no number of what is not.
    found = [p for p in (path, *older) if p.exists()]
    assert [symng.load_checkpoint(p)[1]["steps"] for p in found] == [6, 5, 4]
    path.unlink()
    with pytest.warns(RuntimeWarning, match=r"run\.npz' is not there. .* from '.*run\.npz\.1'"):
        resumed = train(optimizer(), **given, max_steps=8)
    assert_same(resumed, whole)
    for p in (path, *older):
        p.write_bytes(b"")
    with pytest.raises(ValueError, match=r"run\.npz', which is damaged"):
        train(optimizer(), **given, max_steps=9)
    alone = train(optimizer(), **{**given, "resume": False, "keep": 1}, max_steps=2)
    assert alone.steps == 2
    assert {p.name for p in tmp_path.iterdir()} == {"run.npz", "run.npz.history.jsonl"}


def test_without_links_the_one_before_is_a_copy(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", unsupported)
    path = tmp_path / "run.npz"
    train(checkpoint=path, max_steps=3, keep=2, checkpoint_every=1)
    assert symng.load_checkpoint(f"{path}.1")[1]["steps"] == 2


def test_whether_to_resume(tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(ValueError, match=r"resume: expected a checkpoint to continue from, got 'm"):
        train(checkpoint=path, resume="must")
    train(checkpoint=path, max_steps=3)
    assert train(checkpoint=path, max_steps=4, resume="must").steps == 4
    objective, data = regression()
    again = train(None, objective, data, checkpoint=path, max_steps=2, resume=False)
    assert again.steps == len(again.history) == 2
    assert symng.load_checkpoint(path)[1]["steps"] == 2
    for wrong, told in (
        ({"resume": "never"}, "resume: expected True, False or 'must'"),
        ({"resume": "must", "checkpoint": None}, "resume: expected True or False without"),
        ({"keep": 0}, "keep: expected a whole number, at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every: expected a whole number, at least 1"),
    ):
        with pytest.raises(ValueError, match=told):
            train(**{"checkpoint": path, **wrong})


def test_checkpoints_after_so_many_steps(tmp_path):
    path, seen = tmp_path / "run.npz", []

    def look(row):
        seen.append(symng.load_checkpoint(path)[1]["steps"] if path.exists() else 0)

    train(checkpoint=path, checkpoint_every=3, callback=look, max_steps=8)
    assert seen == [0, 0, 0, 3, 3, 3, 6, 6]


def test_writing_takes_at_most_a_twentieth_of_the_time(tmp_path, monkeypatch):
    """Steps of one second, and writes of three: they are due after a minute, not every second."""
    now, writes, write = [0.0], [], CheckpointFile.write

    def slow(self, *contents):
        write(self, *contents)
        writes.append(now[0])
        now[0] += 3

    def second(row):
        now[0] += 1

    monkeypatch.setattr(CheckpointFile, "write", slow)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    train(checkpoint=tmp_path / "run.npz", checkpoint_seconds=1, callback=second, max_steps=150)
    gaps = np.diff(writes[:-1])  # the last is that of the end
    assert len(gaps) >= 1 and (gaps >= 60).all() and (gaps <= 65).all()


def test_a_relative_name_is_that_of_the_start(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    train(checkpoint="run.npz", callback=lambda row: os.chdir("other"), max_steps=1)
    monkeypatch.chdir(tmp_path)
    assert symng.load_checkpoint("run.npz")[1]["steps"] == 1
    assert list((tmp_path / "other").iterdir()) == []


# Failures of the disk


def test_a_disk_that_is_full_at_the_start_is_an_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    objective, data = regression()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="checkpoint: expected a file that can be written, got"):
            train(None, objective, data, checkpoint=tmp_path / "run.npz")
    assert (objective.params[0].get_value() == 0).all() and list(tmp_path.iterdir()) == []


def test_a_failure_after_a_success_is_warned_of_again(tmp_path, monkeypatch):
    fails, write = [True, True, False, True, False, False], checkpoint_file.write_npz

    def sometimes(*arguments, trial=False, **options):
        if not trial and fails.pop(0):
            raise OSError(28, "No space left on device")
        write(*arguments, trial=trial, **options)

    monkeypatch.setattr(checkpoint_file, "write_npz", sometimes)
    path = tmp_path / "run.npz"
    with pytest.warns(RuntimeWarning, match="The run continues and tries again") as warned:
        train(checkpoint=path, checkpoint_every=1, max_steps=6)
    assert len(warned) == 2
    monkeypatch.undo()
    # Rows of a checkpoint that could not be written do no harm.
    assert train(checkpoint=path, max_steps=7).history["step"].tolist() == list(range(1, 8))


# The history


def test_rows_after_the_checkpoint_do_no_harm(tmp_path):
    """As a run leaves them that is killed between the two files, or within a row."""
    path, rows = tmp_path / "run.npz", tmp_path / "run.npz.history.jsonl"
    whole = train(optimizer(), **GIVEN, max_steps=6)
    train(optimizer(), **GIVEN, checkpoint=path, max_steps=3)
    rows.write_bytes(rows.read_bytes() + b'{"columns": ["step"]}\n[4]\n[5')
    assert_same(train(optimizer(), **GIVEN, checkpoint=path, max_steps=6), whole)
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row[0] for row in lines if isinstance(row, list)] == [1, 2, 3, 4, 5, 6]


def test_the_history_of_a_run_can_be_read_meanwhile(tmp_path):
    path, rows = tmp_path / "run.npz", tmp_path / "run.npz.history.jsonl"
    seen = []

    def look(row):
        if row["step"] > 1:
            seen.append(symng.History.load(rows)["step"].tolist())

    result = train(checkpoint=path, checkpoint_every=1, callback=look, max_steps=4)
    assert seen == [[1], [1, 2], [1, 2, 3]]
    rows.write_bytes(rows.read_bytes() + b'{"columns": ["step"]}\n[5')
    again = symng.History.load(rows)
    assert again.columns == result.history.columns
    for name in again:
        np.testing.assert_array_equal(again[name], result.history[name], strict=True)
    rows.write_bytes(rows.read_bytes()[:40] + b"\n[1]\n")
    with pytest.raises(ValueError, match=r"path: expected the history of a run, got .*jsonl"):
        symng.History.load(rows)


@posix
def test_the_name_of_the_history_is_on_the_disk_before_the_checkpoint_is(tmp_path, monkeypatch):
    """Else a power cut may leave a checkpoint without the history that it needs."""
    listings, fsync = [], os.fsync

    def record(descriptor):
        if os.fstat(descriptor).st_ino == tmp_path.stat().st_ino:
            listings.append({p.name for p in tmp_path.iterdir() if p.suffix != ".lock"})
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    train(checkpoint=tmp_path / "run.npz", max_steps=1)
    both = {"run.npz", "run.npz.history.jsonl"}
    assert [names for names in listings if names] == [{"run.npz.history.jsonl"}, both]


def test_a_checkpoint_costs_the_same_after_many_rows(tmp_path):
    """What is written of the history are the new rows, and they are at its end."""
    history, file = symng.History(), HistoryFile(tmp_path / "h")
    sizes = []
    for count in (10, 10_000, 10):
        for _ in range(count):
            history.append(step=len(history), loss=0.5)
        before = file.size
        file.append(history)
        sizes.append(file.size - before)
    assert sizes[2] < 2 * sizes[0] < sizes[1]
    assert file.size == (tmp_path / "h").stat().st_size
    with_gaps = symng.History()
    for row in ({"a": 1, "b": None}, {"b": "text", "a": 2**70}, {"c": float("nan"), "d": True}):
        with_gaps.append(**row)
        file = HistoryFile(tmp_path / "g") if len(with_gaps) == 1 else file
        file.append(with_gaps)
    again = HistoryFile(tmp_path / "g").read(file.get_state())
    assert again.columns == with_gaps.columns
    for name in again:
        np.testing.assert_array_equal(again[name], with_gaps[name], strict=True)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 10_000, b"[1]\n" * 10_000, b'{"columns": 3}\n' * 1000, None]
)
def test_a_history_of_something_else_is_named(content, tmp_path):
    path, rows = tmp_path / "run.npz", tmp_path / "run.npz.history.jsonl"
    train(checkpoint=path, max_steps=3)
    rows.unlink() if content is None else rows.write_bytes(content)
    objective, data = regression()
    with pytest.raises(ValueError, match=r"^checkpoint: .*history\.jsonl.*resume=False"):
        train(None, objective, data, checkpoint=path, max_steps=5)
    assert (objective.params[0].get_value() == 0).all()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "long" * 300])
def test_names_that_cannot_be_stored_are_refused_at_the_first_evaluation(name):
    with pytest.raises(ValueError, match="evaluate: expected names of columns that a file") as e:
        train(evaluate=lambda: {name: 1.0}, max_steps=9)
    assert len(e.value.history) == 1
    with pytest.raises(ValueError, match="evaluate: expected each name once, got '1' twice"):
        train(evaluate=lambda: {1: 1.0, "1": 2.0}, max_steps=9)


# What the user sets


def energies():
    v, b = pt.matrix("v"), pytensor.shared(np.zeros(2), name="b")
    chains = pytensor.shared(np.random.default_rng(0).random((4, 2)), name="chains")
    objective = symng.EnergyObjective(lambda x: -x @ b, params=[b], data=v, samples=chains)
    return objective, chains


def test_shared_samples_that_a_callback_sets_are_in_the_checkpoint(tmp_path):
    def run(steps, path=None):
        objective, chains = energies()

        def move(row):
            chains.set_value((chains.get_value() * 1.7 + 0.1 * row["step"]) % 1)

        data = (np.eye(2)[[0, 1, 1]],)
        return train(
            symng.SGD(step_size=0.1),
            objective,
            data,
            checkpoint=path,
            callback=move,
            max_steps=steps,
        )

    whole = run(5)
    run(3, tmp_path / "run.npz")
    assert_same(run(5, tmp_path / "run.npz"), whole)


def test_other_shared_variables_that_have_changed_are_warned_of(tmp_path):
    def run(steps, penalty):
        x, w = pt.matrix("x"), pytensor.shared(np.ones(2), name="w")
        weight = pytensor.shared(np.array(penalty), name="weight")
        y = x @ w
        loss = pt.sqr(y).mean() + weight * pt.sqr(w).sum()
        objective = symng.Objective(loss, output=y, params=[w], inputs=[x])
        path = tmp_path / "run.npz"
        train(symng.SGD(step_size=0.1), objective, (np.eye(2),), checkpoint=path, max_steps=steps)

    run(2, 0.5)
    run(3, 0.5)
    with pytest.warns(UserWarning, match="other values of shared variables that the model reads"):
        run(4, 0.25)


@pytest.mark.filterwarnings("ignore:Setting default_update:DeprecationWarning")
def test_a_generator_that_has_no_place_in_a_file_is_warned_of(tmp_path):
    class Own(np.random.PCG64):
        pass

    x, w = pt.matrix("x"), pytensor.shared(np.ones(2), name="w")
    rng = pytensor.shared(np.random.Generator(Own(0)), name="mine")
    after, noise = pt.random.normal(rng=rng).owner.outputs
    rng.default_update = after
    y = x @ w + noise
    objective = symng.Objective(pt.sqr(y).mean(), output=y, params=[w], inputs=[x])
    with pytest.warns(UserWarning, match="the random generator mine of kind Own cannot be stored"):
        train(
            None,
            objective,
            (np.eye(2),),
            checkpoint=tmp_path / "r.npz",
            mode="FAST_COMPILE",
        )


# One run at a time


def test_a_second_run_on_a_checkpoint_is_refused(tmp_path):
    path, told = tmp_path / "run.npz", []

    def again(row):
        with pytest.raises(ValueError, match="expected a file that no other run writes") as caught:
            train(checkpoint=path)
        told.append(str(caught.value))

    train(checkpoint=path, callback=again, max_steps=1)
    assert f"'{path}', which process {os.getpid()}, this one, has" in told[0]
    assert train(checkpoint=path, max_steps=2).steps == 2
    assert not (tmp_path / "run.npz.lock").exists()


HOLDER = """
import sys, time
from pathlib import Path
from symng.training.lock import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
print("locked", flush=True)
time.sleep(100)
"""


@posix
def test_a_lock_names_its_process_and_ends_with_it(tmp_path):
    path = tmp_path / "run.npz"
    command = [sys.executable, "-W", "ignore", "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            with pytest.raises(ValueError, match=f"run.npz', which process {holder.pid} on "):
                train(checkpoint=path)
        finally:
            holder.send_signal(signal.SIGKILL)
    assert train(checkpoint=path, max_steps=2).steps == 2
    assert not (tmp_path / "run.npz.lock").exists()


@posix
def test_a_lock_that_cannot_be_removed_does_not_lose_the_result(tmp_path, monkeypatch):
    path, unlink = tmp_path / "run.npz", Path.unlink

    def refuse(self, **given):
        if self.name == "run.npz.lock":
            raise OSError(5, "Input/output error")
        unlink(self, **given)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert train(checkpoint=path).steps == 5
    assert (tmp_path / "run.npz.lock").exists()
    assert train(checkpoint=path, max_steps=6).steps == 6  # nobody has it
