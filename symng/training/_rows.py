"""The text of a history file: rows as lines, under lines that name the columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from symng.backends import collection_paused

START = b'{"columns": '
"""What a file of this form begins with."""


def format_rows(names: Sequence[str], columns: Sequence[Sequence[Any]]) -> bytes:
    """Return rows, given by column, as text."""
    rows = map(json.dumps, zip(*columns, strict=True))
    return "".join(f"{line}\n" for line in (json.dumps({"columns": list(names)}), *rows)).encode()


def parse_rows(content: bytes) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of the rows under each line of names; any exception means damage."""
    names: list[str] = []
    rows: list[list[Any]] = []
    with collection_paused():  # which would look at every row again and again
        for line in content.splitlines():
            row = json.loads(line)
            if isinstance(row, list):
                rows.append(row)
                continue
            if rows:
                yield _by_column(names, rows)
            names, rows = list(row["columns"]), []
    if rows:
        yield _by_column(names, rows)


def _by_column(names: list[str], rows: list[list[Any]]) -> dict[str, list[Any]]:
    columns = zip(*rows, strict=True)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}
