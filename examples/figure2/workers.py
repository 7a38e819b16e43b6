"""Worker processes of figure2.py, which make files: how work is shared, shown and stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import symng


class Workers:
    """Run tasks, which make files by a method ``make``, in processes; a context manager."""

    def __init__(self, jobs: int) -> None:
        self.jobs, self._pool = jobs, None if jobs == 1 else self._start(jobs)

    @staticmethod
    def _start(jobs: int) -> ProcessPoolExecutor:
        # Not a fork: the threads of BLAS and JAX would not survive it.
        return ProcessPoolExecutor(
            jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._pool is None:
            return
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        processes = multiprocessing.active_children()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(60)
            if process.is_alive():
                process.kill()

    def make(self, title: str, tasks: Sequence[Any], *arguments: Any) -> list[dict[str, Any]]:
        """Run all tasks with a progress bar, and return their notes in order."""
        if not tasks:
            return []
        results: dict[int, dict[str, Any]] = {}
        with _Bar(title, len(tasks)) as bar:
            if self._pool is None:
                for i, task in enumerate(tasks):
                    results[i] = task.make(*arguments)
                    bar.advance()
            else:
                futures = {
                    self._pool.submit(_make, task, *arguments): i for i, task in enumerate(tasks)
                }
                try:
                    for future in as_completed(futures):
                        results[futures[future]] = future.result()
                        bar.advance()
                except BrokenProcessPool:
                    raise RuntimeError(
                        "A process ended before its work was done; memory may be short. Complete "
                        "files are kept, and the same command continues from here. A lower --jobs "
                        f"than {self.jobs} takes less memory."
                    ) from None
        return [results[i] for i in range(len(tasks))]


def _begin() -> None:
    """Leave Ctrl-C to the parent process, and end when it asks for that or ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _Ending.request)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _Ending.request()


class _Ending:
    """Ends this process when asked to: at once, or when the current file is complete."""

    writing = requested = False

    @classmethod
    def request(cls, *_: Any) -> None:
        """Handle the signal; an exception might be raised where nothing catches it."""
        cls.requested = True
        if not cls.writing:
            os._exit(1)


def save(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write arrays and notes."""
    _Ending.writing = True
    try:
        symng.save_checkpoint(path, arrays, meta)
    finally:
        _Ending.writing = False
        if _Ending.requested:
            os._exit(1)


def _make(task: Any, *arguments: Any) -> dict[str, Any]:
    """Run a task in a worker process."""
    return task.make(*arguments)


class _Bar:
    """Show how many tasks are done: a bar on a terminal, else a line every few seconds."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        console = Console()
        self.lines = not console.is_terminal
        self._start, self._last = time.monotonic(), 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            disable=self.lines,
        )
        self._task = self._progress.add_task(title, total=total)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def advance(self) -> None:
        """Count one more."""
        self.done += 1
        self._progress.advance(self._task)
        seconds = time.monotonic() - self._start
        if self.lines and (self.done == self.total or seconds - self._last >= 5):
            self._last = seconds
            print(f"{seconds:7.1f} s  {self.title}: {self.done} of {self.total}", flush=True)
