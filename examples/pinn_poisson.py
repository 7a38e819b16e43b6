r"""Solve the Poisson equation on the unit cube with a small network, by Gauss-Newton steps.

    python examples/pinn_poisson.py                     # two dimensions, a minute
    python examples/pinn_poisson.py --compare --seconds 30
    python examples/pinn_poisson.py --dimensions 5 --hidden 64 --points 2000 --boundary 1000 \
        --damping 1e-5

-laplace u = f inside and u = 0 on the boundary, with f such that u is the product of the
sin(pi x_i). The loss is the mean squared residual at random points inside plus --weight times that
at points on the boundary: two objectives, added up. The derivatives by x are PyTensor's. Leaves
pinn_poisson.png in --out: the error against seconds, and in two dimensions the solution and its
error.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A QR factorization with several threads of OpenBLAS can wait a second for the threads of JAX.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytensor
import pytensor.tensor as pt
from command_line import add_mode, is_ready, nonnegative, positive, seed, whole
from matplotlib.figure import Figure
from scipy.optimize import minimize as scipy_minimize

import symng

COLORS = {"QR": "#D55E00", "MINRES-QLP": "#E69F00", "Adam": "#0072B2", "L-BFGS": "#009E73"}
FRESH = 10_000  # points on which the error is measured


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dimensions", type=whole, default=2, help="of the cube")
    parser.add_argument("--hidden", type=whole, default=32, help="tanh units")
    parser.add_argument("--points", type=whole, default=900, help="inside")
    parser.add_argument("--boundary", type=whole, default=120, help="points on the boundary")
    parser.add_argument("--weight", type=positive, default=100.0, help="of the boundary")
    parser.add_argument("--damping", type=nonnegative, default=1e-10, help="of Gauss-Newton")
    parser.add_argument("--seconds", type=positive, default=60.0, help="of training, each run")
    parser.add_argument("--seed", type=seed, default=0, help="of points and weights, the first one")
    parser.add_argument("--seeds", type=whole, default=3, help="number of seeds")
    parser.add_argument(
        "--compare", action="store_true", help="run MINRES-QLP, Adam and L-BFGS, too"
    )
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/pinn_poisson"), help="folder of the picture"
    )
    return parser.parse_args(arguments)


def exact(X: np.ndarray) -> np.ndarray:
    """Return the solution at points, one a row."""
    return np.prod(np.sin(np.pi * X), axis=1)


@dataclass
class Problem:
    """The two objectives, added up, with their points, and the error of the network."""

    objective: symng.ObjectiveSum
    data: tuple[tuple[np.ndarray, np.ndarray], ...]
    predict: Callable[[np.ndarray], np.ndarray]
    fresh: np.ndarray

    def error(self) -> float:
        """Return the relative error in L2 on fresh points."""
        truth = exact(self.fresh)
        return float(np.linalg.norm(self.predict(self.fresh) - truth) / np.linalg.norm(truth))


def make_problem(options: argparse.Namespace, number: int) -> Problem:
    """Return the equation with a network and points drawn from a seed."""
    rng, d, hidden = np.random.default_rng(number), options.dimensions, options.hidden
    W = pytensor.shared(rng.normal(size=(d, hidden)) / np.sqrt(d), name="W")
    b = pytensor.shared(rng.uniform(-1, 1, hidden), name="b")
    v = pytensor.shared(rng.normal(size=hidden) / np.sqrt(hidden), name="v")
    c = pytensor.shared(np.asarray(0.0), name="c")
    params = [W, b, v, c]

    def u(points):
        return pt.tanh(points @ W + b) @ v + c

    x, f, z = pt.matrix("x"), pt.vector("f"), pt.matrix("z")
    slopes = pt.grad(u(x).sum(), x)
    laplacian = sum(pt.grad(slopes[:, i].sum(), x)[:, i] for i in range(d))
    gaussian = symng.Gaussian()
    inside = symng.Objective(
        pt.sqr(laplacian + f).mean() / 2, laplacian, params, [x], [f], likelihood=gaussian
    )
    edge = symng.Objective(pt.sqr(u(z)).mean() / 2, u(z), params, [z], likelihood=gaussian)

    X = rng.uniform(size=(options.points, d))
    Z = rng.uniform(size=(options.boundary, d))
    face = rng.integers(2 * d, size=len(Z))
    Z[np.arange(len(Z)), face // 2] = face % 2
    return Problem(
        objective=inside + options.weight * edge,
        data=((X, d * np.pi**2 * exact(X)), (Z,)),
        predict=symng.compile_function([z], u(z), mode=options.mode),
        fresh=np.random.default_rng(10**6).uniform(size=(FRESH, d)),
    )


def make_optimizer(method: str, options: argparse.Namespace) -> symng.Optimizer:
    """Return an optimizer of symng by the name of the method."""
    if method == "Adam":
        return symng.Adam(step_size=1e-3)
    solver = symng.QR() if method == "QR" else symng.MinresQLP(rtol=1e-8, maxiter=200)
    return symng.NaturalGradient(
        solver=solver, damping=options.damping, step_size=symng.BacktrackingLineSearch()
    )


def train(method: str, options: argparse.Namespace, number: int) -> tuple[Problem, np.ndarray]:
    """Return the problem, solved, and a row of seconds and error for each evaluation."""
    problem = make_problem(options, number)
    run = run_lbfgs if method == "L-BFGS" else run_symng
    steps, curve = run(method, options, problem)
    print(
        f"{method}, seed {number}: relative error {problem.error():.1e} after "
        f"{curve[-1, 0]:.0f} s, {steps} steps",
        flush=True,
    )
    return problem, curve


def run_symng(method: str, options: argparse.Namespace, problem: Problem) -> tuple[int, np.ndarray]:
    """Train by an optimizer of symng."""
    result = symng.minimize(
        problem.objective,
        make_optimizer(method, options),
        data=problem.data,
        max_steps=None,
        max_seconds=options.seconds,
        loss_tolerance=None,
        evaluate=problem.error,
        evaluate_every=1000 if method == "Adam" else 25,
        progress=False,
        mode=options.mode,
    )
    history = result.history
    curve = np.column_stack([history["seconds"], history["evaluate"]])
    return result.steps, curve[np.isfinite(curve[:, 1])]


def run_lbfgs(method: str, options: argparse.Namespace, problem: Problem) -> tuple[int, np.ndarray]:
    """Train by SciPy's L-BFGS on the same loss."""
    objective = problem.objective
    slopes = pt.grad(objective.loss, list(objective.params))
    f = symng.compile_function(
        [*objective.terms[0].inputs, *objective.terms[0].targets, *objective.terms[1].inputs],
        [objective.loss, pt.concatenate([slope.flatten() for slope in slopes])],
        mode=options.mode,
    )
    arrays = [array for group in problem.data for array in group]
    shapes = [p.get_value().shape for p in objective.params]
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])[:-1]

    def set_params(flat: np.ndarray) -> None:
        for p, part, shape in zip(objective.params, np.split(flat, ends), shapes, strict=True):
            p.set_value(part.reshape(shape))

    def loss_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        set_params(flat)
        loss, slope = f(*arrays)
        return float(loss), np.asarray(slope)

    start = np.concatenate([p.get_value().ravel() for p in objective.params])
    loss_and_slope(start)  # compiles
    rows, begin, evaluating = [], time.perf_counter(), 0.0

    def callback(flat: np.ndarray) -> None:
        nonlocal evaluating
        now = time.perf_counter()
        seconds = now - begin - evaluating
        if len(rows) == 0 or seconds > 1.1 * rows[-1][0]:
            set_params(flat)
            rows.append((seconds, problem.error()))
            evaluating += time.perf_counter() - now
        if seconds > options.seconds:
            raise StopIteration

    limits = {"maxiter": 10**9, "maxfun": 10**9, "maxcor": 50, "ftol": 0.0, "gtol": 0.0}
    result = scipy_minimize(
        loss_and_slope, start, jac=True, method="L-BFGS-B", callback=callback, options=limits
    )
    set_params(result.x)
    seconds = time.perf_counter() - begin - evaluating
    return result.nit, np.array([*rows, (seconds, problem.error())])


