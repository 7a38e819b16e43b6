"""The progress bar of a training run, drawn by rich."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from symng.solvers import Status


class ProgressBar:
    """Show step, loss, damping, reduction ratio and solver, and while compiling the seconds spent.

    On a terminal a bar that is drawn anew; elsewhere (a file, a pipe) a line every few seconds. A context manager.
    """

    def __init__(self, max_steps: int | None, max_seconds: float | None, quiet: bool = False) -> None:
        # Not above, for it is slow to import.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self.max_steps, self.max_seconds = max_steps, max_seconds
        self.quiet = quiet
        self.console = Console()
        self.lines = not self.console.is_terminal
        self._last_line = -math.inf
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=quiet or self.lines,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def compiling(self, what: str = "compiling the step") -> None:
        """Tell that compilation has begun; the elapsed time beside it counts the seconds."""
        self._progress.update(self._task, description=what)
        self._line(f"{what} ...", force=True)

    def compiled(self, seconds: float) -> None:
        """Tell how long compilation took and start the bar."""
        self._progress.reset(self._task, total=1.0, description="first step")
        message = f"compiled in {seconds:.1f} s"
        self._line(message, force=True)
        if not self.quiet and not self.lines:
            self._progress.console.print(message)

    def show(self, row: Mapping[str, Any], last: bool = False) -> None:
        """Show one step; the last one in any case."""
        parts = [f"step {row['step']}", f"loss {row['loss']:.5g}"]
        for name, label in (("damping", "damping"), ("reduction_ratio", "rho")):
            if not math.isnan(row[name]):
                parts.append(f"{label} {row[name]:.3g}")
        if row["solver_status"] >= 0:
            parts.append(f"{Status(row['solver_status']).name.lower()} in {row['solver_iterations']}")
        if not row["accepted"]:
            parts.append("rejected")
        shares = [0.0]
        if self.max_steps is not None:
            shares.append(row["step"] / self.max_steps)
        if self.max_seconds is not None:
            shares.append(row["seconds"] / self.max_seconds)
        text = "  ".join(parts)
        self._progress.update(self._task, completed=min(1.0, max(shares)), description=text)
        self._line(f"{row['seconds']:7.1f} s  {text}", force=last)

    def _line(self, text: str, force: bool = False) -> None:
        """Print a line where there is no terminal, at most one every five seconds."""
        now = time.monotonic()
        if self.quiet or not self.lines or (not force and now - self._last_line < 5):
            return
        self._last_line = now
        print(text, flush=True)
