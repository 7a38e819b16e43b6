"""The direct solvers, on the metrics that have a factor."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.modes import modes

import symng
from symng import QR, LinearOperator, Status, Woodbury
from symng.operators import Factor
from symng.training.cost import warn_of_cost

MODE = "FAST_COMPILE"
SOLVERS = [Woodbury(), QR()]
METRICS = [symng.Fisher(), symng.EmpiricalFisher(), symng.EmpiricalFisher(centered=True)]


def solve(
    case: Any, metric: Any, b: np.ndarray, damping: float, solver: Any = None, mode: str = MODE
) -> Any:
    """Return the solution with the metric of a case, as numbers."""
    vector, shift = (
        pt.vector("b", dtype=case.objective.dtype),
        pt.scalar("shift", dtype=case.objective.dtype),
    )
    solution = (Woodbury() if solver is None else solver).solve(
        metric(case.objective), vector, damping=shift
    )
    fields = {name: value for name, value in vars(solution).items() if value is not None}
    f = symng.compile_function(
        [*case.givens, vector, shift], list(fields.values()), mode=mode, on_unused_input="ignore"
    )
    dtype = case.objective.dtype
    values = f(*case.givens.values(), b.astype(dtype), np.asarray(damping, dtype=dtype))
    return symng.Solution(**dict(zip(fields, values, strict=True)))


def dense(case: Any, metric: Any) -> np.ndarray:
    """Return the matrix, from Jacobians."""
    if isinstance(metric, symng.Fisher):
        return oracles.fisher(case)
    return oracles.empirical_fisher(case, metric.centered)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
@pytest.mark.parametrize(
    "kind, solver", [*((kind, Woodbury()) for kind in oracles.KINDS), ("categorical", QR())]
)
def test_the_solution_is_that_of_the_dense_system(kind: str, metric: Any, solver: Any) -> None:
    case = oracles.mlp_case(kind)
    matrix, b = dense(case, metric), np.random.default_rng(0).standard_normal(case.size)
    for damping in (10.0, 1e-1, 1e-3):
        solution = solve(case, metric, b, damping, solver)
        expected = np.linalg.solve(matrix + damping * np.eye(case.size), b)
        assert oracles.relative_error(solution.x, expected) < 1e-8
        assert Status(int(solution.status)) is Status.CONVERGED
        r = b - matrix @ solution.x - damping * solution.x
        np.testing.assert_allclose(
            solution.residual_norm, np.linalg.norm(r), atol=1e-8 * np.linalg.norm(b)
        )
        np.testing.assert_allclose(solution.x_norm, np.linalg.norm(solution.x))
    rows = case.examples * (3 if isinstance(metric, symng.Fisher) else 1)
    assert int(solution.niter) == rows


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("mode", modes("CVM", "NUMBA", "JAX"))
def test_backends(mode: str, solver: Any) -> None:
    case = oracles.mlp_case("bernoulli")
    b = np.random.default_rng(0).standard_normal(case.size)
    found = solve(case, symng.Fisher(), b, 0.1, solver, mode)
    expected = solve(case, symng.Fisher(), b, 0.1, solver)
    for name, value in vars(expected).items():
        if value is None:
            continue
        pair = getattr(found, name), value
        np.testing.assert_allclose(*pair, rtol=1e-8, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", oracles.KINDS)
def test_the_root_squared_is_the_metric(kind: str) -> None:
    """R^T R = F, with both products of R, also for an output given as logits."""
    case = oracles.mlp_case(kind, through="r", logits=kind != "gaussian")
    F = symng.Fisher()(case.objective)
    v = pt.vector("v")
    pushed = F.factor.matvec(v)
    f = pytensor.function(
        [*case.givens, v], [F.factor.materialise(v), pushed], mode=MODE, on_unused_input="ignore"
    )
    value = np.random.default_rng(0).standard_normal(case.size)
    rows, along = f(*case.givens.values(), value)
    # Whose standard deviation in the references is that of an output that is no logit.
    if kind != "gaussian":
        assert oracles.relative_error(rows.T @ rows, oracles.fisher(case)) < 1e-10
    np.testing.assert_allclose(rows @ value, along, rtol=1e-10)


@pytest.mark.parametrize(
    "case", [oracles.several_case, oracles.recurrent_case], ids=["outputs", "time steps"]
)
def test_several_outputs_and_time_steps(case: Any) -> None:
    case = case()
    b = np.random.default_rng(0).standard_normal(case.size)
    solution = solve(case, symng.Fisher(), b, 0.1)
    expected = np.linalg.solve(oracles.fisher(case) + 0.1 * np.eye(case.size), b)
    assert oracles.relative_error(solution.x, expected) < 1e-8


def three_steps(solver: Any) -> np.ndarray:
    """Return the parameters after three steps of natural gradient with a solver."""
    case = oracles.mlp_case("categorical")
    optimizer = symng.NaturalGradient(solver=solver, damping=symng.LevenbergMarquardt(initial=1.0))
    result = symng.minimize(
        case.objective,
        optimizer,
        data=tuple(case.givens.values()),
        max_steps=3,
        progress=False,
        mode=MODE,
    )
    assert result.history["accepted"].all()
    return np.concatenate([p.get_value().ravel() for p in case.params])


@pytest.fixture(scope="module")
def converged() -> np.ndarray:
    """The parameters after three steps with CG, in Python."""
    return three_steps(symng.CG(rtol=1e-12, maxiter=300))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_step_is_that_of_a_converged_iteration(solver: Any, converged: np.ndarray) -> None:
    np.testing.assert_allclose(three_steps(solver), converged, rtol=1e-8)


@pytest.mark.parametrize("dtype", [None, "float64"])
@pytest.mark.parametrize("solver", [Woodbury, QR])
def test_float32(solver: Any, dtype: Any) -> None:
    """In float32, and with the factorization in float64, which a small damping needs."""
    case = oracles.mlp_case("bernoulli", dtype="float32")
    b = np.random.default_rng(0).standard_normal(case.size)
    damping = 1e-2 if dtype is None else 1e-6
    solution = solve(case, symng.Fisher(), b, damping, solver(solve_dtype=dtype))
    assert solution.x.dtype == solution.residual_norm.dtype == "float32"
    assert Status(int(solution.status)).success
    v = pt.zeros(case.size, dtype="float32")
    rows = symng.Fisher()(case.objective).factor.materialise(v)
    rows = rows.eval(case.givens, mode=MODE, on_unused_input="ignore").astype("float64")
    matrix = rows.T @ rows + damping * np.eye(case.size)
    expected = np.linalg.solve(matrix, b.astype("float32").astype("float64"))
    assert oracles.relative_error(solution.x, expected) < (1e-4 if dtype is None else 1e-6)


@pytest.mark.parametrize("solver", [Woodbury, QR])
def test_verdicts(solver: Any) -> None:
    case = oracles.mlp_case("gaussian")
    b = np.ones(case.size)
    zero = solve(case, symng.Fisher(), 0 * b, 1.0, solver())
    assert Status(int(zero.status)) is Status.ZERO_RHS and not zero.x.any()
    for damping in (0.0, -1.0):  # five examples of three outputs for 31 parameters
        refused = solve(case, symng.Fisher(), b, damping, solver())
        assert Status(int(refused.status)) is Status.BREAKDOWN and not refused.x.any()
    for wrong, damping in ((np.where(np.arange(case.size) == 1, np.nan, b), 1.0), (b, np.nan)):
        lost = solve(case, symng.Fisher(), wrong, damping, solver())
        assert Status(int(lost.status)) is Status.NOT_FINITE and np.isfinite(lost.x).all()
    case.params[0].set_value(np.full_like(case.params[0].get_value(), np.inf))
    lost = solve(case, symng.Fisher(), b, 1.0, solver())
    assert Status(int(lost.status)) is Status.NOT_FINITE and np.isfinite(lost.x).all()
    strict = solve(oracles.mlp_case("poisson"), symng.Fisher(), b, 1e-3, solver(rtol=0.0))
    assert Status(int(strict.status)) is Status.CONVERGED_TO_PRECISION


@pytest.mark.parametrize("solver", [Woodbury, QR])
def test_proximal_damping(solver: Any) -> None:
    """(A + lambda I) x = b + lambda x0; otherwise x0 is not used."""
    case = oracles.mlp_case("categorical")
    rng = np.random.default_rng(0)
    b, x0, damping = rng.standard_normal(case.size), rng.standard_normal(case.size), 0.3
    matrix = oracles.fisher(case) + damping * np.eye(case.size)
    for proximal in (False, True):
        solution = solver(proximal=proximal).solve(
            symng.Fisher()(case.objective), pt.constant(b), damping, x0=pt.constant(x0)
        )
        wanted = [solution.x, solution.residual_norm, solution.status]
        f = pytensor.function([*case.givens], wanted, mode=MODE, on_unused_input="ignore")
        x, residual_norm, status = f(*case.givens.values())
        right = b + damping * x0 * proximal
        assert Status(int(status)) is Status.CONVERGED
        assert oracles.relative_error(x, np.linalg.solve(matrix, right)) < 1e-8
        np.testing.assert_allclose(
            residual_norm, np.linalg.norm(right - matrix @ x), atol=1e-8 * np.linalg.norm(right)
        )


def test_a_warm_start_with_a_proximal_solver_is_spring() -> None:
    """Three steps beside the formula of the paper, on a linear model in NumPy."""
    rng = np.random.default_rng(0)
    X, T = rng.standard_normal((4, 6)), rng.standard_normal(4)
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.zeros(6), name="w")
    y = pt.tanh(x @ w)
    objective = symng.Objective(pt.sqr(y - t).mean() / 2, y, [w], [x], [t])
    damping, decay, size = 0.1, 0.9, 0.3
    optimizer = symng.NaturalGradient(
        solver=Woodbury(proximal=True), damping=damping, warm_start=decay, step_size=size
    )
    step = symng.compile_step(objective, optimizer, mode=MODE)
    theta, previous = np.zeros(6), np.zeros(6)
    for _ in range(3):
        assert step((X, T)).accepted
        output = np.tanh(X @ theta)
        rows, error = (1 - output**2)[:, None] * X / 2, (output - T) / 2  # each / sqrt(4)
        z = np.linalg.solve(rows @ rows.T + damping * np.eye(4), error - rows @ (decay * previous))
        previous = decay * previous + rows.T @ z
        theta = theta - size * previous
        np.testing.assert_allclose(w.get_value(), theta, rtol=1e-8)


def exact_solution(rows: np.ndarray, damping: float, b: np.ndarray) -> np.ndarray:
    """Return (R^T R + lambda I)^-1 b by Gaussian elimination with fractions."""
    n = rows.shape[1]
    R = [[Fraction(float(value)) for value in row] for row in rows]
    A = [[sum(row[i] * row[j] for row in R) for j in range(n)] for i in range(n)]
    for i in range(n):
        A[i][i] += Fraction(damping)
        A[i].append(Fraction(float(b[i])))
    for i in range(n):
        for j in range(n):
            if j != i:
                factor = A[j][i] / A[i][i]
                A[j] = [u - factor * v for u, v in zip(A[j], A[i], strict=True)]
    return np.array([float(A[i][n] / A[i][i]) for i in range(n)])


@pytest.mark.parametrize("damping", [0.0, 1e-16, 1e-12])
@pytest.mark.parametrize("size", [6, 8])
def test_qr_does_not_square_the_condition_number(size: int, damping: float) -> None:
    """Hilbert's matrix, whose normal equations have lost most of the digits."""
    i, j = np.arange(size + 2)[:, None], np.arange(size)[None, :]
    rows, b = 1 / (i + j + 1.0), np.ones(size)
    R = pt.constant(rows)
    factor = Factor(lambda v: pt.dot(R, v), lambda u: pt.dot(u, R), lambda: R)
    A = LinearOperator(lambda v: pt.dot(pt.dot(R, v), R), size, factor=factor)
    solution = QR().solve(A, pt.constant(b), damping)
    x, status, condition = pytensor.function(
        [], [solution.x, solution.status, solution.condition_estimate], mode=MODE
    )()
    expected = exact_solution(rows, damping, b)
    matrix = rows.T @ rows + damping * np.eye(size)
    by_normal_equations = np.linalg.solve(matrix, b)
    error = oracles.relative_error(x, expected)
    stacked = np.vstack([rows, np.sqrt(damping) * np.eye(size)])
    known = np.linalg.cond(stacked)
    assert Status(int(status)).success
    assert error < 10 * np.finfo(float).eps * known
    assert error < 1e-4 * oracles.relative_error(by_normal_equations, expected)
    assert known**2 / 1000 < condition < 1.1 * known**2  # from below


