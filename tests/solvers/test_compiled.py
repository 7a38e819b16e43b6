"""What is compiled: dtypes, memory, backends, and the loop below the solvers."""

from __future__ import annotations

import doctest
import importlib
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.compiled import FEW_REWRITES_GRAPH, REWRITTEN_GRAPH, loops_of, nodes_of
from helpers.modes import modes
from pytensor.tensor.elemwise import Elemwise

from symng.graphs.loops import map_rows, while_loop
from symng.solvers import CG, MinresQLP, Status

SOLVERS = [CG(), MinresQLP()]


@pytest.mark.parametrize(
    "solver", [*SOLVERS, CG(progress_rtol=5e-4, keep_iterates=1.3, maxiter=9)], ids=repr
)
def test_float32_stays_float32(solver: Any) -> None:
    A, b, x0, m = pt.fmatrix("A"), pt.fvector("b"), pt.fvector("x0"), pt.fvector("m")
    solution = solver.solve(lambda v: A @ v, b, damping=0.5, x0=x0, preconditioner=lambda r: m * r)
    outputs = [value for value in vars(solution).values() if value is not None]
    assert {value.type.dtype for value in outputs} == {"float32", "int64"}
    f = pytensor.function([A, b, x0, m], outputs, mode=FEW_REWRITES_GRAPH)
    assert loops_of(f)
    assert not [v for node in nodes_of(f) for v in node.outputs if v.type.dtype == "float64"]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_one_copy_of_the_product_and_two_values_of_each_state(solver: Any) -> None:
    """One product is compiled, also with a start and a residual at the end.

    And the loop forgets old states.
    """
    A, b, x0 = pt.dmatrix("A"), pt.dvector("b"), pt.dvector("x0")
    solution = solver.solve(lambda v: pt.tanh(A) @ v, b, x0=x0)
    mode = REWRITTEN_GRAPH.excluding("inplace")
    f = pytensor.function([A, b, x0], [solution.x, solution.status], mode=mode)
    (scan,) = loops_of(f)
    products = [
        node
        for node in scan.op.fgraph.apply_nodes
        if any(v.owner is None and v.type.ndim == 2 for v in node.inputs)
    ]
    assert (
        len(
            [
                node
                for node in products
                if "emv" in str(node.op) or "Dot" in str(node.op) or "dot" in str(node.op)
            ]
        )
        == 1
    )
    # tanh(A) does not change with the state: it is taken out of the loop.
    assert not any("anh" in str(node.op) for node in scan.op.fgraph.apply_nodes)
    buffers = [
        v
        for v in scan.inputs
        if v.type.ndim == 2
        and v.type.dtype == "float64"
        and v.owner
        and "Subtensor" in str(v.owner.op)
    ]
    assert buffers
    sizes = pytensor.function(
        [A, b, x0], [v.shape[0] for v in buffers], mode="FAST_COMPILE", on_unused_input="ignore"
    )
    n = 30
    assert max(int(size) for size in sizes(np.eye(n), np.ones(n), np.ones(n))) <= 2


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("mode", modes("CVM", slow=["CVM"]))
def test_backends(solver: Any, mode: str) -> None:
    A, b = pt.fmatrix("A"), pt.fvector("b")
    solution = solver.solve(lambda v: A @ v, b)
    f = pytensor.function([A, b], [solution.x, solution.status, solution.niter], mode=mode)
    x, status, niter = f(np.diag(np.arange(1, 9)).astype("float32"), np.ones(8, "float32"))
    assert Status(int(status)) is Status.CONVERGED and niter == 8
    np.testing.assert_allclose(x, 1 / np.arange(1, 9), rtol=1e-4)
    x, status, niter = f(np.eye(8, dtype="float32"), np.zeros(8, "float32"))
    assert Status(int(status)) is Status.ZERO_RHS and niter == 0 and not x.any()


@pytest.mark.parametrize("mode", modes("FAST_COMPILE", "CVM", slow=["CVM"]))
def test_while_loop(mode: str) -> None:
    start, limit = pt.lscalar("start"), pt.lscalar("limit")
    final = while_loop(
        lambda s: {"x": 2 * s["x"], "k": s["k"] + 1, "y": s["y"] + s["x"].sum()},
        lambda s: s["k"] < 5,
        {"x": pt.ones(3, dtype="float32"), "k": start, "y": np.float32(0)},
        limit,
    )
    assert [final[name].type.dtype for name in ("x", "k", "y")] == ["float32", "int64", "float32"]
    assert final["x"].type.shape == (3,)
    f = pytensor.function([start, limit], list(final.values()), mode=mode)
    for k, limit_, rounds in (
        (0, 100, 5),
        (3, 100, 2),
        (5, 100, 0),
        (9, 100, 0),
        (0, 2, 2),
        (0, 0, 0),
    ):
        x, count, y = f(k, limit_)
        np.testing.assert_array_equal(x, np.full(3, 2.0**rounds))
        assert count == k + rounds and y == 3 * (2.0**rounds - 1)


