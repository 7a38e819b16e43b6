"""Signals and errors at every moment of a run: a result, or everything as it was."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.small_steps import descent, regression, train

import symng
from symng.training import checkpoint_file
from symng.training.interrupt import Interrupts
from symng.training.programs import Programs
from symng.training.run import TrainingRun
from symng.training.snapshot import Snapshot
from symng.training.step import CompiledStep

pytestmark = pytest.mark.usefixtures("default_handlers")

ENDING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
BATCHES = {"batch_size": 6, "metric_batch": "other", "seed": 3}


@pytest.fixture
def default_handlers():
    """Have the handlers of a program that sets none, also in runs in the background."""
    default = {number: signal.SIG_DFL for number in ENDING}
    default[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, handler) for number, handler in default.items()}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is default[number]
        signal.signal(number, handler)


def send(count: int = 1, number: int = signal.SIGINT) -> None:
    for _ in range(count):
        os.kill(os.getpid(), number)
        time.sleep(0.001)


def momentum() -> symng.SGD:
    return symng.SGD(step_size=1e-3, momentum=0.9)


def values_of(result: symng.TrainingResult) -> dict[str, np.ndarray]:
    """Return the parameters and the state after a run."""
    state = {name: v.get_value() for name, v in result.step.state.items()}
    return {"w": result.step.objective.params[0].get_value(), **state}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("cause", ["error", "two signals", "KeyboardInterrupt hidden in an error"])
def test_a_step_that_was_not_counted_leaves_no_trace(cause, tmp_path, monkeypatch):
    """Neither in memory nor in the file: the resumed run is the uninterrupted one."""
    optimizer = descent(damping=symng.LevenbergMarquardt(initial=30.0), warm_start=0.5)
    whole = train(optimizer, **BATCHES, max_steps=6)
    before = train(optimizer, **BATCHES, max_steps=3)
    take = CompiledStep.run
    taken = []

    def fails(self, *batches, **options):
        info = take(self, *batches, **options)  # parameters and state have changed
        taken.append(info)
        if len(taken) == 4:
            if cause == "error":
                raise RuntimeError("mine")
            if cause == "two signals":
                send(2)
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                raise SystemError("returned a result with an exception set") from error
        return info

    monkeypatch.setattr(CompiledStep, "run", fails)
    objective, data = regression()
    given = {**BATCHES, "checkpoint": tmp_path / "run.npz"}
    if cause == "error":
        with pytest.raises(RuntimeError, match="mine") as caught:
            train(optimizer, objective, data, **given, max_steps=6)
        assert len(caught.value.history) == 3
    else:
        result = train(optimizer, objective, data, **given, max_steps=6)
        assert result.status == "interrupted" and result.steps == len(result.history) == 3
        assert_same(values_of(result), values_of(before))
    np.testing.assert_array_equal(objective.params[0].get_value(), values_of(before)["w"])
    monkeypatch.undo()
    resumed = train(optimizer, **given, max_steps=6)
    assert_same(values_of(resumed), values_of(whole))
    np.testing.assert_array_equal(resumed.history["loss"], whole.history["loss"])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("final", [True, False])
def test_signals_during_a_write_wait_for_it(count, final, tmp_path, monkeypatch):
    """A third one does not."""
    path = tmp_path / "run.npz"
    train(checkpoint=path, max_steps=1)
    save = checkpoint_file.write_npz

    def interrupted(*arguments, trial=False, **options):
        if not trial:
            send(count)
        save(*arguments, trial=trial, **options)

    monkeypatch.setattr(checkpoint_file, "write_npz", interrupted)
    steps = 3 if final else 9
    given = {"checkpoint": path, "max_steps": steps, "checkpoint_seconds": 60.0 * final}
    if count == 3:
        with pytest.raises(KeyboardInterrupt) as caught:
            train(**given)
        assert len(caught.value.history) == (3 if final else 2)
        saved = 1
    else:
        result = train(**given)
        saved = 3 if final else 2
        assert result.status == "interrupted" and result.steps == saved
    assert symng.load_checkpoint(path)[1]["steps"] == saved
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize("number", ENDING, ids=lambda number: signal.Signals(number).name)
def test_signals_of_schedulers_end_a_run_with_its_checkpoint(number, tmp_path):
    def callback(row):
        if row["step"] == 3:
            send(1, number)

    result = train(callback=callback, checkpoint=tmp_path / "run.npz", max_steps=9)
    assert result.status == "interrupted" and result.steps == len(result.history) == 3
    assert symng.load_checkpoint(tmp_path / "run.npz")[1]["steps"] == 3


def test_handlers_of_the_program_are_left_alone():
    came = []
    signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        result = train(callback=lambda row: send(1, signal.SIGTERM), max_steps=2)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert result.status == "max_steps" and came == [1, 1]


@pytest.mark.parametrize("where", ["build", "_load", "check_shapes"])
def test_before_the_first_step_everything_stays_as_it_was(where, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    train(momentum(), checkpoint=path, max_steps=2)
    kept = path.read_bytes()
    owner = TrainingRun if where == "_load" else CompiledStep
    original = getattr(owner, where)

    def interrupted(self, *arguments):
        value = original(self, *arguments)
        send()
        return value

    monkeypatch.setattr(owner, where, interrupted)
    objective, data = regression()
    with pytest.raises(KeyboardInterrupt) as caught:
        train(momentum(), objective, data, checkpoint=path, max_steps=4)
    assert len(caught.value.history) == 0 and path.read_bytes() == kept


@pytest.mark.parametrize("cause", ["signal", "error"])
def test_compilation_that_is_cut_short_changes_nothing(cause, monkeypatch):
    def cut(self, batches):
        objective.params[0].set_value(np.ones(3))  # a rehearsal of the step
        if cause == "error":
            raise RuntimeError("mine")
        send()

    monkeypatch.setattr(Programs, "compile", cut)
    objective, data = regression()
    if cause == "error":
        with pytest.raises(RuntimeError, match="mine"):
            train(momentum(), objective, data)
    else:
        assert train(momentum(), objective, data).status == "interrupted"
    assert (objective.params[0].get_value() == 0).all()


@pytest.mark.parametrize("where", ["callback", "evaluate"])
def test_errors_of_the_user_stay_what_they_are(where):
    def fails(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise KeyError("mine") from None

    with pytest.raises(KeyError, match="mine") as caught:
        train(**{where: fails})
    assert len(caught.value.history) == 1


def test_a_run_in_a_callback_leaves_signals_to_the_outer_one():
    inner = []

    def callback(row):
        inner.append(train(callback=lambda row: send(), max_steps=3))

    result = train(callback=callback, max_steps=3)
    assert [run.status for run in inner] == ["interrupted"]
    assert result.status == "interrupted" and result.steps == 1


def test_contexts_let_so_many_signals_pass():
    with Interrupts() as interrupts:
        send(2)
        assert interrupts.count == 2 and not interrupts.must_stop
        for context in (interrupts.immediate(), interrupts.stepping()):
            with pytest.raises(KeyboardInterrupt), context:
                pytest.fail("entered")
        with pytest.raises(KeyboardInterrupt):
            send()
        assert interrupts.must_stop
        # From now on the program has its own handlers, wherever the exception leads.
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    results = []
    thread = threading.Thread(target=lambda: results.append(Interrupts().__enter__()))
    thread.start()
    thread.join()
    assert results[0].count == 0


def test_snapshot_puts_back_values_and_generators():
    rng = pytensor.shared(np.random.default_rng(0))
    w, count = pytensor.shared(np.ones(3)), pytensor.shared(np.array(2))
    after, draw = pt.random.normal(rng=rng).owner.outputs
    step = pytensor.function(
        [], draw, updates={w: 2 * w + draw, count: count + 1, rng: after}, mode="FAST_COMPILE"
    )
    snapshot = Snapshot([w, count, rng], lambda: [step])
    step()
    snapshot.take()
    kept = w.get_value(), count.get_value()
    first = step()
    for _ in range(2):  # what was put back is not what is kept
        snapshot.restore()
        np.testing.assert_array_equal(w.get_value(), kept[0])
        assert count.get_value() == kept[1] and step() == first
