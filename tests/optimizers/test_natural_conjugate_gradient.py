"""Natural conjugate gradient.

The search in a plane, conjugacy, the formulas against conjugate gradients in NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles, problems
from helpers.compiled import REWRITTEN_GRAPH, float64_tensors
from helpers.modes import modes
from helpers.small_steps import Unit, exponential, line, start, train
from scipy import optimize, special

import symng
from symng import vectors
from symng.optimizers._plane_search import model_axes, search_plane
from symng.optimizers.beta_rules.plane import plane_minimizer

NCG = symng.NaturalConjugateGradient
FORMULAS = ("polak-ribiere", "fletcher-reeves", "hestenes-stiefel")
EXACT = {"max_evaluations": 400, "tolerance": 1e-7}


@dataclass(frozen=True, kw_only=True)
class Fixed(symng.Metric):
    """A matrix that is given, whatever the objective."""

    matrix: Any = field(default=None, compare=False)

    def product(self, objective, v):
        return v if self.matrix is None else pt.constant(self.matrix) @ v


@dataclass(frozen=True)
class Dense:
    """Solve with the matrix of `Fixed`, without a loop."""

    matrix: Any

    def solve(self, A, b, damping=0.0, x0=None, preconditioner=None):
        x = pt.linalg.solve(self.matrix + damping * np.eye(len(self.matrix)), b)
        return replace(Unit().solve(A, b), x=x)


@dataclass(frozen=True, kw_only=True)
class ExactStep(symng.StepSize):
    """The minimum of a parabola through two values and the slope."""

    searches = True

    def initial(self):
        return 1.0

    def find(self, loss_at, loss, slope, size=None):
        size = slope / (2 * (loss_at(pt.ones_like(loss)) - loss + slope))
        return size, loss_at(size), pt.constant(np.array(True))


def positive_definite(n, seed, scale=1.0):
    """Return a symmetric positive definite matrix."""
    A = np.random.default_rng(seed).standard_normal((n, n))
    return scale * (A @ A.T + 0.5 * np.eye(n))


def quadratic(n=6):
    """Return linear least squares, its batch, its Hessian and its solution."""
    rng = np.random.default_rng(2)
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.zeros(n), name="w")
    y = x @ w
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    )
    X, T = rng.standard_normal((20, n)) * np.linspace(0.3, 2, n), rng.standard_normal(20)
    return objective, w, (X, T), X.T @ X / 20, np.linalg.lstsq(X, T, rcond=None)[0]


# The search on the host


class Counted:
    """Count the calls of a function."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, c):
        self.calls.append(np.array(c))
        return float(self.function(c))


def plane_of(H, K, s, loss=3.0, **settings):
    """Search the plane of a quadratic of Hessian H with a model of Hessian K."""
    f = Counted(lambda c: loss - s @ c + c @ H @ c / 2)
    return search_plane(
        f, loss, s, K, **{"max_evaluations": 40, "radius": 0.5, "tolerance": 1e-2, **settings}
    ), f


def excess(H, s, c):
    """Return what is missing to the decrease of the quadratic, in units of it."""
    best = np.linalg.lstsq(H, s, rcond=None)[0]
    return float(1 - (s @ c - c @ H @ c / 2) / (s @ best / 2))


def test_right_model_is_tried_first():
    H, s = positive_definite(2, 0), np.array([1.0, -2.0])
    c, f = plane_of(H, H, s)
    assert np.allclose(f.calls[0], np.linalg.solve(H, s)) and excess(H, s, c) < 1e-12


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_wrong_model(seed, scale):
    H, K, s = (
        positive_definite(2, seed),
        positive_definite(2, seed + 10, scale),
        np.array([1.0, -2.0]),
    )
    c, f = plane_of(H, K, s, max_evaluations=300, tolerance=1e-6)
    assert excess(H, s, c) < 1e-7 and len(f.calls) < 300
    rough, f = plane_of(H, K, s)
    assert 0 <= excess(H, s, rough) < 0.3 and len(f.calls) <= 40


