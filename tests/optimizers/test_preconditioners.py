"""The diagonal preconditioner against NumPy, alone and in a solve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

import symng
from symng import diagonal_preconditioner

rng = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.75, 1.0])
def test_product(dtype, exponent):
    d, v = rng.uniform(0, 5, 7).astype(dtype), rng.standard_normal(7).astype(dtype)
    damping = pt.scalar("damping", dtype="float64")
    product = diagonal_preconditioner(d, damping, exponent=exponent)(v).eval({damping: 0.3})
    assert product.dtype == dtype
    assert np.allclose(
        product, v / (d + 0.3) ** exponent, rtol=1e-6 if dtype == "float32" else 1e-14
    )


def test_where_diagonal_and_damping_are_zero_nothing_is_scaled():
    assert (diagonal_preconditioner(np.array([0.0, 16.0]))(np.ones(2)).eval() == [1.0, 0.125]).all()


@pytest.mark.parametrize(
    "solver", [symng.CG(rtol=1e-10), symng.MinresQLP(rtol=1e-10)], ids=["CG", "MinresQLP"]
)
def test_badly_scaled_system_is_solved_sooner(solver):
    scales = np.logspace(-2, 2, 30)
    root = np.eye(30) + 0.1 * rng.standard_normal((30, 30))
    A = scales[:, None] * (root @ root.T) * scales
    b = A @ rng.standard_normal(30)
    wanted = np.linalg.solve(A + 1e-3 * np.eye(30), b)

    d = pt.vector("d", shape=(30,))
    preconditioner = diagonal_preconditioner(d, 1e-3, exponent=1.0)
    found = solver.solve(
        lambda v: pt.dot(A, v), pt.constant(b), 1e-3, preconditioner=preconditioner
    )
    solve = pytensor.function([d], [found.x, found.niter])
    x, iterations = solve(np.diag(A))
    assert np.linalg.norm(x - wanted) < 1e-6 * np.linalg.norm(wanted)
    assert iterations < solve(np.ones(30))[1] / 2


@pytest.mark.parametrize(
    "arguments, settings, message",
    [
        ((np.ones((2, 2)),), {}, "diagonal: expected a vector of float32 or float64"),
        ((np.arange(3),), {}, "diagonal: expected"),
        ((np.ones(2), "1"), {}, "damping: expected a finite number"),
        ((np.ones(2),), {"exponent": 1.5}, "exponent: expected .* at most 1"),
        ((np.ones(2),), {"exponent": -0.5}, "exponent: expected .* at least 0"),
    ],
)
def test_refusals(arguments, settings, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        diagonal_preconditioner(*arguments, **settings)


def scaled_regression() -> Any:
    """Return linear least squares whose inputs have very different scales, and a batch."""
    rng = np.random.default_rng(0)
    scales = np.logspace(0, 3, 30)
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.zeros(30), name="w")
    y = x @ w
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    )
    # Hutchinson's estimate is only as good as the diagonal is large beside its row.
    X = (
        np.linalg.qr(rng.standard_normal((200, 30)))[0] + 1e-5 * rng.standard_normal((200, 30))
    ) * scales
    return objective, (X, rng.standard_normal(200))


def test_jacobi_preconditioner_saves_iterations():
    spent = []
    for preconditioner in (None, symng.JacobiPreconditioner(draws=4)):
        objective, batch = scaled_regression()
        optimizer = symng.NaturalGradient(
            solver=symng.CG(rtol=1e-6, maxiter=500), damping=1e-3, preconditioner=preconditioner
        )
        info = symng.compile_step(objective, optimizer, mode="FAST_COMPILE")(batch)
        assert info.status == symng.Status.CONVERGED
        spent.append(info.solver_iterations)
    assert spent[1] < spent[0] / 3


def test_jacobi_preconditioner_keeps_a_running_mean():
    objective, batch = scaled_regression()
    optimizer = symng.NaturalGradient(
        solver=symng.CG(maxiter=2),
        damping=1e-3,
        preconditioner=symng.JacobiPreconditioner(decay=0.5),
    )
    step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE")
    mean = np.zeros(30)
    for k in range(3):
        estimate = (
            symng.Fisher()(objective).diagonal(1, seed=k).eval({objective.inputs[0]: batch[0]})
        )
        mean = mean + max(1 / (k + 1), 0.5) * (estimate - mean)
        step(batch)
        np.testing.assert_allclose(step.state["jacobi_diagonal"].get_value(), mean, rtol=1e-9)


@pytest.mark.parametrize("options", [{"draws": 0}, {"draws": 1.5}, {"decay": 1.0}])
def test_what_the_jacobi_preconditioner_does_not_take(options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        symng.JacobiPreconditioner(**options)


def a_function(operator, damping):
    return lambda v: v / (1 + damping)


def test_one_protocol_for_all_that_an_optimizer_takes():
    """A function of operator and damping, and "martens", are made preconditioners as others are."""
    optimizers = [
        symng.NaturalGradient(preconditioner=a_function),
        symng.NaturalGradient(preconditioner=symng.JacobiPreconditioner()),
        symng.HessianFree(),
        symng.HessianFree(preconditioner=a_function),
    ]
    assert all(isinstance(o.preconditioner, symng.Preconditioner) for o in optimizers)
    assert [repr(o.preconditioner) for o in optimizers] == [
        "a_function",
        "JacobiPreconditioner()",
        "'martens'",
        "a_function",
    ]
    assert symng.NaturalGradient().preconditioner is None
    assert symng.HessianFree(preconditioner=None).preconditioner is None
    assert repr(symng.HessianFree()) == "HessianFree()"
    scope = {**vars(symng), "a_function": a_function}
    assert all(eval(repr(o), scope) == o for o in optimizers)
