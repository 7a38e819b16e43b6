"""examples/fisher_spectrum.py finds the eigenvalues of the matrix, and draws them."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import symng

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("fisher_spectrum")


def test_eigenvalues_are_those_of_the_matrix(example):
    objective, X, _ = example.chessboard(example.parse(["--examples", "30"]))
    found = example.largest_eigenvalues(objective, X, 4, "FAST_COMPILE")
    # The Jacobian of the pre-activation by differences, weighted by y (1 - y).
    f = symng.compile_function(objective.inputs, objective.output, mode="FAST_COMPILE")
    params, start = objective.params, symng.vectors.get_flat(objective.params)

    def logits(flat):
        symng.vectors.set_flat(params, flat)
        y = f(X).ravel()
        return np.log(y / (1 - y))

    h = 1e-5 * np.eye(len(start))
    J = np.array([(logits(start + e) - logits(start - e)) / 2e-5 for e in h])
    symng.vectors.set_flat(params, start)
    y = f(X).ravel()
    dense = J * (y * (1 - y)) @ J.T / len(X)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(dense)[::-1][:4], rtol=1e-6)


def test_the_program_draws(example, tmp_path, capsys):
    line = "--steps 1 --count 3 --examples 20 --mode FAST_COMPILE --out"
    assert example.main([*line.split(), str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("before: from ")
    assert (tmp_path / "fisher_spectrum.png").read_bytes().startswith(b"\x89PNG")


def test_too_many_eigenvalues_are_refused(example, tmp_path, capsys):
    assert example.main(["--count", "501", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "--count: expected less than 501, got 501\n"