@pytest.mark.parametrize("units", [(1.0, 1.0), (1e-8, 1.0), (1.0, 1e6)])
def test_axes_make_the_model_round_whatever_the_units(units):
    K, s = positive_definite(2, 3) * np.outer(units, units), np.array([0.5, 2.0]) * units
    axes = model_axes(s, K)
    assert np.allclose(axes[0], np.linalg.solve(K, s)) and axes.shape == (2, 2)
    assert np.allclose(axes @ K @ axes.T, s @ axes[0] * np.eye(2))


def test_one_vector_is_zero_or_both_are_parallel():
    for H, s in (
        ([[2.0, 0], [0, 0]], [3.0, 0]),
        ([[0, 0], [0, 2.0]], [0, 3.0]),
        ([[2.0, -4], [-4, 8]], [3.0, -6.0]),
    ):
        H, s = np.array(H), np.array(s)
        c, f = plane_of(H, 5 * H, s)
        assert excess(H, s, c) < 1e-3 and np.isfinite(c).all()
        assert np.linalg.matrix_rank(np.array(f.calls)) == 1  # searched along a line


def test_indefinite_model_starts_downhill():
    K, s = np.diag([1.0, -4.0]), np.array([1.0, 1.0])
    assert np.allclose(model_axes(s, K)[0], [1.0, 0.25])
    c, _ = plane_of(np.eye(2), K, s)
    assert excess(np.eye(2), s, c) < 1e-2


def test_losses_that_are_not_finite_do_not_end_the_search():
    s = np.array([1.0, 0.5])
    for bad in (math.nan, math.inf, -math.inf):
        f = Counted(lambda c, bad=bad: bad if np.linalg.norm(c) > 1.2 else 3 - s @ c + c @ c / 2)
        c = search_plane(
            f, 3.0, s, 1e-4 * np.eye(2), max_evaluations=40, radius=0.5, tolerance=1e-2
        )
        assert not math.isfinite(f.function(f.calls[0])) and excess(np.eye(2), s, c) < 0.05


def test_where_nothing_is_lower_theta_stays():
    s, K = np.array([1.0, 0.5]), np.eye(2)
    settings = {"max_evaluations": 12, "radius": 0.5, "tolerance": 1e-2}
    for f in (Counted(lambda c: 3 + c @ c), Counted(lambda c: math.nan), Counted(lambda c: 3.0)):
        assert (search_plane(f, 3.0, s, K, **settings) == 0).all() and len(f.calls) == 12
    f = Counted(lambda c: 0.0)
    nothing = np.zeros(2)
    for loss, slopes, matrix in (
        (math.nan, s, K),
        (3.0, s * math.nan, K),
        (3.0, s, K + math.inf),
        (3.0, nothing, K),
        (3.0, s, 0 * K),
    ):
        assert (search_plane(f, loss, slopes, matrix, **settings) == 0).all() and not f.calls


@pytest.mark.parametrize("most", range(1, 9))
def test_number_of_evaluations(most):
    H, s = positive_definite(2, 0), np.array([1.0, -2.0])
    for K in (3 * H, 0.05 * H):
        c, f = plane_of(H, K, s, max_evaluations=most)
        values = [f.function(c) for c in f.calls]
        assert len(f.calls) <= most and f.function(c) == min([*values, 3.0])
    assert len(plane_of(H, 3 * H, s, max_evaluations=4)[1].calls) == 4


# NCG-L: the direction


