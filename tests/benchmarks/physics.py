"""Train a physics-informed network by direct and iterative solves.

    python tests/benchmarks/physics.py --modes JAX CVM

Poisson's equation on a square, without its boundary: the loss is half the mean square of
laplacian(u) + 2 pi^2 sin(pi x) sin(pi y) at random points, for a network u of 129 parameters in
float64. Natural gradient takes the same number of steps with each solver. Prints a table of the
median seconds of a step, the seconds of the whole run with its compilation, and the loss.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pytensor
import pytensor.tensor as pt

import symng

SOLVERS = (symng.Woodbury(), symng.QR(), symng.MinresQLP(rtol=1e-4, maxiter=50))


def make_objective(hidden: int) -> symng.Objective:
    """Return the model and its loss."""
    rng = np.random.default_rng(0)
    x = pt.matrix("x")
    shapes = {"w1": (2, hidden), "b1": (hidden,), "w2": (hidden, 1), "b2": (1,)}
    params = [
        pytensor.shared(rng.standard_normal(shape) * (name[0] == "w"), name=name)
        for name, shape in shapes.items()
    ]
    w1, b1, w2, b2 = params
    u = (pt.tanh(x @ w1 + b1) @ w2 + b2).sum()
    slopes = pt.grad(u, x)
    laplacian = sum(pt.grad(slopes[:, i].sum(), x)[:, i] for i in range(2))
    residual = laplacian + 2 * np.pi**2 * pt.sin(np.pi * x).prod(axis=1)
    return symng.Objective(pt.sqr(residual).mean() / 2, residual, params, [x])


def main() -> None:
    """Train with each solver on each backend."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modes", nargs="+", default=["JAX", "CVM"])
    parser.add_argument("--points", type=int, default=1800)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    points = np.random.default_rng(1).random((options.points, 2))
    warnings.filterwarnings("ignore", message="solver:")  # of their cost, which is measured here
    print("| solver | backend | a step | all steps and compilation | loss |")
    print("|---|---|---|---|---|")
    for mode in options.modes:
        for solver in SOLVERS:
            optimizer = symng.NaturalGradient(
                solver=solver, damping=symng.LevenbergMarquardt(initial=1.0, minimum=1e-10)
            )
            start = time.perf_counter()
            result = symng.minimize(
                make_objective(options.hidden),
                optimizer,
                (points,),
                max_steps=options.steps,
                progress=False,
                mode=mode,
            )
            total = time.perf_counter() - start
            step = np.median(np.diff(result.history["seconds"]))
            cells = [f"`{solver!r}`", mode, f"{step:.3f} s", f"{total:.0f} s", f"{result.loss:.1e}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
