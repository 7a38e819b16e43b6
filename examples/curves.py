"""Train the deep autoencoder of section 10 on Curves-like images by natural gradient.

    python examples/curves.py                  # natural gradient, 180 seconds of training
    python examples/curves.py --preset paper   # the settings of the paper's appendix
    python examples/curves.py --optimizer sgd --seconds 60

Leaves in --out: history.npz (one row a step; squared_error is the training squared error per image over the whole
training set, evaluated every few steps), curves.png and config.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytensor.tensor as pt

import symng
from symng.backends import compile_function
from symng.datasets import curves
from symng.models import autoencoder, binary_cross_entropy_with_logits
from symng.plot import curves_summary

SIZES = [784, 400, 200, 100, 50, 25, 6]

# What was found best for 180 s on 2 cores (docs/curves.md), and the appendix of the paper.
PRESETS: dict[str, dict[str, Any]] = {
    "default": dict(
        batch=1000, metric_batch="other", metric_examples=250, damping=3.0, iterations=15, warm_start=0.95,
        rtol=1e-4, step_size=1.0, seconds=180.0, steps=None, evaluate_every=20,
    ),
    "paper": dict(
        batch=5000, metric_batch="same", metric_examples=None, damping=3.0, iterations=250, warm_start=0.0,
        rtol=1e-4, step_size=1.0, seconds=None, steps=200, evaluate_every=1,
    ),
    "sgd": dict(
        batch=100, metric_batch="same", metric_examples=None, step_size=0.01, seconds=180.0, steps=None,
        evaluate_every=200,
    ),
}  # fmt: skip


def positive_int(text: str) -> int:
    """Read a whole number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; what is not given comes from the preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["default", "paper"], default="default")
    parser.add_argument("--optimizer", choices=["ngd", "sgd"], default="ngd")
    parser.add_argument("--steps", type=positive_int, help="steps at most")
    parser.add_argument("--seconds", type=float, help="seconds of training at most, without compilation and evaluation")
    parser.add_argument("--examples", type=positive_int, default=20_000, help="training images")
    parser.add_argument("--batch", type=positive_int, help="images in a gradient batch")
    parser.add_argument("--metric-batch", choices=["same", "other"], help="images for the metric")
    parser.add_argument("--metric-examples", type=positive_int, help="how many other images for the metric")
    parser.add_argument("--solver", choices=["cg", "minres-qlp"], default="minres-qlp")
    parser.add_argument("--iterations", type=positive_int, help="iterations of the solver at most")
    parser.add_argument("--warm-start", type=float, help="each solve starts from this times the previous direction")
    parser.add_argument("--damping", type=float, help="damping of the first step")
    parser.add_argument("--step-size", type=float)
    parser.add_argument("--mode", help="PyTensor mode: CVM, NUMBA or JAX; default PyTensor's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/curves"), help="folder of the results")
    options = parser.parse_args(arguments)
    preset = PRESETS["sgd" if options.optimizer == "sgd" else options.preset]
    asked_for_others = options.metric_batch == "other"
    if options.steps is not None and options.seconds is None:
        options.seconds = float("inf")  # a number of steps replaces the preset's time
    for name, value in preset.items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    options.batch = min(options.batch, options.examples)
    others = options.examples - options.batch
    if asked_for_others and (others == 0 or options.optimizer == "sgd"):
        reason = "SGD has no metric" if others else "no images are left beside the batch; give a smaller --batch"
        parser.error(f"--metric-batch other: {reason}")
    if others == 0:
        options.metric_batch = "same"
    if options.metric_batch == "same":
        options.metric_examples = None
    elif options.metric_examples is None or options.metric_examples > others:
        options.metric_examples = min(options.batch, others)
    if options.seconds == float("inf"):
        options.seconds = None
    return options