@pytest.mark.parametrize("metric", ["fixed", "empirical"])
def test_direction_is_conjugate_in_the_hessian_whatever_the_metric(metric):
    objective, w, batch, H, solution = quadratic()
    M = positive_definite(6, 5)
    fixed = {"metric": Fixed(matrix=M), "solver": Dense(M), "damping": 0.5}
    empirical = {"metric": symng.EmpiricalFisher(), "solver": symng.CG(rtol=1e-12), "damping": 0.1}
    step, theta = start(NCG(**(fixed if metric == "fixed" else empirical), **EXACT), objective)
    updates, thetas, infos = [], [theta], []
    for _ in range(4):
        infos.append(step(batch))
        updates.append(thetas[-1] - w.get_value())
        thetas.append(w.get_value())

    def cosine(u, v):
        return abs(u @ H @ v) / math.sqrt((u @ H @ u) * (v @ H @ v))

    for i in range(1, 4):
        gradient = H @ (thetas[i] - solution)
        # Equation 23: the previous step went to the minimum along it.
        assert abs(gradient @ updates[i - 1]) < 1e-5 * np.linalg.norm(gradient) * np.linalg.norm(
            updates[i - 1]
        )
        assert cosine(updates[i], updates[i - 1]) < 1e-5
        X, T = batch
        rows = X * (X @ thetas[i] - T)[:, None]
        matrix = M + 0.5 * np.eye(6) if metric == "fixed" else rows.T @ rows / 20 + 0.1 * np.eye(6)
        natural = np.linalg.solve(matrix, gradient)
        assert cosine(natural, updates[i - 1]) > 1e-2  # which the natural direction is not
        # The records are those of equation 22.
        direction = natural + infos[i].beta * updates[i - 1] / infos[i - 1].step_size
        assert oracles.relative_error(infos[i].step_size * direction, updates[i]) < 1e-7
        assert infos[i].reduction_ratio == pytest.approx(
            (infos[i].loss - infos[i].new_loss) / (gradient @ natural)
        )
        assert infos[i].accepted and not infos[i].restarted
    assert infos[0].beta == 0 and not infos[0].restarted


def preconditioned_cg(H, b, M, steps):
    """Return the iterates of linear conjugate gradients for H x = b, preconditioned by M."""
    x, r = np.zeros_like(b), b
    z = np.linalg.solve(M, r)
    p, iterates = z, []
    for _ in range(steps):
        alpha = r @ z / (p @ H @ p)
        x, rest = x + alpha * p, r - alpha * H @ p
        following = np.linalg.solve(M, rest)
        p = following + rest @ following / (r @ z) * p
        r, z = rest, following
        iterates.append(x)
    return iterates


@pytest.mark.parametrize("beta", ["search", *FORMULAS])
def test_on_a_quadratic_the_steps_are_those_of_linear_conjugate_gradients(beta):
    objective, w, (X, T), H, solution = quadratic()
    M = positive_definite(6, 5)
    settings = EXACT if beta == "search" else {"step_size": ExactStep()}
    step, _ = start(
        NCG(metric=Fixed(matrix=M), solver=Dense(M), damping=0.5, beta=beta, **settings), objective
    )
    iterates = preconditioned_cg(H, X.T @ T / 20, M + 0.5 * np.eye(6), 6)
    for wanted in iterates:
        step((X, T))
        assert oracles.relative_error(w.get_value(), wanted) < (1e-3 if beta == "search" else 1e-9)
    assert oracles.relative_error(iterates[-1], solution) < 1e-9


def test_plane_search_against_a_dense_grid_on_a_deep_network():
    objective, batch = problems.deep_narrow_network()
    step, before = start(
        NCG(solver=Unit(), damping=0.3, tolerance=1e-4, max_evaluations=100), objective
    )
    inputs = [*objective.inputs, *objective.targets]
    params = objective.params
    slopes = pytensor.function(inputs, vectors.ravel(pytensor.grad(objective.loss, params), params))
    theta = pt.dvector("theta")
    loss = pytensor.function([theta, *inputs], objective.loss_at(vectors.split(theta, params)))
    previous, alpha = np.zeros_like(before), 1.0
    for _ in range(3):
        along = np.array([slopes(*batch) / 1.3, previous])
        info = step(batch)
        after = vectors.get_flat(params)
        found = np.array([info.step_size, info.beta * info.step_size / alpha])
        assert info.accepted and oracles.relative_error(before - after, found @ along) < 1e-7
        before, earlier, alpha = after, before, info.step_size
        previous = earlier - after
        assert np.allclose(step.state["search_direction"].get_value(), previous, atol=1e-14)

    def in_plane(c):
        return float(loss(earlier - c @ along, *batch))

    # The third step, against a grid around what was found, the best point near it, and the natural
    # direction alone.
    width = 3 * abs(found)
    grid = min(
        in_plane(found + width * [i, j])
        for i in np.linspace(-1, 1, 21)
        for j in np.linspace(-1, 1, 21)
    )
    best = optimize.minimize(
        in_plane, found, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}
    )
    assert info.loss - info.new_loss > 0.999 * (info.loss - min(grid, best.fun))
    alone = optimize.minimize_scalar(lambda a: in_plane([a, 0]), bounds=(0.0, 2 * width[0]))
    assert info.loss - info.new_loss > 1.5 * (info.loss - alone.fun) > 0


