"""Short runs of examples/curves.py and examples/figure3.py as programs, and what they leave."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import symng

EXAMPLES = Path(__file__).parents[2] / "examples"
PNG = b"\x89PNG"

pytestmark = pytest.mark.slow


def run(program: str, *arguments: str) -> None:
    """Run a program of the examples; its errors are those of the test."""
    command = [sys.executable, str(EXAMPLES / program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


def test_curves(tmp_path):
    options = "--steps 24 --start 20 --examples 2000 --batch 500 --out"
    run("curves.py", *options.split(), str(tmp_path))
    history = symng.History.load(tmp_path / "history.npz")
    errors = history["squared_error"]
    assert len(history) == 24 and np.isfinite(errors[[19, 23]]).all()
    np.testing.assert_array_equal(np.isfinite(history["damping"]), history["step"] > 20)
    assert json.loads((tmp_path / "config.json").read_text())["examples"] == 2000
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_figure3_with_a_search_on_the_host(tmp_path):
    run("figure3.py", *"--methods ncg-l momentum --minutes 0.02 --out".split(), str(tmp_path))
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["NCG-L", "momentum"]
    assert (tmp_path / "figure3.png").read_bytes().startswith(PNG)
