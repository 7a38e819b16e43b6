"""Pictures of training runs; needs matplotlib.

Figures are made without pyplot: no window opens, no global state is touched. Every function returns
the `matplotlib.figure.Figure`, which a notebook shows. If ``path`` is given, it also writes the
figure there, in the format that the suffix names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from symng.training.curves import PANELS, draw_curves, finish, new_figure
from symng.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["curves_summary", "reconstructions", "training_curves"]


def training_curves(
    histories: Mapping[str, History | Sequence[History]] | History,
    column: str = "squared_error",
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw a column of one or more histories against steps and against seconds.

    The panels are those of Figure 3 of the paper. The error axis is logarithmic, or linear if the
    column has negative values, as the loss of a density or a reduction ratio may have.

    Parameters
    ----------
    histories : History or mapping of str to History or sequence of History
        One run, or several by name, each with the columns ``step``, ``seconds`` and ``column``. A
        name may stand for the runs of several seeds: they get one color.
    column : str, default "squared_error"
        What to draw. Rows where it is NaN (not evaluated) are left out, and those where it, the
        step or the second is a number that a logarithmic axis cannot show.
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
        If ``histories`` is of another type, or empty.
    """
    runs = _by_name(histories)
    figure = new_figure(*PANELS)
    draw_curves(figure, runs, column)
    return finish(figure, path)


def reconstructions(
    originals: ArrayLike,
    reconstructions: ArrayLike,
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
        If the two differ in shape, hold no images, or do not have rows times columns pixels; if
        ``n`` is below 1.
    """
    pair = _stack_images(originals, reconstructions, shape, n)
    count = pair.shape[1]
    figure = new_figure(0.65 * count + 1.2, 1.45)
    _draw_images(figure, pair)
    return finish(figure, path)


def curves_summary(
    histories: Mapping[str, History | Sequence[History]] | History,
    originals: ArrayLike,
    reconstructions: ArrayLike,
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
    runs, pair = _by_name(histories), _stack_images(originals, reconstructions, shape, n)
    width, height = PANELS[0], 0.1 + 2 * 7.6 / max(pair.shape[1], 7)
    figure = new_figure(width, PANELS[1] + height)
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(PANELS[1], height))
    draw_curves(parts[0, 0], runs, column)
    _draw_images(parts[1, 0], pair)
    return finish(figure, path)


def _by_name(histories: object) -> dict[str, list[History]]:
    """Return a list of runs for each name; a single history gets the empty name."""
    if isinstance(histories, History):
        return {"": [histories]}
    expected = "histories: expected a History or a mapping of names to histories"
    hint = "Write for example {'SGD': result.history}, or {'SGD': [seed_0, seed_1]}."
    if not isinstance(histories, Mapping):
        raise TypeError(f"{expected}, got {type(histories).__name__}. {hint}")
    if not histories:
        raise ValueError("histories: expected at least one run, got none.")
    named = {}
    for name, runs in histories.items():
        runs = list(runs) if isinstance(runs, list | tuple) else [runs]
        if not runs or not all(isinstance(run, History) for run in runs):
            raise TypeError(
                f"{expected}, got {type(histories).__name__} with {runs!r:.60} at {name!r}. {hint}"
            )
        named[str(name)] = runs
    return named


def _stack_images(
    originals: ArrayLike, reconstructions: ArrayLike, shape: tuple[int, int], n: int
) -> np.ndarray:
    """Return both sets of images as one array of shape (2, n, rows, columns)."""
    first, second = np.asarray(originals), np.asarray(reconstructions)
    rows, columns = shape
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}.")
    if first.ndim != 2 or len(first) < 1 or first.shape[1] != rows * columns:
        raise ValueError(
            f"originals: expected images of shape (images, {rows * columns}) for shape={shape}, "
            f"got an array of shape {first.shape}."
        )
    if first.shape != second.shape:
        raise ValueError(
            f"reconstructions: expected the shape of the originals, {first.shape}, got "
            f"{second.shape}."
        )
    return np.stack([first[:n], second[:n]]).reshape(2, -1, rows, columns)


def _draw_images(figure: Figure | SubFigure, pair: np.ndarray) -> None:
    """Draw two rows of images, with the name of each row at its left."""
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
