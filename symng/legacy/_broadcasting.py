"""Let the graph know, or forget, which axes have length 1."""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable


def unbroadcast(x: Any, *axes: int) -> Any:
    """Return a tensor whose lengths along some axes the graph does not know."""
    x = pt.as_tensor_variable(x)
    axes = tuple(axis % x.type.ndim for axis in axes)
    if not any(x.type.shape[axis] == 1 for axis in axes):
        return x
    # The length of a slice whose end is computed is not known to the graph; this end is far enough.
    end = x.shape.sum()
    return x[tuple(slice(end if axis in axes else None) for axis in range(x.type.ndim))]


def patternbroadcast(x: Any, broadcastable: Any) -> Any:
    """Return a tensor of which the graph knows which axes have length 1."""
    x = pt.as_tensor_variable(x)
    ones = [axis for axis, one in enumerate(broadcastable) if one]
    others = [axis for axis, one in enumerate(broadcastable) if not one]
    return unbroadcast(pt.specify_broadcastable(x, *ones), *others)


def fit(value: Any, target: Any) -> Any:
    """Return the update of a shared variable, which may know of axes of length 1 only those of it.

    PyTensor refuses an update that is known to have such an axis where the variable may have any.
    """
    if not isinstance(value, TensorVariable) or not isinstance(target, TensorVariable):
        return value
    if value.type.ndim != target.type.ndim:
        return value
    pairs = zip(value.type.shape, target.type.shape, strict=True)
    axes = [axis for axis, (got, known) in enumerate(pairs) if got == 1 and known is None]
    return unbroadcast(value, *axes) if axes else value
