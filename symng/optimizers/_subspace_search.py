"""Search for the lowest loss in a subspace of parameters, on the host, without graphs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Eigenvalues of the curvature below this times the largest are raised to it, as Vinyals and Povey
# do.
_FLOOR = 1e-4
# The search ends where the gradient is this share of that at theta, or where a few rounding errors
# are left to gain.
_GRADIENT_RTOL = 1e-6
_ROUNDINGS = 4.0


def search_subspace(
    loss_at: Callable[[np.ndarray], tuple[float, np.ndarray]],
    slopes: np.ndarray,
    curvature: np.ndarray,
    *,
    max_iterations: int,
) -> np.ndarray:
    """Return the coefficients c of the vectors of a basis V at which L(theta - V^T c) is lowest.

    BFGS in coordinates a with c = C^-T a and C C^T = K. It starts from the minimizer c = K^-1 s of
    the quadratic model L - c . s + c . K c / 2, or from zero where the loss is no higher there. The
    point with the lowest loss of all that were tried is returned. Where none is lower than at
    theta, or the model is not finite, it is theta itself, c = 0.

    Parameters
    ----------
    loss_at : callable
        From c to the loss there and its gradient. Values that are not finite count as high ones.
    slopes : array of shape (k,)
        s, the decrease of the loss along each vector: V g.
    curvature : array of shape (k, k)
        K = V (F + lambda I) V^T, symmetric. Its eigenvalues count by their size, and not below 1e-4
        times the largest.
    max_iterations : int
        The limit on iterations of BFGS; with 0 the result is the better of the two starts.
    """
    from scipy.optimize import minimize  # here: importing it takes longer than importing symng

    best = zero = np.zeros(len(slopes))
    lowest, gradient = loss_at(zero)
    if not (
        np.isfinite(lowest) and all(np.isfinite(a).all() for a in (gradient, slopes, curvature))
    ):
        return zero
    rounding = _ROUNDINGS * np.finfo(curvature.dtype).eps * abs(lowest)
    wall = lowest + max(1.0, abs(lowest))

    # c = T a, with T T^T = K^-1. T is C^-T up to a rotation, which makes no difference to BFGS.
    eigenvalues, vectors = np.linalg.eigh(np.asarray(curvature, dtype="float64"))
    sizes = abs(eigenvalues)
    floor = _FLOOR * sizes.max()
    T = vectors / np.sqrt(np.maximum(sizes, floor if floor > 0 else 1.0))

    def evaluate(a: np.ndarray) -> tuple[float, np.ndarray]:
        """Return loss and gradient at a point, and remember the best one."""
        nonlocal best, lowest
        c = T @ a
        loss, gradient = loss_at(c)
        # BFGS takes finite values only.
        if not (np.isfinite(loss) and np.isfinite(gradient).all()):
            return wall, zero
        if loss < lowest:
            best, lowest = c, loss
        return loss, T.T @ gradient

    start, first = zero, (lowest, T.T @ gradient)
    # On these coordinates the model has half the square of its gradient left to gain.
    gtol = max(_GRADIENT_RTOL * np.linalg.norm(first[1]), np.sqrt(2 * rounding))
    minimizer = T.T @ np.asarray(slopes, dtype="float64")
    with np.errstate(all="ignore"):
        value = evaluate(minimizer)
        if best is not zero:
            start, first = minimizer, value
        if max_iterations:
            minimize(
                lambda a: first if np.array_equal(a, start) else evaluate(a),
                start,
                jac=True,
                method="BFGS",
                options={"maxiter": max_iterations, "gtol": gtol, "norm": 2},
            )
    return best
