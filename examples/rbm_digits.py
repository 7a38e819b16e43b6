"""Train a small restricted Boltzmann machine by natural gradient and by gradient descent.

    python examples/rbm_digits.py                  # 12 hidden units, 15 seconds of training by each
    python examples/rbm_digits.py --hidden 8 --steps 300

The samples of the model come from chains of Gibbs sampling that continue from step to step, and the
Fisher matrix is the covariance of the gradients on them. With few hidden units the likelihood can
be computed exactly: nats per image are the negative log-likelihood of held-out images.

Leaves in --out: history-natural.npz and history-sgd.npz (one row a step), rbm_digits.png and
config.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from command_line import add_mode, is_ready, positive, seed, whole
from matplotlib.figure import Figure
from scipy.special import expit, logsumexp
from sklearn.datasets import load_digits

import symng

RUNS = {"natural": "natural gradient", "sgd": "gradient descent"}
HELD_OUT = 297


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=whole, default=12, help="hidden units, at most 14")
    parser.add_argument("--steps", type=whole, help="optimization steps at most")
    parser.add_argument(
        "--seconds", type=positive, help="seconds of training at most; 15 unless --steps is given"
    )
    parser.add_argument("--batch", type=whole, default=250, help="images in a gradient batch")
    parser.add_argument("--chains", type=whole, default=500, help="chains of Gibbs sampling")
    parser.add_argument(
        "--sweeps", type=whole, default=1, help="sweeps of the chains before each step"
    )
    parser.add_argument("--iterations", type=whole, default=20, help="iterations of CG at most")
    parser.add_argument(
        "--damping", type=positive, default=0.02, help="damping of the natural gradient"
    )
    parser.add_argument(
        "--step-size", type=positive, default=0.1, help="step size of the natural gradient"
    )
    parser.add_argument(
        "--sgd-step-size", type=positive, default=0.2, help="step size of gradient descent"
    )
    add_mode(parser)
    parser.add_argument(
        "--seed", type=seed, default=0, help="of first weights, chains and order of examples"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/rbm_digits"), help="folder of the results"
    )
    options = parser.parse_args(arguments)
    if options.hidden > 14:
        parser.error(
            f"--hidden: expected at most 14, got {options.hidden}: the normalizing constant is a "
            "sum over 2^hidden states"
        )
    if options.batch > 1797 - HELD_OUT:
        parser.error(
            f"--batch: expected at most the {1797 - HELD_OUT} training images, got {options.batch}"
        )
    if options.seconds is None and options.steps is None:
        options.seconds = 15.0
    return options


def binary_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images of 8 x 8 pixels that are 0 or 1, to train on and held out."""
    images = (load_digits().data >= 8).astype("float32")
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[HELD_OUT:]], images[order[:HELD_OUT]]


