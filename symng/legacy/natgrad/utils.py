"""Small functions of ``natgrad``: graphs with other inputs, local contrast, printed times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.rebuild import rebuild

# The standard deviation of the Gaussian of `lcn`, in pixels.
_LCN_STD = 1.591


def safe_clone(cost: Any, old_vars: Sequence[Any], new_vars: Sequence[Any]) -> Any:
    """Return a graph with variables replaced, all at once.

    Parameters
    ----------
    cost : variable or list of variables
        The graph.
    old_vars, new_vars : sequence of variables
        What to replace and by what, in pairs; a new variable may depend on an old one.

    Returns
    -------
    variable or list of variables
        The new graph.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from symng.legacy.natgrad import safe_clone
    >>> x, y = pt.dscalar("x"), pt.dscalar("y")
    >>> float(safe_clone(x - y, [x, y], [y, x]).eval({x: 1.0, y: 3.0}))
    2.0
    """
    several = isinstance(cost, list | tuple)
    outputs = list(cost) if several else [cost]
    cloned = rebuild(outputs, dict(zip(old_vars, new_vars, strict=True)))
    return cloned if several else cloned[0]


def softmax(x: TensorVariable) -> TensorVariable:
    """Return the softmax of each row, without overflow.

    Parameters
    ----------
    x : symbolic matrix
        Pre-activations, one row an example.

    Returns
    -------
    symbolic matrix
        Probabilities; each row sums to 1.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.natgrad import softmax
    >>> softmax(pt.constant(np.array([[0.0, 0.0], [800.0, 0.0]]))).eval().tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    return pt.special.softmax(x, axis=-1)


def const(value: Any) -> TensorVariable:
    """Return a constant in floatX.

    Parameters
    ----------
    value : array_like
        The numbers.

    Returns
    -------
    symbolic constant
        The numbers in ``pytensor.config.floatX``.

    Examples
    --------
    >>> from symng.legacy.natgrad import const
    >>> const(2).data.tolist()
    2.0
    """
    return pt.constant(np.asarray(value, dtype=pytensor.config.floatX))


def print_time(secs: float) -> str:
    """Return a duration as text, in seconds, minutes or hours; it prints nothing.

    Parameters
    ----------
    secs : float
        The duration in seconds.

    Returns
    -------
    str
        Three digits after the point, and the unit.

    Examples
    --------
    >>> from symng.legacy.natgrad import print_time
    >>> print_time(150.0)
    ' 2.500 min'
    """
    if secs < 120.0:
        return f"{secs:6.3f} sec"
    if secs <= 3600:
        return f"{secs / 60:6.3f} min"
    return f"{secs / 3600:6.3f} h  "


def print_mem(context: Any = None) -> None:
    """Do nothing: it printed the memory of a GPU where Theano had one.

    Parameters
    ----------
    context : object, optional
        Without effect.

    Examples
    --------
    >>> from symng.legacy.natgrad import print_mem
    >>> print_mem("start")
    """


def lcn(x: TensorVariable, ishape: Sequence[int], size: int = 9) -> TensorVariable:
    """Normalize the local contrast of images.

    With G a Gaussian window of ``size`` pixels, standard deviation 1.591 and sum 1, and zeros
    beyond the border,

        v = x - G * x,  s = sqrt(G * v^2),  y = (v / max(s, mean(s)) + 2.5) / 5,

    the mean being that over the pixels of an image.

    Parameters
    ----------
    x : symbolic tensor
        Images, as rows of a matrix or as arrays of height and width.
    ishape : pair of int
        Height and width.
    size : int, default 9
        Height and width of the window; odd.

    Returns
    -------
    symbolic tensor of shape (N, 1, height, width)
        The normalized images.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.natgrad import lcn
    >>> images = pt.constant(np.random.default_rng(0).random((3, 64)))
    >>> lcn(images, (8, 8)).eval().shape
    (3, 1, 8, 8)
    """
    height, width = (int(n) for n in ishape)
    images = x.reshape((x.shape[0], 1, height, width))
    # The Gaussian is a product of two, one along each axis: a matrix from the left and the right.
    down, across = (pt.constant(_window(n, size).astype(x.dtype)) for n in (height, width))

    def smooth(image: TensorVariable) -> TensorVariable:
        return down @ image @ across.T

    v = images - smooth(images)
    s = pt.sqrt(smooth(pt.sqr(v)))
    scaled = v / pt.maximum(s, s.mean(axis=(2, 3), keepdims=True))
    return (scaled + np.asarray(2.5, x.dtype)) / np.asarray(5, x.dtype)


def _window(n: int, size: int) -> np.ndarray:
    """Return the n x n matrix that smooths n numbers by the Gaussian, with zeros beyond them."""
    offsets = np.arange(size) - (size - 1) / 2
    weights = np.exp(-((offsets / _LCN_STD) ** 2) / 2)
    distance = np.arange(n)[None, :] - np.arange(n)[:, None] + size // 2
    inside = (distance >= 0) & (distance < size)
    return np.where(inside, weights[distance.clip(0, size - 1)], 0) / weights.sum()
