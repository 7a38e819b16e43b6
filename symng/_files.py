"""Read and write ``.npz`` files safely: no pickle, no partial file under the final name."""

from __future__ import annotations

import errno
import hashlib
import importlib
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

# Windows does not have it.
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

# How the comment of an archive begins; a checksum of its content follows.
_SEAL = b"symng sha256 "

_TOO_MANY = 2**16  # more entries than any file that symng writes


class DamagedFileError(ValueError):
    """A file is damaged, or is not of the kind expected."""


def write_atomically(
    path: str | os.PathLike[str],
    write: Callable[[IO[bytes]], object],
    *,
    trial: bool = False,
    before: Callable[[], object] | None = None,
) -> None:
    """Call ``write`` on a new file in the folder of ``path``, then move that file over ``path``.

    If anything goes wrong (a full disk, Ctrl-C), an older file at ``path`` stays as it was and the
    new one is removed. The new file keeps the mode and group of the older one. Once this returns,
    the file and its name are on the disk. With ``trial`` the new file is removed in any case.
    ``before`` is called when the new file is complete and the older one is still in place.

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
        raise _not_a_file(path)
    try:
        with _temporary(target) as (file, temporary):
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if trial:
                temporary.unlink()
                return
            _keep_rights(file, target)
            if before is not None:
                before()
            if fcntl is None:  # Windows cannot move an open file
                file.close()
            temporary.replace(target)
        sync_folder(target.parent)
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


def temporary_of(target: Path) -> Path:
    """Return the path at which a file is written until it is complete; the same every time."""
    return target.with_name(f".symng-{zlib.crc32(os.fsencode(target.name)):08x}.tmp")


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open the temporary file of ``target``, empty, and remove it if the context fails.

    What a killed process left there is overwritten. A second writer waits for the first.
    """
    temporary = temporary_of(target)
    file = _open_locked(temporary)
    try:
        file.truncate(0)
        yield file, temporary
    except BaseException:
        if fcntl is None:
            file.close()
        with suppress(OSError):  # the next writer starts it again
            temporary.unlink(missing_ok=True)
        raise
    finally:
        file.close()


def _open_locked(path: Path) -> IO[bytes]:
    """Open a file for writing, creating it if needed, once no other writer has it open."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        file = os.fdopen(os.open(path, flags, 0o666), "w+b")
        try:
            if fcntl is None:
                return file
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if is_still(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def is_still(file: IO[bytes], path: Path) -> bool:
    """Return whether an open file is still at ``path``: others may have moved or removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _keep_rights(file: IO[bytes], target: Path) -> None:
    """Give an open file the group and the mode of the one that it will replace, if allowed."""
    if not target.exists() or not hasattr(os, "fchown"):
        return
    old = target.stat()
    with suppress(OSError):
        os.fchown(file.fileno(), -1, old.st_gid)
    with suppress(OSError):
        os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))


def sync_folder(folder: Path) -> None:
    """Flush the names of the files in a folder to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_path(path: object) -> None:
    """Refuse what is not a path: `open` would take a number for a file that is already open."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: expected the name of a file, got {path!r} ({type(path).__name__}).")


def _check_regular_file(path: str | os.PathLike[str]) -> None:
    """Refuse folders and devices: reading a FIFO would block, and /dev/zero would never end."""
    _check_path(path)
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise _not_a_file(path)


def _not_a_file(path: str | os.PathLike[str]) -> OSError:
    """Return the exception for the path of a folder or a device."""
    is_folder = Path(path).is_dir()
    message = (
        f"path: expected the name of a file, got {os.fspath(path)!r}, which is a "
        f"{'folder' if is_folder else 'device'}."
    )
    error = IsADirectoryError(message) if is_folder else OSError(message)
    error.errno = errno.EISDIR if is_folder else None
    return error


def write_npz(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    *,
    trial: bool = False,
    before: Callable[[], object] | None = None,
) -> None:
    """Write arrays to exactly ``path`` as an npz file that `numpy.load` reads too.

    The comment of the archive is a checksum of all names, sizes and contents. ``trial`` and
    ``before`` are those of `write_atomically`.
    """

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                # Not numpy.savez: names are its keyword arguments, and "file" is taken.
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
            archive.comment = _seal_of(archive)

    for name, array in arrays.items():
        if not isinstance(name, str) or "\0" in name:
            raise ValueError(f"name of an array: expected text without NUL, got {name!r}.")
        if array.dtype.hasobject:
            raise ValueError(
                f"{name}: expected an array of numbers, booleans or text, got dtype {array.dtype}."
            )
    write_atomically(path, write, trial=trial, before=before)


