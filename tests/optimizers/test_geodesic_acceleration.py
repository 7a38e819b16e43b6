"""Geodesic acceleration, against dense matrices and differences of the outputs along the step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.compiled import REWRITTEN_GRAPH, nodes_of
from helpers.modes import step_modes
from helpers.small_steps import TIGHT, line, start
from pytensor.tensor.linalg import QR as QROp
from pytensor.tensor.linalg import Cholesky

import symng
from symng import vectors

MODE = "FAST_COMPILE"
SOLVERS = {**TIGHT, "QR": symng.QR(), "Woodbury": symng.Woodbury()}
DAMPING = 0.7


def curved(**settings: Any) -> symng.NaturalGradient:
    return symng.NaturalGradient(
        **{"solver": TIGHT["CG"], "damping": DAMPING, "geodesic_acceleration": True, **settings}
    )


def second_difference(r: Any, params: Any, givens: dict, p: np.ndarray) -> np.ndarray:
    """Return the second derivative of ``r`` along ``p``, by differences of fourth order."""
    f = pytensor.function(list(givens), r, mode=MODE, on_unused_input="ignore")
    theta, h = vectors.get_flat(params), 1e-2 / np.linalg.norm(p)
    at = {}
    for k in range(-2, 3):
        vectors.set_flat(params, theta + k * h * p)
        at[k] = f(*givens.values())
    vectors.set_flat(params, theta)
    return (16 * (at[1] + at[-1]) - at[2] - at[-2] - 30 * at[0]) / (12 * h**2)


def dense_parts(case: oracles.Case, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return p, and c before any is left out, of the damped Fisher matrix times ``scale``."""
    g = scale * oracles.example_gradients(case).mean(axis=0)
    A = scale * oracles.fisher(case) + DAMPING * np.eye(case.size)
    p = np.linalg.solve(A, g)
    bend = np.zeros(case.size)
    for kind, r in zip(case.kinds, case.rs, strict=True):
        units = oracles.value(r, case.givens).shape[-1]
        J = oracles.jacobian(r, case.params, case.givens).reshape(-1, units, case.size)
        rows = oracles.value(r, case.givens).reshape(-1, units)
        bent = second_difference(r, case.params, case.givens, p).reshape(-1, units)
        for J_n, r_n, b_n in zip(J, rows, bent, strict=True):
            bend += scale * J_n.T @ oracles.metric_on_r(kind, r_n) @ b_n / case.examples
    return p, np.linalg.solve(A, bend / 2)


CASES = {
    **{kind: lambda kind=kind: oracles.mlp_case(kind) for kind in oracles.KINDS},
    "several": oracles.several_case,
    "recurrent": oracles.recurrent_case,
}


@pytest.mark.parametrize("kind", CASES)
def test_the_step_is_the_dense_one(kind: str) -> None:
    case = CASES[kind]()
    p, c = dense_parts(case)
    ratio = 2 * np.linalg.norm(c) / np.linalg.norm(p)
    assert 0.02 < ratio < 0.75
    step, theta = start(curved(step_size=0.8), case.objective, MODE)
    info = step(tuple(case.givens.values()))
    moved = theta - vectors.get_flat(case.params)
    assert info.acceleration_ratio == pytest.approx(ratio, rel=1e-5)
    assert oracles.relative_error(moved, 0.8 * p + 0.64 * c) < 1e-6
    assert info.update_norm == pytest.approx(np.linalg.norm(moved))


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_finds_it(name: str) -> None:
    case = oracles.mlp_case("categorical")
    p, c = dense_parts(case)
    step, theta = start(curved(solver=SOLVERS[name]), case.objective, MODE)
    step(tuple(case.givens.values()))
    assert oracles.relative_error(theta - vectors.get_flat(case.params), p + c) < 1e-6


def test_gauss_newton_has_the_scale_of_the_loss() -> None:
    case = oracles.mlp_case("poisson")
    p, c = dense_parts(case, scale=3.0)
    scaled = oracles.mlp_case("poisson", scale=3.0)
    step, theta = start(curved(metric=symng.GaussNewton()), scaled.objective, MODE)
    step(tuple(scaled.givens.values()))
    assert oracles.relative_error(theta - vectors.get_flat(scaled.params), p + c) < 1e-6


def square_model() -> tuple[symng.Objective, Any, Any]:
    """Return a model with as many outputs as parameters, its parameters and a batch."""
    w = pytensor.shared(np.array([0.3, -0.2, 0.4]), name="w")
    x = pt.matrix("x")
    r = x @ (pt.sinh(w) + pt.sqr(w)[::-1] / 3) - x @ pt.constant([0.8, 0.4, -0.3])
    objective = symng.Objective(pt.sqr(r).mean() / 2, r, [w], [x], likelihood=symng.Gaussian())
    return objective, w, (np.array([[1.0, 0.2, 0.0], [0.1, 1.0, -0.3], [0.0, 0.4, 1.0]]),)


