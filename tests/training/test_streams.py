"""Data that come batch by batch, or from files: the steps are those on the same arrays."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import modes
from helpers.small_steps import Unit, descent, natural, regression, train

import symng
from symng.training.step import CompiledStep

X, T = regression()[1]
BATCHES = [(X[i : i + 5], T[i : i + 5]) for i in range(0, 20, 5)]
NAN = (np.full((5, 3), np.nan), T[:5])


def by_hand(steps, optimizer=None):
    """Return the losses of steps, each on the batches given for it."""
    objective, _ = regression()
    step = symng.compile_step(objective, descent() if optimizer is None else optimizer)
    return [step(*batches).loss for batches in steps]


def losses(data, **settings):
    settings = {"optimizer": descent(), "objective": regression()[0], **settings}
    return train(data=data, **settings).history["loss"]


@dataclass
class Tensor:
    """An array of another library, which NumPy converts."""

    values: np.ndarray

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype=dtype)


class Loader:
    """Batches as lists of tensors of another library; each loop over it is a pass."""

    def __len__(self):
        return len(BATCHES)

    def __iter__(self):
        return ([Tensor(a) for a in batch] for batch in BATCHES)


class Dataset:
    """Single examples by number."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return Tensor(X[i]), Tensor(T[i])


class TestStreams:
    expected = by_hand([(batch,) for batch in BATCHES + BATCHES[:1]])

    def test_a_generator(self):
        np.testing.assert_array_equal(losses((b for b in BATCHES), max_steps=4), self.expected[:4])

    @pytest.mark.parametrize("data", [lambda: iter(BATCHES), Loader()], ids=["function", "loader"])
    def test_passes_begin_again(self, data):
        np.testing.assert_array_equal(losses(data, max_steps=5), self.expected)

    def test_a_function_is_given_the_number_of_the_pass(self):
        passes = []

        def batches(epoch):
            passes.append(epoch)
            return BATCHES[:2]

        losses(batches, max_steps=6)
        assert passes == [0, 1, 2]

    def test_other_batches(self):
        """With search and metric batches of their own a step takes three batches of the stream."""
        optimizer = symng.NaturalConjugateGradient(solver=Unit(), damping=1.0)
        steps = [(BATCHES[0], BATCHES[1][:1], BATCHES[2]), (BATCHES[3], BATCHES[0][:1], BATCHES[1])]
        found = losses(
            lambda: BATCHES,
            optimizer=optimizer,
            metric_batch="other",
            search_batch="other",
            max_steps=2,
        )
        np.testing.assert_array_equal(found, by_hand(steps, optimizer))

    @pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "arrays"])
    def test_metric_batches_of_their_own(self, is_stream):
        own = (X[::-1].copy(),)
        found = losses(
            iter(BATCHES),
            optimizer=descent(),
            metric_batch="own",
            metric_data=(lambda: [own]) if is_stream else own,
            max_steps=3,
        )
        steps = [(batch, own) for batch in BATCHES[:3]]
        np.testing.assert_array_equal(found, by_hand(steps, descent()))

    def test_a_sum_of_objectives(self):
        def run(data, **settings):
            both = regression()[0]
            x, t = pt.matrix("x"), pt.vector("t")
            other = symng.Objective(
                pt.sqr(x @ both.params[0] - t).mean(), x @ both.params[0], both.params, [x], [t]
            )
            return train(descent(), both + 0.5 * other, data, **settings).history["loss"]

        groups = (BATCHES[0], BATCHES[1])
        np.testing.assert_array_equal(run(lambda: [groups]), run(groups))

    def test_batches_of_several_lengths(self):
        data = [BATCHES[0], tuple(a[:2] for a in BATCHES[1])]
        np.testing.assert_array_equal(
            losses(iter(data), max_steps=2), by_hand([(batch,) for batch in data])
        )

    @pytest.mark.parametrize("mode", modes("JAX", slow=("JAX",)))
    def test_the_next_batch_is_put_on_the_device(self, mode, monkeypatch):
        import jax

        taken = []
        run = CompiledStep.run

        def spied(self, *batches, **options):
            taken.extend(batches[0].parts)
            return run(self, *batches, **options)

        monkeypatch.setattr(CompiledStep, "run", spied)
        found = losses(Loader(), max_steps=5, mode=mode)
        np.testing.assert_allclose(found, self.expected, rtol=1e-12)
        assert len(taken) == 10
        assert all(isinstance(array, jax.Array) for array in taken)


