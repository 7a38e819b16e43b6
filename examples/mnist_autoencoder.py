"""Train the deep autoencoder of MNIST, 784-1000-500-250-30 and mirrored, on all 60,000 images.

    python examples/mnist_autoencoder.py --data mnist.npz         # an hour on two cores
    python examples/mnist_autoencoder.py --download --preset gpu  # ten minutes on a GPU

Network, sparse initialization and cross-entropy are those of Hinton and Salakhutdinov (2006),
Martens (2010) and Sutskever et al. (2013). Training begins by Adam and goes on by natural gradient.
Leaves in --out: history.npz (one row a step; squared_error is the training squared error per image,
test_error that of the 10,000 images held out), autoencoder.png, and the checkpoints of the run: the
same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytensor.tensor as pt
from command_line import add_mode, count, in_terms_of, is_ready, nonnegative, positive, seed, whole
from curves import layers, make_objective
from start_by_adam import minimize_after_adam

import symng
from symng.datasets import LabeledImages, mnist
from symng.plot import curves_summary

SIZES = [784, 1000, 500, 250, 30]
STEP_SIZE = 1e-3  # of Adam
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": dict(
        seconds=3600.0,
        start=900,
        start_batch=100,
        batch=2000,
        metric_examples=500,
        iterations=3,
        evaluate_every=50,
    ),
    "gpu": dict(
        seconds=600.0,
        start=2000,
        start_batch=200,
        batch=6000,
        metric_examples=2000,
        iterations=5,
        evaluate_every=100,
    ),
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; what is not given comes from the preset."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument(
        "--data", type=Path, help="an npz file of Keras, or a folder of it or of the idx files"
    )
    parser.add_argument(
        "--download", action="store_true", help="let scikit-learn fetch the images from OpenML"
    )
    parser.add_argument("--seconds", type=positive, help="seconds of training at most")
    parser.add_argument("--steps", type=whole, help="steps at most; default no such limit")
    parser.add_argument("--start", type=count, help="steps of Adam at the beginning")
    parser.add_argument("--start-batch", type=whole, help="images in a batch of Adam")
    parser.add_argument("--batch", type=whole, help="images in a gradient batch")
    parser.add_argument("--metric-examples", type=whole, help="other images for the metric")
    parser.add_argument("--iterations", type=whole, help="iterations of CG in a step")
    parser.add_argument("--damping", type=nonnegative, default=0.01, help="of the first step")
    parser.add_argument("--evaluate-every", type=whole, help="steps")
    parser.add_argument(
        "--sizes", type=layers, default=SIZES, help="units from the pixels to the code"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of weights and order of images")
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/mnist_autoencoder"), help="folder of the results"
    )
    options = parser.parse_args(arguments)
    for name, value in PRESETS[options.preset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def make_optimizer(options: argparse.Namespace) -> symng.NaturalGradient:
    """Return natural gradient with short solves, warm started and preconditioned."""
    return symng.NaturalGradient(
        solver=symng.CG(rtol=0.0, maxiter=options.iterations, recompute=False),
        damping=symng.LevenbergMarquardt(
            initial=options.damping, ratio="quadratic", minimum=1e-3, reject_below=0.0
        ),
        warm_start=0.9,
        preconditioner=symng.KroneckerPreconditioner(),
    )


def train(
    options: argparse.Namespace, images: LabeledImages
) -> tuple[symng.TrainingResult, symng.Objective]:
    """Train, and evaluate the squared errors every few steps."""
    objective = make_objective(options)
    print(objective)
    (x,), y = objective.inputs, objective.output
    squared_error = symng.compile_function([x], pt.sqr(y - x).sum(), mode=options.mode)
    train_x, test_x = (
        part.reshape(len(part), -1) for part in (images.train_images, images.test_images)
    )

    def error(rows: np.ndarray) -> float:
        chunks = np.array_split(rows, -(-len(rows) // 5000))
        return sum(float(squared_error(chunk)) for chunk in chunks) / len(rows)

    batch = min(options.batch, len(train_x) // 2)
    result = minimize_after_adam(
        objective,
        make_optimizer(options),
        (train_x,),
        start=options.start,
        start_batch=options.start_batch,
        start_step_size=STEP_SIZE,
        start_evaluate_every=300,
        batch_size=batch,
        metric_batch="other",
        metric_batch_size=min(options.metric_examples, len(train_x) - batch),
        search_batch="same",
        evaluate_every=options.evaluate_every,
        max_steps=options.steps,
        max_seconds=options.seconds,
        checkpoint=options.out / "checkpoint.npz",
        evaluate=lambda: {"squared_error": error(train_x), "test_error": error(test_x)},
        seed=options.seed,
        mode=options.mode,
    )
    return result, objective


def main(arguments: list[str] | None = None) -> int:
    """Train, and leave history, picture and checkpoints in the folder of results."""
    options = parse(arguments)
    if not is_ready(options):
        return 2
    try:
        images = mnist(options.data, download=options.download)
    except (OSError, ValueError, ImportError) as error:
        print(in_terms_of("--data", error), file=sys.stderr)
        return 2
    symng.keep_memory()
    result, objective = train(options, images)
    if not result.steps:
        print(f"No step was taken ({result.status}): nothing to write.")
        return 1
    history = result.history
    history.save(options.out / "history.npz")
    found = [history[name] for name in ("squared_error", "test_error") if name in history]
    errors = [column[np.isfinite(column)] for column in found]
    outcome = "not evaluated"
    if errors:
        outcome = f"squared error {errors[0][-1]:.2f} per image, {errors[1][-1]:.2f} held out"
        reconstruct = symng.compile_function(
            list(objective.inputs), objective.output, mode=options.mode
        )
        sample = images.train_images[:12].reshape(-1, 784)
        picture = options.out / "autoencoder.png"
        curves_summary(history, sample, np.asarray(reconstruct(sample)), path=picture)
    print(
        f"{result.steps} steps in {result.seconds:.0f} s of training ({result.status}): {outcome}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
