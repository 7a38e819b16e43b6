"""Parameters that the loss depends on and no output does, such as scales of noise and priors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import modes

import symng
from symng.metrics import positive_part
from symng.objective.batches import as_batch
from symng.objective.chunks import ChunkLayout, make_batch, split_into_chunks

MODE = "FAST_COMPILE"
RNG = np.random.default_rng(3)
X, T = RNG.standard_normal((7, 2)), RNG.standard_normal((7, 1))
W, A, LAMBDA = np.array([[0.7], [-0.4]]), np.array([0.3, -0.2]), 0.5


class Regression:
    """A model of w with noise of scale exp(s), and a prior on w of the scales a, which are coupled.

    L = mean (y - t)^2 exp(-2 s) / 2 + s + sum exp(a) w^2 / 2 + coupling a_0 a_1 - 0.2 a_0^2.
    """

    def __init__(self, dtype: str = "float64", coupling: float = 1.5, s: float = 0.2) -> None:
        x, t = pt.matrix("x", dtype=dtype), pt.matrix("t", dtype=dtype)
        self.s = pytensor.shared(np.array(s, dtype=dtype), name="s")
        self.w = pytensor.shared(W.astype(dtype), name="w")
        self.a = pytensor.shared(A.astype(dtype), name="a")
        self.coupling, self.y = coupling, x @ self.w
        half, c = np.array(0.5, dtype), np.array(coupling, dtype)
        noise = (pt.sqr(self.y - t) * pt.exp(-2 * self.s)).sum(axis=1).mean() * half + self.s
        prior = (pt.exp(self.a) * pt.sqr(self.w[:, 0])).sum() * half
        prior += c * self.a[0] * self.a[1] - np.array(0.2, dtype) * pt.sqr(self.a[0])
        params = [self.s, self.w, self.a]
        self.objective = symng.Objective(noise + prior, self.y, params, inputs=[x], targets=[t])
        self.batch = {x: X.astype(dtype), t: T.astype(dtype)}

    def hessian(self) -> np.ndarray:
        """Return the Hessian of the loss with respect to s and a, in NumPy."""
        H = np.zeros((3, 3))
        H[0, 0] = 2 * np.mean((X @ W - T) ** 2) * np.exp(-2 * float(self.s.get_value()))
        H[1:, 1:] = np.diag(np.exp(A) * W[:, 0] ** 2 / 2) + self.coupling * np.eye(2)[::-1]
        H[1, 1] -= 0.4
        return H

    def block(self) -> np.ndarray:
        """Return the positive part of that."""
        values, basis = np.linalg.eigh(self.hessian())
        return (basis * np.maximum(values, 0)) @ basis.T

    def wanted(self, of_w: np.ndarray) -> np.ndarray:
        """Return the matrix of a metric that is ``of_w`` for w; the order is s, w, a."""
        whole, others = np.zeros((5, 5)), [0, 3, 4]
        whole[1:3, 1:3] = of_w
        whole[np.ix_(others, others)] = self.block()
        return whole

    def matrix(self, metric: Any, mode: str = MODE) -> np.ndarray:
        values = metric(self.objective).materialise()
        return symng.compile_function(list(self.batch), values, mode=mode)(*self.batch.values())


FISHER = X.T @ X / len(X)


@pytest.mark.parametrize("mode", modes(MODE, "NUMBA", "JAX", slow=["NUMBA", "JAX"]))
def test_fisher_has_the_positive_part_of_the_hessian_of_the_loss(mode: str) -> None:
    model = Regression()
    eigenvalues = np.linalg.eigvalsh(model.hessian())
    assert eigenvalues[0] < -0.1 and eigenvalues[1] > 0.1
    matrix = model.matrix(symng.Fisher(), mode)
    np.testing.assert_allclose(matrix, model.wanted(FISHER), atol=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > -1e-12


def test_other_metrics() -> None:
    model = Regression()
    noise = float(np.exp(-0.4))
    matrix = model.matrix(symng.GaussNewton())
    np.testing.assert_allclose(matrix, model.wanted(noise * FISHER), atol=1e-12)
    # These have a block of their own.
    matrix = model.matrix(symng.Hessian())
    np.testing.assert_allclose(matrix[np.ix_([0, 3, 4], [0, 3, 4])], model.hessian(), atol=1e-12)
    losses = (pt.sqr(model.y - model.objective.targets[0]) * pt.exp(-2 * model.s)).sum(axis=1) / 2
    own = symng.Objective(
        losses.mean() + model.s,
        model.y,
        [model.s, model.w],
        model.objective.inputs,
        model.objective.targets,
        example_losses=losses + model.s,
    )
    r = (X @ W - T) * noise
    g = np.hstack([1 - (X @ W - T) * r, r * X])
    matrix = symng.EmpiricalFisher()(own).materialise().eval(model.batch)
    np.testing.assert_allclose(matrix, g.T @ g / len(X), atol=1e-12)


@pytest.mark.parametrize("inner", [symng.Fisher(), symng.GaussNewton(), symng.Hessian()])
def test_structural_damping_adds_it_once(inner: Any) -> None:
    model = Regression()
    damped = symng.StructuralDamping(metric=inner, hidden=model.y, coefficient=2.0)
    added = model.matrix(damped) - model.matrix(inner)
    expected = np.zeros((5, 5))
    expected[1:3, 1:3] = 2 * FISHER
    np.testing.assert_allclose(added, expected, atol=1e-12)


def test_curvature_that_is_negative_or_not_finite_is_left_out() -> None:
    w, s = (pytensor.shared(np.array([v]), name=n) for v, n in ((1.0, "w"), (2.0, "s")))
    x = pt.matrix("x")
    y = x * w
    for term, wanted in (
        (-pt.sqr(s), 0.0),  # negative
        (pt.sqr(s), 2.0),
        (3 * s, 0.0),  # none
        (pt.sqrt(s - 2) ** 4 * pt.log(s - 2), 0.0),  # NaN, as is the loss
    ):
        for terms in (term.sum(), term.sum() + pt.sqr(w).sum()):
            objective = symng.Objective(pt.sqr(y).mean() + terms, y, [w, s], inputs=[x])
            matrix = symng.Fisher()(objective).materialise().eval({x: np.ones((2, 1))})
            np.testing.assert_allclose(matrix, [[1, 0], [0, wanted]], atol=1e-12)
    both = pytensor.shared(np.array([2.0, 1.0]), name="both")
    loss = pt.sqr(y).mean() + pt.sqr(both[0]) + pt.log(both[1] - 1)
    objective = symng.Objective(loss, y, [w, both], inputs=[x])
    matrix = symng.Fisher()(objective).materialise().eval({x: np.ones((2, 1))})
    np.testing.assert_allclose(matrix, np.diag([1.0, 0, 0]), atol=1e-12)


def test_many_numbers_have_the_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positive_part, "_MAX_FORMED", 2)
    model = Regression(coupling=0.0)
    wanted = model.wanted(FISHER)
    np.testing.assert_allclose(model.matrix(symng.Fisher()), wanted, atol=1e-12)
    matrix = Regression(coupling=1.5).matrix(symng.Fisher())
    assert np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 2  # of w


@pytest.mark.parametrize("limit", [256, 2])
def test_chunks(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(positive_part, "_MAX_FORMED", limit)
    model = Regression()
    v = np.arange(1.0, 6.0)
    given = pt.vector("v", shape=(5,))
    batch = make_batch(model.objective, [ChunkLayout(chunked=True, ragged=True)])
    product = symng.Fisher()(batch) @ given
    function = symng.compile_function([*batch.variables, given], product, mode=MODE)
    chunks = split_into_chunks([X, T], (0, 0), 3)
    np.testing.assert_allclose(function(*chunks, v), model.matrix(symng.Fisher()) @ v, rtol=1e-10)


def test_a_sum_of_objectives_has_that_of_each_term() -> None:
    model, z = Regression(), pt.matrix("z")
    y = z @ model.w
    other = symng.Objective(
        pt.sqr(y).mean() + 3 * pt.sqr(model.s), y, [model.w, model.s], inputs=[z]
    )
    matrix = symng.Fisher()(model.objective + 0.5 * other).materialise()
    wanted = model.wanted(FISHER)
    wanted[0, 0] += 0.5 * 6
    wanted[1:3, 1:3] += 0.5 * np.eye(2) / 2
    np.testing.assert_allclose(matrix.eval({**model.batch, z: np.eye(2)}), wanted, atol=1e-12)


def test_dtype_stays_float32() -> None:
    model = Regression("float32")
    matrix = model.matrix(symng.Fisher())
    assert matrix.dtype == "float32"
    np.testing.assert_allclose(matrix, model.wanted(FISHER), atol=1e-5)


# In an optimizer


def test_estimates_of_the_diagonal() -> None:
    model = Regression()
    operator = symng.Fisher()(model.objective)
    assert operator.draw is not None
    diagonal = operator.diagonal(4000).eval(model.batch)
    np.testing.assert_allclose(diagonal, np.diag(model.wanted(FISHER)), rtol=0.15, atol=1e-12)


def test_kronecker_preconditioner_inverts_the_block() -> None:
    model = Regression()
    preconditioner = symng.KroneckerPreconditioner()
    state = symng.State("float64")
    state.add("step", 0, "int64")
    preconditioner.init_state(model.objective, state)
    damping = pt.constant(LAMBDA)
    batch = as_batch(model.objective)
    apply, _ = preconditioner.build(batch, symng.Fisher(), state, damping)
    v, others = np.arange(1.0, 6.0), [0, 3, 4]
    product = apply(pt.constant(v)).eval(model.batch)
    wanted = np.linalg.solve(model.block() + LAMBDA * np.eye(3), v[others])
    np.testing.assert_allclose(product[others], wanted, rtol=1e-10)
    plain = symng.Objective(pt.sqr(model.y).sum(), model.y, [model.w], model.objective.inputs)
    state = symng.State("float64")
    state.add("step", 0, "int64")
    preconditioner.init_state(plain, state)
    apply, _ = preconditioner.build(as_batch(plain), symng.Fisher(), state, damping)
    np.testing.assert_allclose(
        product[1:3], apply(pt.constant(v[1:3])).eval({plain.inputs[0]: X}), rtol=1e-10
    )


def test_woodbury_refuses_it() -> None:
    model = Regression()
    optimizer = symng.NaturalGradient(solver=symng.Woodbury(), damping=1.0)
    with pytest.raises(
        TypeError, match="parameters that only the loss uses have none; use symng.CG"
    ):
        symng.compile_step(model.objective, optimizer)


@pytest.mark.parametrize(
    "optimizer",
    [
        symng.NaturalGradient(metric=symng.GaussNewton(), damping=1e-3),
        symng.NaturalGradient(
            metric=symng.GaussNewton(), preconditioner=symng.KroneckerPreconditioner(), damping=1e-3
        ),
        symng.HessianFree(),
    ],
    ids=["Gauss-Newton", "Kronecker", "Hessian-free"],
)
def test_scale_of_the_noise_is_learned(optimizer: Any) -> None:
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(np.zeros((2, 1)), name="w")
    s = pytensor.shared(np.array(1.0), name="s")
    y = x @ w
    loss = (pt.sqr(y - t) * pt.exp(-2 * s)).sum(axis=1).mean() / 2 + s
    objective = symng.Objective(loss, y, [w, s], inputs=[x], targets=[t])
    result = symng.minimize(
        objective, optimizer, data=(X, T), max_steps=200, progress=False, mode=MODE
    )
    best = np.linalg.lstsq(X, T, rcond=None)[0]
    np.testing.assert_allclose(w.get_value(), best, rtol=1e-6)
    np.testing.assert_allclose(np.exp(2 * s.get_value()), np.mean((X @ best - T) ** 2), rtol=1e-6)
    assert result.status == "converged"


def test_the_metric_batch_needs_targets_where_the_block_does() -> None:
    model = Regression()
    step = symng.compile_step(model.objective, symng.NaturalGradient(), MODE)
    assert step.metric_inputs == [tuple(model.batch)]
    w, a = model.w, model.a
    loss = pt.sqr(model.y - model.objective.targets[0]).mean() + (pt.exp(a) * w[:, 0] ** 2).sum()
    prior = symng.Objective(loss, model.y, [w, a], model.objective.inputs, model.objective.targets)
    step = symng.compile_step(prior, symng.NaturalGradient(), MODE)
    assert step.metric_inputs == [prior.inputs]


# What is said and refused


def test_repr_names_them() -> None:
    text = " ".join(repr(Regression().objective).split())
    assert "loss only: s, a, for which Fisher and GaussNewton take the positive part" in text


def test_parameters_of_neither_are_refused() -> None:
    model = Regression()
    other = pytensor.shared(np.zeros(2), name="other")
    parts = model.objective.inputs, model.objective.targets
    with pytest.raises(ValueError, match="^params: expected variables that the output or the loss"):
        symng.Objective(model.objective.loss, model.y, [model.w, other], *parts)
    with pytest.raises(ValueError, match="^params: expected at least one .* got s, a. A metric"):
        symng.Objective(model.objective.loss, model.y, [model.s, model.a], *parts)
