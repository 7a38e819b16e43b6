"""Krylov subspace descent against dense subspaces, SciPy's BFGS and the natural direction."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.compiled import float64_tensors
from helpers.modes import step_modes
from helpers.small_steps import exponential, line, regression, start, train
from scipy.optimize import minimize

import symng
from symng import vectors
from symng.optimizers._krylov_basis import krylov_basis


@functools.cache
def compiled_basis(n, size, dtype):
    """Return a function of a dense matrix, a gradient and a previous direction.

    V, V F V^T and the rank of V.
    """
    matrix, gradient, previous = (
        pt.matrix(dtype=dtype),
        pt.vector(dtype=dtype),
        pt.vector(dtype=dtype),
    )
    operator = symng.LinearOperator(lambda v: pt.dot(matrix, v), n, dtype)
    return pytensor.function(
        [matrix, gradient, previous],
        krylov_basis(operator, gradient, size, pt.specify_shape(previous, (n,))),
    )


def basis_of(F, gradient, size, previous, dtype="float64"):
    return compiled_basis(len(F), size, dtype)(
        *(np.asarray(a, dtype=dtype) for a in (F, gradient, previous))
    )


def gradient_of(case):
    return oracles.example_gradients(case).mean(axis=0)


def distance(vector, V):
    """Return how far a vector is from the span of orthonormal rows, in units of its length."""
    return np.linalg.norm(vector - V.T @ (V @ vector)) / np.linalg.norm(vector)


def loss_function(case):
    """Return theta -> loss and gradient on the batch of a case; parameters do not change."""
    slopes = pytensor.grad(case.loss, list(case.params))
    f = pytensor.function(list(case.givens), [case.loss, *slopes])
    kept = vectors.get_flat(case.params)

    def evaluate(theta):
        vectors.set_flat(case.params, theta)
        loss, *slopes = f(*case.givens.values())
        vectors.set_flat(case.params, kept)
        return float(loss), np.concatenate([g.ravel() for g in slopes])

    return evaluate


# The basis, by dense matrices


def semidefinite(n, rank, seed=0):
    """Return a matrix of some rank with eigenvalues from 0.2 to 2, and two vectors."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0][:, :rank]
    return (Q * np.linspace(0.2, 2.0, rank)) @ Q.T, *rng.standard_normal((2, n))


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
def test_basis_is_orthonormal_and_spans_the_krylov_space(dtype, tolerance):
    F, gradient, previous = (a.astype(dtype).astype("float64") for a in semidefinite(30, 30))
    V, projected, rank = basis_of(F, gradient, 4, previous, dtype)
    assert V.dtype == projected.dtype == dtype and V.shape == (5, 30) and rank == 5
    V, projected = V.astype("float64"), projected.astype("float64")
    assert abs(V @ V.T - np.eye(5)).max() < tolerance
    power = gradient
    for i in range(4):
        assert distance(power, V[: i + 1]) < 10 * tolerance
        power = F @ power
    assert distance(power, V[:4]) > 1e-3  # the next power is not in it
    assert distance(previous, V) < tolerance and distance(previous, V[:4]) > 0.1
    assert (
        np.array_equal(projected, projected.T)
        and abs(projected - V @ F @ V.T).max() < 10 * tolerance
    )


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
def test_basis_ends_where_the_space_is_invariant(dtype, tolerance):
    F, gradient, previous = semidefinite(12, 5)
    # in the range of F, or with a part outside of it.
    for g, wanted in (
        (F @ gradient, 5),
        (gradient, 6),
    ):
        V, projected, rank = (a.astype("float64") for a in basis_of(F, g, 9, previous, dtype))
        assert rank == wanted + 1 and np.linalg.norm(V, axis=1).round(4).tolist() == [
            1.0
        ] * wanted + [0.0] * (9 - wanted) + [1.0]
        filled = V[V.any(axis=1)]
        assert abs(filled @ filled.T - np.eye(len(filled))).max() < tolerance
        assert abs(projected - V @ F @ V.T).max() < 10 * tolerance
        assert distance(np.linalg.matrix_power(F, 20) @ g, V[:wanted]) < 10 * tolerance


