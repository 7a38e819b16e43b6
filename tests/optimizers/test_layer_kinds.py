"""Kronecker factors of layers whose weights meet more than one row of an example."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.kronecker import MODE, assert_blocks_are_exact, draws_of_factors, parts, places
from pytensor.scan.utils import until

import symng
from symng import vectors
from symng.graphs.derivatives import pullback
from symng.models import convolve
from symng.optimizers.preconditioners._blocks import Joint
from symng.optimizers.preconditioners._factors import Kronecker
from symng.optimizers.preconditioners._layers import LARGEST_JOINT
from symng.optimizers.preconditioners._opened import OpenedGraph

RNG = np.random.default_rng(0)


def shared(name: str, *shape: int) -> Any:
    return oracles.shared(np.random.default_rng(len(name)), *shape, name=name)


def linear_case(
    r: Any, params: list[Any], inputs: dict[Any, np.ndarray], data_axis: int = 0
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
        data_axes=[*[data_axis] * len(inputs), 0],
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
    assert (layer.weights, layer.bias, layer.kind) == (1, 0, "dense layers")


@pytest.mark.parametrize("time_major", [False, True], ids=["examples first", "time first"])
def test_positions_as_one_row(time_major: bool) -> None:
    """All positions of an example have the same derivative."""
    x, W, V = pt.tensor3("x"), shared("W", 3, 2), shared("V", 2, 2)
    b, values = shared("b", 2), RNG.standard_normal((3, 4, 3))
    if time_major:
        r = (x @ W + b).mean(axis=0) @ V
        case = linear_case(r, [W, b], {x: values.transpose(1, 0, 2)}, data_axis=1)
    else:
        r = ((W.T @ x.transpose(0, 2, 1) + b[:, None]).mean(axis=2)) @ V
        case = linear_case(r, [W, b], {x: values})
    (layer,) = assert_blocks_are_exact(case, sharing="reduce").layers
    assert layer.bias == 1
    with pytest.raises(AssertionError):
        assert_blocks_are_exact(case)


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
    layer, shift = assert_blocks_are_exact(linear_case(rows, [W, b], inputs)).layers
    assert layer.bias is None and shift.params == (1,)


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


def normalized_case(kind: str = "bernoulli") -> Any:
    """Return a model with positions, of which scales and shifts are shared, or not."""
    x, t = pt.tensor3("x", shape=(None, 2, 3)), pt.matrix("t")
    gamma, beta, place = shared("gamma", 3), shared("beta", 3), shared("place", 2, 3)
    b, c, V = shared("b", 3), pytensor.shared(np.array(0.3), name="c"), shared("V", 3, 2)
    h = x + place
    h = (h - h.mean(axis=-1, keepdims=True)) / pt.sqrt(h.var(axis=-1, keepdims=True) + 0.1)
    h = pt.tanh(gamma * h + beta)
    r = ((h - b) * (1 + h * c)).sum(axis=1) @ V
    loss = oracles.nll_terms(kind, r, t, "r").sum(axis=1).mean()
    values, rng = RNG.standard_normal((4, 2, 3)), np.random.default_rng(1)
    return oracles.make_case(
        loss,
        [oracles.output_of(kind, r)],
        [gamma, place, beta, b, c, V],
        [kind],
        [r],
        {x: values},
        {t: oracles.draw_targets(kind, rng, (4, 2))},
    )


def test_scales_and_shifts_have_their_whole_block() -> None:
    """A scale has one block with the shift that is added to what it scales."""
    case = normalized_case()
    kronecker = assert_blocks_are_exact(case, draws=400, kind=Joint)
    assert [block.params for block in kronecker.blocks] == [(5,), (0, 2), (1,), (3,), (4,)]
    assert kronecker.describe().splitlines() == [
        "dense layers: V (3, 2)",
        "scales and shifts: gamma (3,) + beta, place (2, 3), b (3,), c ()",
    ]
    factors = draws_of_factors(case, kronecker, 1)[0]
    flat, v, damping = pt.vector("flat"), pt.vector("v"), pt.scalar("damping")
    product = kronecker.apply(kronecker.invert(flat, damping), v)
    apply = pytensor.function([flat, v, damping], product, mode=MODE)
    vector = RNG.standard_normal(case.size)
    found = apply(factors, vector, 0.2)
    for block, (F, *_) in list(zip(kronecker.blocks, parts(kronecker, factors), strict=True))[1:]:
        where = places(case, block)
        expected = np.linalg.solve(F + 0.2 * np.eye(len(F)), vector[where])
        np.testing.assert_allclose(found[where], expected, rtol=1e-9)
    assert np.isfinite(apply(np.zeros_like(factors), vector, 0.0)).all()


def test_a_large_scale_and_one_that_differs_by_example_have_the_diagonal() -> None:
    x, large = pt.matrix("x"), shared("large", LARGEST_JOINT + 1)
    own = pytensor.shared(np.ones((3, 1)), name="own", shape=(3, 1))
    y = x * large + own
    objective = symng.Objective(pt.sqr(y).sum(axis=1).mean(), y, [large, own], [x])
    assert Kronecker(objective).describe() == (
        f"layers: none\ndiagonal: large ({LARGEST_JOINT + 1},), own (3, 1)"
    )


def recurrent_case(steps: int, examples: int, recurrent: bool = True, last: bool = False) -> Any:
    """Return a net by scan with all parameters inside, of all its states or of the last one."""
    x, t = pt.tensor3("x"), pt.tensor3("t")
    W, U, b = shared("W", 2, 3), shared("U", 3, 3), shared("b", 3)
    gate = shared("gate", 3)

    def update(x_t: Any, h: Any) -> Any:
        if not recurrent:
            return x_t @ W + b + 0 * h
        return pt.tanh((x_t @ W + h @ U) * gate + b)

    h = pytensor.scan(
        update,
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], 3)) + 0.3],
        return_updates=False,
    )
    r = h[-1:] if last else h
    kind = "gaussian" if not recurrent else "bernoulli"
    shape = (1 if last else steps, examples, 3)
    return oracles.make_case(
        oracles.nll_terms(kind, r, t, "r").sum(axis=(0, 2)).mean(),
        [oracles.output_of(kind, r)],
        [W, U, b, gate] if recurrent else [W, b],
        [kind],
        [r],
        {x: RNG.standard_normal((steps, examples, 2))},
        {t: oracles.draw_targets(kind, np.random.default_rng(1), shape)},
        axes=(1,),
        likelihood=oracles.LIKELIHOODS[kind],
    )


def test_steps_of_a_scan_are_rows_of_their_own() -> None:
    case = recurrent_case(3, 2, recurrent=False)
    (layer,) = assert_blocks_are_exact(case).layers
    assert layer.params == (0, 1) and layer.kind == "dense layers in scans"


@pytest.mark.parametrize("last", [False, True], ids=["all states", "last state"])
def test_one_step_of_a_recurrent_net(last: bool) -> None:
    kronecker = assert_blocks_are_exact(recurrent_case(1, 1, last=last))
    assert [block.params for block in kronecker.blocks] == [(0,), (1,), (3, 2)]


@pytest.mark.slow
def test_several_steps_of_a_recurrent_net() -> None:
    """The derivatives of the steps make up the slope of the weights.

    Those of scales and shifts are summed by example, so that their block is exact.
    """
    case = recurrent_case(3, 4)
    kronecker = Kronecker(case.objective)
    opened = OpenedGraph(list(kronecker.ends), list(chain(*chain(*kronecker.uses.values()))))
    (again,) = kronecker.ends
    signs = vectors.random_signs(again, 3)
    for number, block in enumerate(kronecker.layers[:2]):
        ((use,),) = kronecker.uses[block]
        (slope,) = pullback(opened.ends, [opened.place(use)], [signs])
        (h,) = opened.given(use)
        by_steps = pt.tensordot(h, slope, axes=[[0, 1], [0, 1]])
        (whole,) = pullback([again], [case.params[number]], [signs])
        found, expected = pytensor.function(
            list(case.givens), [by_steps, whole], mode=MODE, on_unused_input="ignore"
        )(*case.givens.values())
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert abs(expected).max() > 1e-3
    assert_blocks_are_exact(case, kind=Joint)


@pytest.mark.slow
def test_chunks_have_the_factors_of_the_batch() -> None:
    states, batch = [], tuple(recurrent_case(3, 4).givens.values())
    for chunk_size in (None, 3):
        case = recurrent_case(3, 4)
        optimizer = symng.NaturalGradient(
            solver=symng.CG(maxiter=2), preconditioner=symng.KroneckerPreconditioner()
        )
        step = symng.compile_step(case.objective, optimizer, mode=MODE, chunk_size=chunk_size)
        step(batch)
        states.append(step.state["kronecker_factors"].get_value())
    np.testing.assert_allclose(states[1], states[0], rtol=1e-9, atol=1e-12)


def test_a_scan_of_unknown_length_has_the_diagonal() -> None:
    x, W = pt.matrix("x"), shared("W", 3, 3)
    h = pytensor.scan(
        lambda h: (pt.tanh(h @ W), until(h.sum() > 5)),
        outputs_info=[x],
        n_steps=3,
        return_updates=False,
    )
    objective = symng.Objective(pt.sqr(h[-1]).sum(axis=1).mean(), h[-1], [W], [x])
    assert Kronecker(objective).describe() == "layers: none\ndiagonal: W (3, 3)"


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
        "convolutions: f (2, 2, 3)",
        "row lookups: table (5, 3)",
        "dense layers: W (3, 3), V (3, 2)",
        "weights used several times: U (3, 3)",
        "diagonal: scale (2,)",
    ]
    kronecker = Kronecker(objective)
    assert [block.params[0] for block in kronecker.blocks] == [0, 1, 2, 3, 4, 5]
