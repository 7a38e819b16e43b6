"""examples/figure1 on few small images: batches, runs that go on, table and picture."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.idx_files import idx
from helpers.small_steps import Unit

import symng
from symng.datasets import _fashion
from symng.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "figure1"
NETWORK = ["--pool", "2", "--filters", "2", "--filter-size", "3", "--stride", "2", "--units", "4"]
NETWORK += ["--mixture", "8"]


@pytest.fixture
def figure1(monkeypatch):
    """Return the program as a module, with smaller batches and a step without a loop."""
    for name in ("settings", "batches", "network", "tables"):  # fresh ones for each test
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(FOLDER))  # where it finds its tables
    spec = importlib.util.spec_from_file_location("figure1_example", FOLDER / "figure1.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.presets, "GRADIENT_BATCH", 20)
    monkeypatch.setattr(module.presets, "METRIC_BATCH", 12)
    damping = symng.LevenbergMarquardt(initial=5.0)
    optimizer = symng.NaturalGradient(solver=Unit(), damping=damping, step_size=0.2)
    monkeypatch.setattr(module.presets, "make_optimizer", lambda options: optimizer)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of 200 images of 10 x 10.

    Bright on the left (class 0) or on the right (class 1).
    """
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200).astype("uint8")
    images = rng.integers(100, size=(200, 10, 10))
    images[:, :, 1:4] += 120 * (labels == 0)[:, None, None]
    images[:, :, 6:9] += 120 * (labels == 1)[:, None, None]
    images = images.astype("uint8")
    for name, array in zip(
        _fashion.IDX_FILES, (images[:150], labels[:150], images[150:], labels[150:]), strict=True
    ):
        (folder / name).write_bytes(idx(array))
    return folder


def arguments(folder, out, *more):
    given = [
        "--data",
        str(folder),
        "--labeled",
        "80",
        "--mode",
        "FAST_COMPILE",
        "--evaluate-every",
        "2",
    ]
    return [*given, *NETWORK, "--out", str(out), *more]


@pytest.fixture
def data(figure1, folder):
    return figure1.read_data(figure1.presets.parse(arguments(folder, "")))


def tables_of(out: Path) -> list[list[list[str]]]:
    tables = (out / "table.md").read_text().split("\n\n")
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in t.splitlines()]
        for t in tables
    ]


def test_batches(figure1, data):
    """An epoch sees every example once.

    What the metric is measured on is of the right kind and not in the gradient.
    """
    train, images = (
        data.images["train"],
        data.images["train"].reshape(len(data.images["train"]), -1),
    )
    assert train.shape == (56, 5, 5) and len(data.unlabeled) == 120

    def places(batch):
        """Return where the images of a batch are in the training set; -1 for others."""
        found = [np.flatnonzero((images == image.ravel()).all(axis=1)) for image in batch]
        return [int(place[0]) if len(place) else -1 for place in found]

    for seed in (0, 1):
        epoch = [places(data.batches("same", seed, step)[0][0]) for step in (0, 1)]
        assert len({*epoch[0], *epoch[1]}) == 40 and -1 not in epoch[0] + epoch[1]
        assert places(data.batches("same", seed, 2)[0][0]) != epoch[0]
    assert data.batches("same", 0, 0)[1] is None
    for variant, labeled in (("other", 12), ("unlabeled", 0), ("mixture", 8)):
        for step in (0, 1, 7):
            (x, t), (metric,) = data.batches(variant, 0, step)
            chosen, measured = places(x), places(metric)
            assert chosen == places(data.batches("same", 0, step)[0][0])
            np.testing.assert_array_equal(t.argmax(axis=1), data.labels["train"][chosen])
            assert len(metric) == 12 and sum(place >= 0 for place in measured) == labeled
            assert not set(chosen) & set(measured)
            again = data.batches(variant, 0, step)
            np.testing.assert_array_equal(again[1][0], metric)
        assert not np.array_equal(
            data.batches(variant, 0, 0)[1][0], data.batches(variant, 0, 1)[1][0]
        )


