"""Hyperparameters by implicit gradients: `symng.solve` beside lineax and JAXopt, to be installed.

    python tests/benchmarks/implicit.py --features 500

Prints a table in Markdown: seconds to compile, the median of several calls, and the lines of each
program. The validation loss of ridge regression, with a penalty for each feature, is differentiated
in all of them, by conjugate gradients to the same tolerance on JAX.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxopt
import lineax
import numpy as np
import pytensor
import pytensor.tensor as pt

import symng

RTOL = 1e-8


def with_symng(X, T, Z, U) -> Callable:
    """Return a function from the logarithms of the penalties to loss and gradient."""
    s = pt.vector("s", shape=(X.shape[1],))
    A = lambda v: X.T @ (X @ v) + pt.exp(s) * v  # noqa: E731
    w = symng.solve(A, X.T @ T, solver=symng.CG(rtol=RTOL)).x
    loss = pt.sqr(Z @ w - U).mean()
    return symng.compile_function([s], [loss, pytensor.grad(loss, s)], mode="JAX")


def with_lineax(X, T, Z, U) -> Callable:
    """Return a function from the logarithms of the penalties to loss and gradient."""

    def loss(s):
        b = X.T @ T
        operator = lineax.FunctionLinearOperator(
            lambda v: X.T @ (X @ v) + jnp.exp(s) * v,
            jax.eval_shape(lambda: b),
            lineax.positive_semidefinite_tag,
        )
        w = lineax.linear_solve(operator, b, lineax.CG(rtol=RTOL, atol=0.0)).value
        return jnp.square(Z @ w - U).mean()

    return jax.jit(jax.value_and_grad(loss))


def with_jaxopt(X, T, Z, U) -> Callable:
    """Return a function from the logarithms of the penalties to loss and gradient."""

    def loss(s):
        A = lambda v: X.T @ (X @ v) + jnp.exp(s) * v  # noqa: E731
        w = jaxopt.linear_solve.solve_cg(A, X.T @ T, tol=RTOL)
        return jnp.square(Z @ w - U).mean()

    return jax.jit(jax.value_and_grad(loss))


def lines_of(function: Callable) -> int:
    """Return the lines of code of a function, without its docstring and blank ones."""
    lines = [line for line in inspect.getsource(function).splitlines() if line.strip()]
    return len(lines) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=500)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    X, Z = rng.standard_normal((2, options.examples, options.features))
    true = rng.standard_normal(options.features)
    T, U = (A @ true + rng.standard_normal(options.examples) for A in (X, Z))
    s = np.zeros(options.features)
    print("| | compile s | call ms | lines |\n|---|---|---|---|")
    found = []
    makers = {"symng": with_symng, "lineax": with_lineax, "JAXopt": with_jaxopt}
    for name, make in makers.items():
        start = time.perf_counter()
        function = make(X, T, Z, U)
        first = [np.asarray(value) for value in function(s)]
        compiled = time.perf_counter() - start
        times = []
        for _ in range(options.calls):
            start = time.perf_counter()
            found_now = [np.asarray(value) for value in function(s)]
            times.append(time.perf_counter() - start)
        assert np.array_equal(first[1], found_now[1])
        found.append(first)
        print(f"| {name} | {compiled:.1f} | {1e3 * np.median(times):.1f} | {lines_of(make)} |")
    for a, *others in zip(*found, strict=True):
        for b in others:
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6 * abs(a).max())


if __name__ == "__main__":
    main()
