"""An objective on batches that come in chunks, so that memory follows the chunk and not the batch.

What is a mean or sum over examples is computed chunk by chunk in a loop and added up. A batch is handed over as its
chunks, stacked along a new first axis, and the examples that are left over: each chunk of a loop has one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.op import Op
from pytensor.graph.traversal import toposort
from pytensor.tensor.variable import TensorVariable

from symng._checks import Words, problem
from symng.graphs.loops import while_loop
from symng.graphs.rebuild import rebuild
from symng.objective._example_axes import NONE, is_closed, locate_examples
from symng.objective.objective import Objective


class Layout(NamedTuple):
    """How a batch is handed over: whether it has chunks, and whether it has examples beside them.

    One without chunks is not cut.
    """

    chunked: bool
    ragged: bool


def layout_of(arrays: Sequence[Any], axes: Sequence[int], chunk_size: int | None) -> Layout:
    """Return how a batch is handed over."""
    examples = arrays[0].shape[axes[0]]
    if chunk_size is None or examples <= chunk_size:
        return Layout(chunked=False, ragged=True)
    return Layout(chunked=True, ragged=examples % chunk_size > 0)


def cut(arrays: Sequence[Any], axes: Sequence[int], chunk_size: int | None) -> list[Any]:
    """Return a batch as a `ChunkedObjective` takes it: the stacked chunks of all arrays, then what is left of them."""
    examples = arrays[0].shape[axes[0]]
    if chunk_size is None or examples <= chunk_size:
        return list(arrays)
    count, ragged = examples // chunk_size, examples % chunk_size > 0
    stacked, rest = [], []
    for array, axis in zip(arrays, axes, strict=True):
        even, left = np.split(array, [count * chunk_size], axis=axis)
        shape = (*even.shape[:axis], count, chunk_size, *even.shape[axis + 1 :])
        stacked.append(np.moveaxis(even.reshape(shape), axis, 0))
        rest.append(left)
    return stacked + rest if ragged else stacked


def check_chunks(objective: Objective) -> None:
    """Refuse an objective whose loss is not known to be a mean or sum over examples."""
    expected = "a loss that is a mean or sum over examples, as the objective tells under 'examples'"
    if objective.reduction not in ("mean", "sum"):
        got, way_out = "one that is not known to be", "Write it so, or give smaller batches in its place."
        if (op := _find_opaque_op(objective)) is not None:
            got = f"one with the op {op}, which may mix examples, for its code is not PyTensor's"
            way_out = (
                "Leave chunk_size out; or, if the op is right for one example, wrap it: "
                "pytensor.tensor.blockwise.Blockwise(op, signature=...), with the axes of one example."
            )
        raise problem("chunk_size", expected, Words(got), way_out)
    if objective.reduction == "sum" and objective.sum_factor is None:  # chunks have other divisors
        got = "a sum of terms that are divided by the number of examples, or by their weights"
        raise problem("chunk_size", expected, Words(got), "Take the mean() of the terms in its place.")
    for v, axis in zip((*objective.inputs, *objective.targets), objective.data_axes, strict=True):
        if v.type.shape[axis] not in (None, 1):
            raise problem(
                "chunk_size", f"inputs and targets of any number of examples, {v} too",
                Words(f"one that is declared to have {v.type.shape[axis]}"), f"Declare it with None in axis {axis}.",
            )  # fmt: skip


def _find_opaque_op(objective: Objective) -> Op | None:
    """Return an op that examples enter and nobody can look into, or None."""
    places = locate_examples(objective.loss, dict(zip(*objective.batch_variables(), strict=True)))
    for node in toposort([objective.loss]):
        if is_closed(node.op) and any(places.get(v, NONE) != NONE for v in node.inputs):
            return node.op
    return None


class ChunkedObjective(Objective):
    """The same model on batches in chunks: of the batch called ``suffix``, and of those made by `on_fresh_inputs`.

    ``layouts`` tells for each suffix how that batch is handed over.
    """

    def __init__(self, objective: Objective, layouts: Mapping[str, Layout], suffix: str = "") -> None:
        vars(self).update(vars(objective))
        vars(self)["_frozen"] = False
        self._whole, self.layouts = objective, layouts
        layout = layouts[suffix]
        roots = (*objective.inputs, *objective.targets)
        self.stacked: tuple[Any, ...] = ()
        if layout.chunked:
            self.stacked = tuple(map(_stack, roots))
        self.rest = objective.on_fresh_inputs(f"{suffix}_rest") if layout.ragged else None
        if self.rest is not None:
            vars(self.rest)["first"] = self._counts()[0]
        self.loss = self.total(lambda o: [o.loss])[0]
        self._frozen = True

    @property
    def whole(self) -> Objective:
        return self._whole

    @property
    def undivided(self) -> Objective | None:
        return None if self.stacked else self.rest

    @property
    def count(self) -> TensorVariable:
        stacked, rest = self._counts()
        return stacked if self.rest is None else stacked + rest

    def divided(self, when: TensorVariable | None) -> Objective:
        whole = self._whole.divided(when)
        other = object.__new__(ChunkedObjective)
        vars(other).update(
            vars(self), reduction=whole.reduction, sum_factor=None, _divided=whole._divided, _whole=whole
        )
        vars(other)["rest"] = None if self.rest is None else self.rest.divided(when)
        vars(other)["loss"] = other.total(lambda o: [o.loss])[0]
        return other

    def batch_variables(self, count: int | None = None) -> tuple[list[TensorVariable], list[int]]:
        axes = list(self.data_axes[:count])
        variables, places = list(self.stacked[:count]), [axis + 1 for axis in axes] if self.stacked else []
        if self.rest is not None:
            variables += [*self.rest.inputs, *self.rest.targets][:count]
            places += axes
        return variables, places

    def total(
        self, function: Callable[[Objective], Sequence[TensorVariable]], scale: str = "loss"
    ) -> list[TensorVariable]:
        summed = scale == "loss" and self.reduction == "sum"
        totals: list[Any] = []
        stacked, rest = self._counts()

        def share(part: Any, chunks: Any = 1) -> Any:
            """Return the weight of what was computed for a part of the batch, a mean or a sum."""
            weight = (part / self.count / chunks).astype(self.dtype)
            when = None if self._divided is None or scale != "loss" else self._divided[1]
            return weight if when is None else pt.switch(when, weight, pt.ones_like(weight))

        if self.stacked:
            sums = self._sum_of_chunks(function)
            chunks = self.stacked[0].shape[0]
            totals = sums if summed else [share(stacked, chunks) * value for value in sums]
        if self.rest is not None:
            values = [value if summed else share(rest) * value for value in function(self.rest)]
            totals = [a + b for a, b in zip(totals, values, strict=True)] if totals else values
        return totals

    def with_params(self, values: Sequence[TensorVariable]) -> TensorVariable:
        return self.total(lambda o: [o.with_params(values)])[0]

    def on_fresh_inputs(self, suffix: str) -> Objective:
        return ChunkedObjective(self._whole, self.layouts, suffix)

    def _counts(self) -> tuple[Any, Any]:
        """Return how many examples are in chunks, and how many beside them."""
        axis = self.data_axes[0]
        stacked = self.stacked[0].shape[0] * self.stacked[0].shape[axis + 1] if self.stacked else pt.constant(0)
        rest = pt.constant(0) if self.rest is None else self.rest.count
        return stacked, rest

    def _sum_of_chunks(self, function: Callable[[Objective], Sequence[TensorVariable]]) -> list[TensorVariable]:
        """Return the sums of what ``function`` gives for each chunk, one chunk in memory at a time."""
        chunk = self._whole.on_fresh_inputs("_chunk")
        vars(chunk)["first"] = first = pt.lscalar("first")
        places: list[Any] = [*chunk.inputs, *chunk.targets]
        length = self.stacked[0].shape[self.data_axes[0] + 1]
        values = [pt.as_tensor_variable(value) for value in function(chunk)]

        def body(s: dict[str, Any]) -> dict[str, Any]:
            replaced = {place: rows[s["chunk"]] for place, rows in zip(places, self.stacked, strict=True)}
            here = rebuild(values, replaced | {first: s["chunk"] * length})
            added = {f"sum {i}": s[f"sum {i}"] + value for i, value in enumerate(here)}
            return {"chunk": s["chunk"] + 1, **added}

        start: dict[str, Any] = {"chunk": pt.constant(0, dtype="int64")}
        start |= {f"sum {i}": pt.zeros(v.type.shape, dtype=v.type.dtype) for i, v in enumerate(values)}
        count = self.stacked[0].shape[0]
        final = while_loop(body, lambda s: s["chunk"] < count, start, count)
        return [final[f"sum {i}"] for i in range(len(values))]


def _stack(v: TensorVariable) -> TensorVariable:
    """Return a variable for stacked chunks of ``v``."""
    return pt.tensor(f"{v.name or 'input'}_chunks", dtype=v.type.dtype, shape=(None, *v.type.shape))
