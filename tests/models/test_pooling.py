"""The pooling of `symng.models`, against NumPy, with its two derivatives."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import modes

from symng.graphs.derivatives import pushforward
from symng.models import max_pool, mean_pool

POOLS = {"max": (max_pool, np.max), "mean": (mean_pool, np.mean)}


def windows_of(values, size, stride):
    """Return the windows of images, channels last: (N, down, across, channels, rows, columns)."""
    views = np.lib.stride_tricks.sliding_window_view(values, size, axis=(1, 2))
    return views[:, :: stride[0], :: stride[1]]


def in_layout(values, layout):
    return values.transpose(0, 3, 1, 2) if layout == "NCHW" else values


def draw(*shape):
    return np.random.default_rng([*shape]).standard_normal(shape)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    "size, stride",
    [((2, 2), None), ((3, 2), None), ((5, 7), None), ((3, 2), (1, 2)), ((1, 2), (2, 3))],
    ids=str,
)
@pytest.mark.parametrize("kind", POOLS)
def test_is_that_of_numpy(kind, size, stride, layout):
    pool, reduce = POOLS[kind]
    values = draw(2, 5, 7, 3)
    wanted = in_layout(reduce(windows_of(values, size, stride or size), axis=(4, 5)), layout)
    values = in_layout(values, layout)
    images = pt.tensor4("images", dtype="float64", shape=(None, *values.shape[1:]))
    y = pool(images, size, stride, layout=layout)
    assert y.type.shape == (None, *wanted.shape[1:])
    np.testing.assert_allclose(y.eval({images: values}), wanted, rtol=1e-14)


@pytest.mark.parametrize("kind", POOLS)
def test_images_may_be_without_channels(kind):
    pool, reduce = POOLS[kind]
    images = pt.tensor3("images", dtype="float64", shape=(None, 4, 6))
    values = draw(2, 4, 6)
    for stride in (None, 1):
        wanted = reduce(
            windows_of(values[..., None], (2, 2), (stride or 2, stride or 2)), axis=(4, 5)
        )[..., 0]
        y = pool(images, 2, stride).eval({images: values})
        np.testing.assert_allclose(y, wanted, rtol=1e-14)


def matrix_of(kind, values, size, stride):
    """Return the derivative of one pooled image by its pixels, from which are the greatest."""
    numbers = np.arange(values.size).reshape(values.shape)
    windows = windows_of(values, size, stride).reshape(-1, size[0] * size[1])
    pixels = windows_of(numbers, size, stride).reshape(windows.shape)
    slopes = np.zeros((len(windows), values.size))
    for row, window, places in zip(slopes, windows, pixels, strict=True):
        if kind == "mean":
            row[places] = 1 / len(places)
        else:
            row[places[window.argmax()]] = 1
    return slopes


SIZES = {"tiles": ((2, 2), (2, 2)), "patches": ((3, 2), (1, 2))}


@pytest.mark.parametrize(
    "mode", modes("FAST_COMPILE", "CVM", "NUMBA", "JAX", slow=("CVM", "NUMBA", "JAX"))
)
@pytest.mark.parametrize("kind, windows", [("max", "tiles"), ("max", "patches"), ("mean", "tiles")])
def test_both_derivatives_are_the_dense_ones(kind, windows, mode):
    """Of sum(exp(pool(x))), whose Hessian is J^T diag(exp(y)) J."""
    (pool, _), (size, stride) = POOLS[kind], SIZES[windows]
    values = draw(1, 4, 5, 2)
    images = pt.tensor4("images", dtype="float64", shape=(1, 4, 5, 2))
    v = pt.tensor4("v", dtype="float64", shape=(1, 4, 5, 2))
    tangent = draw(1, 4, 5, 2) ** 2
    y = pool(images, size, stride)
    slope = pytensor.grad(pt.exp(y).sum(), images)
    outputs = [slope, pushforward([slope], [images], [v])[0]]
    got = pytensor.function([images, v], [y, *outputs], mode=mode)(values, tangent)
    J, weights = matrix_of(kind, values, size, stride), np.exp(np.ravel(got[0]))
    wanted = [J.T @ weights, J.T @ (weights * (J @ tangent.ravel()))]
    for value, right in zip(got[1:], wanted, strict=True):
        np.testing.assert_allclose(np.ravel(value), right, rtol=1e-11, atol=1e-13)


x3 = pt.tensor3("x", dtype="float32", shape=(None, 5, 6))


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ((np.zeros((2, 5, 6)), 2), TypeError, "images: expected a symbolic tensor"),
        ((pt.tensor3("x"), 2), ValueError, "images: expected height, width and channels known"),
        ((x3, 6), ValueError, "size: expected at most the 5 x 6 pixels .* 6 x 6"),
        ((x3, 0), ValueError, "size: expected a whole number, at least 1"),
        ((x3, (1, 2, 3)), ValueError, "size: expected a whole number, or a pair"),
        ((x3, 2, 1.5), TypeError, "stride: expected"),
        ((x3, 2, None, "NCHW"), ValueError, r"images: expected \(N, channels, height, width\)"),
    ],
)
@pytest.mark.parametrize("pool", [max_pool, mean_pool])
def test_bad_arguments_are_named(pool, arguments, error, words):
    with pytest.raises(error, match="^" + words):
        pool(*arguments)
