"""Draw the examples of a step, for each term of an objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng.objective import Objective, ObjectiveLike, ObjectiveSum
from symng.training.batch_arrays import Arrays, Groups, names_of_terms
from symng.training.term_batches import (
    BatchSize,
    MetricBatch,
    SearchBatch,
    TermArrays,
    TermSampler,
    check_metric_arguments,
)

StepArrays = tuple[Any, Any, Any]
"""Gradient, metric and search batch as `CompiledStep` takes them; None for one not given."""


class BatchSampler:
    """Check the data of a run once, and draw the batches of each step, term by term.

    The arguments are those of `minimize`; ``expected`` are the variables of a metric batch for each
    term, None without a metric.
    """

    def __init__(
        self,
        objective: ObjectiveLike,
        expected: Sequence[Sequence[TensorVariable] | None],
        data: Arrays | Groups,
        rng: np.random.Generator,
        *,
        batch_size: BatchSize | Sequence[BatchSize],
        metric_batch: MetricBatch,
        metric_data: Arrays | Groups | None,
        metric_batch_size: int | Sequence[int | None] | None,
        search_batch: SearchBatch,
    ) -> None:
        self.metric_batch, self.search_batch, self.rng = metric_batch, search_batch, rng
        self._is_sum = isinstance(objective, ObjectiveSum)
        if metric_batch != "same" and None in expected:
            raise argument_error(
                "metric_batch", "'same': the optimizer has no metric", metric_batch
            )
        check_metric_arguments(metric_batch, metric_data, metric_batch_size)
        given = objective.by_term("data", data)
        sizes = _per_term("batch_size", batch_size, objective)
        metric_sizes = _per_term("metric_batch_size", metric_batch_size, objective)
        own: Sequence[Arrays | None] = [None] * len(given)
        if metric_data is not None:
            own = objective.by_term("metric_data", metric_data)
        of_data, of_own = (names_of_terms(objective, name) for name in ("data", "metric_data"))
        self.terms = [
            TermSampler(
                {"data": of_data[i], "metric_data": of_own[i]},
                term,
                expected[i],
                given[i],
                rng,
                batch_size=sizes[i],
                metric_batch=metric_batch,
                metric_data=own[i],
                metric_batch_size=metric_sizes[i],
                search_batch=search_batch,
                takes_all=any(size is not None for size in sizes),
            )
            for i, term in enumerate(objective.terms)
        ]

    @property
    def data(self) -> Any:
        """The data as `minimize` takes them."""
        return self._as_given([term.data for term in self.terms])

    @property
    def metric_data(self) -> Any:
        """The data of metric batches as `minimize` takes them."""
        return self._as_given([term.metric_data for term in self.terms])

    @property
    def epoch(self) -> int:
        """The largest number of batches that it takes to see all examples of a term."""
        gradients = [term.gradient for term in self.terms]
        return max(g.count // max(g.size, 1) for g in gradients)

    def next(self, step: int) -> StepArrays:
        """Return the batches of step number ``step``, from 0."""
        return self._together([term.next(step) for term in self.terms])

    def peek(self) -> StepArrays:
        """Return batches of the right shapes for compilation, without drawing."""
        return self._together([term.peek() for term in self.terms])

    def _together(self, of_terms: Sequence[TermArrays]) -> StepArrays:
        """Return the batches of a step from those of its terms."""
        gradient, metric, search = (
            None if parts[0] is None else self._as_given(parts)
            for parts in zip(*of_terms, strict=True)
        )
        return gradient, metric, search

    def _as_given(self, groups: Sequence[Any]) -> Any:
        """Return the arrays of the only term, or those of all as a tuple."""
        return tuple(groups) if self._is_sum else groups[0]

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        """Return arrays and text for a checkpoint."""
        arrays: dict[str, np.ndarray] = {}
        meta: dict[str, object] = {"rng": self.rng.bit_generator.state}
        for suffix, term in self._with_suffixes():
            of_term, positions = term.get_state()
            arrays |= {f"{name}{suffix}": array for name, array in of_term.items()}
            meta |= {f"{name}{suffix}": position for name, position in positions.items()}
        return arrays, meta

    def set_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        for suffix, term in self._with_suffixes():
            own = [
                {
                    name.removesuffix(suffix): v
                    for name, v in values.items()
                    if name.endswith(suffix)
                }
                for values in (arrays, meta)
            ]
            term.set_state(*own)
        self.rng.bit_generator.state = meta["rng"]

    def _with_suffixes(self) -> Iterator[tuple[str, TermSampler]]:
        """Yield the terms with what the names of their entries in a checkpoint end in."""
        for i, term in enumerate(self.terms):
            yield f"_{i}" if i else "", term


def _with_suffix(values: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """Return the entries whose names end in a suffix, without it."""
    return {k.removesuffix(suffix): v for k, v in values.items() if k.endswith(suffix)}


def _per_term(name: str, value: Any, objective: ObjectiveLike) -> list[Any]:
    """Return a setting for each term: one for all, or a tuple with one for each."""
    count = len(objective.terms)
    if not isinstance(value, tuple | list):
        return [value] * count
    if isinstance(objective, Objective) or len(value) != count:
        of_terms = "one" if isinstance(objective, Objective) else f"one, or {count} for the terms"
        raise argument_error(name, of_terms, value, error=TypeError)
    return list(value)
