"""Two processes of two devices each: one run, which stops as one and resumes on other devices."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.modes import needs_jax

import symng
from symng.training.processes import share

pytestmark = [needs_jax, pytest.mark.slow]

SCRIPT = Path(__file__).parents[1] / "helpers" / "device_processes.py"
STOPPED = "process 1 of 2 raised an error, so this one stops, too"


def run_pair(folder: Path) -> list[tuple[int, str, str]]:
    """Return exit status, output and errors of two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(SCRIPT), number, port, str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in "01"
    ]
    try:
        outputs = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *output) for p, output in zip(processes, outputs, strict=True)]


def train(**given: Any) -> symng.TrainingResult:
    """Run in this process, without JAX."""
    from helpers.device_processes import DESCENT, T, X, regression

    given = {"max_steps": 6, "progress": False, "mode": "FAST_COMPILE", **given}
    optimizer = given.pop("optimizer", DESCENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        # Another backend than the one that wrote the file.
        warnings.filterwarnings("ignore", "checkpoint: expected the settings", UserWarning)
        return symng.minimize(regression(), optimizer, (X, T), **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def pair(folder):
    """Exit status, output and errors of both processes, and when they had ended."""
    train(max_steps=3, checkpoint=folder / "one.npz")
    return run_pair(folder), time.time()


@pytest.fixture(scope="module")
def found(pair):
    for _, text, errors in pair[0]:
        assert text, errors
    return [json.loads(text.splitlines()[-1]) for _, text, _ in pair[0]]


@pytest.fixture(scope="module")
def expected():
    from helpers.device_processes import OPTIMIZER

    return train(optimizer=OPTIMIZER, max_steps=8).history["loss"]


def close(losses: Any, expected: Any) -> bool:
    return np.allclose(losses, expected[: len(losses)], rtol=1e-11, atol=0)


@pytest.mark.parametrize("name, steps", [("begun", 3), ("resumed", 6)])
def test_losses_are_those_of_one_process(name, steps, found, expected):
    first, second = (own[name] for own in found)
    assert first == second and len(first) == steps and close(first, expected)


def test_the_checkpoint_holds_all_of_a_state_that_is_split(found, folder):
    adam = symng.Adam(0.1)
    expected = train(optimizer=adam, max_steps=8).history["loss"]
    assert all(close(own["split state"], expected) for own in found)
    state = symng.load_checkpoint(folder / "state.npz")[0]
    moments = [a for name, a in state.items() if name.startswith("state_") and a.shape == (4,)]
    assert len(moments) == 2 and np.abs(moments).min() > 0
    resumed = train(optimizer=adam, max_steps=8, checkpoint=folder / "state.npz")
    assert close(resumed.history["loss"], expected)


def test_minibatches_are_drawn_from_the_examples_of_each_process(found):
    from helpers.device_processes import T, X

    first, second = (own["minibatches"] for own in found)
    assert first == second
    chosen = np.random.default_rng(0).permutation(8)[:4]
    batch = np.concatenate([chosen, 8 + chosen])
    loss = np.square(np.tanh(X[batch] @ np.full(4, 0.1)) - T[batch]).mean() / 2
    np.testing.assert_allclose(first[0], loss, rtol=1e-12)


def test_a_run_begun_in_one_process(found):
    losses = train().history["loss"]
    assert all(own["from one process"] == found[0]["from one process"] for own in found)
    assert len(losses) == 6 and close(found[0]["from one process"], losses)


def test_arrays_of_all_processes(found):
    full, minibatches = (train(batch_size=size).history["loss"] for size in (None, 8))
    for own in found:
        assert len(own["spread"]) == len(own["spread minibatches"]) == 6
        assert close(own["spread"], full) and close(own["spread minibatches"], minibatches)


def test_resume_in_one_process(found, folder, expected):
    from helpers.device_processes import OPTIMIZER

    file = folder / "run.npz"
    assert symng.load_checkpoint(file)[1]["steps"] == 6
    copy = shutil.copy(file, folder / "copy.npz")
    shutil.copy(f"{file}.history.jsonl", folder / "copy.npz.history.jsonl")
    result = train(optimizer=OPTIMIZER, max_steps=8, checkpoint=copy)
    assert result.steps == 8 and close(result.history["loss"], expected)
    result = train(batch_size=8, checkpoint=folder / "minibatches.npz")
    assert result.steps == 6
    np.testing.assert_array_equal(result.history["loss"][:3], found[0]["minibatches"][:3])


@pytest.mark.parametrize(
    "name, message",
    [
        ("params", "ValueError: params, w: expected the same in all processes, got different"),
        ("lengths", "ValueError: gradient_batch: expected the same in all processes"),
        ("short batch", "ValueError: gradient_batch: expected the same in all processes"),
        ("uneven", "ValueError: data: expected a multiple of 2 examples, those of the devices of"),
        ("batch_size", "ValueError: batch_size: expected a multiple of 2, so that each process"),
        ("crossing", "ValueError: devices: expected a mesh whose second axis, 'state', stays"),
        ("replicas", "ValueError: devices: expected a sharding in which each process has examples"),
        ("devices", "ValueError: devices: expected all 4 devices of the 2 processes, got 2"),
    ],
)
def test_mistakes_are_refused_in_all_processes(name, message, found):
    assert all(own[name].startswith(message) for own in found)


@pytest.mark.parametrize(
    "name, what, own_message",
    [
        ("nan", "data", "ValueError: data, t: expected finite values, got NaN, first in example 4"),
        ("nan in a step", "gradient_batch, metric_batch, search_batch", "ValueError: gradient_ba"),
        ("evaluate", "evaluate, callback", "KeyError: 'no such file'"),
        ("stream fails", "data", "OSError: no such file"),
    ],
)
def test_an_error_in_one_process_stops_the_others(name, what, own_message, found):
    assert found[0][name].startswith(f"RuntimeError: {what}: {STOPPED}")
    assert found[1][name].startswith(own_message)


def test_refused_batches_leave_the_parameters(found):
    assert [own["unchanged"] for own in found] == [[0.1] * 8] * 2


def test_what_one_process_decides_holds_for_all(found):
    assert [own["callback"] for own in found] == [["callback", 2]] * 2
    assert [own["stream"] for own in found] == [["end_of_data", 5]] * 2
    (status, steps), other = (own["max_seconds"] for own in found)
    assert (status, steps) == tuple(other) and status == "max_seconds" and steps > 0


def test_the_others_stop_if_a_process_is_killed_and_the_run_resumes(pair, found, folder):
    ((first, _, errors), (second, _, _)), ended = pair
    assert first != 0 and second != 0 and ended - found[0]["time"] < 120
    assert "The tasks have crashed" in errors or "unhealthy" in errors
    file = folder / "killed.npz"
    assert symng.load_checkpoint(file)[1]["steps"] in (3, 4)  # the other may save once more
    result = train(max_steps=8, checkpoint=file)
    assert result.steps == 8 and close(result.history["loss"], train(max_steps=8).history["loss"])


def test_shares_of_sizes():
    assert share("batch_size", (8, None, lambda k: 2 * k), 2)[:2] == [4, None]
    assert share("batch_size", lambda k: 2 * k, 2)(3) == 3
    with pytest.raises(ValueError, match="batch_size: expected a multiple of 3"):
        share("batch_size", lambda k: k + 3, 3)(1)
