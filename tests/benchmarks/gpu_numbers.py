"""The device, and the numbers of products and solves on it, for gpu.py."""

from __future__ import annotations

import argparse
import itertools
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np

Rows = Iterator[tuple[str, dict[str, Any]]]
SIZES = (12, 9, 7, 5)
EXAMPLES, VECTORS = 40, 10
# dtype and jax.default_matmul_precision; None is what JAX does by itself.
PRECISIONS = (("float64", None), ("float32", None), ("float32", "highest"))
DAMPING = 0.1


def device(options: argparse.Namespace) -> Rows:
    """Tell the device, the versions and what a float32 product of matrices is worth."""
    import jax

    import symng

    found = jax.devices()[0]
    yield "device", {"what": "devices", "value": ", ".join(map(str, jax.devices()))}
    yield "device", {"what": "kind", "value": found.device_kind}
    memory = (found.memory_stats() or {}).get("bytes_limit")
    yield (
        "device",
        {"what": "memory for JAX", "value": f"{memory / 2**30:.1f} GiB" if memory else "-"},
    )
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv"]
        told = subprocess.run(query, capture_output=True, text=True).stdout.strip().splitlines()
        yield "device", {"what": "nvidia-smi", "value": told[-1] if told else "-"}
    yield "device", {"what": "python", "value": platform.python_version()}
    yield "device", {"what": "symng", "value": symng.__version__}  # perhaps not installed
    for name in ("pytensor", "jax", "jaxlib", "numpy", "scipy", "numba", "optax"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = "-"
        yield "device", {"what": name, "value": version}
    yield (
        "device",
        {"what": "matmul precision", "value": str(jax.config.jax_default_matmul_precision)},
    )
    yield from _products_of_matrices(512 if options.small else 8192)


def _products_of_matrices(size: int) -> Rows:
    """Tell error and speed of a float32 product: TF32 has an error of 1e-4, float32 of 1e-7."""
    import jax
    import jax.numpy as jnp

    a, b = np.random.default_rng(0).standard_normal((2, size, size), "float32")
    exact = a[:64].astype("float64") @ b
    a, b = jnp.asarray(a), jnp.asarray(b)
    for precision in (None, "highest"):
        with jax.default_matmul_precision(precision):
            product = jax.jit(jnp.matmul)
            error = np.linalg.norm(np.asarray(product(a, b))[:64] - exact) / np.linalg.norm(exact)
            seconds = []
            for _ in range(5):
                start = time.perf_counter()
                product(a, b).block_until_ready()
                seconds.append(time.perf_counter() - start)
        speed = 2 * size**3 / float(np.median(seconds)) / 1e12
        yield (
            "float32 products",
            {
                "size": size,
                "precision": precision or "default",
                "relative error": float(error),
                "TFLOP/s": speed,
            },
        )


def _forward(theta: Any, x: Any) -> tuple[list[Any], list[Any]]:
    """Return layers and weights of a sigmoid network; the last layer is its pre-activation."""
    layers, weights, at = [x], [], 0
    for i, (rows, columns) in enumerate(itertools.pairwise(SIZES)):
        w = theta[at : at + rows * columns].reshape(rows, columns)
        at += rows * columns
        r = layers[-1] @ w + theta[at : at + columns]
        at += columns
        weights.append(w)
        layers.append(r if i == len(SIZES) - 2 else 1 / (1 + np.exp(-r)))
    return layers, weights


def _output(r: Any, kind: str) -> Any:
    """Return the output for a pre-activation."""
    if kind == "linear":
        return r
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-r))
    e = np.exp(r - r.real.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _gradient(theta: Any, x: Any, t: Any, kind: str) -> Any:
    """Return the gradient of the mean loss, whose slope in the pre-activation is y - t."""
    layers, weights = _forward(theta, x)
    delta, parts = (_output(layers[-1], kind) - t) / len(x), []
    for i in reversed(range(len(weights))):
        parts += [delta.sum(axis=0), (layers[i].T @ delta).ravel()]
        if i:
            delta = (delta @ weights[i].T) * layers[i] * (1 - layers[i])
    return np.concatenate(parts[::-1])


def _derivative(function: Callable[[Any], Any], theta: Any) -> np.ndarray:
    """Return the derivative by complex steps, exact to rounding; its last axis is that of theta."""
    steps = 1e-30j * np.eye(len(theta))
    return np.stack([function(theta + step).imag / 1e-30 for step in steps], axis=-1)


def dense_matrices(theta: Any, x: Any, t: Any, kind: str) -> dict[str, np.ndarray]:
    """Return the metrics as matrices, in float64."""
    r = _forward(theta, x)[0][-1]
    jacobian = _derivative(lambda p: _forward(p, x)[0][-1], theta)
    slopes = {
        "linear": lambda y: np.eye(len(y)),
        "sigmoid": lambda y: np.diag(y * (1 - y)),
        "softmax": lambda y: np.diag(y) - np.outer(y, y),
    }[kind]
    pairs = zip(jacobian, _output(r, kind), strict=True)
    fisher = sum(j.T @ slopes(y) @ j for j, y in pairs) / len(x)
    return {
        "Fisher": fisher,
        "Gauss-Newton": fisher,  # the losses are the likelihoods' own
        "Hessian": _derivative(lambda p: _gradient(p, x, t, kind), theta),
    }


def _make_case(kind: str, dtype: str) -> tuple[Any, Any, Any, Any, Any]:
    """Return the objective, its arrays and parameters; all are float32 numbers."""
    import pytensor.tensor as pt

    import symng
    from symng import models

    rng = np.random.default_rng(1)
    x, t = pt.matrix("x", dtype=dtype), pt.matrix("t", dtype=dtype)
    model = models.mlp(x, SIZES, output=kind, seed=2, dtype=dtype)
    for param in model.params:
        value = rng.standard_normal(param.get_value().shape).astype("float32") / 2
        param.set_value(value.astype(dtype))
    r = model.preactivation
    loss = {
        "linear": lambda: pt.sqr(r - t).sum(axis=1) / 2,
        "sigmoid": lambda: models.binary_cross_entropy_with_logits(r, t),
        "softmax": lambda: models.categorical_cross_entropy_with_logits(r, t),
    }[kind]().mean()
    objective = symng.Objective(
        loss, output=model.output, params=model.params, inputs=[x], targets=[t]
    )
    X = rng.standard_normal((EXAMPLES, SIZES[0])).astype("float32")
    T = np.eye(SIZES[-1])[rng.integers(SIZES[-1], size=EXAMPLES)]
    theta = np.concatenate([p.get_value().ravel() for p in model.params]).astype("float64")
    return objective, X.astype("float64"), T, theta, rng


def numbers(options: argparse.Namespace) -> Rows:
    """Compare products and solves with dense matrices."""
    import jax

    for dtype, precision in PRECISIONS[: 2 if options.small else None]:
        told = {"dtype": dtype, "matmul precision": precision or "default"}
        with jax.default_matmul_precision(precision):
            for kind in ("linear", "sigmoid", "softmax"):
                yield "products", {"output": kind, **told, **_errors_of_products(kind, dtype)}
            dense = () if precision else _solve_dense(dtype)
            for row in itertools.chain(_solve_metric(dtype), dense):
                yield "solvers", {**told, **row}


def _errors_of_products(kind: str, dtype: str) -> dict[str, float]:
    """Return the largest relative error of a product with each metric."""
    import pytensor.tensor as pt

    import symng

    objective, x, t, theta, rng = _make_case(kind, dtype)
    v = pt.vector("v", dtype=dtype)
    metrics = {
        "Fisher": symng.Fisher(),
        "Gauss-Newton": symng.GaussNewton(),
        "Hessian": symng.Hessian(),
    }
    multiply = symng.compile_function(
        [*objective.inputs, *objective.targets, v],
        [metric(objective) @ v for metric in metrics.values()],
        mode="JAX",
        on_unused_input="ignore",
    )
    exact = dense_matrices(theta, x, t, kind)
    errors = dict.fromkeys(metrics, 0.0)
    for vector in rng.standard_normal((VECTORS, len(theta))).astype("float32"):
        found = multiply(x.astype(dtype), t.astype(dtype), vector.astype(dtype))
        for name, product in zip(metrics, found, strict=True):
            assert str(product.dtype) == dtype
            errors[name] = max(errors[name], _error(product, exact[name] @ vector))
    return errors


def _error(found: Any, exact: np.ndarray) -> float:
    """Return the relative error of a vector."""
    found = np.asarray(found, dtype="float64")
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _solve_metric(dtype: str) -> Iterator[dict[str, Any]]:
    """Solve with the damped Fisher of the softmax network."""
    import pytensor.tensor as pt

    import symng

    objective, x, t, theta, rng = _make_case("softmax", dtype)
    b = pt.vector("b", dtype=dtype)
    right = rng.standard_normal(len(theta)).astype("float32")
    matrix = dense_matrices(theta, x, t, "softmax")["Fisher"] + DAMPING * np.eye(len(theta))
    exact = np.linalg.solve(matrix, right.astype("float64"))
    solvers = {**_iterative(_rtol(dtype)), "Woodbury": symng.Woodbury()}
    solutions = [s.solve(symng.Fisher()(objective), b, damping=DAMPING) for s in solvers.values()]
    solve = symng.compile_function(
        [*objective.inputs, b], [p for s in solutions for p in (s.x, s.niter, s.status)], mode="JAX"
    )
    found = solve(x.astype(dtype), right.astype(dtype))
    yield from _rows(f"Fisher + {DAMPING} I, {len(theta)} parameters", solvers, found, exact)


def _solve_dense(dtype: str) -> Iterator[dict[str, Any]]:
    """Solve with dense matrices of known eigenvalues."""
    import pytensor.tensor as pt

    import symng

    A, b = pt.matrix("A", dtype=dtype), pt.vector("b", dtype=dtype)
    rtol = pt.scalar("rtol", dtype=dtype)
    solvers = _iterative(rtol)
    solutions = [solver.solve(lambda v: pt.dot(A, v), b) for solver in solvers.values()]
    solve = symng.compile_function(
        [A, b, rtol], [p for s in solutions for p in (s.x, s.niter, s.status)], mode="JAX"
    )
    rng, size = np.random.default_rng(3), 100
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    signs = np.where(np.arange(size) % 4, 1.0, -1.0)
    some = np.arange(size) >= 5  # the others are zero
    right = rng.standard_normal(size)
    for system, eigenvalues, names in (
        ("definite, condition 1000", np.geomspace(1, 1000, size), solvers),
        ("indefinite, condition 1000", np.geomspace(1, 1000, size) * signs, ("MINRES-QLP",)),
        ("singular, condition 100", np.geomspace(1, 100, size) * some, ("MINRES-QLP",)),
        ("least squares, condition 10", np.geomspace(1, 10, size) * some, ("MINRES-QLP",)),
    ):
        matrix = (basis * eigenvalues) @ basis.T
        rhs = matrix @ right if system.startswith("singular") else right
        exact = np.linalg.pinv(matrix, rcond=1e-9) @ rhs
        # The residual of least squares stays, and its rounding errors with it.
        tolerance = _rtol(dtype) if system[0] != "l" else {"float64": 1e-8}.get(dtype, 1e-5)
        found = solve(
            ((matrix + matrix.T) / 2).astype(dtype),
            rhs.astype(dtype),
            np.asarray(tolerance, dtype),
        )
        rows = _rows(system, solvers, found, exact)
        yield from (row for row in rows if row["solver"] in names)


def _rtol(dtype: str) -> float:
    """Return a tolerance a little above the rounding of a dtype."""
    return 1e-12 if dtype == "float64" else 1e-6


def _iterative(rtol: Any) -> dict[str, Any]:
    """Return the iterative solvers."""
    import symng

    settings = {"rtol": rtol, "maxiter": 1000}
    return {"CG": symng.CG(**settings), "MINRES-QLP": symng.MinresQLP(**settings)}


def _rows(system: str, solvers: dict[str, Any], found: Any, exact: Any) -> Iterator[dict[str, Any]]:
    """Return a row for each solver."""
    import symng

    for name, x, niter, status in zip(solvers, found[::3], found[1::3], found[2::3], strict=True):
        yield {
            "system": system,
            "solver": name,
            "relative error": _error(x, exact),
            "iterations": int(niter),
            "status": symng.Status(int(status)).name,
        }
