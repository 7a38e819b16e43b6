"""Learn a penalty for each feature by the loss on other examples, with implicit gradients.

    python examples/hyperparameters.py
    python examples/hyperparameters.py --features 40 --examples 60

Ridge regression has a weight for each feature and a penalty for each weight. `symng.solve` finds
the weights inside of the graph, and the loss on other examples has a gradient in all the penalties.
Leaves hyperparameters.png in --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytensor
import pytensor.tensor as pt
from command_line import add_mode, is_ready, positive, seed, whole
from matplotlib.figure import Figure

import symng


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=whole, default=40, help="steps of gradient descent")
    parser.add_argument("--features", type=whole, default=20, help="a third of them matter")
    parser.add_argument("--examples", type=whole, default=30, help="to fit the weights")
    parser.add_argument("--others", type=whole, default=200, help="to learn the penalties")
    parser.add_argument(
        "--step-size", type=positive, default=3.0, help="in the logarithms of the penalties"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the data")
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/hyperparameters"), help="folder of the picture"
    )
    return parser.parse_args(arguments)


def make_data(options: argparse.Namespace) -> tuple[np.ndarray, ...]:
    """Return the true weights, examples to fit, others, and many more to test on."""
    rng = np.random.default_rng(options.seed)
    true = np.zeros(options.features)
    used = -(-options.features // 3)
    true[:used] = rng.choice([-1.0, 1.0], used)
    counts = (options.examples, options.others, 1000)
    inputs = [rng.standard_normal((n, options.features)) for n in counts]
    pairs = [(X, X @ true + 2 * rng.standard_normal(len(X))) for X in inputs]
    return true, *(array for pair in pairs for array in pair)


def compile_gradient(data: tuple[np.ndarray, ...], mode: str | None) -> Callable:
    """Return a function from logarithms of penalties to both losses, the gradient, the weights."""
    _, X, T, Z, U, X_test, T_test = data
    s = pt.vector("s", shape=(X.shape[1],))
    w = symng.solve(lambda v: X.T @ (X @ v) + pt.exp(s) * v, X.T @ T, solver=symng.CG()).x
    loss = pt.sqr(Z @ w - U).mean()
    test = pt.sqr(X_test @ w - T_test).mean()
    return symng.compile_function([s], [loss, test, pytensor.grad(loss, s), w], mode=mode)


def learn(
    gradient: Callable, features: int, steps: int, step_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return both losses at each step, and the weights before and after."""
    s = np.zeros(features)
    losses, weights = [], []
    for _ in range(steps + 1):
        loss, test, slope, w = gradient(s)
        losses.append((float(loss), float(test)))
        weights.append(w)
        s = s - step_size * slope
    return np.array(losses), np.array([weights[0], weights[-1]])


def draw(losses: np.ndarray, weights: np.ndarray, true: np.ndarray, path: Path) -> None:
    """Draw the losses over the steps, and the weights before and after beside the true ones."""
    figure = Figure(figsize=(7.6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(losses[:, 0], label="other examples")
    left.plot(losses[:, 1], label="test examples")
    left.set(xlabel="step", ylabel="mean squared error", ylim=(0, None))
    left.legend()
    number = np.arange(1, len(true) + 1)
    right.plot(number, true, "k_", markersize=9, label="true")
    right.plot(number, weights[0], ".", label="equal penalties")
    right.plot(number, weights[1], ".", label="learned penalties")
    right.set(xlabel="feature", ylabel="weight")
    right.legend()
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Learn the penalties, and leave the picture in the folder of results."""
    options = parse(arguments)
    if not is_ready(options):
        return 2
    data = make_data(options)
    gradient = compile_gradient(data, options.mode)
    losses, weights = learn(gradient, options.features, options.steps, options.step_size)
    for name, row in (("equal penalties", losses[0]), ("learned penalties", losses[-1])):
        print(f"{name}: {row[0]:.2f} on other examples, {row[1]:.2f} on test examples")
    draw(losses, weights, data[0], options.out / "hyperparameters.png")
    print(f"Wrote {options.out / 'hyperparameters.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
