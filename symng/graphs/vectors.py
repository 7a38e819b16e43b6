"""Parameters as one flat vector and back.

The flat vector holds the parameters in the order given, each raveled in C order. Shapes are those
that the shared variables have when the graph is built. They are constants in the graph: JAX needs
that, and it compiles fastest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng.graphs.types import Integer, Params


def param_shapes(params: Params) -> list[tuple[int, ...]]:
    """Return the shapes that the shared variables ``params`` have now."""
    return [tuple(np.shape(p.get_value(borrow=True))) for p in params]


def count(params: Params) -> int:
    """Return the number of scalars in ``params``, the length of their flat vector."""
    return sum(math.prod(shape) for shape in param_shapes(params))


def ravel(tensors: Sequence[TensorVariable], params: Params) -> TensorVariable:
    """Join ``tensors`` of the shapes of ``params`` into one flat vector.

    They come in the order given, each in C order. The length is a constant in the graph: on JAX the
    state of a solver cannot have a computed length.
    """
    parts = [
        t.reshape((math.prod(shape),))
        for t, shape in zip(tensors, param_shapes(params), strict=True)
    ]
    return parts[0] if len(parts) == 1 else pt.concatenate(parts)


def split(vector: TensorVariable, params: Params) -> list[TensorVariable]:
    """Cut a flat vector into tensors of the shapes of ``params``; the inverse of `ravel`."""
    return cut(vector, param_shapes(params))


def cut(vector: TensorVariable, shapes: Sequence[tuple[int, ...]]) -> list[TensorVariable]:
    """Cut a flat vector into tensors of the given shapes, one after another."""
    tensors, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        tensors.append(vector[start:stop].reshape(shape))
        start = stop
    return tensors


def positions(v: TensorVariable) -> TensorVariable:
    """Return 1, 2, ... as int64, as many as the vector ``v`` has entries."""
    # A sum: without `symng.enable_jax`, PyTensor's JAX backend has no arange of computed length.
    return pt.cumsum(pt.ones_like(v, dtype="int64"))


def random_signs(
    like: TensorVariable,
    seed: Integer,
    draws: int | None = None,
    *,
    axis: int = 0,
    offset: Integer = 0,
) -> TensorVariable:
    """Return random signs of the shape and dtype of ``like``, determined by ``seed``.

    With ``draws`` there are that many of them, along a new first axis. Positions along ``axis`` are
    counted from ``offset``, so that a chunk gets the signs that its examples have in the batch.

    The signs are bits of a hash of seed and position, not draws from a generator: not every backend
    returns a generator's next state.
    """
    axes = [
        positions(like[(0,) * k + (slice(None),) + (0,) * (like.ndim - k - 1)])
        for k in range(like.ndim)
    ]
    axes[axis] = axes[axis] + offset
    if draws is not None:
        axes.insert(0, pt.as_tensor_variable(np.arange(draws)))
    bits = _hash(pt.as_tensor_variable(seed))
    for numbers in axes:
        bits = _hash(numbers + pt.expand_dims(bits, -1).astype("int64"))
    return 1 - 2 * (bits & np.uint64(1)).astype(like.dtype)


def _hash(x: TensorVariable) -> TensorVariable:
    """Scramble words of 32 bits by the hash "lowbias32" of C. Wellons."""
    mask = np.uint64(0xFFFFFFFF)
    x = x.astype("uint64") & mask
    for divisor, factor in ((1 << 16, 0x7FEB352D), (1 << 15, 0x846CA68B)):
        x = ((x ^ (x // np.uint64(divisor))) * np.uint64(factor)) & mask
    return x ^ (x // np.uint64(1 << 16))


def get_flat(params: Params) -> np.ndarray:
    """Return the values of shared variables as one flat NumPy vector (a copy)."""
    return np.concatenate([np.asarray(p.get_value(borrow=True)).ravel() for p in params])


def set_flat(params: Params, values: ArrayLike) -> None:
    """Set shared variables from one flat NumPy vector; the inverse of `get_flat`."""
    values = np.asarray(values)
    if values.shape != (count(params),):
        raise argument_error("values", f"a vector of {count(params)} numbers", values)
    start = 0
    for param, shape in zip(params, param_shapes(params), strict=True):
        stop = start + math.prod(shape)
        param.set_value(values[start:stop].astype(param.type.dtype).reshape(shape))  # a copy
        start = stop
