"""How close `symng.legacy` comes to the originals: the bounds of the tests, and the page's table.

The tests of `tests/legacy` take their bounds from here, and docs/legacy.md has to hold `table()`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "legacy" / "data"

BOUNDS: dict[str, dict[str, float]] = {
    "natgrad": {"columns": 1e-4, "float64": 1e-5, "float32": 1e-4},
    "natgrad_convolution": {"columns": 1e-6, "weights": 1e-8},
    "hf": {"costs": 1e-6, "weights": 1e-7, "recurrent costs": 2e-3, "recurrent weights": 1e-2},
    "hf_examples": {"costs": 1e-6, "weights": 1e-6, "later": 1e-4},
    "minresQLP": {"iterations": 1, "ill": 5, "numbers": 1e-10},
    "minres": {"numbers": 1e-4},
    "ksd": {"subspaces": 1e-10, "cost": 1e-5, "gradient_norm": 1e-4, "H": 1e-3},
    "ksd, third": {"cost": 1e-5, "gradient_norm": 1e-3, "H": 1e-2},
}
"""The bounds of each program, relative but for weights."""

_ROWS = [
    (
        "`natgrad`",
        "natgrad",
        "{count} settings of 8 steps: damping rules, step sizes, chunks, batches of the metric, "
        "both metrics, both solvers, gradient descent; float64 and float32",
        "all columns within {columns}, weights within {float64} ({float32} in float32), first "
        "weights equal",
    ),
    (
        "`natgrad`, `convMat`",
        "natgrad_convolution",
        "{count} settings of 6 steps on 28 x 28 images: metric on the same batch, another one, a "
        "smaller one and held-out images, with and without chunks, gradient descent; float64",
        "all columns within {columns}, weights within {weights}, first weights equal",
    ),
    (
        "`theano-hf`",
        "hf",
        "{count} settings of 6 updates: a network, and a recurrent one with structural damping",
        "costs within {costs}, iterations and the iterate chosen, weights within {weights}; of the "
        "recurrent network, whose solves go on into rounding errors, costs within "
        "{recurrent_costs} and weights within {recurrent_weights} after six updates",
    ),
    (
        "`theano-hf`, its examples",
        "hf_examples",
        "{count} settings of 10 updates, with fewer units and examples: `example_NN`, "
        "`example_RNN` with and without structural damping, each plain, preconditioned, with "
        "global backtracking, with few iterations, and in batches with validation data",
        "costs, damping, norms and weights within {costs}; in the preconditioned settings, whose "
        "rounding errors grow, within {later} after the third update, the eighth of the network",
    ),
    (
        "`theano_optimize`, `minresQLP`",
        "solvers",
        "{systems} systems of 24 unknowns: definite, ill-conditioned, singular, inconsistent, "
        "indefinite, damped, preconditioned",
        "verdicts equal, iterations within {iterations}, of the ill-conditioned one, whose number "
        "depends on the processor, within {ill}; all numbers within {numbers} after six "
        "iterations",
    ),
    (
        "`theano_optimize`, `minres`",
        "solvers",
        "the same in float32, with a tolerance of 1e-4",
        "verdicts equal; all numbers within {numbers} after six iterations",
    ),
    (
        "`ksd-theano`",
        "ksd",
        "2 subspaces of 10 unknowns; 4 runs like `train_dae_curves.py` on made-up curves of 8 x 8 "
        "pixels in float32: plain, both preconditioners, the Hessian",
        "subspaces within {subspaces}; of 3 iterations costs within {cost}, gradients within "
        "{gradient_norm}, the diagonal of the matrix within {H}; in the third, which begins where "
        "rounding errors have stopped a line search, {third_gradient_norm} and {third_H}",
    ),
]


def recorded(name: str) -> dict[str, Any]:
    """Return what a program recorded, by the name of its file."""
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return found


def table() -> str:
    """Return the table of docs/legacy.md: settings counted in the records, bounds of the tests."""
    lines = ["| program | what was recorded | how close |", "|---|---|---|"]
    for program, file, what, close in _ROWS:
        key = program.split("`")[-2] if file == "solvers" else file
        third = {f"third {k}": v for k, v in BOUNDS["ksd, third"].items()}
        values = {
            k.replace(" ", "_"): f"{v:.0e}".replace("e-0", "e-") if v < 1 else f"{v:g}"
            for k, v in ({**BOUNDS[key], **third}).items()
        }
        count = len(recorded(file))
        systems = len(recorded(file)["systems"]) if file == "solvers" else 0
        text = what.format(count=count, systems=systems)
        lines.append(f"| {program} | {text} | {close.format(**values)} |")
    return "\n".join(lines)
