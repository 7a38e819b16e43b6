"""The layers of ``natgrad``, with the weights that its random numbers gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.legacy.natgrad.utils import softmax
from symng.models import convolve, max_pool

Activation = Callable[[TensorVariable], TensorVariable]


def _uniform(rng: np.random.RandomState, bound: float, size: Sequence[int]) -> np.ndarray:
    """Return uniform numbers below a bound, in the order in which the original draws them."""
    return rng.uniform(low=-bound, high=bound, size=size)


def _shared(values: np.ndarray, name: str) -> Any:
    return pytensor.shared(np.asarray(values, dtype=pytensor.config.floatX), name=name)


class HiddenLayerStandard:
    """A dense layer, f(x W + b), with Glorot's uniform weights and b = 0.

    Parameters
    ----------
    rng : numpy.random.RandomState
        Draws W, uniform up to sqrt(6 / (n_in + n_out)), four times that for a sigmoid.
    input : symbolic matrix
        One row an example.
    n_in, n_out : int
        Inputs and units.
    activation : callable, default pytensor.tensor.sigmoid
        f.
    W, b : shared variables, optional
        To be used instead of new ones; both or none.
    name : str, default "tmp"
        W is called ``name_W``, b ``name_b``.

    Attributes
    ----------
    output : symbolic matrix
        f(x W + b).
    params : list
        W and b.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.natgrad import HiddenLayerStandard
    >>> layer = HiddenLayerStandard(np.random.RandomState(0), pt.dmatrix("x"), 3, 2)
    >>> [p.name for p in layer.params], layer.W.get_value().shape
    (['tmp_W', 'tmp_b'], (3, 2))
    """

    def __init__(
        self,
        rng: np.random.RandomState,
        input: TensorVariable,
        n_in: int,
        n_out: int,
        activation: Activation = pt.sigmoid,
        W: Any = None,
        b: Any = None,
        name: str = "tmp",
    ) -> None:
        self.input, self.W, self.b = input, W, b
        if W is None and b is None:
            values, bias = self._initial(rng, n_in, n_out, activation)
            self.W, self.b = _shared(values, f"{name}_W"), _shared(bias, f"{name}_b")
        self.output = activation(pt.dot(input, self.W) + self.b)
        self.params = [self.W, self.b]

    @staticmethod
    def _initial(
        rng: np.random.RandomState, n_in: int, n_out: int, activation: Activation
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the first W and b."""
        values = _uniform(rng, np.sqrt(6.0 / (n_in + n_out)), (n_in, n_out))
        return (4 * values if activation is pt.sigmoid else values), np.zeros(n_out)


class HiddenLayerLW(HiddenLayerStandard):
    """A dense layer with orthogonal weights; for a sigmoid, four times those and b = -2.

    Parameters
    ----------
    rng : numpy.random.RandomState
        Draws a matrix, whose nearest orthogonal one W is a multiple of.
    input, n_in, n_out, W, b, name
        As for `HiddenLayerStandard`.
    activation : callable, default pytensor.tensor.tanh
        f. W is orthogonal for tanh and sigmoid, else as in `HiddenLayerStandard`.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.natgrad import HiddenLayerLW
    >>> layer = HiddenLayerLW(np.random.RandomState(0), pt.dmatrix("x"), 3, 2)
    >>> W = layer.W.get_value()
    >>> np.allclose(W.T @ W, np.eye(2))
    True
    """

    def __init__(
        self,
        rng: np.random.RandomState,
        input: TensorVariable,
        n_in: int,
        n_out: int,
        activation: Activation = pt.tanh,
        W: Any = None,
        b: Any = None,
        name: str = "tmp",
    ) -> None:
        super().__init__(rng, input, n_in, n_out, activation, W, b, name)

    @staticmethod
    def _initial(
        rng: np.random.RandomState, n_in: int, n_out: int, activation: Activation
    ) -> tuple[np.ndarray, np.ndarray]:
        values = _uniform(rng, np.sqrt(6.0 / (n_in + n_out)), (n_in, n_out))
        if activation not in (pt.tanh, pt.sigmoid):
            return values, np.zeros(n_out)
        u, _, vt = np.linalg.svd(values, full_matrices=False)
        if activation is pt.tanh:
            return u @ vt, np.zeros(n_out)
        return 4 * (u @ vt), np.full(n_out, -2.0)


