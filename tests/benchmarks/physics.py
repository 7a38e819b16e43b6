"""Solve two differential equations by direct and iterative solves, for as long each.

    python tests/benchmarks/physics.py
    python tests/benchmarks/physics.py --equations poisson --nystrom 40,1 40,5

The problems are those of examples/pinn_poisson.py, two dimensions, and of examples/pinn_burgers.py
with a higher viscosity that does not fall and a smaller network. All methods start from the same
network and points, with the damping of the example and a backtracking line search. Seconds are
those of the processor, which other programs beside do not change much. Prints a table in Markdown:
iterations and seconds of a step, steps, the relative error at the end, and what a preconditioner
costs in a step, in products with the metric and in seconds, timed on their own.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import symng
from symng.backends import to_numpy
from symng.optimizers.preconditioners.nystrom import approximate

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

BURGERS = "--viscosity 0.03 --hidden 12 --points 1000 --initial 100 --boundary 50 --seeds 1"
EQUATIONS = {"poisson": "--seeds 1", "burgers": BURGERS}


def make_methods(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the settings of `NaturalGradient` for each method."""
    iterative = symng.MinresQLP(rtol=1e-8, maxiter=options.maxiter)
    pairs = [map(int, text.split(",")) for text in options.nystrom]
    return [
        {"solver": symng.QR()},
        {"solver": symng.QR(), "geodesic_acceleration": True},
        {"solver": symng.Woodbury()},
        {"solver": iterative},
        *(
            {
                "solver": iterative,
                "preconditioner": symng.NystromPreconditioner(rank=rank, refresh=refresh),
            }
            for rank, refresh in pairs
        ),
    ]


def describe(settings: dict[str, Any]) -> str:
    """Return the name of a method."""
    name = f"`{type(settings['solver']).__name__}`"
    if "preconditioner" in settings:
        nystrom = settings["preconditioner"]
        kept = f", for {nystrom.refresh} steps" if nystrom.refresh > 1 else ""
        return f"{name}, Nyström of rank {nystrom.rank}{kept}"
    return f"{name}, geodesic acceleration" if "geodesic_acceleration" in settings else name


def run(equation: str, settings: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Train by one method and return its cells of the table."""
    example = importlib.import_module(f"pinn_{equation}")
    own = example.parse([*EQUATIONS[equation].split(), "--mode", options.mode])
    problem = example.make_problem(own, options.seed)
    optimizer = symng.NaturalGradient(
        damping=own.damping, step_size=symng.BacktrackingLineSearch(), **settings
    )
    clock: list[float] = []

    def stop(row: dict[str, Any]) -> bool:
        clock.append(time.process_time())
        return clock[-1] - clock[0] > options.seconds

    history = symng.minimize(
        problem.objective,
        optimizer,
        problem.data,
        max_steps=None,
        callback=stop,
        loss_tolerance=None,
        progress=False,
        mode=options.mode,
    ).history
    direct = not isinstance(optimizer.solver, symng.MinresQLP)
    nystrom = settings.get("preconditioner")
    return [
        "" if direct else f"{np.mean(history['solver_iterations']):.0f}",
        f"{np.median(np.diff(clock)):.3f} s",
        f"{len(history):,}",
        f"{problem.error():.1e}",
        "" if nystrom is None else describe_cost(problem, nystrom, options.mode),
    ]


def describe_cost(problem: Any, nystrom: symng.NystromPreconditioner, mode: str) -> str:
    """Return what the approximation takes in a step, in products and in seconds."""
    operator = symng.Fisher()(problem.objective)
    terms = problem.objective.terms
    inputs = [v for term in terms for v in term.inputs]
    arrays = [
        a
        for term, group in zip(terms, problem.data, strict=True)
        for a in group[: len(term.inputs)]
    ]
    function = symng.compile_function(
        inputs, list(approximate(operator, nystrom.rank, 0)), mode=mode
    )
    seconds = []
    for _ in range(6):
        start = time.process_time()
        to_numpy(function(*arrays))
        seconds.append(time.process_time() - start)
    each = statistics.median(seconds[1:]) / nystrom.refresh
    return f"{nystrom.rank / nystrom.refresh:g}, {each:.3f} s"


def main() -> None:
    """Train by each method on each equation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--equations", nargs="+", choices=EQUATIONS, default=[*EQUATIONS])
    parser.add_argument("--methods", nargs="+", type=int, help="numbers, from 0; all by default")
    parser.add_argument("--mode", default="JAX")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, each method")
    parser.add_argument("--maxiter", type=int, default=200)
    parser.add_argument(
        "--nystrom", nargs="+", default=["20,1", "60,1", "100,1"], help="pairs of rank and refresh"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="solver:")  # of their cost, which is measured here
    print("| equation | method | iterations | a step | steps | error | preconditioner |")
    print("|---|---|---|---|---|---|---|")
    methods = make_methods(options)
    for equation in options.equations:
        for number in options.methods or range(len(methods)):
            cells = [equation, describe(methods[number])]
            cells += run(equation, methods[number], options)
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
