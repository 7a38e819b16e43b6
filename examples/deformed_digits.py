"""Draw samples of the stream of deformed digits.

    python examples/deformed_digits.py    # of MNIST where there is a copy, else scikit-learn's
    python examples/deformed_digits.py --path mnist.npz --complexity 1

The rows are the originals, each module alone, and all five one after the other. Leaves
deformed_digits.png in --out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from command_line import fraction, seed
from matplotlib.figure import Figure

from symng.datasets import LabeledImages, deformed_digits, digits

ROWS: dict[str, tuple[str, ...]] = {
    "originals": (),
    "slant": ("slant",),
    "thickness": ("thickness",),
    "affine": ("affine",),
    "elastic": ("elastic",),
    "pinch": ("pinch",),
    "all five": ("slant", "thickness", "affine", "elastic", "pinch"),
}
COLUMNS = 14


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", type=Path, help="a copy of mnist.npz; looked for, unless given")
    parser.add_argument("--seed", type=seed, default=0, help="of the stream")
    parser.add_argument(
        "--complexity", type=fraction, default=0.7, help="of each module at most, from 0 to 1"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/deformed_digits"), help="folder of the picture"
    )
    return parser.parse_args(arguments)


def draw(base: LabeledImages, seed: int, complexity: float, path: Path) -> None:
    """Draw one row of samples for each choice of modules, of the same base images in all rows."""
    figure = Figure(figsize=(9.0, 4.9), layout="constrained")
    panels = figure.subplots(len(ROWS), 1)
    for panel, (name, modules) in zip(panels, ROWS.items(), strict=True):
        images, _ = deformed_digits(
            base, 0, COLUMNS, seed=seed, complexity=complexity, modules=modules
        )
        framed = np.pad(images.reshape(-1, 32, 32), ((0, 0), (1, 1), (1, 1)), constant_values=0.2)
        panel.imshow(np.hstack(framed), cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        panel.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> int:
    """Draw the page and leave it in the folder of results."""
    options = parse(arguments)
    try:
        base = digits(options.path)
        options.out.mkdir(parents=True, exist_ok=True)
        print(base)
        draw(base, options.seed, options.complexity, options.out / "deformed_digits.png")
    except (OSError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Wrote {options.out / 'deformed_digits.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