class Machine:
    """A restricted Boltzmann machine of binary units, E(v, h) = -v b - h c - v W h.

    It has its free energy, with h summed out, a Gibbs sampler and its exact likelihood.
    """

    def __init__(self, hidden: int, images: np.ndarray, seed: int) -> None:
        rng = np.random.default_rng(seed)
        means = images.mean(axis=0).clip(0.01, 0.99)
        self.W = pytensor.shared(
            rng.normal(0, 0.01, (images.shape[1], hidden)).astype("float32"), name="W"
        )
        self.b = pytensor.shared(np.log(means / (1 - means)).astype("float32"), name="b")
        self.c = pytensor.shared(np.zeros(hidden, "float32"), name="c")
        self.params = [self.W, self.b, self.c]
        self.states = np.array(list(product((0.0, 1.0), repeat=hidden)))  # of the hidden units

    def energy(self, v: Any) -> Any:
        """Return the free energy of each row, symbolic."""
        return -pt.dot(v, self.b) - pt.softplus(pt.dot(v, self.W) + self.c).sum(axis=1)

    def sweep(self, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the visible units of all chains after a sweep of Gibbs sampling."""
        W, b, c = (p.get_value(borrow=True) for p in self.params)
        h = (rng.random((len(v), len(c)), "float32") < expit(v @ W + c)).astype("float32")
        return (rng.random(v.shape, "float32") < expit(h @ W.T + b)).astype("float32")

    def nats(self, v: np.ndarray) -> float:
        """Return the exact mean negative log-likelihood, summing over all hidden states."""
        W, b, c = (p.get_value().astype("float64") for p in self.params)
        log_z = logsumexp(self.states @ c + np.logaddexp(0, self.states @ W.T + b).sum(axis=1))
        return float(log_z - (v @ b + np.logaddexp(0, v @ W + c).sum(axis=1)).mean())


def make_optimizer(options: argparse.Namespace, name: str) -> symng.Optimizer:
    """Return the optimizer of a run."""
    if name == "sgd":
        return symng.SGD(step_size=options.sgd_step_size)
    return symng.NaturalGradient(
        solver=symng.CG(rtol=1e-2, maxiter=options.iterations, recompute=False),
        damping=options.damping,
        step_size=options.step_size,
        warm_start=0.9,
    )


def train(
    options: argparse.Namespace, name: str, images: np.ndarray, unseen: np.ndarray
) -> tuple[Any, ...]:
    """Return machine, chains and history of a run; both runs start from the same."""
    machine = Machine(options.hidden, images, options.seed)
    v, s = pt.matrix("v", dtype="float32"), pt.matrix("samples", dtype="float32")
    objective = symng.EnergyObjective(machine.energy, params=machine.params, data=v, samples=s)
    step = symng.compile_step(objective, make_optimizer(options, name), mode=options.mode)
    rng = np.random.default_rng(options.seed)
    chains = (rng.random((options.chains, images.shape[1])) < images.mean(axis=0)).astype("float32")
    step.compile((images[: options.batch], chains))
    print(
        f"{RUNS[name]}: compiled in {step.compile_seconds:.1f} s; {machine.nats(unseen):.2f} nats "
        "per image at first"
    )
    history, seconds, number = symng.History(), 0.0, 0
    every = 1
    while (options.steps is None or number < options.steps) and (
        options.seconds is None or seconds < options.seconds
    ):
        start = time.perf_counter()
        for _ in range(options.sweeps):
            chains = machine.sweep(chains, rng)
        info = step((images[rng.choice(len(images), options.batch, replace=False)], chains))
        seconds += time.perf_counter() - start
        number += 1
        nats = math.nan
        # Every step at first, later at intervals of a fiftieth of the steps so far.
        if number % every == 0:
            nats, every = machine.nats(unseen), max(every, number // 50)
        history.append(step=number, seconds=seconds, nats_per_image=nats, **info.to_dict())
    print(
        f"  {number} steps in {seconds:.1f} s: {machine.nats(unseen):.2f} nats per image, "
        f"{machine.nats(images):.2f} on the training images"
    )
    return machine, chains, history


def draw(runs: dict[str, tuple[Any, ...]], images: np.ndarray, path: Path) -> None:
    """Draw likelihoods against steps and seconds; images, samples and filters below."""
    figure = Figure(figsize=(10.0, 6.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(3.6, 2.6))
    panels = top.subplots(1, 2, sharey=True)
    for panel, (against, label) in zip(
        panels, (("step", "step"), ("seconds", "seconds of training")), strict=True
    ):
        for name, (_, _, history) in runs.items():
            seen = np.isfinite(history["nats_per_image"])
            panel.plot(history[against][seen], history["nats_per_image"][seen], label=RUNS[name])
        panel.set(xscale="log", xlabel=label)
        panel.grid(True, color="0.9")
        panel.legend(frameon=False)
    panels[0].set_ylabel("nats per image, held out")
    sheets = {"images": images} | {
        f"samples, {RUNS[name]}": chains for name, (_, chains, _) in runs.items()
    }
    filters = {
        f"filters, {RUNS[name]}": machine.W.get_value().T for name, (machine, _, _) in runs.items()
    }
    row = bottom.subplots(1, len(sheets) + 1)
    # Filters of the first run.
    for panel, (title, tiles) in zip(row, (sheets | filters).items(), strict=False):
        limit = float(abs(tiles).max())
        ink = (
            {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
            if title in filters
            else {"cmap": "gray_r"}
        )
        picture = panel.imshow(tile(tiles[:30]), **ink)
        picture.set_cmap(picture.get_cmap().with_extremes(bad="0.85"))
        panel.set(xticks=[], yticks=[])
        panel.set_title(title, fontsize="small")
    figure.savefig(path, dpi=150)


def tile(images: np.ndarray) -> np.ndarray:
    """Return images of 8 x 8 pixels in a nearly square sheet, with gaps of a pixel between them."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * 9 - 1, columns * 9 - 1), np.nan)
    for i, image in enumerate(images):
        top, left = 9 * (i // columns), 9 * (i % columns)
        sheet[top : top + 8, left : left + 8] = image.reshape(8, 8)
    return sheet


def main(arguments: list[str] | None = None) -> int:
    """Train by both, and leave histories, picture and configuration in the folder of results."""
    options = parse(arguments)
    if not is_ready(options):
        return 2
    images, unseen = binary_digits()
    runs = {name: train(options, name, images, unseen) for name in RUNS}
    for name, (_, _, history) in runs.items():
        history.save(options.out / f"history-{name}.npz")
    draw(runs, images, options.out / "rbm_digits.png")
    config = {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()}
    (options.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"Results in {options.out}: {', '.join(sorted(p.name for p in options.out.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
