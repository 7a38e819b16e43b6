"""The convolution of `symng.models`.

Against SciPy, its derivatives against dense ones, and what a loop repeats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.compiled import REWRITTEN_GRAPH, loops_of, nodes_of, outer_nodes
from helpers.modes import modes, needs_jax
from pytensor.gradient import pullback
from scipy import signal

import symng
from symng import vectors
from symng.models import convolve
from symng.training.program import Program


def correlate(images, filters, bias=0.0, stride=1):
    """The same by SciPy, image by image and filter by filter; channels last."""
    if images.ndim == 3:
        images, filters = images[..., None], filters[:, :, None]
    rows = [
        np.stack(
            [
                sum(
                    signal.correlate(
                        image[..., c], filters[:, :, c, k], mode="valid", method="direct"
                    )
                    for c in range(image.shape[-1])
                )
                for k in range(filters.shape[-1])
            ],
            axis=-1,
        )
        for image in images
    ]
    return np.array(rows)[:, ::stride, ::stride] + bias


def draw(*shape, dtype="float64", seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 2, 4), (1, 1, 2), (6, 7, 1), (3, 2, 5, 4)], ids=str)
def test_is_the_correlation_of_scipy(shape, stride):
    images = pt.tensor("images", dtype="float64", shape=(None, 6, 7, *shape[2:-1]))
    filters, bias = pytensor.shared(draw(*shape)), pytensor.shared(draw(shape[-1]))
    values = draw(2, 6, 7, *shape[2:-1])
    wanted = correlate(values, filters.get_value(), bias.get_value(), stride)
    y = convolve(images, filters, bias, stride=stride)
    assert y.type.shape == (None, *wanted.shape[1:])
    np.testing.assert_allclose(y.eval({images: values}), wanted, rtol=1e-12, atol=1e-12)
    plain = convolve(images, filters, stride=stride)
    np.testing.assert_allclose(
        plain.eval({images: values}), wanted - bias.get_value(), rtol=1e-12, atol=1e-12
    )


def test_filters_may_be_a_graph_of_known_shape():
    images = pt.tensor3("images", dtype="float32", shape=(None, 4, 4))
    flat = pytensor.shared(draw(18, dtype="float32"))
    y = convolve(images, flat.reshape((3, 3, 2)))
    values = draw(2, 4, 4, dtype="float32")
    assert y.type.dtype == "float32"
    wanted = correlate(values, flat.get_value().reshape(3, 3, 2))
    np.testing.assert_allclose(y.eval({images: values}), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_channels_may_come_first(stride):
    images = pt.tensor4("images", dtype="float64", shape=(None, 4, 6, 7))
    filters, bias = pytensor.shared(draw(5, 4, 3, 2)), pytensor.shared(draw(5))
    values = draw(2, 4, 6, 7)
    wanted = correlate(
        values.transpose(0, 2, 3, 1),
        filters.get_value().transpose(2, 3, 1, 0),
        bias.get_value(),
        stride,
    ).transpose(0, 3, 1, 2)
    y = convolve(images, filters, bias, stride, layout="NCHW")
    assert y.type.shape == (None, *wanted.shape[1:])
    np.testing.assert_allclose(y.eval({images: values}), wanted, rtol=1e-12, atol=1e-12)


def convolutional_case(dtype: str = "float64", examples: int | None = None) -> oracles.Case:
    """Return two convolutions and a dense layer.

    The second one needs the derivative for its images.
    """
    rng = np.random.default_rng(3)
    x, t = pt.tensor3("x", dtype=dtype, shape=(examples, 6, 5)), pt.matrix("t", dtype=dtype)
    first, bias, second, dense = (
        oracles.shared(rng, *shape, dtype=dtype, name=name)
        for name, shape in (
            ("first", (3, 2, 2)),
            ("bias", (2,)),
            ("second", (2, 2, 2, 3)),
            ("dense", (3, 2)),
        )
    )
    hidden = pt.tanh(convolve(pt.sigmoid(convolve(x, first, bias, stride=2)), second))
    r = pt.dot(hidden.reshape((-1, 3)), dense)
    loss = oracles.nll_terms("bernoulli", r, t, "r").sum(axis=1).mean()
    inputs = {x: rng.standard_normal((4, 6, 5)).astype(dtype)}
    targets = {t: oracles.draw_targets("bernoulli", rng, (4, 2), dtype)}
    return oracles.make_case(
        loss, [pt.sigmoid(r)], [first, bias, second, dense], ["bernoulli"], [r], inputs, targets
    )


@pytest.fixture(scope="module")
def dense():
    """The case, its Fisher matrix and the gradient of its loss by differences."""
    # Which JAX has to know beforehand, as it does in a compiled step.
    case = convolutional_case(examples=4)
    return case, oracles.fisher(case), oracles.jacobian(case.loss, case.params, case.givens)


@pytest.mark.parametrize(
    "mode", modes("FAST_COMPILE", "CVM", "NUMBA", "JAX", slow=["CVM", "NUMBA"])
)
def test_gradient_and_fisher_product_are_the_dense_ones(dense, mode):
    case, fisher, slopes = dense
    vector = np.random.default_rng(4).standard_normal(case.size)
    objective = case.objective
    gradient = vectors.ravel(pytensor.grad(objective.loss, list(case.params)), case.params)
    f = pytensor.function(
        list(case.givens), [gradient, symng.Fisher()(objective) @ vector], mode=mode
    )
    got, product = (np.asarray(value) for value in f(*case.givens.values()))
    # The differences are good to about 1e-12.
    assert oracles.relative_error(got, slopes) < 1e-9
    assert oracles.relative_error(product, fisher @ vector) < 1e-9


@pytest.mark.slow
def test_a_convolution_and_its_derivative_on_numba():
    """Correlations as SciPy's, and u^T J as J is linear in the filters and in the images."""
    x, w, u = (pt.tensor(dtype="float64", shape=s) for s in ((2, 4, 5), (2, 3, 2), (2, 2, 2, 2)))
    y = convolve(x, w, stride=2)
    function = pytensor.function([x, w, u], [y, *pullback(y, [x, w], u)], mode="NUMBA")
    images, filters, weights = (draw(*v.type.shape) for v in (x, w, u))
    found, to_images, to_filters = function(images, filters, weights)
    np.testing.assert_allclose(found, correlate(images, filters, stride=2), rtol=1e-12)
    others, bank = draw(2, 4, 5, seed=1), draw(2, 3, 2, seed=1)
    for slope, moved in (
        (to_images * others, (others, filters)),
        (to_filters * bank, (images, bank)),
    ):
        wanted = (weights * correlate(*moved, stride=2)).sum()
        np.testing.assert_allclose(slope.sum(), wanted, rtol=1e-12)


