"""Curves-like images: one smooth stroke through three points on 28 x 28 pixels."""

from __future__ import annotations

import numpy as np

from symng._checks import FloatName, check_float, check_number

SIDE = 28
# Fitted to the published variance and error of PCA; see the notes of `curves`.
_POINTS = 33
_INK = 43.0
_BLUR = 0.418
_BLUR_PASSES = 4
# Images drawn from one random stream. Another number would give other images for the same seed.
_CHUNK = 250


def curves(
    n: int, seed: int = 0, dtype: FloatName | type[np.floating] | np.dtype = "float32"
) -> np.ndarray:
    """Make Curves-like images, calibrated to the published statistics of the Curves data set.

    Each image is one parabola x(t) = sum_k c_k t^k, 0 <= t <= 1, in the plane through three random
    points, inked at 33 uniform values of t; each point shares its ink bilinearly among its four
    nearest pixels. Four passes of a 3 x 3 blur and clipping to [0, 1] follow.

    Parameters
    ----------
    n : int
        Number of images, at least 1.
    seed : int, default 0
        At least 0. The same seed gives the same images, and a larger ``n`` only adds images at the
        end: ``curves(200, seed)[:100]`` equals ``curves(100, seed)``.
    dtype : {"float32", "float64"}, default "float32"
        Of the result.

    Returns
    -------
    ndarray of shape (n, 784)
        Gray values from 0 (background) to 1 (ink), rows of the 28 x 28 image one after the other.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Notes
    -----
    The original file is not distributed, and of its recipe [1]_ the amount of ink, the width of the
    blur and the distribution of the points are not published. Here the three heights are uniform on
    [2, 26], the three horizontal positions are sorted uniform numbers with gaps of at least 2, and
    two constants were fitted to two published numbers: the variance around the mean image, 17.0,
    and the squared error of PCA with 18 components, 5.90 per image. So the images look and weigh
    like Curves, but errors are not comparable digit for digit with those published on the original
    file. 20,000 images take a second or two, and a few megabytes besides the result.

    References
    ----------
    .. [1] G. E. Hinton and R. R. Salakhutdinov, "Reducing the dimensionality of data with neural
       networks", Science 313, 2006, supporting material.

    Examples
    --------
    >>> from symng.datasets import curves
    >>> images = curves(100, seed=1)
    >>> images.shape, str(images.dtype)
    ((100, 784), 'float32')
    >>> bool(images.min() == 0 and images.max() == 1)
    True
    """
    check_number("n", n, minimum=1, integer=True)
    check_number("seed", seed, minimum=0, integer=True)
    name = check_float("dtype", dtype)
    images = np.empty((n, SIDE * SIDE), dtype=name)
    for start in range(0, n, _CHUNK):
        # A chunk is always drawn in full, so that prefixes are equal.
        uniform = np.random.default_rng([int(seed), start // _CHUNK]).random((2, _CHUNK, 3))
        part = images[start : start + _CHUNK]
        part[:] = _draw(uniform[:, : len(part)]).reshape(len(part), -1)
    return images


def _draw(uniform: np.ndarray) -> np.ndarray:
    """Return images of shape (images, 28, 28) from uniform numbers of shape (2, images, 3)."""
    x = np.sort(20.0 * uniform[0], axis=1) + np.array([2.0, 4.0, 6.0])
    y = 2.0 + 24.0 * uniform[1]
    return np.clip(_blur(_ink(x @ _parabola(), y @ _parabola())), 0.0, 1.0)


def _parabola() -> np.ndarray:
    """Return the matrix from the values of a parabola at t = 0, 1/2, 1 to those at all t."""
    t = np.linspace(0.0, 1.0, _POINTS)
    return np.stack([(2 * t - 1) * (t - 1), 4 * t * (1 - t), t * (2 * t - 1)])


def _ink(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return images in which points of shape (images, points) ink their four nearest pixels."""
    inside = (x > -1) & (x < SIDE) & (y > -1) & (y < SIDE)
    image, _ = np.nonzero(inside)
    # A frame one pixel wide catches the ink that falls outside, and is cut away at the end.
    count, side = len(x), SIDE + 2
    x, y = x[inside] + 1, y[inside] + 1
    column, row = x.astype("int64"), y.astype("int64")
    right, below = x - column, y - row
    pixel = (image * side + row) * side + column
    frames = np.zeros((count, side, side))
    for shift, share in (
        (0, (1 - right) * (1 - below)),
        (1, right * (1 - below)),
        (side, (1 - right) * below),
        (side + 1, right * below),
    ):
        frames += np.bincount(pixel + shift, share, frames.size).reshape(frames.shape)
    return _INK / _POINTS * frames[:, 1:-1, 1:-1]


def _blur(images: np.ndarray) -> np.ndarray:
    """Convolve four times with [a/12 a/6 a/12; a/6 1-a a/6; a/12 a/6 a/12], padded with zeros."""
    padded = np.zeros((len(images), SIDE + 2, SIDE + 2))
    inner = padded[:, 1:-1, 1:-1]
    inner[:] = images
    for _ in range(_BLUR_PASSES):
        sides = padded[:, :, :-2] + padded[:, :, 2:]
        corners = sides[:, :-2] + sides[:, 2:]
        edges = sides[:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
        inner[:] = (1 - _BLUR) * inner + (_BLUR / 6) * edges + (_BLUR / 12) * corners
    return inner
