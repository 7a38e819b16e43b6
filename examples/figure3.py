"""Compare the optimizers of Figure 3 of the paper, and others, on Curves at equal time.

    python examples/figure3.py              # fewer images, a narrower network: half an hour
    python examples/figure3.py --seeds 3    # several seeds
    python examples/figure3.py --preset paper --minutes 60 --mode JAX

Every run is one call of curves.py with a folder of its own in --out. A complete run is not made
again: after an interruption the same command continues with the runs that are missing. The step
sizes of the first-order methods are chosen from a small grid; each value is tried for a quarter of
the time.
Leaves in --out: figure3.png (training squared error against iterations and against seconds),
table.csv and table.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command_line import positive, whole

import symng
from symng.plot import training_curves

CURVES = Path(__file__).with_name("curves.py")

# Optimizer of curves.py, and its name in Figure 3.
METHODS = {
    "ngd": "NGD",
    "ngd-l": "NGD-L",
    "ncg-l": "NCG-L",
    "ncg-f": "NCG-F",
    "hf": "HF",
    "ksd": "KSD",
    "sgd": "SGD",
    "momentum": "momentum",
    "nesterov": "Nesterov",
    "adam": "Adam",
}
# Step sizes that are tried for the first-order methods; the paper's 0.01 for SGD is among them.
GRID = {
    "sgd": (0.01, 0.03, 0.1, 0.3),
    "momentum": (0.003, 0.01, 0.03, 0.1),
    "nesterov": (0.003, 0.01, 0.03, 0.1),
    "adam": (0.001, 0.003, 0.01, 0.03),
}
TUNING_SHARE = 0.25  # of the time of a run, for each value of the grid
MINUTES = {"small": 1.0, "paper": 60.0}
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of the time, at which errors are reported
ERRORS = (12.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.5)  # the times to reach them are reported
# How complete runs end; an interrupted one is made again.
COMPLETE = ("max_seconds", "diverged", "not_finite", "zero_gradient")


@dataclass(frozen=True)
class Run:
    """One call of curves.py."""

    method: str
    seed: int
    seconds: float
    folder: Path
    step_size: float | None = None

    def command(self, options: argparse.Namespace) -> list[str]:
        """Return the command line of the run."""
        command = [
            sys.executable,
            str(CURVES),
            "--preset",
            options.preset,
            "--optimizer",
            self.method,
            "--seed",
            str(self.seed),
            "--seconds",
            f"{self.seconds:g}",
            "--out",
            str(self.folder),
        ]
        if self.step_size is not None:
            command += ["--step-size", f"{self.step_size:g}"]
        return command + (["--mode", options.mode] if options.mode else [])

    def config(self) -> dict[str, Any]:
        """Return what the run wrote about itself; empty before it has ended."""
        try:
            return json.loads((self.folder / "config.json").read_text())
        except (OSError, ValueError):
            return {}

    def is_done(self) -> bool:
        """Return whether the run is complete; refuse a folder that holds a run of another kind."""
        config = self.config()
        if (
            config.get("result", {}).get("stopped") not in COMPLETE
            or not (self.folder / "history.npz").exists()
        ):
            return False
        expected = {"optimizer": self.method, "seed": self.seed, "seconds": self.seconds}
        if self.step_size is not None:
            expected["step_size"] = self.step_size
        other = [
            f"{name} {config.get(name)!r}, not {value!r}"
            for name, value in expected.items()
            if config.get(name) != value
        ]
        if other:
            raise SystemExit(
                f"--out: {self.folder} holds a run with {', '.join(other)}. Give another folder, "
                "or delete it."
            )
        return True

    def history(self) -> symng.History:
        """Return the history of a complete run."""
        return symng.History.load(self.folder / "history.npz")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=list(MINUTES), default="small")
    parser.add_argument("--minutes", type=positive, help="minutes of training of each run")
    parser.add_argument("--seeds", type=whole, default=1, help="number of seeds, from 0 on")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        default=list(METHODS),
        metavar="METHOD",
        help=f"which of {', '.join(METHODS)}; default all",
    )
    parser.add_argument("--mode", help="PyTensor mode: CVM, NUMBA or JAX; default as in curves.py")
    parser.add_argument(
        "--out", type=Path, default=Path("results/figure3"), help="folder of the results"
    )
    options = parser.parse_args(arguments)
    if options.minutes is None:
        options.minutes = MINUTES[options.preset]
    shortest = round(60 * options.minutes * TUNING_SHARE, 3)
    if not shortest:
        parser.error(f"--minutes: expected at least 0.0001, got {options.minutes:g}")
    options.methods = [method for method in METHODS if method in options.methods]
    return options


def make(run: Run, options: argparse.Namespace) -> None:
    """Make a run, unless it is complete."""
    title = f"{METHODS[run.method]}, seed {run.seed}, {run.seconds:g} s"
    title += f", step size {run.step_size:g}" if run.step_size is not None else ""
    if run.is_done():
        print(f"== {title}: done before", flush=True)
        return
    print(f"== {title}", flush=True)
    ended = subprocess.run(run.command(options))
    if ended.returncode:
        raise SystemExit(
            f"The run in {run.folder} ended with exit status {ended.returncode}: "
            f"{' '.join(run.command(options))}"
        )
    if not run.is_done():
        raise SystemExit(
            f"The run in {run.folder} is not complete. The same command continues from here."
        )


def last_error(run: Run) -> float:
    """Return the last squared error of a run; infinity where it is not finite."""
    _, errors = evaluated(run.history())
    return float(errors[-1]) if len(errors) else float("inf")


def tune(method: str, options: argparse.Namespace) -> float:
    """Return the step size of the grid that gets furthest in a share of the time."""
    seconds = round(60 * options.minutes * TUNING_SHARE, 3)
    runs = [
        Run(method, 0, seconds, options.out / f"{method}-tuning-{size:g}", step_size=size)
        for size in GRID[method]
    ]
    for run in runs:
        make(run, options)
    best = min(runs, key=last_error)
    assert best.step_size is not None
    return best.step_size


def evaluated(history: symng.History) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds and squared error where it was evaluated and is finite."""
    known = np.isfinite(history["squared_error"])
    return history["seconds"][known], history["squared_error"][known]


