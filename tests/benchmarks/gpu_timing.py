"""Time and memory of gradient and CG on Curves' network, symng beside JAX by hand, for gpu.py.

The contestants are those of compare.py, each in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import compare

Rows = Iterator[tuple[str, dict[str, Any]]]
NAMES = ("symng-jax", "jax")
ITERATIONS = 20
# The first with which symng takes all iterations counts: where products are rounded to TF32, a
# metric with a small damping may look indefinite, and CG ends there.
DAMPINGS = (1.0, 10.0, 0.1, compare.DAMPING)


def compile_contestant(name: str, sizes: tuple[int, ...], examples: int, iterations: int) -> Any:
    """Return gradient and solve as a function of the damping: a solution, and iterations if any."""
    if name == "symng-jax":
        return compare.compile_symng("JAX", sizes, examples, iterations)
    cg = fixed_cg if name == "jax, fori_loop" else None
    return compare.compile_jax(sizes, examples, iterations, cg)


def fixed_cg(product: Callable[[Any], Any], b: Any, maxiter: int, tol: float) -> tuple[Any, None]:
    """Return the iterate of CG after ``maxiter`` iterations, a number that XLA knows."""
    import jax

    def iterate(_: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        x, r, p, rr = state
        q = product(p)
        alpha = rr / (p @ q)
        x, r = x + alpha * p, r - alpha * q
        new = r @ r
        return x, r, r + new / rr * p, new

    return jax.lax.fori_loop(0, maxiter, iterate, (0 * b, b, b, b @ b))[0], None


def scaled_sizes(parameters: int) -> tuple[int, ...]:
    """Return Curves' network with all widths scaled to about so many parameters."""
    count = sum((a + 1) * b for a, b in itertools.pairwise(compare.SIZES))
    scale = (parameters / count) ** 0.5
    return tuple(max(2, round(scale * size)) for size in compare.SIZES)


def count_of(sizes: tuple[int, ...]) -> int:
    """Return the number of parameters."""
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


def answer_requests() -> None:
    """Be a contestant: read a request a line, and write its answer."""
    answers, sys.stdout = sys.stdout, sys.stderr
    solve: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            start = time.perf_counter()
            if "case" in request:
                solve = None
                gc.collect()
                solve = compile_contestant(request["name"], *request["case"])
            if "damping" in request:
                answer = _run(solve, request["damping"])
            else:
                answer = {"peak": _peak()} if "peak" in request else {}
            answer["seconds"] = time.perf_counter() - start
        except Exception as error:  # told, and the next case may do better
            solve = None
            answer = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        print(json.dumps(answer), file=answers, flush=True)


def _run(solve: Any, damping: float) -> dict[str, Any]:
    """Solve, wait, and return how many iterations were taken."""
    import jax

    found = jax.block_until_ready(solve(damping))
    return {"iterations": int(found[1]) if isinstance(found, list | tuple) else ITERATIONS}


def _peak() -> int:
    """Return the largest memory so far in bytes: of the device, without one of the process."""
    import jax
    from curves_network import peak_mib

    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", peak_mib() * 2**20))


class Contestant:
    """A process that answers requests."""

    def __init__(self, name: str) -> None:
        self.name = name
        command = [sys.executable, "-W", "ignore", __file__]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to a request."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": "the process has ended"}

    def prepare(self, sizes: tuple[int, ...], examples: int, damping: float) -> dict[str, Any]:
        """Compile a case and run it once."""
        case = [list(sizes), examples, ITERATIONS]
        return self.ask(name=self.name, case=case, damping=damping)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def iteration(options: argparse.Namespace) -> Rows:
    """Time an iteration against examples and against parameters."""
    examples = (200,) if options.small else (1000, 5000, 50_000)
    parameters = (10**5,) if options.small else (10**5, 10**7, 10**8)
    running = [Contestant(name) for name in NAMES]
    for count in examples:
        yield "examples", {"examples": count, **_time(running, compare.SIZES, count, options)}
    for target in parameters:
        sizes, few = scaled_sizes(target), 200 if options.small else 1000
        yield (
            "parameters",
            {"parameters": count_of(sizes), **_time(running, sizes, few, options)},
        )
    for contestant in running:
        contestant.close()


