"""Absurd values of the options of the examples: a message that names option and value."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(program: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return an example as a module."""
    if program == "rbm_digits":
        pytest.importorskip("sklearn")
    path = EXAMPLES / f"{program}.py"
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "program, arguments, message",
    [
        ("chessboard", "--steps 0", "--steps: expected a whole number of at least 1, got 0"),
        ("chessboard", "--steps many", "--steps: expected a whole number of at least 1, got many"),
        ("chessboard", "--mode nonsense", "mode: expected"),
        ("chessboard", "--out {file}/folder", "Not a directory"),
        ("deformed_digits", "--complexity 1.5", "--complexity: expected a number from 0 to 1, got"),
        ("deformed_digits", "--path nowhere.npz", "got 'nowhere.npz'"),
        ("hyperparameters", "--step-size 0", "--step-size: expected a finite number above 0, got"),
        ("rnn_adding", "--examples -3", "--examples: expected a whole number of at least 1, got"),
        ("rnn_adding", "--examples 30", "--examples: expected at least --batch plus --metric-"),
        ("rnn_adding", "--length 5", "--length: expected at least 6, got 5"),
        ("rnn_adding", "--seed -1", "--seed: expected a whole number of at least 0, got -1"),
        ("rnn_adding", "--radius nan", "--radius: expected a finite number above 0, got nan"),
        ("curves", "--sizes 784", "--sizes: expected units such as 784-100-50-6"),
        ("curves", "--sizes 784-x", "--sizes: expected a whole number of at least 1, got x"),
        ("curves", "--damping -1", "--damping: expected a finite number of at least 0, got -1"),
        ("curves", "--warm-start 2", "--warm-start: expected a number from 0 to 1, got 2"),
        ("curves", "--seconds 0", "--seconds: expected a finite number above 0, got 0"),
        ("rbm_digits", "--hidden 15", "--hidden: expected at most 14, got 15"),
        ("rbm_digits", "--batch 1501", "--batch: expected at most the 1500 training images, got"),
        ("figure3", "--minutes 1e-9", "--minutes: expected at least 0.0001, got 1e-09"),
        ("figure1/figure1", "--fold 9", "--fold: expected a whole number, at least 0 and at most"),
        ("figure1/figure1", "--labeled 5", "--labeled: expected a whole number, at least 10, got"),
        ("figure2/figure2", "--damping inf", "--damping: expected a finite number of at least 0"),
        ("variational/variational", "--prior 0", "--prior: expected a finite number above 0, got"),
        ("figure2/figure2", "--seed 4294967296", "--seed: expected at most 4294967295, got"),
    ],
)
def test_absurd_values_are_refused(program, arguments, message, capsys, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    try:
        status = load(program, monkeypatch).main(arguments.format(file=file).split())
    except SystemExit as refused:  # by argparse
        status = refused.code
    error = capsys.readouterr().err
    assert status == 2 and message in error and "Traceback" not in error
