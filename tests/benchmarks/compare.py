"""Time symng beside its alternatives: gradient and K iterations of CG on (F + damping I), float32.

    python tests/benchmarks/compare.py    # everything: from half an hour to an hour on two cores
    python tests/benchmarks/compare.py --parts examples --contestants floor symng-jax jax

The network is the Curves autoencoder. Each contestant is a process of its own; they run in turns,
one at a time. The results are medians of seconds per iteration, and their ratios to the floor.
Contestants:

    floor        the matrix products of one product with F alone, by NumPy's BLAS
    symng-c, symng-numba, symng-jax
    jax          jax.linearize and jax.vjp inside of jax.scipy.sparse.linalg.cg, in one jit
    torch        torch.func.linearize and vjp, kept for all products
    curvlinops   the GGNLinearOperator of curvlinops-for-pytorch

Parts: examples, parameters (10^4 to 10^7), iterations (5 to 40), start (the first result in a fresh
process, with an empty cache and with the one it left). Leaves in --out: compare.json, compare.md
and compare.png.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (784, 400, 200, 100, 50, 25, 6, 25, 50, 100, 200, 400, 784)
# Layers without an activation: the code, and the last, whose sigmoid is in the loss.
LINEAR = (
    5,
    len(SIZES) - 2,
)
SCALES = (0.105, 0.34, 1.0, 3.47)  # of all widths: 10^4 to 10^7 parameters
# So small that no solve is done after 40 iterations: symng would end it there, and the others go
# on.
DAMPING = 1e-4
# What symng.keep_memory sets, for all contestants alike, unless KEEP=0 is in the environment.
KEPT = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**31 - 1))
PAUSE = 0.3  # seconds before each run: the threads of OpenBLAS go on spinning after the one before
PARTS = ("examples", "parameters", "iterations", "start")

Run = Callable[[], Any]


def make_arrays(sizes: tuple[int, ...], examples: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return weights and biases in turn, and images."""
    from symng.models import sparse_init

    rng = np.random.default_rng(0)
    params = []
    for rows, columns in itertools.pairwise(sizes):
        if rows * columns > 2**22:  # sparse_init sorts them, for seconds
            weights = rng.standard_normal((rows, columns), "float32") / np.sqrt(rows / 15)
        else:
            weights = sparse_init(rng, rows, columns, "float32")
        params += [weights.astype("float32"), np.zeros(columns, "float32")]
    return params, rng.random((examples, sizes[0]), "float32")


def make_floor(sizes: tuple[int, ...], examples: int, iterations: int) -> Run:
    """Return the bare products."""
    from curves_network import make_bare_products

    run = make_bare_products(examples, sizes)
    return lambda: [run() for _ in range(iterations)]


def compile_symng(
    mode: str, sizes: tuple[int, ...], examples: int, iterations: int
) -> Callable[[float], Any]:
    """Return gradient and solve in one function of the damping; it returns x and iterations."""
    import pytensor
    import pytensor.tensor as pt

    import symng
    from symng.backends import backend_of, compile_function
    from symng.objective.batches import as_batch
    from symng.optimizers._step import loss_and_gradient

    arrays, images = make_arrays(sizes, examples)
    params = [pytensor.shared(a, name=f"p{i}") for i, a in enumerate(arrays)]
    x, damping = pt.matrix("x", dtype="float32"), pt.scalar("damping", dtype="float32")
    h = x
    for i in range(len(sizes) - 1):
        r = pt.dot(h, params[2 * i]) + params[2 * i + 1]
        h = r if i in LINEAR else pt.sigmoid(r)
    loss = symng.models.binary_cross_entropy_with_logits(r, x).mean()
    objective = symng.Objective(loss, output=pt.sigmoid(r), params=params, inputs=[x])
    gradient = loss_and_gradient(as_batch(objective))[1]
    solver = symng.CG(rtol=0.0, maxiter=iterations, recompute=False)
    solution = solver.solve(symng.Fisher()(objective), gradient, damping=damping)
    function = compile_function([x, damping], [solution.x, solution.niter], mode=mode)
    function.trust_input = True
    backend = backend_of(mode)
    # On the device, where a step leaves them: arrays of NumPy would be sent there by every call.
    for param, value in zip(params, backend.device_put(arrays), strict=True):
        param.container.storage[0] = value
    (batch,) = backend.device_put([images])
    return lambda value: function(batch, *backend.device_put([np.asarray(value, "float32")]))


