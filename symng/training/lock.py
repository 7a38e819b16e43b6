"""One run at a time on a checkpoint."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import socket
import threading
from pathlib import Path
from typing import IO, Any

from symng._checks import Verbatim, argument_error
from symng._files import is_still

# Windows has none: there a checkpoint is not locked.
_fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

# The system grants a process its own lock again, so the process keeps a list of those it has.
_held: dict[Path, int] = {}
_guard = threading.Lock()


class FileLock:
    """Keep other runs from a file, by a lock on a file beside it.

    The system releases it when the process ends, however that happens, and a child of the process
    does not have it. Where the file system knows no locks, this does nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.lock")
        self._target = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        ValueError
            If another run has it; the message names its process.
        OSError
            If the file cannot be made.
        """
        if _fcntl is None:
            return
        with _guard:
            if _held.get(self.path) == os.getpid():
                raise self._refusal(f"process {os.getpid()}, this one,")
            while self._file is None:
                self._file = self._try()
            _held[self.path] = os.getpid()

    def release(self) -> None:
        """Release the lock, if it is held."""
        file, self._file = self._file, None
        if file is None:
            return
        with _guard:
            if _held.get(self.path) == os.getpid():  # and not of the parent of a fork
                del _held[self.path]
                with contextlib.suppress(OSError):  # a file without a lock keeps nobody out
                    self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                file.close()

    def _try(self) -> IO[bytes] | None:
        """Return the locked file; None if another run has just removed it."""
        file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            try:
                _fcntl.lockf(file, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    owner = file.read(200).decode(errors="replace").strip()
                    raise self._refusal(owner or "another process") from error
            else:
                if not is_still(file, self.path):
                    file.close()
                    return None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            file.flush()
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()
            raise
        return file

    def _refusal(self, owner: str) -> Exception:
        return argument_error(
            "checkpoint",
            "a file that no other run writes",
            Verbatim(f"{str(self._target)!r}, which {owner} has"),
            "Wait for that run, end it, or give another path.",
        )
