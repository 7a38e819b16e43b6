"""What solvers refuse when made or called, and what they say about themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from symng.backends import UNOPTIMIZED
from symng.operators import LinearOperator
from symng.solvers import CG, MinresQLP, Status

SOLVERS = [CG, MinresQLP]
MODE = UNOPTIMIZED  # each function runs a few times only


@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize(
    "name, value, error",
    [
        ("rtol", -1e-3, ValueError),
        ("rtol", np.nan, ValueError),
        ("rtol", "few", TypeError),
        ("rtol", True, TypeError),
        ("atol", -1, ValueError),
        ("atol", None, TypeError),
        ("atol", np.inf, ValueError),
        ("maxiter", -1, ValueError),
        ("maxiter", 2.5, TypeError),
        ("maxiter", pt.dscalar(), TypeError),
        ("rtol", pt.dvector(), TypeError),
        ("recompute", 1, TypeError),
        ("check", None, TypeError),
    ],
)
def test_bad_settings_are_refused(kind: Any, name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        kind(**{name: value})


@pytest.mark.parametrize(
    "settings, error, name",
    [
        ({"rtol": None}, TypeError, "rtol"),
        ({"progress_rtol": -1e-4}, ValueError, "progress_rtol"),
        ({"progress_rtol": "5e-4"}, TypeError, "progress_rtol"),
        ({"progress_rtol": pt.dvector()}, TypeError, "progress_rtol"),
        (
            {"keep_iterates": 1.0, "maxiter": 9},
            ValueError,
            "keep_iterates: expected a finite number, above 1",
        ),
        ({"keep_iterates": pt.dscalar(), "maxiter": 9}, TypeError, "keep_iterates"),
        (
            {"keep_iterates": 1.3},
            TypeError,
            "maxiter: expected a plain number where keep_iterates is given, got None",
        ),
        (
            {"keep_iterates": 1.3, "maxiter": pt.lscalar("m")},
            TypeError,
            "maxiter: expected a plain number",
        ),
    ],
)
def test_bad_settings_of_cg_are_refused(settings: Any, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        CG(**settings)


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


@pytest.mark.parametrize("length", [1, 3])  # one of length 1 would be broadcast
@pytest.mark.parametrize("kind", SOLVERS)
def test_wrong_lengths_are_refused_while_the_graph_is_built(kind: Any, length: int) -> None:
    solver, b = kind(), pt.tensor("b", shape=(5,), dtype="float64")
    with pytest.raises(
        ValueError,
        match=f"x0: expected a vector of length 5, that of b, got one of length {length}",
    ):
        solver.solve(lambda v: v, b, x0=np.ones(length))
    with pytest.raises(
        ValueError, match=f"A: expected a product of length 5, .* got one of length {length}"
    ):
        solver.solve(lambda v: v[:length], b)
    with pytest.raises(ValueError, match="preconditioner: expected a product of length 5"):
        solver.solve(lambda v: v, b, preconditioner=lambda r: r[:length])
    with pytest.raises(
        ValueError, match=f"b: expected a vector of length {length}, the size of A, got .* length 5"
    ):
        solver.solve(LinearOperator(lambda v: v, size=length), b)


@pytest.mark.parametrize("kind", SOLVERS)
def test_an_empty_right_hand_side_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="b: expected at least one number"):
        kind().solve(lambda v: v, np.zeros(0))


@pytest.mark.parametrize("kind", SOLVERS)
def test_wrong_lengths_are_refused_when_they_are_known(kind: Any) -> None:
    A, M, b, x0 = pt.dmatrix("A"), pt.dmatrix("M"), pt.dvector("b"), pt.dvector("x0")
    solution = kind().solve(lambda v: A @ v, b, x0=x0, preconditioner=lambda r: M @ r)
    run = pytensor.function([A, M, b, x0], solution.x, mode=MODE)
    I, v = np.eye(4), np.ones(4)
    np.testing.assert_allclose(run(2 * I, I, v, v), np.full(4, 0.5))
    for length in (1, 3):
        with pytest.raises(ValueError, match="x0: expected a vector of the length of b"):
            run(I, I, v, np.ones(length))
        with pytest.raises(ValueError, match="A: expected a product of the length of b"):
            run(I[:length], I, v, v)
        with pytest.raises(
            ValueError, match="preconditioner: expected a product of the length of b"
        ):
            run(I, I[:length], v, v)
    with pytest.raises(ValueError, match="b: expected at least one number"):
        run(np.ones((0, 0)), np.ones((0, 0)), np.ones(0), np.ones(0))


@pytest.mark.parametrize("kind", SOLVERS)
def test_a_known_length_of_the_system_is_that_of_the_solution(kind: Any) -> None:
    """JAX needs it, so PyTensor's own check, which keeps it, stands in for one with a message."""
    b, x0, operator = pt.dvector("b"), pt.dvector("x0"), LinearOperator(lambda v: 2 * v, size=4)
    solution = kind().solve(operator, b, x0=x0)
    assert solution.x.type.shape == (4,)
    if kind is CG:
        run = pytensor.function([b, x0], solution.x, mode=MODE)
        np.testing.assert_allclose(run(np.ones(4), np.ones(4)), np.full(4, 0.5))
        for vectors in ((np.ones(4), np.ones(1)), (np.ones(1), np.ones(4))):
            with pytest.raises(AssertionError, match=r"\(1,\), expected \(4,\)"):
                run(*vectors)


@pytest.mark.parametrize("kind", SOLVERS)
def test_repr_rebuilds(kind: Any) -> None:
    solver = kind(rtol=1e-3, maxiter=7, recompute=False)
    assert eval(repr(solver), {kind.__name__: kind}) == solver
    solver = CG(progress_rtol=5e-4, keep_iterates=1.3, maxiter=250)
    assert eval(repr(solver), {"CG": CG}) == solver


def test_every_verdict_has_a_sentence() -> None:
    sentences = {status.message for status in Status}
    assert len(sentences) == len(Status)
    assert all(s[0].isupper() and s.endswith(".") for s in sentences)
    good = {s.name for s in Status if s.success}
    assert good == {
        "CONVERGED",
        "CONVERGED_TO_PRECISION",
        "LEAST_SQUARES",
        "LEAST_SQUARES_TO_PRECISION",
        "ZERO_RHS",
        "SMALL_PROGRESS",
    }
    assert all(1 <= s <= 9 for s in Status if s.success)
