"""The arrays of all examples of a term: in memory, or in memory-mapped files."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from pytensor.tensor.variable import TensorVariable

from symng.backends.host import checksum, on_automatic_mesh
from symng.graphs.arrays import check_examples
from symng.training.batch_arrays import Arrays

Indices = np.ndarray | None
"""Numbers of examples; None for all of them, in order."""

# How much of a file its checksum takes from either end, in bytes.
_END = 2**20


class Examples:
    """Take examples from arrays.

    Arrays in memory are checked at once: ``check`` is a function of a name for messages and arrays.
    With ``piecewise`` memory-mapped ones are read, and checked, as examples are taken.

    Attributes
    ----------
    arrays : list of array
        As ``check`` returns them; those on disk as they are.
    is_on_disk : bool
        Whether examples are read from files.
    """

    def __init__(
        self,
        name: str,
        arrays: Arrays,
        variables: Sequence[TensorVariable],
        axes: Sequence[int],
        check: Callable[[str, Arrays], list[np.ndarray]],
        *,
        piecewise: bool,
    ) -> None:
        self.name, self.axes, self._check = name, axes[: len(variables)], check
        self.is_on_disk = (
            piecewise
            and _are_on_disk(arrays)
            and [np.ndim(a) for a in arrays] == [v.ndim for v in variables]
        )
        if self.is_on_disk:
            self.arrays = [np.asarray(a) for a in arrays]
            check_examples(name, self.arrays, variables, self.axes)
            check(name, self._at(np.arange(1)))
        else:
            self.arrays = [on_automatic_mesh(a) for a in check(name, arrays)]

    @property
    def count(self) -> int:
        """The number of examples; one where the data are constants of the graph."""
        return self.arrays[0].shape[self.axes[0]] if self.arrays else 1

    def take(self, indices: Indices, where: str = "") -> tuple[np.ndarray, ...]:
        """Return the examples at ``indices`` of each array, without a copy where these are all.

        ``where`` is added to the name of the arrays in messages.
        """
        taken = self._at(indices)
        return tuple(self._check(f"{self.name}{where}", taken)) if self.is_on_disk else taken

    def checksums(self) -> list[int]:
        """Return a checksum of each array; of one on disk, of its shape and its ends."""
        if not self.is_on_disk:
            return [checksum(a) for a in self.arrays]
        return [zlib.crc32(_ends(a), len(a)) for a in self.arrays]

    def _at(self, indices: Indices) -> tuple[np.ndarray, ...]:
        if indices is None:
            return tuple(self.arrays)
        pairs = zip(self.arrays, self.axes, strict=True)
        return tuple(a.take(indices, axis=axis) for a, axis in pairs)


def _are_on_disk(arrays: object) -> bool:
    """Return whether one of the arrays is a memory-mapped file."""
    return isinstance(arrays, tuple | list) and any(isinstance(a, np.memmap) for a in arrays)


def _ends(array: np.ndarray) -> bytes:
    """Return the first and the last bytes of an array."""
    count = max(_END // array.itemsize, 1)
    flat = array.reshape(-1)  # a view: files hold arrays without gaps
    return flat[:count].tobytes() + flat[-count:].tobytes()
