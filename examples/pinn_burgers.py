r"""Solve the viscous Burgers equation with a small network, by Gauss-Newton steps.

    python examples/pinn_burgers.py                     # a minute or two
    python examples/pinn_burgers.py --seeds 5
    python examples/pinn_burgers.py --viscosity 0.03

u_t + u u_x = nu u_xx for -1 < x < 1 and 0 < t < 1, from u = -sin(pi x) at t = 0, with u = 0 at
x = -1 and x = 1. A front forms at x = 0. The loss has three objectives, added up: the mean squared
residual at random points inside, and --weight times those at t = 0 and on the two sides. The
derivatives by t and x are PyTensor's. nu starts at --start-viscosity and falls to --viscosity, by
--fall after each step whose loss is below --solved: the front is wide at first. The error is that
against the integral of Cole and Hopf. Leaves pinn_burgers.png in --out: the error against steps,
the solution and its error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

# A QR factorization with several threads of OpenBLAS can wait a second for the threads of JAX.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytensor
import pytensor.tensor as pt
from command_line import add_mode, fraction, is_ready, nonnegative, positive, seed, whole
from matplotlib.figure import Figure
from pytensor.tensor.sharedvar import TensorSharedVariable
from scipy.special import logsumexp

import symng

ROWS, COLUMNS = 101, 401  # t and x of the grid on which the error is measured


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--viscosity", type=positive, default=0.01 / np.pi, help="nu, 0.01 / pi")
    parser.add_argument(
        "--start-viscosity", type=positive, default=0.1, help="nu of the first step, if higher"
    )
    parser.add_argument("--fall", type=fraction, default=0.9, help="factor by which nu falls")
    parser.add_argument("--solved", type=positive, default=0.03, help="loss below which nu falls")
    parser.add_argument("--hidden", type=whole, default=20, help="tanh units of a layer")
    parser.add_argument("--layers", type=whole, default=3, help="hidden layers")
    parser.add_argument("--points", type=whole, default=2000, help="inside")
    parser.add_argument("--initial", type=whole, default=200, help="points at t = 0")
    parser.add_argument("--boundary", type=whole, default=100, help="points on the sides")
    parser.add_argument("--weight", type=positive, default=10.0, help="of the conditions")
    parser.add_argument("--damping", type=nonnegative, default=1e-6, help="of Gauss-Newton")
    parser.add_argument("--steps", type=whole, default=120, help="of training, each seed")
    parser.add_argument("--seed", type=seed, default=0, help="of points and weights, the first one")
    parser.add_argument("--seeds", type=whole, default=1, help="number of seeds")
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/pinn_burgers"), help="folder of the picture"
    )
    return parser.parse_args(arguments)


def exact(points: np.ndarray, viscosity: float) -> np.ndarray:
    """Return the solution at points (t, x), one a row: Cole and Hopf's integral.

    u = -E[sin(pi y) f(y)] / E[f(y)] with f(y) = exp(-cos(pi y) / (2 pi nu)) and y normal with
    mean x and variance 2 nu t, by Gauss-Hermite quadrature.
    """
    nodes, weights = np.polynomial.hermite.hermgauss(150)
    t, x = points[:, :1], points[:, 1:]
    y = np.pi * (x - np.sqrt(4 * viscosity * t) * nodes)
    logs = np.log(weights) - np.cos(y) / (2 * np.pi * viscosity)
    return -np.sum(np.sin(y) * np.exp(logs - logsumexp(logs, axis=1, keepdims=True)), axis=1)


def make_grid() -> np.ndarray:
    """Return the points (t, x) of a grid, one a row, x running fastest."""
    t, x = np.meshgrid(np.linspace(0, 1, ROWS), np.linspace(-1, 1, COLUMNS), indexing="ij")
    return np.column_stack([t.ravel(), x.ravel()])


def draw_points(options: argparse.Namespace, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return points (t, x) inside, at t = 0 and on the two sides."""
    inside = rng.uniform((0, -1), (1, 1), size=(options.points, 2))
    inside[:, 1] **= 3  # more points near the front
    initial = np.column_stack([np.zeros(options.initial), rng.uniform(-1, 1, options.initial)])
    sides = rng.choice([-1.0, 1.0], options.boundary)
    return inside, initial, np.column_stack([rng.uniform(size=options.boundary), sides])


@dataclass
class Problem:
    """The three objectives, added up, with their points, and the error of the network."""

    objective: symng.ObjectiveSum
    viscosity: TensorSharedVariable
    data: tuple[tuple[np.ndarray, ...], ...]
    predict: Callable[[np.ndarray], np.ndarray]
    grid: np.ndarray
    truth: np.ndarray

    def error(self) -> float:
        """Return the relative error in L2 on the grid."""
        wrong = self.predict(self.grid) - self.truth
        return float(np.linalg.norm(wrong) / np.linalg.norm(self.truth))

    def lower_viscosity(self, loss: float, options: argparse.Namespace) -> None:
        """Let the viscosity fall, if the network nearly solves the equation as it is."""
        if loss < options.solved:
            lower = options.fall * float(self.viscosity.get_value())
            self.viscosity.set_value(max(lower, options.viscosity))