# NCG-L: what is accepted, the damping, restarts


def test_damping_follows_what_the_natural_direction_promised():
    # With F = I the search goes to the solution whatever the damping: half of |g|^2 is gained.
    for rule, ratio in (
        (symng.LevenbergMarquardt(), 2.0),  # (1 + 3) / 2: the promise was |g|^2 / (1 + 3)
        (symng.LevenbergMarquardt(ratio="quadratic"), 4.0),
        (symng.LevenbergMarquardt(ratio="quadratic", damped_model=False), 16 / 7),
        (symng.LevenbergMarquardt(initial=0.0), 0.5),
    ):
        model = line()
        step, _ = start(NCG(solver=Unit(), damping=rule, **EXACT), model.objective)
        info = step(model.batch)
        assert np.allclose(
            model.value, model.solution, atol=1e-5
        ) and info.step_size == pytest.approx(1 + rule.initial)
        assert info.reduction_ratio == pytest.approx(ratio, rel=1e-6)
        assert step.state["damping"].get_value() == (2.0 if rule.initial else 0.0)


def test_rejected_step_and_the_restart_after_it():
    model = line()
    X, T = model.batch
    step, _ = start(NCG(solver=Unit(), max_evaluations=3, warm_start=0.5), model.objective)
    first = step((X, T / 2))
    assert (
        first.accepted and not first.restarted and first.beta == 0 and first.search_evaluations == 3
    )
    before = model.value
    assert np.allclose(step.state["search_direction"].get_value(), -before)
    damping = float(step.state["damping"].get_value())
    info = step((X, T), search_batch=(X, -T))  # on which every way down is one up
    assert (
        not info.accepted
        and info.step_size == 0
        and info.new_loss == info.loss
        and info.update_norm == 0
    )
    assert (model.value == before).all() and step.state["damping"].get_value() == pytest.approx(
        1.5 * damping
    )
    assert (step.state["search_direction"].get_value() == 0).all() and math.isnan(info.beta)
    assert info.search_evaluations == 3
    info = step((X, T))
    assert info.accepted and info.restarted and info.beta == 0 and info.new_loss < info.loss
    info = step((X[:, ::-1].copy(), T))
    assert not info.restarted and info.beta != 0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loss_that_overflows(dtype):
    objective, w, batch = exponential(dtype)
    step, _ = start(NCG(solver=Unit(), damping=1.0), objective)
    # Far along the line it is infinite: found, and gone around.
    step.state["search_direction"].set_value(np.full(2, -1e4, dtype=dtype))
    info = step(batch)
    assert info.accepted and info.new_loss < info.loss and np.isfinite(w.get_value()).all()
    # At theta itself it is: nothing is searched.
    damping = float(step.state["damping"].get_value())
    w.set_value(np.full(2, 1e4, dtype=dtype))
    info = step(batch)
    assert not info.accepted and info.search_evaluations == 0 and info.update_norm == 0
    assert (w.get_value() == 1e4).all() and step.state["damping"].get_value() == damping
    assert all(np.isfinite(v.get_value()).all() for v in step.state.values())
    w.set_value(np.zeros(2, dtype=dtype))
    info = step(batch)
    assert info.accepted and info.restarted


def test_at_the_optimum_nothing_happens():
    model = line(start=(3.0, -1.0))
    step, before = start(NCG(solver=Unit()), model.objective)
    for _ in range(2):
        info = step(model.batch)
        assert info.gradient_norm == 0 and info.update_norm == 0 and info.search_evaluations == 0
        assert (model.value == before).all() and step.state["damping"].get_value() == 3.0
    model.w.set_value(np.zeros(2))
    assert step(model.batch).accepted and np.allclose(model.value, model.solution, atol=0.1)


