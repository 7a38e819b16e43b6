"""Batches in chunks, which take the memory of one chunk at a time.

A mean over examples is computed chunk by chunk in a loop and added up. Such a batch is passed as
its chunks, stacked along a new first axis, and the remaining examples, since all chunks of a loop
have one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.op import Op
from pytensor.graph.traversal import toposort
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.graphs.loops import Entries, while_loop
from symng.graphs.rebuild import rebuild
from symng.objective._example_axes import NONE, is_opaque, locate_examples
from symng.objective.batches import Batch, FullBatch, PartFunction, SumBatch, TermBatch
from symng.objective.objective import Objective
from symng.objective.sums import ObjectiveSum


@dataclass(frozen=True, eq=False, kw_only=True)
class ChunkedBatch(TermBatch):
    """A batch that is computed in chunks.

    Attributes
    ----------
    stacked : list of symbolic arrays
        The chunks of each input and target, along a new first axis.
    rest : Objective or None
        The model on the remaining examples.
    """

    stacked: list[TensorVariable] = field(default_factory=list)
    rest: Objective | None = None

    @property
    def count(self) -> TensorVariable:
        stacked = self._count_of_chunks()
        return stacked if self.rest is None else stacked + self.rest.count

    @property
    def variables(self) -> list[TensorVariable]:
        rest = [] if self.rest is None else self.rest.model.variables
        return [*self.stacked[: self.length], *rest[: self.length]]

    @property
    def axes(self) -> list[int]:
        axes = list(self.objective.data_axes[: self.length])
        return [axis + 1 for axis in axes] + ([] if self.rest is None else axes)

    def mean(self, function: PartFunction) -> list[TensorVariable]:
        dtype = self.objective.dtype
        stacked, count = self._count_of_chunks(), self.count
        weight = (stacked / count / self.stacked[0].shape[0]).astype(dtype)
        totals = [weight * value for value in self._sum_of_chunks(function)]
        if self.rest is not None:
            weight = (self.rest.count / count).astype(dtype)
            values = function(self._as_share(self.rest), stacked)
            totals = [a + weight * b for a, b in zip(totals, values, strict=True)]
        return totals

    def _as_share(self, part: Objective) -> Objective:
        """Return the objective on a part, scaled so that the mean over parts is the batch's loss.

        A loss that is a sum over the N examples of the batch becomes N / n times the sum over the n
        examples of the part.
        """
        if self.objective.reduction != "sum" and self.objective.sum_factor is None:
            return part
        divisor = 1 if self.divisor is None else self.divisor
        share = self.count / part.count / divisor
        return part.with_loss(part.loss * share.astype(part.loss.type.dtype))

    def _count_of_chunks(self) -> TensorVariable:
        """Return the number of examples that come in chunks."""
        return self.stacked[0].shape[0] * self._length_of_chunk()

    def _length_of_chunk(self) -> TensorVariable:
        return self.stacked[0].shape[self.objective.data_axes[0] + 1]

    def _sum_of_chunks(self, function: PartFunction) -> list[TensorVariable]:
        """Return the sums of ``function`` over the chunks, with one chunk in memory at a time."""
        chunk = self.objective.clone_inputs("_chunk")
        offset = pt.lscalar("offset")
        placeholders = chunk.model.variables
        values = [pt.as_tensor_variable(value) for value in function(self._as_share(chunk), offset)]
        length = self._length_of_chunk()
        chunks = dict(zip(placeholders, self.stacked, strict=True))
        return sum_of_chunks(values, chunks, lambda k: {offset: k * length})


def sum_of_chunks(
    values: Sequence[TensorVariable],
    chunks: Mapping[TensorVariable, TensorVariable],
    more: Callable[[TensorVariable], Mapping[TensorVariable, TensorVariable]] = lambda k: {},
) -> list[TensorVariable]:
    """Return the sums over chunks of graphs on one chunk, with one in memory at a time.

    ``chunks`` maps the variables of one chunk to the arrays of all chunks, stacked; ``more`` says
    what else to replace in chunk k. The values must have static shapes.
    """
    count = next(iter(chunks.values())).shape[0]

    def body(s: Entries) -> Entries:
        k = s["chunk"]
        rows = {v: stacked[k] for v, stacked in chunks.items()}
        here = rebuild(values, rows | dict(more(k)))
        added = {f"sum {i}": s[f"sum {i}"] + value for i, value in enumerate(here)}
        return {"chunk": k + 1, **added}

    start: Entries = {"chunk": pt.constant(0, dtype="int64")}
    start |= {f"sum {i}": pt.zeros(v.type.shape, dtype=v.type.dtype) for i, v in enumerate(values)}
    final = while_loop(body, lambda s: s["chunk"] < count, start, count)
    return [final[f"sum {i}"] for i in range(len(values))]


class ChunkLayout(NamedTuple):
    """How a batch is passed: in chunks or at once, and with or without remaining examples."""

    chunked: bool = False
    ragged: bool = False

    def part_axes(self, axes: Sequence[int]) -> list[int]:
        """Return the axis of examples of each array that is passed."""
        if not self.chunked:
            return list(axes)
        return [axis + 1 for axis in axes] + (list(axes) if self.ragged else [])


def layout_of(
    arrays: Sequence[np.ndarray], axes: Sequence[int], chunk_size: int | None
) -> ChunkLayout:
    """Return the layout of the batch of one objective."""
    if chunk_size is None or not arrays or arrays[0].shape[axes[0]] <= chunk_size:
        return ChunkLayout()
    return ChunkLayout(chunked=True, ragged=arrays[0].shape[axes[0]] % chunk_size > 0)


def make_batch(
    objective: Objective | ObjectiveSum,
    layouts: Sequence[ChunkLayout],
    lengths: Sequence[int | None] | None = None,
) -> Batch:
    """Return a batch with a layout, and a number of arrays, for each term of the objective."""
    lengths = [None] * len(layouts) if lengths is None else lengths
    pairs = zip(objective.terms, layouts, lengths, strict=True)
    parts = tuple(_make_part(*pair) for pair in pairs)
    if isinstance(objective, ObjectiveSum):
        return SumBatch(parts=parts, factors=objective.weights)
    return parts[0]


def _make_part(objective: Objective, layout: ChunkLayout, length: int | None) -> TermBatch:
    """Return the batch of one objective, in chunks or full as ``layout`` says."""
    if not layout.chunked:
        return FullBatch(objective=objective, length=length)
    return ChunkedBatch(
        objective=objective,
        length=length,
        stacked=[_stack(v) for v in objective.model.variables],
        rest=objective.clone_inputs("_rest") if layout.ragged else None,
    )


def split_into_chunks(
    arrays: Sequence[np.ndarray], axes: Sequence[int], chunk_size: int | None
) -> list[np.ndarray]:
    """Return the arrays of a batch as they are passed: stacked chunks, then the remainder."""
    layout = layout_of(arrays, axes, chunk_size)
    if chunk_size is None or not layout.chunked:
        return list(arrays)
    count = arrays[0].shape[axes[0]] // chunk_size
    stacked, rest = [], []
    for array, axis in zip(arrays, axes, strict=True):
        before, cut = (slice(None),) * axis, count * chunk_size
        even = array[(*before, slice(cut))]
        shape = (*even.shape[:axis], count, chunk_size, *even.shape[axis + 1 :])
        others = [a for a in range(len(shape)) if a != axis]
        stacked.append(even.reshape(shape).transpose(axis, *others))
        rest.append(array[(*before, slice(cut, None))])
    return stacked + rest if layout.ragged else stacked


def check_chunks(objective: Objective) -> None:
    """Refuse an objective whose loss is not a mean or sum over examples."""
    expected = (
        "a loss that is a mean or sum over examples, as repr(objective) shows under 'examples'"
    )
    if objective.reduction not in ("mean", "sum"):
        got, hint = (
            "one that is not known to be",
            "Write it as one, or give smaller batches instead.",
        )
        if (op := _find_opaque_op(objective)) is not None:
            got = f"one with the op {op}, which may mix examples: its code is not PyTensor's"
            hint = (
                "Leave chunk_size out; or, if the op is right for one example, wrap it: "
                "pytensor.tensor.blockwise.Blockwise(op, signature=...), with the axes of one "
                "example."
            )
        raise argument_error("chunk_size", expected, Verbatim(got), hint)
    if objective.reduction == "sum" and objective.sum_factor is None:  # chunks have other divisors
        got = "a sum of terms that are divided by the number of examples, or by their weights"
        raise argument_error(
            "chunk_size", expected, Verbatim(got), "Take the mean() of the terms instead."
        )
    for v, axis in objective.model.axis_of.items():
        if v.type.shape[axis] not in (None, 1):
            raise argument_error(
                "chunk_size",
                f"inputs and targets without a fixed number of examples, such as {v}",
                Verbatim(f"one that is declared to have {v.type.shape[axis]}"),
                f"Declare it with None in axis {axis}.",
            )


def _find_opaque_op(objective: Objective) -> Op | None:
    """Return an opaque op that examples enter, or None."""
    example_axes = locate_examples(objective.loss, objective.model.axis_of)
    for node in toposort([objective.loss]):
        if is_opaque(node.op) and any(example_axes.get(v, NONE) != NONE for v in node.inputs):
            return node.op
    return None


def _stack(v: TensorVariable) -> TensorVariable:
    """Return a variable for stacked chunks of ``v``."""
    return pt.tensor(f"{v.name or 'input'}_chunks", dtype=v.type.dtype, shape=(None, *v.type.shape))