class SoftmaxLayerStandard(HiddenLayerStandard):
    """A dense layer of softmax outputs, with Glorot's uniform weights and b = 0.

    Parameters
    ----------
    rng, input, n_in, n_out, W, b, name
        As for `HiddenLayerStandard`.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.natgrad import SoftmaxLayerStandard
    >>> layer = SoftmaxLayerStandard(np.random.RandomState(0), pt.dmatrix("x"), 3, 2)
    >>> float(layer.output.eval({layer.input: np.ones((1, 3))}).sum())
    1.0
    """

    def __init__(
        self,
        rng: np.random.RandomState,
        input: TensorVariable,
        n_in: int,
        n_out: int,
        W: Any = None,
        b: Any = None,
        name: str = "tmp",
    ) -> None:
        super().__init__(rng, input, n_in, n_out, softmax, W, b, name)


class LeNetConvPoolLayerStandard:
    """Convolution, max pooling, bias and sigmoid, with images as (N, channels, height, width).

    Parameters
    ----------
    rng : numpy.random.RandomState
        Draws W, uniform up to 4 sqrt(6 / (fan-in + fan-out)).
    input : symbolic tensor4
        Images.
    filter_shape : sequence of 4 int
        Filters, channels, rows and columns. Filters are flipped, as Theano's are.
    image_shape : sequence of 4 int
        That of ``input``; its first entry has no effect.
    poolsize : pair of int, default (2, 2)
        Rows and columns of a pool. Pixels that fill no pool are left out.
    name : str, default "conv"
        W is called ``name_W``, b ``name_b``.
    W, b : shared variables, optional
        To be used instead of new ones.

    Attributes
    ----------
    output : symbolic tensor4
        sigmoid(pool(x * W) + b).
    params : list
        W and b.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.natgrad import LeNetConvPoolLayerStandard
    >>> x = pt.dtensor4("x")
    >>> layer = LeNetConvPoolLayerStandard(np.random.RandomState(0), x, (2, 1, 3, 3), (5, 1, 8, 8))
    >>> layer.output.eval({x: np.zeros((5, 1, 8, 8))}).shape
    (5, 2, 3, 3)
    """

    bias = 0.0

    def __init__(
        self,
        rng: np.random.RandomState,
        input: TensorVariable,
        filter_shape: Sequence[int],
        image_shape: Sequence[int],
        poolsize: Sequence[int] = (2, 2),
        name: str = "conv",
        W: Any = None,
        b: Any = None,
    ) -> None:
        if image_shape[1] != filter_shape[1]:
            expected = f"as many channels as filter_shape, {filter_shape[1]}"
            raise argument_error("image_shape", expected, Verbatim(f"{image_shape[1]}"))
        self.input = input
        self.W = (
            _shared(self._initial(rng, filter_shape, poolsize), f"{name}_W") if W is None else W
        )
        self.b = _shared(np.full(filter_shape[0], self.bias), f"{name}_b") if b is None else b
        images = pt.specify_shape(input, (None, *(int(n) for n in image_shape[1:])))
        filters = pt.specify_shape(self.W, tuple(int(n) for n in filter_shape))
        response = convolve(images, filters[:, :, ::-1, ::-1], layout="NCHW")
        rows, columns = (int(n) for n in poolsize)
        pooled = max_pool(response, (rows, columns), layout="NCHW")
        self.output = pt.sigmoid(pooled + self.b[:, None, None])
        self.params = [self.W, self.b]

    def _initial(
        self, rng: np.random.RandomState, shape: Sequence[int], poolsize: Sequence[int]
    ) -> np.ndarray:
        """Return the first W."""
        fan_in = np.prod(shape[1:])
        fan_out = shape[0] * np.prod(shape[2:]) // np.prod(poolsize)
        return _uniform(rng, np.sqrt(6.0 / (fan_in + fan_out)) * 4.0, shape)


class LeNetConvPoolLayerLW(LeNetConvPoolLayerStandard):
    """The same layer with orthogonal filters, times four, and b = -2.

    Parameters
    ----------
    rng, input, filter_shape, image_shape, poolsize, name, W, b
        As for `LeNetConvPoolLayerStandard`.

    Notes
    -----
    The original multiplies the left singular vectors of a filter by its singular values, where
    `HiddenLayerLW` takes the right singular vectors; here filters are orthogonal matrices, too.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.legacy.natgrad import LeNetConvPoolLayerLW
    >>> x = pt.dtensor4("x")
    >>> layer = LeNetConvPoolLayerLW(np.random.RandomState(0), x, (2, 1, 3, 3), (5, 1, 8, 8))
    >>> W = layer.W.get_value()[0, 0]
    >>> np.allclose(W.T @ W, 16 * np.eye(3))
    True
    """

    bias = -2.0

    def _initial(
        self, rng: np.random.RandomState, shape: Sequence[int], poolsize: Sequence[int]
    ) -> np.ndarray:
        u, _, vt = np.linalg.svd(super()._initial(rng, shape, poolsize), full_matrices=False)
        return 4 * (u @ vt)
