"""Train a classifier by natural gradient over the devices of several hosts.

    python examples/multi_host.py  # all devices of this host

On two hosts, of which alpha is the first:

    python examples/multi_host.py --coordinator alpha:1234 --processes 2 --process 0     # on alpha
    python examples/multi_host.py --coordinator alpha:1234 --processes 2 --process 1     # on beta

On Slurm, with a process for each of four GPUs on each of two nodes:

    srun --nodes=2 --ntasks-per-node=4 --gres=gpu:4 python examples/multi_host.py --cluster

Each process makes its own part of the examples, those of all are the same for any number of
processes, and the devices of all compute each step. A run that has stopped, on these or on other
hosts, goes on from its checkpoint in --out, a folder that all of them have to see.
Leaves run.npz, history.npz and multi_host.png in --out: the loss at each step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytensor.tensor as pt
from command_line import is_ready, nonnegative, seed, whole
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import symng
from symng.models import categorical_cross_entropy_with_logits, mlp

BLOCKS = 64  # in which examples are made, each from a seed of its own
SIZES = [10, 50, 50, 4]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="the first process")
    parser.add_argument("--processes", type=whole, metavar="N", help="how many there are")
    parser.add_argument("--process", type=seed, metavar="I", help="the number of this one, from 0")
    parser.add_argument(
        "--cluster", action="store_true", help="take the three from Slurm or Open MPI"
    )
    parser.add_argument(
        "--examples", type=whole, default=8192, help=f"of all processes, a multiple of {BLOCKS}"
    )
    parser.add_argument("--batch", type=whole, help="examples of a step; default all")
    parser.add_argument("--steps", type=whole, default=30)
    parser.add_argument("--damping", type=nonnegative, default=1.0, help="at the beginning")
    parser.add_argument("--seed", type=seed, default=0, help="of examples and weights")
    parser.add_argument(
        "--out", type=Path, default=Path("results/multi_host"), help="folder of the results"
    )
    parser.set_defaults(mode="JAX")
    options = parser.parse_args(arguments)
    given = [options.coordinator, options.processes, options.process]
    if any(value is not None for value in given) and (None in given or options.cluster):
        parser.error(
            "--coordinator: expected --processes and --process with it, or --cluster alone"
        )
    if options.examples % BLOCKS:
        parser.error(f"--examples: expected a multiple of {BLOCKS}, got {options.examples}")
    return options


def connect(options: argparse.Namespace) -> None:
    """Meet the other processes, before JAX looks for devices."""
    import jax

    if options.cluster:
        jax.distributed.initialize()
    elif options.coordinator is not None:
        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    number, count = jax.process_index(), jax.process_count()
    print(f"Process {number} of {count}: {jax.local_devices()} of {len(jax.devices())} devices")


def make_examples(
    options: argparse.Namespace, number: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of the examples that one of several processes gives, and their classes."""
    rng = np.random.default_rng(options.seed)
    directions = rng.standard_normal((SIZES[0], SIZES[-1]))
    parts = []
    for block in range(number * BLOCKS // count, (number + 1) * BLOCKS // count):
        rng = np.random.default_rng([options.seed, block])
        parts.append(rng.standard_normal((options.examples // BLOCKS, SIZES[0])))
    X = np.concatenate(parts)
    classes = np.argmax(np.sin(2 * X) @ directions, axis=1)
    return X.astype("float32"), np.eye(SIZES[-1], dtype="float32")[classes]


def train(options: argparse.Namespace) -> symng.History:
    """Train on the devices of all processes."""
    import jax

    x, t = pt.fmatrix("x"), pt.fmatrix("t")
    network = mlp(x, SIZES, output="softmax", seed=options.seed, dtype="float32")
    loss = categorical_cross_entropy_with_logits(network.preactivation, t).mean()
    objective = symng.Objective(
        loss, output=network.output, params=network.params, inputs=[x], targets=[t]
    )
    result = symng.minimize(
        objective,
        symng.NaturalGradient(
            solver=symng.CG(maxiter=20),
            damping=symng.LevenbergMarquardt(initial=options.damping),
        ),
        data=make_examples(options, jax.process_index(), jax.process_count()),
        batch_size=options.batch,
        max_steps=options.steps,
        devices=len(jax.devices()),
        checkpoint=options.out / "run.npz",
        mode=options.mode,
    )
    return result.history


def draw(history: symng.History, path: Path) -> None:
    """Draw the loss at each step."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.semilogy(history["step"], history["loss"], color="#0072B2", marker=".")
    axes.set(xlabel="step", ylabel="loss on the examples of the step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(arguments: list[str] | None = None) -> int:
    """Train, and let the first process leave the results in the folder."""
    options = parse(arguments)
    if not is_ready(options):
        return 2
    connect(options)
    history = train(options)
    import jax

    if jax.process_index() == 0:
        history.save(options.out / "history.npz")
        draw(history, options.out / "multi_host.png")
        print(f"loss: {history['loss'][0]:.4f} at first, {history['loss'][-1]:.4f} at last")
        print(f"Wrote {options.out / 'multi_host.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
