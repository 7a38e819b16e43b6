"""Run kinds of graph: steps with each metric, and what a user does beside steps, on each backend.

A cell of the table is a kind of graph, a way to use it (`USES`) and a mode. `run` returns its
numbers, which are those of every mode but for rounding; `run_plain` runs the same model in plain
PyTensor.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

import symng
from helpers import graph_sequences
from helpers.graph_kinds import Case
from symng import vectors

KINDS = graph_sequences.KINDS
TOLERANCE = 1e-6
SOLVER = symng.CG(rtol=0.0, maxiter=3)
METRICS = {
    "Fisher": symng.Fisher(),
    "Gauss-Newton": symng.GaussNewton(),
    "Hessian": symng.Hessian(),
    "empirical Fisher": symng.EmpiricalFisher(),
}
OPTIMIZERS = {
    name: symng.NaturalGradient(metric=metric, solver=SOLVER, damping=10.0, step_size=0.5)
    for name, metric in METRICS.items()
} | {"HessianFree": symng.HessianFree(damping=10.0)}
USES = (*OPTIMIZERS, "check", "to_scipy", "updates", "products")


def run(kind: str, use: str, mode: str) -> list[float]:
    """Return the numbers of a cell.

    Losses and parameters of two steps, or what else the use returns.
    """
    case = KINDS[kind]()
    if use == "check":
        return list(
            np.ravel(
                [case.objective.check(*case.batch, **_mode(case.objective.check, mode)).factor]
            )
        )
    if use == "to_scipy":
        operator = symng.Fisher()(case.objective)
        product = operator.to_scipy(
            *case.batch[: len(case.objective.inputs)], **_mode(operator.to_scipy, mode)
        )
        return list(product @ np.linspace(-1, 1, case.objective.size))
    if use == "updates":
        o = case.objective
        updates = OPTIMIZERS["Fisher"].updates(o)
        if mode == "JAX":
            symng.enable_jax()
        step = pytensor.function([*o.inputs, *o.targets], o.loss, updates=updates, mode=mode)
        return [float(step(*case.batch)), *np.asarray(vectors.get_flat(o.params))]
    if use == "products":
        return _products(case, mode)
    step = symng.compile_step(
        case.objective, OPTIMIZERS[use], mode=mode, chunk_size=case.chunk_size
    )
    infos = [step(case.batch) for _ in range(2)]
    return [v for i in infos for v in (i.loss, i.new_loss)] + list(
        vectors.get_flat(case.objective.params)
    )


def _products(case: Case, mode: str) -> list[float]:
    """Return the products of a vector with each metric that the model allows, by one function."""
    o, v = case.objective, pt.vector("v", dtype=case.objective.dtype)
    products = []
    for metric in METRICS.values():
        try:
            products.append(metric(o) @ v)
        except (NotImplementedError, ValueError):  # examples that mix have no empirical Fisher
            continue
    variables = [*o.inputs, *o.targets, v]
    f = symng.compile_function(variables, products, mode=mode, on_unused_input="ignore")
    return list(np.concatenate(f(*case.batch, np.linspace(-1, 1, o.size).astype(o.dtype))))


def _mode(function: Any, mode: str) -> dict[str, str]:
    return {"mode": mode} if "mode" in inspect.signature(function).parameters else {}


def run_plain(kind: str, mode: str) -> None:
    """Run loss, gradient and a Hessian product of a model in plain PyTensor."""
    case: Case = KINDS[kind]()
    o = case.objective
    params: Any = o.params
    slopes: Any = pytensor.grad(o.loss, params, disconnected_inputs="ignore")
    along = sum((g * pt.ones_like(p)).sum() for g, p in zip(slopes, params, strict=True))
    curved: Any = pytensor.grad(along, params, disconnected_inputs="ignore")
    function = pytensor.function([*o.inputs, *o.targets], [o.loss, *slopes, *curved], mode=mode)
    function(*case.batch)


def difference(found: list[float], wanted: list[float]) -> float:
    """Return the largest difference, relative to the largest number where that is above 1."""
    a, b = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.inf
    return float(abs(a - b).max() / max(1.0, abs(b).max()))
