"""Small named problems for optimizers, each hard in its own way.

Functions that return (objective, data) in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

import symng
from symng.models import (
    binary_cross_entropy_with_logits,
    categorical_cross_entropy_with_logits,
    mlp,
    squared_error,
)

Problem = tuple[symng.Objective, tuple[np.ndarray, ...]]


def badly_scaled_regression() -> Problem:
    """Return linear least squares on inputs of scales from 0.01 to 100.

    A Hessian of condition 1e8.
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 5)) * np.logspace(-2, 2, 5)
    T = X @ np.logspace(2, -2, 5)[:, None] + 0.1 * rng.standard_normal((40, 1))
    x, t = pt.matrix("x"), pt.matrix("t")
    model = mlp(x, [5, 1])
    loss = squared_error(model.output, t).mean() / 2
    return symng.Objective(loss, model.output, model.params, inputs=[x], targets=[t]), (X, T)


def _logistic_regression(targets: Any) -> Problem:
    """Return logistic regression on 60 examples of three inputs with linear targets."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 3))
    T = targets(X @ [2.0, -1.0, 0.5], rng)[:, None].astype(float)
    x, t = pt.matrix("x"), pt.matrix("t")
    model = mlp(x, [3, 1], output="sigmoid")
    loss = binary_cross_entropy_with_logits(model.preactivation, t).mean()
    return symng.Objective(loss, model.output, model.params, inputs=[x], targets=[t]), (X, T)


def separable_logistic_regression() -> Problem:
    """Return classes that a plane separates.

    The loss has no minimum, and the Fisher matrix vanishes on the way.
    """
    return _logistic_regression(lambda r, rng: r > 0)


def overlapping_logistic_regression() -> Problem:
    """Return classes drawn from the model, which overlap: the loss has one minimum."""
    return _logistic_regression(lambda r, rng: rng.random(r.shape) < 1 / (1 + np.exp(-r)))


def redundant_softmax() -> Problem:
    """Return four classes of which one never occurs, with a logit each.

    The Fisher matrix is singular everywhere.
    """
    rng = np.random.default_rng(2)
    X = rng.standard_normal((60, 3))
    T = np.eye(4)[np.argmax(X + 0.5 * rng.standard_normal((60, 3)), axis=1)]
    x, t = pt.matrix("x"), pt.matrix("t")
    model = mlp(x, [3, 4], output="softmax")
    loss = categorical_cross_entropy_with_logits(model.preactivation, t).mean()
    return symng.Objective(loss, model.output, model.params, inputs=[x], targets=[t]), (X, T)


def deep_narrow_network() -> Problem:
    """Return five layers of four tanh units, through which gradients shrink."""
    rng = np.random.default_rng(3)
    X = rng.uniform(-1, 1, (50, 2))
    T = np.sin(3 * X[:, :1]) * X[:, 1:]
    x, t = pt.matrix("x"), pt.matrix("t")
    model = mlp(x, [2, *[4] * 5, 1], activation="tanh")
    loss = squared_error(model.output, t).mean() / 2
    return symng.Objective(loss, model.output, model.params, inputs=[x], targets=[t]), (X, T)


def adding_problem(length: int = 8) -> Problem:
    """Return a recurrent network for the adding problem (Hochreiter, Schmidhuber 1997)."""
    rng = np.random.default_rng(4)
    n, units = 40, 5
    marks = np.zeros((length, n))
    for i in range(n):
        marks[rng.choice(length, 2, replace=False), i] = 1
    X = np.stack([rng.random((length, n)), marks], axis=-1)  # time, example, input
    T = (X[:, :, 0] * marks).sum(axis=0)[:, None]
    x, t = pt.tensor3("x"), pt.matrix("t")
    shapes = {
        "W_in": (2, units),
        "W": (units, units),
        "b": (units,),
        "W_out": (units, 1),
        "b_out": (1,),
    }
    params = [
        pytensor.shared(0.4 * rng.standard_normal(shape), name=name)
        for name, shape in shapes.items()
    ]
    W_in, W, b, W_out, b_out = params
    hidden = pytensor.scan(
        lambda x_t, h: pt.tanh(pt.dot(x_t, W_in) + pt.dot(h, W) + b),
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], units))],
        return_updates=False,
    )
    output = pt.dot(hidden[-1], W_out) + b_out
    loss = squared_error(output, t).mean() / 2
    return symng.Objective(loss, output, params, inputs=[x], targets=[t], data_axes=[1, 0]), (X, T)


PROBLEMS = {
    problem.__name__: problem
    for problem in (
        badly_scaled_regression,
        separable_logistic_regression,
        overlapping_logistic_regression,
        redundant_softmax,
        deep_narrow_network,
        adding_problem,
    )
}
