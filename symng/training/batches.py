"""Which examples a step sees: minibatches by seed, without replacement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Batches:
    """Draw minibatches of indices without replacement, and others beside them.

    Every epoch is a fresh permutation of all examples cut into batches; the examples that do not fill a last batch are
    left to the next epoch's permutation, so that all batches have one size.
    """

    def __init__(self, count: int, size: int | None, rng: np.random.Generator) -> None:
        self.count, self.size, self.rng = count, count if size is None else size, rng
        self.order = np.arange(count)
        self.position = count

    def next(self) -> np.ndarray | None:
        """Return the indices of the next batch; None for all examples in order."""
        if self.size == self.count:
            return None
        if self.position + self.size > self.count:
            self.order, self.position = self.rng.permutation(self.count), 0
        batch = self.order[self.position : self.position + self.size]
        self.position += self.size
        return batch

    def others(self, size: int) -> np.ndarray:
        """Return indices of ``size`` examples, none of which is in the batch drawn last."""
        start = self.position - self.size
        chosen = self.rng.choice(self.count - self.size, size, replace=False)
        return self.order[np.where(chosen < start, chosen, chosen + self.size)]

    def get_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the order (the generator is kept apart)."""
        return {"order": self.order, "position": self.position}

    def set_state(self, order: np.ndarray, position: int) -> None:
        """Go on from a kept order."""
        self.order, self.position = np.asarray(order), int(position)


def take(arrays: Sequence[np.ndarray], axes: Sequence[int], indices: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Return the examples at ``indices`` of each array along its axis; None means all, without a copy."""
    if indices is None:
        return tuple(arrays)
    return tuple(np.take(a, indices, axis=axis) for a, axis in zip(arrays, axes, strict=True))
