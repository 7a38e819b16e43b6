"""Small models and a solver without a loop, for tests in which the solver is not the point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import Mode

import symng
from symng import vectors

# All rewrites of the default modes, without compiling anything to C.
REWRITTEN = Mode(linker="vm", optimizer="fast_run")
TIGHT = {
    "CG": symng.CG(rtol=1e-13, maxiter=500),
    "MinresQLP": symng.MinresQLP(rtol=1e-13, maxiter=500),
}


@dataclass(frozen=True)
class Unit:
    """Solve (I + damping I) x = b: exact where the metric is the identity, as in `line`."""

    rtol: Any = 1e-5

    def solve(self, A, b, damping=0.0, x0=None, preconditioner=None):
        x = b / (damping + pt.ones_like(damping))
        status = pt.constant(int(symng.Status.CONVERGED), dtype="int64")
        return symng.Solution(
            x=x,
            status=status,
            niter=pt.constant(1, dtype="int64"),
            residual_norm=pt.zeros_like(b[0]),
        )


@dataclass(frozen=True, eq=False)
class Line:
    """Linear least squares with F = I on `batch`: L = |w - solution|^2 / 2 there."""

    objective: symng.Objective
    w: Any
    batch: tuple[np.ndarray, np.ndarray]
    solution: np.ndarray

    @property
    def value(self) -> np.ndarray:
        return self.w.get_value()

    def loss(self, w) -> float:
        return float(((w - self.solution) ** 2).sum() / 2)


def line(dtype: str = "float64", start=(0.0, 0.0), solution=(3.0, -1.0)) -> Line:
    """Return the model of two parameters, on the rows of a scaled orthogonal matrix."""
    x, t = pt.matrix("x", dtype=dtype), pt.vector("t", dtype=dtype)
    w = pytensor.shared(np.array(start, dtype=dtype), name="w")
    y = x @ w
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    )
    X = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=dtype)
    goal = np.array(solution, dtype=dtype)
    return Line(objective, w, (X, X @ goal), goal)


def start(optimizer, objective, mode=None):
    """Return a compiled step and the flat parameters before it."""
    return symng.compile_step(objective, optimizer, mode=mode), vectors.get_flat(objective.params)


def natural(**settings):
    """Return a natural gradient step that is plain gradient descent on `line`."""
    return symng.NaturalGradient(**{"solver": Unit(), "damping": 0.0, **settings})


def exponential(dtype="float64"):
    """Return a Poisson model, whose loss overflows where the step is too long."""
    x, t = pt.matrix("x", dtype=dtype), pt.vector("t", dtype=dtype)
    w = pytensor.shared(np.zeros(2, dtype=dtype), name="w")
    y = pt.exp(x @ w)
    objective = symng.Objective(
        (y - t * (x @ w)).mean(), output=y, params=[w], inputs=[x], targets=[t]
    )
    return objective, w, (np.eye(2, dtype=dtype), np.array([3, 5], dtype=dtype))


def regression(n: int = 20):
    """Return linear least squares on examples that tell who they are.

    The first input of example i is i.
    """
    rng = np.random.default_rng(1)
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.zeros(3), name="w")
    y = x @ w
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    )
    X = np.column_stack([np.arange(n), rng.standard_normal((n, 2))]).astype(float)
    return objective, (X, X @ [0.01, -1.0, 2.0])


def descent(**settings):
    """Return a natural gradient step without a loop, of a size that descends on `regression`."""
    return symng.NaturalGradient(
        **{"solver": Unit(), "damping": 1.0, "step_size": 1e-3, **settings}
    )


def train(optimizer=None, objective=None, data=None, **settings):
    """Run `minimize` on `regression`, quietly."""
    if objective is None:
        objective, own = regression()
        data = own if data is None else data
    optimizer = symng.SGD(step_size=1e-3) if optimizer is None else optimizer
    return symng.minimize(
        objective, optimizer, data=data, **{"progress": False, "max_steps": 5, **settings}
    )
