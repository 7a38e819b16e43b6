"""natgrad's MLP by Theano's names, through symng.legacy, and in symng: one metric, the same steps.

The two scripts are those of docs/from_theano.md.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.natgrad_mlp import metric
from pytensor.compile.mode import predefined_modes

import symng
from symng.backends import UNOPTIMIZED
from symng.graphs.derivatives import pullback, pushforward
from symng.legacy import uninstall_theano
from symng.legacy.natgrad import mlp

PAGE = Path(__file__).parents[2] / "docs" / "from_theano.md"
N, D, H, K = 12, 5, 4, 3
METRICS = {
    "KL": [symng.Fisher(), symng.Fisher(form="output")],
    "cov": [symng.EmpiricalFisher()],
}


@pytest.fixture
def quick(monkeypatch):
    """Compile without rewrites."""
    monkeypatch.setitem(predefined_modes, "FAST_COMPILE", UNOPTIMIZED)


@pytest.fixture(scope="module")
def scripts():
    """Run both scripts of the page, and return what they leave."""
    text = PAGE.read_text()
    theano, ported = (
        next(
            code
            for code in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
            if sign in code
        )
        for sign in ("import theano.tensor as TT", "import pytensor.tensor as pt")
    )
    left = {"__name__": "script"}
    with (
        pytensor.config.change_flags(mode="FAST_COMPILE"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            exec(theano, left)
        finally:
            uninstall_theano()
        there = dict(left)
        exec(ported, left)
    return SimpleNamespace(**there), SimpleNamespace(**left)


def test_both_scripts_take_the_same_steps(scripts):
    there, here = scripts
    assert len(there.costs) == len(here.costs) == len(here.batches)
    assert there.iterations == here.iterations
    np.testing.assert_allclose(here.costs, there.costs, rtol=1e-10)
    for name, old in zip("WbVc", there.params, strict=True):
        new, first = getattr(here, name), there.first["WbVc".index(name)]
        assert abs(new.get_value() - first).max() > 1e-3
        np.testing.assert_allclose(new.get_value(), old.get_value(), atol=1e-10)


def products(objective, params, kind, product, x, y):
    """Return the products of a metric of symng, those of natgrad, and dense ones, on one batch."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(N, D)), rng.integers(0, K, N).astype("int32")
    for p in params:
        p.set_value(rng.normal(size=p.get_value().shape))
    v = [rng.normal(size=p.get_value().shape) for p in params]
    flat = np.concatenate([part.ravel() for part in v])
    ours = [m(objective) @ pt.constant(flat) for m in METRICS[kind]]
    theirs = pt.concatenate([part.ravel() for part in product(*map(pt.constant, v))])
    found = pytensor.function([x, y], [theirs, *ours], on_unused_input="ignore")(X, Y)
    return found, metric([p.get_value() for p in params], X, Y, kind) @ flat


@pytest.mark.parametrize("kind", METRICS)
def test_metric_is_read_off_the_model_of_legacy(kind, quick):
    state = dict(seed=203, nhid=H, cbs=N, mbs=N, matrix=kind)
    model = mlp(state, SimpleNamespace(xdim=D, ydim=K))
    objective = read(model.train_cost, model.layer1.output, model.params, model.x, model.y)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        found, dense = products(objective, model.params, kind, model.Gvs, model.x, model.y)
    for product in found:
        np.testing.assert_allclose(product, dense, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "kind, index, penalty",
    [("KL", "constant", 0.0), ("KL", "arange", 1e-3), ("cov", "constant", 0.0)],
)
def test_metric_is_read_off_a_port_by_hand(kind, index, penalty, quick):
    """The graph that natgrad builds: a softmax written out, and classes picked by their index."""
    x, y = pt.matrix("X"), pt.ivector("y")
    params = W, b, V, c = [pytensor.shared(np.zeros(s)) for s in [(D, H), (H,), (H, K), (K,)]]
    e = pt.exp(pt.dot(pt.sigmoid(pt.dot(x, W) + b), V) + c)
    output = e / pt.sum(e, axis=1).dimshuffle(0, "x")
    rows = pt.arange(y.shape[0]) if index == "arange" else pt.constant(np.arange(N, dtype="int32"))
    costs = -pt.log(output)[rows, y]
    loss = pt.mean(costs) + penalty * pt.sum(W**2) if penalty else pt.mean(costs)
    differentiated, scale = (output, output * N) if kind == "KL" else (costs, N)

    def product(*v):
        [tangent] = pushforward([differentiated], params, list(v))
        return pullback([differentiated], params, [tangent / scale])

    objective = read(loss, output, params, x, y)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        found, dense = products(objective, params, kind, product, x, y)
    for each in found:
        np.testing.assert_allclose(each, dense, rtol=1e-12, atol=1e-14)


def read(loss, output, params, x, y):
    """Return the objective, read without a word of the likelihood and without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = symng.Objective(loss, output=output, params=params, inputs=[x], targets=[y])
    assert objective.likelihood == symng.Categorical()
    return objective
