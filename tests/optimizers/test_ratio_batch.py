"""The reduction ratio on the search batch, against NumPy, for every optimizer with damping."""

from __future__ import annotations

import math

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.small_steps import Unit, train

import symng

LM = symng.LevenbergMarquardt
RNG = np.random.default_rng(4)
X, X_OTHER = RNG.standard_normal((6, 3)), RNG.standard_normal((9, 3))
T, T_OTHER = (
    np.tanh(A @ [-1.0, 0.5, 1.0]) + 0.3 * RNG.standard_normal(len(A)) for A in (X, X_OTHER)
)
START = np.array([0.4, -0.2, 0.1])


def model(reduction="mean"):
    """Return the objective y = tanh(x w), of squared error, and its parameter."""
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(START.copy(), name="w")
    y = pt.tanh(x @ w)
    loss = getattr(pt.sqr(y - t) / 2, reduction)()
    return symng.Objective(
        loss, output=y, params=[w], inputs=[x], targets=[t], likelihood=symng.Gaussian()
    ), w


def loss_at(w, X, T):
    return ((np.tanh(X @ w) - T) ** 2).mean() / 2


def by_hand(w, damping, size):
    """A step of natgrad with adapt 2: return the parameters, rho and the next damping."""
    y = np.tanh(X @ w)
    J = (1 - y**2)[:, None] * X
    g = J.T @ (y - T) / len(X)
    r = np.linalg.solve(J.T @ J / len(X) + damping * np.eye(3), g)
    moved = w - size * r
    rho = (loss_at(moved, X_OTHER, T_OTHER) - loss_at(w, X_OTHER, T_OTHER)) / (-size * g @ r)
    if rho < 0.25:
        damping = damping * 1.5 if damping > 0 else 1e-6
    elif rho > 0.75:
        damping = damping / 1.5 if damping > 1e-6 else 0.0
    return moved, rho, damping


@pytest.mark.parametrize(
    "initial, reduction, chunk_size", [(3.0, "mean", None), (0.0, "sum", None), (0.0, "sum", 4)]
)
def test_natural_gradient_is_natgrad_with_adapt_2(initial, reduction, chunk_size):
    objective, w = model(reduction)
    optimizer = symng.NaturalGradient(
        solver=symng.CG(rtol=1e-13, maxiter=6),
        damping=LM.natgrad(initial, on_evaluation_batch=True),
        step_size=0.7,
    )
    step = symng.compile_step(objective, optimizer, chunk_size=chunk_size)
    theta, damping, changes = START, initial, set()
    for _ in range(6):
        info = step((X, T), search_batch=(X_OTHER, T_OTHER))
        before = damping
        theta, rho, damping = by_hand(theta, damping, 0.7)
        changes.add(np.sign(damping - before))
        assert info.damping == pytest.approx(before) and info.accepted
        assert info.reduction_ratio == pytest.approx(rho, rel=1e-8)
        np.testing.assert_allclose(w.get_value(), theta, rtol=1e-8)
        assert step.state["damping"].get_value() == pytest.approx(damping)
    assert len(changes) > 1
    factor = len(X) if reduction == "sum" else 1
    assert info.new_loss == pytest.approx(factor * loss_at(theta, X, T))  # of the gradient batch


