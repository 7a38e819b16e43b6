"""Random models and data, also hostile ones, against what holds for every step on a full batch."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

import symng
from symng import vectors

RULE = symng.LevenbergMarquardt(initial=1.0, reject_below=0.0)
OPTIMIZERS = {
    "CG": symng.NaturalGradient(damping=RULE, solver=symng.CG(maxiter=15)),
    "MinresQLP": symng.NaturalGradient(damping=RULE, solver=symng.MinresQLP(maxiter=15)),
    "Hessian": symng.NaturalGradient(
        metric=symng.Hessian(), damping=RULE, solver=symng.MinresQLP(maxiter=15)
    ),
    "Woodbury": symng.NaturalGradient(damping=RULE, solver=symng.Woodbury(), warm_start=0.0),
}
KINDS = ("normal", "binary", "categorical")


@cache
def compiled(optimizer: str, kind: str) -> Any:
    """Compile a step of a network of one hidden layer, and its loss."""
    x, t = pt.matrix("x"), pt.matrix("t")
    V, W = (pytensor.shared(np.zeros(shape), name=name) for name, shape in SHAPES.items())
    r = pt.tanh(x @ V) @ W
    if kind == "normal":
        y, loss = r, pt.sqr(r - t).sum(axis=1).mean() / 2
    elif kind == "binary":
        y, loss = pt.sigmoid(r), (pt.softplus(r) - t * r).sum(axis=1).mean()
    else:
        y = pt.special.softmax(r, axis=-1)
        loss = -(t * pt.special.log_softmax(r, axis=-1)).sum(axis=1).mean()
    objective = symng.Objective(loss, output=y, params=[V, W], inputs=[x], targets=[t])
    step = symng.compile_step(objective, OPTIMIZERS[optimizer], mode="FAST_COMPILE")
    fresh = {name: value.get_value() for name, value in step.state.items()}
    return step, fresh, pytensor.function([x, t], loss, mode="FAST_COMPILE")


SHAPES = {"V": (3, 4), "W": (4, 2)}


def data(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return examples, of which some problems have huge, tiny, equal or no finite values."""
    n = int(rng.integers(1, 9))
    X, T = rng.standard_normal((n, 3)), rng.standard_normal((n, 2))
    X *= 10 ** (rng.uniform(-6, 6) if rng.random() < 0.5 else 0)
    if kind == "normal":
        T *= 10 ** (rng.uniform(-6, 6) if rng.random() < 0.5 else 0)
    elif kind == "binary":
        T = (T > 0).astype(float)
    else:
        T = np.eye(2)[rng.integers(0, 2, n)]
    hostile = rng.random()
    if hostile < 0.1:
        X[rng.integers(n), rng.integers(3)] = rng.choice([np.nan, np.inf, -np.inf, 1e200, 1e-310])
    elif hostile < 0.2:
        X[:] = X[0]
    elif hostile < 0.25:
        X[:] = 0
    return X, T


def wrong(step: Any, loss: Any, batch: Any) -> str:
    """Take a step and return which invariant it breaks, or nothing."""
    params = step.objective.params
    before = vectors.get_flat(params)
    state = {name: value.get_value() for name, value in step.state.items()}
    old = float(loss(*batch))
    try:
        info = step(batch)
    except ValueError as error:
        same = (vectors.get_flat(params) == before).all() and all(
            np.array_equal(value, step.state[name].get_value()) for name, value in state.items()
        )
        return REFUSED if same and "expected finite values" in str(error) else repr(error)
    after = vectors.get_flat(params)
    damping = float(step.state["damping"].get_value())
    if not np.isfinite(after).all():
        return "a parameter is not finite"
    if not RULE.minimum <= damping <= RULE.maximum:
        return f"the damping is {damping:g}"
    if info.accepted:
        new = float(loss(*batch))
        if not new <= old + 1e-12 * abs(old):
            return f"the loss rose from {old!r} to {new!r}"
        return ""
    if (after != before).any():
        return "a refused step has changed the parameters"
    for name, value in state.items():
        if name not in LEFT and not np.array_equal(value, step.state[name].get_value()):
            return f"a refused step has changed {name}"
    return ""


REFUSED = "refused"
LEFT = ("damping", "step")  # what a refused step is to change


def stepped(folder: Path, whole: Any, rng: random.Random) -> tuple[str, str]:
    """Take three steps on a random problem."""
    draw = np.random.default_rng(rng.getrandbits(64))
    optimizer, kind = rng.choice(list(OPTIMIZERS)), rng.choice(KINDS)
    step, fresh, loss = compiled(optimizer, kind)
    for name, value in fresh.items():
        step.state[name].set_value(value)
    size = 10 ** draw.uniform(-3, 2)
    for param, shape in zip(step.objective.params, SHAPES.values(), strict=True):
        param.set_value(size * draw.standard_normal(shape))
    batch = data(draw, kind)
    for number in range(3):
        text = wrong(step, loss, batch)
        if text == REFUSED:
            return "reported", ""
        if text:
            return "lost", f"{optimizer}, {kind}, step {number + 1}: {text}"
    return "survived", ""
