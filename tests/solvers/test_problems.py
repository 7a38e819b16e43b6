"""Every solver on every named problem of the structure that it requires.

The fast tier has every problem at the default settings, and of further tolerances, transitions,
shifts and scales those that differ most; the slow tier has all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.linear_problems import (
    Problem,
    cg_iterates,
    cg_iterations,
    minres_iterations,
    problems,
    shortest,
)
from pytensor.compile.mode import OPT_FAST_COMPILE, Mode
from pytensor.link.vm import VMLinker

from symng.solvers import CG, MinresQLP, Solution, Status

TABLE = problems()
DTYPES = ["float64", "float32"]
slow = pytest.mark.slow
MODE = "FAST_COMPILE"
# Python around a loop that PyTensor 3.0 compiles to C: a thirtieth of the time for an iteration.
# For the functions of a thousand solves this pays, for those of a hundred it does not.
LOOP_IN_C = Mode(VMLinker(use_cloop=False, c_thunks=False), OPT_FAST_COMPILE)


@dataclass(frozen=True)
class Row:
    """One solver, and the problems it is made for."""

    solver: type
    settings: tuple[str, ...]

    def takes(self, problem: Problem) -> bool:
        """Return whether the solver should solve this problem."""
        if self.solver is CG:
            return (problem.definite and not problem.slow) or (
                problem.semidefinite and problem.consistent
            )
        return True


ROWS = {"cg": Row(CG, ()), "minres-qlp": Row(MinresQLP, ("transition_condition",))}


@cache
def compiled(name: str, dtype: str, variant: str = "plain") -> Any:
    """Compile one function of A, b, rtol, damping and the settings of the row, for all problems.

    Variants: plain, jacobi (a diagonal preconditioner), warm (with x0), limits (bounds that the
    dtype cannot reach).
    """
    row = ROWS[name]
    A, b = pt.matrix("A", dtype=dtype), pt.vector("b", dtype=dtype)
    diagonal, x0 = pt.vector("diagonal", dtype=dtype), pt.vector("x0", dtype=dtype)
    scalars = [pt.scalar(key, dtype=dtype) for key in ("rtol", "damping", *row.settings)]
    settings = {"rtol": scalars[0], **dict(zip(row.settings, scalars[2:], strict=True))}
    if variant == "limits":
        settings |= {
            "max_norm": 1e30,
            "condition_limit": 1e15 if dtype == "float64" else 1e7,
            "maxiter": 4 * b.size,
        }
    preconditioner = (lambda r: r / diagonal) if variant == "jacobi" else None
    solution = row.solver(**settings).solve(
        lambda v: A @ v,
        b,
        damping=scalars[1],
        x0=x0 if variant == "warm" else None,
        preconditioner=preconditioner,
    )
    fields = {key: value for key, value in vars(solution).items() if value is not None}
    mode = LOOP_IN_C if (name, variant) == ("minres-qlp", "plain") else MODE
    f = pytensor.function(
        [A, b, diagonal, x0, *scalars], list(fields.values()), mode=mode, on_unused_input="ignore"
    )

    def run(
        A: Any,
        b: Any,
        rtol: float,
        damping: float = 0.0,
        d: Any = None,
        x0: Any = None,
        **values: float,
    ) -> Any:
        n = len(b)
        vectors = [A, b, np.ones(n) if d is None else d, np.zeros(n) if x0 is None else x0]
        numbers = [rtol, damping, *(values[key] for key in row.settings)]
        arguments = [np.asarray(value, dtype=dtype) for value in [*vectors, *numbers]]
        out = dict(zip(fields, f(*arguments), strict=True))
        assert all(value.dtype in (dtype, "int64") for value in out.values())
        return Solution(**out)

    return run


def default_rtol(name: str, dtype: str) -> float:
    return {"cg": 1e-5, "minres-qlp": 1e-8 if dtype == "float64" else 1e-5}[name]


def transition(dtype: str, value: float | None) -> float:
    return value or (1e7 if dtype == "float64" else 1e4)


def condition(A: np.ndarray) -> float:
    values = np.abs(np.linalg.eigvalsh(A))
    values = values[values > 1e-13 * values.max()] if values.max() > 0 else np.ones(1)
    return values.max() / values.min()


def residual_is_small(problem: Problem, solution: Solution, rtol: float, dtype: str) -> bool:
    """Make the test of the residual in float64, on the problem before it was rounded to float32."""
    eps = np.finfo(dtype).eps
    x = solution.x.astype(float)
    r = np.linalg.norm(problem.b - problem.A @ x)
    size = np.linalg.norm(problem.A, 2) * np.linalg.norm(x) + np.linalg.norm(problem.b)
    return r <= (1.1 * rtol + 20 * eps) * size


CASES = [
    pytest.param(problem, dtype, id=f"{problem.name}-{dtype}")
    for problem in TABLE
    for dtype in DTYPES
    if dtype == "float64" or problem.single
]


def check_minres_qlp(
    problem: Problem, dtype: str, rtol: float, value: float | None, variant: str = "plain"
) -> None:
    """Solve one problem, and check verdict, iterations, measures and solution."""
    A, b = problem.A.astype(dtype), problem.b.astype(dtype)
    eps = np.finfo(dtype).eps
    solution = compiled("minres-qlp", dtype, variant)(
        A, b, rtol, transition_condition=transition(dtype, value)
    )
    status, x = Status(int(solution.status)), solution.x.astype(float)
    # Where the tolerance is near what rounding errors leave, this system may only be found
    # singular.
    limited = (
        status is Status.CONDITION_LIMIT and rtol < 1e-8 and problem.name == "rosser, inconsistent"
    )
    assert status.success or limited
    if not limited:
        assert status.name.startswith("CONVERGED" if problem.consistent else "LEAST_SQUARES")
        assert solution.niter <= 1.5 * minres_iterations(A, b, rtol, 10 * len(b)) + 5
    r = problem.b - problem.A @ x
    scale = np.linalg.norm(problem.A, 2) * np.linalg.norm(x) + np.linalg.norm(problem.b)
    np.testing.assert_allclose(
        solution.residual_norm, np.linalg.norm(r), rtol=1e-3, atol=20 * eps * scale
    )
    np.testing.assert_allclose(solution.x_norm, np.linalg.norm(x), rtol=1e-4)
    if problem.consistent:
        assert residual_is_small(problem, solution, rtol, dtype)
    else:
        # The shortest one of all least-squares solutions.
        best = shortest(problem.A, problem.b)
        tolerance = 10 * condition(problem.A) * max(rtol, 10 * eps)
        if status is not Status.LEAST_SQUARES:
            # The measure of this verdict, see the docstring: what rounding errors of the whole
            # solve may leave.
            tolerance = max(tolerance, 20 * np.sqrt(eps))
        assert np.linalg.norm(x - best) <= tolerance * max(np.linalg.norm(best), 1e-3)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(1, id="qlp throughout"),
        pytest.param(10, id="qlp from 10", marks=slow),
        pytest.param(1e3, id="qlp from 1e3", marks=slow),
        pytest.param(None, id="default"),
    ],
)
@pytest.mark.parametrize("problem, dtype", CASES)
def test_minres_qlp(problem: Problem, dtype: str, value: float | None) -> None:
    check_minres_qlp(problem, dtype, default_rtol("minres-qlp", dtype), value)


@pytest.mark.parametrize("rtol", [pytest.param(1e-6, marks=slow), 1e-10])
@pytest.mark.parametrize("problem", TABLE, ids=repr)
def test_minres_qlp_at_other_tolerances(problem: Problem, rtol: float) -> None:
    check_minres_qlp(problem, "float64", rtol, None)


@pytest.mark.parametrize(
    "rtol", [pytest.param(1e-6, marks=slow), 1e-8, pytest.param(1e-10, marks=slow)]
)
@pytest.mark.parametrize("problem", [p for p in TABLE if not p.consistent], ids=repr)
def test_least_squares_do_not_depend_on_summation_order(problem: Problem, rtol: float) -> None:
    """Permuted unknowns with other signs are the same system, with other rounding errors."""
    rng, n = np.random.default_rng(11), len(problem.b)
    for _ in range(4):
        order, sign = rng.permutation(n), rng.choice([-1.0, 1.0], n)
        A, b = (problem.A * np.outer(sign, sign))[np.ix_(order, order)], (problem.b * sign)[order]
        check_minres_qlp(replace(problem, A=A, b=b), "float64", rtol, None)


@pytest.mark.parametrize(
    "problem, dtype", [case for case in CASES if not case.values[0].consistent]
)
def test_limits_past_the_precision_do_not_hide_that_a_system_is_inconsistent(
    problem: Problem, dtype: str
) -> None:
    check_minres_qlp(problem, dtype, default_rtol("minres-qlp", dtype), 1, "limits")


@pytest.mark.parametrize(
    "problem, dtype", [case for case in CASES if ROWS["cg"].takes(case.values[0])]
)
def test_cg(problem: Problem, dtype: str) -> None:
    A, b = problem.A.astype(dtype), problem.b.astype(dtype)
    solution = compiled("cg", dtype)(A, b, 1e-5)
    status = Status(int(solution.status))
    assert status.success
    textbook = len(cg_iterates(A, b, 10 * len(b), rtol=1e-5)) - 1
    exact = textbook if problem.delayed else cg_iterations(problem.A, problem.b, 1e-5)
    # Textbook CG believes its recurrence, while x itself may need another start or two.
    late = 2.5 if problem.delayed else 1.5
    assert solution.niter <= late * min(textbook, exact) + 5
    r = np.linalg.norm(problem.b - problem.A @ solution.x.astype(float))
    if status is Status.CONVERGED:
        rounding = (
            20 * np.finfo(dtype).eps * np.linalg.norm(problem.A, 2) * np.linalg.norm(solution.x)
        )
        assert r <= 1.01e-5 * np.linalg.norm(problem.b) + rounding
    else:
        assert status is Status.CONVERGED_TO_PRECISION and residual_is_small(
            problem, solution, 0.0, dtype
        )


INDEFINITE = [
    p
    for p in TABLE
    if not p.definite and not p.semidefinite and np.linalg.eigvalsh(p.A).min() < -1e-3
]


@pytest.mark.parametrize("problem", INDEFINITE, ids=repr)
def test_cg_on_an_indefinite_matrix_is_never_wrong(problem: Problem) -> None:
    solution = compiled("cg", "float64")(problem.A, problem.b, 1e-5)
    status, d = Status(int(solution.status)), solution.direction
    if status.success:
        assert np.linalg.norm(problem.b - problem.A @ solution.x) <= 1.01e-5 * np.linalg.norm(
            problem.b
        )
    else:
        assert status is Status.NEGATIVE_CURVATURE
        curvature = d @ problem.A @ d / (d @ d)
        assert curvature <= 1e-14 * np.linalg.norm(problem.A, 2)
        np.testing.assert_allclose(
            solution.curvature, curvature, rtol=1e-6, atol=1e-13 * np.linalg.norm(problem.A, 2)
        )


@pytest.mark.parametrize("variant", ["plain", "jacobi", "warm"])
@pytest.mark.parametrize(
    "problem, dtype",
    [c for c in CASES if c.values[0].semidefinite and not c.values[0].consistent],
)
def test_cg_detects_an_inconsistent_singular_system(
    problem: Problem, dtype: str, variant: str
) -> None:
    """The result is a least-squares solution, the shortest without start or preconditioner."""
    A, b, d = problem.A, problem.b, np.diag(problem.A)
    start = np.random.default_rng(1).standard_normal(len(b))
    solution = compiled("cg", dtype, variant)(A, b, 1e-5, d=np.where(d > 0, d, 1), x0=start)
    status, size, eps = Status(int(solution.status)), np.linalg.norm(A, 2), np.finfo(dtype).eps
    if status is Status.NEGATIVE_CURVATURE:
        assert abs(solution.curvature) <= 2 * eps * size
        direction = solution.direction / np.linalg.norm(solution.direction)
        assert np.linalg.norm(A @ direction) <= 10 * np.sqrt(eps) * size
    else:
        # Rounding errors may keep a preconditioned solve from the null vector; x is of least
        # residual all the same.
        assert (
            status is Status.MAX_ITERATIONS
            and variant == "jacobi"
            and "condition 1e4" in problem.name
        )

    x, best = solution.x.astype(float), shortest(A, b)
    residual, least = (np.linalg.norm(b - A @ y) for y in (x, best))
    np.testing.assert_allclose(solution.residual_norm, residual, rtol=1e-4)
    assert residual <= 1.4 * least  # a preconditioner measures in its own norm
    if variant == "plain":
        assert residual <= (1 + 1e-6 if dtype == "float64" else 1.2) * least
        assert np.linalg.norm(x) <= 1.01 * max(np.linalg.norm(best), 1e-3)
        if dtype == "float64":
            np.testing.assert_allclose(x, best, atol=1e-4 * max(np.linalg.norm(best), 1e-3))


@pytest.mark.parametrize("name", list(ROWS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "problem", [p for p in TABLE if p.definite and not p.slow and p.single], ids=repr
)
def test_jacobi_preconditioner(name: str, dtype: str, problem: Problem) -> None:
    rtol = default_rtol(name, dtype)
    A, b = problem.A.astype(dtype), problem.b.astype(dtype)
    solution = compiled(name, dtype, "jacobi")(
        A, b, rtol, d=np.diag(A), **({} if name == "cg" else {"transition_condition": 1e3})
    )
    assert Status(int(solution.status)).success
    # MINRES-QLP tests in the norm of the preconditioner, which differs by the root of its
    # condition.
    d = np.diag(problem.A)
    assert residual_is_small(problem, solution, rtol * np.sqrt(d.max() / d.min()), dtype)


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=slow)])
@pytest.mark.parametrize("shift", [-3.3, 0.7])
@pytest.mark.parametrize(
    "problem", [p for p in TABLE if p.single and np.linalg.norm(p.A, 2) < 1e3], ids=repr
)
def test_shifts_of_both_signs(dtype: str, shift: float, problem: Problem) -> None:
    shifted = problem.A + shift * np.eye(len(problem.b))
    values = np.abs(np.linalg.eigvalsh(shifted))
    rtol = default_rtol("minres-qlp", dtype)
    solution = compiled("minres-qlp", dtype)(
        problem.A, problem.b, rtol, damping=shift, transition_condition=transition(dtype, None)
    )
    status = Status(int(solution.status))
    assert status.success
    if values.min() > 1e-3 * values.max():
        moved = Problem(problem.name, shifted, problem.b)
        assert status in (Status.CONVERGED, Status.CONVERGED_TO_PRECISION)
        assert residual_is_small(moved, solution, rtol, dtype)


@pytest.mark.parametrize("name", list(ROWS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_warm_start(name: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    problem = next(p for p in TABLE if p.name == "second difference")
    A, b = problem.A, problem.b
    run, extra = (
        compiled(name, dtype, "warm"),
        {} if name == "cg" else {"transition_condition": 1e7},
    )
    rtol = 1e-5
    exact = np.linalg.solve(A, b)
    cold = compiled(name, dtype)(A, b, rtol, **extra)

    done = run(A, b, rtol, x0=cold.x, **extra)
    assert Status(int(done.status)) is Status.CONVERGED or name == "minres-qlp"
    if name == "cg":
        assert done.niter == 0
        np.testing.assert_array_equal(done.x, cold.x)
    near = run(A, b, rtol, x0=exact * (1 + 1e-3 * rng.standard_normal(50)), **extra)
    far = run(A, b, rtol, x0=1e2 * rng.standard_normal(50), **extra)
    zero = run(A, b, rtol, x0=np.zeros(50), **extra)
    for solution in (near, far, zero):
        assert Status(int(solution.status)).success
        assert residual_is_small(problem, solution, rtol, dtype)
    assert near.niter <= cold.niter and abs(int(zero.niter) - int(cold.niter)) <= 1

    nothing = run(A, np.zeros(50), rtol, x0=rng.standard_normal(50), **extra)
    assert Status(int(nothing.status)) is Status.ZERO_RHS and nothing.niter == 0
    np.testing.assert_array_equal(nothing.x, np.zeros(50))
    assert nothing.residual_norm == 0


@pytest.mark.parametrize("name", list(ROWS))
def test_exact_start_takes_no_iteration(name: str) -> None:
    A, x = np.diag([1.0, 2.0, 4.0]), np.array([1.0, -1.0, 2.0])
    solution = compiled(name, "float64", "warm")(
        A, A @ x, 1e-8, x0=x, **({} if name == "cg" else {"transition_condition": 1})
    )
    assert Status(int(solution.status)) is Status.CONVERGED and solution.niter == 0
    np.testing.assert_array_equal(solution.x, x)


SCALED = ["second difference", "condition 1e4", "diagonal 1..n", "eigenvector", "one unknown"]
SCALED += [
    "saddle point",
    "singular spectrum, consistent",
    "rank one, inconsistent",
    "singular indefinite, inconsistent",
    "zero matrix",
]


@pytest.mark.parametrize(
    "s, t",
    [
        pytest.param(s, t, marks=[] if s * t in (1e-10 * 1e10, 3e-4 * 7.0) else slow)
        for s in (1e-10, 3e-4, 1e10)
        for t in (1e-10, 7.0, 1e10)
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(ROWS))
@pytest.mark.parametrize("which", SCALED)
def test_scaling_changes_nothing(which: str, name: str, dtype: str, s: float, t: float) -> None:
    problem = next(p for p in TABLE if p.name == which)
    run, extra = compiled(name, dtype), {} if name == "cg" else {"transition_condition": 1e3}
    # Powers of two: the scaled problem then differs from the other by nothing but the exponents.
    s, t = 2.0 ** np.round(np.log2(s)), 2.0 ** np.round(np.log2(t))
    A, b = problem.A.astype(dtype), problem.b.astype(dtype)
    rtol = default_rtol(name, dtype)
    plain, scaled = (
        run(A, b, rtol, **extra),
        run(A * dtype_of(s, dtype), b * dtype_of(t, dtype), rtol, **extra),
    )
    assert scaled.status == plain.status and scaled.niter == plain.niter
    np.testing.assert_allclose(
        scaled.x * (s / t), plain.x, rtol=1e-4, atol=1e-4 * np.abs(plain.x).max()
    )


def dtype_of(value: float, dtype: str) -> Any:
    return np.asarray(value, dtype=dtype)
