"""Run every kind of graph with every metric and backend; write the table of docs/backends.md.

    python tests/benchmarks/graphs.py
    python tests/benchmarks/graphs.py --modes JAX --uses Fisher --kinds attention "one time step"

Kinds and uses are those of tests/helpers/graphs.py. Each cell is compared with the same one in
plain Python (FAST_COMPILE). A cell that fails is run in plain PyTensor as well, without symng:
loss, gradient and a product with the Hessian. Worker processes run the cells, so that a crash or a
hang costs one cell. Results are kept in a file, from which a second call continues; --again repeats
the failed cells.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from queue import Empty, Queue
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))
PAGE = HERE.parents[2] / "docs" / "backends.md"
START, END = "<!-- table -->\n", "<!-- end of the table -->\n"
REFERENCE = "FAST_COMPILE"
MODES = ("JAX", "NUMBA", "CVM")
NAMES = {"CVM": "C", "NUMBA": "Numba", "JAX": "JAX", REFERENCE: "Python"}
PLAIN = "plain PyTensor"
# Where PyTensor's developers know of what fails: mode and kind of graph.
UPSTREAM: dict[tuple[str, str], str] = {
    ("NUMBA", "convolution in time"): "https://github.com/pymc-devs/pytensor/issues/2360",
}

Results = dict[str, dict[str, Any]]


def key_of(mode: str, kind: str, use: str) -> str:
    """Return the name of a cell in the file of results."""
    return f"{mode} | {kind} | {use}"


def work(mode: str) -> None:
    """Run the cells that come in as lines, and print what came out of each, as a worker."""
    import pytensor

    pytensor.config.mode = REFERENCE if mode != "CVM" else "CVM"
    from helpers import graphs

    warnings.simplefilter("ignore")
    for line in sys.stdin:
        kind, use = json.loads(line)
        start = time.perf_counter()
        try:
            if use == PLAIN:
                graphs.run_plain(kind, mode)
                found: dict[str, Any] = {"values": []}
            else:
                found = {"values": [float(v) for v in graphs.run(kind, use, mode)]}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"[:2000]}
        found["seconds"] = round(time.perf_counter() - start, 1)
        print("RESULT " + json.dumps(found), flush=True)


class Worker:
    """A process that runs cells in one mode, started anew after one that hangs or crashes."""

    def __init__(self, mode: str, limit: float) -> None:
        self.mode, self.limit = mode, limit
        self.process: subprocess.Popen[str] | None = None
        self.lines: Queue[str] = Queue()

    def run(self, kind: str, use: str) -> dict[str, Any]:
        """Return what came out of a cell."""
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, str(HERE), "--worker", self.mode]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self.lines = Queue()
            threading.Thread(
                target=self._read, args=(self.process, self.lines), daemon=True
            ).start()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([kind, use]) + "\n")
        self.process.stdin.flush()
        try:
            line = self.lines.get(timeout=self.limit)
        except Empty:
            self.close()
            return {"error": f"no result after {self.limit:.0f} s"}
        if line:
            found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
            return found
        self.close()
        return {"error": "the process crashed"}

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("RESULT "):
                lines.put(line)
        lines.put("")

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def verdict(results: Results, mode: str, kind: str, use: str) -> str:
    """Return the verdict on a cell.

    It is "yes", "fails" (in plain PyTensor too), "symng" (fails with symng alone), "refused" (in
    plain Python too), or "" if the cell was not run.
    """
    from helpers import graphs

    wanted, found = (results.get(key_of(m, kind, use)) for m in (REFERENCE, mode))
    if wanted is not None and "error" in wanted:
        return "refused"
    if wanted is None or found is None:
        return ""
    if (
        "values" in found
        and graphs.difference(found["values"], wanted["values"]) < graphs.TOLERANCE
    ):
        return "yes"
    return "fails" if "error" in results.get(key_of(mode, kind, PLAIN), {}) else "symng"


def table(results: Results, kinds: list[str], uses: list[str], modes: list[str]) -> str:
    """Return the table, one row for each kind of graph and one column for each mode."""
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    rows = []
    for kind in kinds:
        cells = []
        for mode in modes:
            verdicts = {
                use: v
                for use in uses
                if (v := verdict(results, mode, kind, use)) not in ("", "refused")
            }
            counts.update(verdicts.values())
            seen.update(verdicts)
            agree = sum(v == "yes" for v in verdicts.values())
            bad = [
                use if v == "fails" else f"{use} (not in plain PyTensor)"
                for use, v in verdicts.items()
                if v != "yes"
            ]
            link = f" [upstream]({UPSTREAM[mode, kind]})" if (mode, kind) in UPSTREAM else ""
            failed = f"; not {', '.join(bad)}{link}" if bad else ""
            cells.append(f"{agree} of {len(verdicts)}{failed}" if verdicts else "")
        rows.append(f"| {kind} | " + " | ".join(cells) + " |")
    failing = counts["fails"] + counts["symng"]
    count = failing + counts["yes"]
    versions = ", ".join(
        f"{p} {importlib.metadata.version(p)}" for p in ("pytensor", "jax", "numba", "numpy")
    )
    head = ["kind of graph", *(NAMES[mode] for mode in modes)]
    shown = ", ".join(use for use in uses if use in seen)
    return "\n".join(
        [
            f"{count} results in the ways {shown}; {failing} fail. "
            f"Python {sys.version.split()[0]}, {versions}.",
            "",
            f"| {' | '.join(head)} |",
            "|---" * len(head) + "|",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    parser.add_argument("--kinds", nargs="+")
    parser.add_argument("--uses", nargs="+")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a cell")
    parser.add_argument(
        "--results", type=Path, default=Path(tempfile.gettempdir()) / "symng_graphs.json"
    )
    parser.add_argument("--again", action="store_true", help="run failed cells anew")
    parser.add_argument(
        "--write", action="store_true", help="write the table into docs/backends.md"
    )
    options = parser.parse_args()
    if options.worker:
        return work(options.worker)
    from helpers import graphs

    kinds, uses = options.kinds or list(graphs.KINDS), options.uses or list(graphs.USES)
    results: Results = json.loads(options.results.read_text()) if options.results.exists() else {}
    modes = (REFERENCE, *options.modes)
    # Plain PyTensor has a process without what symng adds to a backend.
    workers = {
        (mode, plain): Worker(mode, options.limit) for mode in modes for plain in (False, True)
    }

    def cell(mode: str, kind: str, use: str) -> dict[str, Any]:
        key = key_of(mode, kind, use)
        if key not in results or (options.again and "error" in results[key]):
            results[key] = workers[mode, use == PLAIN].run(kind, use)
            partial = options.results.with_suffix(".part")
            partial.write_text(json.dumps(results, indent=0))
            partial.replace(options.results)
            print(f"{key}: {results[key].get('error', 'ran').splitlines()[0]}", flush=True)
        return results[key]

    for mode in options.modes:
        for use in uses:
            for kind in kinds:
                if "error" in cell(REFERENCE, kind, use):
                    continue
                cell(mode, kind, use)
                if verdict(results, mode, kind, use) != "yes":
                    cell(mode, kind, PLAIN)
    for worker in workers.values():
        worker.close()
    shown = table(results, kinds, uses, options.modes)
    print(shown)
    if options.write:
        before, rest = PAGE.read_text().split(START)
        PAGE.write_text(before + START + shown + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
