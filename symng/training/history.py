"""The record of a training run: one row per step, columns as NumPy arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import ArrayLike

from symng._files import read_npz, read_text, write_npz
from symng.training._rows import START, parse_rows
from symng.training._table import as_html, is_empty, status_names
from symng.training.checkpoint import META

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Scalar = bool | int | float | str


class History:
    """Keep one row per step and give the columns as arrays.

    Rows are appended as keyword arguments. A column may appear late or be left out of a row: the
    gap is NaN (an empty string in a column of text). A column of whole numbers or booleans without
    gaps keeps its dtype; with gaps, or mixed with numbers of another kind, it is float64.

    Notes
    -----
    Appending takes constant time per value. An array is built when a column is asked for and kept
    until the next `append`; it is read-only, `to_dict` gives copies that may be changed. ``len``
    counts rows, iterating gives the names of the columns. ``copy.copy`` gives an
    independent history. A notebook shows a table.

    Examples
    --------
    >>> from symng import History
    >>> history = History()
    >>> history.append(step=1, loss=3.5)
    >>> history.append(step=2, loss=3.25, squared_error=9.0)
    >>> history["step"]
    array([1, 2])
    >>> history["squared_error"]
    array([nan,  9.])
    >>> history.last["loss"]
    3.25
    >>> len(history), history.columns
    (2, ('step', 'loss', 'squared_error'))
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Scalar | None]] = {}
        self._is_text: dict[str, bool] = {}  # known from the first value that is not a gap
        self._length = 0
        self._arrays: dict[str, np.ndarray] = {}

    def append(self, /, **row: object) -> None:
        """Add one row.

        Parameters
        ----------
        **row : bool, int, float, str or None
            One value per column; NumPy scalars and zero-dimensional arrays are accepted. None is a
            gap. New names make new columns, with gaps in the rows before.

        Raises
        ------
        TypeError
            If a value is not a scalar, or text meets numbers in one column. The history stays as it
            was.
        ValueError
            If the row is empty.
        """
        if not row:
            raise ValueError(
                "row: expected at least one column, got none. Write history.append(step=1, "
                "loss=0.5)."
            )
        values = {name: self._scalar(name, value) for name, value in row.items()}
        for name, value in values.items():
            if name not in self._values:
                self._values[name] = [None] * self._length
            self._values[name].append(value)
            if value is not None:
                self._is_text[name] = isinstance(value, str)
        self._length += 1
        for column in self._values.values():
            if len(column) < self._length:
                column.append(None)
        self._arrays.clear()

    def _scalar(self, name: str, value: object) -> Scalar | None:
        """Return a value as a Python scalar that fits the column."""
        if value is None:
            return None
        scalar = cast(Scalar, value) if type(value) in _PLAIN else _plain(name, value)
        is_text = isinstance(scalar, str)
        if self._is_text.get(name, is_text) != is_text:
            raise TypeError(
                f"{name}: expected {'a number' if is_text else 'text'} as in the rows before, got "
                f"{scalar!r}. Use another column name for it."
            )
        return (
            float(scalar) if isinstance(scalar, int) and not -(2**63) <= scalar < 2**63 else scalar
        )

    def _fill(self, name: str) -> Scalar:
        """Return the fill value of a column."""
        return "" if self._is_text.get(name, False) else math.nan

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order of first appearance."""
        return tuple(self._values)

    def keys(self) -> tuple[str, ...]:
        """Return the names of the columns, so that ``dict(history)`` works."""
        return self.columns

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column as a read-only array of shape (rows,)."""
        if name not in self._values:
            have = ", ".join(self.columns) or "none yet: no row was appended"
            raise KeyError(f"no column {name!r}; the columns are: {have}")
        if name not in self._arrays:
            array = _as_array(self._values[name], self._fill(name))
            array.flags.writeable = False
            self._arrays[name] = array
        return self._arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, object]:
        # Pickles and copies share nothing with this one. Arrays are left out: copies of them would
        # be writable.
        values = {name: list(column) for name, column in self._values.items()}
        return {**self.__dict__, "_values": values, "_is_text": dict(self._is_text), "_arrays": {}}

    def __repr__(self) -> str:
        return f"<History: {self._rows}; columns: {', '.join(self.columns) or 'none'}>"

    def _repr_html_(self) -> str:
        """Return a table for notebooks: the first and last rows of columns that are not empty."""
        return as_html(self._shown(), self._length, f"History of {self._rows}")

    @property
    def _rows(self) -> str:
        """The number of rows in words."""
        return "1 row" if self._length == 1 else f"{self._length} rows"

    def _shown(self) -> dict[str, np.ndarray]:
        """Return the columns for people: verdicts by name, nothing without values."""
        columns = {name: self[name] for name in self}
        if "solver_status" in columns and columns["solver_status"].dtype.kind in "if":
            columns["solver_status"] = status_names(columns["solver_status"])
        return {name: column for name, column in columns.items() if not is_empty(column)}

    @property
    def status_names(self) -> np.ndarray:
        """Verdicts of the solves by name, as in `Status`; an empty string where there was none."""
        return status_names(self["solver_status"])

    def row(self, index: int) -> dict[str, Scalar]:
        """Return one row as a dictionary of Python scalars; negative indices count from the end.

        Parameters
        ----------
        index : int
            From ``-len(history)`` to ``len(history) - 1``.

        Returns
        -------
        dict
            A value for every column, gaps as in the arrays (NaN, or an empty string).

        Raises
        ------
        IndexError
            If there is no such row.
        """
        if not -self._length <= index < self._length:
            raise IndexError(f"index: expected a row of {self._length}, got {index}.")
        row = {name: values[index] for name, values in self._values.items()}
        return {name: self._fill(name) if value is None else value for name, value in row.items()}

    def extend(self, columns: Mapping[str, Sequence[Scalar | None]]) -> None:
        """Add rows that `values_from` gave, by column; all are of one length."""
        length = self._length
        for name, values in columns.items():
            kinds = {type(value) for value in values} - {type(None)}
            is_text = self._is_text.get(name, str in kinds)
            if not kinds <= ({str} if is_text else {bool, int, float}):
                raise TypeError(f"{name}: expected numbers or text alone.")
            if kinds:
                self._is_text[name] = is_text
            self._values.setdefault(name, [None] * length).extend(values)
            self._length = length + len(values)
        for column in self._values.values():
            column.extend([None] * (self._length - len(column)))
        self._arrays.clear()

    def values_from(self, start: int) -> list[list[Scalar | None]]:
        """Return the values of each column from a row on, with None for gaps, for a file."""
        return [values[start:] for values in self._values.values()]

    @property
    def last(self) -> dict[str, Scalar]:
        """The last row, as `row` gives it."""
        return self.row(-1)

    def to_dict(self) -> dict[str, np.ndarray]:
        """Return all columns as new, writable arrays; `from_dict` is the way back."""
        return {name: self[name].copy() for name in self}

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a pandas DataFrame of the columns that are not empty, with one row per step.

        Verdicts of solves (``solver_status``) go by their names. Needs pandas, which symng does not
        install.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_dataframe: expected pandas to be installed, got none. Run: pip install "
                "pandas. Without it, history.to_dict() gives arrays."
            ) from error
        return pandas.DataFrame({name: column.copy() for name, column in self._shown().items()})

    def plot(self, column: str = "loss", path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw a column against steps and against seconds, by `symng.plot.training_curves`.

        Parameters
        ----------
        column : str, default "loss"
            What to draw.
        path : path-like, optional
            Where to write the picture.

        Returns
        -------
        matplotlib.figure.Figure
            The figure, which a notebook shows.

        Raises
        ------
        KeyError
            If there is no such column, or no ``step`` or ``seconds``.
        ImportError
            If matplotlib is not installed.
        """
        from symng.training import curves  # late: matplotlib is optional

        figure = curves.new_figure(*curves.PANELS)
        curves.draw_curves(figure, {"": [self]}, column)
        return curves.finish(figure, path)

    @classmethod
    def from_dict(cls, columns: Mapping[str, ArrayLike]) -> History:
        """Return a history with the given columns, of one length.

        Parameters
        ----------
        columns : mapping of str to array_like of shape (rows,)
            Numbers, booleans or text.

        Raises
        ------
        ValueError
            If a column is not one-dimensional, holds something else, or is not as long as the
            others.
        """
        history = cls()
        for position, (name, column) in enumerate(columns.items()):
            array = np.asarray(column)
            if array.ndim != 1 or array.dtype.kind not in "biufU":
                raise ValueError(
                    f"{name}: expected one dimension of numbers, booleans or text, got an array of "
                    f"shape {array.shape} and dtype {array.dtype}."
                )
            if position and len(array) != len(history):
                raise ValueError(
                    f"{name}: expected {len(history)} rows as in the columns before, got "
                    f"{len(array)}."
                )
            if array.dtype.kind in "fu":
                array = array.astype(
                    "float64" if array.dtype.kind == "f" or (array > 2**63 - 1).any() else "int64"
                )
            history._length = len(array)
            # A column of gaps alone may still become one of text.
            if array.dtype.kind == "f" and np.isnan(array).all():
                history._values[str(name)] = [None] * len(array)
            else:
                history._values[str(name)] = array.tolist()
                history._is_text[str(name)] = array.dtype.kind == "U"
        return history

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the columns to an npz file, without pickle.

        Parameters
        ----------
        path : path-like
            Name of the file, used exactly as given. An existing file is replaced only once the new
            one is complete.

        Raises
        ------
        OSError
            If the file cannot be written. An older file of that name is unchanged.
        """
        write_npz(path, {name: self[name] for name in self})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Return a history that `save` wrote, or that of a run, which is beside its checkpoint.

        A row that a run is just writing is left out.

        Raises
        ------
        ValueError
            If the file is damaged or another kind of file.
        OSError
            If the file cannot be read.
        """
        hint = "Save the history again, or check the name."
        if (text := read_text(path, START)) is not None:
            try:
                history = cls()
                for rows in parse_rows(text[: text.rindex(b"\n") + 1]):
                    history.extend(rows)
                return history
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ValueError(
                    f"path: expected the history of a run, got {os.fspath(path)!r}, which is "
                    f"damaged ({error}). {hint}"
                ) from error
        columns = read_npz(path, "a file written by History.save", hint)
        if META in columns:
            raise ValueError(
                f"path: expected a file written by History.save, got {os.fspath(path)!r}, a "
                "checkpoint. Read it with symng.load_checkpoint."
            )
        return cls.from_dict(columns)


_PLAIN = (bool, int, float, str)


def _plain(name: str, value: object) -> Scalar:
    """Return a value as a Python scalar, or refuse it."""
    array = np.asarray(value)
    kinds = {"b": bool, "i": int, "u": int, "f": float, "U": str}
    if array.ndim or array.dtype.kind not in kinds:
        got = (
            f"an array of shape {array.shape}"
            if array.ndim
            else f"{value!r} ({type(value).__name__})"
        )
        raise TypeError(
            f"{name}: expected one number, boolean or text a row, got {got}. Reduce it first, "
            "for example with float(value.mean())."
        )
    return kinds[array.dtype.kind](array[()])


def _as_array(values: list[Scalar | None], fill: Scalar) -> np.ndarray:
    """Return a column: bool, int64 or text when all values are of that kind, else float64."""
    filled = [fill if value is None else value for value in values]
    kinds = {type(value) for value in filled}
    for kind, dtype in ((bool, "bool"), (int, "int64"), (str, "str")):
        if kinds == {kind}:
            return np.array(filled, dtype=dtype)
    return np.array(filled, dtype="float64")
