"""One step of each optimizer against NumPy: directions, ratios, batches, settings, types."""

from __future__ import annotations

import math

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.compiled import REWRITTEN_GRAPH, float64_tensors, loops_of, outer_nodes
from helpers.small_steps import TIGHT, Unit, line, natural, start

import symng
from symng import vectors

METRICS = {
    "fisher": (symng.Fisher(), oracles.fisher),
    "output": (symng.Fisher(form="output"), oracles.fisher),
    # The loss is scaled by 2.
    "gauss_newton": (
        symng.GaussNewton(),
        lambda case: 2 * oracles.fisher(case),
    ),
    "empirical": (symng.EmpiricalFisher(), lambda case: oracles.empirical_fisher(case, False)),
    "centered": (
        symng.EmpiricalFisher(centered=True),
        lambda case: oracles.empirical_fisher(case, True),
    ),
    "hessian": (symng.Hessian(), oracles.hessian),
}


# The direction


@pytest.mark.parametrize(
    "metric, solver", [(m, s) for m in METRICS for s in TIGHT if (m, s) != ("output", "MinresQLP")]
)
def test_step_solves_with_the_damped_dense_matrix(metric, solver):
    made, dense = METRICS[metric]
    case = oracles.mlp_case("categorical", scale=2.0)
    damping = 3.0 if metric == "hessian" else 0.7
    matrix = dense(case) + damping * np.eye(case.size)
    if solver == "CG":
        assert np.linalg.eigvalsh(matrix)[0] > 0  # else it is not what CG is for
    gradient = oracles.example_gradients(case).mean(axis=0)
    direction = np.linalg.solve(matrix, gradient)
    loss = float(oracles.value(case.loss, case.givens))
    optimizer = symng.NaturalGradient(
        metric=made, solver=TIGHT[solver], damping=damping, step_size=0.5
    )
    step, before = start(optimizer, case.objective)
    info = step(tuple(case.givens.values()))
    assert info.accepted and info.status.name.startswith("CONVERGED")
    assert oracles.relative_error(before - vectors.get_flat(case.params), 0.5 * direction) < 1e-9
    assert info.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-10)
    assert info.update_norm == pytest.approx(0.5 * np.linalg.norm(direction), rel=1e-9)
    assert info.residual_norm < 1e-10 and info.damping == damping and info.step_size == 0.5
    assert info.loss == pytest.approx(loss, rel=1e-12)
    assert info.new_loss == pytest.approx(float(oracles.value(case.loss, case.givens)), rel=1e-12)
    assert info.reduction_ratio == pytest.approx(
        (info.loss - info.new_loss) / (0.5 * gradient @ direction), rel=1e-8
    )


def test_indefinite_hessian_is_solved_by_minres_qlp():
    case = oracles.mlp_case("bernoulli")
    matrix, gradient = oracles.hessian(case), oracles.example_gradients(case).mean(axis=0)
    damping = -np.median(np.linalg.eigvalsh(matrix)[:2]) / 2
    matrix += damping * np.eye(case.size)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert damping > 0 and eigenvalues[0] < 0 < eigenvalues[-1] and abs(eigenvalues).min() > 1e-6
    step, before = start(
        symng.NaturalGradient(metric=symng.Hessian(), solver=TIGHT["MinresQLP"], damping=damping),
        case.objective,
    )
    step(tuple(case.givens.values()))
    direction = np.linalg.solve(matrix, gradient)
    assert oracles.relative_error(before - vectors.get_flat(case.params), direction) < 1e-6


def test_update_is_invariant_under_a_linear_change_of_parameters():
    rng = np.random.default_rng(3)
    X, T = rng.standard_normal((40, 2)), rng.integers(2, size=(40, 1)).astype(float)
    theta0 = rng.standard_normal(9)
    A = rng.standard_normal((9, 9))
    moved = []
    for transform in (np.eye(9), A):
        x, t = pt.matrix("x"), pt.matrix("t")
        phi = pytensor.shared(np.linalg.solve(transform, theta0), name="phi")
        theta = pt.constant(transform) @ phi
        r = (
            pt.tanh(x @ theta[:4].reshape((2, 2)) + theta[4:6]) @ theta[6:8].reshape((2, 1))
            + theta[8]
        )
        y = pt.sigmoid(r)
        loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1).mean()
        objective = symng.Objective(loss, output=y, params=[phi], inputs=[x], targets=[t])
        optimizer = symng.NaturalGradient(solver=TIGHT["CG"], damping=0.0, step_size=0.1)
        info = symng.compile_step(objective, optimizer)((X, T))
        assert info.accepted
        moved.append(transform @ phi.get_value())
    assert np.linalg.norm(moved[0] - theta0) > 0.1  # a step was made
    assert oracles.relative_error(moved[1] - theta0, moved[0] - theta0) < 1e-6