class TestPrefetch:
    def test_the_next_batch_is_made_while_a_step_runs(self):
        made = [threading.Event() for _ in BATCHES]
        threads = set()

        def batches():
            for batch, event in zip(BATCHES, made, strict=True):
                threads.add(threading.current_thread().name)
                event.set()
                yield batch

        def callback(row):
            assert row["step"] > 3 or made[row["step"]].wait(10)

        train(descent(), data=batches(), max_steps=4, callback=callback)
        assert "symng-prefetch" in threads

    def test_no_more_is_read_than_steps_take(self):
        stream = iter(BATCHES)
        train(descent(), data=stream, max_steps=2)
        assert len(list(stream)) == 2

    def test_no_thread_is_left(self):
        train(descent(), data=Loader(), max_steps=2, callback=lambda row: True)
        assert not [t for t in threading.enumerate() if t.name == "symng-prefetch"]

    def test_ctrl_c_does_not_wait_for_a_slow_stream(self):
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        released = threading.Event()

        def batches():
            yield from BATCHES[:2]
            os.kill(os.getpid(), signal.SIGINT)
            released.wait(10)

        try:
            start = time.monotonic()
            result = train(descent(), data=batches(), max_steps=4)
            assert time.monotonic() - start < 9
        finally:
            released.set()
            signal.signal(signal.SIGINT, before)
        assert result.status == "interrupted" and len(result.history) == result.steps <= 2


class TestEnds:
    def test_a_stream_that_ends_early(self):
        objective, _ = regression()
        with pytest.raises(
            ValueError, match="batches for 9 steps, got a stream that ended after 4"
        ) as caught:
            train(descent(), objective, iter(BATCHES), max_steps=9)
        np.testing.assert_array_equal(caught.value.history["loss"], TestStreams.expected[:4])
        assert np.isfinite(objective.params[0].get_value()).all()

    def test_without_a_limit_a_run_ends_with_its_data(self):
        result = train(
            descent(), data=iter(BATCHES), max_steps=None, evaluate=lambda: 1.0, evaluate_every=3
        )
        assert (result.status, result.steps) == ("end_of_data", 4)
        np.testing.assert_array_equal(result.history["evaluate"], [np.nan, np.nan, 1, 1])

    @pytest.mark.parametrize("data", [lambda: [], iter(())], ids=["function", "iterator"])
    def test_an_empty_stream(self, data):
        with pytest.raises(ValueError, match="at least one batch, got a stream without any"):
            losses(data)

    def test_an_empty_pass(self):
        with pytest.raises(ValueError, match="without any in pass 2"):
            losses(lambda epoch: [] if epoch else BATCHES)

    def test_a_run_without_any_limit(self):
        with pytest.raises(ValueError, match="a limit"):
            losses(Loader(), max_steps=None)