def test_what_depends_on_the_rest_is_left_out():
    F, gradient, _ = semidefinite(12, 12)
    for previous in (0 * gradient, -3 * gradient, 1e-3 * F @ gradient - gradient):
        V, projected, rank = basis_of(F, gradient, 4, previous)
        assert rank == 4 and V[:4].any(axis=1).all() and not V[4].any()
        assert abs(projected - V @ F @ V.T).max() < 1e-12
    # Nothing but the gradient, and the previous one.
    V, projected, rank = basis_of(0 * F, gradient, 4, np.arange(12))
    assert (
        rank == 2
        and V.any(axis=1).tolist() == [True, False, False, False, True]
        and not projected.any()
    )
    V, projected, rank = basis_of(F, 0 * gradient, 4, gradient)  # no gradient, no step
    assert rank == 0 and not V.any() and not projected.any()


def test_what_nearly_depends_on_the_rest_is_made_orthogonal_twice():
    F, gradient, other = semidefinite(12, 12)
    V, _, rank = basis_of(F, gradient, 4, F @ gradient + 1e-9 * other)
    assert rank == 5 and abs(V @ V.T - np.eye(5)).max() < 1e-12


def test_basis_of_a_saturated_metric_keeps_its_verdict():
    F, gradient, previous = semidefinite(12, 12)
    F[0, 0] = np.nan
    with np.errstate(all="ignore"):
        V, projected, _ = basis_of(F, gradient, 4, previous)
    assert np.isfinite(V).all() and not np.isfinite(projected).all()


def test_space_of_full_size_contains_the_natural_direction():
    case = oracles.mlp_case("categorical")
    F, gradient = oracles.fisher(case), gradient_of(case)
    V, _, rank = basis_of(F, gradient, case.size, 0 * gradient)
    assert np.linalg.matrix_rank(F, tol=1e-9) <= rank < case.size  # invariant before it is full
    assert abs(V[:rank] @ V[:rank].T - np.eye(rank)).max() < 1e-12
    for damping in (1e-3, 0.1, 10.0):
        assert distance(np.linalg.solve(F + damping * np.eye(case.size), gradient), V) < 1e-8
    assert distance(np.linalg.solve(F + 1e-3 * np.eye(case.size), gradient), V[: rank - 3]) > 1e-6


def preconditioned_basis(F, gradient, previous, inverse, damping, size):
    """Return the symbolic basis for arrays, V F V^T and the rank of V."""
    operator = symng.LinearOperator(lambda v: pt.dot(F, v), len(F), F.dtype.name)
    gradient, previous = pt.constant(gradient), pt.constant(previous)
    return krylov_basis(operator, gradient, size, previous, lambda v: pt.dot(inverse, v), damping)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-11), ("float32", 1e-4)])
def test_preconditioned_basis_spans_what_preconditioned_cg_does(dtype, tolerance):
    F, gradient, previous = (a.astype(dtype).astype("float64") for a in semidefinite(30, 20))
    M, damping, size = np.diag(np.linspace(0.5, 3.0, 30)), 0.3, 4
    inverse = np.linalg.inv(M).astype(dtype)
    arguments = [np.asarray(a, dtype=dtype) for a in (F, gradient, previous)]
    found = preconditioned_basis(*arguments, inverse, damping, size)
    V, projected, rank = (a.astype("float64") for a in pytensor.function([], found)())
    assert rank == size + 1 and abs(V @ V.T - np.eye(size + 1)).max() < tolerance
    power = inverse @ gradient
    for i in range(size):
        assert distance(power, V[: i + 1]) < tolerance
        power = inverse @ (F + damping * np.eye(30)) @ power
    assert distance(power, V[:size]) > 1e-3 and distance(gradient, V[:size]) > 1e-3
    assert distance(previous, V) < tolerance and distance(previous, V[:size]) > 0.1
    assert abs(projected - V @ F @ V.T).max() < tolerance  # F itself, without damping


