"""``theano.tensor.signal.conv``: convolution of images without channels."""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt

from symng._checks import argument_error
from symng.legacy.theano._conv import conv2d as conv2d_of_channels

__all__ = ["conv2d"]


def conv2d(
    input: Any,
    filters: Any,
    image_shape: Any = None,
    filter_shape: Any = None,
    border_mode: Any = "valid",
    subsample: tuple[int, int] = (1, 1),
    **options: Any,
) -> Any:
    """Convolve an image, or several, with a filter, or several.

    Parameters
    ----------
    input : tensor of shape (height, width) or (N, height, width)
        The images.
    filters : tensor of shape (rows, columns) or (count, rows, columns)
        The filters.
    image_shape, filter_shape : tuple of int, optional
        The shapes, where they are known.
    border_mode, subsample
        As for ``theano.tensor.nnet.conv2d``.
    **options
        Told Theano how to unroll loops; ignored here.

    Returns
    -------
    tensor of shape (N, count, positions down, positions across)
        Without the first axis for one image, without the second for one filter.
    """
    images, kernels = pt.as_tensor_variable(input), pt.as_tensor_variable(filters)
    for name, value in (("input", images), ("filters", kernels)):
        if value.type.ndim not in (2, 3):
            raise argument_error(name, "a tensor of two or three axes", value)
    responses = conv2d_of_channels(
        images[None, None] if images.type.ndim == 2 else images[:, None],
        kernels[None, None] if kernels.type.ndim == 2 else kernels[:, None],
        _of_channels(image_shape),
        _of_channels(filter_shape),
        border_mode,
        subsample,
    )
    every = slice(None)
    return responses[every if images.type.ndim == 3 else 0, every if kernels.type.ndim == 3 else 0]


def _of_channels(shape: Any) -> Any:
    """Return a shape with an axis of one channel, and one for the number where it has none."""
    return shape and ((1,) * (3 - len(shape)) + tuple(shape[:-2]) + (1, *shape[-2:]))
