"""The arrays of a step's batches, in the form in which its compiled functions take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from symng.backends import Backend
from symng.objective import Objective
from symng.objective.batches import ChunkLayout, layout_of, split_into_chunks

Layouts = tuple[tuple[str, ChunkLayout], ...]
"""The batches of a step, "gradient" and perhaps "metric" and "search", with their layouts."""

Arrays = Sequence[Any]
"""The arrays of one batch, inputs and then targets; NumPy's, or what can be made of such."""

Batches = Mapping[str, Arrays]
"""The arrays of each batch, by its name."""


def full_layouts(*names: str) -> Layouts:
    """Return the layouts of full batches."""
    return tuple((name, ChunkLayout()) for name in names)


class BatchArrays:
    """Cut batches into chunks, and keep repeated ones on the device of the backend."""

    def __init__(self, objective: Objective, chunk_size: int | None, backend: Backend) -> None:
        self.axes, self.chunk_size, self.backend = objective.data_axes, chunk_size, backend
        self._on_device: dict[tuple[int, ...], Arrays | None] = {}  # None: not yet
        self._locked: list[np.ndarray] = []

    def layouts(self, batches: Batches) -> Layouts:
        """Return the layouts of the batches; each combination has its own compiled function."""
        return tuple(
            (name, layout_of(batch, self.axes[: len(batch)], self.chunk_size))
            for name, batch in batches.items()
        )

    def flatten(self, batches: Batches) -> Arrays:
        """Return the arrays of all batches, chunks and remainders, in the order of the inputs."""
        return [array for batch in batches.values() for array in self._arrays_of(batch)]

    def first_chunk(self, batch: Arrays) -> Arrays:
        """Return the examples of a batch that would be its first chunk; all without chunks."""
        if self.chunk_size is None:
            return batch
        return [
            array[(slice(None),) * axis + (slice(self.chunk_size),)]
            for array, axis in zip(batch, self.axes, strict=False)
        ]

    @contextmanager
    def keep_on_device(self, *batches: Arrays) -> Iterator[None]:
        """Keep these batches on the device, once a step takes them, while the context is open.

        They are read-only from then on, since a step would not see what is written to them. On a
        backend without a device this does nothing.
        """
        if self.backend.has_device:
            self._on_device = dict.fromkeys(map(_identity, batches))
        try:
            yield
        finally:
            self._on_device = {}
            for array in self._locked:
                array.flags.writeable = True
            self._locked = []

    def change_backend(self, backend: Backend) -> None:
        """Continue with another backend, and forget what is on the device of the present one."""
        self.backend = backend
        self._on_device = dict.fromkeys(self._on_device)

    def _arrays_of(self, batch: Arrays) -> Arrays:
        """Return the arrays of one batch, from the device if they are kept there."""
        key = _identity(batch)
        if key not in self._on_device:
            return self._cut(batch)
        arrays = self._on_device[key]
        if arrays is None:
            writeable = [array for array in batch if array.flags.writeable]
            for array in writeable:
                array.flags.writeable = False
            self._locked += writeable
            arrays = self._on_device[key] = self.backend.device_put(self._cut(batch))
        return arrays

    def _cut(self, batch: Arrays) -> Arrays:
        """Return the chunks of a batch and what is left of it, or the batch."""
        return split_into_chunks(batch, self.axes[: len(batch)], self.chunk_size)


def _identity(batch: Arrays) -> tuple[int, ...]:
    """Return a key for the arrays of a batch, valid while they are alive."""
    return tuple(map(id, batch))