# The reduction ratio, on a loss whose Hessian is the metric, solved exactly


def ratio_by_hand(model, damping, size, ratio, damped):
    """Return rho of a step with p = g / (1 + damping)."""
    gradient = model.value - model.solution
    direction = gradient / (1 + damping)
    decrease = model.loss(model.value) - model.loss(model.value - size * direction)
    predicted = size * gradient @ direction
    if ratio == "quadratic":
        predicted -= size**2 * (1 + damping * damped) * direction @ direction / 2
    return decrease / predicted


@pytest.mark.parametrize(
    "ratio, damped, small, large",
    [("linear", True, 0.5, 1.0), ("quadratic", True, 1.0, 2.0), ("quadratic", False, 1.0, 1.0)],
)
def test_reduction_ratio_by_hand_and_its_limits(ratio, damped, small, large):
    model = line()
    rule = symng.LevenbergMarquardt(ratio=ratio, damped_model=damped)
    step, before = start(symng.NaturalGradient(solver=Unit(), damping=rule), model.objective)
    for size in (1.0, 0.3):
        for damping in (0.0, 0.5, 3.0, 100.0):
            model.w.set_value(before)
            wanted = ratio_by_hand(model, damping, size, ratio, damped)
            step.state["damping"].set_value(damping)
            step.hyperparameters["step_size"].set_value(size)
            info = step(model.batch)
            assert info.reduction_ratio == pytest.approx(wanted, rel=1e-12)
            assert np.allclose(
                model.value, before - size * (before - model.solution) / (1 + damping)
            )
    step.hyperparameters["step_size"].set_value(1.0)
    for damping, limit in ((1e-9, small), (1e9, large)):
        model.w.set_value(before)
        step.state["damping"].set_value(damping)
        assert step(model.batch).reduction_ratio == pytest.approx(limit, rel=1e-6)


def test_damping_follows_the_ratio_between_steps():
    model = line()
    step, _ = start(
        symng.NaturalGradient(solver=Unit(), damping=symng.LevenbergMarquardt(initial=3.0)),
        model.objective,
    )
    info = step(model.batch)  # rho = 1 - 1 / 8
    assert info.damping == 3.0 and info.reduction_ratio == pytest.approx(0.875)
    assert step.state["damping"].get_value() == pytest.approx(2.0)
    step.hyperparameters["step_size"].set_value(10.0)  # rho = 1 - 10 / 6 < 0: overshoots
    info = step(model.batch)
    assert info.damping == pytest.approx(2.0) and info.reduction_ratio < 0 and info.accepted
    assert step.state["damping"].get_value() == pytest.approx(3.0)


# Batches


@pytest.mark.parametrize("metric", ["fisher", "empirical", "hessian"])
def test_metric_batch_of_its_own(metric):
    made, dense = METRICS[metric]
    case, damping = oracles.mlp_case("bernoulli"), 2.0
    rng = np.random.default_rng(5)
    inputs = rng.standard_normal((7, 3))
    targets = oracles.draw_targets("bernoulli", rng, (7, 3))
    gradient = oracles.example_gradients(case).mean(axis=0)
    batch = tuple(case.givens.values())
    other = oracles.Case(
        **{**vars(case), "givens": dict(zip(case.givens, (inputs, targets), strict=True))}
    )
    direction = np.linalg.solve(dense(other) + damping * np.eye(case.size), gradient)
    metric_batch = (inputs,) if metric == "fisher" else (inputs, targets)
    optimizer = symng.NaturalGradient(metric=made, solver=TIGHT["CG"], damping=damping)
    step, before = start(optimizer, case.objective)
    step(batch, metric_batch=metric_batch)
    assert oracles.relative_error(before - vectors.get_flat(case.params), direction) < 1e-9
    # A wrong number is told, with the way out, before anything else is compiled.
    wrong = (inputs, targets) if metric == "fisher" else (inputs,)
    way_out = (
        "needs no targets: give inputs alone"
        if metric == "fisher"
        else "reaches the targets: give them too"
    )
    with pytest.raises(
        ValueError, match=f"^metric_batch: expected . arrays? .*, got {len(wrong)}.*{way_out}"
    ):
        step(batch, metric_batch=wrong)
    assert len(step.functions) == 1


def products_outside_of_loops(function):
    """Count the matrix products that a compiled step makes once."""
    names = [type(node.op).__name__ for node in outer_nodes(function)]
    return sum(
        name in ("Dot", "Dot22", "Gemm", "Dot22Scalar", "Matmul", "BatchedDot") for name in names
    )


