"""Symmetric linear systems named by their pathology, and dense NumPy oracles for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg


@dataclass(frozen=True)
class Problem:
    """Hold one system and its flags.

    ``single`` tells whether float32 can tell its singular values from zero.
    """

    name: str
    A: np.ndarray
    b: np.ndarray
    definite: bool = False  # positive definite
    semidefinite: bool = False  # positive semidefinite and singular
    consistent: bool = True
    single: bool = True
    slow: bool = False  # needs more than 10 n iterations of CG
    delayed: bool = False  # rounding errors cost CG more than half of the iterations again

    def __repr__(self) -> str:
        return self.name


def rotation(n: int, seed: int = 0) -> np.ndarray:
    """Return a random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def spectrum(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return a dense symmetric matrix with the given eigenvalues."""
    Q = rotation(len(values), seed)
    A = Q * values @ Q.T
    return (A + A.T) / 2


def tridiagonal(n: int, below: float, diagonal: float) -> np.ndarray:
    """Return a symmetric tridiagonal Toeplitz matrix."""
    return diagonal * np.eye(n) + below * (np.eye(n, k=1) + np.eye(n, k=-1))


def laplacian(m: int) -> np.ndarray:
    """Return the five-point Laplacian on an m by m grid."""
    T, I = tridiagonal(m, -1.0, 2.0), np.eye(m)
    return np.kron(T, I) + np.kron(I, T)


def clement(n: int) -> np.ndarray:
    """Return the symmetric Clement matrix.

    Zero diagonal, eigenvalues ±(n-1), ±(n-3), ..., singular for odd n.
    """
    k = np.arange(1, n)
    off = np.sqrt(k * (n - k))
    return np.diag(off, 1) + np.diag(off, -1)


def minij(n: int) -> np.ndarray:
    """Return min(i, j): definite, condition about n²."""
    i = np.arange(1, n + 1)
    return np.minimum.outer(i, i).astype(float)


def lehmer(n: int) -> np.ndarray:
    """Return min(i, j) / max(i, j): definite."""
    i = np.arange(1.0, n + 1)
    return np.minimum.outer(i, i) / np.maximum.outer(i, i)


def moler(n: int) -> np.ndarray:
    """Return U^T U for U unit upper triangular with -1 above the diagonal.

    Definite with one tiny eigenvalue.
    """
    U = np.eye(n) - np.triu(np.ones((n, n)), 1)
    return U.T @ U


def pei(n: int) -> np.ndarray:
    """Return I + 1 1^T: two distinct eigenvalues."""
    return np.eye(n) + np.ones((n, n))


def wilkinson(n: int) -> np.ndarray:
    """Return Wilkinson's W+: tridiagonal with pairs of nearly equal eigenvalues; indefinite."""
    return np.diag(np.abs(np.arange(n) - (n - 1) / 2)) + np.eye(n, k=1) + np.eye(n, k=-1)


def prolate(n: int, w: float = 0.25) -> np.ndarray:
    """Return the prolate matrix.

    Toeplitz, eigenvalues clustered near 0 and 1, very ill-conditioned.
    """
    k = np.arange(1, n)
    return scipy.linalg.toeplitz(np.r_[2 * w, np.sin(2 * np.pi * w * k) / (np.pi * k)])


def polar_laplacian(rings: int, spokes: int) -> np.ndarray:
    """Return minus the Laplacian in polar coordinates, times the radius to be symmetric."""
    r = np.arange(rings) + 0.5
    radial = np.diag(2 * r) - np.diag(r[:-1] + 0.5, 1) - np.diag(r[:-1] + 0.5, -1)
    ring = (
        tridiagonal(spokes, -1.0, 2.0) - np.eye(spokes, k=spokes - 1) - np.eye(spokes, k=1 - spokes)
    )
    return np.kron(radial, np.eye(spokes)) + np.kron(np.diag((spokes / (2 * np.pi)) ** 2 / r), ring)


def ris(n: int) -> np.ndarray:
    """Return Ris's Hankel matrix: eigenvalues clustered near -π/2 and π/2."""
    i = np.arange(n)
    return 0.5 / (n - np.add.outer(i, i) - 0.5)


def rosser() -> np.ndarray:
    """Return Rosser's matrix.

    Integer, singular, with a double and several nearly equal eigenvalues.
    """
    A = np.zeros((8, 8))
    A[np.triu_indices(8)] = [
        611, 196, -192, 407, -8, -52, -49, 29, 899, 113, -192, -71, -43, -8, -44, 899, 196, 61, 49,
        8, 52, 611, 8, 44, 59, -23, 411, -599, 208, 208, 411, 208, 208, 99, -911, 99,
    ]  # fmt: skip
    return A + np.triu(A, 1).T


def kms(n: int, rho: float = 0.5) -> np.ndarray:
    """Return the Kac-Murdock-Szego matrix rho^|i-j|: definite."""
    i = np.arange(n)
    return rho ** np.abs(np.subtract.outer(i, i)).astype(float)


def problems() -> list[Problem]:
    """Return all systems, a little different in size so that nothing depends on one."""
    rng = np.random.default_rng(20)
    table: list[Problem] = []

    def add(name: str, A: np.ndarray, b: np.ndarray | None = None, **flags: bool) -> None:
        A = np.asarray(A, dtype=float)
        b = A @ np.ones(len(A)) if b is None else np.asarray(b, dtype=float)
        table.append(Problem(name, A, b, **flags))

    def noise(n: int) -> np.ndarray:
        return rng.standard_normal(n)

    # --- positive definite
    add("identity", np.eye(12), noise(12), definite=True)
    add("one unknown", np.array([[3.0]]), np.array([2.0]), definite=True)
    add("two unknowns", np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([1.0, -1.0]), definite=True)
    add("diagonal 1..n", np.diag(np.arange(1.0, 31)), noise(30), definite=True)
    add("second difference", tridiagonal(50, -1.0, 2.0), noise(50), definite=True)
    add("second difference, smooth b", tridiagonal(40, -1.0, 2.0), definite=True)
    add("tridiagonal 4", tridiagonal(30, -2.0, 4.5), np.arange(1.0, 31), definite=True)
    add("five-point Laplacian", laplacian(8), noise(64), definite=True)
    add(
        "Krylov.jl symmetric definite", tridiagonal(10, 1.0, 4.0), np.arange(1.0, 11), definite=True
    )
    add("minij", minij(25), noise(25), definite=True, delayed=True)
    add("lehmer", lehmer(25), noise(25), definite=True, delayed=True)
    add("moler", moler(8), definite=True)
    add("pei", pei(30), noise(30), definite=True)
    add("kms", kms(40), noise(40), definite=True)
    add("hilbert 4", scipy.linalg.hilbert(4), definite=True)
    add("hilbert 6", scipy.linalg.hilbert(6), definite=True, single=False)
    add("repeated eigenvalues", spectrum(np.repeat([1.0, 3.0, 10.0], 12)), noise(36), definite=True)
    add(
        "clustered eigenvalues",
        spectrum(np.r_[1 + 1e-5 * np.arange(20), 50 + 1e-4 * np.arange(15)]),
        noise(35),
        definite=True,
    )
    add(
        "one outlier",
        spectrum(np.r_[np.linspace(1, 2, 39), 1e4]),
        noise(40),
        definite=True,
        delayed=True,
    )
    add(
        "one small eigenvalue",
        spectrum(np.r_[1e-4, np.linspace(1, 2, 39)]),
        noise(40),
        definite=True,
    )
    add("condition 1e4", spectrum(np.logspace(0, 4, 40)), noise(40), definite=True, delayed=True)
    add(
        "condition 1e8, clustered",
        spectrum(np.repeat([1e-8, 1e-4, 1.0], 10)),
        noise(30),
        definite=True,
        single=False,
    )
    add(
        "condition 1e12, clustered",
        spectrum(np.repeat([1e-12, 1e-5, 1.0], 8)),
        noise(24),
        definite=True,
        single=False,
    )
    add("condition 1e8", spectrum(np.logspace(-8, 0, 30)), definite=True, slow=True)
    add("condition 1e12", spectrum(np.logspace(-12, 0, 30)), definite=True, slow=True)
    d = np.logspace(-3, 3, 20)
    add("badly scaled", d[:, None] * kms(20) * d, d * noise(20), definite=True, slow=True)
    add("almost singular", spectrum(np.r_[1e-6, np.linspace(1, 3, 24)]), definite=True)

    # --- indefinite
    add("negative definite", -laplacian(5), noise(25))
    add("diagonal indefinite", np.diag(np.r_[np.arange(1.0, 16), -np.arange(1.0, 11)]), noise(25))
    add("Paige-Saunders shifted diagonal", np.diag(np.arange(1.0, 51) / 50 - 0.51), noise(50))
    add(
        "symmetric indefinite, Krylov.jl",
        tridiagonal(10, 1.0, 4.0) - 3 * np.eye(10),
        np.arange(1.0, 11),
    )
    add("shifted Laplacian", laplacian(7) - 2.5 * np.eye(49), noise(49))
    add(
        "saddle point",
        np.block(
            [
                [spectrum(np.linspace(1, 5, 20)), np.eye(20)[:, :6]],
                [np.eye(6, 20), np.zeros((6, 6))],
            ]
        ),
        noise(26),
    )
    add("exchange", np.eye(16)[::-1], noise(16))
    add("two unknowns, zero diagonal", np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1.0, 0.0]))
    add("clement even", clement(20), noise(20))
    add("wilkinson", wilkinson(21), noise(21))
    add("indefinite clusters", spectrum(np.repeat([-2.0, -1.0, 1.0, 4.0], 8)), noise(32))
    add(
        "indefinite, condition 1e8",
        spectrum(np.r_[-np.logspace(-8, 0, 12), np.logspace(-7, 0, 13)]),
    )
    add(
        "indefinite, condition 1e12, clustered",
        spectrum(np.repeat([-1e-12, 1e-4, -1.0], 8)),
        noise(24),
        single=False,
    )
    add("one negative eigenvalue", spectrum(np.r_[-1e-2, np.linspace(1, 10, 29)]), noise(30))
    add(
        "first pivot zero",
        np.array([[0.0, 1, 0, 0], [1, 0, 2, 0], [0, 2, 0, 3], [0, 0, 3, 1]]),
        np.array([1.0, 0, 0, 0]),
    )

    # --- singular and consistent
    def add_singular(
        name: str, A: np.ndarray, semidefinite: bool = False, single: bool = True
    ) -> None:
        n = len(A)
        add(f"{name}, consistent", A, A @ noise(n), semidefinite=semidefinite, single=single)
        add(
            f"{name}, inconsistent",
            A,
            noise(n),
            semidefinite=semidefinite,
            consistent=False,
            single=single,
        )

    add_singular("rank one", np.outer(np.arange(1.0, 13), np.arange(1.0, 13)), semidefinite=True)
    add_singular("diagonal 0..n-1", np.diag(np.arange(20.0)), semidefinite=True)
    add_singular(
        "diagonal, 1 to 10 and zeros",
        np.diag(np.r_[np.arange(1.0, 11), np.zeros(10)]),
        semidefinite=True,
    )
    add_singular(
        "Neumann Laplacian",
        tridiagonal(25, -1.0, 2.0) - np.diag(np.r_[1.0, np.zeros(23), 1.0]),
        semidefinite=True,
    )
    add_singular(
        "periodic Laplacian",
        tridiagonal(24, -1.0, 2.0) - np.eye(24, k=23) - np.eye(24, k=-23),
        semidefinite=True,
    )
    add_singular(
        "singular spectrum", spectrum(np.r_[np.zeros(5), np.linspace(1, 10, 20)]), semidefinite=True
    )
    add_singular(
        "singular, condition 1e4",
        spectrum(np.r_[np.zeros(4), np.repeat(np.logspace(-4, 0, 5), 3)]),
        semidefinite=True,
    )
    add_singular(
        "singular indefinite",
        spectrum(np.r_[np.zeros(4), np.linspace(-5, -1, 10), np.linspace(1, 5, 10)]),
    )
    add_singular("singular clusters", spectrum(np.repeat([-3.0, 0.0, 1.0, 1e3], 6)))
    add_singular("clement odd", clement(15))
    add_singular("symmetric difference", np.eye(9, k=1) + np.eye(9, k=-1))
    add_singular("block of ones", np.kron(np.diag([1.0, -2.0, 0.0]), np.ones((4, 4))))
    add_singular("shift onto an eigenvalue", np.diag(np.arange(1.0, 21)) - 7 * np.eye(20))
    m = 6
    add_singular("Choi block Toeplitz", np.kron(tridiagonal(m, 1.0, 1.0), np.ones((m, m))))
    add_singular(
        "badly scaled and singular", np.diag(np.r_[1e-2, 1.0, 1e2, 0.0, 0.0]), semidefinite=True
    )
    add("zero matrix", np.zeros((7, 7)), noise(7), semidefinite=True, consistent=False)
    add(
        "b in the null space",
        np.diag([1.0, 2.0, 0.0]),
        np.array([0.0, 0, 3]),
        semidefinite=True,
        consistent=False,
    )
    add(
        "almost consistent",
        np.diag(np.arange(20.0)),
        np.r_[1e-2, noise(19)],
        semidefinite=True,
        consistent=False,
    )
    add(
        "two unknowns, inconsistent",
        np.diag([1.0, 0.0]),
        np.array([1.0, 1.0]),
        semidefinite=True,
        consistent=False,
    )

    # --- b is an eigenvector
    add(
        "eigenvector",
        laplacian(4),
        np.outer(*[np.sin(np.pi * np.arange(1, 5) / 5)] * 2).ravel(),
        definite=True,
    )
    add("coordinate eigenvector", np.diag(np.arange(1.0, 21)) - 10.5 * np.eye(20), np.eye(20)[3])

    # --- from the tests of SciPy, Krylov.jl, the SOL code and the TOMS algorithm, and other
    # galleries
    uniform = np.random.RandomState(1234)
    A, b = uniform.rand(10, 10), uniform.rand(10)
    A = A + A.T
    add("SciPy, random", A, b)
    add("SciPy, random and shifted", A - 0.5 * np.eye(10), b)
    A = A.copy()
    A[0] = A[:, 0] = 0
    add("SciPy, random and singular", A, np.r_[0, b[1:]])
    X = np.random.RandomState(1234).randn(5, 5)
    add("SciPy, random and definite", X @ X.T, noise(5), definite=True)
    add("SciPy, random diagonal", np.diag(np.random.RandomState(1234).rand(10) - 0.5), noise(10))
    cube = np.kron(laplacian(4), np.eye(4)) + np.kron(np.eye(16), tridiagonal(4, -1.0, 2.0))
    add("Krylov.jl, cube", cube, np.ones(64), definite=True)
    add("Krylov.jl, cube, almost singular", cube - 5 * np.eye(64))
    A = np.outer(np.arange(1.0, 11), np.arange(1.0, 11)) + 5 * np.eye(10)
    A[:2] = A[:, :2] = 1
    add("Krylov.jl, two equal rows", A)
    add(
        "Krylov.jl, preconditioned",
        np.ones((10, 10)) + 9 * np.eye(10),
        np.arange(10.0, 110, 10),
        definite=True,
    )
    add(
        "Krylov.jl, unit vectors, inconsistent",
        np.diag(np.r_[0, np.ones(9)]),
        np.ones(10),
        consistent=False,
    )
    add(
        "Krylov.jl, four unknowns",
        np.diag([1.0, 2, 3, 0]),
        np.ones(4),
        semidefinite=True,
        consistent=False,
    )
    sine = np.sin(np.pi * np.arange(1, 11) / 11)
    add(
        "Krylov.jl, Cartesian Poisson",
        -121 * laplacian(10),
        -2 * np.pi**2 * np.outer(sine, sine).ravel(),
    )
    spokes = np.cos(2 * np.pi * np.arange(12) / 12)
    add(
        "Krylov.jl, polar Poisson",
        polar_laplacian(8, 12),
        np.outer(np.arange(8) + 0.5, spokes).ravel(),
        definite=True,
    )
    add("polar Poisson, rough b", polar_laplacian(6, 10), noise(60), definite=True)
    add("SOL, tridiagonal", tridiagonal(100, -2.0, 4.0), definite=True)
    add("SOL, block Toeplitz", np.kron(tridiagonal(8, 1.0, 1.0), tridiagonal(8, 1.0, 1.0)))
    add("SOL, diagonal -10..10", np.diag(np.arange(-10.0, 11)), np.ones(21), consistent=False)
    d = np.r_[np.arange(1.0, 49) / 50, 0, 0]
    add("TOMS, diagonal", np.diag(d), d * np.arange(50.0, 0, -1), semidefinite=True)
    add("TOMS, shifted diagonal", np.diag(d - 0.25 * (d > 0) - 0.005), np.arange(50.0, 0, -1))
    add(
        "TOMS, inconsistent",
        np.diag(d),
        np.arange(50.0, 0, -1),
        semidefinite=True,
        consistent=False,
    )
    v = noise(20)
    add("reflector", np.eye(20) - 2 * np.outer(v, v) / (v @ v), noise(20))
    add(
        "projector",
        np.eye(20) - np.outer(v, v) / (v @ v),
        noise(20),
        semidefinite=True,
        consistent=False,
    )
    add("minus rank one", -np.outer(v, v), 3 * v)
    add("scaled identity", 1e-6 * np.eye(9), noise(9), definite=True)
    add("scaled identity, negative", -1e6 * np.eye(9), noise(9))
    add("fiedler", np.abs(np.subtract.outer(np.arange(20.0), np.arange(20.0))), noise(20))
    add("ris", ris(14), noise(14))
    add("hadamard", scipy.linalg.hadamard(16), noise(16))
    add("pascal", scipy.linalg.pascal(6), definite=True, slow=True)
    add("prolate", prolate(12), definite=True, slow=True)
    add_singular("rosser", rosser(), single=False)
    tiny = spectrum(np.r_[1e-12, np.linspace(1, 2, 19)])
    add("one tiny eigenvalue", tiny, noise(20), definite=True, single=False, delayed=True)
    return table


