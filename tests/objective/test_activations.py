"""Activations written by hand, clipped, moved or inside a scan.

Read, with the pre-activation, and exact.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.ops import view_op
from pytensor.raise_op import Assert

import symng

MODE = "FAST_COMPILE"
RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((5, 3)), RNG.standard_normal((3, 4))
special = pt.special


def softmax(r: Any) -> Any:
    return special.softmax(r, axis=-1)


def by_hand(r: Any, *, top: Any = 0.0, keepdims: bool = True) -> Any:
    e = pt.exp(r - top)
    return e / e.sum(axis=-1, keepdims=True) if keepdims else e / e.sum(axis=1)[:, None]


def scanned(function: Any, r: Any) -> Any:
    """Return ``function`` of the rows of a matrix, one in each round of a scan."""
    return pytensor.scan(function, [r], return_updates=False)


def recurrent(function: Any, r: Any) -> Any:
    """Return ``function`` as the state of a scan over the rows, with another initial value."""
    return pytensor.scan(
        lambda row, before: function(row + 0 * before),
        [r],
        [pt.ones_like(r[0])],
        return_updates=False,
    )


def softmax_pullback(inputs: Any, outputs: Any, cotangents: Any) -> Any:
    (y,), (g,) = outputs, cotangents
    return [y * (g - (y * g).sum(axis=-1, keepdims=True))]


CATEGORICAL = {
    "exp / sum": by_hand,
    "maximum subtracted": lambda r: by_hand(r, top=r.max(axis=1, keepdims=True)),
    "maximum of all subtracted": lambda r: by_hand(r, top=r.max()),
    "[:, None]": lambda r: by_hand(r, keepdims=False),
    "dimshuffle": lambda r: pt.exp(r) / pt.exp(r).sum(axis=1).dimshuffle(0, "x"),
    "logsumexp": lambda r: pt.exp(r - pt.logsumexp(r, axis=1, keepdims=True)),
    "exp of log_softmax": lambda r: pt.exp(special.log_softmax(r, axis=1)),
    "with a temperature": lambda r: by_hand(2 * (r / 2)),
    "clipped": lambda r: pt.clip(softmax(r), 1e-7, 1 - 1e-7),
    "maximum": lambda r: pt.maximum(softmax(r), 1e-8),
    "+ 1e-8": lambda r: softmax(r) + 1e-8,
    "clipped and scaled to 1": lambda r: (
        (softmax(r) + 1e-8) / (softmax(r) + 1e-8).sum(axis=1, keepdims=True)
    ),
    "by hand and clipped": lambda r: pt.clip(by_hand(r), 1e-7, 1.0),
    "a view": lambda r: view_op(softmax(r)),
    "a copy": lambda r: pt.tensor_copy(by_hand(r)).copy(),
    "squeezed": lambda r: softmax(r[None]).squeeze(0),
    "another axis, moved last": lambda r: special.softmax(r.T, axis=0).T,
    "another axis, clipped and moved": lambda r: pt.clip(
        special.softmax(r.T, axis=0), 1e-7, 1
    ).dimshuffle(1, 0),
    "divided while transposed": lambda r: (pt.exp(r).T / pt.exp(r).sum(axis=1)).T,
    "checked": lambda r: Assert("sum")(softmax(r), pt.all(softmax(r) >= 0)),
    "reshaped": lambda r: softmax(r).reshape((r.shape[0], 1, 4))[:, 0].reshape((-1, 4)),
    "cast": lambda r: softmax(r).astype("float32").astype("float64"),
    "in a scan": lambda r: scanned(softmax, r),
    "in a scan, by hand": lambda r: scanned(by_hand, r),
    "a state of a scan": lambda r: recurrent(softmax, r),
    "in an op": lambda r: in_op(softmax, r),
    "in an op with a derivative": lambda r: in_op(softmax, r, pullback=softmax_pullback),
}
BERNOULLI = {
    "1 / (1 + exp(-r))": lambda r: 1 / (1 + pt.exp(-r)),
    "exp(r) / (1 + exp(r))": lambda r: pt.exp(r) / (1 + pt.exp(r)),
    "exp(-softplus(-r))": lambda r: pt.exp(-pt.softplus(-r)),
    "tanh": lambda r: 0.5 * (1 + pt.tanh(r / 2)),
    "1 - sigmoid(-r)": lambda r: 1 - pt.sigmoid(-r),
    "two cases": lambda r: pt.switch(r > 0, 1 / (1 + pt.exp(-r)), pt.exp(r) / (1 + pt.exp(r))),
    "clipped": lambda r: pt.clip(pt.sigmoid(r), 1e-6, 1 - 1e-6),
    "scaled": lambda r: pt.sigmoid(r) * (1 - 2e-6) + 1e-6,
    "a view": lambda r: view_op(pt.sigmoid(r)),
    "in a scan": lambda r: scanned(pt.sigmoid, r),
    "in an op": lambda r: in_op(pt.sigmoid, r),
}


def in_op(function: Any, v: Any, **kwargs: Any) -> Any:
    inner = v.type()
    return OpFromGraph([inner], [function(inner)], **kwargs)(v)


def model(end: Any, dtype: str = "float64", loss_of: Any = None) -> symng.Objective:
    """Return the objective of an output made of the pre-activation x W.

    The loss is by default a square.
    """
    x, t = pt.matrix("x", dtype=dtype), pt.matrix("t", dtype=dtype)
    w = pytensor.shared(W.astype(dtype), name="w")
    r = x @ w
    y = end(r)
    loss = pt.sqr(y - t).sum(axis=1).mean() if loss_of is None else loss_of(y, t)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return symng.Objective(loss, y, [w], inputs=[x], targets=[t])


def fisher(objective: symng.Objective, x: np.ndarray) -> np.ndarray:
    (root,) = objective.inputs
    return (
        symng.Fisher()(objective).materialise().eval({root: x.astype(root.type.dtype)}, mode=MODE)
    )


def dense(kind: type, x: np.ndarray) -> np.ndarray:
    """Return the Fisher matrix of x W, the parameters in C order."""
    total: Any = 0
    for row in x:
        r = row @ W
        if kind is symng.Categorical:
            p = np.exp(r - r.max())
            p /= p.sum()
            M = np.diag(p) - np.outer(p, p)
        else:
            p = 1 / (1 + np.exp(-r))
            M = np.diag(p * (1 - p))
        total = total + np.kron(np.outer(row, row), M)
    return total / len(x)


CASES = [(symng.Categorical, name, end) for name, end in CATEGORICAL.items()]
CASES += [(symng.Bernoulli, name, end) for name, end in BERNOULLI.items()]
IDS = [f"{kind.__name__}: {name}" for kind, name, _ in CASES]


@pytest.mark.parametrize("kind, name, end", CASES, ids=IDS)
def test_read_and_exact_and_finite_when_saturated(kind: type, name: str, end: Any) -> None:
    objective = model(end)
    assert type(objective.likelihood) is kind
    x = objective.inputs[0]
    got = pytensor.function([x], symng.Fisher()(objective).materialise(), mode=MODE)
    np.testing.assert_allclose(
        got(X), dense(kind, X), rtol=1e-5 if name == "cast" else 1e-9, atol=1e-12
    )
    assert np.isfinite(got(1000 * X)).all()  # pre-activations of thousands


@pytest.mark.parametrize("kind, name, end", CASES, ids=IDS)
def test_read_in_float32_too(kind: type, name: str, end: Any) -> None:
    assert type(model(end, "float32").likelihood) is kind


OTHERS = {
    "linear": lambda r: r,
    "tanh": pt.tanh,
    "scaled sigmoid": lambda r: 3 * pt.sigmoid(r),
    "label smoothing": lambda r: 0.8 * softmax(r) + 0.05,
    "clipped by far": lambda r: pt.clip(pt.sigmoid(r), 0.2, 0.8),
    "softplus": pt.softplus,
    "relu": lambda r: pt.maximum(r, 0),
    "sums to 1 by a norm": lambda r: pt.sqr(r) / pt.sqr(r).sum(axis=1, keepdims=True),
    "sigmoid of a part": lambda r: pt.sigmoid(r) * r,
    "linear in a scan": lambda r: scanned(lambda row: 2 * row, r),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_stay_gaussian(name: str) -> None:
    assert model(OTHERS[name]).likelihood == symng.Gaussian()


def test_pre_activations_of_a_recurrent_network_are_found_in_its_scan() -> None:
    """An output of every step, computed in the loop from the state of that step.

    As computed behind the loop.
    """
    x = pt.tensor3("x")
    w, v = pytensor.shared(W[:3, :3], name="w"), pytensor.shared(W, name="v")

    def step(x_t: Any, h: Any, w: Any, v: Any) -> Any:
        h = pt.tanh(x_t + h @ w)
        return h, softmax(h @ v)

    h, y = pytensor.scan(step, [x], [pt.zeros_like(x[0]), None], [w, v], return_updates=False)
    matrices = []
    for output in (y, softmax(h @ v)):
        objective = symng.Objective(
            -pt.log(output)[:, :, 0].mean(), output, [w, v], inputs=[x], example_axis=1
        )
        assert objective.heads[0].r is not None
        matrices.append(pytensor.function([x], symng.Fisher()(objective).materialise(), mode=MODE))
    data = RNG.standard_normal((3, 2, 3))
    np.testing.assert_allclose(matrices[0](data), matrices[1](data), rtol=1e-10, atol=1e-14)
