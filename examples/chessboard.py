"""Learn a chessboard from a thousand points by natural gradient, and draw what is learned.

    python examples/chessboard.py                  # 15 steps
    python examples/chessboard.py --steps 40 --seed 1

Leaves chessboard.png in --out: the probability of one of the two classes over the square, before
training, after a fifth and two fifths of it, and at the end.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytensor
import pytensor.tensor as pt
from command_line import add_mode, is_ready, seed, whole
from matplotlib.figure import Figure

import symng

SIDE = 101  # points of the grid along each edge of the square


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=whole, default=15, help="steps of natural gradient")
    parser.add_argument("--examples", type=whole, default=1000, help="points to learn from")
    parser.add_argument("--seed", type=seed, default=0, help="of points and weights")
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/chessboard"), help="folder of the picture"
    )
    return parser.parse_args(arguments)


def train(
    options: argparse.Namespace,
) -> tuple[list[tuple[int, float, np.ndarray]], np.ndarray, np.ndarray]:
    """Return (step, loss, probabilities on a grid) at four moments, the points and the targets."""
    rng = np.random.default_rng(options.seed)
    points = rng.uniform(-1, 1, (options.examples, 2))
    targets = (points.prod(axis=1, keepdims=True) > 0).astype(float)

    x, t = pt.matrix("x"), pt.matrix("t")
    W = pytensor.shared(rng.standard_normal((2, 20)), name="W")
    b = pytensor.shared(np.zeros(20), name="b")
    V = pytensor.shared(0.1 * rng.standard_normal((20, 1)), name="V")
    y = pt.sigmoid(pt.tanh(x @ W + b) @ V)
    loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).mean()
    objective = symng.Objective(loss, output=y, params=[W, b, V], inputs=[x], targets=[t])

    optimizer = symng.NaturalGradient(damping=symng.LevenbergMarquardt(initial=0.1))
    step = symng.compile_step(objective, optimizer, mode=options.mode)
    predict = pytensor.function([x], y, mode=options.mode)
    loss_of = pytensor.function([x, t], loss, mode=options.mode)
    edge = np.linspace(-1, 1, SIDE)
    grid = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2)
    moments = {0, options.steps // 5, 2 * options.steps // 5, options.steps}
    seen = []
    for done in range(options.steps + 1):
        if done in moments:
            value, probabilities = float(loss_of(points, targets)), np.asarray(predict(grid))
            seen.append((done, value, probabilities.reshape(SIDE, SIDE)))
            print(f"step {done:3d}  loss {value:.3f}")
        if done < options.steps:
            step((points, targets))
    return seen, points, targets


def draw(
    seen: list[tuple[int, float, np.ndarray]], points: np.ndarray, targets: np.ndarray, path: Path
) -> None:
    """Draw one panel for each moment, with a few of the points in the first."""
    figure = Figure(figsize=(9.6, 2.7), layout="constrained")
    panels = figure.subplots(1, len(seen), squeeze=False)[0]
    for panel, (done, loss, probabilities) in zip(panels, seen, strict=True):
        panel.imshow(
            probabilities, cmap="RdBu", vmin=0, vmax=1, origin="lower", extent=(-1, 1, -1, 1)
        )
        panel.set(xticks=[], yticks=[], title=f"step {done}, loss {loss:.2f}")
    shown = slice(200)
    panels[0].scatter(
        *points[shown].T, c=targets[shown, 0], cmap="RdBu", vmin=0, vmax=1, s=9, ec="0.3", lw=0.3
    )
    panels[0].set(xlim=(-1, 1), ylim=(-1, 1))
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Train, and leave the picture in the folder of results."""
    options = parse(arguments)
    if not is_ready(options):
        return 2
    draw(*train(options), options.out / "chessboard.png")
    print(f"Wrote {options.out / 'chessboard.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
