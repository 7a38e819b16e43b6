"""What CG alone does.

Lost iterates are not handed back, a solve may end by its progress, and iterates are kept.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.linear_problems import cg_iterates, shortest, spectrum, tridiagonal

from symng.solvers import CG, Solution, Status, _martens
from symng.solvers._martens import kept_numbers

MODE = "FAST_COMPILE"


@cache
def progressing(dtype: str, recompute: bool = True) -> Any:
    """Return a solver that ends by progress as a function of its settings.

    They are shared variables, set anew.
    """
    values = {"progress_rtol": 0.0, "rtol": 0.0, "maxiter": 500}
    shared = {name: pytensor.shared(np.asarray(value), name) for name, value in values.items()}
    run = compiled(CG(recompute=recompute, **shared), dtype)

    def choose(progress_rtol: float, rtol: float = 0.0, maxiter: int = 500) -> Any:
        for variable, value in zip(shared.values(), (progress_rtol, rtol, maxiter), strict=True):
            variable.set_value(np.asarray(value))
        return run

    return choose


@cache
def compiled(solver: Any, dtype: str, n: int | None = None) -> Any:
    """Compile a solver as a function of A, b, x0 and a diagonal preconditioner."""
    A, b = pt.matrix("A", dtype=dtype), pt.tensor("b", dtype=dtype, shape=(n,))
    x0, inverse = pt.vector("x0", dtype=dtype), pt.vector("inverse", dtype=dtype)
    solution = solver.solve(lambda v: A @ v, b, x0=x0, preconditioner=lambda r: inverse * r)
    fields = {key: value for key, value in vars(solution).items() if value is not None}
    f = pytensor.function([A, b, x0, inverse], list(fields.values()), mode=MODE)

    def run(A: Any, b: Any, x0: Any = None, inverse: Any = None) -> Solution:
        vectors = [
            b,
            np.zeros(len(b)) if x0 is None else x0,
            np.ones(len(b)) if inverse is None else inverse,
        ]
        values = f(*(np.asarray(value, dtype=dtype) for value in [A, *vectors]))
        return Solution(**dict(zip(fields, values, strict=True)))

    return run


def distance(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def status_of(solution: Solution) -> Status:
    return Status(int(solution.status))


# --- b outside the range


def singular(shape: str, n: int, rng: Any) -> np.ndarray:
    """Return a random positive semidefinite matrix."""
    if shape == "rank 3":
        X = rng.standard_normal((n, 3))
        return X @ X.T / n
    if shape == "half rank":
        X = rng.standard_normal((n, n // 2))
        return X @ X.T / n
    zeros = np.zeros(1 if shape == "one zero" else n // 4)
    rest = {
        "uniform": rng.uniform(0.1, 1, n - len(zeros)),
        "one zero": np.linspace(1, 10, n - len(zeros)),
        "condition 1e4": np.logspace(-4, 0, n - len(zeros)),
        "condition 1e8": np.logspace(-8, 0, n - len(zeros)),
    }[shape]
    return spectrum(np.r_[zeros, rest], int(rng.integers(1000)))


SHAPES = ["uniform", "one zero", "condition 1e4", "condition 1e8", "half rank", "rank 3"]
# Sizes, whether the residual is recomputed, and whether there is a preconditioner.
VARIANTS = [(20, True, False), (100, False, False), (60, True, True), (35, False, True)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_inconsistent_system_gives_no_huge_solution(shape: str, dtype: str) -> None:
    for seed, (n, recompute, preconditioned) in enumerate(VARIANTS):
        if n > 60 and shape.startswith("condition"):
            n = 40  # for it takes 10 n iterations
        rng = np.random.default_rng(seed)
        A, b = singular(shape, n, rng), rng.standard_normal(n)
        inverse = 10 ** rng.uniform(-0.5, 0.5, n) if preconditioned else None
        solution = compiled(CG(recompute=recompute), dtype)(A, b, inverse=inverse)
        if status_of(solution) is Status.CONVERGED and shape == "one zero":
            # What rounding makes of a single zero may be positive enough for a solution, so long
            # that digits of A x go.
            x = solution.x.astype(float)
            lost = 20 * np.finfo(dtype).eps * np.linalg.norm(A, 2) * np.linalg.norm(x)
            assert np.linalg.norm(b - A @ x) <= 1.01e-5 * np.linalg.norm(b) + lost
            continue
        # With a condition of 1e8, ten times n iterations do not always tell zero from the small
        # eigenvalues.
        assert status_of(solution) in (Status.NEGATIVE_CURVATURE, Status.MAX_ITERATIONS)
        assert status_of(solution) is Status.NEGATIVE_CURVATURE or shape.startswith("condition")
        x = solution.x.astype(float)
        residual = np.linalg.norm(b - A @ x)
        assert np.linalg.norm(x) <= 10 * max(
            np.linalg.norm(shortest(A, b, 1e-10)), 1 / np.linalg.norm(A, 2)
        )
        assert residual <= (1.3 if preconditioned else 1.0) * np.linalg.norm(b)
        np.testing.assert_allclose(solution.residual_norm, residual, rtol=1e-3)
        np.testing.assert_allclose(solution.x_norm, np.linalg.norm(x), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_limit_that_cuts_a_solve_short_leaves_the_last_iterate(dtype: str) -> None:
    """Also where its residual is above that of the start, for the quadratic is what counts."""
    A, b = np.diag(np.logspace(0, 4, 40)), np.logspace(0, -2, 40)
    iterates = cg_iterates(A, b, 8)
    for limit in (1, 8):
        assert np.linalg.norm(b - A @ iterates[limit]) > 4 * np.linalg.norm(b)
        solution = compiled(CG(maxiter=limit), dtype)(A, b)
        assert status_of(solution) is Status.MAX_ITERATIONS and solution.niter == limit
        assert distance(solution.x, iterates[limit]) <= (1e-8 if dtype == "float64" else 1e-2)


def test_zero_curvature_of_an_indefinite_matrix_leaves_the_iterate_before_it() -> None:
    """Curvatures of both signs in balance.

    The direction is no null vector, and the system has a solution.
    """
    A, b = np.diag([3.0, 1.0, -1.0]), np.array([0.0, 1.0, 1.0])
    A[0, 1] = A[1, 0] = 1
    solution = compiled(CG(), "float64")(A, b)
    assert status_of(solution) is Status.NEGATIVE_CURVATURE and abs(solution.curvature) <= 1e-15
    np.testing.assert_array_equal(solution.x, np.zeros(3))
    x0 = np.array([1.0, 0.5, 0.25])
    start = compiled(CG(), "float64")(A, b + A @ x0, x0=x0)
    assert status_of(start) is Status.NEGATIVE_CURVATURE and abs(start.curvature) <= 1e-15
    np.testing.assert_allclose(start.x, x0, rtol=1e-14)


# --- the end by small progress


def slow_problem(n: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Return a system that takes CG n iterations, most of them useless, without rounding."""
    return tridiagonal(n, -1.0, 2.0), np.random.default_rng(2).standard_normal(n)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("variant", ["plain", "start", "preconditioner"])