QUADRATIC = {"ratio": "quadratic", "damped_model": False}
OPTIMIZERS = {
    "natural gradient": (symng.NaturalGradient, {}, {"step_size": 0.5}),
    "line search": (symng.NaturalGradient, {}, {"step_size": symng.BacktrackingLineSearch()}),
    "plane search": (symng.NaturalConjugateGradient, {}, {}),
    "quadratic model": (symng.NaturalConjugateGradient, {}, {"beta": "quadratic"}),
    "formula": (symng.NaturalConjugateGradient, {}, {"beta": "polak-ribiere", "step_size": 0.5}),
    "Hessian-free": (symng.HessianFree, QUADRATIC, {"step_size": 0.5, "preconditioner": None}),
    "subspace": (symng.KrylovSubspaceDescent, QUADRATIC, {"basis_size": 2}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_change_is_that_of_the_search_batch_and_the_prediction_stays(name):
    kind, settings, others = OPTIMIZERS[name]
    ratios = {}
    for flag in (False, True):
        objective, w = model()
        rule = LM(initial=1.0, lower=-1e9, upper=1e9, on_search_batch=flag, **settings)
        solver = {} if kind is symng.KrylovSubspaceDescent else {"solver": Unit()}
        step = symng.compile_step(objective, kind(damping=rule, **solver, **others))
        needs_rule = kind is not symng.KrylovSubspaceDescent and not step.optimizer.searches
        assert not (flag and needs_rule)
        batches = {} if needs_rule else {"search_batch": (X_OTHER, T_OTHER)}
        info = step((X, T), **batches)
        moved = w.get_value()
        assert info.accepted and info.update_norm > 0
        ratios[flag] = info.reduction_ratio
        # The step itself is the same whoever judges it.
        before, after = (loss_at(v, X, T) for v in (START, moved))
        searched = loss_at(START, X_OTHER, T_OTHER) - loss_at(moved, X_OTHER, T_OTHER)
        if flag:
            wanted = ratios[False] * searched / (before - after)
            assert info.reduction_ratio == pytest.approx(wanted, rel=1e-7)
            assert abs(ratios[True] / ratios[False] - 1) > 1e-2
        # Without a search batch the ratio is that of the gradient batch.
        if flag and name == "natural gradient":
            w.set_value(START)
            alone = step((X, T))
            assert alone.reduction_ratio == pytest.approx(ratios[False], rel=1e-12)


def test_a_step_that_is_bad_for_the_others_is_undone_and_raises_the_damping():
    for flag in (True, False):
        objective, w = model()
        rule = LM(initial=1.0, reject_below=0.0, on_search_batch=flag)
        optimizer = symng.NaturalGradient(
            solver=Unit(), damping=rule, step_size=symng.BacktrackingLineSearch(size=0.1)
        )
        if flag:  # a fixed step, whose search batch is for the ratio alone
            optimizer = symng.NaturalGradient(solver=Unit(), damping=rule, step_size=0.1)
        step = symng.compile_step(objective, optimizer)
        info = step((X, T), search_batch=(X, -T) if flag else (X, T))
        assert info.new_loss < info.loss and info.accepted != flag
        assert (info.reduction_ratio < 0) == flag
        assert (w.get_value() == START).all() == flag
        assert step.state["damping"].get_value() == pytest.approx(1.5 if flag else 2 / 3, rel=1e-9)


def test_a_search_batch_whose_loss_is_not_finite_fails_the_step():
    objective, w = model()
    optimizer = symng.NaturalGradient(solver=Unit(), damping=LM(initial=2.0, on_search_batch=True))
    step = symng.compile_step(objective, optimizer)
    with np.errstate(all="ignore"):
        info = step((X, T), search_batch=(X, np.full(6, 1e200)))
    assert not info.accepted and not math.isfinite(info.reduction_ratio)
    assert math.isfinite(info.new_loss)
    assert (w.get_value() == START).all() and step.state["damping"].get_value() == 3.0


def test_minimize_hands_it_the_other_examples():
    objective, _ = model()
    both = np.concatenate([X, X_OTHER]), np.concatenate([T, T_OTHER])
    optimizer = symng.NaturalGradient(
        solver=Unit(), damping=LM.natgrad(on_evaluation_batch=True), step_size=0.1
    )
    settings = {"objective": objective, "data": both, "batch_size": 6, "max_steps": 1}
    ratios = []
    for kind in ("same", "other", "all"):
        objective.params[0].set_value(START)
        history = train(optimizer, search_batch=kind, **settings).history
        ratios.append(history["reduction_ratio"][0])
    assert len(set(ratios)) == 3
    with pytest.raises(ValueError, match="search_batch: .* on_search_batch=True"):
        train(symng.NaturalGradient(), search_batch="all", **settings)
    with pytest.raises(TypeError, match="^on_search_batch: expected True or False, got 'yes'"):
        LM(on_search_batch="yes")