def test_images_are_averaged_and_normalized(figure1):
    images = np.random.default_rng(0).integers(256, size=(3, 7, 9)).astype("uint8")
    normalize = sys.modules["batches"].Normalization
    got = normalize(images, 2, "paper")(images)
    assert got.shape == (3, 3, 4) and got.dtype == "float32"
    squares = images[:, :6, :8].reshape(3, 3, 2, 4, 2).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(
        got, symng.datasets.local_contrast_normalization(squares), rtol=1e-3, atol=1e-4
    )


def test_the_authors_normalization(figure1):
    """Mean 0 and deviation 1, the range of the training images, then their constants."""
    rng = np.random.default_rng(0)
    train, others = (rng.integers(256, size=(n, 8, 9)).astype("uint8") for n in (4, 2))
    flat = np.full((1, 8, 9), 9, "uint8")

    def standard(images):
        pixels = images.reshape(len(images), -1) / 255
        centered = pixels - pixels.mean(axis=1, keepdims=True)
        return (centered / centered.std(axis=1, keepdims=True)).reshape(images.shape)

    low, high = standard(train).min(), standard(train).max()
    scaled = (standard(others) - low) / (high - low)
    expected = symng.datasets.local_contrast_normalization(
        scaled, 1.591, 4, border="zero", offset=2.5, scale=5.0
    )
    got = sys.modules["batches"].Normalization(train, 1, "authors")
    np.testing.assert_allclose(got(others), expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(got(flat)).all()


def test_the_fixed_set_of_the_authors_is_the_same_in_each_update(figure1, data):
    for step in (0, 1, 7):
        (x, _), (metric,) = data.batches("fixed", 0, step)
        np.testing.assert_array_equal(x, data.batches("same", 0, step)[0][0])
        np.testing.assert_array_equal(metric, data.images["train"][:12])


def test_the_authors_network_and_loss(figure1):
    """Against NumPy: ReLU after convolution, pooling, tanh, sigmoid; cross-entropy over outputs."""
    options = figure1.presets.parse(
        "--preset authors --filters 2 --filter-size 3 --max-pool 2 --units 4".split()
    )
    objective = figure1.make_objective(options, (6, 6), 3, seed=1)
    filters, b, W1, b1, W2, b2 = (param.get_value() for param in objective.params)
    np.testing.assert_allclose(W1.T @ W1, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(W2.T @ W2, 16 * np.eye(3), atol=1e-5)
    assert (b2 == -2).all() and not b1.any() and not b.any() and 0.1 < abs(filters).max() <= 0.2
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((5, 6, 6)).astype("float32"), np.eye(3)[[0, 2, 1, 1, 0]]
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    maps = np.einsum("nijab,abk->nijk", patches, filters).reshape(5, 2, 2, 2, 2, 2)
    hidden = np.tanh(np.maximum(maps.max(axis=(2, 4)), 0).reshape(5, 8) @ W1)
    r = hidden @ W2 - 2
    loss = (np.logaddexp(0, r) - t * r).mean()
    found = symng.compile_function([*objective.inputs, *objective.targets], objective.loss)
    assert float(found(x, t.astype("float32"))) == pytest.approx(loss, rel=1e-5)
    summed = figure1.presets.parse(
        "--preset authors --filters 2 --filter-size 3 --max-pool 2 --units 4 --outputs sum".split()
    )
    objective = figure1.make_objective(summed, (6, 6), 3, seed=1)
    found = symng.compile_function([*objective.inputs, *objective.targets], objective.loss)
    assert float(found(x, t.astype("float32"))) == pytest.approx(3 * loss, rel=1e-5)


def test_figure_of_the_papers_optimizer(figure1, folder, tmp_path, monkeypatch, capsys):
    optimizer = symng.NaturalGradient(
        solver=symng.MinresQLP(maxiter=50, recompute=False),
        damping=symng.LevenbergMarquardt(initial=5.0),
        step_size=0.2,
    )
    monkeypatch.setattr(figure1.presets, "make_optimizer", lambda options: optimizer)
    assert figure1.main(arguments(folder, tmp_path, "--seeds", "2", "--steps", "5")) == 0
    (head, _, *rows), differences = tables_of(tmp_path)
    assert [row[0] for row in rows] == ["`same`", "`other`", "`unlabeled`", "`mixture`"]
    assert all(len(row) == len(head) for row in rows)
    assert [row[0] for row in differences[2:]] == [
        "`other` - `same`",
        "`unlabeled` - `same`",
        "`mixture` - `same`",
        "`unlabeled` - `other`",
    ]
    # The mean of the differences is the difference of the means.
    ours, theirs = (float(rows[i][head.index("test error (%)")].split()[0]) for i in (2, 0))
    assert float(differences[3][-1].split()[0]) == pytest.approx(ours - theirs, abs=0.011)
    assert all(row[head.index("updates")] == "5" for row in rows)
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")
    history = figure1.history_of(load_checkpoint(tmp_path / "mixture-1.npz")[0])
    assert history["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isfinite(history["test_error"]).tolist() == [True, False, True, False, True, True]
    losses = history["train_loss"][np.isfinite(history["train_loss"])]
    assert losses[-1] < losses[0] and history["solver_iterations"][1:].min() >= 1
    # Seeds differ in weights and batches, variants do not.
    start = {
        p.stem: figure1.history_of(load_checkpoint(p)[0])["train_loss"][0]
        for p in tmp_path.glob("*.npz")
    }
    assert len(start) == 8 and len(set(start.values())) == 2

    capsys.readouterr()
    monkeypatch.setattr(figure1, "Trainer", None)  # nothing is left to do
    assert figure1.main(arguments(folder, tmp_path, "--seeds", "1", "--steps", "4")) == 0
    rows = tables_of(tmp_path)[0][2:]
    assert rows[0][1] == "4" and "±" not in "".join(rows[0])
    assert "4 of 4 runs are done" in capsys.readouterr().out


def test_goes_on_after_ctrl_c(figure1, folder, tmp_path, monkeypatch, capsys):
    """To the same numbers as without; the step under way is finished."""
    given = ["--variants", "same", "other", "--seeds", "1"]
    assert figure1.main(arguments(folder, tmp_path / "whole", *given, "--steps", "6")) == 0

    taken, original = [], figure1.Data.batches

    def batches(self, variant, seed, step):
        taken.append((variant, step))
        if taken[-3:] == [("other", 0), ("other", 1), ("other", 2)]:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, variant, seed, step)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(figure1.Data, "batches", batches)
        assert figure1.main(arguments(folder, tmp_path / "parts", *given, "--steps", "6")) == 130
        assert "The same command continues" in capsys.readouterr().err
        assert load_checkpoint(tmp_path / "parts" / "other-0.npz")[1]["steps"] == 3
        assert not (tmp_path / "parts" / "table.md").exists()
        taken.clear()
        assert figure1.main(arguments(folder, tmp_path / "parts", *given, "--steps", "6")) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    # The first one is for the compilation.
    assert taken == [
        ("other", 0),
        ("other", 3),
        ("other", 4),
        ("other", 5),
    ]
    for name in ("same-0.npz", "other-0.npz"):
        one, two = (load_checkpoint(tmp_path / part / name)[0] for part in ("whole", "parts"))
        assert one.keys() == two.keys()
        for key in one.keys() - {"history_seconds"}:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_more_updates_go_on_from_fewer(figure1, folder, tmp_path):
    given = ["--variants", "unlabeled", "--seeds", "1"]
    assert figure1.main(arguments(folder, tmp_path / "whole", *given, "--steps", "6")) == 0
    assert figure1.main(arguments(folder, tmp_path / "parts", *given, "--steps", "3")) == 0
    assert figure1.main(arguments(folder, tmp_path / "parts", *given, "--steps", "6")) == 0
    one, two = (
        load_checkpoint(tmp_path / part / "unlabeled-0.npz")[0] for part in ("whole", "parts")
    )
    np.testing.assert_array_equal(one["param_2"], two["param_2"])
    np.testing.assert_array_equal(one["history_loss"], two["history_loss"])


def test_refuses_runs_of_other_settings_and_damaged_ones(figure1, folder, tmp_path, capsys):
    given = ["--variants", "same", "--seeds", "1", "--steps", "1"]
    assert figure1.main(arguments(folder, tmp_path, *given)) == 0
    capsys.readouterr()
    for more, words in (
        (["--units", "5"], "holds a run with units 4, not 5. Give another folder, or delete it."),
        (["--fold", "1"], "holds a run with fold 3, not 1; data "),
    ):
        assert figure1.main(arguments(folder, tmp_path, *given, *more)) == 2
        assert words in capsys.readouterr().err
    file = tmp_path / "same-0.npz"
    file.write_bytes(file.read_bytes()[:-100])
    assert figure1.main(arguments(folder, tmp_path, *given)) == 2
    assert (
        "same-0.npz" in (told := capsys.readouterr().err)
        and "Delete it to make that run anew" in told
    )


@pytest.mark.parametrize(
    "more, words",
    [
        (
            ["--labeled", "30"],
            "--labeled: expected at least 32 examples to train with and 12 unlabeled, got 21",
        ),
        (["--labeled", "195"], "got 136 and 5"),
        (["--labeled", "300"], "labeled: expected at most the 200 images"),
        (["--fold", "5"], "fold: expected"),
        (["--filter-size", "6"], "--filter-size: expected at most the 5 pixels of an image, got 6"),
        (
            ["--data", "nowhere"],
            "--data: expected a TFD_48x48.mat, or a folder of idx files, got 'nowhere'",
        ),
        (["--mode", "FORTRAN"], "mode"),
    ],
)
def test_wrong_data_and_options(figure1, folder, tmp_path, capsys, more, words):
    assert figure1.main(arguments(folder, tmp_path, *more)) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "more", [["--steps", "0"], ["--seeds", "0"], ["--variants", "all"], ["--preset", "large"]]
)
def test_wrong_command_lines(figure1, capsys, more):
    with pytest.raises(SystemExit):
        figure1.presets.parse(more)
    assert more[0] in capsys.readouterr().err


def test_folder_that_cannot_be_written_to(figure1, folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert figure1.main(arguments(folder, tmp_path / "file", "--steps", "1")) == 2
    assert "file" in capsys.readouterr().err


def test_presets(figure1):
    small, paper = (figure1.presets.parse(["--preset", preset]) for preset in ("small", "paper"))
    assert (paper.filters, paper.filter_size, paper.units, paper.pool) == (512, 14, 1024, 1)
    assert figure1.presets.parse(["--preset", "paper", "--units", "7"]).units == 7
    assert small.variants == ["same", "other", "unlabeled", "mixture"] and small.fold == 3
    authors = figure1.presets.parse(["--preset", "authors"])
    assert authors.variants == list(sys.modules["tables"].VARIANTS)


def test_page_lists_every_option_and_preset(figure1, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")  # argparse would break lines at 80
    with pytest.raises(SystemExit):
        figure1.presets.parse(["--help"])
    options = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.M))
    page = (ROOT / "docs" / "figure1.md").read_text()
    assert set(re.findall(r"^\| `(--[a-z-]+)", page, re.M)) == options
    for name, setting in figure1.presets.SETTINGS.items():
        values = (setting.small, setting.paper, setting.authors)
        cells = [
            format(v, "," if isinstance(v, int) else "" if isinstance(v, str) else "g")
            for v in values
        ]
        end = re.escape(" | ".join(cells))
        assert re.search(rf"^\| `{name}` \|.*\| {end} \|$", page, re.M), name


def test_intervals(figure1):
    with_interval = sys.modules["tables"].with_interval
    assert with_interval(np.array([2.0]), ".1f") == "2.0"
    # Mean 2, standard deviation 1, three values: 4.303 / sqrt(3).
    assert with_interval(np.array([1.0, 2.0, 3.0]), "+.2f") == "+2.00 ± 2.48"


def test_what_is_not_finite_is_wrong(figure1, data, folder):
    trainer = figure1.Trainer(data, figure1.presets.parse(arguments(folder, "")))
    trainer.objective.params[0].set_value(
        np.full_like(trainer.objective.params[0].get_value(), np.nan)
    )
    assert {v for k, v in trainer.evaluate().items() if k.endswith("_error")} == {1.0}
