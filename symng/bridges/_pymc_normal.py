"""Normal approximations N(mode, A^-1), from the products of A."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import eigh_tridiagonal, solve_triangular

from symng._checks import Verbatim, argument_error, warn
from symng.backends import compile_in_python
from symng.graphs.types import ModeLike
from symng.operators import LinearOperator

# The matrix is formed for up to so many numbers, and in plain Python for up to so many.
MAX_FORMED = 2000
_MAX_IN_PYTHON = 100

_RTOL = 1e-6
_MAX_ITERATIONS = 1000

Product = Callable[[np.ndarray], np.ndarray]
"""From a vector to its product with a matrix; with A^-1/2, from standard normal numbers to a draw.
"""


def approximate(
    A: LinearOperator, curvature: str, columns: Sequence[int], mode: ModeLike
) -> tuple[Product, np.ndarray]:
    """Return a function from standard normal numbers to draws, and a block of A^-1."""
    if A.size <= MAX_FORMED:
        draw, inverse = dense(_form(A, mode), curvature)
        return draw, inverse[np.ix_(columns, columns)]
    draw, solve = matrix_free(A.to_scipy(mode=mode).matvec, A.size, curvature)
    block = np.empty((len(columns), len(columns)))
    for row, i in enumerate(columns):
        unit = np.zeros(A.size)
        unit[i] = 1
        block[row] = solve(unit)[columns]
    return draw, block


def _form(A: LinearOperator, mode: ModeLike) -> np.ndarray:
    """Return A itself."""
    if A.size <= _MAX_IN_PYTHON:
        return compile_in_python([], A.materialise())()
    product = A.to_scipy(mode=mode).matvec
    return np.array([product(row) for row in np.eye(A.size)])


def dense(matrix: np.ndarray, curvature: str) -> tuple[Product, np.ndarray]:
    """Return a function that draws, and the covariance matrix A^-1."""
    matrix = (matrix + matrix.T) / 2
    least = float(np.linalg.eigvalsh(matrix)[0])
    if not least > 0:
        raise _not_definite(curvature, least)
    factor = np.linalg.cholesky(matrix)
    inverse = solve_triangular(factor, np.eye(len(matrix)), lower=True)
    return lambda z: inverse.T @ z, inverse.T @ inverse


def matrix_free(product: Product, size: int, curvature: str) -> tuple[Product, Product]:
    """Return functions that draw, and that solve with A, by the Lanczos process.

    With D a diagonal matrix of the sizes of A's rows, B = D^-1/2 A D^-1/2 most often has a smaller
    condition number than A. D^-1/2 B^-1/2 z has the covariance A^-1, as A^-1/2 z has.

    References
    ----------
    .. [1] E. Chow and Y. Saad, "Preconditioned Krylov subspace methods for sampling multivariate
       Gaussian distributions", SIAM Journal on Scientific Computing 36(2), 2014.
    """
    rng = np.random.default_rng(0)
    # The mean square of (A v)_i over random signs v is the square of the norm of row i.
    squares = np.mean([product(rng.choice([-1.0, 1.0], size)) ** 2 for _ in range(8)], axis=0)
    floor = squares.max() * np.finfo(float).eps
    if not floor > 0:
        raise _not_definite(curvature, 0.0)
    scale = np.maximum(squares, floor) ** -0.25

    def scaled(v: np.ndarray) -> np.ndarray:
        return scale * product(scale * v)

    def draw(z: np.ndarray) -> np.ndarray:
        return scale * _apply(scaled, lambda values: values**-0.5, z, curvature)

    def solve(b: np.ndarray) -> np.ndarray:
        return scale * _apply(scaled, lambda values: 1 / values, scale * b, curvature)

    return draw, solve


def _apply(product: Product, function: Product, b: np.ndarray, curvature: str) -> np.ndarray:
    """Return f(B) b: norm(b) Q f(T) e_1, with the basis Q and the tridiagonal T of Lanczos."""
    norm, limit = float(np.linalg.norm(b)), min(len(b), _MAX_ITERATIONS)
    Q = np.empty((min(32, limit), len(b)))
    Q[0] = b / norm
    alphas: list[float] = []
    betas: list[float] = []
    coefficients = np.zeros(0)
    for k in range(limit):
        w = product(Q[k])
        alphas.append(float(Q[k] @ w))
        # Twice, and the basis is orthogonal to rounding.
        for _ in range(2):
            w = w - Q[: k + 1].T @ (Q[: k + 1] @ w)
        betas.append(float(np.linalg.norm(w)))
        exhausted = k + 1 == len(b) or betas[-1] <= 1e-13 * max(map(abs, alphas))
        if exhausted or k + 1 == limit or k % 4 == 3:
            previous, coefficients = coefficients, _first_column(function, alphas, betas[:-1])
            if not np.all(np.isfinite(coefficients)):
                raise _not_definite(curvature, _least_eigenvalue(alphas, betas[:-1]))
            change = coefficients.copy()
            change[: len(previous)] -= previous
            if exhausted or np.linalg.norm(change) <= _RTOL * np.linalg.norm(coefficients):
                break
        if k + 1 == limit:
            warn(f"laplace: a draw or solve has not converged in {limit} products")
            break
        if k + 1 == len(Q):
            Q = np.concatenate([Q, np.empty((min(len(Q), limit - len(Q)), len(b)))])
        Q[k + 1] = w / betas[-1]
    return norm * (coefficients @ Q[: len(coefficients)])


def _least_eigenvalue(alphas: list[float], betas: list[float]) -> float:
    """Return the least eigenvalue of a tridiagonal matrix."""
    return float(eigh_tridiagonal(alphas, betas, eigvals_only=True)[0])


def _first_column(function: Product, alphas: list[float], betas: list[float]) -> np.ndarray:
    """Return f(T) e_1; NaN where T is not positive definite."""
    values, vectors = eigh_tridiagonal(alphas, betas)
    if not values[0] > 0:
        return np.full(len(alphas), np.nan)
    return vectors @ (function(values) * vectors[0])


def _not_definite(curvature: str, least: float) -> Exception:
    """Return the error for a curvature that is not positive definite."""
    return argument_error(
        "curvature",
        "one that is positive definite at the mode",
        Verbatim(f"{curvature!r}, with the eigenvalue {least:.3g}"),
        'Is the mode at the edge? curvature="fisher" is never negative.',
    )
