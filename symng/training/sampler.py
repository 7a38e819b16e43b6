"""Where the batches of a run come from: what arrays and streams have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.objective import Objective, ObjectiveLike, ObjectiveSum
from symng.training.term_batches import MetricBatch, SearchBatch

StepArrays = tuple[Any, Any, Any]
"""Gradient, metric and search batch as `CompiledStep` takes them; None for one not given."""

State = tuple[dict[str, np.ndarray], dict[str, object]]
"""Arrays and text for a checkpoint."""


class Sampler(ABC):
    """The batches of each step, and what a checkpoint has to hold of them.

    ``expected`` are the variables of a metric batch for each term, None without a metric. The other
    arguments are those of `minimize`.
    """

    def __init__(
        self,
        objective: ObjectiveLike,
        expected: Sequence[Sequence[TensorVariable] | None],
        rng: np.random.Generator,
        metric_batch: MetricBatch,
        metric_data: object,
        metric_batch_size: object,
        search_batch: SearchBatch,
    ) -> None:
        _check_metric_arguments(expected, metric_batch, metric_data, metric_batch_size)
        self.objective, self.expected, self.rng = objective, expected, rng
        self.metric_batch, self.search_batch = metric_batch, search_batch

    @property
    @abstractmethod
    def is_lazy(self) -> bool:
        """Whether examples are read or made when they are taken.

        Then it pays to take those of the next step ahead of time.
        """

    @property
    @abstractmethod
    def data(self) -> Any:
        """The arrays of all examples as `minimize` takes them; none of a stream."""

    @property
    @abstractmethod
    def metric_data(self) -> Any:
        """The arrays of all examples of metric batches."""

    @property
    @abstractmethod
    def batches_per_epoch(self) -> int:
        """The number of batches that it takes to see all examples, as far as it is known."""

    @abstractmethod
    def next(self, step: int) -> StepArrays:
        """Return the batches of step number ``step``, from 0."""

    @abstractmethod
    def peek(self) -> StepArrays:
        """Return batches of the right shapes for compilation, without drawing."""

    def peek_short(self) -> Any:
        """Return a gradient batch with the lengths of a shorter last one; None without one."""
        return None

    @abstractmethod
    def get_state(self) -> State:
        """Return arrays and text for a checkpoint."""

    def check_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Refuse a state that cannot be right, with any exception; nothing changes.

        Without arrays the text alone is checked.
        """
        type(self.rng.bit_generator)().state = meta["rng"]

    @abstractmethod
    def set_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Continue from what `get_state` returned."""

    @abstractmethod
    def begin_epoch(self, meta: Mapping[str, Any]) -> None:
        """Begin the epoch of a state again, in another order of examples; ``meta`` is its text."""

    @abstractmethod
    def checksums(self) -> list[int]:
        """Return a checksum of each array of the data."""

    @abstractmethod
    def describe(self, parts: int = 1) -> str:
        """Return a line on the batches; the same for runs that can continue one another.

        ``parts`` is how many processes each give such batches.
        """

    def as_given(self, groups: Sequence[Any]) -> Any:
        """Return the arrays of the only term, or those of all as a tuple."""
        return tuple(groups) if isinstance(self.objective, ObjectiveSum) else groups[0]

    def per_term(self, name: str, value: Any) -> list[Any]:
        """Return a setting for each term: one for all, or a tuple with one for each."""
        count = len(self.objective.terms)
        if not isinstance(value, tuple | list):
            return [value] * count
        is_single = isinstance(self.objective, Objective)
        if is_single or len(value) != count:
            of_terms = "one" if is_single else f"one, or {count} for the terms"
            raise argument_error(name, of_terms, value, error=TypeError)
        return list(value)


def _check_metric_arguments(
    expected: Sequence[object],
    metric_batch: MetricBatch,
    metric_data: object,
    metric_batch_size: object,
) -> None:
    """Refuse metric data or a size that this kind of metric batch has no use for."""
    if metric_batch != "same" and None in expected:
        raise argument_error("metric_batch", "'same': the optimizer has no metric", metric_batch)
    if metric_batch == "same" and metric_batch_size is not None:
        raise argument_error(
            "metric_batch_size",
            "none with metric_batch='same'",
            metric_batch_size,
            "Use metric_batch='other' or 'own'.",
        )
    if metric_batch != "own" and metric_data is not None:
        raise argument_error(
            "metric_data",
            f"none with metric_batch={metric_batch!r}",
            Verbatim("data"),
            "Use metric_batch='own'.",
        )
    if metric_batch == "own" and metric_data is None:
        raise argument_error("metric_data", "a tuple of arrays with metric_batch='own'", None)
