"""Read and write ``.npz`` files safely: no pickle, no partial file under the final name."""

from __future__ import annotations

import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

# What zipfile and NumPy have been seen to raise for a damaged file.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
)


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write`` on a new file in the folder of ``path``, then move that file over ``path``.

    If anything goes wrong (a full disk, Ctrl-C), an older file at ``path`` stays as it was and the
    new one is removed.

    Raises
    ------
    OSError
        When the file cannot be written; the message says what to do.
    TypeError
        When ``path`` is not a path.
    """
    _check_path(path)
    # A link is followed, so that the file it points to is replaced, not the link.
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(
            f"path: expected the name of a file, got {os.fspath(path)!r}, which is a folder or a "
            "device."
        )
    temporary = target.with_name(f".symng-{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        hint = f"Make the folder {str(target.parent)!r} first"
        if target.parent.is_dir():
            hint = (
                "The file that was there is unchanged; free some space or choose another folder, "
                "and save again"
            )
        reason = error.strerror or str(error)
        message = f"cannot write {os.fspath(path)!r}: {reason}. {hint}"
        raise OSError(error.errno or 0, message) from error


def _check_path(path: object) -> None:
    """Refuse what is not a path: `open` would take a number for a file that is already open."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: expected the name of a file, got {path!r} ({type(path).__name__}).")


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to exactly ``path`` as an npz file that `numpy.load` reads too."""

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                # Not numpy.savez: names are its keyword arguments, and "file" is taken.
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)

    for name, array in arrays.items():
        if not isinstance(name, str) or "\0" in name:
            raise ValueError(f"name of an array: expected text without NUL, got {name!r}.")
        if array.dtype.hasobject:
            raise ValueError(
                f"{name}: expected an array of numbers, booleans or text, got dtype {array.dtype}."
            )
    write_atomically(path, write)


def read_npz(path: str | os.PathLike[str], what: str, hint: str) -> dict[str, np.ndarray]:
    """Read all arrays of an npz file; ``what`` says in messages what file is expected.

    Raises
    ------
    OSError
        When the file cannot be opened.
    ValueError
        When it is damaged or something else; the message ends with ``hint``.
    """
    _check_path(path)
    arrays = {}
    # Outside of the try: a missing file is not a damaged one.
    with Path(path).open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                # Checksums first: a damaged header could ask for an array of any size.
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {damaged!r} is wrong")
                for entry in archive.namelist():
                    if not entry.endswith(".npy"):
                        raise ValueError(f"it holds the entry {entry!r}, which is not an array")
                    with archive.open(entry) as content:
                        arrays[entry.removesuffix(".npy")] = np.lib.format.read_array(
                            content, allow_pickle=False
                        )
        except _DAMAGE as error:
            raise ValueError(
                f"path: expected {what}, got {os.fspath(path)!r}, which is damaged or something "
                f"else ({error}). {hint}"
            ) from error
    return arrays
