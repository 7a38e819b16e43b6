"""Save and load the state of a run: named arrays and some text in one npz file, without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symng._files import read_npz, write_npz

# The entry that holds the text and marks a checkpoint.
_META = "symng_checkpoint"
_FORMAT = 1


def save_checkpoint(
    path: str | os.PathLike[str],
    arrays: Mapping[str, ArrayLike],
    meta: Mapping[str, object] | None = None,
) -> None:
    """Write arrays and a JSON-able mapping to one file.

    Parameters
    ----------
    path : path-like
        Name of the file, used exactly as given. An existing file is replaced only once the new one
        is complete, so a full disk or an interruption never costs the older checkpoint.
    arrays : mapping of str to array_like
        Parameters, state of the optimizer and the like; any shape, any dtype but object.
    meta : mapping of str to JSON-able values, optional
        Numbers, text, None, and lists and mappings of them; NumPy scalars are stored as Python
        numbers.

    Raises
    ------
    TypeError
        If ``arrays`` or ``meta`` is not a mapping, or ``meta`` holds something that JSON cannot.
    ValueError
        If an array holds Python objects or has the reserved name ``symng_checkpoint``.
    OSError
        If the file cannot be written. An older file of that name is unchanged.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import symng
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.npz")
    ...     symng.save_checkpoint(path, {"W1": np.eye(2)}, {"step": 12})
    ...     arrays, meta = symng.load_checkpoint(path)
    >>> arrays["W1"].sum(), meta
    (np.float64(2.0), {'step': 12})
    """
    for name, value in (("arrays", arrays), ("meta", {} if meta is None else meta)):
        if not isinstance(value, Mapping):
            raise TypeError(
                f"{name}: expected a mapping of names to values, got {type(value).__name__}."
            )
    if _META in arrays:
        raise ValueError(
            f"arrays: expected names other than {_META!r}, which the file format uses. Rename that "
            "array."
        )
    try:
        # With the names of the arrays, so that a lost one is noticed.
        text = json.dumps(
            {"format": _FORMAT, "arrays": list(arrays), "meta": dict(meta or {})}, default=_plain
        )
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"meta: expected numbers, text, None, and lists and mappings of them ({error}). Put "
            "arrays into the argument arrays."
        ) from error
    entries = {_META: np.frombuffer(text.encode(), dtype="uint8")}
    entries |= {name: np.asarray(array) for name, array in arrays.items()}
    write_npz(path, entries)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    Parameters
    ----------
    path : path-like
        Name of the file.

    Returns
    -------
    arrays : dict of str to ndarray
        In the order in which they were saved, dtype and shape unchanged.
    meta : dict
        As JSON gives it back: tuples have become lists, keys text.

    Raises
    ------
    ValueError
        If the file is damaged, is not a checkpoint, or was written by a later version.
    OSError
        If the file cannot be read, for example because there is none.

    Examples
    --------
    >>> import os, tempfile
    >>> import symng
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.npz")
    ...     symng.save_checkpoint(path, {"w": [1.0, 2.0]}, {"seed": 3})
    ...     symng.load_checkpoint(path)
    ({'w': array([1., 2.])}, {'seed': 3})
    """
    name, hint = os.fspath(path), "Load an earlier checkpoint, or restart the run without one."
    arrays = read_npz(path, "a file written by save_checkpoint", hint)
    try:
        record = json.loads(arrays.pop(_META).tobytes())
        version = record["format"]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"path: expected a file written by save_checkpoint, got {name!r}, an npz file of "
            f"something else. {hint}"
        ) from error
    if version != _FORMAT:
        raise ValueError(
            f"path: expected a checkpoint of format {_FORMAT}, got {name!r} of format {version}, "
            "written by another version of symng. Load it with that version, or restart the run."
        )
    if list(arrays) != record["arrays"]:
        raise ValueError(
            f"path: expected the arrays {', '.join(record['arrays'])}, got {name!r} with "
            f"{', '.join(arrays) or 'none'}: the file is damaged. {hint}"
        )
    return arrays, record["meta"]


def _plain(value: object) -> object:
    """Turn a NumPy scalar into a Python one for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not allowed")
