"""What Adam and TONGA share: a resumed run is the whole one, and one batch is all they take."""

from __future__ import annotations

import pytest
from helpers.small_steps import line, start, train

import symng


@pytest.mark.parametrize(
    "optimizer",
    [
        symng.Adam(step_size=lambda step: 0.1 / (1 + step)),
        symng.TONGA(rank=2, centered=True, damping=1.0, step_size=1e-3),
    ],
    ids=["Adam", "TONGA"],
)
def test_resumed_run_is_the_uninterrupted_one(optimizer, tmp_path):
    settings = {"batch_size": 6, "seed": 5}
    whole = train(optimizer, **settings, max_steps=7)
    for steps in (3, 7):
        resumed = train(optimizer, **settings, max_steps=steps, checkpoint=tmp_path / "run.npz")
    one, two = (run.step.objective.params[0].get_value() for run in (whole, resumed))
    assert (one == two).all()
    for name, variable in whole.step.state.items():
        assert (variable.get_value() == resumed.step.state[name].get_value()).all(), name
    assert whole.history["loss"][-1] < whole.history["loss"][0]


@pytest.mark.parametrize("optimizer", [symng.Adam(), symng.TONGA()], ids=["Adam", "TONGA"])
def test_other_batches_are_refused(optimizer):
    model = line()
    step, _ = start(optimizer, model.objective)
    with pytest.raises(ValueError, match="^metric_batch: expected none"):
        step(model.batch, metric_batch=model.batch)
    name = type(optimizer).__name__
    with pytest.raises(ValueError, match=f"^search_batch: expected none for {name}"):
        step(model.batch, search_batch=model.batch)
