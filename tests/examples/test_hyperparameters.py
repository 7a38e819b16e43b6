"""examples/hyperparameters.py has the right gradient, and draws."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("hyperparameters")


def test_gradient_is_that_of_the_closed_form(example):
    data = example.make_data(example.parse(["--features", "4", "--examples", "9"]))
    _, X, T, Z, U, _, _ = data
    s = np.array([-1.0, 0.0, 1.0, 2.0])
    loss, _, slope, w = example.compile_gradient(data, "FAST_COMPILE")(s)
    inverse = np.linalg.inv(X.T @ X + np.diag(np.exp(s)))
    np.testing.assert_allclose(w, inverse @ X.T @ T, rtol=1e-4)
    np.testing.assert_allclose(loss, np.square(Z @ w - U).mean())
    expected = -2 * np.exp(s) * w * (inverse @ Z.T @ (Z @ w - U)) / len(Z)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def test_the_program_draws(example, tmp_path, capsys):
    line = "--steps 2 --features 3 --examples 5 --mode FAST_COMPILE --out"
    assert example.main([*line.split(), str(tmp_path)]) == 0
    before, after, _ = capsys.readouterr().out.splitlines()
    assert float(after.split()[2]) < float(before.split()[2])
    assert (tmp_path / "hyperparameters.png").read_bytes().startswith(b"\x89PNG")
