"""The program and the modules of examples/figure2 for the tests, on data that are made at once."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from symng.datasets import LabeledImages

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "figure2"))
figure2, runs, results, processes = (
    importlib.import_module(name) for name in ("figure2", "runs", "results", "workers")
)

TINY = (
    "--segments 2 --replicas 3 --samples 240 --batch 40 --hidden 3 --held-out 30 --validation 20 "
    "--iterations 3 "
    "--jobs 1 --mode FAST_COMPILE"
).split()


def fake_digits(base, start, stop, *, segment, replica, seed):
    """Stand in for `deformed_digits`: noise on one of ten images, by the same key."""
    rng = np.random.default_rng((seed, segment, replica))
    labels = rng.integers(10, size=10_000)[start:stop]
    noise = rng.random((stop, 1024), dtype="float32")[start:]
    return noise * np.linspace(0.2, 1.0, 10, dtype="float32")[labels][:, None], labels


@pytest.fixture
def fast_data(monkeypatch):
    """Make data at once, of no base digits."""
    blank, labels = np.zeros((10, 28, 28)), np.arange(10)
    base = LabeledImages(
        train_images=blank,
        train_labels=labels,
        test_images=blank,
        test_labels=labels,
        source="nothing",
    )
    monkeypatch.setattr(runs, "deformed_digits", fake_digits)
    monkeypatch.setattr(runs, "base_digits", lambda path: base)
    monkeypatch.setattr(figure2, "base_digits", lambda path: base)


def settings_of(*arguments: str):
    return figure2.settings_of(figure2.parse([*TINY, *arguments]))
