"""Check arrays against the symbolic variables whose values they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_finite, describe


def check_batch(
    name: str,
    arrays: object,
    variables: Sequence[TensorVariable],
    axes: Sequence[int],
    *,
    finite: bool = True,
) -> list[np.ndarray]:
    """Return the arrays of a batch as arrays that fit ``variables``, or refuse them.

    JAX arrays are checked on their device and stay there; others become NumPy arrays.

    The checks are: the number of arrays, their dtypes, numbers of axes and known lengths; that all
    have the same number of examples (along ``axes``), at least one; and with ``finite``, that all
    values are finite. Arrays are cast to a wider dtype where one is needed; lists and numbers are
    cast to floats, too.
    """
    names = ", ".join(str(v) for v in variables)
    expected = f"{len(variables)} array{'s' if len(variables) != 1 else ''} ({names})"
    if not isinstance(arrays, tuple | list):
        hint = _hint_for(arrays, variables) or "A one-element tuple needs a comma: (X,)."
        raise argument_error(name, f"a tuple of {expected}", arrays, hint, TypeError)
    if len(arrays) != len(variables):
        raise argument_error(
            name, expected, Verbatim(f"{len(arrays)}"), "Give one for each, in this order."
        )
    checked = [check_array(f"{name}, {v}", a, v) for a, v in zip(arrays, variables, strict=True)]
    check_examples(name, checked, variables, axes)
    if finite:
        for a, v, axis in zip(checked, variables, axes, strict=True):
            check_finite(f"{name}, {v}", a, axis)
    return checked


def is_on_device(array: object) -> bool:
    """Return whether ``array`` is a JAX array, on whichever devices."""
    return hasattr(array, "addressable_shards")


def check_examples(
    name: str,
    arrays: Sequence[np.ndarray],
    variables: Sequence[TensorVariable],
    axes: Sequence[int],
) -> None:
    """Refuse arrays with different numbers of examples, or with none."""
    lengths = [a.shape[axis] for a, axis in zip(arrays, axes, strict=True)]
    if len(set(lengths)) > 1:
        got = ", ".join(
            f"{v} has {n} (axis {axis})"
            for v, n, axis in zip(variables, lengths, axes, strict=True)
        )
        hint = "Where examples run along another axis, give Objective(..., data_axes=...)."
        for v, a, axis in zip(variables, arrays, axes, strict=True):
            others = {n for n, other in zip(lengths, variables, strict=True) if other is not v}
            if a.ndim == 2 and len(others) == 1 and a.shape[1 - axis] in others:
                hint = f"Is {v} transposed? Give its .T. {hint}"
        raise argument_error(name, "the same number of examples in all arrays", Verbatim(got), hint)
    if lengths and lengths[0] == 0:
        raise argument_error(
            name, "at least one example", Verbatim("0 examples"), "Leave empty batches out."
        )


def check_array(name: str, array: object, variable: TensorVariable) -> np.ndarray:
    """Return ``array`` in the dtype of ``variable``, or refuse it if the shape does not fit."""
    values = _in_dtype_of(name, _as_numpy(name, array, variable), array, variable)
    hint = "Reshape it, or declare the variable with this shape."
    if values.ndim != variable.ndim:
        raise argument_error(name, f"an array of {variable.ndim} axes", values, hint)
    lengths = variable.type.shape
    if any(n not in (None, m) for n, m in zip(lengths, values.shape, strict=True)):
        raise argument_error(name, f"shape {lengths} (None: any)", values, hint)
    return values


def _as_numpy(name: str, array: object, variable: TensorVariable) -> np.ndarray:
    """Return ``array`` as NumPy converts it; refuse masked values and what is not an array.

    A JAX array is returned as it is.
    """
    if is_on_device(array):
        return array  # type: ignore[return-value]
    if np.ma.is_masked(array):
        raise argument_error(
            name,
            "an array without masked values",
            Verbatim(f"a masked array with {np.ma.count_masked(array)} values masked"),
            "Fill them, or leave those examples out.",
        )
    expected = f"an array of {variable.ndim} axes"
    if hint := _hint_for(array, ()):
        raise argument_error(name, expected, array, hint, TypeError)
    try:
        return np.asarray(array)
    except ValueError:
        raise argument_error(name, expected, array, "Give all rows one length.") from None
    except Exception as error:  # such as that of a tensor on a GPU, or one that tracks gradients
        raise argument_error(
            name,
            "a value that NumPy converts to an array",
            array,
            f"NumPy says: {error}",
            TypeError,
        ) from error


def _in_dtype_of(
    name: str, values: np.ndarray, given: object, variable: TensorVariable
) -> np.ndarray:
    """Return ``values``, which were ``given``, in the dtype of ``variable``, or refuse them."""
    dtype = np.dtype(variable.type.dtype)
    if values.dtype == dtype:
        return values
    # Lists and numbers carry no dtype of their own, tables do.
    if isinstance(given, Sequence | Number) and values.dtype.kind in "fiu" and dtype.kind == "f":
        return values.astype(dtype)
    # Only to a wider dtype of the same kind: integers where floats are meant are mostly mistakes.
    same_kind = values.dtype.kind == dtype.kind or {values.dtype.kind, dtype.kind} == {"i", "u"}
    if same_kind and np.can_cast(values.dtype, dtype):
        return values.astype(dtype)
    got: object = values
    hint = f"Convert it with .astype({str(dtype)!r})."
    if values.dtype.kind == "O" and hasattr(given, "dtypes"):
        kind = "that hold numbers as objects"
        if not _are_numbers(values):
            kind, hint = "that are not numbers", "Leave them out, or encode them as numbers."
        got = Verbatim(f"{describe(given)} with columns {kind}")
    raise argument_error(name, f"dtype {dtype}", got, hint, TypeError)


def _hint_for(value: object, variables: Sequence[TensorVariable]) -> str:
    """Return what to give instead of ``value``, if it is a common mistake for arrays; else "".

    ``variables`` are those of a batch if ``value`` was passed as one, and empty if it was passed
    as a single array.
    """
    is_array = hasattr(value, "__array__")
    if isinstance(value, Variable):
        return "Give its values: the symbolic variable is for the graph."
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        return "Sparse matrices are not supported: give its .toarray()."
    if isinstance(value, Mapping):
        keys = [str(v) for v in variables]
        is_complete = keys and set(keys) <= set(map(str, value))
        given = f"tuple(data[name] for name in {keys})" if is_complete else "its values"
        return f"Give {given}, in the order of inputs and targets."
    if isinstance(value, str) and not variables:
        return ""  # as an array it is refused for its dtype
    if isinstance(value, str | bytes | os.PathLike):
        return "Load the file, for instance with numpy.load."
    if isinstance(value, Iterable) and not is_array:
        if variables:
            return "Give the arrays of one batch. symng.minimize takes a stream of batches as data."
        return "" if hasattr(value, "__len__") else "Collect its values in an array."
    if variables and hasattr(value, "__getitem__") and hasattr(value, "__len__") and not is_array:
        return "Give its arrays. symng.minimize takes a loader of its batches, too."
    if hasattr(value, "columns") and len(variables) > 1:
        names = ", ".join(f"columns for {v}" for v in variables)
        return f"Give an array for each: ({names})."
    return ""


def refuse_arrays(
    product: Callable[[TensorVariable], TensorVariable], hint: str
) -> Callable[[TensorVariable], TensorVariable]:
    """Return ``product`` with a check that refuses arrays, such as those that SciPy passes."""
    if getattr(product, "refuses_arrays", False):
        return product

    def checked(v: Any) -> TensorVariable:
        if isinstance(v, np.ndarray):
            raise argument_error("v", "a symbolic vector", v, hint, TypeError)
        return product(v)

    checked.refuses_arrays = True  # type: ignore[attr-defined]
    return checked


def _are_numbers(values: np.ndarray) -> bool:
    """Return whether all entries of an array of objects are numbers."""
    return all(isinstance(value, Number) for value in values.ravel())
