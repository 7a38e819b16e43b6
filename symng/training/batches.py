"""Draw the examples of a step, for each term of an objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pytensor.tensor.variable import TensorVariable

from symng.objective import ObjectiveLike
from symng.training.batch_arrays import Arrays, Groups, names_of_terms
from symng.training.sampler import Sampler, State, StepArrays
from symng.training.term_batches import (
    BatchSize,
    MetricBatch,
    SearchBatch,
    TermArrays,
    TermSampler,
)


class BatchSampler(Sampler):
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
        drop_last: bool = True,
    ) -> None:
        super().__init__(
            objective, expected, rng, metric_batch, metric_data, metric_batch_size, search_batch
        )
        given = objective.by_term("data", data)
        sizes = self.per_term("batch_size", batch_size)
        metric_sizes = self.per_term("metric_batch_size", metric_batch_size)
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
                drop_last=drop_last,
            )
            for i, term in enumerate(objective.terms)
        ]

    @property
    def is_lazy(self) -> bool:
        return any(term.is_on_disk for term in self.terms)

    @property
    def data(self) -> Any:
        return self.as_given([term.data for term in self.terms])

    @property
    def metric_data(self) -> Any:
        return self.as_given([term.metric_data for term in self.terms])

    @property
    def batches_per_epoch(self) -> int:
        """The largest number of batches that it takes to see all examples of a term."""
        return max(term.gradient.batches_per_epoch for term in self.terms)

    def next(self, step: int) -> StepArrays:
        return self._together([term.next(step) for term in self.terms])

    def peek(self) -> StepArrays:
        return self._together([term.peek() for term in self.terms])

    def peek_short(self) -> Any:
        short = [term.peek_short() for term in self.terms]
        if all(arrays is None for arrays in short):
            return None
        given = [t.peek()[0] if s is None else s for t, s in zip(self.terms, short, strict=True)]
        return self.as_given(given)

    def _together(self, of_terms: Sequence[TermArrays]) -> StepArrays:
        """Return the batches of a step from those of its terms."""
        gradient, metric, search = (
            None if parts[0] is None else self.as_given(parts)
            for parts in zip(*of_terms, strict=True)
        )
        return gradient, metric, search

    def get_state(self) -> State:
        arrays: dict[str, np.ndarray] = {}
        meta: dict[str, object] = {"rng": self.rng.bit_generator.state}
        for suffix, term in self._with_suffixes():
            of_term, positions = term.get_state()
            arrays |= {f"{name}{suffix}": array for name, array in of_term.items()}
            meta |= {f"{name}{suffix}": position for name, position in positions.items()}
        return arrays, meta

    def check_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        super().check_state(arrays, meta)
        for suffix, term in self._with_suffixes():
            if arrays:
                term.check_state(_with_suffix(arrays, suffix), _with_suffix(meta, suffix))

    def set_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        for suffix, term in self._with_suffixes():
            term.set_state(_with_suffix(arrays, suffix), _with_suffix(meta, suffix))
        self.rng.bit_generator.state = meta["rng"]

    def begin_epoch(self, meta: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = meta["rng"]

    def checksums(self) -> list[int]:
        examples = [term.examples for term in self.terms]
        if self.metric_batch == "own":
            pairs = [(term.examples, term.metric_examples) for term in self.terms]
            examples = [e for pair in pairs for e in pair]
        return [value for e in examples for value in e.checksums()]

    def describe(self, parts: int = 1) -> str:
        sizes = " + ".join(
            f"batch {'by a schedule' if t.schedule else parts * t.gradient.size} of "
            f"{parts * t.gradient.count}"
            for t in self.terms
        )
        if any(not t.gradient.drop_last for t in self.terms):
            sizes += " with a shorter last one"
        metric = ""
        if self.metric_batch != "same":
            metric = f" of {' + '.join(str(parts * t.metric_size) for t in self.terms)}"
        return (
            f"{sizes}, metric batch {self.metric_batch!r}{metric}, search batch "
            f"{self.search_batch!r}"
        )

    def _with_suffixes(self) -> Iterator[tuple[str, TermSampler]]:
        """Yield the suffix of each term's entries in a checkpoint, and the term."""
        for i, term in enumerate(self.terms):
            yield f"_{i}" if i else "", term


def _with_suffix(values: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """Return the entries whose names end in a suffix, without it."""
    return {k.removesuffix(suffix): v for k, v in values.items() if k.endswith(suffix)}
