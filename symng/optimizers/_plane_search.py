"""Search for the lowest loss in a plane of parameter space, on the host, without graphs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def search_plane(
    loss_at: Callable[[np.ndarray], float],
    loss: float,
    slopes: np.ndarray,
    curvature: np.ndarray,
    *,
    max_evaluations: int,
    radius: float,
    tolerance: float,
) -> np.ndarray:
    """Return the coefficients c of two vectors p at which L(theta - c_1 p_1 - c_2 p_2) is lowest.

    COBYLA, started from the minimizer of the quadratic model L - c . s + c . K c / 2. Where the
    loss there is not below that at theta the start is halved until it is. The point with the lowest
    loss of all that were tried is returned: the loss never rises. Where none is lower than at
    theta, or the model is not finite, it is theta itself, c = 0.

    Parameters
    ----------
    loss_at : callable
        From c to the loss there. Values that are not finite count as high ones.
    loss : float
        The loss at c = 0.
    slopes : array of shape (2,)
        s, its decrease along each vector: g . p_i.
    curvature : array of shape (2, 2)
        K, the products p_i . (F + lambda I) p_j.
    max_evaluations : int
        The limit on calls of ``loss_at``.
    radius, tolerance : float
        First and last size of COBYLA's changes (its ``rhobeg`` and ``tol``), in units of the start.

    Notes
    -----
    COBYLA moves along the axes of `model_axes`: there the model is round, and the start lies at
    distance 1 from theta.
    """
    from scipy.optimize import minimize  # here: importing it takes longer than importing symng

    best, lowest, highest = np.zeros(2), loss, loss
    slopes, curvature = np.asarray(slopes), np.asarray(curvature)
    if not (math.isfinite(loss) and np.isfinite(slopes).all() and np.isfinite(curvature).all()):
        return best
    axes = 2 * model_axes(slopes, curvature)
    rounding = np.finfo(slopes.dtype).eps * abs(loss)

    def evaluate(z: np.ndarray) -> float:
        """Return the loss at a point given on the axes, and remember the best one."""
        nonlocal best, lowest, highest
        c = z @ axes
        value = loss_at(c)
        # COBYLA takes finite values only, so this one is made worse than the worst so far.
        if not math.isfinite(value):
            return highest + (highest - lowest)
        highest = max(highest, value)
        if value < lowest:
            best, lowest = c, value
        return value

    # The start, shortened until the loss there is lower than at theta.
    start, value, evaluations_left = np.eye(len(axes))[0], loss, max_evaluations
    while value >= loss:
        axes = axes / 2
        if evaluations_left == 0 or slopes @ axes[0] <= rounding:  # no gain that could be seen
            return best
        value, evaluations_left = evaluate(start), evaluations_left - 1
    if evaluations_left < len(axes) + 1:  # fewer than COBYLA's first simplex takes
        return best

    def evaluate_new(z: np.ndarray) -> float:
        """Return the loss; that at the start is known."""
        return value if np.array_equal(z, start) else evaluate(z)

    options = {"rhobeg": radius, "tol": tolerance, "maxiter": evaluations_left + 1}
    minimize(evaluate_new, start, method="COBYLA", options=options)
    return best


def model_axes(slopes: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Return axes, as rows, along which the quadratic model -c . s + c . K c / 2 is easy to search.

    The first is the model's minimizer K^+ s. The second lies across it: conjugate, and as long in
    the metric, so that the model rises alike in all directions from the first; of its two signs it
    has the one with more of the second vector. It is missing where both vectors are parallel or one
    is zero. Eigenvalues of an indefinite K count by their size, which makes the first axis descend.
    """
    length = np.sqrt(abs(np.diag(curvature).astype(float)))
    length[length == 0] = 1.0
    s, K = slopes / length, curvature / np.outer(length, length)
    values, vectors = np.linalg.eigh((K + K.T) / 2)
    values = abs(values)
    nonzero = values > math.sqrt(np.finfo(slopes.dtype).eps) * values.max()
    whiten = vectors[:, nonzero] / np.sqrt(values[nonzero])  # then |K| is the identity
    z = whiten.T @ s
    if len(z) < 2:
        return z[None] @ whiten.T / length
    start, across = np.array([z, [-z[1], z[0]]]) @ whiten.T / length
    return np.array([start, across if across[1] > 0 else -across])
