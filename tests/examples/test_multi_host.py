"""examples/multi_host.py: its examples, its options, and two processes of it."""

from __future__ import annotations

import importlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.modes import needs_jax

import symng

multi_host = importlib.import_module("multi_host")
ROOT = Path(__file__).parents[2]
SMALL = "--examples 256 --steps 4 --batch 128"


def test_the_examples_do_not_depend_on_the_number_of_processes():
    options = multi_host.parse(SMALL.split())
    X, T = multi_host.make_examples(options, 0, 1)
    assert X.shape == (256, 10) and T.sum(axis=0).min() > 20
    parts = [multi_host.make_examples(options, number, 4) for number in range(4)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), X)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), T)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--examples 100", "--examples: expected a multiple of 64, got 100"),
        ("--coordinator alpha:1234", "--coordinator: expected --processes and --process"),
        ("--cluster --processes 2", "--coordinator: expected --processes and --process"),
    ],
)
def test_options_that_do_not_fit(arguments, message, capsys):
    with pytest.raises(SystemExit):
        multi_host.parse(arguments.split())
    assert message in " ".join(capsys.readouterr().err.split())


def test_page_lists_every_option(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")  # argparse would break lines at 80
    with pytest.raises(SystemExit):
        multi_host.parse(["--help"])
    options = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.M))
    page = (ROOT / "docs" / "devices.md").read_text()
    assert set(re.findall(r"^\| `(--[a-z-]+)", page, re.M)) == options


@needs_jax
@pytest.mark.slow
def test_two_processes_and_the_same_run_on_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"

    def start(folder: str, devices: int, *arguments: str) -> subprocess.Popen[str]:
        program = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "multi_host.py")]
        flags = f"--xla_force_host_platform_device_count={devices}"
        return subprocess.Popen(
            [*program, *SMALL.split(), *arguments, "--out", str(tmp_path / folder)],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    two = [
        start("two", 2, "--coordinator", address, "--processes", "2", "--process", number)
        for number in "01"
    ]
    for process in two:
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors
    assert (tmp_path / "two" / "multi_host.png").read_bytes().startswith(b"\x89PNG")
    # The last --steps counts: the run of two processes goes on in one.
    resumed = start("two", 4, "--steps", "6")
    errors = resumed.communicate(timeout=300)[1]
    assert resumed.returncode == 0, errors
    history = symng.History.load(tmp_path / "two" / "history.npz")
    assert len(history) == 6 and history["loss"][-1] < history["loss"][0]
