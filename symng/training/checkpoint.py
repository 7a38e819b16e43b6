"""Save and load the state of a run: named arrays and some text in one npz file, without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symng._files import DamagedFileError, read_sealed, write_npz

META = "symng_checkpoint"
"""The entry that holds the text and marks a checkpoint."""

# The first had no checksum of all its content.
_FORMATS = (1, 2)


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
    write_npz(path, entries_of(arrays, meta))


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
        If the file is damaged, is not a checkpoint, or was written by a later version. Sizes and
        checksums are compared first: a damaged file asks for no more memory than it is long.
    OSError
        If the file cannot be read, for example because there is none or it is a device.

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
    arrays, is_sealed = read_sealed(path, "a file written by save_checkpoint", hint)
    try:
        record = json.loads(arrays.pop(META).tobytes())
        version = record["format"]
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedFileError(
            f"path: expected a file written by save_checkpoint, got {name!r}, an npz file of "
            f"something else. {hint}"
        ) from error
    if version not in _FORMATS:
        raise ValueError(
            f"path: expected a checkpoint of format {_FORMATS[-1]}, got {name!r} of format "
            f"{version}, written by another version of symng. Load it with that version, or "
            "restart the run."
        )
    names, meta = record.get("arrays"), record.get("meta")
    if not isinstance(names, list) or not isinstance(meta, dict):
        raise DamagedFileError(
            f"path: expected a checkpoint with names and text, got {name!r} without: the file is "
            f"damaged. {hint}"
        )
    if list(arrays) != names:
        raise DamagedFileError(
            f"path: expected the arrays {', '.join(map(str, names))}, got {name!r} with "
            f"{', '.join(arrays) or 'none'}: the file is damaged. {hint}"
        )
    if version > 1 and not is_sealed:
        raise DamagedFileError(
            f"path: expected a checksum of all content, got {name!r} without one: the file was "
            f"altered. {hint}"
        )
    return arrays, meta


def entries_of(
    arrays: Mapping[str, ArrayLike], meta: Mapping[str, object] | None
) -> dict[str, np.ndarray]:
    """Return what a checkpoint has in its file, by name, or refuse what cannot be stored."""
    for name, value in (("arrays", arrays), ("meta", {} if meta is None else meta)):
        if not isinstance(value, Mapping):
            raise TypeError(
                f"{name}: expected a mapping of names to values, got {type(value).__name__}."
            )
    if META in arrays:
        raise ValueError(
            f"arrays: expected names other than {META!r}, which the file format uses. Rename that "
            "array."
        )
    try:
        # With the names of the arrays, so that a lost one is noticed.
        text = json.dumps(
            {"format": _FORMATS[-1], "arrays": list(arrays), "meta": dict(meta or {})},
            default=_plain,
        )
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"meta: expected numbers, text, None, and lists and mappings of them ({error}). Put "
            "arrays into the argument arrays."
        ) from error
    entries = {META: np.frombuffer(text.encode(), dtype="uint8")}
    entries |= {name: np.asarray(array) for name, array in arrays.items()}
    return entries


def _plain(value: object) -> object:
    """Return a NumPy scalar as a Python one, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not allowed")
