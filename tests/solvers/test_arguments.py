"""What the solvers refuse when they are made or given a system, and what they say about themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt
import pytest

from symng.solvers import CG, MinresQLP, Status

SOLVERS = [CG, MinresQLP]


@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("rtol", -1e-3, ValueError), ("rtol", np.nan, ValueError), ("rtol", "few", TypeError),
        ("rtol", True, TypeError),
        ("atol", -1, ValueError), ("atol", None, TypeError), ("atol", np.inf, ValueError), ("maxiter", -1, ValueError),
        ("maxiter", 2.5, TypeError), ("maxiter", pt.dscalar(), TypeError), ("rtol", pt.dvector(), TypeError),
        ("recompute", 1, TypeError), ("check", None, TypeError),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(kind: Any, name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        kind(**{name: value})


@pytest.mark.parametrize("name", ["max_norm", "condition_limit", "transition_condition"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_bad_limits_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        MinresQLP(**{name: value})


@pytest.mark.parametrize("kind", SOLVERS)
def test_bad_arguments_are_refused(kind: Any) -> None:
    b, solver = pt.dvector("b"), kind()
    with pytest.raises(TypeError, match="A: expected"):
        solver.solve(np.eye(3), b)
    with pytest.raises(TypeError, match="b: expected a vector"):
        solver.solve(lambda v: v, pt.dmatrix())
    with pytest.raises(TypeError, match="b: expected a vector"):
        solver.solve(lambda v: v, pt.lvector())
    with pytest.raises(TypeError, match="x0: expected dtype float64"):
        solver.solve(lambda v: v, b, x0=pt.fvector())
    with pytest.raises(TypeError, match="A: expected a product of dtype float32"):
        solver.solve(lambda v: v * pt.dvector(), pt.fvector())
    with pytest.raises(ValueError, match="damping"):
        solver.solve(lambda v: v, b, damping=np.nan)
    with pytest.raises(TypeError, match="preconditioner"):
        solver.solve(lambda v: v, b, preconditioner=np.eye(3))
    with pytest.raises(TypeError):
        kind(1e-5)


@pytest.mark.parametrize("kind", SOLVERS)
def test_repr_rebuilds(kind: Any) -> None:
    solver = kind(rtol=1e-3, maxiter=7, recompute=False)
    assert eval(repr(solver), {kind.__name__: kind}) == solver  # noqa: S307


def test_every_verdict_has_a_sentence() -> None:
    sentences = {status.message for status in Status}
    assert len(sentences) == len(Status)
    assert all(s[0].isupper() and s.endswith(".") for s in sentences)
    good = {s.name for s in Status if s.success}
    assert good == {"CONVERGED", "CONVERGED_TO_PRECISION", "LEAST_SQUARES", "LEAST_SQUARES_TO_PRECISION", "ZERO_RHS"}