def test_it_follows_the_straight_line_of_the_outputs_to_third_order() -> None:
    """Undamped, a step of size eta aims at residuals (1 - eta) r, where J is square."""
    missed: dict[bool, list[float]] = {False: [], True: []}
    objective, w, batch = square_model()
    before = w.get_value()
    residual = symng.compile_function([*objective.inputs], objective.outputs[0], mode=MODE)
    r = residual(*batch)
    for accelerated in missed:
        optimizer = curved(solver=symng.QR(), damping=0.0, geodesic_acceleration=accelerated)
        step = symng.compile_step(objective, optimizer, mode=MODE)
        for eta in (0.08, 0.04, 0.02):
            w.set_value(before)
            step.hyperparameters["step_size"].set_value(eta)
            step(batch)
            missed[accelerated].append(float(np.linalg.norm(residual(*batch) - (1 - eta) * r)))
    orders = {key: np.log2(np.array(e[:-1]) / e[1:]) for key, e in missed.items()}
    np.testing.assert_allclose(orders[False], 2, atol=0.1)
    np.testing.assert_allclose(orders[True], 3, atol=0.1)


def test_the_line_search_looks_along_the_curve() -> None:
    case = oracles.mlp_case("poisson")
    batch = tuple(case.givens.values())
    optimizer = curved(step_size=symng.BacktrackingLineSearch(size=4.0))
    step, theta = start(optimizer, case.objective, MODE)
    p, c = dense_parts(case)
    info = step(batch, search_batch=batch)
    eta = info.step_size
    moved = theta - vectors.get_flat(case.params)
    assert 0 < eta < 4 and oracles.relative_error(moved, eta * p + eta**2 * c) < 1e-6
    assert info.new_loss == pytest.approx(oracles.value(case.loss, case.givens))


@pytest.mark.slow
def test_the_model_predicts_for_the_straight_step() -> None:
    case = oracles.mlp_case("categorical")
    p, _ = dense_parts(case)
    g = oracles.example_gradients(case).mean(axis=0)
    for name in ("CG", "MinresQLP"):
        rule = symng.LevenbergMarquardt(initial=DAMPING, ratio="quadratic")
        step, theta = start(curved(solver=TIGHT[name], damping=rule), case.objective, MODE)
        info = step(tuple(case.givens.values()))
        decrease = info.loss - oracles.value(case.loss, case.givens)
        assert info.reduction_ratio == pytest.approx(decrease / (g @ p / 2), rel=1e-6)
        vectors.set_flat(case.params, theta)


def test_a_large_one_is_left_out() -> None:
    """Of exp(3 w), c is 3 / 2 p^2, for a step of p at w = 0."""
    x = pt.vector("x")
    w = pytensor.shared(np.zeros(()), name="w")
    y = x * pt.exp(3 * w)
    taken = []
    for target, ratio in ((3.0, 2.0), (1.2, 0.2)):
        objective = symng.Objective(
            pt.sqr(y - target).mean() / 2, y, [w], [x], likelihood=symng.Gaussian()
        )
        w.set_value(0.0)
        step = symng.compile_step(objective, curved(solver=symng.QR(), damping=0.0), mode=MODE)
        info = step((np.ones(1),))
        p = -(target - 1) / 3
        assert info.acceleration_ratio == pytest.approx(ratio) and info.accepted
        taken.append(w.get_value() != pytest.approx(-p))
        if taken[-1]:
            assert w.get_value() == pytest.approx(-p - 3 * p**2 / 2)
    assert taken == [False, True]


def test_a_linear_model_has_none() -> None:
    model = line()
    step, _ = start(curved(damping=0.0), model.objective, MODE)
    info = step(model.batch)
    assert info.acceleration_ratio == 0 and np.allclose(model.value, model.solution)


def test_a_solve_that_finds_nothing_leaves_it_out() -> None:
    class Once:
        """Solve by QR for the gradient, and find nothing for other right-hand sides."""

        solves = 0

        def solve(self, A, b, damping=0.0, x0=None, preconditioner=None):
            self.solves += 1
            solution = symng.QR().solve(A, b, damping)
            return solution if self.solves == 1 else replace(solution, x=solution.x * np.nan)

    case = oracles.mlp_case("categorical")
    p, _ = dense_parts(case)
    step, theta = start(curved(solver=Once()), case.objective, MODE)
    info = step(tuple(case.givens.values()))
    assert np.isnan(info.acceleration_ratio) and info.accepted
    assert oracles.relative_error(theta - vectors.get_flat(case.params), p) < 1e-6


