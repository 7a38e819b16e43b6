"""Runs in processes and threads of their own: on JAX and Numba, and workers that train at once.

    python -m helpers.fault_processes MODE PATH

prints the number of each step, once the one before it is in the file, and a checksum at the end.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .fault_runs import digest_of, train
from .small_steps import regression

Outcome = tuple[str, str]


def begin(mode: str, path: Path | str) -> subprocess.Popen[str]:
    """Start a run in a process of its own; no path is no checkpoint."""
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "helpers.fault_processes", mode, str(path)],
        env=environment,
        cwd=tests,
        stdout=subprocess.PIPE,
        text=True,
    )


@cache
def unbroken(mode: str) -> str:
    """Return the checksum of a run without fault."""
    return begin(mode, "").communicate()[0].split()[-1]


def killed_on(mode: str) -> Callable[..., Outcome]:
    """Return the fault that kills a run on a backend at any moment, and continues it."""

    def killed(folder: Path, whole: Any, rng: random.Random) -> Outcome:
        path, expected = folder / "run.npz", unbroken(mode)
        first = begin(mode, path)
        assert first.stdout is not None
        first.stdout.readline()
        time.sleep(0.3 * rng.random())
        first.kill()
        steps = [int(line) for line in first.communicate()[0].split() if len(line) < 9]
        saved = max(steps, default=1) - 1
        *steps, found = begin(mode, path).communicate()[0].split()
        if steps and int(steps[0]) <= saved:
            return "lost", f"{saved} steps were saved, and the run continued with {steps[0]}"
        return ("survived", "") if found == expected else ("lost", f"other numbers: {found}")

    return killed


def digest(model: Any = None) -> str:
    """Train and return the checksum."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return digest_of(train(None, model=model)[1])


def _answer(queue: Any) -> None:
    queue.put(digest())


def workers(folder: Path, whole: dict[str, bytes], rng: random.Random) -> Outcome:
    """Build, compile and train in two workers or three threads at once."""
    kind = rng.choice(["spawn", "forkserver", "fork", "threads"])
    found: list[str] = []
    if kind == "threads":
        models = [regression() for _ in range(3)]
        threads = [threading.Thread(target=lambda m=m: found.append(digest(m))) for m in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        context: Any = multiprocessing.get_context(kind)
        queue = context.Queue()
        processes = [context.Process(target=_answer, args=(queue,)) for _ in range(2)]
        for process in processes:
            process.start()
        found = [queue.get(timeout=300) for _ in processes]
        for process in processes:
            process.join()
    if len(found) < 2 or set(found) != {digest_of(whole)}:
        return "lost", f"{kind}: {found}"
    return "survived", ""


def main(mode: str, path: str) -> None:
    """Run, slowly, so that a signal may come at any moment of a step."""
    if mode == "JAX":
        import symng

        symng.enable_jax()

    def callback(row: dict[str, float]) -> None:
        print(int(row["step"]), flush=True)
        time.sleep(0.01)

    _, state = train(Path(path) if path else None, mode=mode, callback=callback)
    print(digest_of(state), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(*sys.argv[1:])