@pytest.mark.parametrize("mode", step_modes())
def test_backends_agree_on_a_preconditioned_basis(mode):
    F, gradient, previous = semidefinite(12, 9)
    inverse = np.diag(np.linspace(0.5, 3.0, 12))
    found = preconditioned_basis(F, gradient, previous, inverse, 0.3, 4)
    wanted = pytensor.function([], found, mode="FAST_COMPILE")()
    if mode == "JAX":
        symng.enable_jax()
    for a, b in zip(pytensor.function([], found, mode=mode)(), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, atol=1e-10)


# A step


def dense_step(case, damping, size, previous=None):
    """Return loss and theta of the minimum over the dense subspace, by SciPy."""
    F, gradient = oracles.fisher(case), gradient_of(case)
    columns = [gradient]
    for _ in range(size - 1):
        columns.append(F @ columns[-1] / np.linalg.norm(columns[-1]))
    if previous is not None:
        columns.append(previous)
    Q = np.linalg.qr(np.array(columns).T)[0]
    evaluate, theta = loss_function(case), vectors.get_flat(case.params)
    begin = np.linalg.solve(Q.T @ F @ Q + damping * np.eye(Q.shape[1]), Q.T @ gradient)

    def along(c):
        loss, gradient = evaluate(theta - Q @ c)
        return loss, -Q.T @ gradient

    found = minimize(along, begin, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 500})
    return found.fun, theta - Q @ found.x


def test_step_is_the_minimum_over_the_dense_subspace():
    case = oracles.mlp_case("categorical")
    batch = tuple(case.givens.values())
    optimizer = symng.KrylovSubspaceDescent(
        metric=symng.Fisher(), basis_size=3, damping=0.3, max_iterations=300
    )
    step, theta = start(optimizer, case.objective)
    previous = np.zeros(case.size)
    for rank in (3, 4):
        wanted, point = dense_step(case, 0.3, 3, previous if rank == 4 else None)
        info = step(batch)
        following = vectors.get_flat(case.params)
        assert info.accepted and info.solver_iterations == rank and info.status is None
        assert info.new_loss == pytest.approx(wanted, rel=1e-8)
        assert oracles.relative_error(following - theta, point - theta) < 1e-3
        assert info.new_loss == pytest.approx(
            float(oracles.value(case.loss, case.givens)), rel=1e-12
        )
        assert (
            info.update_norm == pytest.approx(np.linalg.norm(following - theta))
            and info.search_evaluations > 3
        )
        assert np.allclose(
            step.state["search_direction"].get_value(), theta - following, atol=1e-14
        )
        previous, theta = theta - following, following


def test_start_is_the_natural_step_and_the_search_is_no_worse():
    case, damping = oracles.mlp_case("categorical"), 1.0
    batch, F, gradient = tuple(case.givens.values()), oracles.fisher(case), gradient_of(case)
    settings = {"metric": symng.Fisher(), "damping": damping, "previous_direction": False}
    direction = np.linalg.solve(F + damping * np.eye(case.size), gradient)
    natural = loss_function(case)(vectors.get_flat(case.params) - direction)[0]
    step, before = start(
        symng.KrylovSubspaceDescent(basis_size=case.size, max_iterations=0, **settings),
        case.objective,
    )
    info = step(batch)
    assert (
        info.accepted
        and info.new_loss == pytest.approx(natural, rel=1e-12)
        and info.search_evaluations == 2
    )
    assert oracles.relative_error(before - vectors.get_flat(case.params), direction) < 1e-9
    vectors.set_flat(case.params, before)
    step, _ = start(symng.KrylovSubspaceDescent(basis_size=case.size, **settings), case.objective)
    assert step(batch).new_loss < natural < info.loss


def test_start_in_a_small_space_is_conjugate_gradients():
    case, size = oracles.mlp_case("bernoulli"), 4
    solver = symng.CG(rtol=0.0, maxiter=size)
    updates = []
    for optimizer in (
        symng.NaturalGradient(metric=symng.GaussNewton(), solver=solver, damping=0.5),
        symng.KrylovSubspaceDescent(
            basis_size=size, damping=0.5, previous_direction=False, max_iterations=0
        ),
    ):
        step, before = start(optimizer, case.objective)
        info = step(tuple(case.givens.values()))
        assert info.accepted and info.solver_iterations == size
        updates.append(before - vectors.get_flat(case.params))
        vectors.set_flat(case.params, before)
    assert oracles.relative_error(updates[1], updates[0]) < 1e-9