def shortest(A: np.ndarray, b: np.ndarray, tolerance: float = 1e-13) -> np.ndarray:
    """Return the least-squares solution of minimum length, by an eigendecomposition."""
    values, vectors = np.linalg.eigh(A)
    keep = np.abs(values) > tolerance * max(np.abs(values).max(), np.finfo(float).tiny)
    inverse = np.where(keep, 1 / np.where(keep, values, 1), 0)
    return vectors @ (inverse * (vectors.T @ b))


def minres_iterations(A: np.ndarray, b: np.ndarray, rtol: float, limit: int) -> int:
    """Return the iterations a minimal residual method needs.

    Lanczos in the dtype of A, dense least squares on T.
    """
    eps = np.finfo(A.dtype).eps
    beta1 = beta = np.linalg.norm(b)
    v, v_old = b / beta1, np.zeros_like(b)
    T, size = np.zeros((limit + 2, limit + 1)), 0.0
    y, r_norm = np.zeros(0), float(beta1)
    for k in range(limit):
        q = A @ v - (beta * v_old if k else 0)
        alpha = v @ q
        q = q - alpha * v
        beta = np.linalg.norm(q)
        T[k, k], T[k + 1, k], T[k, k + 1] = alpha, beta, beta
        size = max(size, float(np.linalg.norm(T[: k + 2, k])))
        # A r_{k-1} in the basis of the Lanczos vectors.
        residual = np.r_[float(beta1), np.zeros(k)] - T[: k + 1, :k] @ y
        if np.linalg.norm(T[: k + 2, : k + 1] @ residual) <= max(rtol, 10 * eps) * size * r_norm:
            return k + 1
        y = np.linalg.lstsq(T[: k + 2, : k + 1], np.r_[float(beta1), np.zeros(k + 1)], rcond=1e-15)[
            0
        ]
        r_norm = float(
            np.linalg.norm(np.r_[float(beta1), np.zeros(k + 1)] - T[: k + 2, : k + 1] @ y)
        )
        if r_norm <= max(rtol, eps) * (size * np.linalg.norm(y) + beta1) or beta <= eps * size:
            return k + 1
        v, v_old = q / beta, v
    return limit


