"""A history as a table for people: verdicts by name, empty columns left out."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

_ENDS = 5  # rows shown from each end of a long table


def is_empty(column: np.ndarray) -> bool:
    """Return whether a column has nothing but gaps."""
    return bool((column == "").all() if column.dtype.kind == "U" else np.isnan(column).all())


def status_names(column: np.ndarray) -> np.ndarray:
    """Return the verdicts of solves by name, an empty string where there was no solve."""
    from symng.solvers import Status  # late: a history alone needs only NumPy

    names = {int(status): status.name for status in Status} | {-1: ""}
    return np.array(
        [names.get(value, f"{value:g}") if value == value else "" for value in column.tolist()],
        dtype=str,
    )


def as_html(columns: Mapping[str, np.ndarray], length: int, caption: str) -> str:
    """Return the first and last rows of columns of one length as a table in HTML."""
    rows = list(range(length))
    if length > 2 * _ENDS + 1:
        rows = [*rows[:_ENDS], -1, *rows[-_ENDS:]]
    lines = ["<table>", f"<caption>{escape(caption)}</caption>", "<thead>"]
    lines += [_row("th", list(columns)), "</thead>", "<tbody>"]
    for i in rows:
        lines.append(
            _row("td", ["…" if i < 0 else _cell(column[i]) for column in columns.values()])
        )
    return "\n".join([*lines, "</tbody>", "</table>"])


def _row(tag: str, cells: list[str]) -> str:
    """Return one row."""
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _cell(value: object) -> str:
    """Return a value in few characters; a gap is empty."""
    if isinstance(value, np.floating):
        return "" if np.isnan(value) else f"{value:.4g}"
    return str(value)