def make_network(
    options: argparse.Namespace, rng: np.random.Generator
) -> tuple[list, Callable[[pt.TensorVariable], pt.TensorVariable]]:
    """Return the parameters of a tanh network and the network, a function of points (t, x)."""
    sizes = [2, *[options.hidden] * options.layers, 1]
    params = []
    for i, (n, m) in enumerate(pairwise(sizes)):
        params.append(pytensor.shared(rng.normal(size=(n, m)) / np.sqrt(n), name=f"W{i}"))
        params.append(pytensor.shared(rng.uniform(-1, 1, m) * (i == 0), name=f"b{i}"))

    def u(points):
        h = points
        for W, b in zip(params[:-2:2], params[1:-2:2], strict=True):
            h = pt.tanh(h @ W + b)
        return (h @ params[-2] + params[-1])[:, 0]

    return params, u


def make_problem(options: argparse.Namespace, number: int) -> Problem:
    """Return the equation with a network and points drawn from a seed."""
    rng = np.random.default_rng(number)
    params, u = make_network(options, rng)
    gaussian = symng.Gaussian()
    viscosity = pytensor.shared(np.asarray(options.viscosity), name="viscosity")

    points, start, u_start, side = pt.matrix("points"), pt.matrix("start"), pt.vector(), pt.matrix()
    value = u(points)
    slopes = pt.grad(value.sum(), points)
    curvature = pt.grad(slopes[:, 1].sum(), points)[:, 1]
    residual = slopes[:, 0] + value * slopes[:, 1] - viscosity * curvature
    equation = symng.Objective(
        pt.sqr(residual).mean() / 2, residual, params, [points], likelihood=gaussian
    )
    initial = symng.Objective(
        pt.sqr(u(start) - u_start).mean() / 2,
        u(start),
        params,
        [start],
        [u_start],
        likelihood=gaussian,
    )
    boundary = symng.Objective(
        pt.sqr(u(side)).mean() / 2, u(side), params, [side], likelihood=gaussian
    )

    inside, at_start, at_sides = draw_points(options, rng)
    grid = make_grid()
    return Problem(
        objective=equation + options.weight * initial + options.weight * boundary,
        viscosity=viscosity,
        data=((inside,), (at_start, -np.sin(np.pi * at_start[:, 1])), (at_sides,)),
        predict=symng.compile_function([side], u(side), mode=options.mode),
        grid=grid,
        truth=exact(grid, options.viscosity),
    )


def train(options: argparse.Namespace, number: int) -> tuple[Problem, np.ndarray]:
    """Return the problem, solved, and a row of step and error for each evaluation."""
    problem = make_problem(options, number)
    problem.viscosity.set_value(max(options.start_viscosity, options.viscosity))
    result = symng.minimize(
        problem.objective,
        symng.NaturalGradient(
            solver=symng.QR(), damping=options.damping, step_size=symng.BacktrackingLineSearch()
        ),
        data=problem.data,
        max_steps=options.steps,
        loss_tolerance=None,
        evaluate=problem.error,
        evaluate_every=10,
        callback=lambda row: problem.lower_viscosity(row["new_loss"], options),
        progress=False,
        mode=options.mode,
    )
    curve = np.column_stack([result.history["step"], result.history["evaluate"]])
    print(
        f"seed {number}: relative error {problem.error():.1e} after {result.steps} steps, "
        f"{result.seconds:.0f} s of training, {result.compile_seconds:.0f} s of compilation",
        flush=True,
    )
    return problem, curve[np.isfinite(curve[:, 1])]


def draw(curves: list[np.ndarray], problem: Problem, path: Path) -> None:
    """Draw error against steps, a line a seed, and one solution and its error."""
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    first, *others = figure.subplots(1, 3)
    for curve in curves:
        first.plot(curve[:, 0], curve[:, 1], color="#D55E00", lw=1.2)
    first.set(xlabel="steps", ylabel="relative error", yscale="log")
    first.grid(alpha=0.3)
    found = problem.predict(problem.grid)
    for panel, values, title in zip(
        others, (found, found - problem.truth), ("solution", "error"), strict=True
    ):
        image = panel.imshow(
            np.reshape(values, (ROWS, COLUMNS)).T,
            extent=(0, 1, -1, 1),
            origin="lower",
            aspect="auto",
        )
        panel.set(title=title, xlabel="t", ylabel="x")
        figure.colorbar(image, ax=panel)
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> int:
    """Solve the equation for each seed, print the median error, and leave the picture."""
    options = parse(arguments)
    if not is_ready(options):
        return 2
    numbers = range(options.seed, options.seed + options.seeds)
    runs = [train(options, number) for number in numbers]
    problems, curves = zip(*runs, strict=True)
    print(f"median error {np.median([problem.error() for problem in problems]):.1e}")
    path = options.out / "pinn_burgers.png"
    draw(list(curves), problems[0], path)
    print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