def _seal_of(archive: zipfile.ZipFile) -> bytes:
    """Return a checksum of the names, sizes and checksums of all entries."""
    entries = [(e.filename, e.file_size, e.CRC) for e in archive.infolist()]
    return _SEAL + hashlib.sha256(repr(entries).encode()).hexdigest().encode()


def read_npz(
    path: str | os.PathLike[str], what: str, hint: str, *, compressed: bool = False
) -> dict[str, np.ndarray]:
    """Return all arrays of an npz file by name; messages say that ``what`` was expected.

    Sizes are compared before anything is read, so that no more memory is allocated than the file
    is long, unless ``compressed`` entries are allowed.

    Raises
    ------
    OSError
        When the file cannot be opened, or is a folder or a device.
    DamagedFileError
        When it is damaged or another kind of file; the message ends with ``hint``.
    """
    return read_sealed(path, what, hint, compressed=compressed)[0]


def read_sealed(
    path: str | os.PathLike[str], what: str, hint: str, *, compressed: bool = False
) -> tuple[dict[str, np.ndarray], bool]:
    """Read an npz file as `read_npz` does; return also whether it has a checksum of its content."""
    _check_regular_file(path)
    # Outside of the try: a missing file is not a damaged one.
    with Path(path).open("rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                _check_entries(archive.infolist(), size, compressed)
                is_sealed = archive.comment.startswith(_SEAL)
                if is_sealed and archive.comment != _seal_of(archive):
                    raise ValueError("the checksum of its content is wrong")
                arrays = {
                    entry.filename.removesuffix(".npy"): _read_array(archive, entry)
                    for entry in archive.infolist()
                }
        # zipfile and NumPy raise a dozen types of exceptions for damaged files.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise DamagedFileError(
                f"path: expected {what}, got {os.fspath(path)!r}, which is damaged or another kind "
                f"of file ({reason}). {hint}"
            ) from error
    return arrays, is_sealed


def read_text(path: str | os.PathLike[str], start: bytes) -> bytes | None:
    """Return the content of a file if it begins with ``start``, else None."""
    _check_regular_file(path)
    with Path(path).open("rb") as file:
        return start + file.read() if file.read(len(start)) == start else None


def _check_entries(entries: list[zipfile.ZipInfo], size: int, compressed: bool) -> None:
    """Refuse entries that are not arrays, appear twice, or are larger than the file."""
    if len(entries) >= _TOO_MANY:
        raise ValueError(f"it has {len(entries)} entries")
    names: set[str] = set()
    for entry in entries:
        if not entry.filename.endswith(".npy"):
            raise ValueError(f"it holds the entry {entry.filename!r}, which is not an array")
        if entry.filename in names:
            raise ValueError(f"it holds the entry {entry.filename!r} twice")
        if entry.compress_type != zipfile.ZIP_STORED and not compressed:
            raise ValueError(f"the entry {entry.filename!r} is compressed")
        names.add(entry.filename)
    total = sum(e.file_size for e in entries if e.compress_type == zipfile.ZIP_STORED)
    if total > size:
        raise ValueError(f"its entries of {total} bytes are more than its {size}")


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Return the array of an entry, or refuse a header that asks for more or fewer bytes."""
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with archive.open(entry) as content:
        version = np.lib.format.read_magic(content)
        if version not in headers:
            raise ValueError(f"{entry.filename!r} has version {version} of the npy format")
        shape, by_column, dtype = headers[version](content)
        if dtype.hasobject:
            raise ValueError(f"{entry.filename!r} holds Python objects, which are never loaded")
        count, left = math.prod(shape), entry.file_size - content.tell()
        if min(shape, default=0) < 0 or count * dtype.itemsize != left:
            raise ValueError(f"{entry.filename!r} has {left} bytes for an array of shape {shape}")
        array = np.empty(count, dtype)
        view: Any = array.view("uint8") if left else b""
        start = 0
        while chunk := content.read(2**20):
            view[start : start + len(chunk)] = np.frombuffer(chunk, "uint8")
            start += len(chunk)
    return array.reshape(shape[::-1]).T if by_column else array.reshape(shape)
