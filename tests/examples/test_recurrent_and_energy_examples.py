"""The examples of the adding problem and of the Boltzmann machine: data, tiny runs, pages."""

from __future__ import annotations

import importlib.util
import json
import re
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import symng
from symng.datasets import adding

ROOT = Path(__file__).parents[2]
NAMES = ("rnn_adding", "rbm_digits")


def load(name: str) -> ModuleType:
    """Return an example as a module."""
    if name == "rbm_digits":
        pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The data of the adding problem


@pytest.mark.parametrize("length", [6, 30, 100])
def test_sequences_are_those_of_the_adding_problem(length):
    inputs, targets = adding(2000, length, seed=1)
    assert inputs.shape == (length, 2000, 2) and targets.shape == (2000, 1)
    assert inputs.dtype == targets.dtype == "float32"
    numbers, markers = inputs[..., 0], inputs[..., 1]
    assert (
        abs(numbers).max() <= 1 and abs(numbers.mean()) < 0.03 and abs(numbers.var() - 1 / 3) < 0.02
    )
    assert (markers[[0, -1]] == -1).all() and np.isin(markers[1:-1], (0, 1)).all()
    count = (markers == 1).sum(axis=0)
    assert set(count) == {1, 2}  # one where the first step was to be marked
    assert np.flatnonzero((markers == 1).any(axis=1)).max() <= max(
        min(10, length - 1) - 1, length // 2 - 1
    )
    both = np.array([np.flatnonzero(column) for column in (markers == 1).T[count == 2]])
    assert (both[:, 0] < 10).all()
    if length == 30:  # every place that may be marked is
        assert set(both.ravel()) == set(range(1, 15))
    wanted = 0.5 + np.where(markers == 1, numbers, 0).sum(axis=0) / 4
    assert abs(targets[:, 0] - wanted).max() < 1e-6


def test_sequences_follow_the_seed():
    same, again, other = (
        adding(5, 10, seed=1),
        adding(5, 10, seed=1),
        adding(5, 10, seed=2, dtype="float64"),
    )
    assert all(np.array_equal(a, b) for a, b in zip(same, again, strict=True))
    assert not np.array_equal(same[0], other[0]) and other[0].dtype == other[1].dtype == "float64"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(n=0), "n: expected"),
        (dict(n=1, length=5), "length: expected .* at least 6"),
        (dict(n=1, seed=-1), "seed: expected"),
        (dict(n=1, dtype="int64"), "dtype: expected"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        adding(**arguments)


# Tiny runs


def test_rnn_adding_runs(tmp_path, capsys):
    example = load("rnn_adding")
    tiny = (
        "--runs structural --length 6 --hidden 3 --steps 2 --examples 30 --batch 10 "
        "--metric-examples 5 --iterations 4"
    )
    assert example.main([*tiny.split(), "--mode", "FAST_COMPILE", "--out", str(tmp_path)]) == 0
    history = symng.History.load(tmp_path / "history-structural.npz")
    assert (
        len(history) == 2
        and np.isfinite(history["test_error"]).all()
        and (history["solved"] <= 1).all()
    )
    assert (tmp_path / "rnn_adding.png").stat().st_size > 1000
    assert json.loads((tmp_path / "config.json").read_text())["outcome"]["structural"]["steps"] == 2
    assert "with structural damping" in capsys.readouterr().out


def test_rnn_adding_solves_with_the_hidden_states():
    example = load("rnn_adding")
    objective = example.make_objective(4, 1.1, 0)
    options = example.parse(["--coefficient", "0.2"])
    metric = example.make_optimizer(options, True).metric
    assert metric.describe(objective).endswith("Sign, read off tanh in a scan")
    assert metric.relative and metric.coefficient == 0.2
    assert example.make_optimizer(options, False).metric == symng.Fisher()
    W = objective.params[1].get_value()
    assert abs(np.linalg.eigvals(W.astype("float64"))).max() == pytest.approx(1.1, abs=1e-5)


def test_rbm_digits_runs(tmp_path):
    example = load("rbm_digits")
    tiny = "--hidden 3 --steps 3 --batch 20 --chains 10 --mode FAST_COMPILE --out"
    assert example.main([*tiny.split(), str(tmp_path)]) == 0
    for name in example.RUNS:
        history = symng.History.load(tmp_path / f"history-{name}.npz")
        assert len(history) == 3 and np.isfinite(history["nats_per_image"]).all()
    assert (tmp_path / "rbm_digits.png").stat().st_size > 1000
    assert json.loads((tmp_path / "config.json").read_text())["hidden"] == 3


def test_likelihood_of_the_machine_is_exact():
    """Against a sum over all states of 4 visible and 3 hidden units."""
    example = load("rbm_digits")
    rng = np.random.default_rng(0)
    images = (rng.random((6, 4)) < 0.5).astype("float32")
    machine = example.Machine(3, images, seed=0)
    for p in machine.params:
        p.set_value(rng.standard_normal(p.get_value().shape).astype("float32"))
    W, b, c = (p.get_value().astype("float64") for p in machine.params)

    def weight(v):  # exp(-E), summed over hidden units
        return sum(
            np.exp(v @ b + np.array(h) @ c + v @ W @ np.array(h)) for h in product((0, 1), repeat=3)
        )

    total = sum(weight(np.array(v, float)) for v in product((0, 1), repeat=4))
    wanted = -np.mean([np.log(weight(v) / total) for v in images.astype("float64")])
    assert machine.nats(images) == pytest.approx(wanted, rel=1e-6)
    energies = machine.energy(images).eval()
    assert np.allclose(energies, [-np.log(weight(v)) for v in images.astype("float64")], rtol=1e-5)


def test_chains_have_the_machine_as_their_law():
    example = load("rbm_digits")
    images = np.eye(4, dtype="float32")
    machine, rng = example.Machine(2, images, seed=0), np.random.default_rng(1)
    machine.W.set_value(np.float32([[2, 0], [2, 0], [0, -1], [0, 2]]))
    states = np.array(list(product((0, 1), repeat=4)), "float32")
    p = np.exp(-machine.energy(states).eval().astype("float64"))
    p /= p.sum()
    chains = (rng.random((20_000, 4)) < 0.5).astype("float32")
    for _ in range(20):
        chains = machine.sweep(chains, rng)
    found = np.bincount((chains @ [8, 4, 2, 1]).astype(int), minlength=16) / len(chains)
    assert (abs(found - p) < 5 * np.sqrt(p / len(chains)) + 1e-3).all()


@pytest.mark.parametrize("name", NAMES)
def test_page_lists_every_option(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")  # argparse would break lines at 80
    with pytest.raises(SystemExit):
        load(name).parse(["--help"])
    options = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.M))
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert len(options) > 5 and set(re.findall(r"^\| `(--[a-z-]+)", page, re.M)) == options