def _time(
    running: list[Contestant], sizes: tuple[int, ...], examples: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Return median seconds of an iteration, the contestants in turns."""
    with ThreadPoolExecutor(len(running)) as pool:  # they compile at the same time
        prepared = pool.map(lambda c: c.prepare(sizes, examples, DAMPINGS[0]), running)
    first = dict(zip([c.name for c in running], prepared, strict=True))
    running = [c for c in running if "error" not in first[c.name]]
    damping = DAMPINGS[0]
    for damping in DAMPINGS:
        if all(c.ask(damping=damping).get("iterations") == ITERATIONS for c in running):
            break
    seconds: dict[str, list[float]] = {c.name: [] for c in running}
    taken: dict[str, int] = {}
    turns = 2 if options.small else 9
    for turn in range(turns + 1):
        for contestant in running[:: (-1) ** turn]:
            answer = contestant.ask(damping=damping)
            if "error" in answer:
                first[contestant.name] = answer
            elif turn:  # the first one warms up
                taken[contestant.name] = answer["iterations"]
                # One that ended early is told, and its time is that of those it took.
                seconds[contestant.name].append(answer["seconds"] / max(answer["iterations"], 1))
    medians = {name: statistics.median(values) for name, values in seconds.items() if values}
    row: dict[str, Any] = {name: medians.get(name, first[name].get("error", "-")) for name in first}
    if len(medians) == len(NAMES):
        row["ratio"] = medians[NAMES[0]] / medians[NAMES[1]]
    spread = [max(v) / min(v) for v in seconds.values() if v]
    return row | {
        "largest of slowest / fastest turn": max(spread, default=float("nan")),
        "turns": turns,
        "damping": damping,
        "iterations": str(sorted(set(taken.values()))).strip("[]"),
        "seconds to the first": ", ".join(f"{v.get('seconds', 0):.1f}" for v in first.values()),
    }


def memory(options: argparse.Namespace) -> Rows:
    """Tell the largest memory, each in a process of its own; they run at once."""
    parameters = (10**5,) if options.small else (10**7, 10**8)
    examples = 100 if options.small else 1000
    cases = list(itertools.product(parameters, NAMES))
    with ThreadPoolExecutor(1 if options.small else len(cases)) as pool:
        yield from pool.map(lambda case: ("memory", _memory(*case, examples)), cases)


def _memory(parameters: int, name: str, examples: int) -> dict[str, Any]:
    """Return the row of a case."""
    sizes = scaled_sizes(parameters)
    contestant = Contestant(name)
    before = contestant.ask(peak=True)
    answer = contestant.prepare(sizes, examples, DAMPINGS[0])
    if "error" not in answer:
        contestant.ask(damping=DAMPINGS[0])
        answer = contestant.ask(peak=True)
    contestant.close()
    vector = 4 * count_of(sizes)
    row: dict[str, Any] = {
        "parameters": count_of(sizes),
        "examples": examples,
        "contestant": name,
        "parameter vector, MB": vector / 1e6,
        "all layers of the examples, MB": 4 * examples * sum(sizes) / 1e6,
    }
    if "error" in answer:
        return row | {"peak, MB": answer["error"]}
    return row | {
        "peak, MB": answer["peak"] / 1e6,
        "before, MB": before.get("peak", 0) / 1e6,
        "peak, vectors": answer["peak"] / vector,
    }


def loop(options: argparse.Namespace) -> Rows:
    """Tell whether calls return before they are done, and what an iteration more costs.

    A call that moves an array between host and device by itself is refused by JAX's transfer guard.
    XLA may wait in a call all the same, to read on the host whether a loop goes on; it has no need
    to where it knows the number of iterations, as with fori_loop.
    """
    import jax

    sizes, examples = compare.SIZES, 100 if options.small else 1000
    turns = 3 if options.small else 15
    done: dict[tuple[str, int], float] = {}
    for name in (*NAMES, "jax, fori_loop"):
        for count in (ITERATIONS, 2 * ITERATIONS):
            solve = compile_contestant(name, sizes, examples, count)
            found = jax.block_until_ready(solve(DAMPINGS[0]))
            taken = int(found[1]) if isinstance(found, list | tuple) else count
            returned, total = [], []
            for _ in range(turns):
                start = time.perf_counter()
                answer = solve(DAMPINGS[0])
                returned.append(1e3 * (time.perf_counter() - start))
                jax.block_until_ready(answer)
                total.append(1e3 * (time.perf_counter() - start))
            try:
                with jax.transfer_guard("disallow"):
                    jax.block_until_ready(solve(DAMPINGS[0]))
                moved = "none"
            except Exception as error:  # the guard's own is of XLA
                moved = str(error)[:120]
            done[name, count] = statistics.median(total)
            yield (
                "waits",
                {
                    "contestant": name,
                    "iterations": taken,
                    "call returns after, ms": statistics.median(returned),
                    "done after, ms": done[name, count],
                    "arrays moved by the call": moved,
                },
            )
        slope = (done[name, 2 * ITERATIONS] - done[name, ITERATIONS]) / ITERATIONS
        rest = done[name, ITERATIONS] - ITERATIONS * slope
        yield (
            "slopes",
            {"contestant": name, "ms of an iteration": slope, "ms of what is once": rest},
        )


if __name__ == "__main__":
    answer_requests()
