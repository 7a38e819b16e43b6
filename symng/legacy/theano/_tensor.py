"""What differs in ``theano.tensor`` from `pytensor.tensor`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.type import TensorType as PyTensorType

from symng.legacy._broadcasting import patternbroadcast, unbroadcast
from symng.legacy.theano._gradient import Lop, Rop, grad

__all__ = [
    "Lop",
    "Rop",
    "TensorType",
    "clone",
    "col",
    "flatten",
    "grad",
    "make_list",
    "matrix",
    "norm",
    "patternbroadcast",
    "reshape",
    "round",
    "row",
    "scalar",
    "split",
    "stack",
    "tensor",
    "tensor3",
    "tensor4",
    "tensor5",
    "unbroadcast",
    "vector",
]


class _TypeOfBroadcasts(type):
    """Make PyTensor's types instances of `TensorType`, and a call of it return one of them."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, PyTensorType)

    def __call__(
        cls, dtype: Any, broadcastable: Any = None, name: str | None = None, **options: Any
    ) -> Any:
        lengths = options.pop("shape", broadcastable) or ()
        # False marked an axis of any length, and equals 0 in Python.
        shape = tuple(1 if n is True else None if n is False else n for n in lengths)
        return PyTensorType(dtype, shape=shape, name=name)


class TensorType(metaclass=_TypeOfBroadcasts):
    """The type of tensors, from a dtype and which axes have length 1: `pytensor`'s."""


def tensor(
    dtype: str | None = None, broadcastable: Any = (), name: str | None = None, **options: Any
) -> Any:
    """Return a variable of a dtype, with axes that have length 1 or not."""
    if "shape" in options or dtype is None:
        return pt.tensor(name, dtype=dtype, **options)
    make: Any = TensorType
    return make(dtype, broadcastable)(name)


def _maker(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function from a name and a dtype, in this order, to a variable."""

    @functools.wraps(make)
    def of_name_and_dtype(name: str | None = None, dtype: Any = None, **options: Any) -> Any:
        return make(name, dtype=dtype, **options)

    return of_name_and_dtype


scalar, vector, matrix = _maker(pt.scalar), _maker(pt.vector), _maker(pt.matrix)
row, col = _maker(pt.row), _maker(pt.col)
tensor3, tensor4, tensor5 = _maker(pt.tensor3), _maker(pt.tensor4), _maker(pt.tensor5)


def reshape(x: Any, newshape: Any, ndim: int | None = None, name: str | None = None) -> Any:
    """Return a tensor in another shape, with ``ndim`` axes where the shape does not say it."""
    reshaped = pt.reshape(x, newshape, ndim=ndim)
    reshaped.name = name or reshaped.name
    return reshaped


def stack(*tensors: Any, **options: Any) -> Any:
    """Join tensors along a new axis: ``stack([a, b], axis)``, or the older ``stack(a, b)``."""
    first = tensors[0] if tensors else options.pop("tensors")
    if isinstance(first, list | tuple):
        axis = tensors[1] if len(tensors) > 1 else options.get("axis", 0)
        return pt.stack(list(first), axis=axis)
    if hasattr(first, "type") and len(tensors) == 2 and isinstance(tensors[1], int):
        return pt.stack(first, axis=tensors[1])
    return pt.stack(list(tensors), axis=options.get("axis", 0))


def flatten(x: Any, outdim: int = 1, ndim: int | None = None) -> Any:
    """Return a tensor of ``outdim`` axes, of which the last holds what is left of the others."""
    return pt.flatten(x, outdim if ndim is None else ndim)


def split(x: Any, splits_size: Any, n_splits: int | None = None, axis: int = 0) -> list[Any]:
    """Return the ``n_splits`` parts of a tensor along an axis, of the lengths ``splits_size``."""
    parts = pt.split(x, splits_size, n_splits=n_splits, axis=axis)
    return list(parts) if isinstance(parts, list | tuple) else [parts]


def round(a: Any, mode: str = "half_away_from_zero") -> Any:
    """Return whole numbers; halves go away from zero, as in Theano, not to the even number."""
    return pt.round(a, mode)


def norm(x: Any, ord: int | float = 2) -> Any:
    """Return (sum of abs(x)^ord)^(1 / ord) over all entries; the greatest for infinity."""
    x = pt.as_tensor_variable(x)
    if ord == float("inf"):
        return abs(x).max()
    return (abs(x) ** ord).sum() ** (1.0 / ord)


def make_list(values: Any) -> Any:
    """Return a list of PyTensor's own with these values."""
    from pytensor.typed_list import make_list as of_variables

    return of_variables(values)


def clone(*arguments: Any, **options: Any) -> Any:
    """Return a graph with other variables in it: ``theano.clone``."""
    from symng.legacy.theano._top import clone as of_graphs

    return of_graphs(*arguments, **options)
