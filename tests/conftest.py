"""Settings of the whole test session."""

from __future__ import annotations

import os

# Before NumPy and PyTensor are imported, and not for benchmarks, which run without workers.
if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads of OpenBLAS wait for each other: half the speed where each worker has a core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What is compiled here runs for milliseconds: without optimization g++ takes two thirds of its
    # time and XLA half, and with little of it Numba seven tenths.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ.setdefault("NUMBA_OPT", "1")
    given = os.environ.get("PYTENSOR_FLAGS")
    os.environ["PYTENSOR_FLAGS"] = "gcc__cxxflags=-O0" + (f",{given}" if given else "")

import gc

import pytensor
import pytest
from pytensor.compile.mode import predefined_modes

from symng.backends import UNOPTIMIZED

# Python thunks and few rewrites: starts in a fraction of the time of the default. A test of a
# backend names its mode.
pytensor.config.mode = "FAST_COMPILE"
FAST_COMPILE = predefined_modes["FAST_COMPILE"]


def pytest_configure(config):
    """In the fast tier alone, compile without rewrites, which take half the time."""
    if config.option.markexpr == "not slow":
        predefined_modes["FAST_COMPILE"] = UNOPTIMIZED


# Python's own collections walk all graphs that live, again and again: a seventh of the time. These
# wait for about 100 MB of garbage, which graphs are until they are collected, as cycles, and never
# look again at what has outlived one: modules, and the steps that a file of tests shares.
gc.disable()
_GARBAGE = 1_000_000  # objects


def pytest_collection_finish():
    """Never look at what was imported."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logfinish():
    """Collect what tests have left, once it is much."""
    if gc.get_count()[0] > _GARBAGE:
        gc.collect()
        gc.freeze()


@pytest.fixture
def rewrites(monkeypatch):
    """Compile with rewrites in the fast tier, too: for tests of what they make of a graph."""
    monkeypatch.setitem(predefined_modes, "FAST_COMPILE", FAST_COMPILE)
