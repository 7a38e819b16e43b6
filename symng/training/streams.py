"""Data that come batch by batch: from an iterable, or from a function that returns one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.objective import Objective, ObjectiveLike
from symng.training.arguments import count_arguments
from symng.training.batch_arrays import Arrays, Groups, names_of_terms
from symng.training.batches import BatchSampler
from symng.training.examples import Examples, Indices
from symng.training.sampler import Sampler, State, StepArrays
from symng.training.term_batches import (
    IndexSampler,
    MetricBatch,
    SearchBatch,
    check_groups,
    metric_examples,
)

Source = Iterable[Any] | Callable[..., Iterable[Any]]
"""Batches, or a function that returns the batches of one pass."""


class StreamEndError(Exception):
    """No batch is left, and the stream cannot begin again."""


def is_stream(data: object) -> bool:
    """Return whether data are batches one after another, and not arrays of all examples."""
    is_arrays = isinstance(data, tuple | list | Mapping | str | bytes | Variable)
    if is_arrays or any(hasattr(data, name) for name in ("__array__", "toarray", "columns")):
        return False
    return callable(data) or isinstance(data, Iterable)


def can_restart(data: Any) -> bool:
    """Return whether a stream has more than one pass; a generator has one."""
    return callable(data) or iter(data) is not data


class Stream:
    """The batches of a source, pass after pass.

    Attributes
    ----------
    epoch : int
        Number of the current pass, from 0.
    position : int
        How many of its batches are taken.
    """

    def __init__(self, name: str, source: Source) -> None:
        self.name, self.source = name, cast(Any, source)
        self.can_restart = can_restart(source)
        self.epoch = self.position = 0
        self._iterator: Iterator[Any] | None = None
        self._ahead: deque[tuple[int, int, Any]] = deque()
        self._read = (0, 0)  # pass and position up to which the source is read

    def next(self) -> Any:
        """Take the next batch, and return it.

        Raises
        ------
        StreamEndError
            When there is none.
        """
        self.peek(1)
        self.epoch, self.position, batch = self._ahead.popleft()
        return batch

    def peek(self, count: int) -> list[Any]:
        """Return the next batches without taking them."""
        while len(self._ahead) < count:
            self._ahead.append(self._fetch())
        return [batch for _, _, batch in list(self._ahead)[:count]]

    def go_to(self, epoch: int, position: int) -> None:
        """Read the source from its beginning up to so many batches of a pass."""
        if epoch > self.epoch:
            self._ahead.clear()
            self._iterator, self._read = None, (epoch, 0)
            self.epoch, self.position = epoch, 0
        try:
            while (self.epoch, self.position) < (epoch, position):
                self.next()
        except StreamEndError:
            pass
        if (self.epoch, self.position) != (epoch, position):
            raise argument_error(
                "checkpoint",
                f"{self.name} with more than the {position} batches that the run has taken",
                Verbatim("fewer"),
                "Give the same stream from its beginning.",
            )

    def _fetch(self) -> tuple[int, int, Any]:
        """Read a batch from the source; return its pass, its position and the batch."""
        epoch, position = self._read
        if self._iterator is None:
            self._iterator = self._begin(epoch)
        for batch in self._iterator:
            self._read = epoch, position + 1
            return epoch, position + 1, batch
        if position == 0:
            of_pass = "" if epoch == 0 else f" in pass {epoch + 1}"
            raise argument_error(
                self.name, "at least one batch", Verbatim(f"a stream without any{of_pass}")
            )
        if not self.can_restart:
            raise StreamEndError
        self._iterator, self._read = None, (epoch + 1, 0)
        return self._fetch()

    def _begin(self, epoch: int) -> Iterator[Any]:
        """Return the batches of a pass."""
        if isinstance(self.source, Iterable):
            return iter(self.source)
        batches = self.source(*[epoch][: count_arguments(self.source, 0, 1)])
        if not isinstance(batches, Iterable):
            expected = "a function that returns an iterable of batches"
            raise argument_error(self.name, expected, batches, error=TypeError)
        return iter(batches)


class StreamSampler(Sampler):
    """Take the batches of each step from a stream.

    The arguments are those of `minimize`; ``expected`` are the variables of a metric batch for each
    term, None without a metric.
    """

    def __init__(
        self,
        objective: ObjectiveLike,
        expected: Sequence[Sequence[TensorVariable] | None],
        data: Source,
        rng: np.random.Generator,
        *,
        metric_batch: MetricBatch,
        metric_data: Any,
        metric_batch_size: Any,
        search_batch: SearchBatch,
    ) -> None:
        super().__init__(
            objective, expected, rng, metric_batch, metric_data, metric_batch_size, search_batch
        )
        if search_batch == "all":
            hint = "Take 'other', another batch of the stream."
            raise argument_error("search_batch", "'same' or 'other' of a stream", "all", hint)
        self._stream, self._metric_stream = Stream("data", data), None
        self._length = _length(data)
        self._own: list[tuple[Examples, IndexSampler]] = []
        if metric_batch == "own" and is_stream(metric_data):
            if metric_batch_size is not None:
                raise argument_error("metric_batch_size", "none with a stream", metric_batch_size)
            self._metric_stream = Stream("metric_data", metric_data)
        elif metric_batch == "own":
            self._draw_from(metric_data, self.per_term("metric_batch_size", metric_batch_size))

    @property
    def is_lazy(self) -> bool:
        return True

    @property
    def data(self) -> Any:
        return self.as_given([()] * len(self.objective.terms))

    @property
    def metric_data(self) -> Any:
        groups: list[Arrays] = [examples.arrays for examples, _ in self._own]
        return self.as_given(groups or [()] * len(self.objective.terms))

    @property
    def batches_per_epoch(self) -> int:
        return self._length

    def next(self, step: int) -> StepArrays:
        chosen = [indices.next() for _, indices in self._own]
        own = None if self._metric_stream is None else self._metric_stream.next
        return self._batches(self._stream.next, own, chosen, f" (step {step + 1})")

    def peek(self) -> StepArrays:
        chosen = [indices.dummy() for _, indices in self._own]
        own = None if self._metric_stream is None else self._metric_stream.peek
        ahead = iter(self._stream.peek(self._batches_a_step))
        return self._batches(
            lambda: next(ahead), None if own is None else lambda: own(1)[0], chosen, ""
        )

    @property
    def _batches_a_step(self) -> int:
        """How many batches of the data a step takes."""
        return 1 + (self.metric_batch == "other") + (self.search_batch == "other")

    def _batches(
        self,
        draw: Callable[[], Any],
        draw_own: Callable[[], Any] | None,
        chosen: Sequence[Indices],
        where: str,
    ) -> StepArrays:
        """Return the batches of a step, checked; ``where`` is what messages call it."""
        gradient = self._check(f"data{where}", draw())
        metric: Groups | None = None
        search: Groups | None = None
        if self.metric_batch == "other":
            groups = self._check(f"data{where}", draw())
            metric = [g[: len(e or ())] for g, e in zip(groups, self.expected, strict=True)]
        elif draw_own is not None:
            metric = self._check(f"metric_data{where}", draw_own(), self.expected)
        elif self.metric_batch == "own":
            pairs = zip(self._own, chosen, strict=True)
            metric = [examples.take(indices, where) for (examples, _), indices in pairs]
        if self.search_batch == "other":
            search = self._check(f"data{where}", draw())
        given = [None if b is None else self.as_given(b) for b in (gradient, metric, search)]
        return given[0], given[1], given[2]

    def _draw_from(self, metric_data: Any, sizes: Sequence[int | None]) -> None:
        """Draw metric batches from arrays; all of their examples where no size is given."""
        groups = self.objective.by_term("metric_data", metric_data)
        names = names_of_terms(self.objective, "metric_data")
        terms = zip(names, groups, self.objective.terms, self.expected, sizes, strict=True)
        for name, arrays, term, expected, size in terms:
            piecewise = size is not None
            examples = metric_examples(name, arrays, term, expected, piecewise=piecewise)
            if size is not None and size > examples.count:
                of_what = f"at most the {examples.count} examples of {name}"
                raise argument_error("metric_batch_size", of_what, size)
            self._own.append((examples, IndexSampler(examples.count, size, self.rng)))

    def _check(
        self,
        name: str,
        batch: Any,
        expected: Sequence[Sequence[TensorVariable] | None] | None = None,
    ) -> Groups:
        """Return the arrays of a batch by term, or refuse them; ``expected`` for a metric batch."""
        groups = self.objective.by_term(name, batch)
        return [tuple(g) for g in check_groups(name, groups, self.objective, expected)]

    def get_state(self) -> State:
        arrays, meta = {}, {"rng": self.rng.bit_generator.state, **_position_of(self._stream, "")}
        if self._metric_stream is not None:
            meta |= _position_of(self._metric_stream, "metric_")
        for i, (_, indices) in enumerate(self._own):
            arrays[f"metric_order_{i}"], meta[f"metric_position_{i}"] = (
                indices.order,
                indices.position,
            )
        return arrays, meta

    def check_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        super().check_state(arrays, meta)
        for prefix in ("", "metric_") if self._metric_stream is not None else ("",):
            epoch, position = meta[f"{prefix}epoch"], meta[f"{prefix}position"]
            if not all(type(number) is int and number >= 0 for number in (epoch, position)):
                raise ValueError(f"batch {position!r} of pass {epoch!r}")
        for i, (_, indices) in enumerate(self._own if arrays else ()):
            indices.check_state(arrays[f"metric_order_{i}"], meta[f"metric_position_{i}"])

    def set_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        self._stream.go_to(meta["epoch"], meta["position"])
        if self._metric_stream is not None:
            self._metric_stream.go_to(meta["metric_epoch"], meta["metric_position"])
        for i, (_, indices) in enumerate(self._own):
            indices.order = arrays[f"metric_order_{i}"]
            indices.position = meta[f"metric_position_{i}"]
        self.rng.bit_generator.state = meta["rng"]

    def begin_epoch(self, meta: Mapping[str, Any]) -> None:
        self._stream.go_to(meta["epoch"], 0)
        if self._metric_stream is not None:
            self._metric_stream.go_to(meta["metric_epoch"], 0)
        self.rng.bit_generator.state = meta["rng"]

    def checksums(self) -> list[int]:
        return [value for examples, _ in self._own for value in examples.checksums()]

    def describe(self, parts: int = 1) -> str:
        sizes = ""
        if self._own:
            sizes = f" of {' + '.join(str(parts * indices.size) for _, indices in self._own)}"
        return (
            f"batches of a stream, metric batch {self.metric_batch!r}{sizes}, search batch "
            f"{self.search_batch!r}"
        )


def _position_of(stream: Stream, prefix: str) -> dict[str, object]:
    """Return where a stream is, for a checkpoint."""
    return {f"{prefix}epoch": stream.epoch, f"{prefix}position": stream.position}


def _length(data: object) -> int:
    """Return the number of batches of a pass; 1 where it is not known."""
    try:
        return max(len(data), 1)  # type: ignore[arg-type]
    except TypeError:
        return 1


def _are_batches(data: object) -> bool:
    """Return whether data are a list of tuples of arrays."""
    return isinstance(data, tuple | list) and any(
        isinstance(batch, tuple | list) and batch and all(hasattr(a, "__array__") for a in batch)
        for batch in data
    )


def make_sampler(
    objective: ObjectiveLike,
    expected: Sequence[Sequence[TensorVariable] | None],
    data: Any,
    rng: np.random.Generator,
    *,
    batch_size: Any,
    drop_last: bool,
    **options: Any,
) -> Sampler:
    """Return the sampler for data, arrays or a stream, with the arguments of `minimize`."""
    if not is_stream(data):
        if isinstance(objective, Objective) and _are_batches(data):
            hint = "Give a function that returns them, for instance lambda: batches."
            got = Verbatim(f"a {type(data).__name__} of {len(data)} batches")
            raise argument_error("data", "arrays of all examples, or a stream", got, hint)
        sizes = {"batch_size": batch_size, "drop_last": drop_last}
        return BatchSampler(objective, expected, data, rng, **sizes, **options)
    if batch_size is not None:
        hint = "Cut the batches where the stream is made."
        raise argument_error("batch_size", "none with a stream of batches", batch_size, hint)
    if not drop_last:
        hint = "Let the stream end with the shorter batch."
        raise argument_error("drop_last", "True with a stream of batches", drop_last, hint)
    return StreamSampler(objective, expected, data, rng, **options)
