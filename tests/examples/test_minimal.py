"""examples/minimal.py runs, learns and is short."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal.py"


@pytest.mark.slow
def test_the_script_to_copy_runs_and_learns(capsys):
    assert len(EXAMPLE.read_text().splitlines()) <= 30
    losses = runpy.run_path(str(EXAMPLE))["result"].history["loss"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("loss: ")
    assert losses[-1] < 0.3 * losses[0]