def take_steps(mode: str, dtype: str) -> tuple[list[Any], np.ndarray]:
    """Return the infos of three steps, with a separate metric batch, and the parameters."""
    case = convolutional_case(dtype)
    damping = symng.LevenbergMarquardt(initial=0.1)
    optimizer = symng.NaturalGradient(
        solver=symng.MinresQLP(rtol=1e-6), damping=damping, step_size=0.5
    )
    step = symng.compile_step(case.objective, optimizer, mode=mode)
    batch = tuple(case.givens.values())
    return [step(batch, metric_batch=(batch[0][1:],)) for _ in range(3)], vectors.get_flat(
        case.params
    )


@needs_jax
@pytest.mark.slow
def test_a_step_on_jax_is_that_in_python():
    wanted, params = take_steps("FAST_COMPILE", "float64")
    got, moved = take_steps("JAX", "float32")
    assert [info.loss for info in got] == pytest.approx([info.loss for info in wanted], rel=1e-3)
    assert wanted[-1].new_loss < 0.9 * wanted[0].loss
    assert moved.dtype == "float32" and oracles.relative_error(moved, params) < 1e-3


def test_patches_of_data_are_gathered_outside_of_the_loop():
    """The loop has one product of tangents and one of cotangents with patches of a first layer."""
    x, t = pt.tensor3("x", dtype="float32", shape=(None, 5, 5)), pt.matrix("t", dtype="float32")
    filters = pytensor.shared(draw(3, 3, 2, dtype="float32"))
    y = pt.sigmoid(convolve(x, filters).reshape((-1, 18)))
    loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1).mean()
    objective = symng.Objective(loss, output=y, params=[filters], inputs=[x], targets=[t])
    solver = symng.CG(maxiter=10, recompute=False)
    optimizer = symng.NaturalGradient(solver=solver, damping=symng.FixedDamping(value=1.0))
    step = symng.compile_step(objective, optimizer, mode=REWRITTEN_GRAPH)
    (function,) = Program(step.build(), REWRITTEN_GRAPH).functions
    outside = outer_nodes(function)
    (loop,) = loops_of(function)
    inside = nodes_of(loop.op.fgraph)
    assert sum("AdvancedSubtensor" in str(node.op) for node in outside) == 1
    assert not [node for node in inside if "Advanced" in str(node.op)]
    products = [
        node
        for node in inside
        if type(node.op).__name__ in ("Dot", "Dot22", "Gemm")
        and all(v.type.ndim == 2 for v in node.inputs[-2:])
    ]
    assert (
        len(
            [
                node
                for node in products
                if 9 in (*node.inputs[0].type.shape, *node.inputs[1].type.shape)
            ]
        )
        == 2
    )


