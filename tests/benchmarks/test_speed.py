"""Time a product with F and an iteration of a solver against their bare matrix products.

    pytest tests/benchmarks -o addopts= --import-mode=importlib -s

Each figure is a ratio of medians of interleaved runs in one process, printed beside the target of
the project. A noisy machine may miss a limit, so nothing here is part of the default test run. C is
judged where PyTensor has BLAS.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytensor
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from curves_network import make_bare_products, make_objective, make_step  # noqa: E402

# In units of the bare products; the limit holds on Numba, and on C with BLAS.
ITERATION_TARGET, ITERATION_LIMIT = 1.35, 1.6
MEMORY_TARGETS_MIB = {None: 1228.8, 2000: 512.0}  # by chunk_size
IMPORT_TARGET = 0.3  # seconds, over those of importing PyTensor


def _seconds(function) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _modes() -> list[str]:
    """Name the backends to time: C and Numba, and JAX where it is installed."""
    try:
        import jax  # noqa: F401
    except ImportError:
        return ["CVM", "NUMBA"]
    return ["CVM", "NUMBA", "JAX"]


@pytest.fixture(
    scope="module",
    params=[(mode, solver) for mode in _modes() for solver in ("cg", "minres-qlp")],
    ids="-".join,
)
def step(request):
    return make_step(*request.param), *request.param


@pytest.mark.parametrize("examples", [1000, 5000])
def test_solver_iteration(step, examples, benchmark):
    """(20 iterations - 5 iterations) / 15, over the bare products of one product."""
    from symng.datasets import curves

    compiled, mode, solver = step
    images = curves(examples)
    compiled.compile((images,))
    bare = make_bare_products(examples)

    def iterations(count: int) -> None:
        compiled.hyperparameters["maxiter"].set_value(count)
        assert compiled.run((images,)).solver_iterations == count

    def one_round() -> None:
        few, many = _seconds(lambda: iterations(5)), _seconds(lambda: iterations(20))
        bare()  # NumPy's threads wake up outside of the clock
        rounds.append((few, many, _seconds(lambda: [bare() for _ in range(5)]) / 5))

    rounds: list[tuple[float, float, float]] = []
    one_round()  # a first, uncounted round: JAX compiles for the shape, caches fill
    rounds.clear()
    benchmark.pedantic(one_round, rounds=5)
    per_iteration = statistics.median((many - few) / 15 for few, many, _ in rounds)
    floor = statistics.median(seconds for *_, seconds in rounds)
    benchmark.extra_info.update(
        mode=mode,
        solver=solver,
        examples=examples,
        per_iteration=per_iteration,
        bare_products=floor,
    )
    print(
        f"\n{mode}, {solver}, {examples} examples: iteration {per_iteration:.4f} s, bare products "
        f"{floor:.4f} s, "
        f"ratio {per_iteration / floor:.2f} (target {ITERATION_TARGET})"
    )
    if mode == "NUMBA" or (mode == "CVM" and pytensor.config.blas__ldflags):
        assert per_iteration / floor <= ITERATION_LIMIT


@pytest.mark.parametrize("examples", [1000, 5000])
@pytest.mark.parametrize("mode", _modes())
def test_metric_product(mode, examples, benchmark):
    """One product with F, forward pass included, over its bare products."""
    import numpy as np
    import pytensor.tensor as pt

    import symng
    from symng.backends import compile_function, to_numpy
    from symng.datasets import curves

    objective = make_objective()
    v = pt.vector("v", dtype="float32", shape=(objective.size,))
    product = compile_function([*objective.inputs, v], symng.Fisher()(objective) @ v, mode=mode)
    images, vector = (
        curves(examples),
        np.random.default_rng(0).standard_normal(objective.size, "float32"),
    )
    bare = make_bare_products(examples)

    def one_round() -> None:
        to_numpy(product(images, vector))
        ours = _seconds(lambda: [to_numpy(product(images, vector)) for _ in range(5)]) / 5
        bare()  # NumPy's threads wake up outside of the clock
        rounds.append((ours, _seconds(lambda: [bare() for _ in range(5)]) / 5))

    rounds: list[tuple[float, float]] = []
    one_round()
    rounds.clear()
    benchmark.pedantic(one_round, rounds=11)
    seconds, floor = (statistics.median(column) for column in zip(*rounds, strict=True))
    benchmark.extra_info.update(mode=mode, examples=examples, product=seconds, bare_products=floor)
    print(
        f"\n{mode}, {examples} examples: product with its forward pass {seconds:.4f} s, bare "
        f"products {floor:.4f} s, "
        f"ratio {seconds / floor:.2f}"
    )


def _fresh_process(cache: str, *options: str) -> dict:
    """Take a step in a fresh process with a compilation cache of its own.

    Return what it printed.
    """
    flags = [f for f in (os.environ.get("PYTENSOR_FLAGS"), f"base_compiledir={cache}") if f]
    environment = os.environ | {
        "PYTENSOR_FLAGS": ",".join(flags),
        "NUMBA_CACHE_DIR": f"{cache}/numba",
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
    }
    command = [sys.executable, "-W", "ignore", str(HERE / "curves_network.py"), *options]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("mode", _modes())
def test_first_step(mode, benchmark):
    """Seconds from the start of Python to the first step, with a cold and a warm cache."""
    with tempfile.TemporaryDirectory() as cache:
        found = benchmark.pedantic(
            lambda: [_fresh_process(cache, "--mode", mode)["first_step_s"] for _ in range(2)],
            rounds=1,
        )
    benchmark.extra_info.update(mode=mode, cold=found[0], warm=found[1])
    print(
        f"\n{mode}: first step after {found[0]:.1f} s with a cold cache, {found[1]:.1f} s with a "
        "warm one"
    )


@pytest.mark.parametrize("chunk_size", MEMORY_TARGETS_MIB)
@pytest.mark.parametrize("mode", _modes())
def test_memory(mode, chunk_size, benchmark):
    """Growth of peak memory by a full-batch step on 20,000 images over a step of 100.

    What is compiled is cached.
    """
    options = [
        "--mode",
        mode,
        "--examples",
        "20000",
        *(["--chunk-size", str(chunk_size)] if chunk_size else []),
    ]
    with tempfile.TemporaryDirectory() as cache:
        _fresh_process(cache, *options)  # to compile takes memory of its own
        found = benchmark.pedantic(lambda: _fresh_process(cache, *options), rounds=1)
    benchmark.extra_info.update(found)
    target = MEMORY_TARGETS_MIB[chunk_size]
    print(
        f"\n{mode}, chunk_size {chunk_size}: 20,000 images grow peak memory by "
        f"{found['growth_mib']:.0f} MiB (target "
        f"{target:.0f}); parameters and state are {found['updated_mib']:.1f} MiB"
    )
    assert found["growth_mib"] <= target


def test_import(benchmark):
    """Seconds of ``import symng`` in a fresh process that has imported PyTensor."""
    program = "import time, pytensor; t = time.perf_counter(); import symng; "
    program += "print(time.perf_counter() - t)"

    def one_round() -> None:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            check=True,
            capture_output=True,
            text=True,
        )
        rounds.append(float(done.stdout))

    rounds: list[float] = []
    benchmark.pedantic(one_round, rounds=7)
    seconds = statistics.median(rounds)
    benchmark.extra_info.update(seconds=seconds)
    print(f"\nimport symng: {seconds:.2f} s over PyTensor (target {IMPORT_TARGET})")