def cg_iterates(
    A: np.ndarray,
    b: np.ndarray,
    limit: int,
    *,
    rtol: float = 0.0,
    progress_rtol: float | None = None,
    history: int = 128,
    x0: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Return the iterates of textbook CG in the dtype of A, from the start on.

    Residual or Martens's rule end them.

    The quadratic is computed from its definition.
    """
    x = np.zeros_like(b) if x0 is None else x0
    r = p = b - A @ x
    iterates, phi = [x], [x @ A @ x / 2 - b @ x]
    for i in range(1, limit + 1):
        q, rr = A @ p, r @ r
        x, r = x + rr / (p @ q) * p, r - rr / (p @ q) * q
        p = r + (r @ r) / rr * p
        iterates.append(x)
        phi.append(x @ A @ x / 2 - b @ x)
        if np.linalg.norm(r) <= rtol * np.linalg.norm(b):
            break
        if progress_rtol is not None:
            k = min(max(10, math.ceil(0.1 * i)), history)
            if i > k and phi[i] < 0 and (phi[i] - phi[i - k]) / phi[i] < k * progress_rtol:
                break
    return iterates


def cg_iterations(A: np.ndarray, b: np.ndarray, rtol: float) -> int:
    """Return the iterations CG needs in exact arithmetic.

    Lanczos with the basis made orthogonal anew, in float64.
    """
    V = [b / np.linalg.norm(b)]
    for k in range(1, len(b) + 1):
        basis = np.array(V).T
        y = np.linalg.lstsq(basis.T @ A @ basis, basis.T @ b, rcond=1e-15)[0]
        if np.linalg.norm(b - A @ (basis @ y)) <= rtol * np.linalg.norm(b):
            return k
        v = A @ V[-1]
        for _ in range(2):
            v = v - basis @ (basis.T @ v)
        if np.linalg.norm(v) <= 1e-14 * np.linalg.norm(A, 2):
            return k
        V.append(v / np.linalg.norm(v))
    return len(b)
