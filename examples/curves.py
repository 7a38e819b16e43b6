"""Train the deep autoencoder of section 10 on Curves-like images, by any of the optimizers.

    python examples/curves.py                      # Adam, then natural gradient: 180 s of training
    python examples/curves.py --start 0            # natural gradient from the first step on
    python examples/curves.py --preset paper       # the settings of the paper's appendix
    python examples/curves.py --preset algorithm-2 # as the appendix prints its algorithm
    python examples/curves.py --preset small       # fewer images and a narrower network
    python examples/curves.py --optimizer ncg-l    # natural conjugate gradient

Leaves in --out: history.npz (one row a step; squared_error is the training squared error per image
over the whole training set, evaluated every few steps), curves.png and config.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytensor.tensor as pt
from command_line import add_mode, count, fraction, nonnegative, positive, seed, whole
from curves_settings import (
    COLD_DAMPING,
    OPTIMIZERS,
    PRECONDITIONERS,
    PRESETS,
    RATIOS,
    START,
    settings_of,
)
from start_by_adam import minimize_after_adam

import symng
from symng.datasets import curves
from symng.models import autoencoder, binary_cross_entropy_with_logits
from symng.plot import curves_summary

Reconstruct = Callable[[np.ndarray], Any]


def layers(text: str) -> list[int]:
    """Read the units of every layer from the input to the code."""
    sizes = [whole(part) for part in text.split("-")]
    if len(sizes) < 2 or sizes[0] != 784:
        raise argparse.ArgumentTypeError(
            f"expected units such as 784-100-50-6, 784 pixels first, got {text}"
        )
    return sizes


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="default")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="ngd")
    parser.add_argument("--steps", type=whole, help="steps at most")
    parser.add_argument(
        "--seconds",
        type=positive,
        help="seconds of training at most; given alone, no limit of steps",
    )
    parser.add_argument("--examples", type=whole, help="training images")
    parser.add_argument(
        "--sizes", type=layers, help="units from the pixels to the code, as in 784-100-50-6"
    )
    parser.add_argument("--batch", type=whole, help="images in a gradient batch")
    parser.add_argument("--metric-batch", choices=["same", "other"], help="images for the metric")
    parser.add_argument(
        "--metric-examples", type=whole, help="how many other images for the metric"
    )
    parser.add_argument("--solver", choices=["cg", "minres-qlp"])
    parser.add_argument("--preconditioner", choices=list(PRECONDITIONERS), help="of the solver")
    parser.add_argument(
        "--iterations",
        type=whole,
        help="iterations of the solver at most; size of the Krylov space",
    )
    parser.add_argument(
        "--warm-start",
        type=fraction,
        help="each solve starts from this times the previous direction",
    )
    parser.add_argument(
        "--damping", type=nonnegative, help="damping, of the first step where it adapts"
    )
    parser.add_argument(
        "--ratio", choices=list(RATIOS), help="model that the damping follows, or fixed"
    )
    parser.add_argument("--step-size", type=positive)
    parser.add_argument("--momentum", type=fraction)
    parser.add_argument("--start", type=count, help="steps of Adam before the first of its own")
    add_mode(parser)
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("results/curves"), help="folder of the results"
    )
    return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; what is not given comes from the preset and the optimizer."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    settings = settings_of(options.optimizer, options.preset)
    for name in (
        "iterations",
        "warm_start",
        "damping",
        "step_size",
        "momentum",
        "solver",
        "preconditioner",
        "ratio",
        "start",
    ):
        if getattr(options, name, None) is not None and name not in settings:
            parser.error(f"--{name.replace('_', '-')}: {OPTIMIZERS[options.optimizer]} has none")
    if options.preconditioner == "martens" and options.optimizer != "hf":
        parser.error("--preconditioner martens: only Hessian-free has it")
    if options.metric_batch == "other" and options.optimizer in (
        "tonga",
        "sgd",
        "momentum",
        "nesterov",
        "adam",
    ):
        parser.error(f"--metric-batch other: {OPTIMIZERS[options.optimizer]} has no metric batch")
    if options.preset == "algorithm-2" and options.optimizer != "ngd":
        parser.error("--preset algorithm-2: it is natural gradient, --optimizer ngd")
    if options.start == 0 and settings.get("start"):
        settings["damping"] = COLD_DAMPING
    # A limit that is given replaces those of the preset.
    if options.steps is not None or options.seconds is not None:
        settings["steps"] = settings["seconds"] = None
    options.atol = settings.get("atol", 0.0)
    others_are_given = options.metric_batch == "other"
    for name, value in settings.items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    options.batch = (
        options.examples if options.batch is None else min(options.batch, options.examples)
    )
    others = options.examples - options.batch
    if others == 0:
        if others_are_given:
            parser.error(
                "--metric-batch other: no images are left beside the batch; give a smaller --batch"
            )
        options.metric_batch = options.search_batch = "same"
    if options.metric_batch == "same":
        options.metric_examples = None
    else:
        options.metric_examples = min(options.metric_examples or options.batch, others)
    return options


def make_optimizer(options: argparse.Namespace) -> symng.Optimizer:
    """Return the optimizer that the options ask for."""
    name = options.optimizer
    if name in ("sgd", "momentum", "nesterov"):
        momentum = 0.0 if name == "sgd" else options.momentum
        return symng.SGD(
            step_size=options.step_size, momentum=momentum, nesterov=name == "nesterov"
        )
    if name == "adam":
        return symng.Adam(step_size=options.step_size)
    if name == "tonga":
        return symng.TONGA(damping=options.damping, step_size=options.step_size)
    if name == "ksd":
        return symng.KrylovSubspaceDescent(basis_size=options.iterations, damping=options.damping)
    if name == "hf":
        return symng.HessianFree(
            solver=symng.CG(
                rtol=options.rtol,
                maxiter=options.iterations,
                progress_rtol=5e-4,
                keep_iterates=1.3,
                recompute=False,
            ),
            damping=symng.LevenbergMarquardt(
                initial=options.damping, ratio="quadratic", reject_below=0.0
            ),
            step_size=symng.BacktrackingLineSearch(size=options.step_size),
            warm_start=options.warm_start,
            preconditioner=PRECONDITIONERS[options.preconditioner],
        )
    return make_natural_optimizer(options)


def make_natural_optimizer(options: argparse.Namespace) -> symng.Optimizer:
    """Return natural gradient or natural conjugate gradient as the options ask for it."""
    solver = symng.CG if options.solver == "cg" else symng.MinresQLP
    ratio = RATIOS[options.ratio]
    settings: dict[str, Any] = dict(
        solver=solver(
            rtol=options.rtol, atol=options.atol, maxiter=options.iterations, recompute=False
        ),
        damping=symng.FixedDamping(value=options.damping)
        if ratio is None
        else symng.LevenbergMarquardt(initial=options.damping, **ratio),
        warm_start=options.warm_start,
        preconditioner=PRECONDITIONERS[options.preconditioner],
    )
    if options.optimizer == "ncg-l":
        return symng.NaturalConjugateGradient(beta=symng.PlaneSearch(), **settings)
    if options.optimizer in ("ngd", "ncg-q"):
        step_size: Any = options.step_size
    else:
        step_size = symng.BacktrackingLineSearch(size=options.step_size)
    if options.optimizer in ("ngd", "ngd-l"):
        return symng.NaturalGradient(step_size=step_size, **settings)
    beta = symng.QuadraticModel() if options.optimizer == "ncg-q" else symng.PolakRibiere()
    return symng.NaturalConjugateGradient(beta=beta, step_size=step_size, **settings)


def describe(options: argparse.Namespace) -> str:
    """Return in one line what will run."""
    name = OPTIMIZERS[options.optimizer]
    parts = [f"{name[0].upper()}{name[1:]}: batches of {options.batch}"]
    if getattr(options, "damping", None) is not None and options.optimizer != "tonga":
        parts.append(
            f"metric on {options.metric_examples or 'the same'}"
            f"{' other' * bool(options.metric_examples)} images"
        )
    for setting, form in (
        ("iterations", "up to {} iterations"),
        ("solver", "solver {}"),
        ("preconditioner", "preconditioner {}"),
        ("warm_start", "warm start {:g}"),
        ("damping", "damping from {:g}"),
        ("momentum", "momentum {:g}"),
        ("step_size", "step size {:g}"),
    ):
        value = getattr(options, setting, None)
        if value is not None:
            parts.append(form.format(value))
    limits = [
        f"{options.seconds:g} s of training" if options.seconds else "",
        f"{options.steps} steps" if options.steps else "",
    ]
    if getattr(options, "start", 0):
        parts[0] = f"Adam: {options.start} steps on batches of {START['batch']}. Then {parts[0]}"
    return f"{', '.join(parts)}; {' or '.join(limit for limit in limits if limit)}."


def main(arguments: list[str] | None = None) -> int:
    """Train, and leave history, picture and configuration in the folder of results."""
    options = parse(arguments)
    config = {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()}
    try:
        optimizer = make_optimizer(options)
        symng.resolve_mode(options.mode)
    except (ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        write_config(options.out, config)
    except OSError as error:
        print(f"--out: cannot write to {options.out}: {error}", file=sys.stderr)
        return 1

    symng.keep_memory()
    images = make_images(options)
    objective = make_objective(options)
    print(objective)
    print(describe(options))
    print("Compiling the evaluation ...", flush=True)
    reconstruct = compile_reconstruction(objective, options.mode)
    reconstruct(images[:2])
    result = train(options, objective, optimizer, images, reconstruct)
    if not result.steps:
        print(f"No step was taken ({result.status}): nothing to write.")
        return 1
    try:
        write_results(options.out, config, result, images[:12], reconstruct)
    except OSError as error:
        print(f"--out: cannot write the results to {options.out}: {error}", file=sys.stderr)
        return 1
    return 0


def make_images(options: argparse.Namespace) -> np.ndarray:
    """Return the training images, and print the error of predicting their mean."""
    print(f"Making {options.examples:,} Curves-like images (seed {options.seed}) ...", flush=True)
    images = curves(options.examples, seed=options.seed)
    mean_error = float(((images - images.mean(axis=0)) ** 2).sum() / len(images))
    print(f"Predicting the mean image gives a squared error of {mean_error:.2f} per image.")
    return images


def make_objective(options: argparse.Namespace) -> symng.Objective:
    """Return the autoencoder and its cross-entropy."""
    x = pt.matrix("x", dtype="float32")
    model = autoencoder(x, options.sizes, initializer="sparse", seed=options.seed, dtype="float32")
    loss = binary_cross_entropy_with_logits(model.preactivation, x).mean()
    return symng.Objective(loss, output=model.output, params=model.params, inputs=[x])


def compile_reconstruction(objective: symng.Objective, mode: str | None) -> Reconstruct:
    """Return a function from images to their reconstructions and the sum of squared errors."""
    (x,), y = objective.inputs, objective.output
    return symng.compile_function([x], [y, pt.sqr(y - x).sum()], mode=mode)


def train(
    options: argparse.Namespace,
    objective: symng.Objective,
    optimizer: symng.Optimizer,
    images: np.ndarray,
    reconstruct: Reconstruct,
) -> symng.TrainingResult:
    """Train, first by Adam if the options ask for such a start, and then by the optimizer.

    The squared error over all images is evaluated every few steps.
    """
    chunks = np.array_split(images, -(-len(images) // 5000))

    def evaluate() -> dict[str, float]:
        errors = [float(reconstruct(chunk)[1]) for chunk in chunks]
        return {"squared_error": sum(errors) / len(images)}

    return minimize_after_adam(
        objective,
        optimizer,
        (images,),
        start=getattr(options, "start", 0),
        start_batch=START["batch"],
        start_step_size=START["step_size"],
        start_evaluate_every=START["evaluate_every"],
        batch_size=None if options.batch == options.examples else options.batch,
        metric_batch=options.metric_batch,
        metric_batch_size=options.metric_examples,
        search_batch=options.search_batch,
        evaluate_every=options.evaluate_every,
        max_steps=options.steps,
        max_seconds=options.seconds,
        evaluate=evaluate,
        seed=options.seed,
        mode=options.mode,
    )


def write_results(
    folder: Path,
    config: dict[str, Any],
    result: symng.TrainingResult,
    sample: np.ndarray,
    reconstruct: Reconstruct,
) -> None:
    """Write history, picture and configuration, and print how the run went."""
    history = result.history
    errors = history["squared_error"] if "squared_error" in history else np.empty(0)
    evaluated = errors[np.isfinite(errors)]
    outcome = f"squared error {evaluated[-1]:.3f} per image" if len(evaluated) else "not evaluated"
    print(
        f"{result.steps} steps in {result.seconds:.1f} s of training ({result.status}), "
        f"{result.compile_seconds:.1f} s of compilation: {outcome}"
    )
    history.save(folder / "history.npz")
    if len(evaluated):
        reconstructions = np.asarray(reconstruct(sample)[0])
        curves_summary(history, sample, reconstructions, path=folder / "curves.png")
    record = {
        "stopped": result.status,
        "steps": result.steps,
        "compile_seconds": round(result.compile_seconds, 1),
    }
    write_config(folder, config | {"result": record})
    written = sorted(path.name for path in folder.iterdir() if path.is_file())
    print(f"Wrote {', '.join(written)} to {folder}")


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write all options of the run, and at its end how it went."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