def test_qr_without_damping_needs_full_column_rank() -> None:
    R = pt.matrix("R")
    factor = Factor(lambda v: pt.dot(R, v), lambda u: pt.dot(u, R), lambda: R)
    A = LinearOperator(lambda v: pt.dot(pt.dot(R, v), R), 3, inputs=[R], factor=factor)
    solution = QR().solve(A, pt.ones(3))
    f = pytensor.function([R], [solution.x, solution.status], mode=MODE)
    rows = np.random.default_rng(0).standard_normal((5, 3))
    x, status = f(rows)
    np.testing.assert_allclose(x, np.linalg.solve(rows.T @ rows, np.ones(3)))
    assert Status(int(status)) is Status.CONVERGED
    for singular in (rows[:2], rows[:, [0, 1, 1]], 0 * rows):
        x, status = f(singular)
        assert Status(int(status)) is Status.BREAKDOWN and not x.any()


@pytest.mark.parametrize("power", range(-60, 0, 4))
@pytest.mark.parametrize(
    "kind, solver", [*((kind, Woodbury()) for kind in oracles.KINDS), ("poisson", QR())]
)
def test_no_wrong_solution_is_reported_as_a_success(kind: str, solver: Any, power: int) -> None:
    """However small the damping.

    The residual of what is called solved is that of rounding errors.
    """
    case = oracles.mlp_case(kind, dtype="float32")
    rows = symng.Fisher()(case.objective).factor.materialise(pt.zeros(case.size, dtype="float32"))
    rows = rows.eval(case.givens, mode=MODE, on_unused_input="ignore").astype("float64")
    matrix, b = rows.T @ rows, np.random.default_rng(0).standard_normal(case.size)
    damping = 2.0**power
    solution = solve(case, symng.Fisher(), b, damping, solver)
    status = Status(int(solution.status))
    if not status.success:
        assert status is Status.BREAKDOWN and power < (-20 if solver == Woodbury() else -40)
        return
    r = b - matrix @ solution.x.astype("float64") - damping * solution.x.astype("float64")
    eps = np.finfo("float32").eps
    allowed = 20 * eps * (np.trace(matrix) * np.linalg.norm(solution.x) + np.linalg.norm(b))
    assert np.linalg.norm(r) <= max(allowed, 2e-5 * np.linalg.norm(b))


