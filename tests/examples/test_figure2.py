"""examples/figure2.

The stream of examples, training, the choice of step sizes, variances, table and picture.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers.figure2_example import (
    TINY,
    fake_digits,
    figure2,
    results,
    runs,
    settings_of,
)

pytestmark = pytest.mark.usefixtures("fast_data")

# The stream


def load_stream(settings, folder, segment, replica):
    (folder / "data").mkdir(exist_ok=True)
    for part in runs.stream_of(settings, segment, replica):
        part.make(settings, folder, None)
    return [
        part.load(settings, folder, None)[:2] for part in runs.stream_of(settings, segment, replica)
    ]


@pytest.mark.parametrize("segment, replica", [(1, 1), (2, 3), (5, 2)])
@pytest.mark.parametrize("batch", [7, 10, 32, 200])
def test_batches_are_the_stream_in_order(tmp_path, segment, replica, batch):
    settings = settings_of("--segments", "5", "--samples", "200", "--seed", "4")
    # First the segments of the first chunk, one of them replaced, then as many examples again.
    pieces = [
        fake_digits(None, 0, 20, segment=i, replica=replica if i == segment else 0, seed=4)
        for i in range(1, 11)
    ]
    images, labels = (np.concatenate(a) for a in zip(*pieces, strict=True))
    found = list(runs.batches(iter(load_stream(settings, tmp_path, segment, replica)), batch))
    assert [len(x) for x, _ in found] == [len(t) for _, t in found] == [batch] * (200 // batch)
    count = 200 // batch * batch
    assert abs(np.concatenate([x for x, _ in found]) - images[:count]).max() <= 0.51 / 255
    targets = np.concatenate([t for _, t in found])
    assert (targets.argmax(axis=1) == labels[:count]).all() and (targets.sum(axis=1) == 1).all()
    assert found[0][0].dtype == found[0][1].dtype == "float32"


def test_replaced_streams_differ_in_their_segment_alone(tmp_path):
    settings = settings_of("--segments", "4", "--samples", "80")
    base = load_stream(settings, tmp_path, 0, 0)
    replaced = {
        (i, r): load_stream(settings, tmp_path, i, r) for i in range(1, 5) for r in range(1, 4)
    }
    assert len(base) == 8
    fresh = []
    for (i, _), stream in replaced.items():
        same = [
            np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
            for a, b in zip(base, stream, strict=True)
        ]
        assert same == [k != i - 1 for k in range(8)]
        fresh.append(stream[i - 1][0])
    # Never used before: no image comes twice, in whatever replica or part of the base stream.
    images = np.concatenate([*fresh, *(part[0] for part in base)])
    assert len(np.unique(images, axis=0)) == len(images)


def test_held_out_examples_are_made_of_held_out_digits(tmp_path, monkeypatch):
    pools = {}

    def record(base, start, stop, *, segment, replica, seed):
        pools[segment, replica] = base
        return fake_digits(base, start, stop, segment=segment, replica=replica, seed=seed)

    monkeypatch.setattr(runs, "deformed_digits", record)
    settings = settings_of()
    base = runs.base_digits(None)
    for part in runs.Run("sgd", 1.0, 1, 1).parts(settings):
        part.path(tmp_path).parent.mkdir(exist_ok=True)
        part.make(settings, tmp_path, None)
    assert {key for key, pool in pools.items() if pool is base} == {(1, 1), (2, 0), (3, 0), (4, 0)}
    assert (
        all(pools.pop((0, r)) == (base.test_images, base.test_labels) for r in (0, 1))
        and len(pools) == 4
    )


def test_a_part_that_is_made_in_pieces_is_the_same(tmp_path, monkeypatch):
    settings = settings_of()
    part = runs.Part(1, 2)
    (tmp_path / "data").mkdir()
    part.make(settings, tmp_path, None)
    whole = part.load(settings, tmp_path, None)[:2]
    monkeypatch.setattr(runs, "_AT_ONCE", 17)
    part.make(settings, tmp_path, None)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(whole, part.load(settings, tmp_path, None)[:2], strict=True)
    )


# Training


def test_every_run_starts_anew():
    trainer = runs.Trainer("ngd", settings_of())
    rng = np.random.default_rng(0)
    data = [
        (rng.random((40, 1024), "float32"), np.eye(10, dtype="float32")[rng.integers(10, size=40)])
        for _ in "ab"
    ]
    images = np.arange(3 * 1024).reshape(3, 1024).astype("uint8")
    before = trainer.predict(images)

    def train(step_size):
        told = dict.fromkeys(("steps", "refused", "unsolved", "solver_iterations", "seconds"), 0)
        trainer.start(step_size)
        trainer.train(told, data, lambda: None)
        return told

    told = train(2.0)
    first = trainer.predict(images)
    assert told["steps"] == 2 and told["refused"] == 0 and 2 <= told["solver_iterations"] <= 6
    train(0.5)
    assert not np.array_equal(trainer.predict(images), first)  # another step size
    train(2.0)
    assert np.array_equal(trainer.predict(images), first) and not np.array_equal(first, before)
    assert np.allclose(first.sum(axis=1), 1)


def test_optimizers_are_those_of_the_paper():
    settings = figure2.settings_of(figure2.parse(["--mode", "FAST_COMPILE"]))
    assert (settings.hidden, settings.batch, settings.segments, settings.held_out) == (
        500,
        512,
        10,
        10_000,
    )
    ngd = runs.make_optimizer("ngd", settings)
    assert (
        ngd.damping.value == 3.0
        and type(ngd.solver).__name__ == "MinresQLP"
        and ngd.warm_start == 0
    )
    assert type(ngd.metric).__name__ == "Fisher" and ngd.preconditioner is None
    assert runs.make_optimizer("sgd", settings).momentum == 0
    paper = figure2.parse(["--preset", "paper"])
    assert (paper.samples, paper.replicas, paper.step_sizes) == (32_700_000, 5, [0.1, 0.2])


# Step sizes


def curves(**best):
    """Return a measure of errors that are parabolas over log2 of the step size.

    ``best`` has step size and error at the minimum.
    """
    looks = []

    def measure(pairs):
        looks.extend(pairs)
        return [
            best[m][1] + 0.02 * (math.log2(size) - math.log2(best[m][0])) ** 2 for m, size in pairs
        ]

    return measure, looks


def test_error_of_a_step_size_is_a_mean_over_segments(monkeypatch, tmp_path):
    asked = []

    def make(self, title, runs):
        asked.extend(runs)
        return [
            (None, {"validation_error": 0.1 * run.step_size + 0.01 * run.segment}) for run in runs
        ]

    monkeypatch.setattr(figure2.Experiment, "make", make)
    monkeypatch.setattr(figure2, "TUNED_ON", {"sgd": 3, "ngd": 2})
    monkeypatch.setattr(
        figure2, "choose", lambda measure, aim: ({}, measure([("sgd", 2.0), ("ngd", 1.0)]), aim)
    )
    options = figure2.parse([*TINY, "--segments", "5", "--samples", "200"])
    figure2.Experiment(figure2.settings_of(options), options, tmp_path, None).choose(None)
    assert [(run.method, run.segment, run.replica) for run in asked] == [
        ("sgd", 1, 1),
        ("sgd", 3, 1),
        ("sgd", 5, 1),
        ("ngd", 1, 1),
        ("ngd", 5, 1),
    ]
    errors = json.loads((tmp_path / "choice.json").read_text())["validation_errors_of_step_sizes"]
    assert errors == pytest.approx([0.23, 0.13])


@pytest.mark.parametrize("worse, better", [("sgd", "ngd"), ("ngd", "sgd")])
def test_step_sizes_reach_the_same_error(worse, better):
    measure, looks = curves(**{worse: (1.0, 0.40), better: (2.0, 0.30)})
    sizes, errors, aim = figure2.choose(measure)
    assert sizes[worse] == 1.0 and aim == pytest.approx(0.40)
    assert sizes[better] < 2.0 and abs(errors[better][sizes[better]] - aim) <= figure2.TOLERANCE
    assert len(looks) == len(set(looks)) == sum(len(seen) for seen in errors.values())


def test_the_grid_goes_on_at_its_ends():
    measure, _ = curves(sgd=(0.03125, 0.40), ngd=(32.0, 0.40))
    sizes, errors, _ = figure2.choose(measure)
    assert sizes == {"sgd": 0.03125, "ngd": 32.0}
    assert min(errors["sgd"]) == 0.015625 and max(errors["ngd"]) == 64.0
    # It does not go on for ever.
    sizes, errors, _ = figure2.choose(lambda pairs: [1 / (1 + size) for _, size in pairs])
    assert max(errors["ngd"]) == 8.0 * 2**figure2.ROUNDS and sizes["sgd"] == 2.0 * 2**figure2.ROUNDS


def test_an_error_may_be_aimed_at():
    measure, _ = curves(sgd=(1.0, 0.40), ngd=(2.0, 0.30))
    sizes, errors, aim = figure2.choose(measure, 0.5)
    assert aim == 0.5
    for method, best in (("sgd", 1.0), ("ngd", 2.0)):
        assert (
            sizes[method] < best and abs(errors[method][sizes[method]] - 0.5) <= figure2.TOLERANCE
        )
    sizes, _, _ = figure2.choose(measure, 0.35)  # which one method does not reach
    assert sizes["sgd"] == 1.0 and sizes["ngd"] < 2.0


def test_errors_that_jump_are_no_trouble():
    sizes, errors, aim = figure2.choose(
        lambda pairs: [
            0.9 if size < 1 or size > 4 else 0.4 if m == "sgd" else 0.3 for m, size in pairs
        ]
    )
    assert aim == 0.4 and errors["sgd"][sizes["sgd"]] == 0.4 and errors["ngd"][sizes["ngd"]] == 0.3


# Variances


def test_variance_against_a_loop():
    rng = np.random.default_rng(0)
    outputs = rng.standard_normal((4, 5, 3)).astype("float32")

    def wanted(replicas):
        total = 0.0
        for example in range(5):
            for unit in range(3):
                values = [float(outputs[r, example, unit]) for r in replicas]
                mean = sum(values) / len(values)
                total += sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        return math.log(total / 15)

    sets = [[0, 1, 2, 3], [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    logs = results.log_variances(outputs)
    assert np.allclose(logs, [wanted(s) for s in sets], rtol=1e-9)
    # The interval: pseudo-values of the jackknife, Student's quantile for 3 degrees of freedom.
    pseudo = [4 * logs[0] - 3 * left for left in logs[1:]]
    mean = sum(pseudo) / 4
    error = math.sqrt(sum((p - mean) ** 2 for p in pseudo) / 3 / 4)
    assert results.interval(logs[None]) == pytest.approx(
        [math.exp(mean - 3.18244630528 * error), math.exp(mean + 3.18244630528 * error)]
    )
    assert all(
        math.isnan(end) for end in results.interval(results.log_variances(outputs[:2])[None])
    )


def test_intervals_hold_the_variance_as_often_as_they_say():
    rng = np.random.default_rng(1)
    scales = np.sqrt(0.8 ** np.arange(20))  # outputs that vary together in a few directions
    low, high = np.array(
        [
            results.interval(results.log_variances(rng.standard_normal((5, 1, 20)) * scales)[None])
            for _ in range(400)
        ]
    ).T
    held = ((low < (scales**2).mean()) & ((scales**2).mean() < high)).mean()
    assert 0.92 < held <= 0.99


def test_two_seeds_narrow_an_interval():
    rng = np.random.default_rng(2)
    logs = results.log_variances(rng.standard_normal((5, 200, 3)))
    one, two = results.interval(logs[None]), results.interval(np.stack([logs, logs]))
    assert one[0] < two[0] < two[1] < one[1]


def test_ratio_of_all_segments():
    told = results.ratio_of_all(np.log([[[2.0, 1.0, 3.0], [8.0, 7.0, 9.0]]]))
    # Logarithms log 2 and log 8: their mean is log 4, its standard error log 2, and t at one degree
    # of freedom 12.706.
    assert told == pytest.approx(
        {"value": 4.0, "low": 4 * 2**-12.7062, "high": 4 * 2**12.7062}, rel=1e-4
    )
    # Several seeds: over their means, here log 4 and log 16.
    told = results.ratio_of_all(np.log([[[2.0], [8.0]], [[16.0], [16.0]]]))
    assert told == pytest.approx(
        {"value": 8.0, "low": 8 * 2**-12.7062, "high": 8 * 2**12.7062}, rel=1e-4
    )


def test_picture(tmp_path):
    rows = {
        "sgd": [
            {"value": 1e-3, "low": 1e-9, "high": 1e9},
            {"value": 2e-3, "low": 1e-3, "high": 3e-3},
        ],
        "ngd": [
            {"value": 1e-5, "low": 9e-6, "high": 2e-5},
            {"value": 2e-5, "low": math.nan, "high": math.nan},
        ],
    }
    figure = results.draw({"segments": rows}, tmp_path / "figure2.png")
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert lines["SGD"] == pytest.approx(np.array([[1, 1e-3], [2, 2e-3]]))
    assert lines["NGD"] == pytest.approx(np.array([[1, 1e-5], [2, 2e-5]]))
    bottom, top = axes.get_ylim()
    assert axes.get_yscale() == "log" and 1e-6 <= bottom < 1e-5 and 2e-3 < top <= 2e-2
    assert (tmp_path / "figure2.png").read_bytes().startswith(b"\x89PNG")


def test_cost_of_the_paper():
    methods = {"sgd": {"examples_a_second": 50_000.0}, "ngd": {"examples_a_second": 5000.0}}
    told = results.cost({"methods": methods, "made_a_second": 1000.0}, 2)
    # 3.5 times 32.7 million examples are made, 50 times as many trained on: 31.8 + 9.1 + 90.8
    # hours.
    assert (
        "would take 132 hours of one process (making the data 32, SGD 9, NGD 91), 2.7 days on 2"
        in told
    )
    assert "117 GB of disk" in told
