"""Rows of R, made example by example, beside products of R^T with unit vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.modes import modes
from pytensor.graph.traversal import toposort
from pytensor.scan.op import Scan

import symng
from symng.metrics import _rows
from symng.operators import Factor

RNG = np.random.default_rng(0)
X, M = RNG.standard_normal((5, 2)), RNG.standard_normal((5, 3, 2))
LABELS = np.array([0, 2, 1, 2, 0], "int32")
TOKENS = np.array([[0, 3], [1, 1], [2, 0], [3, 2], [2, 2]], "int32")
x, m, t, q = pt.matrix("x"), pt.tensor3("m"), pt.ivector("t"), pt.imatrix("q")
FISHER, EMPIRICAL = symng.Fisher(), symng.EmpiricalFisher()


def shared(*shape: int) -> Any:
    return pytensor.shared(RNG.standard_normal(shape), name="p")


w, b = shared(2, 3), shared(3)
r = x @ w + b


def squares(output: Any, *params: Any, v: Any = x, **options: Any) -> symng.Objective:
    """Return an objective of a Gaussian output."""
    axis = options.get("example_axis", 0)
    others = [a for a in range(output.ndim) if a != axis]
    loss = (pt.sqr(output).sum(axis=others) if others else pt.sqr(output)).mean()
    return symng.Objective(loss, output, list(params or (w, b)), [v], **options)


def physics_informed() -> symng.Objective:
    """Return a model whose output has second derivatives by its inputs."""
    w1, w2 = shared(2, 4), shared(4, 1)
    slopes = pt.grad((pt.tanh(x @ w1) @ w2).sum(), x)
    return squares(pt.grad(slopes[:, 0].sum(), x)[:, 0] + x[:, 1], w1, w2)


def labels() -> symng.Objective:
    """Return a classifier with class numbers, a mean by hand, and a decay divided by N."""
    losses = -pt.log(pt.special.softmax(r, axis=-1))[pt.arange(x.shape[0]), t]
    loss = losses.sum() / x.shape[0] + 0.1 * pt.sqr(w).sum() / x.shape[0]
    return symng.Objective(loss, pt.special.softmax(r, axis=-1), [w, b], [x], [t])


def recurrent(step: Callable[[Any, Any], Any]) -> symng.Objective:
    h = pytensor.scan(
        step,
        sequences=[m.dimshuffle(1, 0, 2)],
        outputs_info=[pt.zeros((m.shape[0], 3))],
        return_updates=False,
    )
    return squares(h[-1], w, v=m)


def batch_norm() -> symng.Objective:
    return squares(pt.tanh(r - r.mean(axis=0)))


def dropout() -> symng.Objective:
    rng = pt.random.shared_rng(np.random.default_rng(0))
    return squares(r * rng.bernoulli(0.5, size=r.shape)[1])


def weighted() -> symng.Objective:
    losses = pt.sqr(r).sum(axis=1) * pt.constant(RNG.random(5))
    return symng.Objective(losses.mean(), r, [w, b], [x])


def bias_by_ones() -> symng.Objective:
    return squares(pt.concatenate([x, pt.ones((x.shape[0], 1))], axis=1) @ (w3 := shared(3, 4)), w3)


def embedding() -> symng.Objective:
    table, w1 = shared(4, 3), shared(3, 2)
    return squares(pt.tanh(table[q].sum(axis=1)) @ w1, table, w1, v=q)


def constants() -> symng.Objective:
    """Return a model without inputs, whose points are shared and whose values constants."""
    w1, w2 = shared(2, 4), shared(4, 1)
    output = pt.tanh(pytensor.shared(X) @ w1) @ w2 - pt.constant(X[:, :1])
    return symng.Objective(pt.sqr(output).sum(axis=1).mean(), output, [w1, w2], inputs=[])


def declared() -> symng.Objective:
    """Return a model whose input is declared to have five examples."""
    given = pt.matrix("given", shape=(5, 2))
    output = pt.tanh(given @ w + b) * given.shape[0] + given.sum(axis=1, keepdims=True)
    return squares(output, v=given)


def specified() -> symng.Objective:
    return squares(pt.specify_shape(x, (5, 2)) @ w + pt.zeros((5, 3)), w)


def set_slice() -> symng.Objective:
    padded = pt.set_subtensor(pt.zeros((x.shape[0], 4))[:, 1:], pt.tanh(r))
    return squares(pt.sqr(padded)[:, 0] + padded[:, 1] * padded[:, 2])


# What makes the rows: all examples of an entry at once, one row after another, or products.
CASES: dict[str, tuple[Callable[[], symng.Objective], Any, str]] = {
    "physics-informed": (physics_informed, FISHER, "at once"),
    "labels": (labels, EMPIRICAL, "at once"),
    "labels, centered": (labels, symng.EmpiricalFisher(centered=True), "at once"),
    "time steps": (lambda: squares(pt.tanh(m @ w + b), v=m), FISHER, "at once"),
    "second axis": (
        lambda: squares(pt.tanh(r).T, example_axis=1, data_axes=[0]),
        FISHER,
        "at once",
    ),
    "bias by ones": (bias_by_ones, FISHER, "at once"),
    "embedding": (embedding, FISHER, "at once"),
    "constants": (constants, FISHER, "at once"),
    "declared length": (declared, FISHER, "at once"),
    "slices": (set_slice, EMPIRICAL, "at once"),
    "recurrent": (lambda: recurrent(lambda v, h: pt.tanh(v @ w + h)), FISHER, "in a loop"),
    "sorted": (lambda: squares(pt.sort(r, axis=1)), FISHER, "in a loop"),
    "batch norm": (batch_norm, FISHER, "products"),
    "dropout": (dropout, FISHER, "products"),
    "known length": (specified, FISHER, "products"),
    "weights": (weighted, EMPIRICAL, "products"),
    "positions": (lambda: squares(r * pt.arange(x.shape[0])[:, None]), FISHER, "products"),
    "counts in a loop": (
        lambda: recurrent(lambda v, h: pt.tanh(v @ w + h * v.shape[0])),
        FISHER,
        "products",
    ),
}


def check_rows(objective: symng.Objective, metric: Any, mode: str) -> None:
    """Compare the rows with products, and with R v."""
    factor = metric(objective).factor
    v = pt.vector("v")
    by_products = Factor(factor.matvec, factor.rmatvec).materialise(v)
    givens = {x: X, m: M, t: LABELS, q: TOKENS}
    givens |= {given: X for given in objective.inputs if given not in givens}
    f = symng.compile_function(
        [*givens, v],
        [factor.materialise(v), by_products, factor.matvec(v)],
        mode=mode,
        on_unused_input="ignore",
    )
    value = RNG.standard_normal(objective.size)
    rows, expected, along = f(*givens.values(), value)
    np.testing.assert_allclose(rows, expected, atol=1e-12)
    np.testing.assert_allclose(rows @ value, along, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*draws random numbers")
@pytest.mark.parametrize("name", CASES)
def test_rows_are_those_of_the_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, metric, expected = CASES[name]
    ways = []
    one_by_one = _rows._one_by_one

    def loop(*arguments: Any) -> Any:
        ways.append("in a loop")
        return one_by_one(*arguments)

    monkeypatch.setattr(_rows, "_one_by_one", loop)
    objective = make()
    check_rows(objective, metric, "FAST_COMPILE")
    if metric(objective).factor.rows() is None:
        ways = ["products"]
    assert (ways or ["at once"])[0] == expected


@pytest.mark.parametrize("mode", modes("JAX", "NUMBA", "CVM", slow=("NUMBA", "CVM")))
@pytest.mark.parametrize("name", ["labels", "slices", "constants"])
def test_backends(name: str, mode: str) -> None:
    make, metric, _ = CASES[name]
    check_rows(make(), metric, mode)


def test_float32_stays() -> None:
    case = oracles.mlp_case("categorical", dtype="float32")
    for metric in (FISHER, symng.EmpiricalFisher(centered=True)):
        rows = metric(case.objective).factor.rows()
        nodes = list(toposort([rows]))
        loops = [node.op for node in nodes if isinstance(node.op, Scan)]
        assert rows.type.dtype == "float32" and len(loops) == (metric == FISHER)
        nodes += [node for loop in loops for node in loop.fgraph.toposort()]
        assert not any(v.type.dtype == "float64" for node in nodes for v in node.outputs)