def draw(
    curves: dict[str, list[np.ndarray]], problem: Problem, dimensions: int, path: Path
) -> None:
    """Draw error against seconds, a line a seed; in two dimensions the solution and its error."""
    planar = dimensions == 2
    figure = Figure(figsize=(10.5 if planar else 5, 3.2), layout="constrained")
    first, *others = figure.subplots(1, 3 if planar else 1, squeeze=False)[0]
    for method, runs in curves.items():
        for i, run in enumerate(runs):
            label = None if i else method
            first.plot(run[:, 0], run[:, 1], color=COLORS[method], lw=1.2, label=label)
    first.set(xlabel="seconds of training", ylabel="relative error", xscale="log", yscale="log")
    first.grid(alpha=0.3)
    first.legend(frameon=False)
    if planar:
        side = np.linspace(0, 1, 101)
        grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        found = problem.predict(grid)
        for panel, values, title in zip(
            others, (found, found - exact(grid)), ("solution", "error"), strict=True
        ):
            image = panel.imshow(values.reshape(101, 101), extent=(0, 1, 0, 1), origin="lower")
            panel.set_title(title)
            figure.colorbar(image, ax=panel)
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> int:
    """Solve the equation for each seed, print the median error, and leave the picture."""
    options = parse(arguments)
    if not is_ready(options):
        return 2
    curves: dict[str, list[np.ndarray]] = {}
    for method in COLORS if options.compare else ["QR"]:
        numbers = range(options.seed, options.seed + options.seeds)
        runs = [train(method, options, number) for number in numbers]
        curves[method] = [curve for _, curve in runs]
        median = np.median([curve[-1, 1] for curve in curves[method]])
        print(f"{method}: median error {median:.1e}", flush=True)
        if method == "QR":
            shown = runs[0][0]
    draw(curves, shown, options.dimensions, options.out / "pinn_poisson.png")
    print(f"Wrote {options.out / 'pinn_poisson.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
