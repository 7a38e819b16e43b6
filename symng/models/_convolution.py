"""Convolution as one matrix product over patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_choice, check_instance, check_number

Layout = Literal["NHWC", "NCHW"]
T = TypeVar("T")


def convolve(
    images: TensorVariable,
    filters: TensorVariable,
    bias: TensorVariable | None = None,
    stride: int = 1,
    layout: Layout = "NHWC",
) -> TensorVariable:
    """Slide filters over images, without a border and without flipping the filters.

    y[n, i, j, k] = sum_{a, b, c} images[n, s i + a, s j + b, c] filters[a, b, c, k] + bias[k], with
    the stride s: the cross-correlation that neural networks call a convolution. The patches at all
    positions are gathered into one matrix, which is multiplied with the matrix of the filters.

    Parameters
    ----------
    images : TensorVariable of shape (N, height, width) or (N, height, width, channels)
        Height, width and channels must be static. With ``layout="NCHW"``, of shape (N, channels,
        height, width).
    filters : TensorVariable of shape (rows, columns, count) or (rows, columns, channels, count)
        With as many axes as ``images``; a shared variable, or one of static shape. With
        ``layout="NCHW"``, of shape (count, channels, rows, columns).
    bias : TensorVariable of shape (count,), optional
        Added to the response of each filter; default none.
    stride : int, default 1
        Pixels from one position to the next, in both directions; at least 1. Pixels at the far
        border that no position reaches are ignored.
    layout : {"NHWC", "NCHW"}, default "NHWC"
        Where the channels are: last, or before height and width as in Theano, PyTorch and Caffe.

    Returns
    -------
    TensorVariable of shape (N, positions down, positions across, count)
        (height - rows) // stride + 1 positions down, likewise across; it may be the input of
        another convolution. With ``layout="NCHW"``, of shape (N, count, positions down, positions
        across).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the filters do not fit into the images.

    Notes
    -----
    It costs one matrix product forward and one back to the filters; another back to the images,
    unless these are data. The patches take N * positions * rows * columns * channels numbers; those
    of data are gathered once, outside of a solver's loop. For the gradient with respect to images
    JAX has to know how many there are: `symng.compile_step` and `symng.minimize` take care of that.

    Examples
    --------
    >>> import numpy as np
    >>> import pytensor, pytensor.tensor as pt
    >>> from symng.models import convolve
    >>> images = pt.tensor3("images", shape=(None, 3, 3), dtype="float64")
    >>> filters = pytensor.shared(np.array([[[1.0], [0.0]], [[0.0], [-1.0]]]))  # one, of 2 x 2
    >>> convolve(images, filters).eval({images: np.arange(9.0).reshape(1, 3, 3)})[0, :, :, 0]
    array([[-4., -4.],
           [-4., -4.]])
    """
    sides = check_images(images, layout)
    check_number("stride", stride, minimum=1, integer=True)
    stride = int(stride)
    *window, count = _shape_of_filters(filters, sides, layout)
    if bias is not None:
        check_instance("bias", bias, TensorVariable, "a symbolic vector, an entry for each filter")
        if bias.type.ndim != 1:
            raise argument_error("bias", "a symbolic vector, an entry for each filter", bias)

    down, across = (
        (side - size) // stride + 1 for side, size in zip(sides[:2], window[:2], strict=True)
    )
    pixels = int(np.prod(sides))
    patches = images.reshape((-1, pixels))[
        :, patch_indices(sides, window[:2], [stride] * 2, layout)
    ]
    matrix = patches.reshape((-1, int(np.prod(window))))
    # Inside a loop JAX has to know this shape, from which that of the derivative follows.
    known = pt.specify_shape(filters, _in_layout(layout, window, count))
    flat = known.reshape((count, -1)).T if layout == "NCHW" else known.reshape((-1, count))
    # pt.dot, not @: for matrices it builds a plain Dot, which every backend turns into one BLAS
    # call.
    responses = pt.dot(matrix, flat)
    if bias is not None:
        responses = responses + bias
    maps = responses.reshape((-1, down, across, count))
    return maps.dimshuffle(0, 3, 1, 2) if layout == "NCHW" else maps


_DECLARE = 'Declare it for example as pytensor.tensor.tensor3("images", shape=(None, 28, 28)).'


def check_images(images: TensorVariable, layout: str) -> list[int]:
    """Return height, width and channels, if any, of images in a layout, or refuse them."""
    check_choice("layout", layout, get_args(Layout))
    check_instance("images", images, TensorVariable, "a symbolic tensor", _DECLARE)
    if layout == "NCHW" and images.type.ndim != 4:
        raise argument_error("images", "(N, channels, height, width)", images, _DECLARE)
    if images.type.ndim not in (3, 4):
        raise argument_error(
            "images", "(N, height, width) or (N, height, width, channels)", images, _DECLARE
        )
    if None in images.type.shape[1:]:
        raise argument_error(
            "images", "height, width and channels known to the graph", images, _DECLARE
        )
    if images.type.dtype not in ("float32", "float64"):
        raise argument_error(
            "images",
            "an image of floating-point numbers",
            images,
            'Cast it with .astype("float32").',
        )
    sides = [int(side) for side in images.type.shape[1:]]
    return [*sides[1:], sides[0]] if layout == "NCHW" else sides


def _in_layout(layout: str, window: Sequence[T], count: T) -> tuple[T, ...]:
    """Return the axes of filters: rows, columns, channels if any, and count, in a layout."""
    if layout == "NCHW":
        rows, columns, channels = window
        return count, channels, rows, columns
    return *window, count


def _shape_of_filters(filters: TensorVariable, sides: list[int], layout: str) -> tuple[int, ...]:
    """Return rows, columns, channels if any, and count of the filters, if these fit the images."""
    check_instance(
        "filters",
        filters,
        TensorVariable,
        "a symbolic tensor",
        "Make it for example with pytensor.shared(array).",
    )
    window = ["rows", "columns", "channels"][: len(sides)]
    expected = f"({', '.join(_in_layout(layout, window, 'count'))})"
    if filters.type.ndim != len(sides) + 1:
        raise argument_error("filters", f"{expected}, as many axes as the images", filters)
    value = filters.get_value(borrow=True) if isinstance(filters, SharedVariable) else None
    lengths: tuple[int | None, ...] = filters.type.shape if value is None else value.shape
    shape = tuple(length for length in lengths if length is not None)
    if len(shape) < len(lengths):
        raise argument_error(
            "filters",
            "a shape known to the graph",
            filters,
            "Give a shared variable, or specify its shape.",
        )
    if layout == "NCHW":
        shape = (*shape[2:], shape[1], shape[0])
    if any(size < 1 for size in shape):
        raise argument_error(
            "filters", "at least one filter of at least one pixel", Verbatim(f"shape {shape}")
        )
    if any(size > side for size, side in zip(shape[:2], sides[:2], strict=True)):
        raise argument_error(
            "filters",
            f"at most the {sides[0]} x {sides[1]} pixels of an image",
            Verbatim(f"{shape[0]} x {shape[1]}"),
        )
    if shape[2:-1] != tuple(sides[2:]):
        raise argument_error(
            "filters", f"{sides[2]} channels, as the images have", Verbatim(f"{shape[2]}")
        )
    return shape


def patch_indices(
    sides: Sequence[int], window: Sequence[int], strides: Sequence[int], layout: str
) -> np.ndarray:
    """Return the indices in a flattened image of the pixels of all patches, patch by patch.

    Within a patch, pixels are in the order of the layout. ``sides`` are height, width and channels,
    if any; ``window`` is rows and columns, ``strides`` the steps down and across.
    """
    height, width = sides[:2]
    down, across = strides
    shape = (-1, height, width) if layout == "NCHW" else (height, width, -1)
    axes = (1, 2) if layout == "NCHW" else (0, 1)
    numbered = np.arange(np.prod(sides)).reshape(shape)
    patches = np.lib.stride_tricks.sliding_window_view(numbered, tuple(window), axis=axes)
    if layout == "NCHW":  # channels, down, across, rows, columns
        return patches[:, ::down, ::across].transpose(1, 2, 0, 3, 4).ravel()
    return patches[::down, ::across].transpose(0, 1, 3, 4, 2).ravel()
