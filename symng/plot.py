"""Pictures of training runs; needs matplotlib, which only this module imports.

Figures are made without pyplot: no window opens, no global state is touched. Every function returns the
`matplotlib.figure.Figure`, which a notebook shows, and writes it when ``path`` is given, in the format of its ending.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from symng.history import History

try:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import FuncFormatter
except ImportError as error:
    raise ImportError(
        'symng.plot: expected matplotlib to be installed, got none. Run: pip install "symng[examples]"'
    ) from error

__all__ = ["curves_summary", "reconstructions", "training_curves"]

# Distinguishable with all common kinds of color blindness (Okabe and Ito), the palest left out.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_LINES = ("-", "--", ":")
_AXES = (("step", "step"), ("seconds", "time of training (seconds)"))


def training_curves(
    histories: Mapping[str, History | Sequence[History]] | History,
    column: str = "squared_error",
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw a column of one or more histories against steps and against seconds.

    The panels are those of Figure 3 of the paper, with a logarithmic error axis as well; a linear one if the column
    has negative values, as the loss of a density or a reduction ratio may have.

    Parameters
    ----------
    histories : History or mapping of str to History or sequence of History
        One run, or several by name, each with the columns ``step``, ``seconds`` and ``column``. A name may stand for
        the runs of several seeds: they get one color.
    column : str, default "squared_error"
        What to draw. Rows where it is NaN (not evaluated) or a coordinate is one that a logarithmic axis cannot show
        (0, or steps below it) are left out.
    path : path-like, optional
        Where to write the picture.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, with two axes.

    Raises
    ------
    KeyError
        If a history lacks a column.
    TypeError, ValueError
        If ``histories`` is something else, or empty.
    """
    runs = _named(histories)
    figure = _figure(9.0, 3.8)
    _draw_curves(figure, runs, column)
    return _finish(figure, path)


def reconstructions(
    originals: np.ndarray,
    reconstructions: np.ndarray,
    path: str | os.PathLike[str] | None = None,
    shape: tuple[int, int] = (28, 28),
    n: int = 12,
) -> Figure:
    """Draw originals above their reconstructions.

    Parameters
    ----------
    originals, reconstructions : array_like of shape (images, pixels)
        Gray values from 0 (white) to 1 (black).
    path : path-like, optional
        Where to write the picture.
    shape : (int, int), default (28, 28)
        Rows and columns of an image.
    n : int, default 12
        Number of images to show, the first ones; fewer if there are fewer.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ValueError
        If the two differ in shape, hold no images, or do not have rows times columns pixels; if ``n`` is below 1.
    """
    pair = _pair(originals, reconstructions, shape, n)
    count = pair.shape[1]
    figure = _figure(0.65 * count + 1.2, 1.45)
    _draw_images(figure, pair)
    return _finish(figure, path)


def curves_summary(
    histories: Mapping[str, History | Sequence[History]] | History,
    originals: np.ndarray,
    reconstructions: np.ndarray,
    path: str | os.PathLike[str] | None = None,
    column: str = "squared_error",
    shape: tuple[int, int] = (28, 28),
    n: int = 12,
) -> Figure:
    """Draw `training_curves` and below them `reconstructions`, in one picture.

    Parameters
    ----------
    histories, column
        As for `training_curves`.
    originals, reconstructions, shape, n
        As for `reconstructions`.
    path : path-like, optional
        Where to write the picture.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    KeyError, TypeError, ValueError
        As the two functions do.
    """
    runs, pair = _named(histories), _pair(originals, reconstructions, shape, n)
    width, height = 9.0, 0.1 + 2 * 7.6 / max(pair.shape[1], 7)
    figure = _figure(width, 3.8 + height)
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.8, height))
    _draw_curves(parts[0, 0], runs, column)
    _draw_images(parts[1, 0], pair)
    return _finish(figure, path)


class _Figure(Figure):
    """A figure that a notebook shows, with pyplot or without."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def _figure(width: float, height: float) -> Figure:
    """Make an empty figure with a little air around everything; width and height in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.02)
    return _Figure(figsize=(width, height), layout=layout)


