"""The diagonal preconditioner against NumPy, alone and in a solve."""

from __future__ import annotations

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
    assert np.allclose(product, v / (d + 0.3) ** exponent, rtol=1e-6 if dtype == "float32" else 1e-14)


def test_where_diagonal_and_damping_are_zero_nothing_is_scaled():
    assert (diagonal_preconditioner(np.array([0.0, 16.0]))(np.ones(2)).eval() == [1.0, 0.125]).all()


@pytest.mark.parametrize("solver", [symng.CG(rtol=1e-10), symng.MinresQLP(rtol=1e-10)], ids=["CG", "MinresQLP"])
def test_badly_scaled_system_is_solved_sooner(solver):
    scales = np.logspace(-2, 2, 30)
    root = np.eye(30) + 0.1 * rng.standard_normal((30, 30))
    A = scales[:, None] * (root @ root.T) * scales
    b = A @ rng.standard_normal(30)
    wanted = np.linalg.solve(A + 1e-3 * np.eye(30), b)

    d = pt.vector("d", shape=(30,))
    preconditioner = diagonal_preconditioner(d, 1e-3, exponent=1.0)
    found = solver.solve(lambda v: pt.dot(A, v), pt.constant(b), 1e-3, preconditioner=preconditioner)
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
