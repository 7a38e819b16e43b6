"""Settings of figure1.py: presets, command line, optimizer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

# The command line's helpers are shared by all examples.
sys.path.append(str(Path(__file__).parents[1]))

from command_line import add_mode, positive, whole
from tables import VARIANTS

import symng

GRADIENT_BATCH, METRIC_BATCH = 256, 384  # the paper's and the authors'

PRESETS = ("small", "paper", "authors")


class Setting(NamedTuple):
    """Values of a setting in the presets, what it is, and its values on the command line."""

    small: float | str
    paper: float | str
    authors: float | str
    words: str
    choices: tuple[str, ...] = ()


# Network, image size, solver, damping and length in each preset. The paper gives no stride, no
# tolerance and no bound of the damping.
SETTINGS: dict[str, Setting] = {
    "network": Setting(
        "sigmoid", "sigmoid", "relu-tanh", "its two hidden layers", ("sigmoid", "relu-tanh")
    ),
    "filters": Setting(16, 512, 16, "filters of the convolutional layer"),
    "filter_size": Setting(5, 14, 9, "pixels of a filter in each direction"),
    "stride": Setting(1, 2, 1, "pixels from one position of a filter to the next"),
    "max_pool": Setting(1, 1, 5, "positions in each direction that the maximum is taken over"),
    "units": Setting(64, 1024, 256, "units of the dense layer"),
    "pool": Setting(
        2, 1, 1, "images are averaged over squares of so many pixels in each direction"
    ),
    "contrast": Setting(
        "paper", "paper", "authors", "constants of the normalization", ("paper", "authors")
    ),
    "outputs": Setting(
        "sum",
        "sum",
        "mean",
        "the loss of an example is the sum or mean over outputs",
        ("sum", "mean"),
    ),
    "mixture": Setting(192, 192, 256, "training examples of the 384 in `mixture`"),
    "rtol": Setting(1e-5, 1e-5, 1e-4, "relative tolerance of MinRes-QLP"),
    "transition_condition": Setting(
        1e4, 1e4, 1e-4, "condition number at which MINRES hands over to QLP"
    ),
    "damping_minimum": Setting(1e-4, 1e-4, 0.5, "the damping does not fall below"),
    "damping_ratio": Setting(1.5, 1.5, 1.25, "factor by which the damping rises or falls"),
    "seeds": Setting(6, 5, 5, "number of seeds, from 0 on"),
    "steps": Setting(200, 200, 6000, "updates of each run"),
    "evaluate_every": Setting(10, 10, 20, "updates from one evaluation to the next"),
}
# Those of the paper, and one that is not in it; the authors' program has a set that never changes.
PAPERS_VARIANTS = ("same", "other", "unlabeled", "mixture")


def parse(arguments: list[str] | None, description: str | None = None) -> argparse.Namespace:
    """Read the command line; what is not given comes from the preset."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=list(VARIANTS),
        metavar="VARIANT",
        help=f"which of {', '.join(VARIANTS)}; default all, `fixed` with `--preset authors` only",
    )
    for name, setting in SETTINGS.items():
        option = f"--{name.replace('_', '-')}"
        if setting.choices:
            parser.add_argument(option, choices=setting.choices, help=setting.words)
        else:
            kind = whole if isinstance(setting.small, int) else positive
            parser.add_argument(option, type=kind, help=setting.words)
    parser.add_argument(
        "--data", type=Path, help="TFD_48x48.mat, or a folder of idx files; default Fashion-MNIST"
    )
    parser.add_argument(
        "--download", action="store_true", help="fetch Fashion-MNIST from OpenML if it is not there"
    )
    parser.add_argument(
        "--fold", type=int, default=3, help="from 0 to 4; the paper's fold 4 is 3, the default"
    )
    parser.add_argument(
        "--labeled", type=whole, help="labeled examples, in training, validation and test sets"
    )
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/figure1"), help="folder of the results"
    )
    options = parser.parse_args(arguments)
    for name, setting in SETTINGS.items():
        if getattr(options, name) is None:
            setattr(options, name, getattr(setting, options.preset))
    if options.damping_ratio <= 1:
        parser.error(f"--damping-ratio: expected above 1, got {options.damping_ratio:g}")
    default = list(VARIANTS) if options.preset == "authors" else PAPERS_VARIANTS
    chosen = options.variants or default
    options.variants = [variant for variant in VARIANTS if variant in chosen]
    return options


def make_optimizer(options: argparse.Namespace) -> symng.NaturalGradient:
    """Return natural gradient as in the appendix.

    MinRes-QLP of at most 50 iterations, damping from 5 by Levenberg-Marquardt, step size 0.2.
    """
    return symng.NaturalGradient(
        solver=symng.MinresQLP(
            rtol=options.rtol,
            maxiter=50,
            transition_condition=options.transition_condition,
            recompute=False,
        ),
        damping=symng.LevenbergMarquardt(
            initial=5.0,
            minimum=options.damping_minimum,
            increase=options.damping_ratio,
            decrease=1 / options.damping_ratio,
        ),
        step_size=0.2,
    )
