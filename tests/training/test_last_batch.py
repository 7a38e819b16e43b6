"""Epochs whose last batch is shorter."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_steps import descent, regression, train

import symng
from symng.training.step import CompiledStep

GIVEN = {"batch_size": 6, "drop_last": False, "seed": 2}


@pytest.fixture
def batches(monkeypatch):
    """The numbers of the examples of each batch that a step was given."""
    seen, run = [], CompiledStep.run

    def record(self, *arrays, **options):
        numbers = [None if a is None else a[0][:, 0].astype(int).tolist() for a in arrays]
        seen.append(numbers)
        return run(self, *arrays, **options)

    monkeypatch.setattr(CompiledStep, "run", record)
    return seen


def test_an_epoch_takes_every_example_once(batches):
    """By steps of gradient descent on the mean over each batch."""
    objective, (X, T) = regression()
    result = train(symng.SGD(step_size=1e-3), objective, (X, T), **GIVEN, max_steps=8)
    assert [len(b[0]) for b in batches] == [6, 6, 6, 2] * 2
    w = np.zeros(3)
    for start in (0, 4):
        epoch = [n for b in batches[start : start + 4] for n in b[0]]
        assert sorted(epoch) == list(range(20))
    for step, (numbers, *_) in enumerate(batches):
        x, error = X[numbers], X[numbers] @ w - T[numbers]
        np.testing.assert_allclose(result.history["loss"][step], (error**2).mean() / 2, rtol=1e-9)
        w -= 1e-3 * x.T @ error / len(numbers)
    np.testing.assert_allclose(objective.params[0].get_value(), w, rtol=1e-9)


def test_batches_that_fill_an_epoch_are_as_with_drop_last(batches):
    for drop_last in (True, False):
        train(**{**GIVEN, "batch_size": 5, "drop_last": drop_last}, max_steps=6)
    assert batches[:6] == batches[6:]


def test_other_batches_are_disjoint_from_the_short_one(batches):
    optimizer = descent(damping=symng.LevenbergMarquardt(on_search_batch=True, initial=30.0))
    train(optimizer, **GIVEN, metric_batch="other", search_batch="other", max_steps=8)
    for gradient, metric, search in batches:
        assert len({*gradient, *metric, *search}) == len(gradient) + 12


def test_resumed_run_is_the_uninterrupted_one(tmp_path):
    path = tmp_path / "run.npz"
    whole = train(**GIVEN, max_steps=10)
    for steps in (3, 4, 7, 10):
        resumed = train(**GIVEN, max_steps=steps, checkpoint=path)
    np.testing.assert_array_equal(resumed.history["loss"], whole.history["loss"])
    with pytest.raises(ValueError, match="where the file has SGD, batch 6 of 20 with a shorter"):
        train(**{**GIVEN, "drop_last": True}, max_steps=11, checkpoint=path)


def test_where_there_is_no_last_batch():
    _, data = regression()
    with pytest.raises(ValueError, match="drop_last: expected True with a stream of batches"):
        train(data=lambda: [data], drop_last=False)
    with pytest.raises(TypeError, match="drop_last: expected True or False"):
        train(drop_last=1)
    full = train(drop_last=False, max_steps=2)
    assert full.history["loss"].tolist() == train(max_steps=2).history["loss"].tolist()
