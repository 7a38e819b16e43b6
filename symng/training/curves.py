"""Draw columns of a history; needs matplotlib.

Figures are made without pyplot: no window opens, no global state is touched.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

try:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import FuncFormatter
except ImportError as error:
    raise ImportError(
        "symng.plot: expected matplotlib to be installed, got none. Run: pip install "
        '"symng[examples]"'
    ) from error

# Distinguishable with all common kinds of color blindness (Okabe and Ito), the palest left out.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_LINES = ("-", "--", ":")
PANELS = (9.0, 3.8)  # width and height of the two panels, in inches
_AXES = (("step", "step"), ("seconds", "time of training (seconds)"))


class Columns(Protocol):
    """Arrays of one length by name, such as a `History`."""

    def __getitem__(self, name: str, /) -> np.ndarray: ...


class _Figure(Figure):
    """A figure that a notebook shows, with pyplot or without."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure with narrow margins; width and height in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.02)
    return _Figure(figsize=(width, height), layout=layout)


def draw_curves(
    figure: Figure | SubFigure, named: Mapping[str, Sequence[Columns]], column: str
) -> None:
    """Draw a column against steps and against seconds, on a common axis with one legend."""
    panels = figure.subplots(1, 2, sharey=True)
    negative = any(
        (np.isfinite(run[column]) & (run[column] < 0)).any()
        for runs in named.values()
        for run in runs
    )
    for panel, (against, label) in zip(panels, _AXES, strict=True):
        count = _draw_lines(panel, named, against, column, negative)
        panel.set_xlabel(label)
        panel.spines[["top", "right"]].set_visible(False)
        if count:
            _scale_axes(panel, negative)
            continue
        text = f"{column} was never evaluated"
        panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", color="0.4")
        panel.set(xticks=[], yticks=[])
    panels[0].set_ylabel(_words(column))
    if list(named) != [""]:
        panels[1].legend(frameon=False, fontsize="small")


def _draw_lines(
    panel: Axes, named: Mapping[str, Sequence[Columns]], against: str, column: str, negative: bool
) -> int:
    """Draw the lines of one panel, and return how many points they have."""
    count = 0
    for i, (name, runs) in enumerate(named.items()):
        for run in runs:
            x, y = run[against], run[column]
            shown = np.isfinite(x) & np.isfinite(y) & (x > 0) & ((y > 0) | negative)
            count += int(shown.sum())
            panel.plot(
                x[shown],
                y[shown],
                label=name if run is runs[0] else None,
                color=_COLORS[i % len(_COLORS)],
                linewidth=1.6 if len(runs) == 1 else 1.0,
                linestyle=_LINES[i // len(_COLORS) % len(_LINES)],
                marker="o" if shown.sum() <= 40 else None,
                markersize=3.5,
            )
    return count


def _scale_axes(panel: Axes, negative: bool) -> None:
    """Set scales, grid and tick labels of a panel that has lines."""
    panel.set(xscale="log", yscale="linear" if negative else "log", axisbelow=True)
    # Minor ticks are shorter: this brings all labels into one line.
    panel.tick_params(which="minor", pad=5.0)
    panel.grid(True, which="major", color="0.85", linewidth=0.8)
    panel.grid(True, which="minor", color="0.93", linewidth=0.5)
    for axis in (panel.xaxis,) if negative else (panel.xaxis, panel.yaxis):
        _label_ticks(axis)


def _words(column: str) -> str:
    """Return the label of a column, with its unit where it is known."""
    if column == "squared_error":
        return "training squared error per image"
    return column.replace("_", " ")


def _label_ticks(axis: Axis) -> None:
    """Label ticks with plain numbers (0.5, 20, 3000): powers of ten, and more if those are few."""

    def between(value: float, _: int) -> str:
        low, high = axis.get_view_interval()
        decades = np.log10(high / low)
        leading = f"{value:e}"[0]
        return f"{value:g}" if decades < 0.7 or (decades < 2 and leading in "25") else ""

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(between))


def finish(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Return the figure, after writing it if a path is given."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