class TestBadBatches:
    @pytest.mark.parametrize(
        "bad, message",
        [
            (NAN, r"data \(step 3\), x: .*NaN"),
            ((X[:0], T[:0]), r"data \(step 3\): .*at least one example"),
            ((X[:5, :2], T[:5]), r"data \(step 3\): "),
            ((X[:5], T[:4]), r"data \(step 3\): .*same number of examples"),
            ((X[:5].astype(int), T[:5]), r"data \(step 3\), x: .*float64"),
            ((X[:5],), r"data \(step 3\): expected 2 arrays"),
            ({"x": X, "t": T}, r"data \(step 3\): .*Give tuple"),
        ],
        ids=["NaN", "empty", "shape", "lengths", "integers", "one array", "mapping"],
    )
    def test_later_in_a_run(self, bad, message):
        objective, _ = regression()
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            train(descent(), objective, iter([*BATCHES[:2], bad]), max_steps=3)
        np.testing.assert_array_equal(caught.value.history["loss"], TestStreams.expected[:2])

    def test_in_the_beginning(self):
        objective, _ = regression()
        with pytest.raises(ValueError, match="data, x: .*NaN"):
            train(descent(), objective, iter([NAN]))
        np.testing.assert_array_equal(objective.params[0].get_value(), 0)

    def test_an_error_of_the_stream_itself(self):
        def batches():
            yield BATCHES[0]
            raise RuntimeError("the disk is gone")

        with pytest.raises(RuntimeError, match="the disk is gone") as caught:
            losses(batches())
        assert len(caught.value.history) == 1

    @pytest.mark.parametrize(
        "settings, message",
        [
            ({"batch_size": 5}, "batch_size: expected none with a stream"),
            ({"search_batch": "all"}, "search_batch: expected 'same' or 'other' of a stream"),
            ({"metric_batch_size": 5}, "metric_batch_size: expected none with metric_batch='same'"),
            ({"data": lambda: 5}, "data: expected a function that returns an iterable"),
            ({"data": 5}, "data: expected a tuple"),
            ({"data": BATCHES}, "data: .*got a list of 4 batches. Give a function"),
            ({"data": Dataset()}, "data: .*a loader of its batches"),
            (
                {"metric_batch": "own", "metric_data": (X,), "metric_batch_size": 21},
                "metric_batch_size: expected at most the 20 examples",
            ),
        ],
        ids=[
            "batch_size",
            "all",
            "metric_batch_size",
            "no batches",
            "number",
            "list",
            "examples",
            "too many",
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises((TypeError, ValueError), match=message):
            losses(**{"data": Loader(), **settings})


class TestResumed:
    """A run in two parts takes the batches of one in a single part."""

    def run(self, data, path, **settings):
        return losses(data, checkpoint=path, **settings)

    @pytest.mark.parametrize("taken", [1, 4, 6])
    @pytest.mark.parametrize(
        "make",
        [lambda: lambda epoch: BATCHES[epoch:], Loader, lambda: iter(3 * BATCHES)],
        ids=["function", "loader", "generator"],
    )
    def test_equals_one_in_a_single_part(self, make, taken, tmp_path):
        self.run(make(), tmp_path / "run", max_steps=taken)
        resumed = self.run(make(), tmp_path / "run", max_steps=7)
        np.testing.assert_array_equal(resumed, losses(make(), max_steps=7))

    def test_with_metric_batches_drawn_from_arrays(self, tmp_path):
        settings = {
            "optimizer": descent(),
            "metric_batch": "own",
            "metric_data": (X,),
            "metric_batch_size": 6,
        }
        self.run(Loader(), tmp_path / "run", max_steps=3, **settings)
        resumed = self.run(Loader(), tmp_path / "run", max_steps=6, **settings)
        np.testing.assert_array_equal(resumed, losses(Loader(), max_steps=6, **settings))

    def test_with_too_few_batches(self, tmp_path):
        self.run(iter(BATCHES), tmp_path / "run", max_steps=3)
        with pytest.raises(ValueError, match="more than the 3 batches.*got fewer"):
            self.run(iter(BATCHES[:2]), tmp_path / "run", max_steps=4)

    def test_not_from_a_run_on_arrays(self, tmp_path):
        self.run((X, T), tmp_path / "run", max_steps=3)
        with pytest.raises(ValueError, match="batches of a stream"):
            self.run(Loader(), tmp_path / "run", max_steps=4)


class TestFiles:
    """Memory-mapped arrays."""

    @pytest.fixture
    def files(self, tmp_path):
        def mapped(name, array):
            np.save(tmp_path / name, array)
            return np.load(tmp_path / name, mmap_mode="r")

        return lambda X: (mapped("X.npy", X), mapped("T.npy", T))

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"metric_batch": "other", "metric_batch_size": 3},
            {
                "search_batch": "all",
                "optimizer": symng.NaturalConjugateGradient(solver=Unit(), damping=1.0),
            },
            {"batch_size": None},
        ],
        ids=["plain", "metric", "search", "full"],
    )
    def test_steps_are_those_in_memory(self, files, settings):
        settings = {"batch_size": 4, "max_steps": 7, **settings}
        np.testing.assert_array_equal(losses(files(X), **settings), losses((X, T), **settings))

    def test_only_what_is_taken_is_read(self, files):
        """A NaN is found when its example is drawn, not before."""
        bad = X.copy()
        bad[19] = np.nan
        data = files(bad)
        order = np.random.default_rng(0).permutation(20)
        step = int(np.flatnonzero(order == 19)[0]) // 4 + 1
        with pytest.raises(ValueError, match=rf"data \(step {step}\), x: .*NaN") as caught:
            losses(data, batch_size=4)
        assert len(caught.value.history) == step - 1

    def test_wrong_arrays_are_refused_at_once(self, files):
        mapped = files(X)
        for data, message in [
            ((mapped[0][:7], mapped[1]), "the same number of examples"),
            ((mapped[1], mapped[1]), "an array of 2 axes"),
            ((mapped[0],), "expected 2 arrays"),
        ]:
            with pytest.raises(ValueError, match=message):
                losses(data, batch_size=4)

    def test_a_resumed_run_goes_on_and_other_data_are_a_warning(self, files, tmp_path):
        settings = {"batch_size": 4, "checkpoint": tmp_path / "run"}
        losses(files(X), max_steps=3, **settings)
        resumed = losses(files(X), max_steps=7, **settings)
        np.testing.assert_array_equal(resumed, losses((X, T), batch_size=4, max_steps=7))
        with pytest.warns(UserWarning, match="with other values"):
            losses(files(X + 1e-3), max_steps=8, **settings)


def test_a_metric_that_needs_targets_takes_those_of_the_stream():
    optimizer = natural(metric=symng.EmpiricalFisher(), solver=symng.CG(), damping=1.0)
    found = losses(lambda: BATCHES, optimizer=optimizer, metric_batch="other", max_steps=1)
    assert found == by_hand([(BATCHES[0], BATCHES[1])], optimizer)


def test_problems_without_arguments():
    """A stream of empty batches, for a model whose data are constants of the graph."""
    w = pytensor.shared(np.ones(2), name="w")
    objective = symng.Objective(pt.sqr(w).sum(), pt.stack([w]), [w], [])
    result = train(symng.SGD(0.1), objective, lambda: [()], max_steps=2)
    assert result.history["loss"][1] < result.history["loss"][0]
