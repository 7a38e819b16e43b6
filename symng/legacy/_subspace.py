"""The subspace of ``ksd-theano``: an orthonormal basis, a matrix in it, and steps within it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Matvec = Callable[[np.ndarray], np.ndarray]


def get_subspace(
    matvec: Matvec,
    b: np.ndarray,
    K: int = 10,
    precon: Matvec | None = None,
    d_prev: np.ndarray | None = None,
    quirks: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return an orthonormal basis of a Krylov space and another direction, and A in it.

    The basis spans M^-1 b, (M^-1 A) M^-1 b, ... with K vectors, and the direction ``d_prev``.

    Parameters
    ----------
    matvec : callable
        From a vector v to A v, for a symmetric A.
    b : vector
        Where the space starts.
    K : int, default 10
        Its dimension.
    precon : callable, optional
        From a vector v to M^-1 v; default v itself.
    d_prev : vector, optional
        The last direction; default a normal random one, of NumPy's global generator.
    quirks : bool, default False
        Take another Krylov vector in place of ``d_prev``, as the original did by mistake.

    Returns
    -------
    P : array of shape (n, K + 1)
        The basis, as columns. A vector that lies in the span of those before it leaves a column of
        zeros.
    H : array of shape (K + 1, K + 1)
        P^T A P.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.legacy.ksd import get_subspace
    >>> A, b = np.diag([1.0, 2.0, 3.0, 4.0]), np.ones(4)
    >>> P, H = get_subspace(lambda v: A @ v, b, K=2, d_prev=np.eye(4)[0])
    >>> bool(np.allclose(P.T @ P, np.eye(3)) and np.allclose(P.T @ A @ P, H))
    True
    """
    if d_prev is None:
        d_prev = np.random.normal(0, 1, b.shape)  # noqa: NPY002 - seeded as the original is
    apply = (lambda v: v) if precon is None else precon
    P, H = np.zeros((len(b), K + 1)), np.zeros((K + 1, K + 1))
    P[:, 0] = _orthonormal(apply(b), P[:, :0])
    for k in range(K + 1):
        image = matvec(P[:, k])
        H[k, : k + 1] = image @ P[:, : k + 1]
        if k < K:
            following = apply(image) if quirks or k < K - 1 else d_prev
            P[:, k + 1] = _orthonormal(following, P[:, : k + 1])
    return P, H + np.tril(H, -1).T


def _orthonormal(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return the unit vector along what a vector has outside of a basis, or zeros."""
    rest = vector.copy()
    for column in basis.T:
        rest = rest - (rest @ column) * column
    size = np.linalg.norm(rest)
    if size <= np.finfo(rest.dtype).eps * np.linalg.norm(vector):
        return np.zeros_like(rest)
    return rest / size


def floor_matrix(H: np.ndarray, eps: float) -> np.ndarray:
    """Return a matrix with the sizes of the eigenvalues, at least ``eps`` times the largest.

    Parameters
    ----------
    H : square array
        The symmetric matrix. A negative eigenvalue gets a positive one of its size.
    eps : float
        The floor, in units of the largest eigenvalue.

    Returns
    -------
    array
        A positive definite matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.legacy.ksd import floor_matrix
    >>> floor_matrix(np.diag([2.0, 0.0]), 0.5).round(6).tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    """
    u, s, _ = np.linalg.svd(H)
    return (u * floor_vector(s, eps)) @ u.T


def floor_vector(v: np.ndarray, eps: float) -> np.ndarray:
    """Return the entries of a vector, those below ``eps`` times the largest raised to that.

    Parameters
    ----------
    v : vector
        The entries.
    eps : float
        The floor, in units of the largest entry.

    Returns
    -------
    vector
        The raised entries.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.legacy.ksd import floor_vector
    >>> floor_vector(np.array([4.0, 1.0]), 0.5).tolist()
    [4.0, 2.0]
    """
    return np.maximum(v, eps * np.max(v))


def get_optimizer_functions(
    L: np.ndarray, P: np.ndarray, get_cost: Any, get_grad_cost: Any, dataset: Any
) -> tuple[Callable[[np.ndarray], float], Matvec]:
    """Return cost and gradient as functions of the coordinates a of the step P L^-T a.

    Parameters
    ----------
    L : array
        The Cholesky factor of the matrix in the subspace, lower triangular.
    P : array of shape (n, K)
        The basis, as columns.
    get_cost : callable
        Called as ``get_cost(delta=, dataset=)``, returns the cost after a step.
    get_grad_cost : callable
        Called as ``get_grad_cost(x=, dataset=)``, returns a pair with the gradient first.
    dataset : object
        Passed on to both.

    Returns
    -------
    f_obj : callable
        The cost as a function of a.
    f_prime : callable
        Its gradient with respect to a.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.legacy.ksd import get_optimizer_functions
    >>> cost = lambda delta, dataset: float(delta @ delta)
    >>> slope = lambda x, dataset: (2 * x, None)
    >>> f, df = get_optimizer_functions(2 * np.eye(2), np.eye(3)[:, :2], cost, slope, None)
    >>> f(np.array([2.0, 0.0])), df(np.array([2.0, 0.0])).tolist()
    (1.0, [1.0, 0.0])
    """
    from scipy.linalg import solve_triangular

    def step(a: np.ndarray) -> np.ndarray:
        return P @ solve_triangular(L.T, a)

    def f_obj(a: np.ndarray) -> float:
        return get_cost(delta=step(a), dataset=dataset)

    def f_prime(a: np.ndarray) -> np.ndarray:
        gradient = get_grad_cost(x=step(a), dataset=dataset)[0]
        return solve_triangular(L, P.T @ gradient, lower=True)

    return f_obj, f_prime
