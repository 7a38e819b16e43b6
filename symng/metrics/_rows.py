"""Rows of a matrix R with R^T R equal to a metric, each computed from its own example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import toposort
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.variable import TensorVariable

from symng.graphs import vectors
from symng.graphs.axes import infer_length
from symng.graphs.batching import over_batch
from symng.graphs.loops import map_rows
from symng.graphs.rebuild import rebuild
from symng.metrics.jacobian import pullback_by_param
from symng.objective import Objective
from symng.objective.single_examples import SingleExample, keeps_examples, single_example
from symng.operators import identity_like

Cotangent = Callable[[TensorVariable, TensorVariable], TensorVariable]
"""From the values of an end of the model and a direction in its space to a cotangent."""


@dataclass(frozen=True, eq=False)
class RowBlock:
    """The rows J_r^T B e of one variable r of the model, e the unit vectors of its entries.

    Attributes
    ----------
    end : TensorVariable
        r, with examples along ``axis``.
    axis : int
    cotangent : callable
        From r and e to B e, example by example.
    """

    end: TensorVariable
    axis: int
    cotangent: Cotangent


def rows_by_example(objective: Objective, blocks: Sequence[RowBlock]) -> TensorVariable | None:
    """Return the rows of all blocks; None if a row may depend on more than one example.

    The rows of a block are ordered by the entry of an example, then by the example.

    Notes
    -----
    Rows cost a backward pass of one example each, all examples of an entry at once. If the model
    has a loop, or an op that PyTensor cannot apply to a batch, they are computed one by one, with a
    forward pass each.
    """
    if not all(_is_by_example(block) for block in blocks):
        return None
    example = single_example(objective, {block.end: block.axis for block in blocks})
    if example is None:
        return None
    ends = dict(zip(dict.fromkeys(block.end for block in blocks), example.ends, strict=True))
    rows = [_rows_of(objective, example, block, ends[block.end]) for block in blocks]
    return rows[0] if len(rows) == 1 else pt.concatenate(rows)


def _is_by_example(block: RowBlock) -> bool:
    """Return whether the cotangent of an example depends on that example alone."""
    end, unit = block.end.type(), block.end.type()
    cotangent = block.cotangent(end, unit)
    return keeps_examples({cotangent: block.axis}, {end: block.axis, unit: block.axis})


def entries_first(v: TensorVariable, axis: int) -> TensorVariable:
    """Return ``v`` as a vector in the order of the rows: by entry, then by example."""
    return pt.moveaxis(v, axis, -1).flatten()


def from_entries_first(u: TensorVariable, like: TensorVariable, axis: int) -> TensorVariable:
    """Return a vector in the order of the rows as a tensor of the shape of ``like``."""
    moved = pt.moveaxis(like, axis, -1)
    return pt.moveaxis(u.reshape(moved.shape, ndim=like.ndim), -1, axis)


def _rows_of(
    objective: Objective, example: SingleExample, block: RowBlock, end: TensorVariable
) -> TensorVariable:
    """Return the rows of a block, given its end on one example."""
    unit = end.type()
    pulled = pullback_by_param([end], objective, [block.cotangent(end, unit)])
    row = [v.flatten().astype(objective.dtype) for v in pulled]
    first = dict(zip(example.placeholders, (s[0] for s in example.stacked), strict=True))
    (end_of_first,) = rebuild([end], first)
    at_once = _over_examples(row, unit, end_of_first, example, first)
    if at_once is None:
        return _one_by_one(vectors.ravel(row, objective.params), unit, end, example, block)
    rows = pt.specify_shape(pt.concatenate(at_once, axis=1), (None, objective.size))
    if all(infer_length(end, a) == 1 for a in range(end.ndim)):
        return rebuild([rows], {unit: pt.ones_like(end_of_first)})[0]
    stacked = map_rows(
        lambda e: rebuild([rows], {unit: e.reshape(end_of_first.shape, ndim=end.ndim)})[0],
        identity_like(end_of_first.flatten()),
    )
    return stacked.reshape((-1, objective.size))


def _over_examples(
    row: list[TensorVariable],
    unit: TensorVariable,
    end_of_first: TensorVariable,
    example: SingleExample,
    first: Mapping[TensorVariable, TensorVariable],
) -> list[TensorVariable] | None:
    """Return the parts of ``row`` for all examples; None if it has an op that takes no batch."""
    if example.has_loop:
        return None
    # All examples have the lengths of the first one; PyTensor would compute them for each example.
    lengths: list[Variable] = [
        node.outputs[0] for node in toposort(row) if isinstance(node.op, Shape | Shape_i)
    ]
    known = rebuild(lengths, {**first, unit: end_of_first})
    row = rebuild(row, dict(zip(lengths, known, strict=True)))
    return over_batch(row, dict(zip(example.placeholders, example.stacked, strict=True)))


def _one_by_one(
    row: TensorVariable,
    unit: TensorVariable,
    end: TensorVariable,
    example: SingleExample,
    block: RowBlock,
) -> TensorVariable:
    """Return the rows of a block in a loop over all of them."""
    count = example.stacked[0].shape[0]
    index = vectors.positions(entries_first(block.end, block.axis)) - 1

    def row_at(entry_and_example: TensorVariable) -> TensorVariable:
        entry, n = entry_and_example[0], entry_and_example[1]
        flat = vectors.positions(end.flatten())
        direction = pt.eq(flat, entry + 1).astype(unit.dtype).reshape(end.shape, ndim=end.ndim)
        (with_unit,) = rebuild([row], {unit: direction})
        values = [s[n] for s in example.stacked]
        return rebuild([with_unit], dict(zip(example.placeholders, values, strict=True)))[0]

    return map_rows(row_at, pt.stack([index // count, index % count], axis=1))
