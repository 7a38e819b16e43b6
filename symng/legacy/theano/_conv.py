"""``theano.tensor.nnet.conv2d``: channels first, filters flipped."""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant

from symng._checks import argument_error
from symng.models import convolve

__all__ = ["conv2d"]


def conv2d(
    input: Any,
    filters: Any,
    input_shape: Any = None,
    filter_shape: Any = None,
    border_mode: Any = "valid",
    subsample: tuple[int, int] = (1, 1),
    filter_flip: bool = True,
    image_shape: Any = None,
    **options: Any,
) -> Any:
    """Convolve images of shape (N, channels, height, width) with filters.

    Parameters
    ----------
    input : tensor of shape (N, channels, height, width)
        The images.
    filters : tensor of shape (count, channels, rows, columns)
        The filters.
    input_shape, filter_shape : tuple of int or None, optional
        The shapes, as far as they are known; ``image_shape`` is the older name. With them, or where
        the graph knows them, the convolution is one matrix product.
    border_mode : {"valid", "full", "half"}, int or pair of int, default "valid"
        How many zeros are put around the images: none, the filter's size less one, half the size of
        the filter, or as many as said.
    subsample : pair of int, default (1, 1)
        The strides.
    filter_flip : bool, default True
        Flip the filters, which makes it a convolution; else it is a correlation.
    **options
        Told Theano how to unroll loops; ignored here.

    Returns
    -------
    tensor of shape (N, count, positions down, positions across)
        The responses.
    """
    if isinstance(options.get("filter_dilation", (1, 1)), tuple | list) and tuple(
        options.get("filter_dilation", (1, 1))
    ) != (1, 1):
        raise NotImplementedError("conv2d: filter_dilation. Put zeros between the filters' pixels.")
    images = with_shape(input, input_shape or image_shape)
    kernels = with_shape(filters, filter_shape)
    if filter_flip:
        kernels = kernels[:, :, ::-1, ::-1]
    images = pad(images, _border(border_mode, *_sides(kernels)))
    down, across = (int(step) for step in subsample)
    if None in (*images.type.shape[1:], *kernels.type.shape):
        return _of_any_size(images, kernels)[:, :, ::down, ::across]
    if down == across:
        return convolve(images, kernels, stride=down, layout="NCHW")
    return convolve(images, kernels, layout="NCHW")[:, :, ::down, ::across]


def with_shape(value: Any, shape: Any) -> Any:
    """Return a tensor of four axes, with what is known of its shape."""
    value = pt.as_tensor_variable(value)
    if value.type.ndim != 4:
        raise argument_error("input, filters", "tensors of four axes", value)
    known = list(value.type.shape)
    if isinstance(value, SharedVariable):
        known = list(value.get_value(borrow=True).shape)
    for axis, length in enumerate(shape or ()):
        if length is not None:
            known[axis] = int(length.data if isinstance(length, Constant) else length)
    return value if tuple(known) == value.type.shape else pt.specify_shape(value, known)


def _sides(tensor: Any) -> list[Any]:
    """Return the lengths of the last two axes, as numbers where the graph knows them."""
    known = tensor.type.shape[2:]
    return [tensor.shape[axis + 2] if n is None else n for axis, n in enumerate(known)]


def _of_any_size(images: Any, kernels: Any) -> Any:
    """Return the correlation of images with filters, of sizes that the graph does not know."""
    patches = patches_of(images, *_sides(kernels))
    return pt.tensordot(patches, kernels, [[1, 4, 5], [1, 2, 3]]).dimshuffle(0, 3, 1, 2)


def patches_of(images: Any, rows: Any, columns: Any, steps: tuple[int, int] = (1, 1)) -> Any:
    """Return the patches, of shape (N, channels, down, across, rows, columns)."""
    (height, width), (down, across) = _sides(images), steps
    top, left = pt.arange(0, height - rows + 1, down), pt.arange(0, width - columns + 1, across)
    i = top.dimshuffle(0, "x", "x", "x") + pt.arange(rows).dimshuffle("x", "x", 0, "x")
    j = left.dimshuffle("x", 0, "x", "x") + pt.arange(columns).dimshuffle("x", "x", "x", 0)
    return images[:, :, i, j]


def pad(images: Any, border: tuple[Any, Any]) -> Any:
    """Return images with a border of zeros around height and width."""
    down, across = border
    if all(isinstance(n, int) and n == 0 for n in border):
        return images
    count, channels, height, width = images.shape
    empty = pt.zeros((count, channels, height + 2 * down, width + 2 * across), dtype=images.dtype)
    inside = empty[:, :, down : down + height, across : across + width]
    known: list[Any] = [
        length + 2 * more if isinstance(length, int) and isinstance(more, int) else None
        for length, more in zip(images.type.shape, (0, 0, down, across), strict=True)
    ]
    return pt.specify_shape(pt.set_subtensor(inside, images), known)


def _border(mode: Any, rows: Any, columns: Any) -> tuple[Any, Any]:
    """Return the rows and columns of zeros on each side."""
    if isinstance(mode, int):
        return mode, mode
    if isinstance(mode, tuple | list) and len(mode) == 2:
        return int(mode[0]), int(mode[1])
    known = {
        "valid": (0, 0),
        "full": (rows - 1, columns - 1),
        "half": (rows // 2, columns // 2),
    }
    if mode not in known:
        raise argument_error(
            "border_mode", '"valid", "full", "half", a whole number or a pair of them', mode
        )
    return known[mode]
