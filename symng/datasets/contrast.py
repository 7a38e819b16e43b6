"""Local contrast normalization of images."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from symng._checks import argument_error, check_choice, check_finite, check_number

Border = Literal["reflect", "zero"]

_CHUNK = 1000  # images filtered at a time, to bound the memory used besides images and result


def local_contrast_normalization(
    images: ArrayLike,
    sigma: float = 2.0,
    radius: int = 4,
    floor: float = 1e-4,
    *,
    border: Border = "reflect",
    offset: float = 0.0,
    scale: float = 1.0,
) -> np.ndarray:
    """Subtract from each pixel the mean around it, and divide by the deviation around it.

    v = x - G * x, s = sqrt(G * v^2), y = (v / max(s, mean(s), floor) + offset) / scale. G is a
    Gaussian window, cut off and normalized to sum 1, * a convolution, and mean(s) the mean over the
    image.

    Parameters
    ----------
    images : array_like of shape (N, height, width)
        Gray values of any scale.
    sigma : float, default 2.0
        Standard deviation of G in pixels, above 0.
    radius : int, default 4
        G has 2 radius + 1 pixels in each direction, by default 9 x 9; at least 1.
    floor : float, default 1e-4
        Smallest divisor, in the units of ``images``; above 0. It leaves images without contrast at
        zero.
    border : {"reflect", "zero"}, default "reflect"
        What the convolution sees beyond the border: the mirror image, or zeros. With zeros the
        result along the border depends on the brightness of the image.
    offset : float, default 0.0
        Added to the normalized pixels.
    scale : float, default 1.0
        What the sum is divided by, above 0. Offset 2.5 and scale 5 bring most pixels to [0, 1].

    Returns
    -------
    ndarray of shape (N, height, width)
        In float64 for float64 images, else in float32.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or an image holds NaN or Inf.

    References
    ----------
    .. [1] K. Jarrett, K. Kavukcuoglu, M. Ranzato and Y. LeCun, "What is the best multi-stage
       architecture for object recognition?", ICCV 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.datasets import local_contrast_normalization
    >>> images = np.random.default_rng(0).random((2, 28, 28))
    >>> normalized = local_contrast_normalization(images)
    >>> other = local_contrast_normalization(5 * images + 3)  # other brightness and contrast
    >>> np.allclose(other, normalized)
    True
    """
    from scipy import ndimage

    images = np.asarray(images)
    if images.ndim != 3 or images.dtype.kind not in "biuf":
        raise argument_error(
            "images", "an array of gray values of shape (N, height, width)", images
        )
    check_finite("images", images)
    check_number("sigma", sigma, above=0)
    check_number("radius", radius, minimum=1, integer=True)
    check_number("floor", floor, above=0)
    check_choice("border", border, get_args(Border))
    check_number("offset", offset)
    check_number("scale", scale, above=0)
    mode = "reflect" if border == "reflect" else "constant"
    dtype = "float64" if images.dtype == "float64" else "float32"

    def blur(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(
            x, sigma=(0.0, sigma, sigma), radius=(0, radius, radius), mode=mode
        )

    normalized = np.empty(images.shape, dtype=dtype)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK].astype(dtype)
        part -= blur(part)
        deviation = np.sqrt(blur(part * part))
        mean = deviation.mean(axis=(1, 2), keepdims=True)
        part /= np.maximum(np.maximum(deviation, mean), floor)
        normalized[start : start + _CHUNK] = (part + offset) / scale
    return normalized