def make_symng(mode: str, sizes: tuple[int, ...], examples: int, iterations: int) -> Run:
    """Return gradient and solve as one function compiled by symng."""
    solve = compile_symng(mode, sizes, examples, iterations)

    def run() -> None:
        done = int(np.asarray(solve(DAMPING)[1]))  # waits for all of it
        if done != iterations:
            raise SystemExit(f"{mode}: {done} iterations, not {iterations}")

    return run


def compile_jax(
    sizes: tuple[int, ...], examples: int, iterations: int, cg: Callable[..., Any] | None = None
) -> Callable[[float], Any]:
    """Return the same written by hand in JAX, by its CG or a function called like it."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    params, images = make_arrays(sizes, examples)
    theta, unravel = ravel_pytree([jnp.asarray(p) for p in params])
    batch = jnp.asarray(images)

    def logits(theta: Any, h: Any) -> Any:
        p = unravel(theta)
        for i in range(len(sizes) - 1):
            h = h @ p[2 * i] + p[2 * i + 1]
            if i not in LINEAR:
                h = jax.nn.sigmoid(h)
        return h

    @jax.jit
    def solve(theta: Any, x: Any, damping: Any) -> Any:
        def loss(theta: Any) -> Any:
            r = logits(theta, x)
            return jnp.sum(jax.nn.softplus(r) - x * r, axis=1).mean()

        r, push = jax.linearize(lambda t: logits(t, x), theta)
        pull = jax.vjp(lambda t: logits(t, x), theta)[1]
        y = jax.nn.sigmoid(r)
        weights = y * (1 - y) / len(x)
        return (cg or jax.scipy.sparse.linalg.cg)(
            lambda v: pull(weights * push(v))[0] + damping * v,
            jax.grad(loss)(theta),
            maxiter=iterations,
            tol=0,
        )[0]

    return lambda value: solve(theta, batch, jax.device_put(np.float32(value)))


def make_jax(sizes: tuple[int, ...], examples: int, iterations: int) -> Run:
    """Return the same written by hand in JAX."""
    solve = compile_jax(sizes, examples, iterations)
    return lambda: solve(DAMPING).block_until_ready()


def conjugate_gradient(product: Callable[[Any], Any], b: Any, iterations: int) -> Any:
    """Return the iterate of CG on tensors of PyTorch."""
    x, r, p = 0 * b, b, b
    rr = r @ r
    for _ in range(iterations):
        q = product(p)
        alpha = rr / (p @ q)
        x, r = x + alpha * p, r - alpha * q
        rr, old = r @ r, rr
        p = r + rr / old * p
    return x


def make_torch(sizes: tuple[int, ...], examples: int, iterations: int) -> Run:
    """Return the same in torch.func, with both derivatives kept for all products."""
    import torch
    from torch.func import linearize, vjp

    params, images = make_arrays(sizes, examples)
    theta = torch.from_numpy(np.concatenate([p.ravel() for p in params]))
    batch = torch.from_numpy(images)

    def logits(theta: Any) -> Any:
        parts = torch.split(theta, [p.size for p in params])
        p = [part.view(a.shape) for part, a in zip(parts, params, strict=True)]
        h = batch
        for i in range(len(sizes) - 1):
            h = torch.addmm(p[2 * i + 1], h, p[2 * i])
            if i not in LINEAR:
                h = torch.sigmoid(h)
        return h

    def run() -> Any:
        r, pull = vjp(logits, theta)
        push = linearize(logits, theta)[1]
        y = torch.sigmoid(r)
        weights = y * (1 - y) / examples
        gradient = pull((y - batch) / examples)[0]
        return conjugate_gradient(
            lambda v: pull(weights * push(v))[0] + DAMPING * v, gradient, iterations
        )

    return run


def make_curvlinops(sizes: tuple[int, ...], examples: int, iterations: int) -> Run:
    """Return CG on the operator of curvlinops."""
    import torch
    from curvlinops import GGNLinearOperator

    params, images = make_arrays(sizes, examples)
    layers: list[Any] = []
    for i in range(len(sizes) - 1):
        layer = torch.nn.Linear(sizes[i], sizes[i + 1])
        layer.weight.data = torch.from_numpy(params[2 * i].T.copy())
        layers += [layer] if i in LINEAR else [layer, torch.nn.Sigmoid()]
    model, batch = torch.nn.Sequential(*layers), torch.from_numpy(images)
    loss = torch.nn.BCEWithLogitsLoss(reduction="mean")
    weights = [p for p in model.parameters() if p.requires_grad]

    def run() -> Any:
        value = loss(model(batch), batch) * sizes[-1]
        gradient = torch.cat([g.ravel() for g in torch.autograd.grad(value, weights)])
        operator = GGNLinearOperator(
            model, loss, weights, [(batch, batch)], check_deterministic=False
        )
        return conjugate_gradient(
            lambda v: sizes[-1] * (operator @ v) + DAMPING * v, gradient, iterations
        )

    return run


CONTESTANTS: dict[str, Callable[[tuple[int, ...], int, int], Run]] = {
    "floor": make_floor,
    "symng-c": lambda *case: make_symng("CVM", *case),
    "symng-numba": lambda *case: make_symng("NUMBA", *case),
    "symng-jax": lambda *case: make_symng("JAX", *case),
    "jax": make_jax,
    "torch": make_torch,
    "curvlinops": make_curvlinops,
}


def serve(name: str, sizes: tuple[int, ...], examples: int, iterations: int) -> None:
    """Be a contestant.

    Tell the seconds to the first result, then those of a run for every line that comes.
    """
    start = time.perf_counter()
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        run = CONTESTANTS[name](sizes, examples, iterations)
        run()
        print(time.perf_counter() - start, file=answers, flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            run()
            print(time.perf_counter() - start, file=answers, flush=True)


class Contestant:
    """A process that runs one contestant when asked to."""

    def __init__(
        self,
        name: str,
        sizes: tuple[int, ...],
        examples: int,
        iterations: int,
        cache: str | None = None,
    ) -> None:
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--serve",
            name,
            "--sizes",
            *map(str, sizes),
        ]
        command += ["--case", str(examples), str(iterations)]
        # On a GPU JAX would take most of the memory for the first of them that runs.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        environment |= {} if os.environ.get("KEEP") == "0" else KEPT
        if cache is not None:
            flags = [f for f in (os.environ.get("PYTENSOR_FLAGS"), f"base_compiledir={cache}") if f]
            environment |= {
                "PYTENSOR_FLAGS": ",".join(flags),
                "NUMBA_CACHE_DIR": f"{cache}/numba",
                "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
            }
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._read()
        self.first = time.perf_counter() - start

    def run(self) -> float:
        """Return the seconds of one run."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _read(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(self.process.communicate()[1][-2000:])
        return float(line)


