"""Compare the steps a second on data in memory, in memory-mapped files and from a stream.

    python tests/benchmarks/streams.py --gigabytes 10 --folder /tmp

The task is a network of 784-100-10 units on made-up images in float32, by natural gradient with
five iterations of CG a step. Each way to hold the data runs in processes of its own, in turn, so
that what else the machine does meets all of them. The run on files may allocate ``--limit``
gigabytes (of private memory, which mapped files are not part of); the run in memory holds as many
images as fit into half of that. "stream" is a generator that cuts batches from the array in
memory. Prints a table in Markdown: medians of the milliseconds of a step, steps a second relative
to those in memory, and the largest private memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

WIDTH, CLASSES = 784, 10
BYTES = 4 * WIDTH
KINDS = ("memory", "files", "files, not cached", "stream")


def write_files(folder: Path, gigabytes: float) -> None:
    """Write images and labels, a block at a time."""
    rng = np.random.default_rng(0)
    count = int(gigabytes * 1e9 / BYTES)
    block = rng.standard_normal((10_000, WIDTH), dtype=np.float32)
    images = np.lib.format.open_memmap(
        folder / "X.npy", mode="w+", dtype=np.float32, shape=(count, WIDTH)
    )
    for i in range(0, count, len(block)):
        images[i : i + len(block)] = block[: count - i] * (1 + i / count)
    images.flush()
    np.save(folder / "T.npy", np.eye(CLASSES, dtype=np.float32)[rng.integers(CLASSES, size=count)])


def private_memory() -> int:
    """Return the resident memory of this process that is not that of files, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no RssAnon: this needs Linux")


def train(kind: str, folder: Path, batch: int, steps: int, limit: float) -> None:
    """Train on one kind of data, and print seconds a step and private memory as JSON."""
    import pytensor
    import pytensor.tensor as pt

    import symng
    from symng.models import glorot_init

    if kind.startswith("files"):
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 1e9), -1))
    X, T = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in "XT")
    count = min(int(limit * 1e9 / 2 / BYTES), len(X))
    if not kind.startswith("files"):
        X, T = np.array(X[:count]), np.array(T[:count])

    x, t = pt.fmatrix("x"), pt.fmatrix("t")
    shapes = [(WIDTH, 100), (100, CLASSES)]
    rng = np.random.default_rng(0)
    weights = [
        pytensor.shared(glorot_init(rng, *shape, dtype="float32"), name=f"W{i}")
        for i, shape in enumerate(shapes)
    ]
    biases = [pytensor.shared(np.zeros(n, "float32"), name=f"b{n}") for n in (100, CLASSES)]
    h = pt.tanh(x @ weights[0] + biases[0])
    y = pt.special.softmax(h @ weights[1] + biases[1], axis=-1)
    loss = -(t * pt.log(y)).sum(axis=1).mean()
    objective = symng.Objective(loss, y, [*weights, *biases], [x], [t])
    optimizer = symng.NaturalGradient(solver=symng.CG(maxiter=5), damping=1.0, step_size=0.1)

    def stream(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng(epoch).permutation(len(X))
        for i in range(0, len(X) - batch + 1, batch):
            chosen = order[i : i + batch]
            yield X[chosen], T[chosen]

    largest, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not ended.wait(0.02):
            largest = max(largest, private_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    result = symng.minimize(
        objective,
        optimizer,
        stream if kind == "stream" else (X, T),
        batch_size=None if kind == "stream" else batch,
        max_steps=steps,
        progress=False,
    )
    ended.set()
    watcher.join()
    seconds = np.diff(result.history["seconds"])
    # All of the time, with what a step waits for now and then.
    print(json.dumps({"seconds": float(seconds.mean()), "bytes": largest}))


def forget(folder: Path) -> None:
    """Ask the system to drop the files from its cache."""
    import os

    for path in folder.glob("*.npy"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(folder: Path) -> None:
    """Read the files once, so that as much of them as fits is in the system's cache."""
    for path in folder.glob("*.npy"):
        with path.open("rb") as file:
            while file.read(2**24):
                pass


def main() -> None:
    """Parse the command line, run the processes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=10.0, help="size of the images")
    parser.add_argument("--limit", type=float, default=1.0, help="memory of a run on files, in GB")
    parser.add_argument("--folder", type=Path, help="where the files are written; default: /tmp")
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        train(options.kind, options.folder, options.batch, options.steps, options.limit)
        return

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        start = time.perf_counter()
        write_files(folder, options.gigabytes)
        print(f"wrote {options.gigabytes} GB in {time.perf_counter() - start:.0f} s", flush=True)
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(options.repeats):
            for kind in KINDS:
                forget(folder) if kind.endswith("not cached") else read(folder)
                command = [sys.executable, __file__, "--kind", kind, "--folder", name]
                for setting in ("batch", "steps", "limit"):
                    command += [f"--{setting}", str(getattr(options, setting))]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{kind}: {done.stderr.strip()[-2000:]}")
                found[kind].append(json.loads(done.stdout.splitlines()[-1]))

    print("\n| data | milliseconds a step | steps a second, of those in memory | private memory |")
    print("|---|---|---|---|")
    for kind, runs in found.items():
        own = statistics.median(run["seconds"] for run in runs)
        ratio = statistics.median(
            first["seconds"] / run["seconds"]
            for first, run in zip(found["memory"], runs, strict=True)
        )
        memory = max(run["bytes"] for run in runs) / 1e9
        print(f"| {kind} | {own * 1e3:.1f} | {ratio:.2f} | {memory:.2f} GB |", flush=True)


if __name__ == "__main__":
    main()