def test_what_it_cannot_solve_is_refused() -> None:
    case = oracles.mlp_case("gaussian")
    F, b = symng.Fisher()(case.objective), pt.constant(np.ones(case.size))
    G = symng.GaussNewton()(case.objective)
    for operator in (G, F + F, 2 * F, lambda v: v):
        for solver in SOLVERS:
            with pytest.raises(
                TypeError, match="A: expected a LinearOperator with a factor.*MinresQLP"
            ):
                solver.solve(operator, b, damping=1.0)
    with pytest.raises(ValueError, match="damping"):
        QR().solve(F, b, damping=-1.0)
    with pytest.raises(ValueError, match="solve_dtype: expected one of"):
        QR(solve_dtype="float16")
    for damping in (0.0, -1.0):
        with pytest.raises(ValueError, match="damping"):
            Woodbury().solve(F, b, damping=damping)
    with pytest.raises(ValueError, match="preconditioner"):
        Woodbury().solve(F, b, damping=1.0, preconditioner=lambda r: r)
    with pytest.raises(ValueError, match="rtol"):
        Woodbury(rtol=-1.0)


def test_many_rows_are_warned_of_with_their_cost() -> None:
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(np.ones((3, 4)), name="w")
    objective = symng.Objective(pt.sqr(x @ w - t).sum(axis=1).mean(), x @ w, [w], [x], [t])

    def said(metric: Any, examples: int, *metric_batch: Any, solver: Any = None) -> list[str]:
        optimizer = symng.NaturalGradient(metric=metric, solver=solver or Woodbury(), damping=1.0)
        step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step.compile((np.ones((examples, 3)), np.ones((examples, 4))), *metric_batch)
        found = [w for w in caught if str(w.message).startswith("solver:")]
        assert all(w.filename == __file__ for w in found)
        return [str(w.message) for w in found]

    (message,) = said(symng.Fisher(), 200)
    assert (
        message.startswith("solver: " + Woodbury().describe_cost(800, 12))
        and "symng.MinresQLP(" in message
    )
    assert said(symng.Fisher(), 150) == [] and said(symng.Fisher(), 200, solver=symng.CG()) == []
    # The rows are those of the metric batch.
    assert said(symng.Fisher(), 200, (np.ones((10, 3)),)) == []
    assert "each of 800 rows" in said(symng.Fisher(), 10, (np.ones((200, 3)),))[0]
    assert said(symng.EmpiricalFisher(), 600) == [] and len(said(symng.EmpiricalFisher(), 700)) == 1
    # For few parameters QR is cheap, whatever the rows.
    assert said(symng.Fisher(), 200, solver=QR()) == []


