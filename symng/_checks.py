"""Argument checks with one style of message.

Every message reads ``name: expected ..., got .... way out``, so that whoever meets it learns which argument is meant,
what it should be, what it was, and what to do.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Number, Real
from typing import Any, Literal, get_args

import numpy as np
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

FloatName = Literal["float32", "float64"]


def describe(value: Any) -> str:
    """Name a value in few words, for the "got" of a message."""
    if isinstance(value, TensorVariable):
        name = f" {value.name!r}" if value.name else ""
        return f"the symbolic tensor{name} of type {value.type}"
    if isinstance(value, Variable):
        return f"the symbolic variable {value} of type {value.type}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__} (not an instance of it)"
    kind, shape = type(value).__name__, getattr(value, "shape", None)
    if isinstance(shape, tuple):  # a table, say
        return f"a {kind} of shape {shape}"
    if isinstance(value, list | tuple) and len(value) > 20:
        return f"a {kind} of {len(value)} items"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an error in it must not hide the message
        text = f"a {kind}"
    if len(text) > 80:
        text = text[:77] + "..."
    return text if value is None or isinstance(value, bool) else f"{text} ({type(value).__name__})"


def problem(name: str, expected: str, got: Any, way_out: str = "", error: type[Exception] = ValueError) -> Exception:
    """Return (not raise) the exception for an argument that is not what it should be.

    ``got`` is put through `describe` unless it is already a sentence, told by being wrapped as ``Words``.
    """
    text = got if isinstance(got, Words) else describe(got)
    message = f"{name}: expected {expected}, got {text}."
    return error(f"{message} {way_out}" if way_out else message)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "symng":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


class Words(str):
    """Text that `problem` prints as it stands instead of quoting it."""


def is_symbolic(value: Any) -> bool:
    """Tell whether ``value`` is a PyTensor variable."""
    return isinstance(value, Variable)


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    integer: bool = False,
    finite: bool = True,
    symbolic: bool = False,
    way_out: str = "",
) -> None:
    """Refuse ``value`` unless it is a number in range.

    ``minimum`` and ``maximum`` belong to the range, ``above`` and ``below`` do not. With ``symbolic=True`` a symbolic
    scalar passes too (its value cannot be checked). Booleans never pass.
    """
    parts = ["a whole number" if integer else "a finite number" if finite else "a number"]
    if minimum is not None:
        parts.append(f"at least {minimum}")
    if above is not None:
        parts.append(f"above {above}")
    if maximum is not None:
        parts.append(f"at most {maximum}")
    if below is not None:
        parts.append(f"below {below}")
    expected = parts[0] + (", " + " and ".join(parts[1:]) if parts[1:] else "")
    if symbolic:
        expected += " (or a symbolic scalar)"
        if is_symbolic(value):
            if getattr(value.type, "ndim", None) != 0:
                raise problem(name, expected, value, way_out, TypeError)
            if integer and "int" not in value.type.dtype:
                raise problem(name, expected, value, way_out, TypeError)
            return
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    kind = Integral if integer else Real
    if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
        raise problem(name, expected, value, way_out, TypeError)
    number: Any = value
    if (
        math.isnan(number)
        or (finite and math.isinf(number))
        or (minimum is not None and number < minimum)
        or (above is not None and number <= above)
        or (maximum is not None and number > maximum)
        or (below is not None and number >= below)
    ):
        raise problem(name, expected, value, way_out)


def check_choice(name: str, value: Any, choices: Iterable[str], way_out: str = "") -> None:
    """Refuse ``value`` unless it is one of the given words."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise problem(name, "one of " + ", ".join(repr(c) for c in choices), value, way_out)


def check_float(name: str, value: Any, way_out: str = "") -> FloatName:
    """Return the name of a dtype in which parameters and data can be, or refuse it."""
    try:
        dtype: Any = np.dtype(value).name
    except TypeError:
        dtype = value
    check_choice(name, dtype, get_args(FloatName), way_out)
    return dtype


def check_instance(name: str, value: Any, kinds: type | tuple[type, ...], expected: str, way_out: str = "") -> None:
    """Refuse ``value`` unless it is an instance of one of ``kinds``."""
    if not isinstance(value, kinds):
        raise problem(name, expected, value, way_out, TypeError)


def check_flag(name: str, value: Any) -> None:
    """Refuse ``value`` unless it is True or False."""
    if not isinstance(value, bool):
        raise problem(name, "True or False", value, error=TypeError)