def measure(
    names: list[str], sizes: tuple[int, ...], examples: int, iterations: int, turns: int
) -> dict[str, Any]:
    """Return the median seconds per iteration of each contestant, all of them run in turns."""
    running = {name: Contestant(name, sizes, examples, iterations) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns + 1):
        for name in names[:: (-1) ** turn]:  # there and back: it matters who ran before
            time.sleep(PAUSE)
            value = running[name].run() / iterations
            if turn:  # the first one warms up
                seconds[name].append(value)
    for contestant in running.values():
        contestant.close()
    parameters = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
    found = {
        "examples": examples,
        "iterations": iterations,
        "parameters": parameters,
        "turns": turns,
    }
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(found, {name: f"{value:.4f}" for name, value in medians.items()}, flush=True)
    return found | {"seconds": medians}


def measure_start(names: list[str]) -> dict[str, Any]:
    """Return the seconds to the first result in a fresh process, with a cold and a warm cache."""
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as cache:
            seconds = []
            for _ in range(2):
                contestant = Contestant(name, SIZES, 1000, 20, cache)
                contestant.close()
                seconds.append(contestant.first)
        found[name] = {"cold": seconds[0], "warm": seconds[1]}
        print(name, found[name], flush=True)
    return found


def exponents(rows: list[dict[str, Any]], column: str) -> dict[str, float]:
    """Return the slope of log seconds against log of what varies, for each contestant."""
    x = np.log([row[column] for row in rows])
    scale = [row["iterations"] if column == "iterations" else 1 for row in rows]
    return {
        name: float(
            np.polyfit(
                x, np.log([r["seconds"][name] * s for r, s in zip(rows, scale, strict=True)]), 1
            )[0]
        )
        for name in rows[0]["seconds"]
    }


