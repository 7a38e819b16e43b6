"""The arrays of a step's batches, in the form in which its compiled functions take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from symng.backends import Backend
from symng.backends.host import on_automatic_mesh
from symng.objective import Objective, ObjectiveLike
from symng.objective.chunks import ChunkLayout, layout_of, split_into_chunks

Layouts = tuple[tuple[str, tuple[ChunkLayout, ...]], ...]
"""The batches of a step, "gradient" and perhaps "metric" and "search", with a layout a term."""

Arrays = Sequence[Any]
"""Arrays of inputs and then targets; NumPy's, or what can be made of such."""

Groups = Sequence[Arrays]
"""The arrays of one batch, by the terms of the objective."""

Batches = Mapping[str, Groups]
"""The arrays of each batch, by its name."""


def full_layouts(objective: ObjectiveLike, *names: str) -> Layouts:
    """Return the layouts of full batches."""
    return tuple((name, (ChunkLayout(),) * len(objective.terms)) for name in names)


def names_of_terms(objective: ObjectiveLike, name: str) -> list[str]:
    """Return what messages call the arrays of each term in a batch."""
    count = len(objective.terms)
    return [name] if isinstance(objective, Objective) else [f"{name}[{i}]" for i in range(count)]


class PlacedArrays(tuple[Any, ...]):
    """The arrays of one term, and the parts of them that are where functions take them."""

    parts: Arrays = ()


class BatchArrays:
    """Cut batches into chunks, put them where functions take them, and keep repeated ones there."""

    def __init__(self, objective: ObjectiveLike, chunk_size: int | None, backend: Backend) -> None:
        self.axes = [term.data_axes for term in objective.terms]
        self.chunk_size, self.backend = chunk_size, backend
        self._on_device: dict[tuple[int, ...], Arrays | None] = {}  # None: not yet
        self._locked: list[np.ndarray] = []

    def layouts(self, batches: Batches) -> Layouts:
        """Return the layouts of the batches; each combination has its own compiled function."""
        return tuple(
            (
                name,
                tuple(layout_of(*pair, self.chunk_size) for pair in self._with_axes(groups)),
            )
            for name, groups in batches.items()
        )

    def check(self, name: str, groups: Groups) -> None:
        """Refuse numbers of examples that cannot be split over the devices."""
        for arrays, axes in self._with_axes(groups):
            for part, axis in zip(*self._parts(arrays, axes), strict=True):
                self.backend.check_split(name, part, axis)

    def place_term(self, arrays: Arrays, term: int = 0) -> PlacedArrays:
        """Return the arrays of term number ``term`` with their parts where functions take them."""
        if isinstance(arrays, PlacedArrays):
            return arrays
        placed = PlacedArrays(arrays)
        parts = self._place(arrays, self.axes[term][: len(arrays)])
        placed.parts = self.backend.device_put(parts)
        return placed

    def flatten(self, batches: Batches) -> Arrays:
        """Return the arrays of all batches, chunks and remainders, in the order of the inputs."""
        return [
            array
            for groups in batches.values()
            for arrays, axes in self._with_axes(groups)
            for array in self._arrays_of(arrays, axes)
        ]

    def place(self, groups: Groups) -> Groups:
        """Return a batch with its arrays where functions take them, unless they are kept there.

        This may be called from another thread.
        """
        return [
            arrays if _identity(arrays) in self._on_device else self.place_term(arrays, i)
            for i, arrays in enumerate(groups)
        ]

    def first_chunks(self, groups: Groups) -> Groups:
        """Return the examples of a batch that would be its first chunks; all without chunks."""
        if self.chunk_size is None:
            return groups
        chunk = slice(self.chunk_size)
        return [
            [a[(slice(None),) * axis + (chunk,)] for a, axis in zip(arrays, axes, strict=True)]
            for arrays, axes in self._with_axes(groups)
        ]

    def lengths(self, batches: Batches) -> dict[str, int]:
        """Return the number of examples of each batch, added up over its terms."""
        return {
            f"{name}_batch": sum(
                np.shape(arrays[0])[axes[0]]
                for arrays, axes in self._with_axes(groups)
                if len(arrays)
            )
            for name, groups in batches.items()
        }

    def _with_axes(self, groups: Groups) -> Iterator[tuple[Arrays, Sequence[int]]]:
        """Yield the arrays of each term with their axes of examples."""
        for arrays, axes in zip(groups, self.axes, strict=True):
            yield arrays, axes[: len(arrays)]

    @contextmanager
    def keep_on_device(self, *batches: Groups) -> Iterator[None]:
        """Keep these batches on the device, once a step takes them, while the context is open.

        They are read-only from then on, since a step would not see what is written to them. On a
        backend without a device this does nothing.
        """
        if self.backend.has_device:
            self._on_device = dict.fromkeys(
                _identity(arrays) for groups in batches for arrays in groups
            )
        try:
            yield
        finally:
            self._on_device = {}
            for array in self._locked:
                array.flags.writeable = True
            self._locked = []

    def change_backend(self, backend: Backend) -> None:
        """Continue with another backend, and forget what is on the device of the old one."""
        self.backend = backend
        self._on_device = dict.fromkeys(self._on_device)

    def _arrays_of(self, given: Arrays, axes: Sequence[int]) -> Arrays:
        """Return the arrays of one term as they are passed, from the device if kept there."""
        if isinstance(given, PlacedArrays):
            return given.parts
        key = _identity(given)
        if key not in self._on_device:
            return self._place(given, axes)
        arrays = self._on_device[key]
        if arrays is None:
            writeable = [a for a in given if isinstance(a, np.ndarray) and a.flags.writeable]
            for array in writeable:
                array.flags.writeable = False
            self._locked += writeable
            arrays = self._on_device[key] = self.backend.device_put(self._place(given, axes))
        return arrays

    def _place(self, given: Arrays, axes: Sequence[int]) -> Arrays:
        """Return the parts of the arrays of one term where functions take them."""
        return self.backend.place(*self._parts(given, axes))

    def _parts(self, given: Arrays, axes: Sequence[int]) -> tuple[Arrays, Sequence[int]]:
        """Return the chunks and remainders of arrays, or these arrays, with their example axes."""
        layout = layout_of(given, axes, self.chunk_size)
        given = [on_automatic_mesh(array) for array in given]
        return split_into_chunks(given, axes, self.chunk_size), layout.part_axes(axes)


def _identity(arrays: Arrays) -> tuple[int, ...]:
    """Return a key for the arrays of a term, valid while they are alive."""
    return tuple(map(id, arrays))
