"""The code of the pages on bridges runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytensor
import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```\{code-block\} python\n(.*?)^```$", re.M | re.S)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Setting default_update")
@pytest.mark.parametrize(
    "page, package",
    [("pymc.md", "pymc"), ("from_pymc.md", "pymc"), ("pytensor_ml.md", "pytensor_ml")],
)
def test_code_runs(page, package):
    pytest.importorskip(package)
    blocks = BLOCK.findall((DOCS / page).read_text())
    assert blocks
    names: dict[str, object] = {}
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        for block in blocks:
            exec(block, names)