def test_gradient_and_metric_share_the_forward_pass():
    x, t = pt.matrix("x"), pt.matrix("t")
    rng = np.random.default_rng(0)
    params = [oracles.shared(rng, *shape) for shape in ((5, 4), (4, 3))]
    y = pt.special.softmax(pt.tanh(x @ params[0]) @ params[1], axis=-1)
    objective = symng.Objective(
        -(t * pt.log(y)).sum(axis=1).mean(), output=y, params=params, inputs=[x], targets=[t]
    )
    step, _ = start(symng.NaturalGradient(solver=symng.CG()), objective, REWRITTEN_GRAPH)
    X, T = rng.standard_normal((6, 5)), oracles.draw_targets("categorical", rng, (6, 3))
    step.compile((X, T)).compile((X, T), (X,))
    # Forward 2, gradient 3, new loss 2; another batch asks for a forward pass of its own.
    assert products_outside_of_loops(step.functions[0]) == 7
    assert products_outside_of_loops(step.functions[1]) == 9


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(symng.CG(), id="CG", marks=pytest.mark.slow),
        pytest.param(symng.MinresQLP(recompute=False), id="MinresQLP"),
    ],
)
@pytest.mark.parametrize(
    "step_size", [1.0, symng.BacktrackingLineSearch()], ids=["fixed", "searched"]
)
def test_solves_once(solver, step_size):
    # The loss after the step is a copy of the loss; the loop behind the step must not be copied
    # with it.
    case = oracles.mlp_case("categorical")
    step, _ = start(
        symng.NaturalGradient(solver=solver, step_size=step_size), case.objective, REWRITTEN_GRAPH
    )
    step.compile(tuple(case.givens.values()))
    assert len(loops_of(step.functions[0])) == (1 if step_size == 1.0 else 2)


# Settings between steps


def test_settings_change_between_steps_without_a_recompilation():
    case = oracles.mlp_case("categorical")
    batch = tuple(case.givens.values())
    optimizer = symng.NaturalGradient(
        solver=symng.CG(rtol=1e-12, maxiter=100), warm_start=0.5, damping=1e-3
    )
    step, before = start(optimizer, case.objective)
    assert set(step.hyperparameters) == {"step_size", "rtol", "atol", "maxiter", "warm_start"}
    assert set(step.state) == {"step", "damping", "direction"}

    def again(**settings):
        vectors.set_flat(case.params, before)
        step.state["direction"].set_value(np.zeros(case.size))
        for name, value in settings.items():
            (step.state if name in ("damping", "direction") else step.hyperparameters)[
                name
            ].set_value(value)
        return step(batch)

    plain = again()
    assert plain.status is symng.Status.CONVERGED and plain.solver_iterations > 8
    functions = list(step.functions)
    limited = again(maxiter=3)
    assert limited.solver_iterations == 3 and limited.status is symng.Status.MAX_ITERATIONS
    rough = again(maxiter=100, rtol=0.1)
    assert (
        rough.solver_iterations < plain.solver_iterations and rough.status is symng.Status.CONVERGED
    )
    short = again(rtol=1e-12, step_size=0.125)
    assert short.update_norm == pytest.approx(plain.update_norm / 8) and short.step_size == 0.125
    heavy = again(step_size=1.0, damping=1e6)
    assert heavy.damping == 1e6 and heavy.update_norm == pytest.approx(
        heavy.gradient_norm / 1e6, rel=1e-4
    )
    again(damping=1e-3)
    solution = step.state["direction"].get_value()
    warm = again(direction=solution, warm_start=1.0, rtol=1e-6)
    assert warm.solver_iterations == 0 and warm.update_norm == pytest.approx(plain.update_norm)
    cold = again(direction=solution, warm_start=0.0)
    assert cold.solver_iterations > 5
    assert again(atol=1e6, warm_start=0.0).solver_iterations == 0
    assert step.functions == functions


def test_float32_settings_take_plain_numbers():
    model = line("float32")
    step, _ = start(natural(), model.objective)
    step.hyperparameters["step_size"].set_value(0.1)  # which float32 cannot hold exactly
    assert step(model.batch).step_size == np.float32(0.1)


def test_symbolic_settings_of_the_solver():
    model = line()
    maxiter = pytensor.shared(np.int64(5), name="maxiter")
    step, _ = start(
        symng.NaturalGradient(solver=symng.CG(maxiter=maxiter, rtol=1e-10), damping=1.0),
        model.objective,
    )
    assert "maxiter" not in step.hyperparameters and step(model.batch).solver_iterations == 1
    maxiter.set_value(0)
    assert step(model.batch).status is symng.Status.MAX_ITERATIONS


