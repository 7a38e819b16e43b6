"""What a training run shows while it runs."""

from __future__ import annotations

import io
import re
import sys
import time
import types

from helpers.small_steps import descent, train
from rich.console import Console

import symng
from symng.training import loop


def test_quiet(capfd):
    train(descent(), evaluate=lambda: 1.0, max_steps=3)
    assert capfd.readouterr() == ("", "")


def test_lines_on_a_pipe(capfd):
    train(descent(), progress=True, max_steps=3)
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert lines[0] == "compiling the step: PyTensor's rewrites ..." and re.fullmatch(
        r"compiled in \d+\.\d s", lines[1]
    )
    assert re.fullmatch(
        r" +\d+\.\d s  step 3  loss [\d.]+  damping 1  rho [\d.]+  converged in 1", lines[-1]
    )
    assert "\x1b" not in out and err == ""


def test_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()

    def terminal():
        return Console(
            file=screen,
            force_terminal=True,
            width=140,
            force_jupyter=False,
            _environ={"TERM": "xterm"},
        )

    monkeypatch.setattr("rich.console.Console", terminal)
    seen = []
    compiled = loop.CompiledStep.compile

    def compile_slowly(self, *batches):
        compiled(self, *batches)
        time.sleep(1.3)

    monkeypatch.setattr(loop.CompiledStep, "compile", compile_slowly)
    rule = symng.LevenbergMarquardt(initial=30.0, reject_below=2.0)  # refuses every step
    train(descent(damping=rule), progress=True, max_steps=3, callback=lambda row: seen.append(row))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"compiling the step: PyTensor's rewrites .*0:00:01", text)
    assert re.search(r"compiled in \d+\.\d s", text)
    last = seen[-1]
    wanted = f"step 3  loss {last['loss']:.5g}  damping {last['damping']:.3g}  "
    wanted += f"rho {last['reduction_ratio']:.3g}  "
    assert wanted + "converged in 1  rejected" in text and "100%" in text


def test_bar_in_a_notebook(monkeypatch, capfd):
    drawn = []

    class Handle:
        def update(self, cell):
            drawn.append((repr(cell), cell._repr_html_()))

    def display(cell, display_id):
        assert display_id is True and not drawn  # one bar, which is updated
        Handle().update(cell)
        return Handle()

    monkeypatch.setattr("rich.console.Console", lambda: Console(force_jupyter=True))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    train(descent(), progress=True, max_steps=4, callback=lambda row: row["step"] == 3)
    texts = [text for text, _ in drawn]
    assert texts[0] == "compiling the step: PyTensor's rewrites ..." and re.fullmatch(
        r"compiled in \d+\.\d s", texts[1]
    )
    assert re.fullmatch(
        r"\d+\.\d s  step 3  loss [\d.]+  damping 1  rho [\d.]+  converged in 1", texts[-1]
    )
    assert '<progress value="0.750" max="1">' in drawn[-1][1] and texts[-1] in drawn[-1][1]
    drawn.clear()
    train(descent(), max_steps=4)
    assert not drawn and capfd.readouterr() == ("", "")