@pytest.mark.parametrize("search", ["same", "all", "other"])
def test_loss_on_the_search_batch_never_rises(search):
    objective, data = problems.overlapping_logistic_regression()
    inputs = [*objective.inputs, *objective.targets]
    loss = pytensor.function(inputs, objective.loss)
    step, _ = start(NCG(metric=Fixed(), solver=Unit(), damping=1e-2, max_evaluations=8), objective)
    rng, infos = np.random.default_rng(0), []
    for _ in range(12):
        one, other = (
            tuple(a[rows] for a in data) for rows in np.split(rng.permutation(60)[:10], 2)
        )
        batch = {"same": one, "all": data, "other": other}[search]
        before = float(loss(*batch))
        infos.append(step(one, search_batch=None if search == "same" else batch))
        after = float(loss(*batch))
        assert after < before if infos[-1].accepted else after == before
    assert sum(info.accepted for info in infos) > 3
    assert [info.restarted for info in infos] == [
        False,
        *(not info.accepted for info in infos[:-1]),
    ]


# NCG-F


def by_hand(formula, loss_and_slope, theta, steps, search=None, size=1.0):
    """Take nonlinear conjugate gradient steps; return parameters, sizes, betas and restarts."""
    told, previous = [], None
    for number in range(steps):
        loss, g = loss_and_slope(theta)
        beta, direction = 0.0, g
        if previous is not None:
            g0, d0 = previous
            y = g - g0
            wanted = {
                "polak-ribiere": g @ y / (g0 @ g0),
                "fletcher-reeves": g @ g / (g0 @ g0),
                "hestenes-stiefel": g @ y / (-d0 @ y),
            }[formula]
            if wanted >= 0 and g @ (g + wanted * d0) > 0:
                beta, direction = wanted, g + wanted * d0
        alpha = size
        while search and loss_and_slope(theta - alpha * direction)[0] > loss - 1e-4 * alpha * (
            g @ direction
        ):
            alpha /= 2
        theta = theta - alpha * direction
        told.append((theta, alpha, beta, number > 0 and direction is g))
        previous = g, direction
    return told


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize(
    "rule", [symng.BacktrackingLineSearch(size=32.0), 20.0], ids=["search", "fixed"]
)
def test_formulas_are_nonlinear_conjugate_gradients_where_the_metric_is_the_identity(formula, rule):
    objective, (X, T) = problems.overlapping_logistic_regression()
    theta = np.array([2.0, 3.0, -2.0, 0.5])
    vectors.set_flat(objective.params, theta)

    def loss_and_slope(theta):
        r = X @ theta[:3, None] + theta[3]
        rest = (special.expit(r) - T) / 60
        return (np.logaddexp(0, r) - T * r).mean(), np.append(X.T @ rest, rest.sum())

    step, _ = start(
        NCG(metric=Fixed(), solver=Unit(), damping=0.0, beta=formula, step_size=rule), objective
    )
    searches = rule != 20.0
    told = by_hand(formula, loss_and_slope, theta, 15, searches, 32.0 if searches else rule)
    for theta, alpha, beta, restarted in told:
        info = step((X, T))
        assert info.accepted and info.restarted == restarted and info.step_size == alpha
        assert info.beta == pytest.approx(beta, rel=1e-6) and math.isnan(info.search_evaluations)
        assert oracles.relative_error(vectors.get_flat(objective.params), theta) < 1e-8
    # All of it has happened.
    assert (
        0 < sum(restarted for *_, restarted in told) < 14
        and (len({alpha for _, alpha, *_ in told}) > 1) == searches
    )


def test_rejected_step_restarts_a_formula():
    objective, w, batch = exponential()
    step, _ = start(
        NCG(solver=Unit(), damping=1.0, beta="fletcher-reeves", step_size=0.1), objective
    )
    assert not step(batch).restarted and step(batch).beta > 0
    step.hyperparameters["step_size"].set_value(1e6)
    before = w.get_value()
    info = step(batch)
    assert not info.accepted and not info.restarted and (w.get_value() == before).all()
    step.hyperparameters["step_size"].set_value(0.1)
    info = step(batch)
    assert info.accepted and info.restarted and info.beta == 0
    assert not step(batch).restarted
    w.set_value(np.full(2, 1e4))  # neither loss nor gradient is finite
    assert not step(batch).accepted
    assert all(np.isfinite(v.get_value()).all() for v in step.state.values())


