"""The progress bar of a training run, drawn by rich."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING

from symng.solvers import Status

if TYPE_CHECKING:
    from IPython.display import DisplayHandle


class ProgressBar:
    """Show step, loss, damping, reduction ratio and solver, and while compiling the seconds spent.

    On a terminal and in a notebook a bar that is redrawn; elsewhere (a file, a pipe) a line
    every few seconds. A context manager.
    """

    def __init__(
        self, max_steps: int | None, max_seconds: float | None, quiet: bool = False
    ) -> None:
        # Here, since it is slow to import.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        self.max_steps, self.max_seconds = max_steps, max_seconds
        self.quiet = quiet
        self.console = Console()
        # The notebook's own display does without the widgets that rich asks for.
        self.cell = Cell() if self.console.is_jupyter and not quiet else None
        self.lines = not self.console.is_terminal and self.cell is None
        self._last_line = -math.inf
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self.cell is not None:
            self.cell.flush()

    def compiling(self, stage: str) -> None:
        """Show that a stage of compilation has begun; beside it are the seconds since the first."""
        from rich.markup import escape as escape_markup

        text = f"compiling the step: {stage}"
        self._progress.update(self._task, description=escape_markup(text))
        self._line(f"{text} ...", 0.0, force=True)

    def compiled(self, seconds: float) -> None:
        """Show how long compilation took and start the bar."""
        self._progress.reset(self._task, total=1.0, description="first step")
        message = f"compiled in {seconds:.1f} s"
        self._line(message, 0.0, force=True)
        if self.console.is_terminal and not self.quiet:
            self._progress.console.print(message)

    def show(self, row: Mapping[str, float], last: bool = False) -> None:
        """Show one step; the last one in any case."""
        parts = [f"step {row['step']}", f"loss {row['loss']:.5g}"]
        for name, label in (("damping", "damping"), ("reduction_ratio", "rho")):
            if not math.isnan(row[name]):
                parts.append(f"{label} {row[name]:.3g}")
        if row["solver_status"] >= 0:
            parts.append(
                f"{Status(int(row['solver_status'])).name.lower()} in {row['solver_iterations']}"
            )
        if not row["accepted"]:
            parts.append("rejected")
        shares = [0.0]
        if self.max_steps is not None:
            shares.append(row["step"] / self.max_steps)
        if self.max_seconds is not None:
            shares.append(row["seconds"] / self.max_seconds)
        text = "  ".join(parts)
        share = min(1.0, max(shares))
        self._progress.update(self._task, completed=share, description=text)
        self._line(f"{row['seconds']:7.1f} s  {text}", share, force=last)

    def _line(self, text: str, share: float, force: bool = False) -> None:
        """Show a line in a notebook; without a terminal, print one at most every five seconds."""
        if self.cell is not None:
            self.cell.show(text, share, force)
        now = time.monotonic()
        if self.quiet or not self.lines or (not force and now - self._last_line < 5):
            return
        self._last_line = now
        print(text, flush=True)


class Cell:
    """The bar below a cell of a notebook, redrawn at most four times a second."""

    def __init__(self) -> None:
        self.text, self.share = "", 0.0
        self._display: DisplayHandle | None = None
        self._drawn, self._last = True, -math.inf

    def show(self, text: str, share: float, force: bool) -> None:
        """Show a line of text, and how much of the run is done, from 0 to 1."""
        self.text, self.share, self._drawn = text.strip(), share, False
        if force or time.monotonic() - self._last >= 0.25:
            self.flush()

    def flush(self) -> None:
        """Draw what was shown last."""
        if self._drawn:
            return
        self._drawn, self._last = True, time.monotonic()
        if self._display is None:
            from IPython.display import display

            self._display = display(self, display_id=True)
        else:
            self._display.update(self)

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self.share:.3f}" max="1"></progress>'
        return f"{bar} <code>{escape(self.text)}</code>"
