"""Iterations and seconds to a given residual, with preconditioners and warm starts.

    python tests/benchmarks/preconditioners.py --mode JAX

The Curves autoencoder in float32, on 1,000 images: (F + damping I) p = g after some steps of
training, by CG and by MINRES-QLP, until norm(g - (F + damping I) p) is at most the tolerance times
norm(g). A warm start is from 0.9 times the direction that the same solve found on 1,000 other
images. The seconds are those of a whole step with its preconditioner, medians of several steps in
turns. Prints a table in Markdown.

    python tests/benchmarks/preconditioners.py --digits

counts iterations of CG alone, for a convolutional net, an LSTM and a transformer block on
scikit-learn's digits of 8 x 8 pixels: to the tolerance ("solved"), and until the quadratic model
says that the step lowers the loss by nine tenths of what the solved system would ("most").
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from curves_network import make_objective
from digits_networks import NETWORKS, digits, make_digits_objective

import symng
from symng import vectors
from symng.backends import compile_function
from symng.datasets import curves
from symng.metrics import EmpiricalFisher
from symng.objective.batches import as_batch
from symng.optimizers._step import loss_and_gradient

WARM = ", warm start"
NAMES = (
    "none",
    "jacobi, 1 draw",
    "jacobi, 8 draws",
    "martens",
    "kronecker",
    f"none{WARM}",
    f"kronecker{WARM}",
)


def make_preconditioner(name: str, objective: symng.Objective) -> Any:
    """Return what `NaturalGradient` takes as its preconditioner."""
    name = name.removesuffix(WARM)
    if name == "martens":
        diagonal = EmpiricalFisher().diagonal(objective)
        return lambda operator, damping: symng.diagonal_preconditioner(diagonal, damping)
    return {
        "none": None,
        "jacobi, 1 draw": symng.JacobiPreconditioner(draws=1),
        "jacobi, 8 draws": symng.JacobiPreconditioner(draws=8),
        "kronecker": symng.KroneckerPreconditioner(refresh=1),
    }[name]


def count_on_digits(networks: list[str], options: argparse.Namespace) -> None:
    """Print the iterations on systems of networks that were trained for some steps."""
    images, labels = digits()
    batches = [(images[k : k + 300], labels[k : k + 300]) for k in range(0, 1500, 300)]
    print("| network | damping | solved: none | kronecker | most: none | kronecker |")
    print("|---" * 6 + "|", flush=True)
    for network in networks:
        objective = make_digits_objective(network)
        counts: dict[str, list[tuple[str, int]]] = {}
        for name in ("kronecker", "none"):
            optimizer = symng.NaturalGradient(
                solver=symng.CG(rtol=options.tolerance, maxiter=5),
                damping=symng.LevenbergMarquardt(initial=1.0, ratio="quadratic"),
                preconditioner=make_preconditioner(name, objective),
            )
            step = symng.compile_step(objective, optimizer, mode=options.mode)
            if name == "kronecker":  # trains first, so that its factors are those of training
                losses = [float(step(batches[k % 4]).loss) for k in range(options.steps)]
                print(f"{network}: loss {losses[0]:.2f}, then {losses[-1]:.2f}", file=sys.stderr)
                trained = vectors.get_flat(objective.params)
            else:
                step.compile(batches[4])
            start = {key: v.get_value() for key, v in step.state.items()}

            again = partial(solve, step, trained, start, batches[4])
            counts[name] = [count(partial(again, d), options.maxiter) for d in options.damping]
        for damping, none, kronecker in zip(
            options.damping, counts["none"], counts["kronecker"], strict=True
        ):
            cells = none[0], kronecker[0], none[1], kronecker[1]
            print(f"| {network} | {damping:g} | " + " | ".join(map(str, cells)) + " |", flush=True)


def solve(
    step: symng.CompiledStep,
    params: np.ndarray,
    state: dict[str, np.ndarray],
    batch: tuple[np.ndarray, ...],
    damping: float,
    maxiter: int,
) -> symng.StepInfo:
    """Take a step from these parameters, with another damping and number of iterations."""
    vectors.set_flat(step.objective.params, params)
    for key, value in state.items():
        step.state[key].set_value(value)
    step.state["damping"].set_value(np.float32(damping))
    step.hyperparameters["maxiter"].set_value(maxiter)
    return step(batch)


def count(take: Callable[[int], symng.StepInfo], maxiter: int) -> tuple[str, int]:
    """Return the iterations to the tolerance, and to nine tenths of the model's decrease."""

    def decrease(info: symng.StepInfo) -> float:
        """Return by how much the quadratic model says that the step lowers the loss."""
        return float((info.loss - info.new_loss) / info.reduction_ratio)

    last = take(maxiter)
    failed = "" if symng.Status(int(last.solver_status)).success else " (not there)"
    most = next(k for k in range(1, maxiter + 1) if decrease(take(k)) >= 0.9 * decrease(last))
    return f"{last.solver_iterations}{failed}", most


