"""Sums with a matrix product keep their integer terms, which PyTensor drops for a call of BLAS."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import modes
from helpers.small_steps import REWRITTEN
from pytensor.compile.mode import Mode

import symng
from symng.graphs.loops import while_loop

rng = np.random.default_rng(0)
X, W, V = (rng.standard_normal(shape) for shape in ((5, 3), (3,), (3, 2)))
COUNTS = np.array([1, -2, 3, 40, 5])
x, w, v, c = pt.dmatrix("x"), pt.dvector("w"), pt.dmatrix("v"), pt.dscalar("c")
k, flags, one = pt.ivector("k"), pt.bvector("flags"), pt.tensor("one", dtype="int8", shape=(1,))


@pytest.mark.parametrize("mode", [REWRITTEN, *modes("CVM", "NUMBA", slow=["CVM", "NUMBA"])])
@pytest.mark.parametrize(
    "graph, given, expected",
    [
        (x @ w + c - k, {x: X, w: W, c: 2.0, k: COUNTS}, X @ W + 2 - COUNTS),
        (x @ w + x[:, 0] + k, {x: X, w: W, k: COUNTS}, X @ W + X[:, 0] + COUNTS),
        (c * (x @ v) + one, {x: X, v: V, c: 2.0, one: [3]}, 2 * (X @ V) + 3),
        (k + (x @ w - flags), {x: X, w: W, k: COUNTS, flags: COUNTS}, X @ W),
    ],
    ids=["difference", "sum", "matrix", "nested"],
)
def test_integer_terms_count(graph, given, expected, mode):
    values = [np.asarray(value).astype(v.type.dtype) for v, value in given.items()]
    f = pytensor.function(list(given), graph, mode=mode)
    np.testing.assert_allclose(f(*values), expected, rtol=1e-12)


@pytest.mark.parametrize("mode", modes("CVM", "JAX", slow=["CVM", "JAX"]))
def test_a_regression_on_counts(mode):
    """Targets are integers, as they often are in a table."""
    w = pytensor.shared(np.zeros(3), name="w")
    b = pytensor.shared(np.zeros(()), name="b")
    t = pt.ivector("t")
    loss = pt.sqr(x @ w + b - t).mean() / 2
    objective = symng.Objective(loss, output=x @ w + b, params=[w, b], inputs=[x], targets=[t])
    data = X, COUNTS.astype("int32")
    optimizer = symng.NaturalGradient(damping=1e-9, solver=symng.QR())
    step = symng.compile_step(objective, optimizer, mode=mode)
    infos = [step(data) for _ in range(3)]
    design = np.column_stack([X, np.ones(5)])
    best, *_ = np.linalg.lstsq(design, COUNTS, rcond=None)
    np.testing.assert_allclose(infos[0].loss, (COUNTS**2).mean() / 2, rtol=1e-12)
    np.testing.assert_allclose([*w.get_value(), b.get_value()], best, rtol=1e-4)


@pytest.mark.slow
def test_constants_in_a_loop():
    """A constant moved out of a loop is a variable of it, and whole numbers are integers."""
    weights = pytensor.shared(V.T)

    def loss(weights):
        u = pt.tanh(x @ weights.T) @ pt.constant(V[:2, 0])
        slope = pytensor.grad(u.sum(), x)[:, 0]
        return pt.sqr(slope + u**2 - 1).mean() / 2

    final = while_loop(
        lambda s: {"weights": s["weights"] / 2, "loss": loss(s["weights"])},
        lambda s: pt.constant(True),
        {"weights": weights, "loss": pt.zeros(())},
        2,
    )
    found, expected = pytensor.function(
        [x], [final["loss"], loss(weights / 2)], mode=Mode("vm", None)
    )(X)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
