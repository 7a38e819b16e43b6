"""The Lanczos matrix that MINRES-QLP keeps on request."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from symng import MinresQLP

KEEP = dict(keep_tridiagonal=True, recompute=False)


def test_it_is_a_in_the_krylov_basis():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 5))
    A, b, damping = A + A.T, rng.normal(size=5), 0.3
    solver = MinresQLP(rtol=1e-10, maxiter=8, **KEEP)
    solution = solver.solve(lambda v: pt.constant(A) @ v, pt.constant(b), damping=damping)
    rows, niter = pytensor.function([], [solution.tridiagonal, solution.niter])()
    assert rows.shape == (8, 2) and niter == 5
    assert not rows[5:].any()
    alpha, beta = rows[:5].T
    T = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    expected = np.linalg.eigvalsh(A + damping * np.eye(5))
    np.testing.assert_allclose(np.linalg.eigvalsh(T), expected, atol=1e-10)
    # Its first entry is the Rayleigh quotient of b.
    np.testing.assert_allclose(alpha[0], b @ A @ b / (b @ b) + damping)


def test_by_default_it_is_not_there():
    solution = MinresQLP().solve(lambda v: 2 * v, pt.constant(np.ones(2)))
    assert solution.tridiagonal is None


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(maxiter=None), "maxiter: expected a plain number where keep_tridiagonal is True"),
        (dict(recompute=True), "recompute: expected False where keep_tridiagonal is True"),
    ],
)
def test_what_it_needs(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        MinresQLP(**{"maxiter": 5, **KEEP, **settings})
