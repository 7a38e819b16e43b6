"""Plot the largest eigenvalues of a network's Fisher matrix, before and after training.

    python examples/fisher_spectrum.py
    python examples/fisher_spectrum.py --count 40 --steps 30

SciPy finds them from products with the matrix, which is never formed. Leaves fisher_spectrum.png in
--out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytensor.tensor as pt
from command_line import add_mode, is_ready, seed, whole
from matplotlib.figure import Figure
from scipy.sparse.linalg import eigsh

import symng
from symng.models import mlp

LAYERS = [2, 20, 20, 1]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=whole, default=20, help="steps of natural gradient")
    parser.add_argument("--count", type=whole, default=60, help="eigenvalues to plot")
    parser.add_argument("--examples", type=whole, default=1000, help="points to learn from")
    parser.add_argument("--seed", type=seed, default=0, help="of points and weights")
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/fisher_spectrum"), help="folder of the picture"
    )
    return parser.parse_args(arguments)


def chessboard(options: argparse.Namespace) -> tuple[symng.Objective, np.ndarray, np.ndarray]:
    """Return a classifier of a chessboard of four squares, and its data."""
    rng = np.random.default_rng(options.seed)
    X = rng.uniform(-1, 1, (options.examples, 2))
    T = (X.prod(axis=1, keepdims=True) > 0).astype(float)
    x, t = pt.matrix("x"), pt.matrix("t")
    network = mlp(x, LAYERS, output="sigmoid", seed=options.seed)
    r = network.preactivation
    loss = (pt.softplus(r) - t * r).mean()
    return symng.Objective(loss, network.output, network.params, inputs=[x], targets=[t]), X, T


def largest_eigenvalues(
    objective: symng.Objective, X: np.ndarray, count: int, mode: str | None
) -> np.ndarray:
    """Return the largest eigenvalues of the Fisher matrix, in falling order."""
    F = symng.Fisher()(objective).to_scipy(X, mode=mode)
    v0 = np.random.default_rng(0).standard_normal(objective.size)
    return eigsh(F, k=count, v0=v0, return_eigenvectors=False)[::-1]


def draw(spectra: dict[str, np.ndarray], path: Path) -> None:
    """Draw the spectra over the number of the eigenvalue, on a logarithmic scale."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, values in spectra.items():
        axes.semilogy(np.arange(1, len(values) + 1), np.maximum(values, 1e-16), ".-", label=name)
    axes.set(xlabel="number", ylabel="eigenvalue of the Fisher matrix")
    axes.legend()
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Train, and leave the picture in the folder of results."""
    options = parse(arguments)
    if not is_ready(options):
        return 2
    objective, X, T = chessboard(options)
    if options.count >= objective.size:
        print(f"--count: expected less than {objective.size}, got {options.count}", file=sys.stderr)
        return 2
    spectra = {"before": largest_eigenvalues(objective, X, options.count, options.mode)}
    optimizer = symng.NaturalGradient(damping=symng.LevenbergMarquardt(initial=0.1))
    result = symng.minimize(
        objective, optimizer, (X, T), max_steps=options.steps, progress=False, mode=options.mode
    )
    after = largest_eigenvalues(objective, X, options.count, options.mode)
    spectra[f"after {result.steps} steps, loss {result.loss:.2g}"] = after
    for name, values in spectra.items():
        print(f"{name}: from {values[0]:.2g} to {values[-1]:.2g}")
    draw(spectra, options.out / "fisher_spectrum.png")
    print(f"Wrote {options.out / 'fisher_spectrum.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
