"""Pooling of images whose size the graph does not know: shifted images, one for each pixel."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytensor.tensor as pt

Pair = tuple[int, int]


def pool_by_shifts(
    images: Any, window: Pair, steps: Pair, border: Pair, ignore_border: bool, mode: str
) -> Any:
    """Reduce windows of the last two axes; the arguments are those of `pool_2d`."""
    sides = images.shape[-2], images.shape[-1]
    axes = list(zip(sides, window, steps, border, strict=True))
    counts = [_count(*axis, ignore_border) for axis in axes]
    # Room for the last windows, which may reach beyond the border.
    room = [
        pt.maximum(side + 2 * pad, (count - 1) * step + length)
        for (side, length, step, pad), count in zip(axes, counts, strict=True)
    ]
    shape = (*(images.shape[axis] for axis in range(images.type.ndim - 2)), *room)
    outside = np.asarray(-np.inf if mode == "max" else 0.0, dtype=images.dtype)
    inside = tuple(slice(pad, pad + side) for side, _, _, pad in axes)
    empty: Any = pt.alloc(outside, *shape)
    padded = pt.set_subtensor(empty[(..., *inside)], images)
    if mode == "max":
        # Not pt.maximum, which gives the derivative to one of several that are equal.
        return pt.stack(_shifts(padded, window, steps, counts)).max(axis=0)
    total = sum(_shifts(padded, window, steps, counts))
    if mode == "sum":
        return total
    if mode == "average_inc_pad":
        inside = tuple(slice(side + 2 * pad) for side, _, _, pad in axes)
    zeros: Any = pt.alloc(np.asarray(0.0, dtype=images.dtype), *room)
    ones = pt.set_subtensor(zeros[inside], np.asarray(1.0, dtype=images.dtype))
    return total / pt.maximum(sum(_shifts(ones, window, steps, counts)), 1)


def _count(side: Any, length: int, step: int, pad: int, ignore_border: bool) -> Any:
    """Return the number of windows along an axis, by Theano's rule."""
    side = side + 2 * pad
    if ignore_border:
        return (side - length) // step + 1
    if step >= length:
        return (side - 1) // step + 1
    return pt.maximum(0, (side - 1 - length + step) // step) + 1


def _shifts(images: Any, window: Pair, steps: Pair, counts: list[Any]) -> list[Any]:
    """Return for each pixel of a window the images of that pixel in all windows."""
    shifted = []
    for pixel in itertools.product(*map(range, window)):
        axes = zip(pixel, counts, steps, strict=True)
        slices = [slice(start, start + (n - 1) * step + 1, step) for start, n, step in axes]
        shifted.append(images[(..., *slices)])
    return shifted