# Types


SEARCHED = {"step_size": symng.BacktrackingLineSearch(), "damping": symng.LevenbergMarquardt()}
QUADRATIC = {"damping": symng.LevenbergMarquardt(ratio="quadratic", reject_below=0.0)}


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(
            symng.NaturalGradient(solver=symng.CG(maxiter=5), warm_start=0.5, **SEARCHED),
            id="search, warm start",
        ),
        pytest.param(
            symng.NaturalGradient(
                solver=symng.MinresQLP(maxiter=5),
                step_size=lambda step: 1 / (1 + step),
                **QUADRATIC,
            ),
            id="quadratic, schedule",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            symng.NaturalGradient(
                metric=symng.EmpiricalFisher(centered=True), solver=symng.CG(maxiter=5), damping=0.5
            ),
            id="centered",
            marks=pytest.mark.slow,
        ),
        pytest.param(symng.SGD(step_size=0.1, momentum=0.9, nesterov=True), id="sgd"),
    ],
)
def test_float32_stays(optimizer):
    case = oracles.mlp_case("categorical", dtype="float32")
    batch = tuple(case.givens.values())
    step, before = start(optimizer, case.objective)
    info = step(batch)
    assert info.accepted and (vectors.get_flat(case.params) != before).any()
    for variable in (*case.params, *(v for name, v in step.state.items() if name != "step")):
        assert variable.get_value().dtype == "float32", variable
    rewritten, _ = start(optimizer, case.objective, REWRITTEN_GRAPH)
    rewritten.compile(batch)
    assert not float64_tensors(rewritten.functions[0])
    for name, record in step.build().records.items():
        assert record.dtype in ("float32", "int64", "bool"), name


def test_optimizers_are_frozen_and_their_repr_rebuilds_them():
    optimizer = symng.NaturalGradient(
        metric=symng.GaussNewton(),
        solver=symng.CG(rtol=1e-3),
        damping=2.0,
        step_size=symng.BacktrackingLineSearch(),
        warm_start=0.5,
    )
    assert eval(repr(optimizer), vars(symng)) == optimizer
    assert eval(repr(symng.SGD(momentum=0.9)), vars(symng)) == symng.SGD(momentum=0.9)
    with pytest.raises(AttributeError):
        optimizer.damping = 1.0
    with pytest.raises(TypeError):
        symng.NaturalGradient(symng.Fisher())


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"metric": symng.Fisher},
            "metric: expected a metric .* got the class Fisher .*Did you forget the parentheses",
        ),
        ({"metric": "fisher"}, "metric: expected"),
        ({"solver": symng.CG}, "solver: expected a solver .* got the class CG"),
        ({"solver": None}, "solver: expected"),
        ({"damping": symng.LevenbergMarquardt}, "damping: expected .* got the class"),
        ({"step_size": symng.BacktrackingLineSearch}, "step_size: expected .* got the class"),
        ({"warm_start": -0.1}, "warm_start: expected .* at least 0"),
        ({"warm_start": 1.1}, "warm_start: expected .* at most 1"),
        ({"warm_start": math.nan}, "warm_start: expected"),
        (
            {"preconditioner": 3.0},
            "preconditioner: expected one such as symng.KroneckerPreconditioner",
        ),
    ],
)
def test_bad_settings_of_natural_gradient(settings, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        symng.NaturalGradient(**settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"step_size": symng.BacktrackingLineSearch()},
            "step_size: expected .* SGD makes no line search",
        ),
        ({"momentum": 1.0}, "momentum: expected .* below 1"),
        ({"momentum": -0.5}, "momentum: expected"),
        ({"nesterov": True}, "nesterov: expected False without momentum"),
        ({"nesterov": 1, "momentum": 0.9}, "nesterov: expected True or False"),
    ],
)
def test_bad_settings_of_sgd(settings, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        symng.SGD(**settings)


@pytest.mark.parametrize(
    "make, settings",
    [
        (symng.CG, {"rtol": -1.0}),
        (symng.CG, {"rtol": math.nan}),
        (symng.MinresQLP, {"maxiter": -1}),
        (symng.MinresQLP, {"maxiter": 2.5}),
        (symng.MinresQLP, {"rtol": math.inf}),
        (symng.CG, {"maxiter": math.inf}),
    ],
)
def test_bad_settings_of_solvers(make, settings):
    name = next(iter(settings))
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected .*, got "):
        symng.NaturalGradient(solver=make(**settings))