def diagonal_of(case):
    """Return a positive diagonal for the parameters of a case, as a preconditioner of a model."""
    M = np.linspace(0.3, 3.0, case.size)
    return M, lambda operator, damping: lambda v: v / M


def test_start_in_a_small_space_is_preconditioned_conjugate_gradients():
    case, size = oracles.mlp_case("bernoulli"), 4
    _, preconditioner = diagonal_of(case)
    settings = {"metric": symng.GaussNewton(), "damping": 0.5, "preconditioner": preconditioner}
    updates = []
    for optimizer in (
        symng.NaturalGradient(solver=symng.CG(rtol=0.0, maxiter=size), **settings),
        symng.KrylovSubspaceDescent(
            basis_size=size, previous_direction=False, max_iterations=0, **settings
        ),
    ):
        step, before = start(optimizer, case.objective)
        info = step(tuple(case.givens.values()))
        assert info.accepted and info.solver_iterations == size
        updates.append(before - vectors.get_flat(case.params))
        vectors.set_flat(case.params, before)
    assert oracles.relative_error(updates[1], updates[0]) < 1e-9


def test_preconditioned_step_is_the_minimum_over_the_dense_subspace():
    case = oracles.mlp_case("categorical")
    M, preconditioner = diagonal_of(case)
    optimizer = symng.KrylovSubspaceDescent(
        metric=symng.Fisher(),
        basis_size=3,
        damping=0.3,
        max_iterations=300,
        preconditioner=preconditioner,
    )
    step, theta = start(optimizer, case.objective)
    gradient, A = gradient_of(case), oracles.fisher(case) + 0.3 * np.eye(case.size)
    columns = [gradient / M]
    for _ in range(2):
        columns.append(A @ columns[-1] / M)
    Q = np.linalg.qr(np.array(columns).T)[0]
    evaluate = loss_function(case)

    def along(c):
        loss, slope = evaluate(theta - Q @ c)
        return loss, -Q.T @ slope

    wanted = minimize(along, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-10})
    info = step(tuple(case.givens.values()))
    assert info.accepted and info.solver_iterations == 3
    assert info.gradient_norm == pytest.approx(np.linalg.norm(gradient))
    assert info.new_loss == pytest.approx(wanted.fun, rel=1e-8)
    moved = theta - vectors.get_flat(case.params)
    assert oracles.relative_error(moved, Q @ wanted.x) < 1e-3


@pytest.mark.parametrize("kind", ["martens", symng.JacobiPreconditioner(decay=0.0)], ids=str)
def test_preconditioners_of_the_package_lower_the_loss_and_keep_their_state(kind):
    case = oracles.mlp_case("bernoulli", "r")
    optimizer = symng.KrylovSubspaceDescent(basis_size=3, damping=0.1, preconditioner=kind)
    step, _ = start(optimizer, case.objective)
    for number in range(2):
        if kind != "martens":
            wanted = symng.GaussNewton()(case.objective).diagonal(1, seed=number)
            wanted = wanted.eval(case.givens, on_unused_input="ignore")
        info = step(tuple(case.givens.values()))
        assert info.accepted and info.new_loss < info.loss
        if kind != "martens":
            assert np.allclose(step.state["jacobi_diagonal"].get_value(), wanted)


def test_a_preconditioner_that_gives_nothing_is_named():
    model = line()
    optimizer = symng.KrylovSubspaceDescent(
        preconditioner=lambda operator, damping: lambda v: 0 * v, basis_size=2
    )
    step, before = start(optimizer, model.objective)
    info = step(model.batch)
    assert info.status is symng.Status.BAD_PRECONDITIONER and not info.accepted
    assert (model.value == before).all()


