"""examples/online.py: what its stream, its metric and its picture are made of."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

import symng

online = importlib.import_module("online")
SMALL = "--examples 12 --held-out 20 --evaluate-every 6 --iterations 2 --mode FAST_COMPILE"


def test_the_stream_the_metric_and_the_test_have_no_image_in_common():
    options = online.parse(SMALL.split())
    stream = online.Stream(options, 0)
    parts = [stream.test[0], stream.held_out, stream.data[0]]
    assert [len(part) for part in parts] == [297, 20, 12]
    images = (options.digits.data / 16).astype("float32")
    places = [
        {int(np.flatnonzero((images == image).all(axis=1))[0]) for image in part} for part in parts
    ]
    assert sum(map(len, places)) == len(set.union(*places)) == 329
    labels = options.digits.target[
        [int(np.flatnonzero((images == image).all(axis=1))[0]) for image in stream.data[0]]
    ]
    np.testing.assert_array_equal(stream.data[1].argmax(axis=1), labels)


def test_both_methods_take_one_example_at_a_time(tmp_path, monkeypatch, capsys):
    taken = []
    minimize = symng.minimize

    def spy(objective, optimizer, **given):
        taken.append((type(optimizer).__name__, given["batch_size"], given.get("metric_data")))
        return minimize(objective, optimizer, **given)

    monkeypatch.setattr(online.symng, "minimize", spy)
    assert online.main([*SMALL.split(), "--out", str(tmp_path)]) == 0
    (ngd, one, (held_out,)), sgd = taken
    assert (ngd, one, len(held_out)) == ("NaturalGradient", 1, 20) and sgd == ("SGD", 1, None)
    assert (tmp_path / "online.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "| examples seen | 6 | 12 |" in out and "after 12 examples" in out


def test_more_images_than_there_are(capsys):
    with pytest.raises(SystemExit):
        online.parse(["--examples", "1201"])
    assert (
        "--examples: expected at most the 1200 that are left, got 1201" in capsys.readouterr().err
    )


def test_page_lists_every_option(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")  # argparse would break lines at 80
    with pytest.raises(SystemExit):
        online.parse(["--help"])
    options = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.M))
    page = (Path(__file__).parents[2] / "docs" / "online.md").read_text()
    assert set(re.findall(r"^\| `(--[a-z-]+)", page, re.M)) == options
