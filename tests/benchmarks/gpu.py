"""Measure symng on a GPU in one command of at most eight minutes, without a network.

    python tests/benchmarks/gpu.py                    # with JAX that sees a GPU
    python tests/benchmarks/gpu.py --small            # a rehearsal of a minute or two, on a CPU
    python tests/benchmarks/gpu.py --mnist 8 --data mnist.npz  # eight minutes of MNIST alone

Each part is a process of its own with a limit of time. Its tables are written to gpu.md and
gpu.json in --out row by row, so that a run that is cut short leaves what it has. A part that fails
is told with its last words, and the next one starts; all that it said is in its log. Parts:

    device       device, versions, what a float32 product of matrices is worth
    numbers      products with metrics, and solves, beside dense NumPy in float64
    iteration    seconds of an iteration of CG, symng on JAX beside JAX by hand
    curves       squared error on Curves against the clock, beside Adam of optax
    memory       the largest memory of gradient and solve
    loop         whether the loop of a solve waits for the host
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

# Module, and the seconds that a part may take.
PARTS = {
    "device": ("gpu_numbers", 50),
    "numbers": ("gpu_numbers", 90),
    "iteration": ("gpu_timing", 150),
    "curves": ("gpu_training", 190),
    "memory": ("gpu_timing", 70),
    "loop": ("gpu_timing", 60),
}
BUDGET = 450.0  # seconds of all parts
SHORTEST = 15.0  # a part that has less left is not started
TITLES = {
    "products": "Products with metrics: largest relative error of ten products",
    "solvers": "Solves: relative error of the solution",
    "examples": "Seconds of an iteration against examples, 842,340 parameters",
    "parameters": "Seconds of an iteration against parameters, 1,000 examples",
    "waits": "A solve of 20 and of 40 iterations",
    "slopes": "Milliseconds of an iteration, from the two",
}


class Report:
    """Tables of rows, written to two files whenever one has grown."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self.parts: dict[str, dict[str, Any]] = {}
        self.command = " ".join(["python", *command])
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, part: str, table: str, row: dict[str, Any]) -> None:
        """Add a row, and write."""
        self.parts[part]["tables"].setdefault(table, []).append(row)
        print(f"{table}: {', '.join(f'{k} {_cell(v)}' for k, v in row.items())}", flush=True)
        self.write()

    def tell(self, part: str, status: str, seconds: float = 0.0) -> None:
        """Say how a part stands, and write."""
        found = self.parts.setdefault(part, {"tables": {}})
        found |= {"status": status, "seconds": round(seconds, 1)}
        print(f"== {part}: {status}, {seconds:.0f} s", flush=True)
        self.write()

    def write(self) -> None:
        """Write both files; each is whole at any time."""
        told = {"command": self.command, "parts": self.parts}
        for name, text in (
            ("gpu.json", json.dumps(told, indent=2) + "\n"),
            ("gpu.md", self.markdown()),
        ):
            draft = self.folder / f"{name}.part"
            draft.write_text(text)
            draft.replace(self.folder / name)

    def markdown(self) -> str:
        """Return all tables."""
        lines = [f"`{self.command}`", ""]
        for part, found in self.parts.items():
            lines += [f"## {part}: {found['status']}, {found['seconds']:.0f} s", ""]
            for name, rows in found["tables"].items():
                columns = list(dict.fromkeys(key for row in rows for key in row))
                lines += [f"### {TITLES.get(name, name)}", ""]
                lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
                lines += [
                    f"| {' | '.join(_cell(row.get(c, '')) for c in columns)} |" for row in rows
                ]
                lines.append("")
        return "\n".join(lines)


def _cell(value: Any) -> str:
    """Return a value as the cell of a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return " ".join(str(value).replace("|", "/").split())


def run_part(part: str, limit: float, report: Report, options: list[str]) -> None:
    """Run a part in a process, put its rows into the report, and end it when its time is up."""
    start = time.perf_counter()
    report.tell(part, "running")
    path = report.folder / f"{part}.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--serve", part, *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # so that what it starts ends with it
        )
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            for line in process.stdout:
                report.add(part, **json.loads(line))
            code = process.wait()
        finally:
            timer.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    words = path.read_text().strip().splitlines()
    status = "done"
    if late.is_set():
        status = f"cut off after {limit:.0f} s"
    elif code:
        status = f"FAILED: {words[-1][:300] if words else f'exit status {code}'}"
    report.tell(part, status, time.perf_counter() - start)


def serve(part: str, options: argparse.Namespace) -> None:
    """Be a part: print a line for each row."""
    answers = sys.stdout
    module = "gpu_training" if part == "mnist" else PARTS[part][0]
    with contextlib.redirect_stdout(sys.stderr):
        if part == options.fail:
            raise RuntimeError("asked to fail")
        for table, row in getattr(importlib.import_module(module), part)(options):
            print(json.dumps({"table": table, "row": row}), file=answers, flush=True)


def main() -> None:
    """Be a part, or run them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--small", action="store_true", help="a rehearsal, with all cut down")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of all parts")
    parser.add_argument(
        "--mnist",
        type=float,
        metavar="MINUTES",
        help="train the autoencoder 784-1000-500-250-30 of MNIST for so long, and nothing else",
    )
    parser.add_argument(
        "--data", type=Path, help="npz file of MNIST with x_train or train_x, for --mnist"
    )
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--fail", help="a part that fails, to see what becomes of the others")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options)
    if options.mnist is not None and (options.data is None or not options.data.is_file()):
        parser.error(f"--mnist: expected the file of MNIST in --data, got {options.data}")
    # Of all processes: else the first would take most of the memory, and measure nothing by it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    report = Report(options.out, sys.argv)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        # The memory of a program that is compiled again would be that of XLA trying its kernels.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        limits = {part: PARTS[part][1] for part in options.parts}
        if options.mnist is not None:
            limits, options.budget = {"mnist": 60 * options.mnist + 90}, float("inf")
        if options.small:  # a slow machine, perhaps
            limits, options.budget = {part: 300 for part in limits}, 900
        for part, limit in limits.items():
            left = options.budget - (time.perf_counter() - start)
            if left < SHORTEST:
                report.tell(part, "left out: no time left")
            else:
                run_part(part, min(limit, left), report, sys.argv[1:])
    print(f"Wrote {options.out}/gpu.md and gpu.json")


if __name__ == "__main__":
    main()
