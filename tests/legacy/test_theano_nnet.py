"""Activations, losses, convolution and pooling of ``theano.tensor.nnet`` and ``signal``."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from scipy import signal, special

from symng.legacy.theano import _nnet as nnet
from symng.legacy.theano._conv import conv2d
from symng.legacy.theano._pooling import max_pool_2d, max_pool_2d_same_size, pool_2d


def draw(*shape):
    return np.random.default_rng([*shape]).standard_normal(shape)


X = draw(3, 4)
POSITIVE = special.softmax(X, axis=1)
CLASSES = np.array([2, 0, 3])
ONE_HOT = np.eye(4)[CLASSES]


@pytest.mark.parametrize(
    "got, wanted",
    [
        (nnet.sigmoid(X), special.expit(X)),
        (nnet.ultra_fast_sigmoid(X), special.expit(X)),
        (nnet.hard_sigmoid(3 * X), np.clip(0.6 * X + 0.5, 0, 1)),
        (nnet.softplus(X), np.log1p(np.exp(X))),
        (nnet.softsign(X), X / (1 + abs(X))),
        (nnet.relu(X), np.maximum(X, 0)),
        (nnet.relu(X, 0.1), np.where(X > 0, X, 0.1 * X)),
        (nnet.elu(X, 0.5), np.where(X > 0, X, 0.5 * np.expm1(X))),
        (nnet.selu(X), 1.0507009873554805 * np.where(X > 0, X, 1.6732632423543772 * np.expm1(X))),
        (nnet.softmax(X), special.softmax(X, axis=1)),
        (nnet.softmax(X[0]), special.softmax(X[:1], axis=1)),
        (nnet.logsoftmax(X), special.log_softmax(X, axis=1)),
        (nnet.softmax_with_bias(X, X[0]), special.softmax(X + X[0], axis=1)),
        (
            nnet.binary_crossentropy(POSITIVE, ONE_HOT),
            -np.log(np.where(ONE_HOT == 1, POSITIVE, 1 - POSITIVE)),
        ),
        (
            nnet.sigmoid_binary_crossentropy(X, ONE_HOT),
            -np.log(special.expit(np.where(ONE_HOT == 1, X, -X))),
        ),
        (
            nnet.categorical_crossentropy(POSITIVE, CLASSES),
            -np.log(POSITIVE[np.arange(3), CLASSES]),
        ),
        (
            nnet.categorical_crossentropy(POSITIVE, ONE_HOT),
            -np.log(POSITIVE[np.arange(3), CLASSES]),
        ),
        (
            nnet.crossentropy_softmax_1hot(X, pt.constant(CLASSES))[0],
            -np.log(POSITIVE[np.arange(3), CLASSES]),
        ),
        (
            nnet.crossentropy_softmax_1hot_with_bias(X - 1, np.ones(4), pt.constant(CLASSES))[1],
            POSITIVE,
        ),
        (nnet.confusion_matrix([0, 1, 1, 2], [0, 2, 1, 1])[0], [[1, 0, 0], [0, 1, 1], [0, 1, 0]]),
    ],
    ids=lambda value: "",
)
def test_is_that_of_numpy(got, wanted):
    np.testing.assert_allclose(pt.as_tensor_variable(got).eval(), wanted, rtol=1e-12)


def test_float32_stays_float32():
    x = pt.fmatrix()
    with pytensor.config.change_flags(floatX="float32"):
        for f in (nnet.hard_sigmoid, nnet.relu, nnet.elu, nnet.selu, nnet.softsign, nnet.softmax):
            assert f(x).dtype == "float32"


def test_relu_has_half_the_slope_at_zero():
    x = pt.dscalar()
    assert pytensor.grad(nnet.relu(x), x).eval({x: 0.0}) == 0.5


def test_losses_of_other_shapes_are_refused():
    with pytest.raises(TypeError, match="expected true_dist .* got 1 and 3 axes"):
        nnet.categorical_crossentropy(pt.dtensor3(), pt.lvector())


IMAGES, FILTERS = draw(2, 3, 6, 7), draw(4, 3, 3, 2)


def convolved(images, filters, mode, flip=True):
    """The same by SciPy, pixel for pixel."""
    filters = filters if flip else filters[:, :, ::-1, ::-1]
    return np.array(
        [
            [sum(signal.convolve2d(*pair, mode=mode) for pair in zip(image, kernel, strict=True))
             for kernel in filters]
            for image in images
        ]
    )  # fmt: skip


@pytest.mark.parametrize("border", ["valid", "full"])
@pytest.mark.parametrize("flip", [True, False])
def test_convolution_is_that_of_scipy(border, flip):
    x = pt.dtensor4()
    y = conv2d(x, FILTERS, (None, 3, 6, 7), FILTERS.shape, border, filter_flip=flip)
    wanted = convolved(IMAGES, FILTERS, border, flip)
    np.testing.assert_allclose(y.eval({x: IMAGES}), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("border, margin", [("half", (1, 1)), (2, (2, 2)), ((0, 1), (0, 1))])
@pytest.mark.parametrize("steps", [(1, 1), (2, 2), (1, 3)], ids=str)
def test_borders_and_strides(border, margin, steps):
    x = pt.dtensor4()
    y = conv2d(x, pytensor.shared(FILTERS), (2, 3, 6, 7), border_mode=border, subsample=steps)
    around = [(0, 0), (0, 0), *((n, n) for n in margin)]
    wanted = convolved(np.pad(IMAGES, around), FILTERS, "valid")[:, :, :: steps[0], :: steps[1]]
    assert y.type.shape[1:] == wanted.shape[1:]
    np.testing.assert_allclose(y.eval({x: IMAGES}), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("border", ["valid", "full"])
def test_images_of_unknown_size(border):
    x, w = pt.dtensor4(), pt.dtensor4()
    wanted = convolved(IMAGES, FILTERS, border)[:, :, :, ::2]
    y = conv2d(x, pytensor.shared(FILTERS), border_mode=border, subsample=(1, 2))
    np.testing.assert_allclose(y.eval({x: IMAGES}), wanted, rtol=1e-10, atol=1e-12)
    y = conv2d(x, w, border_mode=border, subsample=(1, 2))
    np.testing.assert_allclose(y.eval({x: IMAGES, w: FILTERS}), wanted, rtol=1e-10, atol=1e-12)


def test_older_names_of_the_shapes():
    x, w = pt.dtensor4(), pt.dtensor4()
    y = conv2d(input=x, filters=w, filter_shape=(4, 3, 3, 2), image_shape=(2, 3, 6, 7))
    wanted = convolved(IMAGES, FILTERS, "valid")
    np.testing.assert_allclose(y.eval({x: IMAGES, w: FILTERS}), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (
            dict(input_shape=(2, 3, 6, 7), filter_shape=(4, 3, 3, 2), border_mode="same"),
            ValueError,
            "border_mode: expected",
        ),
        (
            dict(input_shape=(2, 3, 6, 7), filter_dilation=(2, 2)),
            NotImplementedError,
            "filter_dilation",
        ),
    ],
)
def test_bad_arguments_of_a_convolution_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        conv2d(pt.dtensor4(), pt.dtensor4(), **arguments)


def pooled(images, window, steps, ignore, mode, pad):
    """The same by loops: windows that the border cuts have fewer pixels."""
    sides = images.shape[2:]
    value = -np.inf if mode == "max" else 0.0
    padded = np.pad(images, [(0, 0), (0, 0), *((n, n) for n in pad)], constant_values=value)
    inside = np.pad(np.ones(sides), [(n, n) for n in pad])
    counts = []
    for side, n, length, step in zip(sides, pad, window, steps, strict=True):
        full = side + 2 * n
        if ignore:
            counts.append((full - length) // step + 1)
        elif step >= length:
            counts.append((full - 1) // step + 1)
        else:
            counts.append(max(0, (full - 1 - length + step) // step) + 1)
    y = np.empty((*images.shape[:2], *counts))
    for i in range(counts[0]):
        for j in range(counts[1]):
            tile = (
                slice(i * steps[0], i * steps[0] + window[0]),
                slice(j * steps[1], j * steps[1] + window[1]),
            )
            part = padded[(..., *tile)].reshape(*images.shape[:2], -1)
            divisor = inside[tile].sum() if mode == "average_exc_pad" else part.shape[-1]
            y[:, :, i, j] = part.max(-1) if mode == "max" else part.sum(-1)
            if mode.startswith("average"):
                y[:, :, i, j] /= divisor
    return y


@pytest.mark.parametrize("mode", ["max", "sum", "average_inc_pad", "average_exc_pad"])
@pytest.mark.parametrize("ignore, pad", [(True, (0, 0)), (False, (0, 0)), (True, (1, 1))], ids=str)
@pytest.mark.parametrize(
    "window, steps", [((2, 2), None), ((3, 2), (2, 1)), ((2, 2), (3, 4))], ids=str
)
def test_pooling_is_that_of_loops(window, steps, ignore, pad, mode):
    wanted = pooled(IMAGES, window, steps or window, ignore, mode, pad)
    for shape in ((None, 3, 6, 7), (None, None, None, None)):
        x = pt.tensor4("x", dtype="float64", shape=shape)
        y = pool_2d(x, window, ignore, steps, pad, mode)
        np.testing.assert_allclose(y.eval({x: IMAGES}), wanted, rtol=1e-12)


def test_pooling_by_older_names_and_of_fewer_or_more_axes():
    wanted = pooled(IMAGES, (2, 2), (2, 2), True, "max", (0, 0))
    x = pt.tensor4("x", dtype="float64", shape=(2, 3, 6, 7))
    y = max_pool_2d(input=x, ds=(2, 2), ignore_border=True)
    np.testing.assert_array_equal(y.eval({x: IMAGES}), wanted)
    np.testing.assert_array_equal(
        pool_2d(x, ds=2, st=(2, 2), padding=(0, 0), ignore_border=True).eval({x: IMAGES}), wanted
    )
    for axes in (IMAGES[0, 0], IMAGES[0], IMAGES[None]):
        got = max_pool_2d(axes, (2, 2), ignore_border=True).eval()
        free = pt.tensor(dtype="float64", shape=(None,) * axes.ndim)
        same = max_pool_2d(free, (2, 2), ignore_border=True).eval({free: axes})
        np.testing.assert_array_equal(same, got)
        rest = pooled(axes.reshape(-1, 1, 6, 7), (2, 2), (2, 2), True, "max", (0, 0))
        np.testing.assert_array_equal(got, rest.reshape(got.shape))
        assert got.shape == (*axes.shape[:-2], 3, 3)


def test_max_pool_of_the_same_size_keeps_the_greatest():
    images = draw(1, 1, 4, 5)
    got = max_pool_2d_same_size(images, (2, 2)).eval()
    tiles = pooled(images, (2, 2), (2, 2), True, "max", (0, 0)).repeat(2, 2).repeat(2, 3)
    np.testing.assert_array_equal(got[..., :4], np.where(images[..., :4] == tiles, tiles, 0))
    assert not got[..., 4].any()


def test_bad_arguments_of_a_pooling_are_named():
    with pytest.raises(ValueError, match="mode: expected"):
        pool_2d(IMAGES, (2, 2), mode="median")
    with pytest.raises(TypeError, match="expected ws"):
        pool_2d(IMAGES)