def test_small_progress(dtype: str, variant: str) -> None:
    A, b = slow_problem()
    start = (
        np.random.default_rng(4).standard_normal(len(b)) if variant == "start" else np.zeros(len(b))
    )
    # D A D y = D b with the preconditioner D^2 is A x = b in disguise, x = D y.
    d = np.linspace(1, 3, len(b)) if variant == "preconditioner" else np.ones(len(b))
    ended, scale = [], 2.0**40
    for tolerance in (5e-2, 2e-4):
        iterates = cg_iterates(A, b, 500, progress_rtol=tolerance, x0=start)
        run = progressing(dtype)(tolerance)
        solution = run(d[:, None] * A * d, scale * d * b, scale * start / d, 1 / d**2)
        assert status_of(solution) is Status.SMALL_PROGRESS and status_of(solution).success
        assert solution.niter == len(iterates) - 1
        assert distance(d * solution.x / scale, iterates[-1]) <= (
            1e-8 if dtype == "float64" else 1e-3
        )
        residual = np.linalg.norm(d * (scale * b - A @ (d * solution.x)))
        np.testing.assert_allclose(solution.residual_norm, residual, rtol=1e-3)
        ended.append(int(solution.niter))
    assert 10 < ended[0] < ended[1] and ended[1] > 110  # so that k was also more than 10


def test_progress_is_looked_back_on_over_a_limited_history(monkeypatch: Any) -> None:
    monkeypatch.setattr(_martens, "HISTORY", 12)
    A, b = slow_problem()
    short, full = (
        cg_iterates(A, b, 500, progress_rtol=5e-5, history=length) for length in (12, 128)
    )
    assert 121 < len(short) < len(full)
    solution = CG(rtol=0.0, progress_rtol=5e-5).solve(lambda v: pt.constant(A) @ v, pt.constant(b))
    niter, status = pytensor.function([], [solution.niter, solution.status], mode=MODE)()
    assert niter == len(short) - 1 and Status(int(status)) is Status.SMALL_PROGRESS


