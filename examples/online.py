"""Learn digits one example at a time, by natural gradient with the metric of a held-out set.

    python examples/online.py                 # some seconds
    python examples/online.py --seeds 5 --damping 0.05

Section 3 of the paper: the gradient is that of a single example, which is seen once; the metric is
that of examples held out from the stream, whose labels are never read. Beside it runs plain online
gradient descent on the same stream, from the same weights.
Leaves online.png in --out: the test error against the number of examples seen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytensor.tensor as pt
from command_line import add_mode, is_ready, nonnegative, positive, seed, whole
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

import symng
from symng.models import categorical_cross_entropy_with_logits, mlp

TEST = 297  # of the 1,797 digits
SIZES = [64, 30, 10]
METHODS = {"natural gradient": "#D55E00", "gradient descent": "#0072B2"}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--held-out", type=whole, default=300, help="unlabeled images of the metric"
    )
    parser.add_argument("--examples", type=whole, default=1000, help="images of the stream")
    parser.add_argument("--damping", type=nonnegative, default=0.1, help="of natural gradient")
    parser.add_argument("--step-size", type=positive, default=0.01, help="of natural gradient")
    parser.add_argument("--sgd-step-size", type=positive, default=0.05, help="of gradient descent")
    parser.add_argument("--iterations", type=whole, default=10, help="of CG, at most")
    parser.add_argument("--evaluate-every", type=whole, default=50, help="images")
    parser.add_argument("--seed", type=seed, default=0, help="of images and weights, the first one")
    parser.add_argument("--seeds", type=whole, default=1, help="number of seeds")
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/online"), help="folder of the picture"
    )
    options = parser.parse_args(arguments)
    from sklearn.datasets import load_digits

    options.digits = load_digits()
    left = len(options.digits.target) - TEST - options.held_out
    if options.examples > left:
        parser.error(
            f"--examples: expected at most the {left} that are left, got {options.examples}"
        )
    return options


class Stream:
    """The digits in an order: test images, those of the metric, and the stream."""

    def __init__(self, options: argparse.Namespace, number: int) -> None:
        digits = options.digits
        order = np.random.default_rng(number).permutation(len(digits.target))
        images = (digits.data[order] / 16).astype("float32")
        targets = np.eye(10, dtype="float32")[digits.target[order]]
        start = TEST + options.held_out
        self.test = images[:TEST], targets[:TEST]
        self.held_out = images[TEST:start]
        end = start + options.examples
        self.data = images[start:end], targets[start:end]


def make_optimizer(method: str, options: argparse.Namespace) -> symng.Optimizer:
    """Return natural gradient with a damping that stays, or gradient descent."""
    if method == "gradient descent":
        return symng.SGD(options.sgd_step_size)
    # The reduction ratio of one example says little: the damping does not follow it.
    return symng.NaturalGradient(
        solver=symng.CG(rtol=1e-2, maxiter=options.iterations, recompute=False),
        damping=symng.FixedDamping(value=options.damping),
        step_size=options.step_size,
    )


def train(method: str, options: argparse.Namespace, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of examples seen and test errors after them."""
    stream = Stream(options, number)
    x, t = pt.matrix("x", dtype="float32"), pt.matrix("t", dtype="float32")
    model = mlp(x, SIZES, "tanh", output="softmax", seed=number)
    loss = categorical_cross_entropy_with_logits(model.preactivation, t).mean()
    objective = symng.Objective(
        loss, output=model.output, params=model.params, inputs=[x], targets=[t]
    )
    wrong = pt.neq(model.output.argmax(axis=1), t.argmax(axis=1)).mean()
    error_of = symng.compile_function([x, t], wrong, mode=options.mode)
    start = float(error_of(*stream.test))
    metric = {}
    if method == "natural gradient":
        metric = dict(metric_batch="own", metric_data=(stream.held_out,))
    result = symng.minimize(
        objective,
        make_optimizer(method, options),
        data=stream.data,
        batch_size=1,
        **metric,
        max_steps=options.examples,
        evaluate=lambda: {"test_error": float(error_of(*stream.test))},
        evaluate_every=options.evaluate_every,
        seed=number,
        progress=False,
        mode=options.mode,
    )
    steps, errors = (np.asarray(result.history[name]) for name in ("step", "test_error"))
    known = np.isfinite(errors)
    last = f"test error {errors[known][-1]:.1%} after {result.steps} examples"
    times = f"{result.seconds:.1f} s of training, {result.compile_seconds:.0f} s of compilation"
    print(f"{method}, seed {number}: {last}; {times}", flush=True)
    return np.append(0, steps[known]), np.append(start, errors[known])


def draw(curves: dict[str, list[tuple[np.ndarray, np.ndarray]]], path: Path) -> None:
    """Draw test error against examples seen: a thin line for each seed, their mean a thick one."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.subplots()
    for method, runs in curves.items():
        seen, errors = runs[0][0], 100 * np.array([run[1] for run in runs])
        if len(runs) > 1:
            panel.plot(seen, errors.T, color=METHODS[method], lw=0.6, alpha=0.5)
        panel.plot(seen, errors.mean(axis=0), color=METHODS[method], lw=2, label=method)
    panel.set(xlabel="examples seen, one at a time", ylabel="test error (%)", yscale="log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter("{x:g}")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    figure.savefig(path, dpi=130)


def make_table(curves: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> str:
    """Return the mean test errors after a few numbers of examples, as a table."""
    seen = next(iter(curves.values()))[0][0]
    shown = sorted({int(np.searchsorted(seen, share * seen[-1])) for share in (0.1, 0.2, 0.5, 1)})
    lines = [["examples seen", *(f"{seen[i]}" for i in shown)], ["---"] * (len(shown) + 1)]
    for method, runs in curves.items():
        mean = np.mean([run[1] for run in runs], axis=0)
        lines.append([f"{method}, test error (%)", *(f"{100 * mean[i]:.1f}" for i in shown)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Train by both methods, and leave the picture in the folder of results."""
    options = parse(arguments)
    if not is_ready(options):
        return 2
    numbers = range(options.seed, options.seed + options.seeds)
    curves = {method: [train(method, options, number) for number in numbers] for method in METHODS}
    draw(curves, options.out / "online.png")
    print(f"\n{make_table(curves)}\nWrote {options.out / 'online.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
