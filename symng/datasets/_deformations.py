"""The five deformations of NISTP, functions of an image, a generator and a complexity.

Images are squares of `SIDE` pixels, float64 from 0 (background) to 1 (ink). Outside of the frame
they are 0, and what leaves it is lost. A complexity of 0 leaves an image as it is. Each deformation
has a function that draws its parameters and one that applies them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

SIDE = 32

_ROWS, _COLUMNS = np.indices((SIDE, SIDE))

# The windows of which a pixel takes the extreme, from thin to thick. Erosion uses the first five.
_SQUARE = [
    np.ones(shape, bool)
    for shape in ((1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3), (3, 4), (4, 3))
]
FOOTPRINTS = [*_SQUARE[:3], ndimage.generate_binary_structure(2, 1), *_SQUARE[3:]]
_EROSIONS, _DILATIONS = 5, len(FOOTPRINTS)

# The disk of the pinch: all pixels nearer to the center than half the side.
_RADIUS = SIDE / 2
_CENTER = (SIDE - 1) / 2
_DISTANCE = np.hypot(_ROWS - _CENTER, _COLUMNS - _CENTER)
_SINE = np.sin(np.pi / 2 * np.minimum(_DISTANCE / _RADIUS, 1.0))  # 1 on the rim and outside


def slant(image: np.ndarray, rng: np.random.Generator, complexity: float) -> np.ndarray:
    """Move row i by i s pixels, s ~ U[-c, c], and center the image again."""
    return shift_rows(image, rng.uniform(-complexity, complexity))


def shift_rows(image: np.ndarray, slope: float) -> np.ndarray:
    """Move row i to the right by round(i s) - round(s side / 2) pixels."""
    shifts = np.round(_ROWS * slope) - np.round(slope * SIDE / 2)
    return _look_up(image, _ROWS, _COLUMNS - shifts.astype(np.intp))


def thickness(image: np.ndarray, rng: np.random.Generator, complexity: float) -> np.ndarray:
    """Erode or dilate with one of the thinnest footprints, or do neither, all equally likely."""
    erosions, dilations = math.ceil(_EROSIONS * complexity), math.ceil(_DILATIONS * complexity)
    choice = int(rng.integers(erosions + dilations + 1))
    if choice < erosions:
        return thicken(image, ndimage.grey_erosion, FOOTPRINTS[choice])
    if choice < erosions + dilations:
        return thicken(image, ndimage.grey_dilation, FOOTPRINTS[choice - erosions])
    return image


def thicken(
    image: np.ndarray, change: Callable[..., np.ndarray], footprint: np.ndarray
) -> np.ndarray:
    """Erode or dilate, and rescale so that the darkest pixel is as dark as before."""
    changed = change(image, footprint=footprint)
    darkest = changed.max()
    # Blank, or too thin for this erosion: a label without a digit would teach nothing.
    if darkest == 0.0:
        return image
    return changed / darkest * image.max()


def affine(image: np.ndarray, rng: np.random.Generator, complexity: float) -> np.ndarray:
    """Map the plane with a random matrix and a random shift."""
    (a, b), (d, e) = np.eye(2) + rng.uniform(-0.4 * complexity, 0.4 * complexity, (2, 2))
    c, f = rng.uniform(-4.5 * complexity, 4.5 * complexity, 2)
    return map_affinely(image, (a, b, c, d, e, f))


def map_affinely(image: np.ndarray, coefficients: Sequence[float]) -> np.ndarray:
    """Give (x, y) the pixel at (a x + b y + c, d x + e y + f), from the upper left corner."""
    a, b, c, d, e, f = coefficients
    x, y = _COLUMNS + 0.5, _ROWS + 0.5
    rows, columns = np.floor(d * x + e * y + f), np.floor(a * x + b * y + c)
    return _look_up(image, rows.astype(np.intp), columns.astype(np.intp))


def elastic(image: np.ndarray, rng: np.random.Generator, complexity: float) -> np.ndarray:
    """Displace every pixel by two smooth random fields."""
    strength = complexity ** (1 / 3)
    noise = rng.uniform(-1.0, 1.0, (2, SIDE, SIDE))
    width = 10.0 - 7.0 * strength
    return displace(image, 10.0 * strength * smooth(noise, width))


def smooth(fields: np.ndarray, width: float) -> np.ndarray:
    """Average with weights exp(-(d / width)^2) at distance d on each axis, up to round(0.75 width).

    The fields are periodic, so that they are as strong at the border of the frame as inside.
    """
    sigma, radius = width / math.sqrt(2.0), math.floor(0.75 * width + 0.5)
    return ndimage.gaussian_filter(fields, sigma, mode="wrap", radius=radius, axes=(1, 2))


def displace(image: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """Give each pixel the value fields[0] rows below and fields[1] columns right of it."""
    return _interpolate(image, _ROWS + fields[0], _COLUMNS + fields[1])


def pinch(image: np.ndarray, rng: np.random.Generator, complexity: float) -> np.ndarray:
    """Shrink the middle of the image or blow it up."""
    return pinch_by(image, rng.uniform(-complexity, 0.7 * complexity))


def pinch_by(image: np.ndarray, amount: float) -> np.ndarray:
    """Move the value at d sin(pi d / 2 r)^(-p) to distance d < r from the center, on each ray."""
    factor = _SINE**-amount
    return _interpolate(
        image, _CENTER + (_ROWS - _CENTER) * factor, _CENTER + (_COLUMNS - _CENTER) * factor
    )


def _look_up(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the pixels at integer positions, 0 outside of the image."""
    inside = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    return np.where(inside, image[rows % SIDE, columns % SIDE], 0.0)


def _interpolate(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return bilinearly interpolated values at any positions; the image is 0 outside."""
    return ndimage.map_coordinates(image, (rows, columns), order=1, mode="grid-constant")


DEFORMATIONS = {
    "slant": slant,
    "thickness": thickness,
    "affine": affine,
    "elastic": elastic,
    "pinch": pinch,
}
