"""The search of Krylov subspace descent, on functions of NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from symng.optimizers._subspace_search import search_subspace


def test_search_of_a_quadratic_is_its_minimum():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((6, 6))
    H, b = A @ A.T + 0.1 * np.eye(6), rng.standard_normal(6)
    calls = []

    def loss_at(c):
        calls.append(c)
        return 2 - b @ c + c @ H @ c / 2, H @ c - b

    assert np.allclose(
        search_subspace(loss_at, b, H, max_iterations=50), np.linalg.solve(H, b), rtol=1e-6
    )
    assert len(calls) <= 3  # it starts there
    for model in (np.eye(6), 5 * H, -H, np.zeros((6, 6))):  # and it gets there from elsewhere
        assert np.allclose(
            search_subspace(loss_at, b, model, max_iterations=100), np.linalg.solve(H, b), atol=1e-5
        )
    start_only = search_subspace(loss_at, b, 5 * H, max_iterations=0)
    assert np.allclose(start_only, np.linalg.solve(5 * H, b))


def test_search_takes_the_scales_of_the_model():
    scales = np.logspace(-1, 1, 5)  # a curvature of condition 1e4

    def loss_at(c):
        d = (c - 1) * scales
        return float(np.cosh(d).sum()), np.sinh(d) * scales

    def error(curvature):
        return abs(
            search_subspace(loss_at, scales * np.sinh(scales), curvature, max_iterations=25) - 1
        ).max()

    assert error(np.diag(scales**2)) < 1e-2 and error(np.eye(5)) > 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_search_goes_around_what_is_not_finite(bad):
    # The start of the model, c = 2, and all beyond 1.5 is not finite; the minimum is at 1.
    def loss_at(
        c,
    ):
        d = c[0] - 1
        return (bad, np.array([np.nan])) if c[0] > 1.5 else (d**2 / 2, np.array([d]))

    found = search_subspace(loss_at, np.array([1.0]), np.array([[0.5]]), max_iterations=50)
    assert found == pytest.approx([1.0], abs=1e-5)
    nowhere = search_subspace(
        lambda c: (bad, c) if c.any() else (1.0, c - 1), np.ones(2), np.eye(2), max_iterations=50
    )
    assert nowhere.tolist() == [0.0, 0.0]
    for slopes, curvature, value in (
        ([np.nan, 1.0], np.eye(2), 1.0),
        ([1.0, 1.0], np.full((2, 2), np.inf), 1.0),
        ([1.0, 1.0], np.eye(2), bad),
    ):
        found = search_subspace(
            lambda c, v=value: (v, c), np.array(slopes), curvature, max_iterations=50
        )
        assert found.tolist() == [0.0, 0.0]


def test_search_never_returns_what_is_worse():
    found = search_subspace(
        lambda c: (float(c @ c), 2 * c), np.ones(2), np.eye(2), max_iterations=50
    )
    assert found.tolist() == [0.0, 0.0]  # the model is wrong: theta is the minimum