def test_batches_of_their_own():
    case = oracles.mlp_case("bernoulli")
    rng, theta = np.random.default_rng(5), vectors.get_flat(case.params)

    def batch(n):
        return rng.standard_normal((n, 3)), oracles.draw_targets("bernoulli", rng, (n, 3))

    def on(arrays):
        return oracles.Case(**{**vars(case), "givens": dict(zip(case.givens, arrays, strict=True))})

    mine, metric, search = tuple(case.givens.values()), batch(7), batch(6)
    optimizer = symng.KrylovSubspaceDescent(
        metric=symng.Fisher(), basis_size=2, damping=0.2, max_iterations=300
    )
    step, _ = start(optimizer, case.objective)
    gradient, F = gradient_of(case), oracles.fisher(on(metric))
    Q = np.linalg.qr(np.array([gradient, F @ gradient]).T)[0]

    evaluate = loss_function(on(search))
    before = evaluate(theta)[0]

    def along(c):
        loss, slope = evaluate(theta - Q @ c)
        return loss, -Q.T @ slope

    wanted = minimize(along, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9})
    info = step(mine, metric[:1], search)
    moved = vectors.get_flat(case.params)
    assert info.accepted and wanted.fun < before
    assert evaluate(moved)[0] == pytest.approx(wanted.fun, rel=1e-10)
    assert oracles.relative_error(theta - moved, Q @ wanted.x) < 1e-4
    assert info.new_loss == pytest.approx(loss_function(case)(moved)[0], rel=1e-12)


def test_loss_on_the_search_batch_never_rises():
    case = oracles.mlp_case("categorical")
    rng = np.random.default_rng(2)
    X, T = rng.standard_normal((40, 3)), oracles.draw_targets("categorical", rng, (40, 3))
    loss = pytensor.function(list(case.givens), case.loss)
    step, _ = start(symng.KrylovSubspaceDescent(basis_size=4, max_iterations=5), case.objective)
    fell = 0
    for _ in range(12):
        order = rng.permutation(40)
        batches = [(X[i], T[i]) for i in (order[:10], order[10:20], order[20:])]
        before, theta = loss(*batches[2]), vectors.get_flat(case.params)
        info = step(*batches)
        after = loss(*batches[2])
        assert (
            after < before
            if info.accepted
            else np.array_equal(vectors.get_flat(case.params), theta)
        )
        fell += info.accepted
    assert fell >= 10


# Failures and limits


def test_at_the_optimum_nothing_happens():
    model = line(start=(3.0, -1.0))
    step, before = start(symng.KrylovSubspaceDescent(basis_size=3), model.objective)
    step.state["search_direction"].set_value(np.ones(2))
    info = step(model.batch)
    assert info.gradient_norm == 0 and info.update_norm == 0 and info.solver_iterations == 0
    assert (model.value == before).all()
    model.w.set_value(np.zeros(2))  # and it still works
    info = step(model.batch)
    assert (
        info.accepted and np.allclose(model.value, model.solution) and info.solver_iterations == 1
    )


def test_what_overflows_is_gone_around():
    # The undamped natural step is 1e3 long at first, where exp overflows.
    objective, w, batch = exponential("float32")
    w.set_value(np.array([-7.0, -7.0], dtype="float32"))
    step, _ = start(symng.KrylovSubspaceDescent(basis_size=2), objective)
    infos = [step(batch) for _ in range(2)]
    assert (
        infos[0].new_loss < 2 < infos[0].loss
        and math.isfinite(infos[0].loss)
        and infos[0].search_evaluations > 2
    )
    assert np.allclose(w.get_value(), np.log([3.0, 5.0]), atol=1e-2)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_not_finite_is_rejected():
    objective, w, batch = exponential()
    rule = symng.LevenbergMarquardt(initial=1.0, ratio="quadratic", damped_model=False)
    step, _ = start(symng.KrylovSubspaceDescent(basis_size=2, damping=rule), objective)
    step.state["search_direction"].set_value(np.ones(2))
    for value in ([1e3, 0.0], [np.nan, 0.0]):  # infinite loss, NaN in the parameters
        w.set_value(np.array(value))
        damping = step.state["damping"].get_value()
        info = step(batch)
        assert (
            not info.accepted and info.update_norm == 0 and info.status is symng.Status.NOT_FINITE
        )
        assert np.array_equal(w.get_value(), value, equal_nan=True)
        assert step.state["damping"].get_value() == 1.5 * damping
        assert (step.state["search_direction"].get_value() == 1).all()
    w.set_value(np.zeros(2))
    info = step(batch)
    assert info.accepted and info.status is None and info.new_loss < info.loss


