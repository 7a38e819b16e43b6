"""``theano.tensor.nnet.neighbours``: the patches of images as rows of a matrix, and back."""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt

from symng.legacy.theano._conv import patches_of

__all__ = ["images2neibs", "neibs2images"]


def images2neibs(
    ten4: Any, neib_shape: tuple[int, int], neib_step: Any = None, mode: str = "valid"
) -> Any:
    """Return the patches of images of shape (N, channels, height, width), one in each row.

    Parameters
    ----------
    ten4 : tensor of four axes
        The images.
    neib_shape : pair of int
        Rows and columns of a patch.
    neib_step : pair of int, optional
        From patch to patch, default ``neib_shape``.
    mode : {"valid", "ignore_borders"}, default "valid"
        Patches that the border cuts are left out in both.

    Returns
    -------
    matrix of shape (N * channels * patches, rows * columns)
        The patches of an image follow each other, row by row.
    """
    if mode not in ("valid", "ignore_borders"):
        raise NotImplementedError(f"images2neibs: mode={mode!r}. Pad the images yourself.")
    rows, columns = neib_shape
    patches = patches_of(pt.as_tensor_variable(ten4), rows, columns, neib_step or neib_shape)
    return patches.reshape((-1, rows * columns))


def neibs2images(neibs: Any, neib_shape: tuple[int, int], original_shape: Any) -> Any:
    """Return the images of which patches without overlap are the rows of ``neibs``."""
    count, channels, height, width = [original_shape[axis] for axis in range(4)]
    rows, columns = neib_shape
    grid = pt.as_tensor_variable(neibs).reshape(
        (count, channels, height // rows, width // columns, rows, columns)
    )
    return grid.dimshuffle(0, 1, 2, 4, 3, 5).reshape((count, channels, height, width))
