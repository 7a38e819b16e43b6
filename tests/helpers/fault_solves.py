"""Random symmetric systems at every scale of the dtype, solved, and judged by dense NumPy."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import OPT_FAST_COMPILE, Mode
from pytensor.link.vm import VMLinker

from symng import QR, Woodbury
from symng.operators import Factor, LinearOperator
from symng.solvers import CG, MinresQLP, Status

MODE = Mode(VMLinker(use_cloop=False, c_thunks=False), OPT_FAST_COMPILE)
RTOL = {"float64": 1e-8, "float32": 1e-4}
LARGEST = {"float64": 130, "float32": 14}  # powers of ten of A, and of b
SIZE = 12  # of the systems with a factor
SOLVERS = {
    "CG": lambda rtol: CG(rtol=rtol),
    "MinresQLP": lambda rtol: MinresQLP(rtol=rtol),
    "MinresQLP, quick": lambda rtol: MinresQLP(rtol=rtol, recompute=False),
    "Woodbury": lambda rtol: Woodbury(),
    "QR": lambda rtol: QR(),
}


@cache
def compiled(name: str, dtype: str) -> Any:
    """Compile a solver as a function of A or its factor, b and the damping."""
    A, b = pt.matrix("A", dtype=dtype), pt.vector("b", dtype=dtype)
    shift = pt.scalar("damping", dtype=dtype)
    operator: Any = A.dot
    if name in ("Woodbury", "QR"):
        factor = Factor(lambda v: A @ v, lambda u: A.T @ u, lambda: A)
        operator = LinearOperator(lambda v: A.T @ (A @ v), SIZE, dtype, factor=factor)
    solution = SOLVERS[name](RTOL[dtype]).solve(operator, b, damping=shift)
    outputs = [solution.x, solution.status, solution.residual_norm]
    return pytensor.function([A, b, shift], outputs, mode=MODE)


def system(rng: np.random.Generator, name: str, dtype: str) -> tuple[np.ndarray, ...]:
    """Return what is compiled with, the dense matrix and b, both near a scale of A and of b."""
    n = SIZE if name in ("Woodbury", "QR") else int(rng.integers(2, 25))
    rank = n if rng.random() < 0.6 else int(rng.integers(1, n))
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0][:, :rank]
    decades = rng.uniform(0, 5 if dtype == "float64" else 2)
    values = 10 ** rng.uniform(-decades, 0, rank)
    b = rng.standard_normal(n)
    if name.startswith("MinresQLP"):
        values = values * rng.choice([-1, 1], rank)
    if rng.random() < 0.4:  # in the range of A
        b = Q @ (Q.T @ b)
    elif rng.random() < 0.1 and rank < n:  # in the null space
        b = b - Q @ (Q.T @ b)
    scale, size = 10.0 ** rng.uniform(-LARGEST[dtype], LARGEST[dtype], 2)
    damping = 0.0
    if name in ("Woodbury", "QR"):
        scale = scale**0.5
        given = (np.sqrt(values)[:, None] * Q.T) * scale
        damping = scale**2 * 10 ** rng.uniform(-3, 0)
        dense = given.T @ given
    else:
        dense = scale * (Q * values) @ Q.T
        dense = given = (dense + dense.T) / 2
    return given.astype(dtype), dense.astype(dtype), (size * b).astype(dtype), np.asarray(damping)


def judge(dense: Any, b: Any, x: Any, status: Status, said: float, name: str, dtype: str) -> str:
    """Return what is wrong with a solution, or nothing."""
    eps, rtol = float(np.finfo(dtype).eps), RTOL[dtype]
    if not np.isfinite(x).all():
        return "x is not finite"
    # In units in which nothing overflows.
    scale, size = np.abs(dense).max() or 1.0, np.abs(b).max()
    A, b = (np.longdouble(1) * dense) / scale, (np.longdouble(1) * b) / size
    x, said = np.longdouble(1) * x * scale / size, np.longdouble(said) / size
    r = b - A @ x
    norm_A = np.linalg.norm(A.astype(float), 2)
    of_x, of_b, of_r = (float(np.sqrt(v @ v)) for v in (x, b, r))
    rounding = 20 * eps * len(b) * (norm_A * of_x + of_b)
    if not abs(said - of_r) <= 1e-3 * of_r + rounding and name != "MinresQLP, quick":
        return f"norm(r) is {of_r:g}, not {said:g}"
    if not status.success:
        return ""
    Ar = A @ r
    of_Ar = float(np.sqrt(Ar @ Ar))
    if status.name.startswith("LEAST"):
        exact = status is Status.LEAST_SQUARES and name == "MinresQLP"
        tolerance = rtol if exact else max(100 * rtol, 20 * eps**0.5)
        if of_Ar > 1.01 * tolerance * norm_A * of_r + 30 * norm_A * rounding * (1 + of_x):
            return f"norm(A r) is {of_Ar:g} at norm(r) {of_r:g}"
    elif name == "MinresQLP, quick":
        if of_r > 100 * (rtol * (norm_A * of_x + of_b) + rounding):
            return f"norm(r) is {of_r:g} at norm(x) {of_x:g}"
    elif of_r > 1.01 * rtol * (norm_A * of_x * name.startswith("MinresQLP") + of_b) + rounding:
        return f"norm(r) is {of_r:g} at norm(x) {of_x:g}"
    return ""


def solved(folder: Path, whole: Any, rng: random.Random) -> tuple[str, str]:
    """Solve one system by every solver, in both dtypes."""
    failed = []
    for dtype in LARGEST:
        for name in SOLVERS:
            given, dense, b, damping = system(
                np.random.default_rng(rng.getrandbits(64)), name, dtype
            )
            x, status, said = compiled(name, dtype)(given, b, damping.astype(dtype))
            dense = dense.astype(float) + damping * np.eye(len(b))
            if wrong := judge(dense, b, x, Status(int(status)), float(said), name, dtype):
                return "lost", f"{name} {dtype} {Status(int(status)).name}: {wrong}"
            if not Status(int(status)).success:
                failed.append(f"{name} {dtype}: {Status(int(status)).name}")
    return ("reported", ", ".join(failed)) if failed else ("survived", "")