def test_formula_is_of_one_stage_and_gives_updates():
    model = line()
    optimizer = NCG(solver=Unit(), beta="polak-ribiere", damping=1.0)
    inputs = [*model.objective.inputs, *model.objective.targets]
    function = pytensor.function(inputs, updates=optimizer.updates(model.objective))
    for _ in range(3):
        function(*model.batch)
    taken = model.value
    model.w.set_value(np.zeros(2))
    step, _ = start(optimizer, model.objective)
    for _ in range(3):
        step(model.batch)
    assert (model.value == taken).all() and model.loss(taken) < 0.1
    with pytest.raises(
        ValueError, match="^optimizer: expected one whose step is a single stage, got Natural"
    ):
        NCG(solver=Unit()).updates(model.objective)


# In the loop


def test_run_and_resumed_run(tmp_path):
    settings = {
        "batch_size": 8,
        "metric_batch": "other",
        "metric_batch_size": 6,
        "search_batch": "other",
    }
    optimizer = NCG(solver=Unit(), warm_start=0.5, damping=symng.LevenbergMarquardt(initial=30.0))
    whole = train(optimizer, **settings, max_steps=7)
    for steps in (3, 7):
        resumed = train(optimizer, **settings, max_steps=steps, checkpoint=tmp_path / "run.npz")
    one, two = whole.history.to_dict(), resumed.history.to_dict()
    for name in set(one) - {"seconds"}:
        assert np.array_equal(one[name], two[name], equal_nan=True), name
    for name, variable in whole.step.state.items():
        assert (variable.get_value() == resumed.step.state[name].get_value()).all(), name
    assert set(whole.step.state) == {
        "step",
        "damping",
        "direction",
        "search_direction",
        "previous_step_size",
    }
    assert "step_size" not in whole.step.hyperparameters
    assert 0 < np.mean(one["accepted"]) and (one["search_evaluations"] <= 40).all()


def test_interrupt_in_the_search_changes_nothing(monkeypatch):
    model = line()
    step, before = start(NCG(solver=Unit()), model.objective)
    step.compile(model.batch)
    state = {name: v.get_value() for name, v in step.state.items()}

    def interrupted(loss_at, *arguments, **settings):
        loss_at(np.ones(2))
        raise KeyboardInterrupt

    monkeypatch.setattr("symng.optimizers.beta_rules.plane.search_plane", interrupted)
    with pytest.raises(KeyboardInterrupt):
        step(model.batch)
    assert (model.value == before).all() and all(
        (v.get_value() == state[n]).all() for n, v in step.state.items()
    )


@pytest.mark.parametrize(
    "beta, step_size", [("search", None), ("quadratic", None), ("hestenes-stiefel", 0.5)]
)
def test_float32_stays(beta, step_size):
    case = oracles.mlp_case("categorical", dtype="float32")
    optimizer = NCG(solver=Unit(), beta=beta, warm_start=0.5, step_size=step_size)
    batch = tuple(case.givens.values())
    step, _ = start(optimizer, case.objective)
    infos = [step(batch) for _ in range(2)]
    assert all(info.accepted and info.new_loss < info.loss for info in infos)
    for variable in (*case.params, *(v for name, v in step.state.items() if name != "step")):
        assert variable.get_value().dtype == "float32", variable
    rewritten, _ = start(optimizer, case.objective, REWRITTEN_GRAPH)
    rewritten.compile(batch)
    assert len(rewritten.functions) == (3 if beta == "search" else 1)
    for function in rewritten.functions:
        assert not float64_tensors(function)
    for name, record in step.build().records.items():
        assert record.dtype in ("float32", "int64", "bool"), name


