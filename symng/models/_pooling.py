"""Pooling: the maximum or the mean of each window of an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_number
from symng.models._convolution import Layout, check_images, patch_indices

Reduce = Callable[[TensorVariable, int | tuple[int, int]], TensorVariable]
"""From images and one or two axes to their maximum or mean over these."""


def max_pool(
    images: TensorVariable,
    size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    layout: Layout = "NHWC",
) -> TensorVariable:
    """Take the maximum of each window of an image, channel by channel.

    y[n, i, j, c] = max_{a, b} images[n, s i + a, s j + b, c], over a window of ``size`` and with
    the stride s.

    Parameters
    ----------
    images : TensorVariable of shape (N, height, width) or (N, height, width, channels)
        Height, width and channels must be static. With ``layout="NCHW"``, of shape (N, channels,
        height, width).
    size : int or pair of int
        Rows and columns of a window; one number stands for both.
    stride : int or pair of int, optional
        Pixels from one window to the next, down and across; default ``size``: windows side by side.
        Pixels at the far border that do not fill a window are ignored.
    layout : {"NHWC", "NCHW"}, default "NHWC"
        Where the channels are: last, or before height and width.

    Returns
    -------
    TensorVariable of shape (N, windows down, windows across) or with channels
        In the layout of ``images``; (height - rows) // stride + 1 windows down, likewise across.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the window does not fit into the images.

    Notes
    -----
    If several pixels of a window share the greatest value, each of them gets the whole derivative,
    as in Theano.

    Examples
    --------
    >>> import numpy as np
    >>> import pytensor.tensor as pt
    >>> from symng.models import max_pool
    >>> images = pt.tensor3("images", shape=(None, 2, 4), dtype="float64")
    >>> max_pool(images, 2).eval({images: np.arange(8.0).reshape(1, 2, 4)})
    array([[[5., 7.]]])
    """
    return _pool(images, size, stride, layout, lambda x, axis: x.max(axis=axis))


def mean_pool(
    images: TensorVariable,
    size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    layout: Layout = "NHWC",
) -> TensorVariable:
    """Take the mean of each window of an image, channel by channel.

    y[n, i, j, c] = mean_{a, b} images[n, s i + a, s j + b, c], over a window of ``size`` and with
    the stride s.

    Parameters
    ----------
    images, size, stride, layout
        As for `max_pool`.

    Returns
    -------
    TensorVariable of shape (N, windows down, windows across) or with channels
        In the layout of ``images``; (height - rows) // stride + 1 windows down, likewise across.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the window does not fit into the images.

    Examples
    --------
    >>> import numpy as np
    >>> import pytensor.tensor as pt
    >>> from symng.models import mean_pool
    >>> images = pt.tensor3("images", shape=(None, 2, 4), dtype="float64")
    >>> mean_pool(images, 2).eval({images: np.arange(8.0).reshape(1, 2, 4)})
    array([[[2.5, 4.5]]])
    """
    return _pool(images, size, stride, layout, lambda x, axis: x.mean(axis=axis))


def _pool(
    images: TensorVariable,
    size: int | tuple[int, int],
    stride: int | tuple[int, int] | None,
    layout: Layout,
    reduce: Reduce,
) -> TensorVariable:
    """Return the images with each window reduced to a number."""
    sides = check_images(images, layout)
    window = _pair("size", size)
    steps = window if stride is None else _pair("stride", stride)
    if any(length > side for length, side in zip(window, sides[:2], strict=True)):
        raise argument_error(
            "size",
            f"at most the {sides[0]} x {sides[1]} pixels of an image",
            Verbatim(f"{window[0]} x {window[1]}"),
        )
    positions = [
        (side - length) // step + 1
        for side, length, step in zip(sides[:2], window, steps, strict=True)
    ]
    if steps == window:
        return _reduce_tiles(images, window, positions, layout, reduce)
    return _reduce_patches(images, sides, window, steps, positions, layout, reduce)


def _reduce_tiles(
    images: TensorVariable,
    window: list[int],
    positions: list[int],
    layout: str,
    reduce: Reduce,
) -> TensorVariable:
    """Reduce windows that lie side by side, without copying the pixels."""
    first = 2 if layout == "NCHW" else 1
    before, after = images.type.shape[1:first], images.type.shape[first + 2 :]
    crop = [slice(None)] * images.type.ndim
    for axis, (count, length) in enumerate(zip(positions, window, strict=True), start=first):
        if count * length != images.type.shape[axis]:
            crop[axis] = slice(0, count * length)
    is_cropped = any(part != slice(None) for part in crop)
    tiles = (images[tuple(crop)] if is_cropped else images).reshape(
        (-1, *before, positions[0], window[0], positions[1], window[1], *after)
    )
    return reduce(tiles, (first + 1, first + 3))


def _reduce_patches(
    images: TensorVariable,
    sides: list[int],
    window: list[int],
    steps: list[int],
    positions: list[int],
    layout: str,
    reduce: Reduce,
) -> TensorVariable:
    """Reduce windows that overlap, or have gaps between them."""
    channels = sides[2:]
    pixels = int(np.prod(window))
    indices = patch_indices(sides, window, steps, layout)
    patches = images.reshape((-1, int(np.prod(sides))))[:, indices]
    if layout == "NCHW":
        maps = reduce(patches.reshape((-1, *positions, *channels, pixels)), 4)
        return maps.dimshuffle(0, 3, 1, 2)
    return reduce(patches.reshape((-1, *positions, pixels, *channels)), 3)


def _pair(name: str, value: int | tuple[int, int]) -> list[int]:
    """Return two numbers, down and across, given one number for both or a pair."""
    pair = list(value) if isinstance(value, tuple | list) else [value, value]
    if len(pair) != 2:
        raise argument_error(name, "a whole number, or a pair of them", value)
    for number in pair:
        check_number(name, number, minimum=1, integer=True)
    return [int(number) for number in pair]
