"""examples/figure3.py.

Which runs it makes, takes up again and tells. The runs themselves are stood in for.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import symng

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def figure3(monkeypatch):
    """Return examples/figure3.py as a module."""
    spec = importlib.util.spec_from_file_location("figure3_example", EXAMPLES / "figure3.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def made(figure3, monkeypatch):
    """Let every run leave a history at once; return the command lines of the runs, in order.

    The squared error falls from 16 by halves, one evaluation a quarter of the time, faster with a
    larger step size.
    """
    commands = []

    def run(command):
        commands.append(command)
        options = dict(zip(command[2::2], command[3::2], strict=True))
        seconds, size = float(options["--seconds"]), float(options.get("--step-size", 0.001))
        history = symng.History()
        for step in range(1, 5):
            row = {"step": step, "seconds": step * seconds / 4}
            history.append(**row, squared_error=16 / 2**step / (1 + size) if step != 3 else None)
        folder = Path(options["--out"])
        folder.mkdir(parents=True)
        history.save(folder / "history.npz")
        config = {
            "optimizer": options["--optimizer"],
            "seed": int(options["--seed"]),
            "seconds": seconds,
        }
        config["step_size"] = size
        config["result"] = {"stopped": "max_seconds", "steps": 4, "compile_seconds": 2.5}
        (folder / "config.json").write_text(json.dumps(config))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(figure3.subprocess, "run", run)
    return commands


def test_runs_table_and_picture(figure3, made, tmp_path, capsys):
    arguments = [
        "--methods",
        "adam",
        "ngd",
        "--minutes",
        "2",
        "--seeds",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert figure3.main(arguments) == 0
    names = [Path(command[command.index("--out") + 1]).name for command in made]
    tuning = [f"adam-tuning-{size:g}" for size in figure3.GRID["adam"]]
    assert names == ["ngd-0", "ngd-1", *tuning, "adam-0", "adam-1"]  # in the order of the figure
    seconds = [float(command[command.index("--seconds") + 1]) for command in made]
    assert seconds == [120, 120, *[30] * len(tuning), 120, 120]
    # The best step size of the grid goes on.
    assert made[-1][made[-1].index("--step-size") + 1] == f"{max(figure3.GRID['adam']):g}"
    assert "--step-size" not in made[0]

    with (tmp_path / "table.csv").open() as file:
        ngd, adam = csv.DictReader(file)
    assert (
        ngd["method"] == "NGD"
        and adam["step size"] == f"{max(figure3.GRID['adam']):g}"
        and ngd["compilation (s)"] in ("2", "3")
    )
    # Evaluated at 30, 60 and 120 s; nothing is known at 15 s, the last value before it counts at
    # any other time.
    assert [ngd[f"error at {t} s"] for t in ("15", "30", "60", "120")] == [
        "-",
        "7.99",
        "4.00",
        "1.00",
    ]
    assert (
        ngd["seconds to 4"] == "60.0"
        and ngd["seconds to 3"] == "120.0"
        and ngd["seconds to 0.5"] == "-"
    )
    assert (
        (tmp_path / "table.md")
        .read_text()
        .splitlines()[0]
        .startswith("| method | step size | steps |")
    )
    assert (tmp_path / "figure3.png").read_bytes().startswith(b"\x89PNG")


def test_goes_on_with_what_is_missing(figure3, made, tmp_path):
    arguments = ["--methods", "ngd", "ncg-l", "--out", str(tmp_path)]
    assert figure3.main(arguments) == 0 and len(made) == 2
    assert figure3.main(arguments) == 0 and len(made) == 2
    # An interrupted run, and one that never wrote its history, are made again.
    config = tmp_path / "ngd-0" / "config.json"
    told = json.loads(config.read_text())
    told["result"]["stopped"] = "interrupted"
    config.write_text(json.dumps(told))
    run = figure3.Run("ngd", 0, 60.0, tmp_path / "ngd-0")
    assert not run.is_done()
    (tmp_path / "ncg-l-0" / "history.npz").unlink()
    assert not figure3.Run("ncg-l", 0, 60.0, tmp_path / "ncg-l-0").is_done()


def test_refuses_a_folder_of_other_runs(figure3, made, tmp_path):
    assert figure3.main(["--methods", "ngd", "--minutes", "1", "--out", str(tmp_path)]) == 0
    with pytest.raises(
        SystemExit, match=r"ngd-0 holds a run with seconds 60.0, not 120.0. Give another folder"
    ):
        figure3.main(["--methods", "ngd", "--minutes", "2", "--out", str(tmp_path)])


def test_a_run_that_fails_ends_it(figure3, monkeypatch, tmp_path):
    monkeypatch.setattr(figure3.subprocess, "run", lambda command: SimpleNamespace(returncode=3))
    with pytest.raises(SystemExit, match="ended with exit status 3"):
        figure3.main(["--methods", "ngd", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    "arguments, words",
    [(["--minutes", "0"], "--minutes"), (["--seeds", "0"], "--seeds"), (["--methods", "x"], "x")],
)
def test_wrong_options(figure3, capsys, arguments, words):
    with pytest.raises(SystemExit):
        figure3.parse(arguments)
    assert words in capsys.readouterr().err


def test_a_run_that_diverged_is_last(figure3, tmp_path):
    history = symng.History()
    history.append(step=1, seconds=1.0, squared_error=np.nan)
    (tmp_path / "run").mkdir()
    history.save(tmp_path / "run" / "history.npz")
    assert figure3.last_error(figure3.Run("sgd", 0, 1.0, tmp_path / "run")) == float("inf")