@pytest.fixture(scope="module")
def full_batches():
    """A run in Python on full batches, and what makes it."""
    objective, w, data, _H, solution = quadratic()
    optimizer = NCG(solver=Unit(), damping=symng.LevenbergMarquardt(initial=1.0), **EXACT)

    def run(mode):
        w.set_value(np.zeros(6))
        return train(optimizer, objective, data, max_steps=4, mode=mode).history

    return run, run("FAST_COMPILE"), np.linalg.norm(data[0] @ solution - data[1]) ** 2 / 40


def test_full_batch_run(full_batches):
    _, history, lowest = full_batches
    assert (history["new_loss"] < history["loss"]).all() and np.allclose(
        history["loss"][1:], history["new_loss"][:-1]
    )
    assert (
        history["loss"][0] - lowest > 10 * (history["new_loss"][-1] - lowest)
        and not history["restarted"].any()
    )


@pytest.mark.parametrize("mode", modes("CVM", "NUMBA", slow=["CVM", "NUMBA"]))
def test_backends_agree(mode, full_batches):
    run, wanted, _ = full_batches
    history = run(mode)
    for column in ("loss", "new_loss", "step_size", "beta", "damping", "reduction_ratio"):
        # as far as searches agree.
        assert np.allclose(history[column], wanted[column], rtol=1e-3), column


# The quadratic model in the plane


def test_quadratic_model_of_the_hessian_gives_linear_conjugate_gradients():
    objective, w, (X, T), H, solution = quadratic()
    damping = symng.LevenbergMarquardt(initial=0.0, ratio="quadratic")
    step, _ = start(
        NCG(metric=Fixed(matrix=H), solver=Unit(), damping=damping, beta="quadratic"), objective
    )
    for i, wanted in enumerate(preconditioned_cg(H, X.T @ T / 20, np.eye(6), 6)):
        info = step((X, T))
        assert oracles.relative_error(w.get_value(), wanted) < 1e-9
        assert info.accepted and info.reduction_ratio == pytest.approx(1)
        assert (info.beta > 0) == (i > 0) and not info.restarted
    assert oracles.relative_error(w.get_value(), solution) < 1e-9


@pytest.mark.parametrize(
    "solver", [symng.CG(maxiter=2, recompute=False), Unit()], ids=["residual told", "not told"]
)
@pytest.mark.parametrize("size", [None, 0.5])
def test_weights_are_those_of_the_lowest_point_of_the_damped_model(solver, size):
    objective, w, (X, T), H, solution = quadratic()
    M, rule = positive_definite(6, 5), symng.LevenbergMarquardt(initial=0.5, ratio="quadratic")
    settings = {"metric": Fixed(matrix=M), "solver": solver, "warm_start": 0.5, "beta": "quadratic"}
    step, before = start(NCG(damping=rule, step_size=size, **settings), objective)
    previous, alpha = np.zeros(6), 1.0
    for i in range(4):
        gradient = H @ (before - solution)
        info = step((X, T))
        natural, damped = step.state["direction"].get_value(), M + info.damping * np.eye(6)
        update = before - w.get_value()
        plane = np.array([natural, previous][: 1 + (i > 0)])
        best = np.linalg.solve(plane @ damped @ plane.T, plane @ gradient)
        taken = (size or 1.0) * best
        assert oracles.relative_error(update, taken @ plane) < 1e-9
        promised = gradient @ update - update @ damped @ update / 2
        assert info.reduction_ratio == pytest.approx((info.loss - info.new_loss) / promised)
        assert info.step_size == pytest.approx(taken[0])
        assert info.beta == pytest.approx(alpha * taken[1] / taken[0] if i else 0.0)
        before, previous, alpha = w.get_value(), update, taken[0]


