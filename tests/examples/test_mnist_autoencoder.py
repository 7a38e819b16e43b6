"""The autoencoder of MNIST on a few made-up images: what it leaves, and that it goes on."""

from __future__ import annotations

import re

import mnist_autoencoder as example
import numpy as np
import pytest

import symng
from symng.datasets import LabeledImages

rng = np.random.default_rng(0)
IMAGES = LabeledImages(
    train_images=rng.random((60, 28, 28)).astype("float32"),
    train_labels=np.zeros(60, int),
    test_images=rng.random((12, 28, 28)).astype("float32"),
    test_labels=np.zeros(12, int),
    source="made up",
)
SMALL = (
    "--sizes 784-6-2 --start 3 --start-batch 10 --batch 20 --metric-examples 10 --evaluate-every 2 "
    "--mode FAST_COMPILE"
)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs the example on the made-up images."""
    monkeypatch.setattr(example, "mnist", lambda path, download: IMAGES)
    return lambda more: example.main([*SMALL.split(), *more.split(), "--out", str(tmp_path)])


def test_run_and_resume(run, tmp_path, capsys):
    assert run("--steps 5") == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^5 steps in \d+ s of training \(max_steps\): squared error \d", printed, re.M
    )
    assert (tmp_path / "autoencoder.png").read_bytes().startswith(b"\x89PNG")
    first = symng.History.load(tmp_path / "history.npz")
    assert run("--steps 8") == 0
    history = symng.History.load(tmp_path / "history.npz")
    np.testing.assert_array_equal(history["step"], np.arange(1, 9))
    np.testing.assert_array_equal(history["loss"][:5], first["loss"])
    np.testing.assert_array_equal(np.isfinite(history["damping"]), history["step"] > 3)
    # The mean over all images of the sum over pixels.
    (_, last), uniform = history["squared_error"][[4, -1]], 784 / 12
    assert last == pytest.approx(uniform, rel=0.3)
    assert history["test_error"][-1] == pytest.approx(uniform, rel=0.3)


def test_presets():
    cpu, gpu = (example.parse(["--preset", name]) for name in ("cpu", "gpu"))
    assert cpu.seconds == 3600 and cpu.sizes == [784, 1000, 500, 250, 30]
    assert set(example.PRESETS["cpu"]) == set(example.PRESETS["gpu"])
    assert gpu.batch > cpu.batch and example.parse(["--batch", "7"]).batch == 7


def test_missing_data(tmp_path, capsys):
    arguments = ["--data", str(tmp_path / "nothing"), "--out", str(tmp_path)]
    assert example.main([*arguments, "--mode", "FAST_COMPILE"]) == 2
    assert "--data: expected MNIST in a file or folder, got none" in capsys.readouterr().err
