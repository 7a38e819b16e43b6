"""The Kronecker-factored preconditioner.

Its blocks, factors, inverses and products against dense matrices.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.kronecker import MODE, assert_blocks_are_exact, draws_of_factors, parts, places
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.traversal import graph_inputs

import symng
from symng import KroneckerPreconditioner, Status
from symng.objective.batches import FullBatch
from symng.optimizers.base import StepBatches
from symng.optimizers.preconditioners._blocks import Diagonal
from symng.optimizers.preconditioners._factors import Kronecker


def layers_case(examples: int = 1) -> Any:
    """Return two layers, one transposed and with a reshaped bias, one without a bias."""
    rng = np.random.default_rng(0)
    x, t = pt.matrix("x"), pt.matrix("t")
    b = oracles.shared(rng, 4, name="b")
    W, V = oracles.shared(rng, 4, 3, name="W"), oracles.shared(rng, 4, 2, name="V")
    scale = oracles.shared(rng, 2, name="scale")
    r = (pt.tanh(x @ W.T + b) @ V) * pt.exp(scale)
    loss = pt.sqr(r - t).sum(axis=1).mean()
    return oracles.make_case(
        loss,
        [r],
        [b, W, V, scale],
        ["gaussian"],
        [r],
        {x: rng.standard_normal((examples, 3))},
        {t: rng.standard_normal((examples, 2))},
    )


def evaluate(case: Any, graph: Any) -> np.ndarray:
    """Return the value of a graph on the batch of a case."""
    return pytensor.function(list(case.givens), graph, mode=MODE, on_unused_input="ignore")(
        *case.givens.values()
    )


def test_layers_are_found() -> None:
    case = layers_case()
    kronecker = Kronecker(case.objective)
    assert [(b.weights, b.bias, b.rows, b.columns, b.matrix.order) for b in kronecker.layers] == [
        (1, 0, 4, 4, (1, 0)),
        (2, None, 4, 2, ()),
    ]
    assert kronecker.blocks[2:] == [Diagonal(3, (2,))]
    x, W, b = (
        pt.matrix("x"),
        pytensor.shared(np.ones((3, 2)), name="W"),
        pytensor.shared(np.ones(2), name="b"),
    )
    y = x @ W - b  # whose derivative by b has the other sign
    less = Kronecker(symng.Objective(pt.sqr(y).mean(), output=y, params=[W, b], inputs=[x]))
    assert [block.params for block in less.blocks] == [(0,), (1,)]
    tied = Kronecker(oracles.mlp_case("gaussian", tied=True).objective)
    assert [block.params for block in tied.blocks] == [(0,), (1,), (2,)]
    assert tied.blocks[0].is_mirrored


@pytest.mark.parametrize("kind", oracles.KINDS)
def test_factors_are_those_of_the_fisher_matrix_in_expectation(kind: str) -> None:
    """Of one example the block of a layer is a Kronecker product.

    Signs make it one in the mean over draws.
    """
    case = oracles.mlp_case(kind)
    case.givens.update({v: value[:1] for v, value in case.givens.items()})
    assert len(assert_blocks_are_exact(case).layers) == 2


def test_diagonals_of_other_parameters_are_those_of_the_fisher_matrix_in_expectation() -> None:
    case = layers_case(examples=3)
    kronecker = Kronecker(case.objective)
    flat = draws_of_factors(case, kronecker, 600)
    draws = np.stack([parts(kronecker, vector)[-1][0] for vector in flat])
    expected = np.diag(oracles.fisher(case))[-2:] * oracles.STD**2
    assert (abs(draws.mean(axis=0) - expected) <= 5 * draws.std(axis=0) / np.sqrt(len(draws))).all()


@pytest.mark.parametrize("damping", [1.0, 1e-3])
def test_the_product_is_that_with_the_inverse_of_the_damped_blocks(damping: float) -> None:
    case = layers_case(examples=7)
    kronecker = Kronecker(case.objective)
    factors = evaluate(case, kronecker.factors(0))
    v = np.random.default_rng(1).standard_normal(case.size)
    flat, vector, shift = pt.vector("factors"), pt.vector("v"), pt.scalar("shift")
    product = kronecker.apply(kronecker.invert(flat, shift), vector)
    found = pytensor.function([flat, vector, shift], product, mode=MODE)(factors, v, damping)
    for block, tensors in zip(kronecker.blocks, parts(kronecker, factors), strict=True):
        where = places(case, block)
        if isinstance(block, Diagonal):
            matrix = np.diag(tensors[0] + damping)
        else:
            A, G = tensors
            pi = np.sqrt(np.trace(A) / len(A) / (np.trace(G) / len(G)))
            root = np.sqrt(damping)
            matrix = np.kron(A + pi * root * np.eye(len(A)), G + root / pi * np.eye(len(G)))
        np.testing.assert_allclose(found[where], np.linalg.solve(matrix, v[where]), rtol=1e-8)


def test_an_inverse_without_damping_is_finite_also_of_a_dead_layer() -> None:
    case = layers_case()
    kronecker = Kronecker(case.objective)
    flat, shift = pt.vector("factors"), pt.scalar("shift")
    f = pytensor.function([flat, shift], kronecker.invert(flat, shift), mode=MODE)
    for factors in (np.zeros(kronecker.size), evaluate(case, kronecker.factors(0))):
        assert np.isfinite(f(factors, 0.0)).all()


def network(dtype: str = "float64") -> Any:
    """Return objective and batch of a classifier that is badly conditioned.

    Features of very different sizes.
    """
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((200, 8)) * np.logspace(0, 2, 8)).astype(dtype)
    T = np.eye(3)[rng.integers(3, size=200)].astype(dtype)
    x, t = pt.matrix("x", dtype=dtype), pt.matrix("t", dtype=dtype)
    shapes = {"W": (8, 6), "b": (6,), "V": (6, 3), "c": (3,)}
    params = [
        pytensor.shared((rng.standard_normal(shape) / 10).astype(dtype), name=name)
        for name, shape in shapes.items()
    ]
    W, b, V, c = params
    y = pt.special.softmax(pt.tanh(x @ W + b) @ V + c, axis=-1)
    loss = -(t * pt.log(y)).sum(axis=1).mean()
    return symng.Objective(loss, output=y, params=params, inputs=[x], targets=[t]), (X, T)


def first_step(preconditioner: Any) -> tuple[int, np.ndarray]:
    """Return the iterations of a first step, and the parameters after it."""
    objective, batch = network()
    optimizer = symng.NaturalGradient(
        solver=symng.CG(rtol=1e-10, maxiter=2000), damping=1e-2, preconditioner=preconditioner
    )
    info = symng.compile_step(objective, optimizer, mode=MODE)(batch)
    assert Status(int(info.solver_status)).success
    params = np.concatenate([p.get_value().ravel() for p in objective.params])
    return int(info.solver_iterations), params


def test_fewer_iterations_to_the_same_direction() -> None:
    more, expected = first_step(None)
    fewer, params = first_step(KroneckerPreconditioner(decay=0.0, refresh=1))
    np.testing.assert_allclose(params, expected, rtol=1e-6, atol=1e-8)
    assert fewer < more


@pytest.mark.parametrize(
    "optimizer",
    [
        symng.NaturalGradient,
        symng.HessianFree,
        symng.NaturalConjugateGradient,
        lambda **options: symng.NaturalConjugateGradient(beta="polak-ribiere", **options),
    ],
    ids=["natural gradient", "Hessian-free", "NCG-L", "NCG-F"],
)
def test_every_optimizer_that_solves_takes_it(optimizer: Any) -> None:
    objective, batch = network("float32")
    built = optimizer(
        preconditioner=KroneckerPreconditioner(refresh=2), solver=symng.CG(maxiter=10)
    )
    result = symng.minimize(objective, built, data=batch, max_steps=6, progress=False, mode=MODE)
    assert result.history["loss"][-1] < result.history["loss"][0]
    assert objective.params[0].get_value().dtype == np.float32


def test_the_running_means_and_when_the_inverses_are_made() -> None:
    objective, batch = network()
    optimizer = symng.NaturalGradient(
        solver=symng.CG(maxiter=3),
        damping=1.0,
        preconditioner=KroneckerPreconditioner(decay=0.5, refresh=3),
    )
    state = optimizer.init_state(objective)
    built = optimizer.build(StepBatches(gradient=FullBatch(objective=objective)), state)
    step = pytensor.function(
        list(objective.model.variables), updates=list(built.updates.items()), mode=MODE
    )
    kronecker = Kronecker(objective)
    fresh = pytensor.function(
        list(objective.inputs),
        kronecker.factors(state.values["step"]),
        mode=MODE,
        on_unused_input="ignore",
    )
    mean: Any = 0.0
    changed = []
    for k in range(8):
        new, before = fresh(batch[0]), state.values["kronecker_inverses"].get_value()
        mean = mean + max(1 / (k + 1), 0.5) * (new - mean)
        step(*batch)
        np.testing.assert_allclose(
            state.values["kronecker_factors"].get_value(), mean, rtol=1e-9, atol=1e-12
        )
        changed.append(bool((state.values["kronecker_inverses"].get_value() != before).any()))
    assert changed == [True, True, True, True, False, False, True, False]


def test_a_batch_that_is_not_finite_leaves_no_trace() -> None:
    objective, (X, T) = network()
    optimizer = symng.NaturalGradient(
        solver=symng.CG(maxiter=3), preconditioner=KroneckerPreconditioner()
    )
    updates = optimizer.updates(objective)
    names = {v.name: v for v in updates}
    step = pytensor.function(
        [*objective.inputs, *objective.targets], updates=list(updates.items()), mode=MODE
    )
    step(X, T)
    kept = {
        name: names[name].get_value()
        for name in ("kronecker_factors", "kronecker_inverses", "kronecker_updates")
    }
    step(np.where(X > 50, np.nan, X), T)
    for name, value in kept.items():
        np.testing.assert_array_equal(names[name].get_value(), value)


def test_what_it_does_not_take() -> None:
    for options in ({"decay": 1.0}, {"decay": -0.1}, {"refresh": 0}, {"refresh": 1.5}):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            KroneckerPreconditioner(**options)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match="preconditioner: expected one such as symng.KroneckerPreconditioner"
    ):
        symng.NaturalGradient(preconditioner=KroneckerPreconditioner)
    x, w = pt.matrix("x"), pytensor.shared(np.ones((2, 2)), name="w")
    y = pt.arctan(x @ w) / np.pi + 0.5
    odd = symng.Objective(
        pt.sqr(y).sum(), output=y, params=[w], inputs=[x], likelihood=symng.Bernoulli()
    )
    optimizer = symng.NaturalGradient(preconditioner=KroneckerPreconditioner())
    with pytest.raises(
        ValueError, match="preconditioner: expected a likelihood with a metric_sqrt"
    ):
        symng.compile_step(odd, optimizer)


def odd_models() -> dict[str, tuple[Any, list[str]]]:
    """Return outputs of x with weights outside of dense layers, and the names of the layers."""

    def weight(name: str, *shape: int) -> Any:
        return pytensor.shared(0.5 * rng.standard_normal(shape), name=name)

    rng, x = np.random.default_rng(0), pt.matrix("x")
    W, V, w, b, c = (
        weight("W", 3, 4),
        weight("V", 4, 2),
        weight("w", 4),
        weight("b", 4),
        weight("c"),
    )
    square, mask = weight("square", 3, 3), pt.constant((rng.random((3, 4)) > 0.5).astype(float))
    h = pt.tanh(x @ W + b)
    return {
        "vector": (h @ w + c, ["W"]),
        "vector by dot": (pt.dot(h, w), ["W"]),
        "vector from the left": (pt.dot(w, h.T), ["W"]),
        "column of a vector": ((h @ w[:, None])[:, 0], ["W"]),
        "row of a vector": ((x[:, :1] @ w[None, :]) @ V, ["V"]),
        "vector alone": (x @ weight("u", 3) + c, []),
        "vector reshaped": (h @ w.reshape((4, 1)), ["W"]),
        "used twice": (pt.tanh(pt.tanh(x @ square) @ square) @ W, ["W", "square"]),
        "used transposed too": (pt.tanh(x @ W) @ W.T, ["W"]),
        "used in part too": (pt.tanh(x @ W) @ W[:2].T, []),
        "transposed": (h @ weight("U", 2, 4).T, ["U", "W"]),
        "masked": (pt.tanh(x @ (W * mask)) @ V, ["V"]),
        "from the left": ((W.T @ x.T).T @ V, ["V", "W"]),
        "cut out": (x @ weight("wide", 3, 8)[:, :4], []),
        "of three axes": (pt.tanh(x[:, None, :] @ W).mean(axis=1) @ V, ["V", "W"]),
        "of parameters alone": (x @ (square @ W), []),
        "of means of examples": ((x - x.mean(axis=0, keepdims=True) @ square) @ W, ["W"]),
        "a stack": ((x @ weight("stack", 2, 3, 4)).sum(axis=0), []),
        "a bias of two layers": (x @ W + b + (x @ weight("R", 3, 4) + b), ["R", "W"]),
    }


@pytest.mark.parametrize("name", odd_models())
def test_weights_that_are_no_layers_break_nothing(name: str) -> None:
    """M^-1 is symmetric and positive definite: it does not change the solution of a system."""
    y, layers = odd_models()[name]
    params: list[Any] = sorted(
        (v for v in graph_inputs([y]) if isinstance(v, SharedVariable)), key=str
    )
    x = next(v for v in graph_inputs([y]) if v.name == "x")
    objective = symng.Objective(pt.sqr(y - 1).mean(axis=0).sum(), y, params, [x])
    kronecker, v = Kronecker(objective), pt.vector("v", shape=(objective.size,))
    product = kronecker.apply(kronecker.invert(kronecker.factors(0), pt.constant(0.1)), v)
    f = pytensor.function([x, v], product, mode=MODE)
    X = np.random.default_rng(1).standard_normal((9, 3))
    matrix = np.stack([f(X, e) for e in np.eye(objective.size)])
    assert np.allclose(matrix, matrix.T) and np.linalg.eigvalsh(matrix).min() > 0
    lines = KroneckerPreconditioner().describe(objective).splitlines()
    found = [line for line in lines if not line.startswith(("diagonal", "scales"))]
    assert sorted(re.findall(r"(\w+) \(", " ".join(found))) == layers
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        symng.NaturalGradient(preconditioner=KroneckerPreconditioner()).init_state(objective)
    warned = [w for w in caught if "expected layers" in str(w.message)]
    assert len(warned) == (not layers)


def test_the_layers_are_listed() -> None:
    preconditioner = KroneckerPreconditioner(refresh=2)
    case = layers_case(4)
    optimizer = symng.NaturalGradient(preconditioner=preconditioner)
    lines = ["dense layers: W (4, 3) + b, V (4, 2)", "diagonal: scale (2,)"]
    assert preconditioner.describe(case.objective).splitlines() == lines
    step = symng.compile_step(case.objective, optimizer, mode=MODE)
    assert [line.strip() for line in repr(step).splitlines()[-2:]] == lines
    # The preconditioner itself remembers nothing.
    assert repr(preconditioner) == "KroneckerPreconditioner(refresh=2)"
    plain = symng.compile_step(case.objective, symng.NaturalGradient(), mode=MODE)
    assert "dense" not in repr(plain)
