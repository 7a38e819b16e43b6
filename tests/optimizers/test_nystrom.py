"""The Nystrom preconditioner: its approximation and its solves against dense matrices."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import modes

import symng
from symng import NystromPreconditioner, Status
from symng.graphs import vectors
from symng.optimizers.preconditioners.nystrom import approximate, nystrom_product

MODE = "FAST_COMPILE"
N = 30
SPECTRA = {
    "decaying": np.logspace(2, -3, N),
    "rank 3": np.r_[5.0, 4.0, 3.0, np.zeros(N - 3)],
    "zero": np.zeros(N),
    "indefinite": np.r_[np.logspace(2, -3, N - 10), -np.logspace(1, -1, 10)],
}


def matrix(kind: str, dtype: str = "float64") -> np.ndarray:
    """Return a symmetric matrix with a spectrum."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    return np.asarray((Q * SPECTRA[kind]) @ Q.T, dtype)


@cache
def approximation(rank: int, dtype: str = "float64", mode: str = MODE) -> Any:
    """Return a function from matrix, damping and seed to U^T, l, whether finite, and M^-1."""
    A, damping, seed = pt.matrix("A", dtype=dtype), pt.scalar("damping"), pt.lscalar("seed")
    operator = symng.LinearOperator(lambda v: pt.dot(A, v), size=N, dtype=dtype)
    basis, values, finite = approximate(operator, rank, seed)
    product = nystrom_product(basis, values, damping)
    inverse = symng.LinearOperator(product, size=N, dtype=dtype).materialise()
    return pytensor.function([A, damping, seed], [basis, values, finite, inverse], mode=mode)


@pytest.mark.parametrize("kind", ["decaying", "rank 3"])
def test_the_approximation_is_that_of_its_sketch(kind: str) -> None:
    A, rank, damping, seed = matrix(kind), 6, 0.01, 3
    basis, values, finite, inverse = approximation(rank)(A, damping, seed)
    signs = vectors.random_signs(pt.zeros((N,)), seed, rank).eval(mode=MODE)
    Y = A @ np.linalg.qr(signs.T)[0]
    core = np.linalg.qr(signs.T)[0].T @ Y
    expected = Y @ np.linalg.pinv(core, rcond=1e-10, hermitian=True) @ Y.T
    np.testing.assert_allclose(basis.T @ np.diag(values) @ basis, expected, atol=1e-8)
    np.testing.assert_allclose(basis @ basis.T, np.eye(rank), atol=1e-12)
    assert finite
    lowest = values.min()
    M = expected + damping * np.eye(N) + lowest * (np.eye(N) - basis.T @ basis)
    np.testing.assert_allclose(inverse @ M, (lowest + damping) * np.eye(N), atol=1e-8)


@pytest.mark.parametrize("mode", modes("CVM", "NUMBA", slow=("CVM", "NUMBA")))
def test_other_backends_make_the_same(mode: str) -> None:
    A, damping, seed = matrix("decaying"), 0.01, 3
    basis, values, finite, inverse = approximation(6, mode=mode)(A, damping, seed)
    _, expected_values, _, expected = approximation(6)(A, damping, seed)
    assert finite and basis.shape == (6, N)
    np.testing.assert_allclose(values, expected_values, rtol=1e-10)
    np.testing.assert_allclose(inverse, expected, atol=1e-10)


@pytest.mark.parametrize("damping", [1e-2, 3.0])
def test_with_full_rank_it_is_the_inverse(damping: float) -> None:
    A = matrix("decaying")
    expected = np.linalg.inv(A + damping * np.eye(N)) * (1e-3 + damping)
    np.testing.assert_allclose(approximation(N)(A, damping, 0)[-1], expected, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", SPECTRA)
def test_it_is_positive_definite_for_every_metric(kind: str, dtype: str) -> None:
    A = matrix(kind, dtype)
    # Few sketches of an indefinite metric have a term that is far too large.
    for seed in range(300 if kind == "indefinite" else 10):
        for damping in (0.0, 1.0):
            basis, values, finite, inverse = approximation(6, dtype)(A, damping, seed)
            assert basis.dtype == values.dtype == inverse.dtype == dtype
            assert finite and (values >= 0).all()
            # An indefinite metric adds no eigenvalue far above its own.
            assert values.max() <= 25 * np.linalg.norm(A)
            tolerance = 10 * float(np.finfo(dtype).eps)
            np.testing.assert_allclose(inverse, inverse.T, atol=tolerance)
            if damping:
                assert np.linalg.eigvalsh(inverse)[0] > 0.3 / (1 + values.max())


def test_products_that_are_not_finite_are_seen() -> None:
    A = matrix("decaying")
    A[0, 0] = np.nan
    basis, values, finite, _ = approximation(6)(A, 1.0, 0)
    assert not finite and np.isfinite(basis).all() and np.isfinite(values).all()


def regression(dtype: str = "float64", large: int = 8) -> Any:
    """Return linear least squares, whose Fisher matrix has a few large eigenvalues, and a batch."""
    rng = np.random.default_rng(0)
    n, examples = 60, 100
    spectrum = np.r_[np.logspace(5, 2, large), np.logspace(0, -2, n - large)]
    x, t = pt.matrix("x", dtype=dtype), pt.vector("t", dtype=dtype)
    w = pytensor.shared(np.zeros(n, dtype), name="w")
    y = x @ w
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    )
    Q = np.linalg.qr(rng.standard_normal((examples, n)))[0]
    V = np.linalg.qr(rng.standard_normal((n, n)))[0]
    X = np.sqrt(examples) * (Q * np.sqrt(spectrum)) @ V.T
    return objective, (X.astype(dtype), rng.standard_normal(examples).astype(dtype))