x3 = pt.tensor3("x", dtype="float32", shape=(None, 5, 6))
x4 = pt.tensor4("x", dtype="float32", shape=(None, 5, 6, 3))
w3 = pytensor.shared(np.zeros((2, 2, 4), "float32"), name="w")
w4 = pytensor.shared(np.zeros((2, 2, 3, 4), "float32"), name="w")


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ((np.zeros((2, 5, 6)), w3), TypeError, "images: expected a symbolic tensor"),
        (
            (pt.matrix("x"), w3),
            ValueError,
            r"images: expected \(N, height, width\) or \(N, height, width, channels\)",
        ),
        (
            (pt.tensor3("x"), w3),
            ValueError,
            "images: expected height, width and channels known to the graph",
        ),
        (
            (pt.tensor3("x", dtype="int8", shape=(None, 5, 6)), w3),
            ValueError,
            "images: expected an image of floating",
        ),
        ((x3, np.zeros((2, 2, 4))), TypeError, "filters: expected a symbolic tensor"),
        (
            (x3, w4),
            ValueError,
            r"filters: expected \(rows, columns, count\), as many axes as the images",
        ),
        (
            (x4, w3),
            ValueError,
            r"filters: expected \(rows, columns, channels, count\), as many axes",
        ),
        ((x3, pt.tensor3("w")), ValueError, "filters: expected a shape known to the graph"),
        (
            (x3, pytensor.shared(np.zeros((2, 0, 4)))),
            ValueError,
            "filters: expected at least one filter of at least",
        ),
        (
            (x3, pytensor.shared(np.zeros((6, 2, 4)))),
            ValueError,
            "filters: expected at most the 5 x 6 pixels .* 6 x 2",
        ),
        (
            (x4, pytensor.shared(np.zeros((2, 2, 2, 4)))),
            ValueError,
            "filters: expected 3 channels.* got 2",
        ),
        ((x3, w3, np.zeros(4)), TypeError, "bias: expected a symbolic vector"),
        ((x3, w3, pt.matrix("b")), ValueError, "bias: expected a symbolic vector"),
        (
            (x3, w3, None, 1, "NCHW"),
            ValueError,
            r"images: expected \(N, channels, height, width\)",
        ),
        (
            (x4, w3, None, 1, "NCHW"),
            ValueError,
            r"filters: expected \(count, channels, rows, columns\), as many axes",
        ),
        (
            (x4, pytensor.shared(np.zeros((9, 4, 2, 2))), None, 1, "NCHW"),
            ValueError,
            "filters: expected 5 channels.* got 4",
        ),
        ((x4, w4, None, 1, "CHWN"), ValueError, "layout: expected"),
        ((x3, w3, None, 0), ValueError, "stride: expected a whole number, at least 1"),
        ((x3, w3, None, 1.5), TypeError, "stride: expected"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match="^" + words):
        convolve(*arguments)