def test_while_loop_draws_once_what_does_not_change() -> None:
    draw = pt.random.normal(size=3, rng=pytensor.shared(np.random.default_rng(1)))
    final = while_loop(
        lambda s: {"x": s["x"] + draw, "k": s["k"] + 1},
        lambda s: s["k"] < 4,
        {"x": pt.zeros(3), "k": pt.constant(0)},
        9,
    )
    total, once = pytensor.function([], [final["x"], draw], mode="FAST_COMPILE")()
    np.testing.assert_allclose(total, 4 * once)


def inner_nodes(function: Any) -> list[Any]:
    """Return the nodes inside of the only loop of a compiled function."""
    (scan,) = loops_of(function)
    return scan.op.fn.maker.fgraph.toposort()


@pytest.mark.slow
def test_while_loop_multiplies_ahead_what_does_not_vary() -> None:
    """Of v y (1 - y), as of a sigmoid, only one product is left in the loop."""
    x, v = pt.matrix("x"), pt.matrix("v")
    y = pt.sigmoid(x)
    state = {"v": v, "i": pt.constant(0, dtype="int64")}
    final = while_loop(
        lambda s: {"v": s["v"] * y * (1 - y), "i": s["i"] + 1}, lambda s: s["i"] < 2, state, 10
    )
    function = pytensor.function([x, v], final["v"], mode="CVM")
    matrices = [
        node
        for node in inner_nodes(function)
        if isinstance(node.op, Elemwise) and node.outputs[0].ndim == 2
    ]
    assert [len(node.inputs) for node in matrices] == [2]
    a, b = np.array([[0.5, -1.0]]), np.array([[2.0, 3.0]])
    slope = 1 / (1 + np.exp(-a)) * (1 - 1 / (1 + np.exp(-a)))
    np.testing.assert_allclose(function(a, b), b * slope**2, rtol=1e-12)


@pytest.mark.slow
def test_while_loop_computes_a_scalar_once_for_all_elements() -> None:
    """The step size of an update does not move into the loop over the elements."""
    x = pt.vector("x")
    state = {"x": x, "a": pt.constant(np.float64(3.0)), "i": pt.constant(0, dtype="int64")}

    def body(s: Any) -> dict[str, Any]:
        size = pt.switch(s["a"] > 1, pt.sqrt(s["a"]) / (1 + s["a"]), s["a"])
        return {"x": s["x"] - size * pt.exp(s["x"]), "a": s["a"] / 2, "i": s["i"] + 1}

    final = while_loop(body, lambda s: s["i"] < 4, state, 10)
    function = pytensor.function([x], [final["x"], final["a"]], mode="CVM")
    (update,) = [
        n
        for n in inner_nodes(function)
        if isinstance(n.op, Elemwise) and n.outputs[0].type.shape == (None,)
    ]
    assert (
        "switch" not in str(update.op.scalar_op).lower()
        and "sqrt" not in str(update.op.scalar_op).lower()
    )
    value, a = np.array([0.1, -2.0]), 3.0
    for _ in range(4):
        value = value - (np.sqrt(a) / (1 + a) if a > 1 else a) * np.exp(value)
        a /= 2
    np.testing.assert_allclose(function([0.1, -2.0])[0], value, rtol=1e-12)


def test_while_loop_wants_the_same_names_back() -> None:
    with pytest.raises(ValueError, match="body"):
        while_loop(lambda s: {"y": s["x"]}, lambda s: s["x"] < 1, {"x": pt.constant(0.0)}, 3)


def test_map_rows() -> None:
    X, A = pt.dmatrix("X"), pt.dmatrix("A")
    f = pytensor.function([X, A], map_rows(lambda row: pt.tanh(A) @ row, X), mode="FAST_COMPILE")
    x, a = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(4, 3)
    np.testing.assert_allclose(f(x, a), x @ np.tanh(a).T)


@pytest.mark.parametrize("name", ["cg", "_martens", "minres_qlp", "solution"])
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"symng.solvers.{name}"))
    assert result.attempted and not result.failed
