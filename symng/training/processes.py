"""Keep the processes of a run together: they refuse, stop and end as one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable

from symng._checks import Verbatim, argument_error
from symng.backends import Backend, to_numpy
from symng.backends.host import checksum
from symng.graphs.arrays import is_on_device


class Processes:
    """The processes over whose devices the examples are split; often one.

    Attributes
    ----------
    count : int
        How many there are.
    is_first : bool
        Whether this one is the first, which writes files and shows progress.
    """

    def __init__(self, backend: Backend) -> None:
        self._gather = backend.gather
        self.count, self.is_first = backend.processes, backend.process == 0

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Raise an error in all processes if one of them raises one within the context."""
        if self.count == 1:
            yield
            return
        error = None
        try:
            yield
        except Exception as own:
            error = own
        failed = np.flatnonzero(self._gather([error is not None])[:, 0])
        if error is not None:
            raise error
        if failed.size:
            raise RuntimeError(
                f"{what}: process {failed[0]} of {self.count} raised an error, so this one stops, "
                "too. The message of that process says why."
            )

    def agree(self, number: int) -> int:
        """Return the number of the first process that has another one than 0; 0 if none has."""
        if self.count == 1:
            return number
        numbers = self._gather([number])[:, 0]
        return int(next((n for n in numbers if n), 0))

    def check_same(self, numbers: Mapping[str, int], hint: str) -> None:
        """Refuse numbers, by their names, that are not the same in all processes."""
        if self.count == 1:
            return
        gathered = self._gather(list(numbers.values()))
        for name, column in zip(numbers, gathered.T, strict=True):
            others = np.flatnonzero(column != column[0])
            if others.size:
                raise argument_error(
                    name,
                    "the same in all processes",
                    Verbatim(f"different ones in processes 0 and {others[0]}"),
                    hint,
                )

    def combine(self, checksums: list[int]) -> list[int]:
        """Return the checksums of arrays of which each process has a part."""
        if self.count == 1:
            return checksums
        return [zlib.crc32(column.tobytes()) for column in self._gather(checksums).T]

    def parts_of(self, data: Any) -> int:
        """Return how many processes each give a part of the examples of ``data``.

        An array of JAX that is spread over the processes holds the examples of all of them.
        """
        flat = [a for group in _nested(data) for a in _nested(group)]
        spread = any(is_on_device(a) and not a.is_fully_addressable for a in flat)
        return 1 if spread else self.count

    def check_values(self, variables: Mapping[str, SharedVariable]) -> None:
        """Refuse shared variables, by their names, whose values differ between processes."""
        if self.count == 1:
            return
        self.check_same(
            {n: checksum(to_numpy(v.get_value(borrow=True))) for n, v in variables.items()},
            "Make it from the same seed, or read it from the same file, in each.",
        )


def share(name: str, size: Any, parts: int) -> Any:
    """Return one of ``parts`` equal shares of a number of examples, in any form of `minimize`."""
    if parts == 1 or size is None:
        return size
    if isinstance(size, tuple | list):
        return [share(name, each, parts) for each in size]
    if callable(size):
        return lambda step: share(name, size(step), parts)
    if size % parts:
        expected = f"a multiple of {parts}, so that each process gives as many examples"
        raise argument_error(name, expected, size)
    return size // parts


def _nested(values: Any) -> Any:
    """Return the items of a tuple or list; of anything else that alone."""
    return values if isinstance(values, tuple | list) else [values]