def error_at(history: symng.History, seconds: float) -> float:
    """Return the last squared error up to a time; NaN before the first evaluation."""
    times, errors = evaluated(history)
    before = errors[times <= seconds]
    return float(before[-1]) if len(before) else float("nan")


def time_to(history: symng.History, error: float) -> float:
    """Return when the squared error was first at most ``error``; NaN if never."""
    times, errors = evaluated(history)
    reached = times[errors <= error]
    return float(reached[0]) if len(reached) else float("nan")


def make_table(runs: dict[str, list[Run]], seconds: float) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the table.

    Of several seeds the mean is given, or a dash where one never reached an error.
    """
    times = [round(seconds * share, 1) for share in SHARES]
    columns = ["method", "step size", "steps", "compilation (s)"]
    columns += [f"error at {t:g} s" for t in times] + [f"seconds to {e:g}" for e in ERRORS]
    rows = []
    for method, seeds in runs.items():
        histories = [run.history() for run in seeds]
        results = [run.config()["result"] for run in seeds]
        step_size = seeds[0].config().get("step_size")
        row = [
            METHODS[method],
            "searched"
            if step_size is None or method in ("ngd-l", "ncg-f", "hf")
            else f"{step_size:g}",
            f"{np.mean([r['steps'] for r in results]):.0f}",
            f"{np.mean([r['compile_seconds'] for r in results]):.0f}",
        ]
        row += [_mean([error_at(h, t * (1 + 1e-6)) for h in histories], ".2f") for t in times[:-1]]
        row += [_mean([error_at(h, float("inf")) for h in histories], ".2f")]
        row += [_mean([time_to(h, e) for h in histories], ".1f") for e in ERRORS]
        rows.append(row)
    return columns, rows


def _mean(values: Sequence[float], form: str) -> str:
    """Write a mean, or a dash where a value is missing."""
    return format(np.mean(values), form) if np.isfinite(values).all() else "-"


def write_table(folder: Path, columns: list[str], rows: list[list[str]]) -> None:
    """Write the table as CSV and as Markdown."""
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    lines = [columns, ["---"] * len(columns), *rows]
    (folder / "table.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))


def main(arguments: list[str] | None = None) -> int:
    """Make the runs that are missing, and draw and tabulate all."""
    options = parse(arguments)
    seconds = round(60 * options.minutes, 3)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"--out: cannot write to {options.out}: {error}", file=sys.stderr)
        return 1
    runs: dict[str, list[Run]] = {}
    try:
        for method in options.methods:
            step_size = tune(method, options) if method in GRID else None
            runs[method] = [
                Run(method, seed, seconds, options.out / f"{method}-{seed}", step_size)
                for seed in range(options.seeds)
            ]
            for run in runs[method]:
                make(run, options)
    except KeyboardInterrupt:
        print(
            "Interrupted. The same command continues with the runs that are missing.",
            file=sys.stderr,
        )
        return 130
    columns, rows = make_table(runs, seconds)
    try:
        write_table(options.out, columns, rows)
        histories = {
            METHODS[method]: [run.history() for run in seeds] for method, seeds in runs.items()
        }
        training_curves(histories, path=options.out / "figure3.png")
    except OSError as error:
        print(f"--out: cannot write the results to {options.out}: {error}", file=sys.stderr)
        return 1
    print((options.out / "table.md").read_text())
    print(f"Wrote figure3.png, table.csv and table.md to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