def test_a_compiled_step_says_what_a_solve_costs() -> None:
    case = oracles.mlp_case("gaussian")
    for solver in SOLVERS:
        optimizer = symng.NaturalGradient(solver=solver, damping=1.0)
        step = symng.compile_step(case.objective, optimizer, mode=MODE)
        assert solver.describe(case.size) in repr(step)
        assert f"n = {case.size} parameters" in repr(step)


def test_rows_of_full_batches_are_warned_of() -> None:
    """Where the examples are not independent, as with batch normalization."""
    x = pt.matrix("x")
    w = pytensor.shared(np.ones((3, 400)), name="w")
    batch = (np.random.default_rng(0).standard_normal((600, 3)),)
    for mixes in (False, True):
        r = pt.tanh(x - x.mean(axis=0) if mixes else x) @ w
        output = r[:, 0] if mixes else r.sum(axis=1)
        objective = symng.Objective(pt.sqr(output).mean(), output, [w], [x])
        optimizer = symng.NaturalGradient(solver=Woodbury(), damping=1.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_cost(objective, optimizer, [batch])
        said = [str(w.message) for w in caught]
        assert len(said) == mixes and all("of the full batch" in text for text in said)


def test_many_constant_examples_are_warned_of() -> None:
    w = pytensor.shared(np.ones(400), name="w")
    output = pt.constant(np.random.default_rng(0).standard_normal((900, 400))) @ w
    objective = symng.Objective(pt.sqr(output).mean(), output, [w], inputs=[])
    optimizer = symng.NaturalGradient(solver=Woodbury(), damping=1.0)
    with pytest.warns(UserWarning, match="each of 900 rows"):
        warn_of_cost(objective, optimizer, [()])


def test_the_cost_in_words() -> None:
    text = Woodbury().describe_cost(2000, 10**6, "float32")
    assert "each of 2,000 rows" in text and "2,000 x (1,000,000 + 2,000) numbers (8 GB)" in text