def test_small_progress_among_the_verdicts() -> None:
    A, b = slow_problem()
    n = len(cg_iterates(A, b, 500, progress_rtol=5e-4)) - 1
    run = progressing("float64", recompute=False)
    bound = run(5e-4, maxiter=n)(A, b)
    assert status_of(bound) is Status.SMALL_PROGRESS and bound.niter == n
    residual = np.linalg.norm(b - A @ bound.x)
    np.testing.assert_allclose(bound.residual_norm, residual, rtol=1e-10)
    earlier = run(5e-4, maxiter=n - 1)(A, b)
    assert status_of(earlier) is Status.MAX_ITERATIONS and earlier.niter == n - 1
    assert status_of(run(5e-4, rtol=1.001 * residual / np.linalg.norm(b))(A, b)) is Status.CONVERGED
    assert status_of(run(0.0, maxiter=120)(A, b)) is Status.MAX_ITERATIONS
    # Two eigenvalues: done before there is anything to look back on.
    done = run(0.9, rtol=1e-5)(np.diag([1.0, 2.0]), np.ones(2))
    assert status_of(done) is Status.CONVERGED and done.niter == 2


# --- kept iterates


def numbers(growth: float, limit: int) -> list[int]:
    """Return the numbers of the iterates to keep, by trying all of them."""
    powers = {math.ceil(growth**j - 1e-9) for j in range(600) if growth**j < limit + 1}
    return sorted({i for i in powers if i < limit} | {limit})


@pytest.mark.parametrize("growth", [1.01, 1.3, 1.5, 2, 3.0])
def test_which_iterates_are_kept(growth: float) -> None:
    for limit in (0, 1, 2, 8, 9, 100):
        assert kept_numbers(growth, limit) == numbers(growth, limit)
    assert kept_numbers(1 + 1e-9, 5) == [1, 2, 3, 4, 5]


@cache
def keeping(dtype: str, limit: int) -> Any:
    """Return a solver that keeps iterates as a function of its tolerance."""
    rtol = pytensor.shared(np.asarray(0.0))
    run = compiled(CG(rtol=rtol, maxiter=limit, keep_iterates=1.3), dtype, 30)

    def choose(value: float) -> Any:
        rtol.set_value(np.asarray(value))
        return run

    return choose


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("rtol, limit", [(1e-5, 20), (1e-2, 20), (0.0, 20), (0.0, 18), (0.0, 1)])
def test_kept_iterates(rtol: float, limit: int, start: bool, dtype: str) -> None:
    A, b = np.diag(np.linspace(1, 10, 30)), 2.0**30 * np.random.default_rng(5).standard_normal(30)
    x0 = b / 7 if start else None
    solution = keeping(dtype, limit)(rtol)(A, b, x0)
    iterates = cg_iterates(A, b, limit, rtol=rtol, x0=x0)
    made = len(iterates) - 1
    assert solution.niter == made
    kept = [i for i in numbers(1.3, limit) if i < made] + [made]
    assert solution.iterates_count == len(kept)
    assert (
        solution.iterates.shape == (len(numbers(1.3, limit)), 30)
        and solution.iterates.dtype == dtype
    )
    expected = np.array([iterates[i] for i in kept]) / 2.0**30
    tolerance = 1e-9 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(solution.iterates[: len(kept)] / 2.0**30, expected, atol=tolerance)
    np.testing.assert_array_equal(solution.iterates[len(kept) - 1], solution.x)
    assert not solution.iterates[len(kept) :].any()


def test_the_last_row_is_the_solution_whatever_the_verdict() -> None:
    run, rng = (
        compiled(CG(maxiter=400, keep_iterates=1.3, rtol=1e-10), "float64"),
        np.random.default_rng(6),
    )
    b, definite, x0 = rng.standard_normal(20), np.diag(np.arange(1.0, 21)), rng.standard_normal(20)
    bad = definite.copy()
    bad[3, 3] = np.nan
    cases = [
        (definite, b, None, Status.CONVERGED),
        (definite, 0 * b, x0, Status.ZERO_RHS),
        (definite, definite @ x0, x0, Status.CONVERGED),
        (bad, b, x0, Status.NOT_FINITE),
        (-definite, b, x0, Status.NEGATIVE_CURVATURE),
        (definite - 2.5 * np.eye(20), b, None, Status.NEGATIVE_CURVATURE),
        (singular("uniform", 20, rng), b, None, Status.NEGATIVE_CURVATURE),
        (singular("half rank", 20, rng), b, x0, Status.NEGATIVE_CURVATURE),
    ]
    for A, rhs, start, status in cases:
        solution = run(A, rhs, start)
        count = int(solution.iterates_count)
        assert status_of(solution) is status and 1 <= count <= len(solution.iterates)
        np.testing.assert_array_equal(solution.iterates[count - 1], solution.x)
        assert not solution.iterates[count:].any()


def test_nothing_is_kept_or_looked_back_on_unless_asked_for() -> None:
    solution = CG(maxiter=9).solve(lambda v: v, pt.dvector())
    assert solution.iterates is None and solution.iterates_count is None
    assert CG(keep_iterates=1.3, maxiter=9).solve(
        lambda v: v, pt.dvector()
    ).iterates.type.shape == (7, None)
    assert CG(keep_iterates=1.3, maxiter=9).solve(
        lambda v: v, pt.constant(np.ones(4))
    ).iterates.type.shape == (7, 4)