@pytest.mark.parametrize("solver", [symng.CG, symng.MinresQLP])
def test_iterations_fall_to_what_the_condition_number_predicts(solver: Any) -> None:
    damping, rtol = 0.1, 1e-8
    objective, (X, t) = regression()
    optimizer = symng.NaturalGradient(
        solver=solver(rtol=rtol, maxiter=1000),
        damping=damping,
        preconditioner=NystromPreconditioner(rank=16),
    )
    step = symng.compile_step(objective, optimizer, mode=MODE)
    info = step((X, t))
    assert Status(int(info.solver_status)).success
    A = X.T @ X / len(X) + damping * np.eye(X.shape[1])
    expected = np.linalg.solve(A, X.T @ t / len(X))
    found = objective.params[0].get_value()
    assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)

    U, values = (np.asarray(step.state[f"nystrom_{n}"].get_value()) for n in ("basis", "values"))
    scale = (values.min() + damping) / (values + damping)
    root = np.eye(len(A)) + U.T @ np.diag(np.sqrt(scale) - 1) @ U
    kappa = np.linalg.cond(root @ A @ root)
    assert kappa < 30 < 1e-4 * np.linalg.cond(A)
    # The classical bound for CG; the residual is measured, not the error.
    predicted = np.ceil(np.sqrt(kappa) / 2 * np.log(2 * np.sqrt(kappa) / rtol))
    assert int(info.solver_iterations) <= predicted


@pytest.mark.parametrize("mode", modes("FAST_COMPILE", "JAX", slow=["JAX"]))
def test_float32_stays_and_iterations_fall(mode: str) -> None:
    spent = []
    for preconditioner in (None, NystromPreconditioner(rank=16)):
        objective, batch = regression("float32")
        optimizer = symng.NaturalGradient(
            solver=symng.CG(rtol=1e-3, maxiter=300), damping=0.1, preconditioner=preconditioner
        )
        step = symng.compile_step(objective, optimizer, mode=mode if preconditioner else MODE)
        spent.append(int(step(batch).solver_iterations))
    for name in ("basis", "values"):
        assert np.asarray(step.state[f"nystrom_{name}"].get_value()).dtype == np.float32
    assert spent[1] < spent[0] / 2


def test_it_is_kept_over_steps_and_made_anew() -> None:
    objective, (X, t) = regression()
    optimizer = symng.NaturalGradient(
        solver=symng.CG(maxiter=3),
        damping=0.1,
        preconditioner=NystromPreconditioner(rank=4, refresh=3),
    )
    step = symng.compile_step(objective, optimizer, mode=MODE)
    basis = step.state["nystrom_basis"]
    changed = []
    for k in range(8):
        before = basis.get_value()
        step((X, t))
        changed.append(bool((basis.get_value() != before).any()))
        assert step.state["nystrom_age"].get_value() == (k + 1) % 3
    assert changed == [True, False, False, True, False, False, True, False]


def test_one_that_is_kept_serves_less_where_the_metric_has_changed() -> None:
    objective, (X, t) = regression()
    changed = X + 0.1 * np.random.default_rng(2).standard_normal(X.shape)
    spent = []
    for preconditioner in (
        NystromPreconditioner(rank=60),
        NystromPreconditioner(rank=60, refresh=2),
    ):
        optimizer = symng.NaturalGradient(
            solver=symng.CG(rtol=1e-6, maxiter=500), damping=1e-6, preconditioner=preconditioner
        )
        step = symng.compile_step(objective, optimizer, mode=MODE)
        spent.append([int(step(batch).solver_iterations) for batch in ((X, t), (changed, t))])
    assert max(spent[0]) <= 2 and spent[1][0] <= 2 and spent[1][1] > 10, spent


def test_a_batch_that_is_not_finite_leaves_no_trace() -> None:
    objective, (X, t) = regression()
    optimizer = symng.NaturalGradient(
        solver=symng.CG(maxiter=3), preconditioner=NystromPreconditioner(rank=4, refresh=1)
    )
    updates = optimizer.updates(objective)
    state: Any = {v.name: v for v in updates}
    step = pytensor.function(
        [*objective.inputs, *objective.targets], updates=list(updates.items()), mode=MODE
    )
    step(X, t)
    kept = {name: state[f"nystrom_{name}"].get_value() for name in ("basis", "values")}
    step(np.where(X > 50, np.nan, X), t)
    for name, value in kept.items():
        np.testing.assert_array_equal(state[f"nystrom_{name}"].get_value(), value)
    assert state["nystrom_age"].get_value() == 0  # so that the next step tries again


def test_a_sum_of_objectives_takes_it_in_a_rank_above_its_size() -> None:
    objective, batch = regression()
    x, t = pt.matrix("x2"), pt.vector("t2")
    y = x @ objective.params[0]
    other = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=objective.params, inputs=[x], targets=[t]
    )
    rng = np.random.default_rng(1)
    optimizer = symng.NaturalGradient(
        solver=symng.CG(rtol=1e-8, maxiter=300),
        damping=0.1,
        preconditioner=NystromPreconditioner(rank=100),
    )
    step = symng.compile_step(objective + 0.5 * other, optimizer, mode=MODE)
    info = step((batch, (rng.standard_normal((20, 60)), rng.standard_normal(20))))
    assert step.state["nystrom_basis"].get_value().shape == (60, 60)
    assert Status(int(info.solver_status)).success and info.solver_iterations <= 3


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 1.5}, {"refresh": 0}, {"refresh": 2.5}])
def test_what_it_does_not_take(options: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        NystromPreconditioner(**options)
