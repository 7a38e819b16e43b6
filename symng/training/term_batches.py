"""Draw the examples of one term of an objective: by seed, without replacement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_number
from symng.objective import Objective, ObjectiveLike
from symng.training.batch_arrays import Arrays, Groups, names_of_terms
from symng.training.examples import Examples, Indices

MetricBatch = Literal["same", "other", "own"]
SearchBatch = Literal["same", "other", "all"]

TermArrays = tuple[Arrays, Arrays | None, Arrays | None]
"""Of one term, gradient, metric and search batch; None for one that is the gradient batch."""

BatchSize = int | Callable[[int], int] | None
"""A number of examples, a schedule of the step number, or None for all."""


class IndexSampler:
    """Draw minibatches of indices without replacement, and batches of the remaining examples.

    Every epoch is a fresh permutation of all examples cut into batches. With ``drop_last`` the
    examples that do not fill a last batch are left to the next epoch's permutation, so that all
    batches have one size; without it they are a shorter batch.
    """

    def __init__(
        self, count: int, size: int | None, rng: np.random.Generator, drop_last: bool = True
    ) -> None:
        self.count, self.size, self.rng = count, count if size is None else size, rng
        self.drop_last = drop_last
        self.order = np.arange(count)
        self.position = count
        self._taken = 0  # examples in the last batch

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        size = max(self.size, 1)
        return self.count // size if self.drop_last else -(-self.count // size)

    @property
    def short(self) -> int:
        """The number of examples in a shorter last batch; 0 where there is none."""
        return 0 if self.drop_last else self.count % max(self.size, 1)

    def next(self) -> Indices:
        """Return the indices of the next batch."""
        if self.size == self.count:
            return None
        left = self.count - self.position
        if left < (self.size if self.drop_last else 1):
            self.order, self.position = self.rng.permutation(self.count), 0
        batch = self.order[self.position : self.position + self.size]
        self._taken = len(batch)
        self.position += self._taken
        return batch

    def check_state(self, order: np.ndarray, position: object) -> None:
        """Refuse an order that is no permutation, and a position outside of it."""
        if not np.array_equal(np.sort(order), np.arange(self.count)):
            raise ValueError("an order of examples that is no permutation")
        if type(position) is not int or not 0 <= position <= self.count:
            raise ValueError(f"position {position!r} in {self.count} examples")

    def dummy(self) -> Indices:
        """Return indices of as many examples, without drawing."""
        return None if self.size == self.count else np.arange(self.size)

    def others(self, *sizes: int) -> list[np.ndarray]:
        """Return indices that are not in the last batch, and if possible disjoint."""
        start, left = self.position - self._taken, self.count - self._taken
        if sum(sizes) <= left:
            drawn = np.split(
                self.rng.choice(left, sum(sizes), replace=False), np.cumsum(sizes)[:-1]
            )
        else:
            drawn = [self.rng.choice(left, size, replace=False) for size in sizes]
        return [
            self.order[np.where(chosen < start, chosen, chosen + self._taken)] for chosen in drawn
        ]


def _scheduled(schedule: Callable[[int], int], step: int) -> int:
    """Return the batch size of a step, or refuse it."""
    size = schedule(step)
    check_number(f"batch_size (its schedule at step {step})", size, minimum=1, integer=True)
    return int(size)


def check_metric_batch(
    name: str, arrays: object, objective: Objective, expected: Sequence[TensorVariable] | None
) -> list[np.ndarray]:
    """Return the arrays of a metric batch if they fit ``expected``, what the metric needs."""
    if expected is None:
        raise argument_error(
            name, "none: the optimizer has no metric", Verbatim("one"), "Leave it out."
        )
    inputs, targets = len(objective.inputs), len(objective.targets)
    given = len(arrays) if isinstance(arrays, tuple | list) else None
    if given != len(expected) and given in (inputs, inputs + targets):
        names = ", ".join(str(v) for v in expected)
        hint = "The metric reaches the targets: give them too."
        if len(expected) == inputs:
            hint = "This metric needs no targets: give inputs alone."
        plural = "s" if len(expected) > 1 else ""
        raise argument_error(
            name, f"{len(expected)} array{plural} ({names})", Verbatim(str(given)), hint
        )
    return objective.check_batch(name, arrays, targets=len(expected) > inputs)


def check_groups(
    name: str,
    groups: Groups,
    objective: ObjectiveLike,
    expected: Sequence[Sequence[TensorVariable] | None] | None = None,
) -> list[list[np.ndarray]]:
    """Return the arrays of a batch by term, or refuse them.

    ``expected`` is given for a metric batch: what the metric needs of each term.
    """
    names, terms = names_of_terms(objective, name), objective.terms
    if expected is None:
        pairs = zip(terms, names, groups, strict=True)
        return [term.check_batch(own, arrays) for term, own, arrays in pairs]
    each = zip(names, groups, terms, expected, strict=True)
    return [check_metric_batch(*arguments) for arguments in each]


def metric_examples(
    name: str,
    arrays: Any,
    objective: Objective,
    expected: Sequence[TensorVariable] | None,
    *,
    piecewise: bool,
) -> Examples:
    """Return the examples of ``metric_data``."""
    return Examples(
        name,
        arrays,
        objective.model.variables[: len(expected or ())],
        objective.data_axes,
        lambda name, arrays: check_metric_batch(name, arrays, objective, expected),
        piecewise=piecewise,
    )


def _check_others(name: str, kind: str, left: int) -> None:
    """Refuse "other" examples where the gradient batch leaves none."""
    if kind == "other" and left == 0:
        raise argument_error(
            name,
            "examples outside of the gradient batch",
            Verbatim("none: it holds all of them"),
            f"Give a smaller batch_size, or {name}='same'.",
        )


class TermSampler:
    """Check the data of one term, and draw its examples for each step.

    The arguments are those of `minimize`, for this term alone; ``expected`` are the variables of a
    metric batch, None without a metric. With ``takes_all`` a term whose batch holds all of its
    examples has no others: these are its "other" examples, too.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        objective: Objective,
        expected: Sequence[TensorVariable] | None,
        data: Arrays,
        rng: np.random.Generator,
        *,
        batch_size: BatchSize,
        metric_batch: MetricBatch,
        metric_data: Arrays | None,
        metric_batch_size: int | None,
        search_batch: SearchBatch,
        takes_all: bool,
        drop_last: bool,
    ) -> None:
        variables = objective.model.variables
        self.examples = Examples(
            names["data"],
            data,
            variables,
            objective.data_axes,
            objective.check_batch,
            piecewise=batch_size is not None,
        )
        self.metric_batch, self.search_batch = metric_batch, search_batch
        count = self.examples.count
        self.schedule = batch_size if callable(batch_size) else None
        size = _scheduled(batch_size, 0) if callable(batch_size) else batch_size
        if size is not None and size > count:
            raise argument_error(
                "batch_size",
                f"at most the {count} examples of {names['data']}",
                size,
                "None takes all of them.",
            )
        self.gradient = IndexSampler(count, size, rng, drop_last)
        left = count - self.gradient.size
        self.takes_all = takes_all and left == 0
        if not self.takes_all:
            _check_others("metric_batch", metric_batch, left)
            _check_others("search_batch", search_batch, left)
        self.search_size = count if self.takes_all else min(self.gradient.size, left)

        # Where metric batches come from, and of which size they are.
        self.own: IndexSampler | None = None
        self.metric_examples, self._metric_length = self.examples, len(expected or ())
        available, of_what = left, "examples outside of the gradient batch"
        if metric_batch == "own":
            self.metric_examples = metric_examples(
                names["metric_data"],
                metric_data,
                objective,
                expected,
                piecewise=metric_batch_size is not None or batch_size is not None,
            )
            available = self.metric_examples.count
            of_what = f"examples of {names['metric_data']}"
        elif self.takes_all:
            available, of_what = count, f"examples of {names['data']}"
        # One example after the other is the online regime: its metric is that of a held-out set.
        online = metric_batch == "own" and self.gradient.size == 1 and self.schedule is None
        default = available if online else min(self.gradient.size, available)
        self.metric_size = default if metric_batch_size is None else metric_batch_size
        if metric_batch != "same" and self.metric_size > available:
            raise argument_error(
                "metric_batch_size", f"at most the {available} {of_what}", metric_batch_size
            )
        if metric_batch == "own":
            self.own = IndexSampler(available, self.metric_size, rng)

    @property
    def data(self) -> Arrays:
        """The arrays of all examples."""
        return self.examples.arrays

    @property
    def metric_data(self) -> Arrays:
        """The arrays of all examples of metric batches."""
        return self.metric_examples.arrays[: self._metric_length]

    @property
    def is_on_disk(self) -> bool:
        """Whether examples are read from files when they are taken."""
        return self.examples.is_on_disk or self.metric_examples.is_on_disk

    def next(self, step: int) -> TermArrays:
        """Return the arrays of the next step.

        ``step`` is its number from 0. A scheduled size leaves as many examples as the other batches
        take.
        """
        if self.schedule is not None:
            taken = max(
                self.metric_size * (self.metric_batch == "other"), self.search_batch == "other"
            )
            self.gradient.size = min(_scheduled(self.schedule, step), self.gradient.count - taken)
            self.search_size = min(self.gradient.size, self.gradient.count - self.gradient.size)
        chosen = self.gradient.next()
        metric = None if self.own is None else self.own.next()
        sizes = {
            "metric": (self.metric_batch, self.metric_size),
            "search": (self.search_batch, self.search_size),
        }
        drawn_sizes = {name: size for name, (batch, size) in sizes.items() if batch == "other"}
        where = f" (step {step + 1})"
        if self.takes_all or not drawn_sizes:
            return self._take(chosen, metric, None, where)
        others = self.gradient.others(*drawn_sizes.values())
        drawn = dict(zip(drawn_sizes, others, strict=True))
        return self._take(chosen, drawn.get("metric", metric), drawn.get("search"), where)

    def peek(self) -> TermArrays:
        """Return arrays of the right shapes for compilation, without drawing."""
        if self.takes_all:
            return self._take(None, None if self.own is None else self.own.dummy(), None)
        metric = np.arange(self.metric_size) if self.own is None else self.own.dummy()
        return self._take(self.gradient.dummy(), metric, np.arange(self.search_size))

    def peek_short(self) -> Arrays | None:
        """Return arrays of as many examples as a shorter last batch has; None without one."""
        short = self.gradient.short
        return self.examples.take(np.arange(short)) if short else None

    def _take(
        self, chosen: Indices, metric: Indices, search: Indices, where: str = ""
    ) -> TermArrays:
        """Return the arrays at the indices for gradient, metric and search."""
        of_metric = of_search = None
        if self.metric_batch != "same":
            of_metric = self.metric_examples.take(metric, where)[: self._metric_length]
        if self.search_batch != "same":
            of_search = self.examples.take(None if self.search_batch == "all" else search, where)
        return self.examples.take(chosen, where), of_metric, of_search

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        """Return arrays and text for a checkpoint."""
        arrays = {"order": self.gradient.order}
        meta: dict[str, object] = {"position": self.gradient.position}
        if self.own is not None:
            arrays["own_order"], meta["own_position"] = self.own.order, self.own.position
        return arrays, meta

    def check_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Refuse a state that cannot be right."""
        self.gradient.check_state(arrays["order"], meta["position"])
        if self.own is not None:
            self.own.check_state(arrays["own_order"], meta["own_position"])

    def set_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        self.gradient.order, self.gradient.position = arrays["order"], meta["position"]
        if self.own is not None:
            self.own.order, self.own.position = arrays["own_order"], meta["own_position"]
