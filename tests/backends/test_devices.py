"""Examples split over devices: the results of one device, and arrays that stay where they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import needs_jax

import symng

SCRIPT = Path(__file__).parents[1] / "helpers" / "device_steps.py"
COMPARED = (
    "natural_gradient",
    "kronecker_and_minres",
    "all_batches_and_own_updates",
    "chunks",
    "sum_of_objectives_in_chunks",
    "examples_that_mix_and_geodesic_acceleration",
    "qr_of_empirical_fisher",
    "woodbury",
    "random_draws",
    "convolution",
)
ROUNDED = ("search_on_the_host", "hessian_free")
SPLIT = {
    "kronecker": [[37, 37], [90, 45], [90, 45]],
    "adam": [[37, 37], [37, 37]],
    "nystrom": [[148, 74], [4, 2]],
}
TOLERANCE = 1e-12


def run_cases(*names: str) -> dict[str, Any]:
    """Return what cases find in a process with eight virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), *names],
        env=os.environ
        | {
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of machine code, not of what is exchanged
            "PYTHONPATH": path,
        },
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def compared():
    return run_cases(*COMPARED, *ROUNDED, *(f"split_state_of_{name}" for name in SPLIT), "runs")


@needs_jax
def test_descent_over_devices():
    cases = run_cases("descent", "targets_out_of_range", "division")
    found, labels = cases["descent"], cases["targets_out_of_range"]
    assert max(found[name] for name in ("number", "list", "mesh", "ahead")) < 1e-14
    # The examples are split: no device has more than its share of them, padded if uneven.
    assert (found["largest"], found["largest uneven"]) == (4096 // 8, 126)
    assert found["collectives"] == ["all-reduce"]
    # Arrays are checked on the device: a few examples come to the host for a dry run.
    assert found["counter"] == 4096 * 3
    assert max(found["number copied"], found["mesh copied"], labels["copied"]) <= 16 * 4
    assert "t (as the loss takes it): expected class numbers from 0 to 2" in labels["error"]
    assert "got 3 at (9,)" in labels["error"]
    # The device that has the least to do so far gets the next piece of work.
    assert cases["division"] == [0, 1, 2, 1, 2, 0]

    errors = found["errors"]
    assert errors.pop("unchanged") == "[1.0, -1.0, 0.5]"
    messages = {
        "too many": "devices: expected at most the 8 devices that JAX has, got 9",
        "none": "devices: expected a whole number, at least 1, got 0",
        "text": "devices: expected a number, a list of JAX devices",
        "twice": "devices: expected each device once",
        "C": "devices: expected none in mode 'FAST_COMPILE'",
        "whole": "devices: expected a sharding that splits one axis",
        "length": "gradient_batch: expected a multiple of 4 examples, the shares of the sharding, "
        "got 1001. Give 1000 or 1004",
        "nan": "gradient_batch, t: expected finite values, got NaN, first in example 77",
        "data": "data: expected a multiple of 4 examples",
    }
    assert set(errors) == set(messages)
    for name, message in messages.items():
        assert errors[name].partition(": ")[2].startswith(message), errors[name]


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARED)
def test_steps_are_those_of_one_device(name, compared):
    found = compared[name]
    assert found["everywhere"]
    assert max(found["losses"], found["params"], found["state"]) < TOLERANCE


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("name", ROUNDED)
def test_steps_whose_iterations_depend_on_rounding(name, compared):
    assert compared[name]["everywhere"] and compared[name]["losses"] < 1e-8


@needs_jax
@pytest.mark.slow
def test_runs_are_those_of_one_device(compared):
    assert max(compared["runs"].values()) < TOLERANCE, compared["runs"]


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("name", ["natural_gradient", "kronecker_and_minres", "chunks", "woodbury"])
def test_what_devices_exchange_in_a_step(name, compared):
    """The cost model of docs/devices.md, beside the program that XLA compiled."""
    params, layers, item = [4 * 3, 3, 3 * 2, 2], [(4 + 1, 3), (3 + 1, 2)], 8
    n = sum(params)
    found = compared[name]["collectives"]
    by_depth = {d: [c for c in found if c[3] == d] for d in range(3)}
    kinds = {kind for kind, *_ in found}
    loops = 1 if name == "chunks" else 0
    outside, iteration = by_depth[loops], by_depth[loops + 1]
    # Gradient and loss at once, then the loss after the step.
    reduced = sorted(size for kind, _, size, _ in outside if kind == "all-reduce")
    factors = item * sum(a**2 + g**2 for a, g in layers) if name == "kronecker_and_minres" else 0
    assert reduced[0] == item and reduced[-1] >= item * (n + 1) + factors and len(reduced) == 2
    if name == "woodbury":  # the rows of all examples come to each device
        rows = 24 * 2
        gathered = [c for c in found if c[0] == "all-gather"]
        assert [size for _, _, size, _ in gathered] == [item * rows * n] and not iteration
        return
    if name == "kronecker_and_minres":
        # Inverses are reduced in a loop of one round; each is made in a branch, by one device.
        (inverses,) = (c for c in iteration if c[2] == factors)
        iteration.remove(inverses)
        assert compared[name]["factorizations"] == [2 * len(layers)] * 2
    # An iteration reduces a vector of the size of the parameters, once.
    assert kinds == {"all-reduce"} and len(iteration) == 1
    assert sorted(iteration[0][1]) == sorted(params) and iteration[0][2] == item * n


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("name", SPLIT)
def test_state_is_split_over_the_second_axis_of_a_mesh(name, compared):
    """An array of which no length is even stays on each device, as the parameters do."""
    found = compared[f"split_state_of_{name}"]
    assert found["everywhere"] and found["shares"] == SPLIT[name]
    assert max(found["losses"], found["params"]) < TOLERANCE
    # A sketch is a basis of eigenvectors, of which each has two signs.
    assert found["state"] < TOLERANCE or name == "nystrom"


@pytest.mark.parametrize("mode", ["FAST_COMPILE", "CVM"])
def test_backends_without_devices(mode):
    x, w = pt.matrix("x"), pytensor.shared(np.ones(2), name="w")
    objective = symng.Objective(pt.sqr(x @ w).mean(), x @ w, [w], inputs=[x])
    message = rf"^devices: expected none in mode '{mode}', which runs on the CPU, got 2"
    with pytest.raises(ValueError, match=message):
        symng.minimize(objective, symng.SGD(0.1), (np.ones((4, 2)),), mode=mode, devices=2)
    np.testing.assert_array_equal(w.get_value(), 1.0)
