"""What solvers say of systems without a solution, and how they take settings and starts."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

from symng.backends import UNOPTIMIZED
from symng.solvers import CG, MinresQLP, Solution, Status

SOLVERS = [CG, MinresQLP]
# Many small functions, each run a few times: compiling C for them would take minutes.
MODE = UNOPTIMIZED  # most functions run a few times only
pytestmark = pytest.mark.filterwarnings("ignore:Loop fusion failed")


@pytest.fixture(autouse=True, scope="module")
def no_c_compiler() -> Any:
    with pytensor.config.change_flags(cxx=""):
        yield


@cache
def function(
    kind: Any,
    options: tuple[str, ...],
    flags: tuple[tuple[str, bool], ...],
    x0: bool,
    preconditioner: bool,
) -> Any:
    """Compile a float64 solver as a function of A, b, x0, M⁻¹ and its numeric settings."""
    A, b, start, M = pt.dmatrix("A"), pt.dvector("b"), pt.dvector("x0"), pt.dmatrix("M")
    numbers = {
        name: pt.lscalar(name) if name == "maxiter" else pt.dscalar(name) for name in options
    }
    solution = kind(**numbers, **dict(flags)).solve(
        lambda v: A @ v,
        b,
        x0=start if x0 else None,
        preconditioner=(lambda v: M @ v) if preconditioner else None,
    )
    fields = {key: value for key, value in vars(solution).items() if value is not None}
    inputs = [A, b, start, M, *numbers.values()]
    return fields, pytensor.function(
        inputs, list(fields.values()), mode=MODE, on_unused_input="ignore"
    )


def compiled(solver: Any, x0: bool = False, preconditioner: bool = False) -> Any:
    """Return a solver as a function of arrays.

    Its numbers become inputs, so that few functions are compiled.
    """
    given = {field.name: getattr(solver, field.name) for field in dataclasses.fields(solver)}
    flags = {name: value for name, value in given.items() if isinstance(value, bool)}
    given = {name: value for name, value in given.items() if name not in flags}
    optional = {
        name: value
        for name, value in given.items()
        if value is not None or name in ("rtol", "maxiter")
    }
    fields, f = function(type(solver), tuple(optional), tuple(flags.items()), x0, preconditioner)

    def run(A: Any, b: Any, x0: Any = None, M: Any = None) -> Any:
        n = len(b)
        defaults = {"rtol": 1e-8, "maxiter": 10 * n}
        numbers = [defaults[name] if value is None else value for name, value in optional.items()]
        arrays = [
            np.asarray(A, float),
            np.asarray(b, float),
            np.zeros(n) if x0 is None else x0,
            np.eye(n) if M is None else M,
        ]
        return Solution(**dict(zip(fields, f(*arrays, *numbers), strict=True)))

    return run


def status_of(solution: Any) -> Status:
    return Status(int(solution.status))


GOOD = np.diag([1.0, 2.0, 3.0, 4.0])
B = np.array([1.0, -1.0, 2.0, 0.5])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "solver",
    [
        CG(),
        MinresQLP(),
        CG(recompute=False),
        MinresQLP(recompute=False),
        CG(check=True),
        MinresQLP(check=True),
    ],
    ids=repr,
)
def test_not_finite_is_reported(solver: Any, bad: float) -> None:
    for where in range(4):
        A, b = GOOD.copy(), B.copy()
        A[where, where] = bad
        solution = compiled(solver)(A, B)
        assert status_of(solution) is Status.NOT_FINITE
        np.testing.assert_array_equal(solution.x, np.zeros(4))
        b[where] = bad
        solution = compiled(solver)(GOOD, b)
        assert status_of(solution) is Status.NOT_FINITE and solution.niter == 0
        np.testing.assert_array_equal(solution.x, np.zeros(4))


@pytest.mark.parametrize("solver", [CG(), MinresQLP()], ids=repr)
def test_not_finite_on_a_warm_start(solver: Any) -> None:
    start, A = np.array([1.0, 2.0, 3.0, 4.0]), GOOD.copy()
    A[1, 1] = np.nan
    solution = compiled(solver, x0=True)(A, B, x0=start)
    assert status_of(solution) is Status.NOT_FINITE
    np.testing.assert_allclose(solution.x, start, rtol=1e-15)
    start[2] = np.inf
    solution = compiled(solver, x0=True)(GOOD, B, x0=start)
    assert status_of(solution) is Status.NOT_FINITE and np.isfinite(solution.x).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_not_finite_in_the_middle_keeps_the_last_iterate(solver: Any) -> None:
    """A product that overflows in the third iteration: x is that of two iterations."""
    A, count = pt.constant(np.diag(np.arange(1.0, 9.0))), pt.dscalar("bound")
    b = pt.constant(np.ones(8))
    weight = pt.constant(np.arange(8.0))

    def product(v: Any) -> Any:
        # Finite on the first two Krylov vectors only: a cubic signature of the third.
        third = pt.sign(v[1:] * v[:-1]).sum()
        return A @ v + pt.switch(third < count, np.nan, 0.0) * weight

    solution = solver(rtol=1e-12).solve(product, b)
    f = pytensor.function([count], [solution.x, solution.status, solution.niter], mode=MODE)
    x, status, niter = f(-np.inf)
    assert Status(int(status)) is Status.CONVERGED
    x, status, niter = f(6.0)
    assert Status(int(status)) is Status.NOT_FINITE and niter > 1
    two = solver(rtol=1e-12, maxiter=int(niter) - 1).solve(lambda v: A @ v, b)
    np.testing.assert_allclose(x, two.x.eval(mode=MODE), rtol=1e-10)


@pytest.mark.parametrize("kind", SOLVERS)
def test_check_finds_a_matrix_that_is_not_symmetric(kind: Any) -> None:
    rng = np.random.default_rng(0)
    A = np.eye(6) + 0.1 * rng.standard_normal((6, 6))
    b = rng.standard_normal(6)
    checked = compiled(kind(check=True))(A, b)
    assert status_of(checked) is Status.NOT_SYMMETRIC and checked.niter == 0
    unchecked = compiled(kind())(A, b)
    if status_of(unchecked).success:
        assert np.linalg.norm(b - A @ unchecked.x) <= 1e-4 * np.linalg.norm(b)
    symmetric = A + A.T
    assert status_of(compiled(kind(check=True))(symmetric, b)).success


@pytest.mark.parametrize("kind", SOLVERS)
def test_a_skew_matrix_never_converges(kind: Any) -> None:
    A = np.array([[0.0, 1, 2], [-1, 0, 3], [-2, -3, 0]])
    assert not status_of(compiled(kind())(A, np.array([1.0, 2, 3]))).success


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("kind", SOLVERS)
def test_indefinite_preconditioner(kind: Any, check: bool) -> None:
    for M in (
        -np.eye(4),
        np.diag([1.0, 1.0, -5.0, 1.0]),
        np.diag([1.0, -1.0, 1.0, -1.0]),
        np.zeros((4, 4)),
    ):
        solution = compiled(kind(check=check), preconditioner=True)(GOOD, B, M=M)
        assert status_of(solution) is Status.BAD_PRECONDITIONER
        assert np.isfinite(solution.x).all()
    if check:
        solution = compiled(kind(check=True), preconditioner=True)(
            GOOD, B, M=np.eye(4) + np.eye(4, k=1)
        )
        assert status_of(solution) is Status.BAD_PRECONDITIONER
    assert status_of(
        compiled(kind(check=check), preconditioner=True)(GOOD, B, M=np.linalg.inv(GOOD))
    ).success


@pytest.mark.parametrize(
    "solver",
    [
        CG(),
        MinresQLP(),
        CG(recompute=False),
        MinresQLP(recompute=False),
        CG(maxiter=0),
        MinresQLP(maxiter=0),
    ],
    ids=repr,
)
def test_zero_right_hand_side(solver: Any) -> None:
    for A in (GOOD, np.zeros((4, 4)), -GOOD):
        solution = compiled(solver)(A, np.zeros(4))
        assert (
            status_of(solution) is Status.ZERO_RHS
            and solution.niter == 0
            and solution.residual_norm == 0
        )
        np.testing.assert_array_equal(solution.x, np.zeros(4))


@pytest.mark.parametrize(
    "solver",
    [CG(), MinresQLP(), CG(rtol=1e-14), MinresQLP(rtol=1e-14), MinresQLP(transition_condition=1)],
    ids=repr,
)
def test_an_eigenvector_takes_one_iteration(solver: Any) -> None:
    for i in range(4):
        solution = compiled(solver)(GOOD, 3 * np.eye(4)[i])
        assert status_of(solution) is Status.CONVERGED and solution.niter == 1
        np.testing.assert_allclose(solution.x, 3 * np.eye(4)[i] / (i + 1), rtol=1e-14)


@pytest.mark.parametrize("kind", SOLVERS)
def test_iteration_limit(kind: Any) -> None:
    A, b = np.diag(np.arange(1.0, 31)), np.ones(30)
    for limit in (0, 1, 5):
        solution = compiled(kind(maxiter=limit))(A, b)
        assert status_of(solution) is Status.MAX_ITERATIONS and solution.niter == limit
        np.testing.assert_allclose(
            solution.residual_norm, np.linalg.norm(b - A @ solution.x), rtol=1e-12
        )
        solution = compiled(kind(maxiter=limit), x0=True)(A, b, x0=np.full(30, 0.1))
        assert status_of(solution) is Status.MAX_ITERATIONS and solution.niter == limit
        np.testing.assert_allclose(
            solution.residual_norm, np.linalg.norm(b - A @ solution.x), rtol=1e-12
        )


@pytest.mark.parametrize("kind", SOLVERS)
def test_the_residual_test_outranks_the_iteration_limit(kind: Any) -> None:
    needed = int(compiled(kind())(GOOD, B).niter)
    solution = compiled(kind(maxiter=needed))(GOOD, B)
    assert status_of(solution) is Status.CONVERGED and solution.niter == needed


def test_the_residual_test_outranks_least_squares_and_both_outrank_the_limits() -> None:
    # A zero eigenvalue that b does not see: the residual test and, at a null residual, the other
    # one hold together.
    singular = np.diag([1.0, 2.0, 0.0, 3.0])
    limits = {"condition_limit": 1.5, "max_norm": 1e3, "maxiter": 3}
    assert (
        status_of(
            compiled(MinresQLP(**limits, recompute=False))(singular, np.array([1.0, 0, 0, 0]))
        )
        is Status.CONVERGED
    )
    inconsistent = compiled(MinresQLP(maxiter=2))(singular, np.array([1.0, 0, 1, 0]))
    assert status_of(inconsistent) is Status.LEAST_SQUARES and inconsistent.niter == 2
    np.testing.assert_allclose(inconsistent.x, [1, 0, 0, 0], atol=1e-14)


def test_norm_limit_hands_back_the_iterate_below() -> None:
    A, b = np.diag(np.logspace(-5, 0, 20)), np.ones(20)
    free, bound = compiled(MinresQLP())(A, b), compiled(MinresQLP(max_norm=100.0))(A, b)
    assert status_of(free).success and free.x_norm > 1e5
    assert bound.niter < free.niter
    assert status_of(bound) is Status.NORM_LIMIT and 0 < bound.x_norm <= 100
    np.testing.assert_allclose(bound.residual_norm, np.linalg.norm(b - A @ bound.x), rtol=1e-12)


def test_condition_limit() -> None:
    A, b = np.diag(np.r_[1e-6, np.arange(1.0, 10)]), np.ones(10)
    bound = compiled(MinresQLP(condition_limit=1e3))(A, b)
    assert status_of(bound) is Status.CONDITION_LIMIT
    # The component of the pivot that is too small is left out.
    np.testing.assert_allclose(bound.x[1:], 1 / np.arange(1.0, 10), rtol=1e-2)
    assert bound.x_norm < 1e3


def test_negative_curvature_is_handed_back() -> None:
    A = np.diag([3.0, 2.0, -1.0])
    solution = compiled(CG())(A, np.array([1.0, 1.0, 0.1]))
    d = solution.direction
    assert status_of(solution) is Status.NEGATIVE_CURVATURE and 1 < solution.niter <= 3
    np.testing.assert_allclose(solution.curvature, d @ A @ d / (d @ d), rtol=1e-12)
    assert solution.curvature < 0
    before = compiled(CG(maxiter=int(solution.niter) - 1))(A, np.array([1.0, 1.0, 0.1]))
    np.testing.assert_allclose(solution.x, before.x, rtol=1e-12)


@pytest.mark.parametrize("kind", SOLVERS)
def test_without_recompute_one_product_fewer_gives_the_same(kind: Any) -> None:
    sure, quick = compiled(kind())(GOOD, B), compiled(kind(recompute=False))(GOOD, B)
    assert status_of(sure) is status_of(quick) and sure.niter == quick.niter
    np.testing.assert_allclose(sure.x, quick.x, rtol=1e-12)


class Counter(Op):
    """The identity on vectors, which counts how often it is run."""

    __props__ = ()
    count = 0

    def make_node(self, x: Any) -> Any:
        return Apply(self, [x], [x.type()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        type(self).count += 1
        outputs[0][0] = inputs[0].copy()


@pytest.mark.parametrize(
    "recompute, x0, extra",
    [(True, False, 1), (False, False, 0), (True, True, 2), (False, True, 1)],
)
@pytest.mark.parametrize("kind", SOLVERS)
def test_one_product_an_iteration(kind: Any, recompute: bool, x0: bool, extra: int) -> None:
    b, start = pt.dvectors("b", "x0")  # a product with a constant would be made while compiling
    solution = kind(recompute=recompute).solve(
        lambda v: np.arange(1.0, 13.0) * Counter()(v), b, x0=start if x0 else None
    )
    outputs = [solution.niter, solution.status, solution.x]
    f = pytensor.function([b, start], outputs, mode=MODE, on_unused_input="ignore")
    Counter.count = 0
    niter, status, _ = f(np.ones(12), np.full(12, 0.3))
    assert Status(int(status)) is Status.CONVERGED
    assert Counter.count == niter + extra


@pytest.mark.parametrize("kind", SOLVERS)
def test_settings_change_without_a_recompilation(kind: Any) -> None:
    rtol, maxiter, damping = (pytensor.shared(np.asarray(value)) for value in (1e-2, 100, 0.0))
    A, b = np.diag(np.arange(1.0, 41)), np.ones(40)
    solution = kind(rtol=rtol, maxiter=maxiter).solve(
        lambda v: pt.constant(A) @ v, pt.constant(b), damping=damping
    )
    f = pytensor.function([], [solution.x, solution.niter, solution.status], mode=MODE)
    rough = f()
    rtol.set_value(np.asarray(1e-12))
    fine = f()
    assert fine[1] > rough[1]
    np.testing.assert_allclose(fine[0], 1 / np.arange(1.0, 41), rtol=1e-6)
    damping.set_value(np.asarray(5.0))
    np.testing.assert_allclose(f()[0], 1 / (5 + np.arange(1.0, 41)), rtol=1e-6)
    maxiter.set_value(np.asarray(3))
    assert f()[1] == 3 and Status(int(f()[2])) is Status.MAX_ITERATIONS


def test_more_settings_of_minres_qlp_may_be_symbolic() -> None:
    values = {"max_norm": 1e9, "condition_limit": 1e12, "transition_condition": 1e3, "atol": 0.0}
    shared = {key: pytensor.shared(np.asarray(value)) for key, value in values.items()}
    A, b = np.diag(np.logspace(-5, 0, 20)), np.ones(20)
    solution = MinresQLP(**shared).solve(lambda v: pt.constant(A) @ v, pt.constant(b))
    f = pytensor.function([], solution.status, mode=MODE)
    assert Status(int(f())) is Status.CONVERGED
    shared["max_norm"].set_value(np.asarray(10.0))
    assert Status(int(f())) is Status.NORM_LIMIT
    shared["condition_limit"].set_value(np.asarray(10.0))
    shared["max_norm"].set_value(np.asarray(1e9))
    assert Status(int(f())) is Status.CONDITION_LIMIT
    shared["atol"].set_value(np.asarray(100.0))
    assert Status(int(f())) is Status.CONVERGED


@pytest.mark.parametrize("kind", SOLVERS)
def test_absolute_tolerance(kind: Any) -> None:
    solution = compiled(kind(rtol=0.0, atol=0.3))(np.diag(np.arange(1.0, 31)), np.ones(30))
    assert status_of(solution) is Status.CONVERGED and 0.01 < solution.residual_norm <= 0.3


@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_minres_qlp_tests_the_absolute_tolerance_in_the_norm_of_the_preconditioner(
    size: float,
) -> None:
    A, b, atol = np.diag(np.arange(1.0, 31)), np.ones(30), 0.3 / np.sqrt(size)
    solve = compiled(MinresQLP(rtol=0.0, atol=atol), preconditioner=True)
    solution = solve(A, b, M=np.eye(30) / size)
    assert status_of(solution) is Status.CONVERGED
    assert 0.01 < solution.residual_norm <= 0.3 * (1 + 1e-6)


@pytest.mark.parametrize("kind", SOLVERS)
def test_a_tolerance_of_zero_ends_at_the_rounding_errors(kind: Any) -> None:
    solution = compiled(kind(rtol=0.0))(np.diag(np.arange(1.0, 11)) + 0.1, np.arange(1.0, 11))
    assert status_of(solution) in (Status.CONVERGED, Status.CONVERGED_TO_PRECISION)
    assert solution.residual_norm <= 1e-13 and solution.niter < 60


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    rank=st.integers(0, 12),
    low=st.sampled_from([0.1, -1.0]),
)
def test_minres_qlp_gives_the_shortest_solution(n: int, seed: int, rank: int, low: float) -> None:
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = np.where(
        np.arange(n) < rank,
        rng.uniform(0.1, 1.0, n) * np.where(rng.random(n) < 0.5, 1, np.sign(low)),
        0,
    )
    A, b = Q * values @ Q.T, rng.standard_normal(n)
    A = (A + A.T) / 2
    solution = compiled(MinresQLP(rtol=1e-10))(A, b)
    assert status_of(solution).success
    inverse = np.where(values == 0, 0, 1 / np.where(values == 0, 1, values))
    np.testing.assert_allclose(solution.x, Q @ (inverse * (Q.T @ b)), atol=1e-6 * np.linalg.norm(b))


def singular_system(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A, b and the null vectors of A, as columns, for eigenvalues over three decades."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 30))
    rank = int(rng.integers(1, n))
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = 10 ** rng.uniform(-3, 0, rank) * rng.choice([-1, 1], rank)
    A = (Q[:, :rank] * values) @ Q[:, :rank].T
    return (A + A.T) / 2, rng.standard_normal(n), Q[:, rank:]


def test_a_least_squares_verdict_holds_for_the_x_that_is_returned() -> None:
    rtol, found = 1e-5, 0
    for seed in range(30):
        A, b, _ = singular_system(seed)
        solution = compiled(MinresQLP(rtol=rtol))(A, b)
        assert status_of(solution).success
        r = b - A @ solution.x
        size = np.linalg.norm(A, 2) * np.linalg.norm(r)
        np.testing.assert_allclose(solution.residual_norm, np.linalg.norm(r), rtol=1e-6)
        if status_of(solution) is Status.LEAST_SQUARES:
            found += 1
            assert np.linalg.norm(A @ r) <= rtol * size
            np.testing.assert_allclose(
                solution.least_squares_norm, np.linalg.norm(A @ r), rtol=1e-3, atol=1e-13 * size
            )
            best = np.linalg.pinv(A, rcond=1e-8) @ b
            assert np.linalg.norm(solution.x) <= 1.01 * np.linalg.norm(best)
    assert found > 15


@pytest.mark.parametrize("x0", [False, True])
def test_the_shortest_x_for_a_right_hand_side_in_the_null_space(x0: bool) -> None:
    """A b is made of rounding errors alone, which show once other vectors have been multiplied."""
    for seed in range(12):
        A, b, null = singular_system(seed)
        b = null @ (null.T @ b)
        start = null @ np.ones(null.shape[1]) if x0 else None
        solution = compiled(MinresQLP(), x0=x0)(A, b, x0=start)
        assert status_of(solution) is Status.LEAST_SQUARES and solution.niter <= 3
        np.testing.assert_allclose(solution.residual_norm, np.linalg.norm(b), rtol=1e-12)
        if not x0:
            np.testing.assert_array_equal(solution.x, np.zeros(len(b)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_cg_solves_definite_systems(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n))
    A, b = X @ X.T + 0.1 * np.eye(n), rng.standard_normal(n)
    solution = compiled(CG())(A, b)
    assert status_of(solution) is Status.CONVERGED
    assert np.linalg.norm(b - A @ solution.x) <= 1.001e-5 * np.linalg.norm(b)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=st.integers(1, 10), seed=st.integers(0, 10_000))
def test_cg_is_never_wrong(n: int, seed: int) -> None:
    """On any symmetric matrix.

    A success has a small residual, a direction of curvature has that curvature.
    """
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n))
    A, b = X + X.T, rng.standard_normal(n)
    solution = compiled(CG())(A, b)
    if status_of(solution).success:
        assert np.linalg.norm(b - A @ solution.x) <= 1.001e-5 * np.linalg.norm(b)
    else:
        assert status_of(solution) is Status.NEGATIVE_CURVATURE
        d = solution.direction
        assert d @ A @ d <= 1e-14 * np.linalg.norm(A, 2) * (d @ d)


@pytest.mark.parametrize(
    "solver",
    [CG(rtol=1e-10, recompute=False), MinresQLP(rtol=1e-10, recompute=False)],
    ids=["CG", "MinresQLP"],
)
def test_the_residual_norm_is_that_of_x_also_with_a_preconditioner(solver):
    rng = np.random.default_rng(1)
    Q, _ = np.linalg.qr(rng.standard_normal((60, 60)))
    sizes = np.geomspace(1, 1e5, 60)
    A = sizes[:, None] * ((Q * np.geomspace(1, 50, 60)) @ Q.T) * sizes
    M, b, inverse = pt.constant(A), rng.standard_normal(60), pt.constant(1 / np.diag(A))
    solution = solver.solve(lambda v: M @ v, pt.constant(b), preconditioner=lambda v: inverse * v)
    x, found = pytensor.function([], [solution.x, solution.residual_norm], mode="FAST_COMPILE")()
    residual = np.linalg.norm(b - A @ x)
    assert residual / 10 < found < 10 * residual


@pytest.mark.parametrize(
    "kind, dtype, largest, preconditioned",
    [
        (CG, "float32", 28, False),
        (MinresQLP, "float32", 28, False),
        (MinresQLP, "float64", 248, True),
        pytest.param(CG, "float32", 28, True, marks=pytest.mark.slow),
        pytest.param(CG, "float64", 248, False, marks=pytest.mark.slow),
        pytest.param(CG, "float64", 248, True, marks=pytest.mark.slow),
        pytest.param(MinresQLP, "float32", 28, True, marks=pytest.mark.slow),
        pytest.param(MinresQLP, "float64", 248, False, marks=pytest.mark.slow),
    ],
)
def test_the_answer_does_not_depend_on_the_scale_of_the_matrix(
    kind: Any, dtype: str, largest: int, preconditioned: bool
) -> None:
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    A, b, inverse = pt.matrix("A", dtype=dtype), pt.vector("b", dtype=dtype), pt.scalar(dtype=dtype)
    solution = kind().solve(
        lambda v: A @ v, b, preconditioner=(lambda v: inverse * v) if preconditioned else None
    )
    found = [solution.x, solution.status, solution.norm_estimate, solution.x_norm]
    f = pytensor.function([A, b, inverse], found, mode=MODE, on_unused_input="ignore")
    positive = np.geomspace(1, 50, 8)
    for eigenvalues in (positive, positive * np.tile([1, -1], 4)):
        M = ((Q * eigenvalues) @ Q.T).astype(dtype)
        rhs = (M @ rng.standard_normal(8)).astype(dtype)
        x, status, norm, x_norm = f(M, rhs, np.ones((), dtype))
        assert status in (Status.CONVERGED, Status.NEGATIVE_CURVATURE)
        for power in np.linspace(-largest, largest, 13).round():
            scale = 16.0**power  # its root is exact, too, so that rounding errors are the same
            scaled = f((scale * M).astype(dtype), rhs, np.asarray(1 / scale, dtype))
            assert scaled[1] == status, power
            atol = 1e-5 * np.abs(x).max()
            np.testing.assert_allclose(scaled[0].astype(float) * scale, x, rtol=1e-4, atol=atol)
            np.testing.assert_allclose(float(scaled[3]) * scale, x_norm, rtol=1e-5)
            if kind is MinresQLP and not preconditioned:
                np.testing.assert_allclose(float(scaled[2]) / scale, norm, rtol=1e-5)


def test_the_scale_of_the_matrix_holds_for_a_first_iterate_and_a_bound_on_the_norm() -> None:
    A, b, x0 = np.diag([1.0, -2.0, 3.0]), np.ones(3), np.array([1.0, 2.0, 3.0])
    for power in (-660, 0, 660):
        scale = 2.0**power
        warm = compiled(MinresQLP(), x0=True)(scale * A, b, x0=x0 / scale)
        np.testing.assert_allclose(warm.x * scale, 1 / np.diag(A))
        short = compiled(MinresQLP(max_norm=0.5 / scale))(scale * A, b)
        assert short.status == Status.NORM_LIMIT
        assert short.x_norm * scale <= 0.5


@pytest.mark.parametrize("kind", SOLVERS)
def test_a_solution_too_large_for_the_dtype_is_no_success(kind: Any) -> None:
    solution = compiled(kind())(1e-200 * GOOD, 1e200 * B)
    assert status_of(solution) is Status.NOT_FINITE