def make_optimizer(options: argparse.Namespace) -> symng.Optimizer:
    """Return the optimizer that the options ask for."""
    if options.optimizer == "sgd":
        return symng.SGD(step_size=options.step_size)
    solver = symng.CG if options.solver == "cg" else symng.MinresQLP
    return symng.NaturalGradient(
        solver=solver(rtol=options.rtol, maxiter=options.iterations, recompute=False),
        damping=symng.LevenbergMarquardt(initial=options.damping),
        step_size=options.step_size,
        warm_start=options.warm_start,
    )


def describe(options: argparse.Namespace) -> str:
    """Say in one line what will run."""
    limits = [
        f"{options.seconds:g} s of training" if options.seconds else "",
        f"{options.steps} steps" if options.steps else "",
    ]
    limit = " or ".join(limit for limit in limits if limit)
    if options.optimizer == "sgd":
        return f"SGD: batches of {options.batch}, step size {options.step_size:g}; {limit}."
    metric = "the same" if options.metric_batch == "same" else f"{options.metric_examples} other"
    return (
        f"Natural gradient: batches of {options.batch}, metric on {metric} images, {options.solver} up to "
        f"{options.iterations} iterations, warm start {options.warm_start:g}, damping from {options.damping:g}, "
        f"step size {options.step_size:g}; {limit}."
    )


def main(arguments: list[str] | None = None) -> int:
    """Train, and leave history, picture and configuration in the folder of results."""
    options = parse(arguments)
    try:
        optimizer = make_optimizer(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        config = {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()}
        (options.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        print(f"--out: cannot write to {options.out}: {error}", file=sys.stderr)
        return 1

    print(f"Making {options.examples:,} Curves-like images (seed {options.seed}) ...", flush=True)
    images = curves(options.examples, seed=options.seed)
    mean_error = float(((images - images.mean(axis=0)) ** 2).sum() / len(images))
    print(f"Predicting the mean image gives a squared error of {mean_error:.2f} per image.")

    x = pt.matrix("x", dtype="float32")
    model = autoencoder(x, SIZES, initializer="sparse", seed=options.seed, dtype="float32")
    loss = binary_cross_entropy_with_logits(model.preactivation, x).mean()
    objective = symng.Objective(loss, output=model.output, params=model.params, inputs=[x])
    print(objective)
    print(describe(options))

    print("Compiling the evaluation ...", flush=True)
    reconstruct = compile_function([x], [model.output, pt.sqr(model.output - x).sum()], mode=options.mode)
    chunks = np.array_split(images, -(-len(images) // 5000))
    reconstruct(images[:2])

    result = symng.minimize(
        objective,
        optimizer,
        data=(images,),
        batch_size=options.batch,
        metric_batch=options.metric_batch,
        metric_batch_size=options.metric_examples,
        max_steps=options.steps,
        max_seconds=options.seconds,
        evaluate=lambda: {"squared_error": sum(float(reconstruct(c)[1]) for c in chunks) / len(images)},
        evaluate_every=options.evaluate_every,
        seed=options.seed,
        mode=options.mode,
    )
    if not result.steps:
        print(f"No step was taken ({result.stopped}): nothing to write.")
        return 1
    history, sample = result.history, images[:12]
    evaluated = history["squared_error"][np.isfinite(history["squared_error"])] if "squared_error" in history else []
    told = f"squared error {evaluated[-1]:.3f} per image" if len(evaluated) else "not evaluated"
    print(f"{result.steps} steps in {result.seconds:.1f} s of training ({result.stopped}), "
          f"{result.compile_seconds:.1f} s of compilation: {told}")  # fmt: skip
    try:
        history.save(options.out / "history.npz")
        if len(evaluated):
            curves_summary(history, sample, np.asarray(reconstruct(sample)[0]), path=options.out / "curves.png")
    except OSError as error:
        print(f"--out: cannot write the results to {options.out}: {error}", file=sys.stderr)
        return 1
    print(f"Wrote {', '.join(sorted(p.name for p in options.out.iterdir() if p.is_file()))} to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
