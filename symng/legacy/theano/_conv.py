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
        The shapes, where the graph does not know them; ``image_shape`` is the older name.
    border_mode : {"valid", "full", "half"}, int or pair of int, default "valid"
        How many zeros are put around the images: none, the filter's size less one, half the size of
        the filter, or as many as said.
    subsample : pair of int, default (1, 1)
        The strides.
    filter_flip : bool, default True
        Flip the filters, which makes it a convolution; else it is a correlation.
    **options
        What told Theano how to unroll loops; without effect.

    Returns
    -------
    tensor of shape (N, count, positions down, positions across)
        The responses.
    """
    if isinstance(options.get("filter_dilation", (1, 1)), tuple | list) and tuple(
        options.get("filter_dilation", (1, 1))
    ) != (1, 1):
        raise NotImplementedError("conv2d: filter_dilation. Put zeros between the filters' pixels.")
    images = with_shape("input_shape", input, input_shape or image_shape)
    kernels = with_shape("filter_shape", filters, filter_shape)
    rows, columns = kernels.type.shape[2:]
    if filter_flip:
        kernels = kernels[:, :, ::-1, ::-1]
    images = pad(images, _border(border_mode, rows, columns))
    down, across = (int(step) for step in subsample)
    if down == across:
        return convolve(images, kernels, stride=down, layout="NCHW")
    return convolve(images, kernels, layout="NCHW")[:, :, ::down, ::across]


def with_shape(argument: str, value: Any, shape: Any) -> Any:
    """Return a tensor of four axes whose shape, its first axis aside, the graph knows."""
    value = pt.as_tensor_variable(value)
    known = list(value.type.shape)
    if isinstance(value, SharedVariable):
        known = list(value.get_value(borrow=True).shape)
    for axis, length in enumerate(shape or ()):
        if length is not None:
            known[axis] = int(length.data if isinstance(length, Constant) else length)
    needed = known if argument == "filter_shape" else known[1:]
    if len(known) != 4 or None in needed:
        raise argument_error(
            argument,
            "four numbers, or a tensor of four axes whose shape the graph knows",
            value if shape is None else shape,
            f"Give {argument}=(first, channels, rows, columns).",
        )
    return value if tuple(known) == value.type.shape else pt.specify_shape(value, known)


def pad(images: Any, border: tuple[int, int], value: float = 0.0) -> Any:
    """Return images with a border of one value around height and width."""
    down, across = border
    if not down and not across:
        return images
    count = images.shape[0]
    _, channels, height, width = images.type.shape
    empty = pt.full(
        (count, channels, height + 2 * down, width + 2 * across), value, dtype=images.dtype
    )
    inside = empty[:, :, down : down + height, across : across + width]
    padded = pt.set_subtensor(inside, images)
    return pt.specify_shape(padded, (None, channels, height + 2 * down, width + 2 * across))


def _border(mode: Any, rows: int, columns: int) -> tuple[int, int]:
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