def _named(histories: Any) -> dict[str, list[History]]:
    """Return the runs by name, a list for each; a single one has the empty name."""
    if isinstance(histories, History):
        return {"": [histories]}
    expected = "histories: expected a History or a mapping of names to histories"
    way_out = "Write for example {'SGD': result.history}, or {'SGD': [seed_0, seed_1]}."
    if not isinstance(histories, Mapping):
        raise TypeError(f"{expected}, got {type(histories).__name__}. {way_out}")
    if not histories:
        raise ValueError("histories: expected at least one run, got none.")
    named = {}
    for name, runs in histories.items():
        runs = list(runs) if isinstance(runs, list | tuple) else [runs]
        if not runs or not all(isinstance(run, History) for run in runs):
            raise TypeError(f"{expected}, got {type(histories).__name__} with {runs!r:.60} at {name!r}. {way_out}")
        named[str(name)] = runs
    return named


def _pair(originals: Any, reconstructions: Any, shape: tuple[int, int], n: int) -> np.ndarray:
    """Return both sets of images as one array of shape (2, n, rows, columns)."""
    first, second = np.asarray(originals), np.asarray(reconstructions)
    rows, columns = shape
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}.")
    if first.ndim != 2 or len(first) < 1 or first.shape[1] != rows * columns:
        raise ValueError(
            f"originals: expected images of shape (images, {rows * columns}) for shape={shape}, got an "
            f"array of shape {first.shape}."
        )
    if first.shape != second.shape:
        raise ValueError(f"reconstructions: expected the shape of the originals, {first.shape}, got {second.shape}.")
    return np.stack([first[:n], second[:n]]).reshape(2, -1, rows, columns)


def _draw_curves(figure: Figure | SubFigure, named: Mapping[str, list[History]], column: str) -> None:
    """Draw the two panels with a common error axis and one legend."""
    panels = figure.subplots(1, 2, sharey=True)
    negative = any((np.isfinite(run[column]) & (run[column] < 0)).any() for runs in named.values() for run in runs)
    scale = "linear" if negative else "log"
    for panel, (against, label) in zip(panels, _AXES, strict=True):
        empty = True
        for i, (name, runs) in enumerate(named.items()):
            for run in runs:
                x, y = run[against], run[column]
                shown = np.isfinite(x) & np.isfinite(y) & (x > 0) & ((y > 0) | negative)
                empty = empty and not shown.any()
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
        panel.set_xlabel(label)
        panel.spines[["top", "right"]].set_visible(False)
        if empty:
            panel.text(0.5, 0.5, f"{column} was never evaluated", transform=panel.transAxes, ha="center", color="0.4")
            panel.set(xticks=[], yticks=[])
            continue
        panel.set(xscale="log", yscale=scale, axisbelow=True)
        panel.tick_params(which="minor", pad=5.0)  # minor ticks are shorter: this brings all labels into one line
        panel.grid(True, which="major", color="0.85", linewidth=0.8)
        panel.grid(True, which="minor", color="0.93", linewidth=0.5)
        for axis in (panel.xaxis,) if negative else (panel.xaxis, panel.yaxis):
            _label_ticks(axis)
    panels[0].set_ylabel(_words(column))
    if list(named) != [""]:
        panels[1].legend(frameon=False, fontsize="small")


def _words(column: str) -> str:
    """Name a column on an axis, with its unit where it is known."""
    if column == "squared_error":
        return "training squared error per image"
    return column.replace("_", " ")


def _label_ticks(axis: Axis) -> None:
    """Write plain numbers (0.5, 20, 3000) at powers of ten and, where there are few of those, between them."""

    def between(value: float, _: int) -> str:
        low, high = axis.get_view_interval()
        decades = np.log10(high / low)
        leading = f"{value:e}"[0]
        return f"{value:g}" if decades < 0.7 or (decades < 2 and leading in "25") else ""

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(between))


def _draw_images(figure: Figure | SubFigure, pair: np.ndarray) -> None:
    """Draw two rows of images, each row with its name at the left."""
    grid = figure.subplots(2, pair.shape[1], squeeze=False)
    for axes, images, name in zip(grid, pair, ("original", "reconstruction"), strict=True):
        for panel, image in zip(axes, images, strict=True):
            _draw_image(panel, image)
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")


def _draw_image(panel: Axes, image: np.ndarray) -> None:
    """Draw one image, dark ink on white, in a thin frame."""
    panel.imshow(image, cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    for spine in panel.spines.values():
        spine.set(color="0.8", linewidth=0.6)


def _finish(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Write the figure when a path is given."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