def check_batch(
    name: str, arrays: Any, variables: Sequence[TensorVariable], axes: Sequence[int], *, finite: bool = True
) -> list[np.ndarray]:
    """Return the arrays of a batch as NumPy arrays that fit ``variables``, or refuse them.

    Checked are number, dtype, number of axes, known lengths, one number of examples (along ``axes``) for all, at least
    one example and, with ``finite``, that every value is. Nothing is cast but what loses nothing.
    """
    names = ", ".join(str(v) for v in variables)
    expected = f"{len(variables)} array{'s' if len(variables) != 1 else ''} ({names})"
    if not isinstance(arrays, tuple | list):
        way_out = _way_to_arrays(arrays, variables) or "Mind the comma of a tuple of one: (X,)."
        raise problem(name, f"a tuple of {expected}", arrays, way_out, TypeError)
    if len(arrays) != len(variables):
        raise problem(name, expected, Words(f"{len(arrays)}"), "Give one for each, in this order.")
    checked = [check_array(f"{name}, {v}", a, v) for a, v in zip(arrays, variables, strict=True)]
    lengths = [a.shape[axis] for a, axis in zip(checked, axes, strict=True)]
    if len(set(lengths)) > 1:
        got = ", ".join(f"{v} has {n} (axis {a})" for v, n, a in zip(variables, lengths, axes, strict=True))
        way_out = "Where examples run along another axis, give Objective(..., data_axes=...)."
        for v, a, axis in zip(variables, checked, axes, strict=True):
            others = {n for n, other in zip(lengths, variables, strict=True) if other is not v}
            if a.ndim == 2 and len(others) == 1 and a.shape[1 - axis] in others:
                way_out = f"Is {v} transposed? Give its .T. {way_out}"
        raise problem(name, "the same number of examples in all arrays", Words(got), way_out)
    if lengths and lengths[0] == 0:
        raise problem(name, "at least one example", Words("0 examples"), "Leave empty batches out.")
    if finite:
        for a, v, axis in zip(checked, variables, axes, strict=True):
            check_finite(f"{name}, {v}", a, axis)
    return checked


def check_array(name: str, array: Any, variable: TensorVariable) -> np.ndarray:
    """Return ``array`` if its dtype and shape fit ``variable``."""
    dtype = np.dtype(variable.type.dtype)
    if np.ma.is_masked(array):
        masked = Words(f"a masked array with {np.ma.count_masked(array)} values masked")
        raise problem(name, "an array without masked values", masked, "Fill them, or leave those examples out.")
    if way_out := _way_to_arrays(array, ()):
        raise problem(name, f"an array of {variable.ndim} axes", array, way_out, TypeError)
    given = array
    try:
        array = np.asarray(given)
    except ValueError:
        raise problem(name, f"an array of {variable.ndim} axes", given, "Give all rows one length.") from None
    except Exception as error:  # such as a tensor on a device, or one that keeps gradients
        raise problem(name, "what NumPy makes an array of", given, f"NumPy says: {error}", TypeError) from error
    # Lists and numbers carry no dtype of their own, tables do.
    if isinstance(given, Sequence | Number) and array.dtype.kind in "fiu" and dtype.kind == "f":
        array = array.astype(dtype)
    if array.dtype.kind == "O" and hasattr(given, "dtypes"):
        raise problem(name, f"dtype {dtype}", Words(f"{describe(given)} with columns that are no numbers"),
                      "Leave those columns out, or encode them as numbers.", TypeError)  # fmt: skip
    if array.dtype != dtype:
        # Only to a wider dtype of the same kind: an int array where floats are meant is most often a mistake.
        same_kind = array.dtype.kind == dtype.kind or {array.dtype.kind, dtype.kind} == {"i", "u"}
        if not (same_kind and np.can_cast(array.dtype, dtype)):
            raise problem(name, f"dtype {dtype}", array, f"Convert it with .astype({str(dtype)!r}).", TypeError)
        array = array.astype(dtype)
    if array.ndim != variable.ndim:
        raise problem(name, f"an array of {variable.ndim} axes", array, "Reshape it, or declare the variable so.")
    known = variable.type.shape
    if any(n not in (None, m) for n, m in zip(known, array.shape, strict=True)):
        raise problem(name, f"shape {known} (None: any)", array, "Reshape it, or declare the variable so.")
    return array


def _way_to_arrays(value: Any, variables: Sequence[Any]) -> str:
    """Say how to make arrays of what is often given for one, or for a tuple of them; empty where there is no need."""
    if isinstance(value, Variable):
        return "Give its values: the symbolic variable is for the graph."
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        return "Sparse matrices are not taken: give its .toarray()."
    if isinstance(value, Mapping):
        keys = [str(v) for v in variables]
        named = f"tuple(data[name] for name in {keys})" if keys and set(keys) <= set(map(str, value)) else "its values"
        return f"Give {named}, in the order of inputs and targets."
    if isinstance(value, str | bytes | os.PathLike):
        return "Load the file, for instance by numpy.load." if variables or not isinstance(value, str) else ""
    if isinstance(value, Iterable) and not hasattr(value, "__array__") and not hasattr(value, "__len__"):
        return "A generator is used up by one pass: collect all examples in arrays. Batches are drawn from these."
    if variables and isinstance(value, Iterable) and not hasattr(value, "__array__"):
        return "Collect all examples in arrays. Batches are drawn from these."  # such as a data loader
    if hasattr(value, "columns") and len(variables) > 1:
        names = ", ".join(f"columns for {v}" for v in variables)
        return f"Give an array for each: ({names})."
    return ""


def check_finite(name: str, array: np.ndarray, axis: int = 0) -> None:
    """Refuse an array with NaN or Inf, naming the first example along ``axis`` that has one."""
    if array.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum()):  # a sum costs a tenth of looking at each value
            return
    bad = ~np.isfinite(array)
    if not bad.any():  # the sum alone overflowed
        return
    others = tuple(a for a in range(array.ndim) if a != axis)
    examples = np.flatnonzero(bad.any(axis=others))
    what = "NaN" if np.isnan(array).any() else "Inf"
    raise problem(name, "finite values", Words(f"{what}, first in example {examples[0]} ({len(examples)} in all)"),
                  "Clean the data, or leave those examples out.")  # fmt: skip
