"""Step sizes of the quadratic model against dense models, and against the KL divergence itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.small_steps import TIGHT, Unit, line, natural, regression, start, train
from scipy import special

import symng
from symng import vectors

KL, QM = symng.KLTrustRegion, symng.QuadraticModelStep
KINDS = ("gaussian", "bernoulli", "categorical")


# The KL divergence of the model before and after a step


def divergence(kind, before, after):
    """Return the mean over examples of KL(p || p'), from the outputs of the model."""
    if kind == "gaussian":
        terms = (after - before) ** 2 / (2 * oracles.STD**2)
    elif kind == "bernoulli":
        terms = special.rel_entr(before, after) + special.rel_entr(1 - before, 1 - after)
    else:
        terms = special.rel_entr(before, after)
    return terms.sum(axis=1).mean()


def outputs(case):
    """Return a function of the flat parameters to the outputs of a case; they do not change."""
    (y,) = case.objective.outputs
    f = pytensor.function(list(case.givens), y, mode="FAST_COMPILE", on_unused_input="ignore")
    kept = vectors.get_flat(case.params)

    def at(theta):
        vectors.set_flat(case.params, theta)
        found = f(*case.givens.values())
        vectors.set_flat(case.params, kept)
        return found

    return at


def halves(errors):
    """Return whether each of some numbers is about half of the one before."""
    return all(1.7 < a / b < 2.3 for a, b in pairwise(errors))


@pytest.mark.parametrize("kind", KINDS)
def test_the_metric_approximates_the_divergence_as_equation_4_says(kind):
    case = oracles.mlp_case(kind)
    F = symng.Fisher()(case.objective).to_scipy(next(iter(case.givens.values())))
    at, theta = outputs(case), vectors.get_flat(case.params)
    d = np.random.default_rng(4).standard_normal(case.size)
    d /= np.linalg.norm(d)
    errors = []
    for size in (0.04, 0.02, 0.01, 0.005):
        measured = divergence(kind, at(theta), at(theta - size * d))
        predicted = size**2 * d @ (F @ d) / 2
        errors.append(abs(measured - predicted) / predicted)
    assert errors[-1] < 0.02 and halves(errors)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_a_trust_region_reach_its_divergence(kind):
    case = oracles.mlp_case(kind)
    F, at, theta = oracles.fisher(case), outputs(case), vectors.get_flat(case.params)
    gradient = oracles.example_gradients(case).mean(axis=0)
    p = np.linalg.solve(F + 0.5 * np.eye(case.size), gradient)
    delta, errors = pytensor.shared(1.0, name="delta"), []
    optimizer = symng.NaturalGradient(
        solver=TIGHT["CG"], damping=0.5, step_size=KL(delta=delta * 1.0)
    )
    step, _ = start(optimizer, case.objective)
    for value in (4e-4, 1e-4, 0.25e-4, 0.0625e-4):
        vectors.set_flat(case.params, theta)
        delta.set_value(value)
        info = step(tuple(case.givens.values()))
        assert info.accepted and info.step_size == pytest.approx(np.sqrt(2 * value / (p @ F @ p)))
        after = vectors.get_flat(case.params)
        vectors.set_flat(case.params, theta)
        errors.append(abs(divergence(kind, at(theta), at(after)) / value - 1))
    assert errors[-1] < 0.02 and halves(errors)  # a quarter of delta is half of a step


def test_a_bound_keeps_smaller_steps_as_they_are():
    model = line()
    step, before = start(natural(step_size=KL(delta=0.2, size=0.25)), model.objective)
    # p . F p is 10 there.
    for size, wanted in ((0.25, 0.2), (0.1, 0.1), (1e300, 0.2)):
        model.w.set_value(before)
        step.hyperparameters["step_size"].set_value(size)
        info = step(model.batch)
        assert info.step_size == pytest.approx(wanted, rel=1e-12)
        assert np.allclose(model.value, wanted * model.solution)
    step, _ = start(natural(step_size=KL(size=lambda step: 1e-3 / (1 + step))), model.objective)
    assert [step(model.batch).step_size for _ in range(2)] == pytest.approx([1e-3, 5e-4])


@pytest.mark.parametrize("size", [math.inf, 0.5])
def test_a_trust_region_where_nothing_changes(size):
    model = line(start=(3.0, -1.0))
    step, before = start(natural(step_size=KL(size=size)), model.objective)
    info = step(model.batch)  # at the optimum p is zero
    assert info.step_size == 0 and info.accepted and (model.value == before).all()
    # The metric of a batch of zeros does not see any step.
    model.w.set_value(np.zeros(2))
    info = step(model.batch, (0 * model.batch[0],))
    assert info.step_size == min(size, 1.0) and info.accepted
    assert np.allclose(model.value, info.step_size * model.solution)


# The lowest point of the quadratic model


def on(case, arrays):
    """Return a case on another batch."""
    return oracles.Case(**{**vars(case), "givens": dict(zip(case.givens, arrays, strict=True))})


@pytest.mark.parametrize("solver", [symng.CG(maxiter=2), symng.MinresQLP(maxiter=2)])
def test_the_step_is_to_the_lowest_point_of_the_dense_model(solver):
    """After solves that are cut short, on a metric batch of its own."""
    case = oracles.mlp_case("categorical")
    X = np.random.default_rng(5).standard_normal((7, 3))
    rule = symng.LevenbergMarquardt(initial=0.5, ratio="quadratic")
    optimizer = symng.NaturalGradient(solver=solver, damping=rule, step_size=QM(), warm_start=0.8)
    step, theta = start(optimizer, case.objective)
    sizes = []
    for _ in range(3):
        g = oracles.example_gradients(case).mean(axis=0)
        F = oracles.fisher(on(case, (X, np.eye(3)[[0] * 7])))
        info = step(tuple(case.givens.values()), (X,))
        p = step.state["direction"].get_value()
        A = F + info.damping * np.eye(case.size)
        alpha = (g @ p) / (p @ A @ p)
        assert info.accepted and info.step_size == pytest.approx(alpha, rel=1e-8)
        following = vectors.get_flat(case.params)
        assert oracles.relative_error(theta - following, alpha * p) < 1e-8
        # At the lowest point the model has fallen by half of what its slope says.
        promised = alpha * (g @ p) / 2
        assert info.reduction_ratio == pytest.approx((info.loss - info.new_loss) / promised)
        sizes.append(alpha)
        theta = following
    assert max(abs(np.array(sizes[1:]) - 1)) > 1e-3  # not what a plain step of size 1 takes


def test_a_factor_of_the_step_of_the_model():
    model = line()
    # The solve finds half of the solution: the model's step is twice that.
    step, before = start(natural(damping=1.0, step_size=QM(size=0.5)), model.objective)
    step.state["damping"].set_value(0.0)
    assert step(model.batch).step_size == pytest.approx(0.5)
    model.w.set_value(before)
    step.hyperparameters["step_size"].set_value(0.1)
    assert step(model.batch).step_size == pytest.approx(0.1)


def test_a_model_without_curvature_takes_the_direction_as_it_is():
    model = line()
    step, _ = start(natural(step_size=QM()), model.objective)
    info = step(model.batch, (0 * model.batch[0],))
    assert info.step_size == 1.0 and info.accepted and np.allclose(model.value, model.solution)
    info = step(model.batch)  # at the optimum p is zero
    assert info.update_norm == 0 and info.accepted and math.isfinite(info.step_size)


@dataclass(frozen=True, kw_only=True)
class Broken(symng.Metric):
    """A metric whose products are NaN, which a solver that makes none does not notice."""

    def product(self, objective, v):
        return v * np.nan


@pytest.mark.parametrize("rule", [KL(), KL(size=1.0), QM()])
def test_a_step_of_a_model_that_is_not_finite_is_refused(rule):
    model = line()
    damping = symng.LevenbergMarquardt(initial=1.0)
    step, before = start(natural(metric=Broken(), step_size=rule, damping=damping), model.objective)
    assert not step(model.batch).accepted and (model.value == before).all()
    assert step.state["damping"].get_value() == 1.5


# With line searches, in all optimizers


@pytest.mark.parametrize(
    "rule, first", [(QM(size=4.0), 4.0), (KL(delta=80.0), 4.0), (KL(delta=80.0, size=3.0), 3.0)]
)
def test_a_line_search_starts_from_the_model(rule, first):
    model = line()
    search = symng.BacktrackingLineSearch(size=rule, shrink=0.4)
    step, _ = start(natural(step_size=search), model.objective)
    info = step(model.batch)  # sizes of 2 and more do not lower the loss
    assert info.accepted and info.step_size == pytest.approx(0.4 * first)
    assert np.allclose(model.value, info.step_size * model.solution)
    assert eval(repr(search), vars(symng)) == search


NCG = symng.NaturalConjugateGradient
OPTIMIZERS = {
    "natural gradient": lambda rule: natural(damping=0.5, step_size=rule, warm_start=0.5),
    "Polak-Ribiere": lambda rule: NCG(beta=symng.PolakRibiere(), step_size=rule, solver=Unit()),
    "plane": lambda rule: NCG(beta=symng.QuadraticModel(), step_size=rule, solver=Unit()),
    "Hessian-free": lambda rule: symng.HessianFree(step_size=rule),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_step_of_every_optimizer_is_of_the_divergence(optimizer):
    """Of a Gaussian with a linear mean, whose divergence equation 4 gives exactly."""
    objective, (X, T) = regression()
    step, theta = start(OPTIMIZERS[optimizer](KL(delta=1e-3)), objective)
    for _ in range(3):
        info = step((X, T))
        moved = vectors.get_flat(objective.params)
        assert info.accepted
        assert np.mean((X @ (moved - theta)) ** 2) / 2 == pytest.approx(1e-3, rel=1e-9)
        theta = moved


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_step_of_the_model_lowers_a_quadratic_loss_in_every_optimizer(optimizer):
    objective, (X, T) = regression()
    history = train(OPTIMIZERS[optimizer](QM()), objective, (X, T), max_steps=4).history
    assert history["accepted"].all() and (history["new_loss"] < history["loss"]).all()


@pytest.mark.parametrize("rule", [KL(delta=1e-3), QM(size=0.5)])
def test_updates_are_those_of_a_step(rule):
    objective, data = regression()
    optimizer = natural(damping=0.5, step_size=rule)
    step, before = start(optimizer, objective)
    step(data)
    wanted = vectors.get_flat(objective.params)
    vectors.set_flat(objective.params, before)
    variables = [*objective.inputs, *objective.targets]
    pytensor.function(variables, updates=optimizer.updates(objective))(*data)
    np.testing.assert_allclose(vectors.get_flat(objective.params), wanted, rtol=1e-12)


@pytest.mark.parametrize("rule", [KL(), QM()])
@pytest.mark.parametrize("optimizer", [symng.SGD, symng.Adam, symng.TONGA])
def test_optimizers_without_a_model_refuse_them(rule, optimizer):
    with pytest.raises(TypeError, match="^step_size: expected a number, .*has no quadratic model"):
        optimizer(step_size=rule)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: KL(delta=0.0), "delta: expected a finite number, above 0"),
        (lambda: KL(delta=math.inf), "delta: expected a finite number"),
        (lambda: KL(delta=pt.vector()), "delta: expected"),
        (lambda: KL(size=0.0), "size: expected a finite number, above 0"),
        (lambda: KL(size=-math.inf), "size: expected a finite number, above 0"),
        (lambda: KL(size=None), "size: expected"),
        (lambda: QM(size=-1.0), "size: expected a finite number, above 0"),
        (lambda: QM(size=math.inf), "size: expected a finite number"),
        (
            lambda: symng.BacktrackingLineSearch(size=symng.BacktrackingLineSearch()),
            "size: expected a number, or a rule that makes no search",
        ),
        (lambda: symng.BacktrackingLineSearch(size=QM), "size: expected"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        make()


@pytest.mark.parametrize("rule", [KL(delta=1e-2), QM()])
def test_float32_stays(rule):
    case = oracles.mlp_case("categorical", dtype="float32")
    step, _ = start(
        symng.NaturalGradient(solver=symng.CG(maxiter=3), step_size=rule), case.objective
    )
    assert step(tuple(case.givens.values())).accepted
    for name, record in step.build().records.items():
        assert record.dtype in ("float32", "int64", "bool"), name


def test_chunks_give_the_step_size_of_the_full_batch():
    sizes = []
    for chunk_size in (None, 3):
        case = oracles.mlp_case("categorical")
        optimizer = natural(damping=1.0, step_size=KL(delta=1e-3))
        step = symng.compile_step(case.objective, optimizer, chunk_size=chunk_size)
        sizes.append(step(tuple(case.givens.values())).step_size)
    assert sizes[1] == pytest.approx(sizes[0], rel=1e-12)


# Invariance under a change of parameters


def reparametrized(curved):
    """Return a model of theta, or of phi with theta = h(phi), its batch, and its outputs' function.

    h is invertible: (phi + phi^3 / 3) times a matrix. Both start from the same model.
    """
    rng = np.random.default_rng(3)
    X, T = rng.standard_normal((40, 2)), rng.integers(2, size=(40, 1)).astype(float)
    phi0, A = rng.standard_normal(9), rng.standard_normal((9, 9)) / 3 + np.eye(9)
    x, t = pt.matrix("x"), pt.matrix("t")
    phi = pytensor.shared(phi0 if curved else A @ (phi0 + phi0**3 / 3), name="phi")
    theta = pt.constant(A) @ (phi + phi**3 / 3) if curved else phi
    hidden = pt.tanh(x @ theta[:4].reshape((2, 2)) + theta[4:6])
    r = hidden @ theta[6:8].reshape((2, 1)) + theta[8]
    y = pt.sigmoid(r)
    loss = (pt.softplus(r) - t * r).sum(axis=1).mean()
    objective = symng.Objective(loss, output=y, params=[phi], inputs=[x], targets=[t])
    return objective, (X, T), pytensor.function([x], y, mode="FAST_COMPILE")


def changes_of_outputs(optimizer, sizes, setting=None):
    """Return the changes of the outputs in a step, for each size: in theta, and in phi."""
    found = []
    for curved in (False, True):
        objective, (X, T), outputs_of = reparametrized(curved)
        step, before = start(optimizer, objective)
        start_outputs, changes = outputs_of(X), []
        for size in sizes:
            vectors.set_flat(objective.params, before)
            (step.hyperparameters["step_size"] if setting is None else setting).set_value(size)
            assert step((X, T)).accepted
            changes.append(outputs_of(X) - start_outputs)
        found.append(changes)
    return found


def disagreements(in_theta, in_phi):
    return [
        np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(in_theta, in_phi, strict=True)
    ]


SIZES = (0.01, 0.005, 0.0025, 0.00125)
EXACT = {"solver": TIGHT["CG"], "damping": 0.0}


def test_a_small_natural_step_does_not_depend_on_the_parameters():
    """The outputs differ by the square of the step, and so agree ever better relative to it."""
    errors = disagreements(*changes_of_outputs(symng.NaturalGradient(**EXACT), SIZES))
    assert errors[-1] < 0.01 and halves(errors)


def test_nor_does_a_step_of_a_trust_region():
    delta = pytensor.shared(1.0, name="delta")
    optimizer = symng.NaturalGradient(**EXACT, step_size=KL(delta=delta * 1.0))
    errors = disagreements(*changes_of_outputs(optimizer, np.square(SIZES), delta))
    assert errors[-1] < 0.01 and halves(errors)


def test_a_step_of_the_plain_gradient_does():
    errors = disagreements(*changes_of_outputs(symng.SGD(step_size=0.1), SIZES))
    assert min(errors) > 0.5
