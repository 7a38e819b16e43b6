"""The files of a run's checkpoint: the newest, the ones before it, the history, and a lock."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from symng._checks import Verbatim, argument_error, warn
from symng._files import (
    DamagedFileError,
    sync_folder,
    temporary_of,
    write_atomically,
    write_npz,
)
from symng.training.checkpoint import entries_of, load_checkpoint
from symng.training.history import History
from symng.training.history_file import HistoryFile
from symng.training.lock import FileLock

Resume = bool | Literal["must"]


@dataclass(frozen=True)
class CheckpointSettings:
    """The arguments of `minimize` that concern the checkpoint; no path is no checkpoint."""

    path: str | os.PathLike[str] | None
    seconds: float
    every: int | None
    keep: int
    resume: Resume


class CheckpointFile:
    """Read and write the checkpoint of a run, which no other run may write meanwhile.

    ``run.npz`` is the newest, ``run.npz.1`` the one before it, and so on. ``run.npz.history.jsonl``
    has the rows of all of them, ``run.npz.lock`` is there while the run is. Each file is written
    under a temporary name first, and only then gets its own.

    A context manager that releases the lock. Relative names are resolved once: the program may
    change its folder later.

    Attributes
    ----------
    path : Path or None
        The newest, None where there is no checkpoint.
    """

    def __init__(self, settings: CheckpointSettings) -> None:
        self.settings = settings
        self.path = None if settings.path is None else Path(os.path.realpath(settings.path))
        self._is_new = True  # nothing in the files belongs to this run
        self._damaged: set[Path] = set()
        if self.path is not None:
            self._lock = FileLock(self.path)
            self.history = HistoryFile(self.path.with_name(f"{self.path.name}.history.jsonl"))

    def __enter__(self) -> CheckpointFile:
        return self

    def __exit__(self, *error: object) -> None:
        if self.path is not None:
            self._lock.release()

    def open(self) -> None:
        """Take the lock, and remove what a killed run has left half-written."""
        path = self._given_path()
        if not path.parent.is_dir():  # the first save would notice only after a minute
            raise argument_error(
                "checkpoint",
                "a file in a folder that exists",
                Verbatim(f"folder {str(path.parent)!r}"),
                "Make it first.",
            )
        if path.exists() and not path.is_file():  # /dev/zero would be read without end
            kind = "folder" if path.is_dir() else "device"
            raise argument_error(
                "checkpoint", "the name of a file", Verbatim(f"the {kind} {str(path)!r}")
            )
        try:
            self._lock.acquire()
            temporary_of(path).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def try_to_write(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, object]) -> None:
        """Write a file of the size of the checkpoint and remove it, or refuse the folder or disk.

        Later a failure is a warning, since a run must not end for it.
        """
        path = self._given_path()
        try:
            write_npz(path, entries_of(arrays, meta), trial=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def candidates(self) -> list[Path]:
        """Return the files to continue from, the newest first."""
        path, resume = self._given_path(), self.settings.resume
        files = [path] if path.exists() else []
        files += [older for _, older in sorted(self._older())]
        if not files and resume == "must":
            raise argument_error(
                "resume",
                "a checkpoint to continue from",
                Verbatim(f"'must' and no file {str(path)!r}"),
                "Check the name, or give resume=True to start where there is none.",
            )
        return files if resume else []

    def read(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], History | None]:
        """Return the arrays and text of a file, and the history if it has a file of its own."""
        try:
            arrays, meta = load_checkpoint(path)
        except DamagedFileError as error:
            text = str(error).removeprefix("path: ")
            raise DamagedFileError(f"checkpoint: {text}") from error
        except (ValueError, OSError) as error:
            text = str(error).removeprefix("path: ")
            raise ValueError(f"checkpoint: {text}") from error
        history = None
        if "history" in meta:
            try:
                history = self.history.read(meta["history"])
            except (KeyError, TypeError, ValueError) as error:
                if isinstance(error, DamagedFileError):
                    raise
                raise DamagedFileError(
                    f"checkpoint: expected the length of its history, got {str(path)!r} without "
                    "it: the file is damaged. Delete it, or give resume=False, to start again."
                ) from error
        return arrays, meta, history

    def continue_from(self, path: Path, damaged: Mapping[Path, Exception]) -> None:
        """Go on after a file that was read; warn if newer ones are damaged."""
        self._is_new, self._damaged = False, set(damaged)
        if damaged:
            first, reason = next(iter(damaged.items()))
            warn(
                f"checkpoint: {reason} The run continues from {str(path)!r}, the one before it, "
                f"and will replace {str(first)!r}.",
                RuntimeWarning,
            )
        elif path != self.path:
            warn(
                f"checkpoint: {str(self.path)!r} is not there. The run continues from {str(path)!r}"
                ", the one before it; give resume=False to start again.",
                RuntimeWarning,
            )

    def write(
        self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, object], history: History
    ) -> None:
        """Write the checkpoint after the rows that it needs, and keep the one before it."""
        path = self._given_path()
        if self._is_new:  # those of a run that was not to be continued; they share one history
            for _, older in self._older():
                older.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            sync_folder(path.parent)
            self._is_new = False
        self.history.append(history)
        entries = entries_of(arrays, {**meta, "history": self.history.get_state()})
        write_npz(path, entries, before=self._make_room)
        self._damaged.clear()

    def _make_room(self) -> None:
        """Move each file that is kept up by one number, once the new one is complete."""
        path, keep = self._given_path(), self.settings.keep
        damaged = self._damaged
        for number, older in sorted(self._older(), reverse=True):
            if number >= keep - 1 or older in damaged:
                older.unlink(missing_ok=True)
            elif path not in damaged:
                older.replace(_numbered(path, number + 1))
        if keep > 1 and path.exists() and path not in damaged:
            _link(path, _numbered(path, 1))

    def _older(self) -> Iterator[tuple[int, Path]]:
        """Yield the files before the newest with their numbers."""
        path = self._given_path()
        pattern = re.compile(re.escape(path.name) + r"\.([1-9][0-9]*)")
        for other in list(path.parent.iterdir()):
            if match := pattern.fullmatch(other.name):
                yield int(match[1]), other

    def _given_path(self) -> Path:
        assert self.path is not None
        return self.path

    def _unwritable(self, error: OSError) -> Exception:
        return argument_error(
            "checkpoint",
            "a file that can be written",
            Verbatim(f"{str(self.path)!r}: {error.strerror or error}"),
            "Free some space, or give a path in another folder.",
            OSError,
        )


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _link(path: Path, other: Path) -> None:
    """Give a file a second name, or make a copy where the file system has no links.

    It must not lose its own name: a run that is killed now has to find it.
    """
    other.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(path, other)
        return
    with path.open("rb") as file:
        write_atomically(other, lambda copy: shutil.copyfileobj(file, copy))