def describe(results: dict[str, Any]) -> str:
    """Return the results as tables in Markdown."""
    lines: list[str] = []
    for column in [part for part in ("examples", "parameters", "iterations") if results.get(part)]:
        rows = results[column]
        names = list(rows[0]["seconds"])
        lines += [f"| {column} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for row in rows:
            floor = row["seconds"].get("floor")
            cells = []
            for name in names:
                value = row["seconds"][name]
                told = f"{value:.4f} s" if value < 1 else f"{value:.2f} s"
                cells.append(
                    told if floor is None or name == "floor" else f"{told} ({value / floor:.2f})"
                )
            lines.append(f"| {row[column]:,} | {' | '.join(cells)} |")
        if len(rows) > 1:
            fitted = exponents(rows, column)
            lines.append(f"| exponent | {' | '.join(f'{fitted[name]:.2f}' for name in names)} |")
        lines.append("")
    if results.get("start"):
        names = list(results["start"])
        lines += [f"| first result | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for kind in ("cold", "warm"):
            cells = " | ".join(f"{results['start'][name][kind]:.1f} s" for name in names)
            lines.append(f"| {kind} cache | {cells} |")
        lines.append("")
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw seconds per iteration against examples and against parameters."""
    from matplotlib.figure import Figure

    parts = [part for part in ("examples", "parameters") if results.get(part)]
    if not parts:
        return
    figure = Figure(figsize=(4.6 * len(parts), 3.8), layout="constrained")
    for axes, part in zip(np.atleast_1d(figure.subplots(1, len(parts))), parts, strict=True):
        rows = results[part]
        for name in rows[0]["seconds"]:
            axes.loglog(
                [r[part] for r in rows],
                [r["seconds"][name] for r in rows],
                "o-",
                ms=3,
                lw=1.2,
                label=name,
            )
        axes.set_xlabel(part)
        axes.set_ylabel("seconds per iteration")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=140)


def main() -> None:
    """Be a contestant, or run them all and leave the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS)
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/compare"))
    parser.add_argument("--serve", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--sizes", nargs="+", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, tuple(options.sizes), *options.case)
    names, turns, few = options.contestants, options.turns, min(options.turns, 3)
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    if "start" in options.parts:
        results["start"] = measure_start([name for name in names if name != "floor"])
    if "examples" in options.parts:
        cases = ((1000, 20, turns), (5000, 20, turns), (20_000, 20, few))
        results["examples"] = [measure(names, SIZES, *case) for case in cases]
    if "parameters" in options.parts:
        results["parameters"] = [
            measure(names, tuple(max(2, round(scale * size)) for size in SIZES), 1000, 20, few)
            for scale in SCALES
        ]
    if "iterations" in options.parts:
        results["iterations"] = [
            measure(names, SIZES, 1000, count, turns) for count in (5, 10, 20, 40)
        ]
    (options.out / "compare.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "compare.md").write_text(describe(results))
    draw(results, options.out / "compare.png")
    print(describe(results))


if __name__ == "__main__":
    main()
