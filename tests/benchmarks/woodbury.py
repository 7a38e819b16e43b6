"""Time a direct solve in the space of examples, beside the same program written by hand in JAX.

    python tests/benchmarks/woodbury.py

The task is one direction of natural gradient: the gradient of the loss, the rows R of the Fisher
matrix F = R^T R, and (F + damping I)^-1 of the gradient by the Woodbury identity. The model is a
network of two inputs with tanh units and linear outputs, in float64. By hand the rows are vmap of
jacrev. symng also refines the solution once and checks its residual. Prints a table of medians of
seconds in Markdown, with the exponent of the growth with the rows.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

DAMPING = 1e-3
Run = Callable[[], np.ndarray]


def make_arrays(widths: list[int], examples: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return weights and biases in turn, and inputs."""
    rng = np.random.default_rng(0)
    params = []
    for rows, columns in itertools.pairwise(widths):
        params += [rng.standard_normal((rows, columns)) / np.sqrt(rows), np.zeros(columns)]
    return params, rng.standard_normal((examples, widths[0]))


def make_symng(mode: str, widths: list[int], examples: int) -> Run:
    """Return gradient and solve as one function compiled by symng."""
    import pytensor
    import pytensor.tensor as pt

    import symng
    from symng.backends import backend_of, to_numpy
    from symng.objective.batches import as_batch
    from symng.optimizers._step import loss_and_gradient

    arrays, data = make_arrays(widths, examples)
    params = [pytensor.shared(a, name=f"p{i}") for i, a in enumerate(arrays)]
    x = pt.matrix("x")
    r = x
    for i in range(0, len(params), 2):
        r = (pt.tanh(r) if i else r) @ params[i] + params[i + 1]
    loss = pt.sqr(r - pt.sin(x).sum(axis=1, keepdims=True)).sum(axis=1).mean() / 2
    objective = symng.Objective(loss, output=r, params=params, inputs=[x])
    gradient = loss_and_gradient(as_batch(objective))[1]
    solution = symng.Woodbury().solve(symng.Fisher()(objective), gradient, damping=DAMPING)
    function = symng.compile_function([x], [solution.x, solution.status], mode=mode)
    function.trust_input = True
    backend = backend_of(mode)
    for param, value in zip(params, backend.device_put(arrays), strict=True):
        param.container.storage[0] = value
    batch = backend.device_put([data])

    def run() -> np.ndarray:
        direction, status = to_numpy(function(*batch))
        if int(status) > 2:
            raise SystemExit(f"{mode}: status {symng.Status(int(status)).name}")
        return np.asarray(direction)

    return run


def make_jax(mode: str, widths: list[int], examples: int) -> Run:
    """Return the same written by hand in JAX."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    jax.config.update("jax_enable_x64", True)
    arrays, data = make_arrays(widths, examples)
    theta, unravel = ravel_pytree([jnp.asarray(a) for a in arrays])

    def output(theta: Any, x: Any) -> Any:
        p, r = unravel(theta), x
        for i in range(0, len(p), 2):
            r = (jnp.tanh(r) if i else r) @ p[i] + p[i + 1]
        return r

    @jax.jit
    def solve(theta: Any, x: Any) -> Any:
        def loss(theta: Any) -> Any:
            errors = output(theta, x) - jnp.sin(x).sum(axis=1, keepdims=True)
            return (errors**2).sum(axis=1).mean() / 2

        b = jax.grad(loss)(theta)
        rows = jax.vmap(jax.jacrev(output), (None, 0))(theta, x).reshape(-1, len(theta))
        rows = rows / jnp.sqrt(len(x))
        gram = rows @ rows.T + DAMPING * jnp.eye(len(rows))
        z = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram), rows @ b)
        return (b - rows.T @ z) / DAMPING

    batch = jnp.asarray(data)
    return lambda: np.asarray(solve(theta, batch))


CONTESTANTS: dict[str, tuple[Callable[[str, list[int], int], Run], str]] = {
    "symng-c": (make_symng, "CVM"),
    "symng-numba": (make_symng, "NUMBA"),
    "symng-jax": (make_symng, "JAX"),
    "jax": (make_jax, ""),
}


def main() -> None:
    """Time all contestants in turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, nargs="+", default=[225, 450, 900, 1800])
    parser.add_argument("--hidden", type=int, nargs="+", default=[32])
    parser.add_argument("--outputs", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--contestants", nargs="+", choices=CONTESTANTS, default=["symng-c", "symng-jax", "jax"]
    )
    options = parser.parse_args()
    widths = [2, *options.hidden, options.outputs]
    size = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    print(f"{size:,} parameters, {options.outputs} rows an example\n")
    print(f"| rows | {' | '.join(options.contestants)} |")
    print("|---" * (len(options.contestants) + 1) + "|")
    medians: dict[str, list[float]] = {name: [] for name in options.contestants}
    for examples in options.examples:
        runs = {}
        for name in options.contestants:
            make, mode = CONTESTANTS[name]
            runs[name] = make(mode, widths, examples)
        first = {name: run() for name, run in runs.items()}  # compiles
        expected = first[options.contestants[-1]]
        for name, found in first.items():
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            if error > 1e-6:
                raise SystemExit(f"{name}: differs by {error:.1e}")
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.turns):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        for name, values in seconds.items():
            medians[name].append(statistics.median(values))
        cells = [f"{medians[name][-1]:.4f} s" for name in runs]
        print(f"| {examples * options.outputs:,} | {' | '.join(cells)} |", flush=True)
    slopes = [np.polyfit(np.log(options.examples), np.log(m), 1)[0] for m in medians.values()]
    print(f"| exponent | {' | '.join(f'{slope:.2f}' for slope in slopes)} |")


if __name__ == "__main__":
    main()
