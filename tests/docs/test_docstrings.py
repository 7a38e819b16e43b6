"""Every example in a docstring runs and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil

import numpy as np
import pytensor
import pytest

import symng

# Only imported where its library is there: it is the JAX side of `symng.enable_jax`.
NEEDS_JAX = {f"symng.backends._jax_{name}" for name in ("ops", "scan", "shapes")}
HAS_JAX = importlib.util.find_spec("jax") is not None
# Bridges, whose examples run where their packages are.
LACKING = tuple(
    f"symng.bridges.{prefix}{name}"
    for name in ("pymc", "pytensor_ml")
    for prefix in ("", "_")
    if importlib.util.find_spec(name) is None
)


def module_names() -> list[str]:
    """Return the names of all modules of the package that can be imported here."""
    names = [module.name for module in pkgutil.walk_packages(symng.__path__, prefix="symng.")]
    names = [name for name in names if not name.startswith(LACKING)]
    return ["symng", *(name for name in names if HAS_JAX or name not in NEEDS_JAX)]


def find_examples() -> list[doctest.DocTest]:
    """Return the docstrings with examples, one for each object."""
    finder = doctest.DocTestFinder()
    tests = [
        test for name in module_names() for test in finder.find(importlib.import_module(name), name)
    ]
    return [test for test in tests if test.examples]


EXAMPLES = find_examples()


def test_that_there_are_examples():
    assert len(EXAMPLES) > 30


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(example):
    if any('"JAX"' in part.source for part in example.examples):
        pytest.importorskip("jax")
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    told: list[str] = []
    # FAST_COMPILE: an example shows what is computed, not how fast. Modes named in it stand.
    with pytensor.config.change_flags(mode="FAST_COMPILE"), np.printoptions(legacy=False):
        failed, _ = runner.run(example, out=told.append)
    assert not failed, "".join(told)