def test_model_without_a_minimum_in_the_plane():
    def minimizer(slopes, *curvature):
        found = plane_minimizer(tuple(map(pt.constant, slopes)), tuple(map(pt.constant, curvature)))
        return [float(c.eval(mode="FAST_COMPILE")) for c in found]

    assert minimizer((3.0, 1.0), 2.0, 1.0, 4.0) == pytest.approx(
        np.linalg.solve([[2.0, 1.0], [1.0, 4.0]], [3.0, 1.0])
    )
    assert minimizer((3.0, 0.0), 2.0, 0.0, 0.0) == [1.5, 0.0]  # no vector before
    assert minimizer((3.0, 6.0), 2.0, 4.0, 8.0 + 1e-12) == [1.5, 0.0]  # parallel
    assert minimizer((3.0, 1.0), 2.0, 1.0, -4.0) == [1.5, 0.0]
    assert minimizer((3.0, 1.0), 2.0, 3.0, 4.0) == [1.5, 0.0]  # a saddle
    assert minimizer((3.0, 1.0), -2.0, 1.0, 4.0) == [1.0, 0.0]
    # The scale of a vector is no reason to leave it out.
    assert minimizer((3.0, 1e-9), 2.0, 1e-9, 4e-18) == pytest.approx([11 / 7, -1e9 / 7])


def test_quadratic_model_is_of_one_stage_and_restarts():
    model = line()
    rule = symng.LevenbergMarquardt(initial=1.0, reject_below=0.0)
    step, before = start(NCG(solver=Unit(), beta="quadratic", damping=rule), model.objective)
    X, T = model.batch
    assert step((X, T / 2)).accepted
    before = model.value
    step.hyperparameters["step_size"].set_value(1e3)  # up the other side
    info = step((X, T))
    assert not info.accepted and (model.value == before).all()
    assert (step.state["search_direction"].get_value() == 0).all()
    step.hyperparameters["step_size"].set_value(1.0)
    info = step((X, T))
    assert info.accepted and info.restarted and info.beta == 0
    assert NCG(beta="quadratic").step_size == symng.FixedStep(size=1.0)
    assert len(NCG(beta="quadratic", solver=Unit()).updates(model.objective)) > 1


def test_run_of_the_quadratic_model():
    objective, _, data, _, _ = quadratic()
    optimizer = NCG(solver=symng.CG(maxiter=2), warm_start=0.5, beta="quadratic")
    history = train(optimizer, objective, data, max_steps=4).history
    assert (history["new_loss"] < history["loss"]).all()
    assert (history["beta"][1:] != 0).all()


# What is refused


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"beta": "polak"},
            "beta: expected one of 'search', 'quadratic', 'polak-ribiere', .*got 'polak'",
        ),
        ({"beta": 0.5}, "beta: expected one of"),
        ({"step_size": 1.0}, "step_size: expected None with beta='search', .* Leave it out"),
        (
            {"step_size": symng.BacktrackingLineSearch()},
            "step_size: expected None with beta='search'",
        ),
        (
            {"step_size": 0.0, "beta": "fletcher-reeves"},
            "step_size: expected a finite number, above 0",
        ),
        ({"max_evaluations": 0}, "max_evaluations: expected a whole number, at least 1"),
        ({"max_evaluations": 2.5}, "max_evaluations: expected a whole number"),
        ({"radius": 0.0}, "radius: expected a finite number, above 0"),
        ({"tolerance": 0.0}, "tolerance: expected a finite number, above 0"),
        ({"tolerance": 0.6}, "tolerance: expected a finite number, .*at most 0.5"),
        (
            {"max_evaluations": 9, "beta": "polak-ribiere"},
            "max_evaluations: expected 40, the default, with beta='pol",
        ),
        (
            {"tolerance": 0.1, "beta": "polak-ribiere"},
            "tolerance: expected 0.01, .*a line search has its own",
        ),
        ({"metric": "fisher"}, "metric: expected"),
        ({"warm_start": 2.0}, "warm_start: expected"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        NCG(**settings)


def test_settings():
    assert NCG().step_size is None and NCG().damping == symng.LevenbergMarquardt(initial=3.0)
    assert NCG(beta="fletcher-reeves").step_size == symng.BacktrackingLineSearch()
    assert NCG(beta="fletcher-reeves", step_size=0.5).step_size == symng.FixedStep(size=0.5)
    optimizer = NCG(max_evaluations=9, radius=1.0, tolerance=0.1)
    assert eval(repr(optimizer), vars(symng)) == optimizer


def test_search_batch_without_a_search():
    with pytest.raises(ValueError, match="^search_batch: expected none without a line search"):
        train(NCG(beta="polak-ribiere", step_size=0.1), batch_size=5, search_batch="all")
