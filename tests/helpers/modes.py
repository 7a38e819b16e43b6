"""Modes as parameters of tests.

JAX is skipped where it is not installed, others may be in the slow tier.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Container
from typing import Any

import pytest

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed"
)


def modes(*names: str, slow: Container[str] = ()) -> list[Any]:
    """Return a parameter for each mode; those named in ``slow`` run in the slow tier only."""
    found = []
    for name in names:
        marks = [needs_jax] if name == "JAX" else []
        if name in slow:
            marks.append(pytest.mark.slow)
        found.append(pytest.param(name, marks=marks))
    return found


def step_modes() -> list[Any]:
    """Return the modes of tests that compile steps.

    Of all but one step per backend, the slow tier.
    """
    return modes("CVM", "NUMBA", "JAX", slow=("CVM", "NUMBA", "JAX"))
