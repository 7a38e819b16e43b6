"""Hessian-free.

Its direction is natural gradient's, and each of its parts does what Martens says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles, problems
from helpers.compiled import nodes_of
from helpers.small_steps import TIGHT, exponential, line, start

import symng
from symng import vectors

DAMPING = 0.7
CONVERGED = {"rtol": 1e-13, "maxiter": 500}


@dataclass(frozen=True, eq=False)
class Scripted:
    """Return the iterates that it was made with, shifted by x0, or M^-1 b where there are none."""

    iterates: Any = None
    keep_iterates: Any = 1.3

    def solve(self, A, b, damping=0.0, x0=None, preconditioner=None):
        rows, count = None, None
        x = b if preconditioner is None else preconditioner(b)
        if self.iterates is not None:
            rows = pt.constant(np.asarray(self.iterates, dtype=b.type.dtype)) + (
                0 if x0 is None else x0
            )
            # As a solver does that has room for more iterates than it keeps.
            x, count = rows[-1], pt.constant(len(self.iterates), dtype="int64")
            rows = pt.concatenate([rows, pt.full((2, rows.type.shape[1]), 99, dtype=b.type.dtype)])
        return symng.Solution(
            x=x,
            status=pt.constant(int(symng.Status.CONVERGED), dtype="int64"),
            niter=pt.constant(1, dtype="int64"),
            residual_norm=pt.zeros_like(b[0]),
            iterates=rows,
            iterates_count=count,
        )


def hessian_free(**settings):
    """Return Hessian-free without preconditioner, warm start and line search."""
    plain = {"preconditioner": None, "warm_start": 0.0, "step_size": 1.0, "damping": 0.0}
    return symng.HessianFree(**{**plain, **settings})


# The direction


@pytest.mark.parametrize("preconditioner", ["martens", None])
@pytest.mark.parametrize("kind", ["gaussian", "bernoulli", "categorical"])
def test_direction_is_natural_gradients(kind, preconditioner):
    case = oracles.mlp_case(kind)
    matrix = oracles.fisher(case) + DAMPING * np.eye(case.size)
    direction = np.linalg.solve(matrix, oracles.example_gradients(case).mean(axis=0))
    optimizers = [
        hessian_free(solver=symng.CG(**CONVERGED), damping=DAMPING, preconditioner=preconditioner)
    ]
    if preconditioner is None:
        optimizers.append(symng.NaturalGradient(solver=TIGHT["CG"], damping=DAMPING))
    for optimizer in optimizers:
        step, before = start(optimizer, case.objective)
        assert step(tuple(case.givens.values())).accepted
        assert oracles.relative_error(before - vectors.get_flat(case.params), direction) < 1e-8
        vectors.set_flat(case.params, before)


def martens_diagonal(case, damping):
    """Return (D + lambda)^0.75."""
    return ((oracles.example_gradients(case) ** 2).mean(axis=0) + damping) ** 0.75


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_martens_preconditioner(reduce):
    case = oracles.mlp_case("categorical", reduce=reduce)
    gradients, diagonal = oracles.example_gradients(case), martens_diagonal(case, DAMPING)
    step, before = start(
        hessian_free(solver=Scripted(), preconditioner="martens", damping=DAMPING), case.objective
    )
    step(tuple(case.givens.values()))
    moved = before - vectors.get_flat(case.params)
    # A sum takes the step of its mean.
    assert oracles.relative_error(moved, gradients.mean(axis=0) / diagonal) < 1e-12


def test_estimates_of_the_preconditioner_are_new_at_each_step():
    objective, data = problems.adding_problem()
    step, before = start(
        hessian_free(solver=Scripted(), preconditioner="martens", damping=0.1), objective
    )
    moved = []
    for number in (0, 0, 1):
        step.state["step"].set_value(number)
        step(data)
        moved.append(before - vectors.get_flat(objective.params))
        vectors.set_flat(objective.params, before)
    assert (moved[0] == moved[1]).all() and not np.allclose(moved[0], moved[2])


def test_preconditioner_of_ones_own():
    model = line()

    def quarter(operator, damping):
        return lambda v: v / (3 + damping)

    optimizer = hessian_free(solver=Scripted(), preconditioner=quarter, damping=1.0)
    step, _ = start(optimizer, model.objective)
    step(model.batch)
    assert np.allclose(model.value, model.solution / 4)


def test_without_losses_of_examples_there_is_a_warning_and_no_preconditioner():
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.zeros(2), name="w")
    y = x @ w
    objective = symng.Objective(
        pt.sqrt(pt.sqr(y - t).mean()), output=y, params=[w], inputs=[x], targets=[t]
    )
    with pytest.warns(
        UserWarning,
        match="^preconditioner: .*Give Objective.*example_losses=.*or preconditioner=None",
    ):
        step, _ = start(hessian_free(solver=Scripted(), preconditioner="martens"), objective)
    X = np.eye(2)
    gradient = -np.array([3.0, -1.0]) / np.sqrt(5) / 2  # by hand
    step((X, X @ [3.0, -1.0]))
    assert np.allclose(w.get_value(), -gradient)


# Backtracking over the iterates


def walk_back(losses):
    """Return the last index before which the loss is not lower.

    Losses that are not finite are passed.
    """
    taken, lowest = len(losses) - 1, np.inf
    for j in reversed(range(len(losses))):
        if losses[j] < lowest:
            taken, lowest = j, losses[j]
        elif np.isfinite(lowest):
            break
    return taken


# How far each iterate goes from 0 to the solution and past it, and which one is taken.
ITERATES = {
    "the last": ([0.2, 0.5, 0.9], 2),
    "one back": ([0.2, 0.9, 1.5], 1),
    "all the way": ([0.9, 1.3, 1.6, 1.9], 0),
    "first of two minima": ([1.0, 3.0, 1.5, 1.8], 2),
    "equal ones": ([0.5, 1.5], 1),
    "only one": ([0.3], 0),
}


@pytest.mark.parametrize("name", ITERATES)
def test_backtracking(name):
    shares, wanted = ITERATES[name]
    model = line()
    iterates = -np.outer(shares, model.solution)  # theta - p goes to shares times the solution
    assert walk_back([model.loss(share * model.solution) for share in shares]) == wanted
    step, _ = start(hessian_free(solver=Scripted(iterates)), model.objective)
    info = step(model.batch)
    assert np.allclose(model.value, shares[wanted] * model.solution, rtol=1e-14)
    assert info.new_loss == pytest.approx(model.loss(model.value), rel=1e-12, abs=1e-15)
    assert info.iterates_skipped == len(shares) - 1 - wanted


@pytest.mark.parametrize("shares", [[0.1, 1e4, 2e4], [1e4], [0.1, 0.2, 1e4]])
def test_backtracking_passes_losses_that_are_not_finite(shares):
    objective, w, batch = exponential()
    direction = np.array([1.0, 1.0])
    step, before = start(hessian_free(solver=Scripted(-np.outer(shares, direction))), objective)
    info = step(batch)
    finite = [s for s in shares if s < 1]
    assert info.accepted == bool(finite)
    assert np.allclose(w.get_value() - before, (finite[-1] if finite else 0.0) * direction)


def test_backtracking_over_the_iterates_of_a_solve():
    objective, data = problems.separable_logistic_regression()
    solver, damping = symng.CG(**CONVERGED, keep_iterates=1.3), 1e-4
    optimizer = hessian_free(solver=solver, damping=damping)
    step, before = start(optimizer, objective)
    gradient = pt.concatenate([g.ravel() for g in pytensor.grad(objective.loss, objective.params)])
    gradient = pt.specify_shape(gradient, (objective.size,))
    solution = solver.solve(symng.GaussNewton()(objective), gradient, damping=damping)
    inputs = [*objective.inputs, *objective.targets]
    iterates, count, x = pytensor.function(
        inputs, [solution.iterates, solution.iterates_count, solution.x]
    )(*data)
    assert (iterates[count - 1] == x).all() and count == 4
    loss = pytensor.function(inputs, objective.loss)
    losses = []
    for iterate in iterates[:count]:
        vectors.set_flat(objective.params, before - iterate)
        losses.append(float(loss(*data)))
    vectors.set_flat(objective.params, before)
    wanted = walk_back(losses)
    assert 0 < wanted < count - 1  # it has something to do
    info = step(data)
    assert info.new_loss == pytest.approx(losses[wanted], rel=1e-10)
    assert (
        oracles.relative_error(before - vectors.get_flat(objective.params), iterates[wanted])
        < 1e-10
    )


def test_backtracking_is_on_the_search_batch_and_at_the_step_size():
    model = line()
    iterates = -np.outer([0.4, 0.8, 1.2], model.solution)
    X, T = model.batch
    step, _ = start(
        hessian_free(solver=Scripted(iterates), step_size=symng.BacktrackingLineSearch()),
        model.objective,
    )
    step(model.batch, search_batch=(X, 0.3 * T))
    assert np.allclose(model.value, 0.4 * model.solution)
    model.w.set_value(np.zeros(2))
    step, _ = start(hessian_free(solver=Scripted(iterates), step_size=0.5), model.objective)
    step(model.batch)  # half of the last one is nearest
    assert np.allclose(model.value, 0.6 * model.solution)


def test_iterates_are_compared_as_they_are_where_the_divergence_sets_the_step():
    model = line()
    iterates = -np.outer([0.5, 0.9, 1.6], model.solution)  # p . F p of the second is 8.1
    rule = symng.KLTrustRegion(delta=8.1 / 8)
    step, _ = start(hessian_free(solver=Scripted(iterates), step_size=rule), model.objective)
    info = step(model.batch)
    assert info.iterates_skipped == 1 and info.step_size == pytest.approx(0.5)
    assert np.allclose(model.value, 0.45 * model.solution)


def test_without_kept_iterates_the_last_one_is_taken_and_there_is_nothing_to_search():
    model = line()
    step, _ = start(hessian_free(solver=symng.CG(**CONVERGED), damping=1.0), model.objective)
    info = step(model.batch)
    assert (
        info.accepted
        and np.isnan(info.iterates_skipped)
        and np.allclose(model.value, model.solution / 2)
    )
    with pytest.raises(
        ValueError, match="^search_batch: expected none where nothing is searched, got one"
    ):
        step(model.batch, search_batch=model.batch)


# Line search, rejection, damping, warm start


def test_line_search_is_along_the_iterate_that_was_taken():
    model = line()
    iterates = -np.outer([5.0, 3.0, 4.0], model.solution)
    step, _ = start(
        hessian_free(solver=Scripted(iterates), step_size=symng.BacktrackingLineSearch()),
        model.objective,
    )
    info = step(model.batch)
    assert info.step_size == 0.5 and np.allclose(model.value, 1.5 * model.solution)


def test_a_step_that_raises_the_loss_is_refused():
    model = line()
    rule = symng.HessianFree().damping
    step, before = start(
        hessian_free(solver=Scripted([model.solution]), damping=rule), model.objective
    )
    info = step(model.batch)
    assert not info.accepted and info.new_loss > info.loss and (model.value == before).all()
    assert info.damping == rule.initial and step.state["damping"].get_value() == rule.initial * 1.5


def test_the_quadratic_model_judges():
    model = line()
    rule = symng.LevenbergMarquardt(initial=2.0, ratio="quadratic")
    step, _ = start(hessian_free(solver=symng.CG(**CONVERGED), damping=rule), model.objective)
    # u = g / 3: L falls by |g|^2 (1 - 4/9) / 2, and the model by |g|^2 (1/3 - 3/18).
    assert step(model.batch).reduction_ratio == pytest.approx((5 / 18) / (1 / 6))


def test_warm_start_is_the_last_iterate_times_the_decay():
    model = line()
    shift = -0.1 * model.solution
    optimizer = hessian_free(solver=Scripted([shift, -3 * model.solution]), warm_start=0.5)
    step, _ = start(optimizer, model.objective)
    step(model.batch)
    # The first one was taken, the last one is kept.
    assert np.allclose(model.value, 0.1 * model.solution)
    assert np.allclose(step.state["direction"].get_value(), -3 * model.solution)
    model.w.set_value(np.zeros(2))
    step(model.batch)
    assert np.allclose(step.state["direction"].get_value(), (-3 - 0.5 * 3) * model.solution)
    step.hyperparameters["warm_start"].set_value(0.0)
    model.w.set_value(np.zeros(2))
    step(model.batch)
    assert np.allclose(step.state["direction"].get_value(), -3 * model.solution)


def test_small_progress_ends_the_solve():
    objective, data = problems.deep_narrow_network()
    step, before = start(hessian_free(solver=symng.HessianFree().solver, damping=1e-6), objective)
    first = step(data)
    assert first.status is symng.Status.SMALL_PROGRESS and first.accepted
    vectors.set_flat(objective.params, before)
    step.hyperparameters["progress_rtol"].set_value(0.0)
    whole = step(data)
    assert whole.status is not symng.Status.SMALL_PROGRESS
    assert (
        first.solver_iterations < whole.solver_iterations
        and first.residual_norm > whole.residual_norm
    )


# Types and settings


def test_float32_stays():
    case = oracles.mlp_case("categorical", dtype="float32")
    step, before = start(
        symng.HessianFree(solver=symng.CG(maxiter=5, keep_iterates=1.3)), case.objective
    )
    info = step(tuple(case.givens.values()))
    assert info.accepted and (vectors.get_flat(case.params) != before).any()
    for variable in (*case.params, *(v for name, v in step.state.items() if name != "step")):
        assert variable.get_value().dtype == "float32", variable
    nodes = nodes_of(step.functions[0])
    wide = [
        v
        for node in nodes
        for v in node.outputs
        if getattr(v.type, "ndim", 0) and v.type.dtype == "float64"
    ]
    assert not wide
    for name, record in step.build().records.items():
        assert record.dtype in ("float32", "int64", "bool"), name


@pytest.mark.parametrize("value", ["jacobi", 0.75])
def test_bad_preconditioner(value):
    with pytest.raises(
        (TypeError, ValueError),
        match="^preconditioner: expected 'martens', None, a Preconditioner or a callable",
    ):
        symng.HessianFree(preconditioner=value)