def test_damping_follows_the_model_without_its_damping_term():
    model = line()
    rule = symng.LevenbergMarquardt(initial=3.0, ratio="quadratic", damped_model=False)
    step, _ = start(symng.KrylovSubspaceDescent(basis_size=2, damping=rule), model.objective)
    info = step(model.batch)  # finds the minimum, as the model without damping would
    assert info.damping == 3.0 and info.reduction_ratio == pytest.approx(1.0)
    assert step.state["damping"].get_value() == pytest.approx(2.0) and np.allclose(
        model.value, model.solution
    )


def test_float32_stays():
    case = oracles.mlp_case("categorical", dtype="float32")
    optimizer = symng.KrylovSubspaceDescent(basis_size=3, max_iterations=3)
    step, before = start(optimizer, case.objective)
    info = step(tuple(case.givens.values()))
    assert info.accepted and (vectors.get_flat(case.params) != before).any()
    assert (
        step.state["search_direction"].get_value().dtype
        == case.params[0].get_value().dtype
        == "float32"
    )
    assert len(step.functions) == 3
    for function in step.functions:
        assert not float64_tensors(function)
    for name, record in step.build().records.items():
        assert record.dtype in ("float32", "int64", "bool"), name


# In a run


def test_resumed_run_is_the_uninterrupted_one(tmp_path):
    optimizer = symng.KrylovSubspaceDescent(
        metric=symng.EmpiricalFisher(),
        basis_size=2,
        max_iterations=4,
        damping=symng.LevenbergMarquardt(initial=1.0),
    )
    settings = {
        "batch_size": 6,
        "metric_batch": "other",
        "metric_batch_size": 4,
        "search_batch": "other",
    }
    whole = train(optimizer, **settings, max_steps=5, seed=5)
    for steps in (2, 5):
        resumed = train(
            optimizer, **settings, max_steps=steps, seed=5, checkpoint=tmp_path / "run.npz"
        )
    assert (
        resumed.step.objective.params[0].get_value() == whole.step.objective.params[0].get_value()
    ).all()
    assert (
        resumed.step.state["search_direction"].get_value()
        == whole.step.state["search_direction"].get_value()
    ).all()
    for name in ("loss", "new_loss", "damping", "search_evaluations", "solver_iterations"):
        assert np.array_equal(resumed.history[name], whole.history[name]), name
    assert (whole.history["search_evaluations"] >= 2).all() and whole.history["loss"][
        -1
    ] < whole.history["loss"][0]


def test_metric_batch_needs_no_targets_where_the_metric_does_not():
    objective, _ = regression()
    assert (
        symng.KrylovSubspaceDescent(metric=symng.Fisher()).metric_inputs(objective)
        == objective.inputs
    )
    both = (*objective.inputs, *objective.targets)
    assert (
        symng.KrylovSubspaceDescent(metric=symng.EmpiricalFisher()).metric_inputs(objective) == both
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"metric": symng.Fisher},
            "metric: expected a metric .* got the class Fisher .*Did you forget the parentheses",
        ),
        ({"basis_size": 0}, "basis_size: expected .* at least 1"),
        ({"basis_size": 2.5}, "basis_size: expected a whole number"),
        ({"damping": -1.0}, "damping: expected .* at least 0"),
        ({"damping": symng.LevenbergMarquardt}, "damping: expected .* got the class"),
        ({"previous_direction": 1}, "previous_direction: expected True or False"),
        ({"max_iterations": -1}, "max_iterations: expected .* at least 0"),
        ({"max_iterations": True}, "max_iterations: expected"),
        ({"preconditioner": "jacobi"}, "preconditioner: expected 'martens', None, a Precond"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        symng.KrylovSubspaceDescent(**settings)


def test_no_updates_for_one_function():
    with pytest.raises(
        ValueError, match="^optimizer: expected one whose step is a single stage, got Krylov"
    ):
        symng.KrylovSubspaceDescent().updates(line().objective)
