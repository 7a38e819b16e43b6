"""The history of a run in a file of its own, to which rows are appended."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symng._files import DamagedFileError, sync_folder
from symng.training._rows import format_rows, parse_rows
from symng.training.history import History


class HistoryFile:
    """Append the rows of a history to a file, which never changes before its end.

    It is text. A line ``{"columns": [...]}`` names the columns of the lines after it, each a list
    with the values of a row; null is a gap. A checkpoint holds how many rows and bytes belong to
    it, with a checksum, so rows that were appended later, or half of one, do no harm. Appending
    costs the same whatever is in the file.

    Attributes
    ----------
    rows, size, checksum : int
        Rows and bytes of the file that are known to be right, and the checksum of these bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = self.size = self.checksum = 0

    def get_state(self) -> dict[str, int]:
        """Return what a checkpoint has to hold."""
        return {"rows": self.rows, "bytes": self.size, "checksum": self.checksum}

    def append(self, history: History) -> None:
        """Write the rows that are not in the file, and wait until they are on the disk."""
        if self.size and (not self.path.exists() or self.path.stat().st_size < self.size):
            self.rows = self.size = self.checksum = 0  # somebody removed it
        text = format_rows(history.columns, history.values_from(self.rows))
        is_new = not self.path.exists()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(self.path, flags, 0o666), "r+b") as file:
            file.truncate(self.size)  # what no checkpoint knows of
            file.seek(self.size)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if is_new:  # its name has to be there before that of a checkpoint that needs it
            sync_folder(self.path.parent)
        self.rows, self.size = len(history), self.size + len(text)
        self.checksum = zlib.crc32(text, self.checksum)

    def read(self, state: Mapping[str, Any]) -> History:
        """Return the history of a checkpoint, after which `append` then writes.

        Raises
        ------
        DamagedFileError
            If the file is not there, is too short, or holds something else.
        """
        rows, size, checksum = (int(state[name]) for name in ("rows", "bytes", "checksum"))
        hint = "Copy it along with the checkpoint, or give resume=False to start again."
        if not self.path.exists():
            raise DamagedFileError(
                f"checkpoint: expected its history in {str(self.path)!r}, got no such file. {hint}"
            )
        try:
            content = self._content(size)
            if zlib.crc32(content) != checksum:
                raise ValueError("the checksum is wrong")
            history = History()
            for columns in parse_rows(content):
                history.extend(columns)
            if len(history) != rows:
                raise ValueError(f"it has {len(history)} rows")
        except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
            raise DamagedFileError(
                f"checkpoint: expected the history of its {rows} steps, got {str(self.path)!r}, "
                f"which is damaged or of another run ({error}). {hint}"
            ) from error
        self.rows, self.size, self.checksum = rows, size, checksum
        return history

    def _content(self, size: int) -> bytes:
        """Return the first bytes of the file."""
        status = self.path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is a folder or a device")
        if not 0 <= size <= status.st_size:
            raise ValueError(f"it has {status.st_size} bytes of {size}")
        with self.path.open("rb") as file:
            return file.read(size)
