"""``theano.tensor.signal.downsample`` and ``pool``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt

from symng._checks import argument_error
from symng.legacy.theano._shifts import pool_by_shifts
from symng.models import max_pool, mean_pool

__all__ = ["max_pool_2d", "max_pool_2d_same_size", "pool_2d"]

Pair = tuple[int, int]


def pool_2d(
    input: Any,
    ws: Any = None,
    ignore_border: bool | None = None,
    stride: Any = None,
    pad: Any = (0, 0),
    mode: str = "max",
    ds: Any = None,
    st: Any = None,
    padding: Any = None,
) -> Any:
    """Reduce windows of the last two axes to their maximum, mean or sum.

    Parameters
    ----------
    input : tensor of two axes or more
        The images, one pixel of a channel along the last two.
    ws : pair of int
        Rows and columns of a window; ``ds`` is the older name.
    ignore_border : bool, default False
        Leave out windows that the border cuts.
    stride : pair of int, optional
        From window to window, default ``ws``; ``st`` is the older name.
    pad : pair of int, default (0, 0)
        Rows and columns put on each side, which the maximum ignores; ``padding`` is the older name.
    mode : {"max", "sum", "average_inc_pad", "average_exc_pad"}, default "max"
        Of an average, whether pixels beyond the border count.

    Returns
    -------
    tensor
        With the axes of ``input``.
    """
    window = _pair(ws if ds is None else ds)
    steps = stride if st is None else st
    steps = window if steps is None else _pair(steps)
    border = _pair(pad if padding is None else padding)
    if mode not in ("max", "sum", "average_inc_pad", "average_exc_pad"):
        raise argument_error("mode", '"max", "sum", "average_inc_pad" or "average_exc_pad"', mode)
    images = pt.as_tensor_variable(input)
    images = images.dimshuffle(*["x"] * max(4 - images.type.ndim, 0), *range(images.type.ndim))
    leading, ndim = images.shape[:-3], pt.as_tensor_variable(input).type.ndim
    sides = images.type.shape[-3:]
    if None in sides:
        pooled = pool_by_shifts(images, window, steps, border, bool(ignore_border), mode)
        return pooled.reshape(pooled.shape[4 - ndim :], ndim=ndim) if ndim < 4 else pooled
    images = images.reshape((-1, *sides))
    ends = (0, 0) if ignore_border else _missing(sides[1:], window, steps, border)
    pooled = _pool(images, window, steps, border, ends, mode)
    if ndim < 4:
        return pooled.reshape(pooled.shape[4 - ndim :], ndim=ndim)
    return pooled.reshape((*leading, *pooled.shape[1:]), ndim=ndim) if ndim > 4 else pooled


def max_pool_2d(
    input: Any,
    ds: Any,
    ignore_border: bool = False,
    st: Any = None,
    padding: Any = (0, 0),
    mode: str = "max",
) -> Any:
    """Reduce windows of the last two axes to their maximum: `pool_2d` by its older name."""
    return pool_2d(input, ds, ignore_border, st, padding, mode)


def max_pool_2d_same_size(input: Any, patch_size: Any) -> Any:
    """Return the images with all pixels zero that are not the greatest of their window."""
    images = pt.as_tensor_variable(input)
    pooled = pool_2d(images, patch_size, ignore_border=True)
    rows, columns = _pair(patch_size)
    spread = pt.repeat(pt.repeat(pooled, rows, axis=-2), columns, axis=-1)
    zeros = pt.zeros_like(images)
    covered = (..., slice(spread.shape[-2]), slice(spread.shape[-1]))
    kept = pt.switch(pt.eq(images[covered], spread), images[covered], zeros[covered])
    return pt.set_subtensor(zeros[covered], kept)


def _pool(images: Any, window: Pair, steps: Pair, border: Pair, ends: Pair, mode: str) -> Any:
    """Return the pooled images of four axes."""
    around = [(n, n + more) for n, more in zip(border, ends, strict=True)]
    if mode == "max":
        return max_pool(_padded(images, around, -np.inf), window, steps, layout="NCHW")
    means = mean_pool(_padded(images, around, 0.0), window, steps, layout="NCHW")
    size = window[0] * window[1]
    if mode == "sum":
        return means * np.asarray(size, dtype=images.dtype)
    # How many pixels of each window count.
    counted = border if mode == "average_exc_pad" else (0, 0)
    inside = np.ones(
        [s + 2 * (b - c) for s, b, c in zip(images.type.shape[2:], border, counted, strict=True)]
    )
    margins = [(c, c + more) for c, more in zip(counted, ends, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(inside, margins), window)
    counts = windows[:: steps[0], :: steps[1]].sum(axis=(2, 3))
    if (counts == size).all():
        return means
    return means * np.asarray(size / np.maximum(counts, 1), dtype=images.dtype)


def _padded(images: Any, around: list[tuple[int, int]], value: float) -> Any:
    """Return images with rows and columns of one value before and after."""
    (top, bottom), (left, right) = around
    if not (top or bottom or left or right):
        return images
    _, channels, height, width = images.type.shape
    shape = channels, height + top + bottom, width + left + right
    empty = pt.full((images.shape[0], *shape), value, dtype=images.dtype)
    inside = empty[:, :, top : top + height, left : left + width]
    return pt.specify_shape(pt.set_subtensor(inside, images), (None, *shape))


def _missing(sides: Any, window: Pair, steps: Pair, border: Pair) -> Pair:
    """Return how many rows and columns the last windows, which the border cuts, lack.

    There is no window that starts beyond the border: Theano counts ceil(side / step) of them where
    the steps are at least as long as a window, and else those that reach a new pixel.
    """
    missing = []
    for side, length, step, pad in zip(sides, window, steps, border, strict=True):
        side = side + 2 * pad
        if step >= length:
            count = -(-side // step)
        else:
            count = max(0, -(-(side - length) // step)) + 1
        missing.append(max(0, (count - 1) * step + length - side))
    return missing[0], missing[1]


def _pair(value: Any) -> Pair:
    """Return two whole numbers from a pair, or twice one."""
    if value is None:
        raise TypeError("pool_2d: expected ws=(rows, columns), got None")
    pair = list(value) if isinstance(value, tuple | list | np.ndarray) else [value, value]
    return int(pair[0]), int(pair[1])