@pytest.mark.slow
def test_chunks_and_sums_are_the_full_batch() -> None:
    """A batch that is split into chunks, or into two terms of a sum, bends as one."""
    found = []
    for way in ("full", "chunks", "sum"):
        case = oracles.mlp_case("bernoulli")
        objective, batch = case.objective, tuple(case.givens.values())
        data: Any = batch
        if way == "sum":
            objective = 0.4 * objective + 0.6 * objective
            data = tuple(a[:2] for a in batch), tuple(a[2:] for a in batch)
        chunk_size = 2 if way == "chunks" else None
        step = symng.compile_step(objective, curved(), mode=MODE, chunk_size=chunk_size)
        info = step(data)
        found.append((vectors.get_flat(case.params), info.acceleration_ratio))
    for theta, ratio in found[1:]:
        np.testing.assert_allclose(theta, found[0][0], rtol=1e-9)
        assert ratio == pytest.approx(found[0][1], rel=1e-9)


@pytest.mark.slow
def test_it_bends_on_the_metric_batch() -> None:
    case, other = oracles.mlp_case("gaussian"), oracles.mlp_case("gaussian")
    batch = tuple(case.givens.values())
    twice = (np.concatenate([batch[0], batch[0]]),)
    moved = []
    for objective, metric_batch in ((case.objective, None), (other.objective, twice)):
        step = symng.compile_step(objective, curved(), mode=MODE)
        step(batch, metric_batch)
        moved.append(vectors.get_flat(objective.params))
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-9)


def test_the_second_solve_is_preconditioned() -> None:
    """One iteration with the inverse itself is enough for both."""
    case = oracles.mlp_case("gaussian")
    p, c = dense_parts(case)
    inverse = np.linalg.inv(oracles.fisher(case) + DAMPING * np.eye(case.size))
    optimizer = curved(
        solver=symng.CG(rtol=1e-6, maxiter=1),
        preconditioner=lambda A, damping: lambda v: pt.dot(pt.constant(inverse), v),
    )
    step, theta = start(optimizer, case.objective, MODE)
    step(tuple(case.givens.values()))
    assert oracles.relative_error(theta - vectors.get_flat(case.params), p + c) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("solver, op", [(symng.QR(), QROp), (symng.Woodbury(), Cholesky)])
def test_direct_solvers_factorize_once(solver: Any, op: type) -> None:
    case = oracles.mlp_case("categorical")
    counts = []
    for accelerated in (False, True):
        optimizer = curved(solver=solver, geodesic_acceleration=accelerated)
        updates = optimizer.updates(case.objective)
        f = pytensor.function(list(case.givens), updates=updates, mode=REWRITTEN_GRAPH)
        counts.append(sum(isinstance(node.op, op) for node in nodes_of(f)))
    assert counts == [1, 1]


@pytest.mark.parametrize(
    "metric", [symng.EmpiricalFisher(), symng.Hessian(), symng.StructuralDamping()]
)
def test_metrics_without_outputs_are_refused(metric: symng.Metric) -> None:
    with pytest.raises(TypeError, match="metric: expected symng.Fisher or symng.GaussNewton"):
        curved(metric=metric)
    with pytest.raises(TypeError, match="geodesic_acceleration: expected True or False"):
        symng.NaturalGradient(geodesic_acceleration=0.75)


def test_types_and_repr() -> None:
    optimizer = curved(solver=symng.QR())
    assert eval(repr(optimizer), vars(symng)) == optimizer
    step, _ = start(optimizer, oracles.mlp_case("categorical", dtype="float32").objective)
    for name, record in step.build().records.items():
        assert record.dtype in ("float32", "int64", "bool"), name


@pytest.mark.parametrize("mode", step_modes())
def test_backends(mode: str) -> None:
    """On each, over some steps of a sum with a derivative by the inputs in its first output."""
    found = []
    for this in (MODE, mode):
        rng = np.random.default_rng(3)
        w, v = (pytensor.shared(rng.standard_normal(s)) for s in ((2, 4), (4,)))
        x, z = pt.matrix("x"), pt.matrix("z")

        def u(points: Any, w: Any = w, v: Any = v) -> Any:
            return pt.tanh(points @ w) @ v

        slope = pt.grad(u(x).sum(), x)[:, 0]
        r = slope + u(x) ** 2
        gaussian = symng.Gaussian()
        inside = symng.Objective(pt.sqr(r).mean() / 2, r, [w, v], [x], likelihood=gaussian)
        edge = symng.Objective(pt.sqr(u(z)).mean() / 2, u(z), [w, v], [z], likelihood=gaussian)
        data = (rng.random((9, 2)),), (rng.random((4, 2)),)
        optimizer = curved(solver=symng.QR(), damping=1e-2)
        step = symng.compile_step(inside + 3 * edge, optimizer, mode=this)
        ratios = [step(data).acceleration_ratio for _ in range(4)]
        found.append((vectors.get_flat([w, v]), ratios))
    assert any(0 < ratio <= 0.75 for ratio in found[0][1])
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-6)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-5)
