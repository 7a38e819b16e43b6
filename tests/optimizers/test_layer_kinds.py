"""Kronecker factors of layers whose weights meet more than one row of an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.kronecker import MODE, assert_blocks_are_exact, draws_of_factors, parts, places

import symng
from symng.models import convolve
from symng.optimizers.preconditioners._factors import Kronecker

RNG = np.random.default_rng(0)


def shared(name: str, *shape: int) -> Any:
    return oracles.shared(np.random.default_rng(len(name)), *shape, name=name)


def linear_case(
    r: Any, params: list[Any], inputs: dict[Any, np.ndarray], examples_at: int = 0
) -> Any:
    """Return a linear model with a Gaussian likelihood.

    Its outputs, those of the positions of an example too, have independent random signs.
    """
    rows = r.reshape((r.shape[0], -1)) if r.type.ndim > 2 else r
    t = pt.matrix("t")
    shape = rows.eval(inputs).shape
    return oracles.make_case(
        pt.sqr(rows - t).sum(axis=1).mean(),
        [rows],
        params,
        ["gaussian"],
        [rows],
        inputs,
        {t: np.zeros(shape)},
        likelihood=oracles.LIKELIHOODS["gaussian"],
    )


POSITIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "matmul": lambda x, W, b: x @ W + b,
    "dot": lambda x, W, b: pt.dot(x, W) + b,
    "einsum": lambda x, W, b: pt.einsum("ntd,dk->ntk", x, W) + b,
    "transposed": lambda x, W, b: x @ W.reshape((2, 3)).T + b,
    "merged": lambda x, W, b: (pt.dot(x.reshape((-1, 3)), W) + b).reshape((-1, 4, 2)),
    "from the left": lambda x, W, b: W.T @ x.transpose(0, 2, 1) + b[:, None],
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_are_rows_of_their_own(name: str) -> None:
    """The outputs of the positions are independent, so that the block is a Kronecker product."""
    x, W, b = pt.tensor3("x", shape=(None, 4, 3)), shared("W", 3, 2), shared("b", 2)
    r = POSITIONS[name](x, W, b)
    case = linear_case(r, [b, W], {x: RNG.standard_normal((3, 4, 3))})
    (layer,) = assert_blocks_are_exact(case).layers
    assert (layer.weights, layer.bias, layer.kind) == (1, 0, "dense layers over positions")


def test_weights_of_three_axes() -> None:
    """Weights by head, as in attention."""
    x, W = pt.tensor3("x", shape=(None, 2, 3)), shared("W", 3, 2, 2)
    V = shared("V", 2, 2, 3)
    inputs = {x: RNG.standard_normal((3, 2, 3))}
    for r, p in (
        (pt.tensordot(x, W, axes=1), W),
        (pt.einsum("ntd,hdk->nthk", x, V.transpose(0, 2, 1)), V),
    ):
        case = linear_case(r, [p], inputs)
        assert assert_blocks_are_exact(case).layers[0].shape == p.get_value().shape


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_have_patches_as_rows(layout: Any, stride: int) -> None:
    images = pt.tensor4("images", shape=(None, 4, 3, 2) if layout == "NHWC" else (None, 2, 4, 3))
    filters = shared("filters", *((2, 2, 2, 3) if layout == "NHWC" else (3, 2, 2, 2)))
    b = shared("b", 3)
    r = convolve(images, filters, b, stride=stride, layout=layout)
    values = RNG.standard_normal((2, *images.type.shape[1:]))
    case = linear_case(
        r.reshape((-1, int(np.prod(r.type.shape[1:])))), [filters, b], {images: values}
    )
    (layer,) = assert_blocks_are_exact(case).layers
    assert (layer.rows, layer.columns, layer.bias, layer.kind) == (9, 3, 1, "convolutions")


def test_images_without_channels_and_a_bias_after_the_fact() -> None:
    images, filters, b = (
        pt.tensor3("images", shape=(None, 4, 3)),
        shared("f", 2, 2, 3),
        shared("b", 3),
    )
    r = convolve(images, filters) + b
    values = RNG.standard_normal((2, 4, 3))
    case = linear_case(r.reshape((-1, 18)), [filters, b], {images: values})
    assert assert_blocks_are_exact(case).layers[0].params == (0, 1)


@pytest.mark.parametrize("by", ["index", "take", "vector"])
def test_lookups_have_the_counts_of_the_rows(by: str) -> None:
    table, i = shared("table", 4, 2), pt.lvector("i") if by == "vector" else pt.lmatrix("i")
    numbers = np.array([[0, 2, 2], [3, -1, 0]])
    values = numbers[:, 0] if by == "vector" else numbers
    r = pt.take(table, i, axis=0) if by == "take" else table[i]
    kronecker = assert_blocks_are_exact(linear_case(r, [table], {i: values}))
    (layer,) = kronecker.layers
    assert layer.kind == "row lookups" and layer.shapes == [(4,), (2, 2)]


def test_weights_used_at_several_places_have_the_rows_of_all() -> None:
    x, z = pt.matrix("x"), pt.tensor3("z")
    W, b = shared("W", 3, 2), shared("b", 2)
    inputs = {x: RNG.standard_normal((3, 3)), z: RNG.standard_normal((3, 2, 3))}
    rows = pt.concatenate([x @ W + b, ((z @ W) + b).reshape((-1, 4))], axis=1)
    (layer,) = assert_blocks_are_exact(linear_case(rows, [W, b], inputs)).layers
    assert layer.bias == 1 and layer.kind == "weights used several times"
    rows = pt.concatenate([x @ W + b, (z @ W).reshape((-1, 4))], axis=1)
    (layer,) = assert_blocks_are_exact(linear_case(rows, [W, b], inputs)).layers
    assert layer.bias is None


def mirrored_case(table: bool) -> Any:
    """Return a model with rows of W, or products with it, beside products with W^T."""
    x, z, i = pt.matrix("x"), pt.matrix("z"), pt.lvector("i")
    W = shared("W", 4, 2)
    first = W[i] if table else x @ W
    given = {i: np.array([0, 2, 2])} if table else {x: RNG.standard_normal((3, 4))}
    r = pt.concatenate([first, z @ W.T], axis=1)
    return linear_case(r, [W], given | {z: RNG.standard_normal((3, 2))})


@pytest.mark.parametrize("table", [False, True], ids=["products", "lookups"])
def test_weights_used_transposed_too_have_two_products(table: bool) -> None:
    case = mirrored_case(table)
    kronecker = assert_blocks_are_exact(case)
    (layer,) = kronecker.layers
    assert layer.is_mirrored and layer.is_lookup == table
    factors = draws_of_factors(case, kronecker, 1)[0]
    A, G, K, D = parts(kronecker, factors)[0]
    A = np.diag(A) if table else A
    total = np.trace(A) * np.trace(G) + np.trace(D) * np.trace(K)
    left = (A * np.trace(G) + D * np.trace(K)) / total
    right = G * np.trace(A) + K * np.trace(D)
    flat, v, damping = pt.vector("flat"), pt.vector("v"), 0.3
    product = kronecker.apply(kronecker.invert(flat, pt.constant(damping)), v)
    found = pytensor.function([flat, v], product, mode=MODE)
    pi = np.sqrt(np.trace(left) / len(left) / (np.trace(right) / len(right)))
    left, right = left + pi * damping**0.5 * np.eye(4), right + damping**0.5 / pi * np.eye(2)
    vector = RNG.standard_normal(8)
    where = places(case, layer)
    expected = np.linalg.solve(np.kron(left, right), vector[where])
    np.testing.assert_allclose(found(factors, vector)[where], expected, rtol=1e-10)


def test_the_kinds_are_listed() -> None:
    images, i = pt.tensor3("images", shape=(None, 4, 3)), pt.lmatrix("i")
    f, table, W = shared("f", 2, 2, 3), shared("table", 5, 3), shared("W", 3, 3)
    V, U, scale = shared("V", 3, 2), shared("U", 3, 3), shared("scale", 2)
    h = pt.tanh(convolve(images, f)).mean(axis=(1, 2)) + pt.tanh(table[i] @ W).mean(axis=1)
    y = pt.tanh(pt.tanh(h @ U) @ U) @ V * pt.exp(scale)
    objective = symng.Objective(
        pt.sqr(y).sum(axis=1).mean(), y, [f, table, W, U, V, scale], [images, i]
    )
    assert symng.KroneckerPreconditioner().describe(objective).splitlines() == [
        "dense layers: V (3, 2)",
        "convolutions: f (2, 2, 3)",
        "row lookups: table (5, 3)",
        "dense layers over positions: W (3, 3)",
        "weights used several times: U (3, 3)",
        "diagonal: scale (2,)",
    ]
    kronecker = Kronecker(objective)
    assert [block.params[0] for block in kronecker.blocks] == [0, 1, 2, 3, 4, 5]
