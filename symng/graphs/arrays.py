"""Check arrays against the symbolic variables that they are values of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_finite, describe


def check_batch(
    name: str,
    arrays: Any,
    variables: Sequence[TensorVariable],
    axes: Sequence[int],
    *,
    finite: bool = True,
) -> list[np.ndarray]:
    """Return the arrays of a batch as NumPy arrays that fit ``variables``, or refuse them.

    This checks number, dtype, number of axes, known lengths, equal numbers of examples (along
    ``axes``), at least one example and, with ``finite``, finite values. Only lossless casts are
    made.
    """
    names = ", ".join(str(v) for v in variables)
    expected = f"{len(variables)} array{'s' if len(variables) != 1 else ''} ({names})"
    if not isinstance(arrays, tuple | list):
        hint = _way_to_arrays(arrays, variables) or "A one-element tuple needs a comma: (X,)."
        raise argument_error(name, f"a tuple of {expected}", arrays, hint, TypeError)
    if len(arrays) != len(variables):
        raise argument_error(
            name, expected, Verbatim(f"{len(arrays)}"), "Give one for each, in this order."
        )
    checked = [check_array(f"{name}, {v}", a, v) for a, v in zip(arrays, variables, strict=True)]
    lengths = [a.shape[axis] for a, axis in zip(checked, axes, strict=True)]
    if len(set(lengths)) > 1:
        got = ", ".join(
            f"{v} has {n} (axis {a})" for v, n, a in zip(variables, lengths, axes, strict=True)
        )
        hint = "Where examples run along another axis, give Objective(..., data_axes=...)."
        for v, a, axis in zip(variables, checked, axes, strict=True):
            others = {n for n, other in zip(lengths, variables, strict=True) if other is not v}
            if a.ndim == 2 and len(others) == 1 and a.shape[1 - axis] in others:
                hint = f"Is {v} transposed? Give its .T. {hint}"
        raise argument_error(name, "the same number of examples in all arrays", Verbatim(got), hint)
    if lengths and lengths[0] == 0:
        raise argument_error(
            name, "at least one example", Verbatim("0 examples"), "Leave empty batches out."
        )
    if finite:
        for a, v, axis in zip(checked, variables, axes, strict=True):
            check_finite(f"{name}, {v}", a, axis)
    return checked


def check_array(name: str, array: Any, variable: TensorVariable) -> np.ndarray:
    """Return ``array`` if its dtype and shape fit ``variable``."""
    dtype = np.dtype(variable.type.dtype)
    if np.ma.is_masked(array):
        masked = Verbatim(f"a masked array with {np.ma.count_masked(array)} values masked")
        raise argument_error(
            name,
            "an array without masked values",
            masked,
            "Fill them, or leave those examples out.",
        )
    if hint := _way_to_arrays(array, ()):
        raise argument_error(name, f"an array of {variable.ndim} axes", array, hint, TypeError)
    given = array
    try:
        array = np.asarray(given)
    except ValueError:
        raise argument_error(
            name, f"an array of {variable.ndim} axes", given, "Give all rows one length."
        ) from None
    except Exception as error:  # such as a tensor on a device, or one that keeps gradients
        raise argument_error(
            name,
            "a value that NumPy converts to an array",
            given,
            f"NumPy says: {error}",
            TypeError,
        ) from error
    # Lists and numbers carry no dtype of their own, tables do.
    if isinstance(given, Sequence | Number) and array.dtype.kind in "fiu" and dtype.kind == "f":
        array = array.astype(dtype)
    if array.dtype.kind == "O" and hasattr(given, "dtypes"):
        raise argument_error(
            name,
            f"dtype {dtype}",
            Verbatim(f"{describe(given)} with columns that are no numbers"),
            "Leave those columns out, or encode them as numbers.",
            TypeError,
        )
    if array.dtype != dtype:
        # Only to a wider dtype of the same kind: an int array where floats are meant is most often
        # a mistake.
        same_kind = array.dtype.kind == dtype.kind or {array.dtype.kind, dtype.kind} == {"i", "u"}
        if not (same_kind and np.can_cast(array.dtype, dtype)):
            raise argument_error(
                name,
                f"dtype {dtype}",
                array,
                f"Convert it with .astype({str(dtype)!r}).",
                TypeError,
            )
        array = array.astype(dtype)
    if array.ndim != variable.ndim:
        raise argument_error(
            name,
            f"an array of {variable.ndim} axes",
            array,
            "Reshape it, or declare the variable so.",
        )
    known = variable.type.shape
    if any(n not in (None, m) for n, m in zip(known, array.shape, strict=True)):
        raise argument_error(
            name, f"shape {known} (None: any)", array, "Reshape it, or declare the variable so."
        )
    return array


def _way_to_arrays(value: Any, variables: Sequence[Any]) -> str:
    """Return how to turn a value that is often passed by mistake into arrays; empty if unknown."""
    if isinstance(value, Variable):
        return "Give its values: the symbolic variable is for the graph."
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        return "Sparse matrices are not taken: give its .toarray()."
    if isinstance(value, Mapping):
        keys = [str(v) for v in variables]
        named = (
            f"tuple(data[name] for name in {keys})"
            if keys and set(keys) <= set(map(str, value))
            else "its values"
        )
        return f"Give {named}, in the order of inputs and targets."
    if isinstance(value, str | bytes | os.PathLike):
        return (
            "Load the file, for instance by numpy.load."
            if variables or not isinstance(value, str)
            else ""
        )
    if (
        isinstance(value, Iterable)
        and not hasattr(value, "__array__")
        and not hasattr(value, "__len__")
    ):
        return (
            "A generator is exhausted after one pass: collect all examples in arrays. Batches are "
            "drawn from these."
        )
    if variables and isinstance(value, Iterable) and not hasattr(value, "__array__"):
        return (
            "Collect all examples in arrays. Batches are drawn from these."  # such as a data loader
        )
    if hasattr(value, "columns") and len(variables) > 1:
        names = ", ".join(f"columns for {v}" for v in variables)
        return f"Give an array for each: ({names})."
    return ""
