"""examples/figure2 from the command line.

What it leaves, resumes and refuses, its processes and its page.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.figure2_example import ROOT, TINY, figure2, processes, runs

import symng
from symng.datasets import LabeledImages

pytestmark = pytest.mark.usefixtures("fast_data")


@pytest.fixture
def made(monkeypatch):
    """Return the list of what is made, in order."""
    tasks = []
    for kind in (runs.Part, runs.Run):

        def make(task, *arguments, original=kind.make):
            noted = original(task, *arguments)
            tasks.append(task)
            return noted

        monkeypatch.setattr(kind, "make", make)
    return tasks


GIVEN = ["--step-sizes", "0.5", "2"]


def whole_results(folder: Path) -> dict:
    """Return the results but for speeds."""
    told = json.loads((folder / "results.json").read_text())
    assert told.pop("made_a_second") > 0
    for method in told["methods"].values():
        del method["examples_a_second"]
    return told


# Whole runs


def test_the_protocol_from_start_to_end(made, tmp_path, capsys):
    assert figure2.main([*TINY, "--out", str(tmp_path)]) == 0
    choice = json.loads((tmp_path / "seed-0" / "choice.json").read_text())
    told = whole_results(tmp_path)
    trained = [task for task in made if isinstance(task, runs.Run)]
    assert len(made) == len(set(made))  # the runs of the choice count
    for method in ("sgd", "ngd"):
        size = choice["step_sizes"][method]
        final = {
            (run.segment, run.replica)
            for run in trained
            if run.method == method and run.step_size == size
        }
        assert final == {(i, r) for i in (1, 2) for r in (1, 2, 3)}
        assert told["methods"][method]["runs"] == 6 and told["methods"][method]["steps"] == 36
        outputs = {
            (run.segment, run.replica): np.load(run.path(tmp_path / "seed-0"))["outputs"]
            for run in trained
            if run.method == method and run.step_size == size
        }
        for i in (1, 2):
            wanted = (
                np.stack([outputs[i, r] for r in (1, 2, 3)])
                .astype("float64")
                .var(axis=0, ddof=1)
                .mean()
            )
            row = told["segments"][method][i - 1]
            assert row["value"] == pytest.approx(wanted) and row["low"] < row["high"]
    ratio = [
        told["segments"]["sgd"][i]["value"] / told["segments"]["ngd"][i]["value"] for i in (0, 1)
    ]
    assert [row["value"] for row in told["segments"]["ratio"]] == pytest.approx(ratio)
    assert told["all"]["value"] == pytest.approx(math.sqrt(ratio[0] * ratio[1]))
    assert (tmp_path / "figure2.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out and len(re.findall(r"^\| [12] \|", table, re.M)) == 2
    assert "32.7 million examples" in table


@pytest.mark.slow
def test_goes_on_where_it_was_interrupted(made, monkeypatch, tmp_path, capsys):
    assert figure2.main([*TINY, *GIVEN, "--out", str(tmp_path / "whole")]) == 0
    wanted, count = list(made), len(made)
    assert len({task for task in wanted if isinstance(task, runs.Run)}) == 12
    made.clear()
    save = symng.save_checkpoint

    def interrupted(path, *arguments):
        if len(made) == count // 2:
            raise KeyboardInterrupt
        save(path, *arguments)

    monkeypatch.setattr(symng, "save_checkpoint", interrupted)
    arguments = [*TINY, *GIVEN, "--out", str(tmp_path / "halved")]
    assert figure2.main(arguments) == 130 and len(made) == count // 2
    assert "The same command continues" in capsys.readouterr().err
    monkeypatch.setattr(symng, "save_checkpoint", save)
    assert figure2.main(arguments) == 0
    # Nothing is lost, nothing made twice.
    assert sorted(map(repr, made)) == sorted(map(repr, wanted))
    assert whole_results(tmp_path / "halved") == whole_results(tmp_path / "whole")
    assert figure2.main(arguments) == 0 and len(made) == count
    # Nor are data made again for runs that are complete.
    shutil.rmtree(tmp_path / "halved" / "seed-0" / "data")
    assert figure2.main(arguments) == 0 and len(made) == count
    assert "nan" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("fast_data")
@pytest.mark.parametrize("method", ["sgd", "ngd"])
def test_a_run_goes_on_in_its_midst(method, monkeypatch, tmp_path, capsys):
    """To the same numbers as without an interruption, from what was written last.

    A damaged file of it is ignored.
    """
    options = figure2.parse(
        [*TINY, *GIVEN, "--samples", "1000", "--batch", "70", "--out", str(tmp_path)]
    )
    settings = figure2.settings_of(options)
    (tmp_path / "data").mkdir()
    run = runs.Run(method, 0.5, 2, 1)
    run.path(tmp_path).parent.mkdir(parents=True)
    under_way = run.path(tmp_path).with_name("02-1.under-way.npz")
    monkeypatch.setattr(runs, "KEEP_SECONDS", -1.0)
    measured = ("seconds", "made_a_second")
    wanted = run.make(settings, tmp_path, None), run.load(settings, tmp_path)[0]
    assert not under_way.exists() and wanted[0]["steps"] == 14
    for taken in (3, 7, 8):  # a segment is 250 examples: within one and next to the end of one
        run.path(tmp_path).unlink()
        saved: list[int] = []

        def interrupted(path, arrays, meta, taken=taken, saved=saved):
            if path == under_way:
                saved.append(meta["record"]["steps"])
            if len(saved) > taken:
                raise KeyboardInterrupt
            processes.save(path, arrays, meta)

        monkeypatch.setattr(runs, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.make(settings, tmp_path, None)
        assert under_way.exists() and saved == list(range(1, taken + 2))
        monkeypatch.setattr(runs, "save", processes.save)
        if taken == 8:
            damage(under_way)
        told = run.make(settings, tmp_path, None)
        assert np.array_equal(run.load(settings, tmp_path)[0], wanted[1])
        assert all(told[name] == value for name, value in wanted[0].items() if name not in measured)
        assert not under_way.exists() and ("starts again" in capsys.readouterr().err) == (
            taken == 8
        )


@pytest.mark.slow
def test_more_replicas_and_seeds_go_on_from_fewer(made, tmp_path):
    arguments = [*TINY, *GIVEN, "--out", str(tmp_path)]
    assert figure2.main([*arguments, "--replicas", "2"]) == 0
    two = whole_results(tmp_path)
    assert math.isnan(two["segments"]["sgd"][0]["low"])
    made.clear()
    assert figure2.main(arguments) == 0
    assert {task.replica for task in made} == {3}
    made.clear()
    assert figure2.main([*arguments, "--seeds", "2"]) == 0
    assert len([task for task in made if isinstance(task, runs.Run)]) == 12
    told = whole_results(tmp_path)
    assert told["seeds"] == 2 and told["methods"]["sgd"]["runs"] == 12
    single = json.loads((tmp_path / "seed-1" / "settings.json").read_text())
    assert single["seed"] == 1


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


@pytest.mark.slow
def test_damaged_files_are_reported_and_made_again(made, tmp_path, capsys):
    arguments = [*TINY, *GIVEN, "--out", str(tmp_path)]
    assert figure2.main(arguments) == 0
    wanted = whole_results(tmp_path)
    made.clear()
    run, part = runs.Run("sgd", 0.5, 2, 1), runs.Part(2, 1)
    damage(run.path(tmp_path / "seed-0"))
    damage(part.path(tmp_path / "seed-0"))
    capsys.readouterr()
    assert figure2.main(arguments) == 0
    assert set(made) == {run, part} and whole_results(tmp_path) == wanted
    told = capsys.readouterr().err
    assert (
        "02-1.npz is made again" in told
        and "segment-02-1.npz is made again" in told
        and "damaged" in told
    )


@pytest.mark.slow
def test_refuses_a_folder_of_other_settings(tmp_path, capsys):
    arguments = [*TINY, *GIVEN, "--out", str(tmp_path / "one")]
    assert figure2.main(arguments) == 0
    assert figure2.main([*arguments, "--damping", "2"]) == 1
    assert (
        "settings.json was made with damping 3.0, not 2.0. Give another folder"
        in capsys.readouterr().err
    )
    # A run that was copied from elsewhere.
    other = [*TINY, *GIVEN, "--out", str(tmp_path / "two"), "--damping", "2"]
    assert figure2.main(other) == 0
    name = runs.Run("ngd", 2.0, 1, 1).path(Path("seed-0"))
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
    assert figure2.main(arguments) == 1
    assert "01-1.npz was made with damping 2.0, not 3.0" in capsys.readouterr().err
    (tmp_path / "one" / "seed-0" / "settings.json").write_text("{")
    assert figure2.main(arguments) == 1
    assert "settings.json is damaged" in capsys.readouterr().err


def test_refuses_other_digits(monkeypatch, tmp_path, capsys):
    arguments = [*TINY, *GIVEN, "--out", str(tmp_path)]
    assert figure2.main(arguments) == 0
    base = runs.base_digits(None)
    other = LabeledImages(
        train_images=base.train_images + 0.5,
        train_labels=base.train_labels,
        test_images=base.test_images,
        test_labels=base.test_labels,
        source="nothing",
    )
    monkeypatch.setattr(runs, "base_digits", lambda path: other)
    assert figure2.main(arguments) == 1
    assert re.search(
        r"digits '10\+10 digits, checksum \w+', not '10\+10 digits", capsys.readouterr().err
    )


def test_folders_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert figure2.main([*TINY, *GIVEN, "--out", str(tmp_path / "file")]) == 1
    assert f"--out: cannot write to {tmp_path / 'file'}" in capsys.readouterr().err
    monkeypatch.setattr(figure2.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert figure2.main([*TINY, *GIVEN, "--out", str(tmp_path / "new")]) == 1
    assert "of free space" in capsys.readouterr().err


def test_a_process_that_ends_is_reported():
    workers = processes.Workers(1)
    future: Future = Future()
    future.set_exception(BrokenProcessPool())
    workers._pool = SimpleNamespace(submit=lambda *_: future)
    with pytest.raises(RuntimeError, match="A process ended before its work was done"):
        workers.make("runs", [runs.Part(1, 0)])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--replicas", "1"], "--replicas: expected at least 2"),
        (
            ["--samples", "1001"],
            "--samples: expected a multiple of 20, twice the segments, got 1001; 1000 is one",
        ),
        (["--samples", "7"], "20 is one"),
        (["--samples", "500"], "--samples: expected at least one batch of 512"),
        (["--damping", "-1"], "--damping"),
        (["--seed", "-1"], "--seed"),
        (["--step-sizes", "1"], "--step-sizes"),
        (["--aim", "1.5"], "--aim"),
        (["--aim", "0.5", "--step-sizes", "1", "1"], "--aim"),
    ],
)
def test_wrong_options(capsys, arguments, words):
    with pytest.raises(SystemExit):
        figure2.parse(arguments)
    assert words in capsys.readouterr().err


# As a program, on real data, in processes


SMALL = [
    sys.executable,
    str(ROOT / "examples" / "figure2" / "figure2.py"),
    *"--segments 2 --replicas 2 --samples 800 --batch 100 --hidden 4".split(),
    *"--held-out 50 --validation 50".split(),
    *"--iterations 3 --jobs 2 --step-sizes 0.5 2 --mode".split(),
    "JAX" if importlib.util.find_spec("jax") else "FAST_COMPILE",  # the one that compiles sooner
]


def stop(folder: Path, pattern: str, how: signal.Signals) -> tuple[int, str]:
    """Start the program, signal it when a file exists, and return exit status and output."""
    program = subprocess.Popen(
        [*SMALL, "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A process in the background has Ctrl-C ignored, and with it those that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    end = time.monotonic() + 120
    while not list(folder.glob(pattern)) and program.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    tasks = Path(f"/proc/{program.pid}/task").glob("*/children")
    workers = [child for task in tasks for child in task.read_text().split()]
    program.send_signal(how)
    _, told = program.communicate(timeout=60)
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert workers and not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert "Traceback" not in told, told
    return program.returncode, told


@pytest.mark.slow
def test_digits_that_are_not_there(tmp_path):
    ended = subprocess.run(
        [*SMALL, "--digits", str(tmp_path / "none.npz")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2 and "none.npz" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_processes_are_stopped_and_go_on(tmp_path):
    pytest.importorskip("sklearn")
    assert stop(tmp_path, "seed-0/data/*.npz", signal.SIGKILL)[0] == -signal.SIGKILL
    status, told = stop(tmp_path, "seed-0/runs/*/*.npz", signal.SIGINT)
    assert status == 130 and "The same command continues" in told, told
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-0/*/**/*.npz")}
    assert 7 <= len(kept) < 7 + 4 + 8 and not list(tmp_path.rglob(".symng-*"))
    ended = subprocess.run(
        [*SMALL, "--out", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["methods"]["ngd"]["runs"] == 4 and all(
        row["value"] > 0 for row in told["segments"]["ngd"]
    )


# The page


def test_page_lists_every_option(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        figure2.parse(["--help"])
    options = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.M))
    page = (ROOT / "docs" / "figure2.md").read_text()
    assert len(options) > 10 and set(re.findall(r"^\| `(--[a-z-]+)", page, re.M)) == options
    assert f"{figure2.PRESETS['small']['samples']:,}" in page
