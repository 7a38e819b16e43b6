"""Measure how much a model depends on parts of its training stream: Figure 2 of the paper.

    python examples/figure2/figure2.py                   # small preset, half an hour on two cores
    python examples/figure2/figure2.py --seeds 3         # several seeds, one after the other
    python examples/figure2/figure2.py --preset paper    # 32.7 million examples: days

This is Algorithm 1 of the paper. A network is trained on a stream of deformed digits in order, each
example once, by gradient descent and by natural gradient. The first half of the stream has ten
segments. Each is replaced five times by fresh examples, the network is trained from scratch, and
the variance of its outputs among the five is taken on held-out examples. The step sizes are chosen
so that both methods reach about the same validation error. A complete run is not made again: after
an interruption the same command continues with what is missing. Leaves in --out: figure2.png,
table.md, results.json, and a folder for each seed with data, runs, settings.json and choice.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

# Before NumPy starts its threads: one for each process. NPROC is JAX's name for that.
if __name__ == "__main__":
    for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
        os.environ.setdefault(_name, "1")

# The command line's helpers are shared by all examples.
sys.path.append(str(Path(__file__).parents[1]))

import numpy as np
import pytensor
from command_line import add_mode, in_terms_of, nonnegative, positive, seed, whole
from results import SAMPLES, draw, log_variances, make_table, summarize
from runs import (
    METHODS,
    PIXELS,
    FolderError,
    Part,
    Run,
    Settings,
    base_digits,
    fingerprint,
    refuse_others,
)
from workers import Workers

import symng
import symng.plot  # says what to install if matplotlib is missing

# Samples, and the step sizes of SGD and NGD; None: chosen.
PRESETS: dict[str, dict[str, Any]] = {
    "small": dict(samples=102_400, step_sizes=None),
    "paper": dict(samples=SAMPLES, step_sizes=[0.1, 0.2]),
}
# Step sizes to begin with; a grid whose best value is at an end is extended.
GRID = {"sgd": (0.25, 0.5, 1.0, 2.0), "ngd": (1.0, 2.0, 4.0, 8.0)}
# Rounds of extension and of interpolation at most, and how near an error has to come to the aim.
ROUNDS, TOLERANCE = 6, 0.0025
# Runs whose mean error counts: gradient descent is cheap, and at its best step size its runs differ
# more.
TUNED_ON = {"sgd": 10, "ngd": 2}

Errors = dict[str, dict[float, float]]


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="small")
    parser.add_argument(
        "--samples", type=whole, help="training examples of a run, the paper's 32.7 million scaled"
    )
    parser.add_argument(
        "--segments", type=whole, default=10, help="segments of the first half of them"
    )
    parser.add_argument(
        "--replicas", type=whole, default=5, help="times that a segment is replaced, at least 2"
    )
    parser.add_argument("--hidden", type=whole, default=500, help="hidden units")
    parser.add_argument(
        "--batch", type=whole, default=512, help="examples in a batch, for gradient and metric"
    )
    parser.add_argument(
        "--damping", type=nonnegative, default=3.0, help="damping of natural gradient"
    )
    parser.add_argument(
        "--iterations", type=whole, default=50, help="iterations of MinRes-QLP at most"
    )
    parser.add_argument(
        "--step-sizes",
        type=positive,
        nargs=2,
        metavar=("SGD", "NGD"),
        help="step sizes, which are then not chosen",
    )
    parser.add_argument(
        "--aim",
        type=positive,
        help="validation error, as in 0.5, that step sizes are chosen for; "
        "default the best that both methods reach",
    )
    parser.add_argument("--held-out", type=whole, default=10_000, help="held-out examples")
    parser.add_argument(
        "--validation", type=whole, default=10_000, help="examples for the validation error"
    )
    parser.add_argument(
        "--digits", type=Path, help="a copy of mnist.npz; without it, symng.datasets.digits looks"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of data and first weights")
    parser.add_argument("--seeds", type=whole, default=1, help="number of seeds, from --seed on")
    parser.add_argument(
        "--jobs", type=whole, default=_cores(), help="processes, one thread each; default all cores"
    )
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/figure2"), help="folder of the results"
    )
    return parser


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    # Other numbers of examples need other step sizes.
    preset = PRESETS[options.preset] | (dict(step_sizes=None) if options.samples else {})
    for name, value in preset.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.replicas < 2:
        parser.error(
            f"--replicas: expected at least 2, which a variance needs, got {options.replicas}"
        )
    if options.samples % (2 * options.segments):
        fewer = options.samples // (2 * options.segments) * 2 * options.segments
        parser.error(
            f"--samples: expected a multiple of {2 * options.segments}, twice the segments, got "
            f"{options.samples}; {fewer or 2 * options.segments} is one"
        )
    if options.samples < options.batch:
        parser.error(
            f"--samples: expected at least one batch of {options.batch}, got {options.samples}"
        )
    if options.aim is not None and (options.step_sizes or options.aim >= 1):
        parser.error("--aim: expected a number below 1, and none with step sizes that are given")
    if options.seed > 2**32 - options.seeds:
        parser.error(f"--seed: expected at most {2**32 - options.seeds}, got {options.seed}")
    return options


def settings_of(options: argparse.Namespace) -> Settings:
    """Return what the results of the first seed depend on."""
    source = None if options.digits is None else str(options.digits)
    return Settings(
        samples=options.samples,
        segments=options.segments,
        hidden=options.hidden,
        batch=options.batch,
        damping=options.damping,
        iterations=options.iterations,
        rtol=1e-4,
        held_out=options.held_out,
        validation=options.validation,
        seed=options.seed,
        digits=fingerprint(source),
        mode=str(options.mode or pytensor.config.mode).upper(),
    )


# The choice of the step sizes


def choose(
    measure: Callable[[list[tuple[str, float]]], list[float]], aim: float | None = None
) -> tuple[dict[str, float], Errors, float]:
    """Return step sizes with about the same validation error, all errors, and the one aimed at.

    Parameters
    ----------
    measure : callable
        From (method, step size) pairs to validation errors.
    aim : float, optional
        The error aimed at; by default the best of the method whose best is worse. A method that is
        better at its best step size gets a smaller one, which moves it less far, found by
        interpolation.
    """
    errors: Errors = {method: {} for method in GRID}

    def try_sizes(pairs: list[tuple[str, float]]) -> None:
        for (method, size), error in zip(pairs, measure(pairs), strict=True):
            errors[method][size] = error

    def best(method: str) -> float:
        return min(errors[method], key=lambda size: errors[method][size])

    def closest(method: str, aim: float) -> float:
        seen = errors[method]
        return min(
            (size for size in seen if size <= best(method)), key=lambda size: abs(seen[size] - aim)
        )

    try_sizes([(method, size) for method in GRID for size in GRID[method]])
    for _ in range(ROUNDS):
        ends = {
            method: {min(errors[method]): 0.5, max(errors[method]): 2.0}.get(best(method))
            for method in GRID
        }
        if not any(ends.values()):
            break
        try_sizes([(method, best(method) * factor) for method, factor in ends.items() if factor])
    aim = max(min(errors[method].values()) for method in GRID) if aim is None else aim
    for _ in range(ROUNDS):
        more = []
        for method, seen in errors.items():
            low = max(
                (size for size in seen if size < best(method) and seen[size] > aim), default=0.0
            )
            high = min(size for size in seen if size > low)
            middle = high / 2
            if low:  # interpolate linearly over the logarithm of the step size
                share = (seen[low] - aim) / (seen[low] - seen[high])
                middle = float(f"{low * (high / low) ** share:.3g}")
            if (
                seen[best(method)] < aim
                and abs(seen[closest(method, aim)] - aim) > TOLERANCE
                and middle not in seen
            ):
                more.append((method, middle))
        if not more:
            break
        try_sizes(more)
    return {method: closest(method, aim) for method in METHODS}, errors, aim


# The protocol


class Experiment:
    """Algorithm 1 for one seed, in one folder."""

    def __init__(
        self, settings: Settings, options: argparse.Namespace, folder: Path, workers: Workers
    ) -> None:
        self.settings, self.replicas = settings, options.replicas
        self.folder, self.workers = folder, workers
        self.source = None if options.digits is None else str(options.digits)
        for subfolder in (folder / "data", folder / "runs"):
            subfolder.mkdir(parents=True, exist_ok=True)
        path = folder / "settings.json"
        if path.exists():
            try:
                found = json.loads(path.read_text())
                if not isinstance(found, dict):
                    raise ValueError("expected settings by their names")
            except ValueError as error:
                raise FolderError(
                    f"--out: {path} is damaged ({error}). Give another folder, or delete this one."
                ) from None
            refuse_others(path, found, asdict(settings))
        write(path, json.dumps(asdict(settings), indent=2))

    def make(self, title: str, runs: Sequence[Run]) -> list[tuple[np.ndarray, dict[str, Any]]]:
        """Make the missing runs and the data that they need; return outputs and notes of all."""
        missing = [run for run in runs if run.load(self.settings, self.folder) is None]
        parts = sorted(
            {part for run in missing for part in run.parts(self.settings)},
            key=lambda p: (p.segment, p.replica),
        )
        parts = [part for part in parts if not part.path(self.folder).exists()]
        for run in missing:
            run.path(self.folder).parent.mkdir(exist_ok=True)
        check_space(self.folder, sum(part.size(self.settings) for part in parts))
        for what, tasks in ((f"data for {title}", sorted(parts)), (title, missing)):
            self.workers.make(what, tasks, self.settings, self.folder, self.source)
        made = [run.load(self.settings, self.folder) for run in runs]
        if any(m is None for m in made):
            raise RuntimeError(
                f"Files of {self.folder} that were just written are damaged or missing."
            )
        return [m for m in made if m is not None]

    def examples_to_make(self) -> int:
        """Return how many examples have to be made, if the folder has no runs yet."""
        if any((self.folder / "runs").glob("*/*.npz")):
            return 0  # `make` checks the space for what is missing
        segments = range(1, self.settings.segments + 1)
        parts = {Part(i, r) for i in segments for r in range(1, self.replicas + 1)}
        parts.update(Run("sgd", 1.0, 0, 0).parts(self.settings))
        return sum(
            part.size(self.settings) for part in parts if not part.path(self.folder).exists()
        )

    def choose(self, aim: float | None) -> dict[str, float]:
        """Return step sizes that reach about the same validation error, and record the choice."""

        def measure(pairs: list[tuple[str, float]]) -> list[float]:
            last, runs = self.settings.segments, []
            for method, size in pairs:  # the first replicas of segments from the first to the last
                segments = np.linspace(1, last, min(TUNED_ON[method], last)).round().astype(int)
                runs.append([Run(method, size, int(i), 1) for i in segments])
            made = iter(self.make("step sizes", [run for same in runs for run in same]))
            errors = [
                float(np.mean([next(made)[1]["validation_error"] for _ in same])) for same in runs
            ]
            for (method, size), error in zip(pairs, errors, strict=True):
                print(
                    f"Validation error of {METHODS[method]} with step size {size:g}: {error:.2%}",
                    flush=True,
                )
            return errors

        sizes, errors, aim = choose(measure, aim)
        for method, size in sizes.items():
            if abs(errors[method][size] - aim) > TOLERANCE:
                print(
                    f"No step size of {METHODS[method]} was found with a validation error within "
                    f"{TOLERANCE:.2%} of {aim:.2%}; with {size:g} it is "
                    f"{errors[method][size]:.2%}.",
                    flush=True,
                )
        record = {
            "step_sizes": sizes,
            "validation_error_aimed_at": aim,
            "validation_errors_of_step_sizes": errors,
        }
        self.record_choice(record)
        return sizes

    def record_choice(self, record: dict[str, Any]) -> None:
        """Write which step sizes are taken, and why."""
        write(self.folder / "choice.json", json.dumps(record, indent=2))

    def carry_out(self, sizes: dict[str, float]) -> dict[str, Any]:
        """Make all runs, and return the logarithms of their variances and their notes."""
        numbers = range(1, self.settings.segments + 1), range(1, self.replicas + 1)
        runs = [
            Run(method, sizes[method], i, r)
            for method in ("ngd", "sgd")
            for i in numbers[0]
            for r in numbers[1]
        ]
        made = dict(zip(runs, self.make("runs", runs), strict=True))
        return {
            method: {
                "step_size": sizes[method],
                "notes": [meta for run, (_, meta) in made.items() if run.method == method],
                "logs": np.array(
                    [
                        log_variances(
                            np.stack(
                                [made[Run(method, sizes[method], i, r)][0] for r in numbers[1]]
                            )
                        )
                        for i in numbers[0]
                    ]
                ),
            }
            for method in METHODS
        }


def check_space(folder: Path, examples: int) -> None:
    """Refuse to make more data than the disk has room for."""
    needed, free = examples * (PIXELS + 1), shutil.disk_usage(folder).free
    if needed > free:
        raise FolderError(
            f"--out: expected {needed / 1e9:.1f} GB of free space in {folder}, got "
            f"{free / 1e9:.1f}."
        )


def write(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text + "\n")
    temporary.replace(path)


def carry_out(options: argparse.Namespace, settings: Settings) -> list[dict[str, Any]]:
    """Return the results of all seeds, whose runs are made where they are missing."""
    results = []
    with Workers(options.jobs) as workers:
        experiments = []
        for number in range(options.seed, options.seed + options.seeds):
            folder = options.out / f"seed-{number}"
            own = replace(settings, seed=number)
            experiments.append(Experiment(own, options, folder, workers))
        check_space(options.out, sum(experiment.examples_to_make() for experiment in experiments))
        for experiment in experiments:
            if options.step_sizes:
                sizes = dict(zip(METHODS, options.step_sizes, strict=True))
                experiment.record_choice({"step_sizes": sizes, "given": True})
            else:
                sizes = experiment.choose(options.aim)
            results.append(experiment.carry_out(sizes))
    return results


def main(arguments: list[str] | None = None) -> int:
    """Make the runs that are missing, and draw and tabulate all."""
    options = parse(arguments)
    try:
        symng.resolve_mode(options.mode)
        settings = settings_of(options)
    except (ValueError, TypeError, ImportError, OSError) as error:
        # symng.datasets.digits names its own argument.
        print(in_terms_of("--digits", error), file=sys.stderr)
        return 2
    parts = options.samples // (2 * options.segments) * options.segments * (2 + options.replicas)
    print(base_digits(None if options.digits is None else str(options.digits)))
    print(
        f"{options.segments} segments, each replaced {options.replicas} times: "
        f"{2 * options.segments * options.replicas} runs of {options.samples:,} examples a seed on "
        f"{options.jobs} processes; data of {parts * (PIXELS + 1) / 1e9:.2g} GB a seed in "
        f"{options.out}"
    )
    try:
        summary = summarize(carry_out(options, settings))
        table = make_table(summary, options.jobs)
        write(
            options.out / "results.json",
            json.dumps({"settings": asdict(settings)} | summary, indent=2),
        )
        write(options.out / "table.md", table)
        draw(summary, options.out / "figure2.png")
    except KeyboardInterrupt:
        print("Interrupted. The same command continues with what is missing.", file=sys.stderr)
        return 130
    except (FolderError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"--out: cannot write to {options.out}: {error}", file=sys.stderr)
        return 1
    print(f"\n{table}\nWrote figure2.png, table.md and results.json to {options.out}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # on SIGTERM it ends as after Ctrl-C
    sys.exit(main())
