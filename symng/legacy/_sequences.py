"""The batches of ``theano-hf``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from symng._checks import Verbatim, argument_error


class SequenceDataset:
    """Batches of arrays or sequences, in an order that is drawn again after each pass.

    Parameters
    ----------
    data : list of lists of arrays
        For each input of the graph its arrays, one for each batch or sequence.
    batch_size : int or None
        Cut each array into pieces of so many rows; None leaves them whole.
    number_batches : int
        How many batches an iteration goes over.
    minimum_size : int, default 10
        Pieces of fewer rows are left out.

    Attributes
    ----------
    number_batches : int
        As given.
    items : list
        The batches, in the current order.

    Notes
    -----
    The order is drawn by NumPy's global generator, ``numpy.random.seed``.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.legacy.hf import SequenceDataset
    >>> data = SequenceDataset([[np.arange(25)]], batch_size=10, number_batches=2, minimum_size=5)
    >>> sorted(len(x) for [x] in data.items), len(list(data.iterate()))
    ([5, 10, 10], 2)
    """

    def __init__(
        self, data: Any, batch_size: int | None, number_batches: int, minimum_size: int = 10
    ) -> None:
        self.current_batch, self.number_batches = 0, number_batches
        self.items: list[list[Any]] = []
        for k in range(len(data[0])):
            arrays = [of_input[k] for of_input in data]
            starts = [0]
            if batch_size is not None:
                starts = list(range(0, len(arrays[0]) - minimum_size + 1, batch_size))
            for begin in starts:
                end = None if batch_size is None else begin + batch_size
                self.items.append([a if end is None else a[begin:end] for a in arrays])
        if not self.items:
            expected = "at least one array of minimum_size rows"
            raise argument_error("data", expected, Verbatim("none"))
        self.shuffle()

    def shuffle(self) -> None:
        """Draw a new order."""
        np.random.shuffle(self.items)  # noqa: NPY002 - seeded as the original is

    def iterate(self, update: bool = True) -> Iterator[list[Any]]:
        """Yield the next batches, and with ``update`` move on past them."""
        for b in range(self.number_batches):
            yield self.items[(self.current_batch + b) % len(self.items)]
        if update:
            self.update()

    def update(self) -> None:
        """Move on to the next batches, in a new order after a pass."""
        if self.current_batch + self.number_batches >= len(self.items):
            self.shuffle()
            self.current_batch = 0
        else:
            self.current_batch += self.number_batches