def main() -> None:
    """Train for a while, then solve the same system in every way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode")
    parser.add_argument("--damping", type=float, nargs="+", default=[1.0, 0.01])
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--maxiter", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="of training, with --digits")
    parser.add_argument("--digits", nargs="*", choices=list(NETWORKS), metavar="NETWORK")
    options = parser.parse_args()
    if options.digits is not None:
        count_on_digits(options.digits or list(NETWORKS), options)
        return

    images = curves(5000)
    objective = make_objective()
    first = symng.NaturalGradient(
        solver=symng.CG(rtol=0.0, maxiter=3, recompute=False),
        warm_start=0.9,
        damping=symng.LevenbergMarquardt(
            initial=10.0, ratio="quadratic", minimum=1e-3, reject_below=0.0
        ),
        preconditioner=symng.KroneckerPreconditioner(),
    )
    symng.minimize(
        objective,
        first,
        (images,),
        batch_size=2000,
        metric_batch="other",
        metric_batch_size=500,
        max_steps=60,
        mode=options.mode,
        progress=False,
    )
    trained = vectors.get_flat(objective.params)
    batch = (images[:1000],)
    # Of the residual itself: the relative tolerance of MINRES-QLP is that of its backward error.
    gradient = compile_function(
        objective.inputs, loss_and_gradient(as_batch(objective))[1], mode="FAST_COMPILE"
    )(*batch)
    atol = options.tolerance * float(np.linalg.norm(gradient))

    steps, starts = {}, {}
    for solver in ("CG", "MinresQLP"):
        for name in NAMES:
            kind = getattr(symng, solver)(rtol=0.0, atol=atol, maxiter=options.maxiter)
            optimizer = symng.NaturalGradient(
                solver=kind,
                damping=1.0,
                preconditioner=make_preconditioner(name, objective),
                warm_start=0.9 if name.endswith(WARM) else 0.0,
            )
            step = symng.compile_step(objective, optimizer, mode=options.mode).compile(batch)
            steps[solver, name] = step
            starts[solver, name] = {key: v.get_value() for key, v in step.state.items()}
            print(f"compiled {solver}, {name}", flush=True)

    def solve(
        key: tuple[str, str], damping: float, tolerance: float
    ) -> tuple[symng.StepInfo, float]:
        """Take a step from where training ended, and return its seconds."""
        step = steps[key]

        def restart(keep: tuple[str, ...] = ()) -> None:
            vectors.set_flat(objective.params, trained)
            for name, value in starts[key].items():
                if name not in keep:
                    step.state[name].set_value(value)
            step.state["damping"].set_value(damping)

        step.hyperparameters["atol"].set_value(np.float32(tolerance))
        restart()
        if key[1].endswith(WARM):
            step((images[1000:2000],))
            restart(keep=("direction",))
        start = time.perf_counter()
        return step(batch), time.perf_counter() - start

    print(f"\n| damping | solver | {' | '.join(NAMES)} |")
    print("|---" * (len(NAMES) + 2) + "|")
    for damping in options.damping:
        # MINRES-QLP stops by the norm of M^-1, where it has a preconditioner M: the limit is
        # lowered until it does.
        limits = dict.fromkeys(steps, atol)
        for key in steps:
            for _ in range(8):
                norm = solve(key, damping, limits[key])[0].residual_norm
                if norm <= 1.01 * atol:
                    break
                limits[key] *= 0.9 * atol / norm
        seconds: dict[Any, list[float]] = {key: [] for key in steps}
        found = {}
        for _ in range(options.turns):
            for key in steps:
                found[key], spent = solve(key, damping, limits[key])
                seconds[key].append(spent)
        for solver in ("CG", "MinresQLP"):
            cells = []
            for name in NAMES:
                info = found[solver, name]
                residual = options.tolerance * info.residual_norm / atol
                reached = "" if residual <= 1.01 * options.tolerance else f" (to {residual:.2g})"
                cells.append(
                    f"{info.solver_iterations}, {statistics.median(seconds[solver, name]):.2f} "
                    f"s{reached}"
                )
            print(f"| {damping:g} | `{solver}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
