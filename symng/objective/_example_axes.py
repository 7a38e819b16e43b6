"""Find, in a graph, which axis of each tensor runs over examples, and where examples are mixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

import numpy as np
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.ops import FromFunctionOp
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.op import Op
from pytensor.graph.traversal import ancestors, toposort
from pytensor.raise_op import CheckAndRaise
from pytensor.scalar import Second
from pytensor.scan.op import Scan
from pytensor.tensor.basic import ARange, Join
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.extra_ops import CumOp
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Reshape, Shape, Shape_i
from pytensor.tensor.sort import ArgSortOp, SortOp
from pytensor.tensor.special import LogSoftmax, Softmax
from pytensor.tensor.subtensor import AdvancedSubtensor, IncSubtensor
from pytensor.tensor.variable import TensorVariable

from symng.graphs.axes import axes_along, axis_after, join_of
from symng.graphs.rewrites import is_elementwise

# What is known of a tensor without an axis of examples:
NONE = "none"  # no example enters it
REDUCED = "reduced"  # examples enter it, and their axis is summed away
MIXED = "mixed"  # sums over examples enter single ones again, as in batch normalization
UNKNOWN = "unknown"
ExampleAxis = int | str


def locate_examples(
    loss: TensorVariable,
    known: Mapping[TensorVariable, int],
    outputs: Mapping[TensorVariable, int] | None = None,
    folding: bool = False,
) -> dict[Variable, ExampleAxis]:
    """Return the axis of examples of every tensor that ``loss`` and ``outputs`` depend on.

    ``known`` gives it for the inputs and the targets, ``outputs`` for outputs of the model. The
    latter holds even if the ops that compute them are unknown, unless examples are seen to mix
    there. An op whose code is not PyTensor's and which has no inner graph counts as mixing its
    examples.

    With ``folding`` an axis of examples that a reshape merges with others, as in ``x.ravel()``,
    still counts: a sum over it is a sum over the examples.
    """
    ends: dict[Variable, int] = {v: axis for v, axis in (outputs or {}).items()}
    example_axes: dict[Variable, ExampleAxis] = {v: axis for v, axis in known.items()}
    _walk(toposort([loss, *ends]), example_axes, set(ancestors(list(ends))), ends, folding)
    return example_axes


def _walk(
    nodes: Iterable[Apply],
    example_axes: dict[Variable, ExampleAxis],
    model: set[Variable],
    outputs: Mapping[Variable, int],
    folding: bool = False,
) -> None:
    """Add the example axes of what ``nodes`` compute to ``example_axes``.

    ``model`` is extended by the variables computed from it.
    """
    for node in nodes:
        given = [example_axes.get(v, NONE) for v in node.inputs]
        if is_elementwise(node.op, Second) and given[0] == REDUCED:
            given[0] = NONE  # only its shape counts, as in the gradient of a sum over examples
        pairs = zip(node.inputs, given, strict=True)
        has_sum_in_model = any(v in model for v, p in pairs if p == REDUCED)
        found: Sequence[ExampleAxis]
        if isinstance(node.op, CheckAndRaise):
            found = given[:1]  # conditions do not enter the value
        elif isinstance(node.op, Shape | Shape_i) or all(p == NONE for p in given):
            found = [NONE] * len(node.outputs)
        elif MIXED in given or (has_sum_in_model and any(isinstance(p, int) for p in given)):
            found = [MIXED] * len(node.outputs)
        elif all(p in (NONE, REDUCED) for p in given):
            found = [REDUCED] * len(node.outputs)
        elif isinstance(node.op, OpFromGraph) and not isinstance(node.op, Softmax | LogSoftmax):
            found = _example_axes_in_graph(node, given, model, folding)
        elif isinstance(node.op, Scan):
            found = _example_axes_in_scan(node, given, model)
        else:
            found = [_example_axis_of_output(node, given, folding)] * len(node.outputs)
        for v, example_axis in zip(node.outputs, found, strict=True):
            example_axes[v] = outputs[v] if v in outputs and example_axis != MIXED else example_axis
        if any(v in model for v in node.inputs):
            model.update(node.outputs)


def _example_axes_in_graph(
    node: Apply, given: Sequence[ExampleAxis], model: set[Variable], folding: bool
) -> list[ExampleAxis]:
    """Return the example axes of the outputs of an op that is a graph."""
    op = node.op
    example_axes = dict(zip(op.fgraph.inputs, given, strict=True))
    _walk(
        op.fgraph.toposort(),
        example_axes,
        _model_within(node, op.fgraph.inputs, model),
        {},
        folding,
    )
    return [example_axes.get(v, NONE) for v in op.fgraph.outputs]


def _example_axes_in_scan(
    node: Apply, given: Sequence[ExampleAxis], model: set[Variable]
) -> list[ExampleAxis]:
    """Return the example axes of a scan's outputs: those inside, after the axis of its steps."""
    inner_axes = axes_in_scan(node, given, model)
    left = _axes_left(node, inner_axes)
    traced = len(node.outputs) - node.op.info.n_untraced_sit_sot  # outputs with an axis of steps
    return [a + 1 if isinstance(a, int) and i < traced else a for i, a in enumerate(left)]


def axes_in_scan(
    node: Apply, given: Sequence[ExampleAxis], model: Set[Variable] = frozenset()
) -> dict[Variable, ExampleAxis]:
    """Return the example axes of the variables inside a scan, from those of its inputs."""
    op, info = node.op, node.op.info
    mappings = op.get_oinp_iinp_iout_oout_mappings()
    inner_inputs_of = mappings["inner_inp_from_outer_inp"]
    states_of = mappings["inner_inp_from_outer_out"]

    entering: dict[Variable, ExampleAxis] = {}
    have_steps = range(1, 1 + info.n_seqs + info.n_mit_mot + info.n_mit_sot + info.n_sit_sot)
    for i, axis in enumerate(given):
        if i in have_steps and isinstance(axis, int):  # one row of it enters each step
            axis = axis - 1 if axis > 0 else UNKNOWN
        entering.update((op.inner_inputs[k], axis) for k in inner_inputs_of.get(i, ()))

    # What one step leaves in the states enters the next. Repeat until no state changes: each goes
    # from NONE to an axis, then at most to UNKNOWN or MIXED.
    while True:
        inner_axes = dict(entering)
        inner_model = _model_within(node, op.inner_inputs, model)
        _walk(op.fgraph.toposort(), inner_axes, inner_model, {})
        before = dict(entering)
        for i, axis in enumerate(_axes_left(node, inner_axes)):
            for state in (op.inner_inputs[k] for k in states_of[i]):
                entering[state] = _common_axis([entering.get(state, NONE), axis])
        if entering == before:
            return inner_axes


def _axes_left(node: Apply, inner_axes: Mapping[Variable, ExampleAxis]) -> list[ExampleAxis]:
    """Return the example axes inside a scan of what becomes its outputs."""
    op = node.op
    values_of = op.get_oinp_iinp_iout_oout_mappings()["inner_out_from_outer_out"]
    return [
        _common_axis([inner_axes.get(op.inner_outputs[k], NONE) for k in values_of[i]])
        for i in range(len(node.outputs))
    ]


def _model_within(node: Apply, inputs: Sequence[Variable], model: Set[Variable]) -> set[Variable]:
    """Return which variables of the inner graph of ``node`` belong to the model."""
    op = node.op
    if any(v in model for v in node.outputs):
        return set(ancestors([*op.fgraph.outputs, *inputs]))
    if isinstance(op, Scan):
        return set(inputs) if any(v in model for v in node.inputs) else set()
    return {v for v, outer in zip(inputs, node.inputs, strict=True) if outer in model}


def _common_axis(example_axes: Sequence[ExampleAxis]) -> ExampleAxis:
    """Return the example axis of a variable that takes several values, as a state of a scan does.

    ``example_axes`` are those of the values.
    """
    found = set(example_axes) - {NONE}
    if MIXED in found:
        return MIXED
    return UNKNOWN if len(found) > 1 else found.pop() if found else NONE


def _example_axis_of_output(
    node: Apply, given: Sequence[ExampleAxis], folding: bool
) -> ExampleAxis:
    """Return the example axis of the outputs of ``node``, whose inputs have those of ``given``."""
    op, first = node.op, given[0]
    ndim: int = getattr(node.inputs[0].type, "ndim", 0)
    if isinstance(op, Elemwise):
        return _merged(given)
    if isinstance(op, Blockwise):
        if _is_in_batch(node, given):
            return _merged(given)
        op = op.core_op
    if isinstance(op, Dot):
        return _example_axis_in_product(node, given)
    if isinstance(op, AdvancedSubtensor):
        return _example_axis_after_indexing(op, node, given)
    if isinstance(op, Join):
        return _example_axis_after_join(node, given)
    if isinstance(op, IncSubtensor):
        return _example_axis_after_assignment(op, node, given)
    if is_opaque(op):
        return MIXED
    if not isinstance(first, int) or any(p != NONE for p in given[1:]):
        return UNKNOWN
    if isinstance(op, CAReduce):
        axes = range(ndim) if op.axis is None else op.axis
        return REDUCED if first in axes else first - sum(a < first for a in axes)
    if isinstance(op, Softmax | LogSoftmax | CumOp | SortOp | ArgSortOp):
        along = axes_along(node)
        return UNKNOWN if along is None else MIXED if first in along else first
    after = axis_after(node, first)
    if after is None and folding and isinstance(op, Reshape):
        after = _folded_axis(node, first)
    return UNKNOWN if after is None else after


def _example_axis_after_indexing(
    op: AdvancedSubtensor, node: Apply, given: Sequence[ExampleAxis]
) -> ExampleAxis:
    """Return the example axis of what index tensors take, as in r[arange(N), t] or table[t].

    If they index only leading axes, the examples end up along the axis of the index tensors.
    """
    first = given[0]
    if any(isinstance(i, slice) for i in op.idx_list):
        return UNKNOWN
    if first == NONE and len({v.type.ndim for v in node.inputs[1:]}) == 1:
        return _merged(given[1:])
    if first not in range(len(op.idx_list)):
        return UNKNOWN
    example_axis = _merged(given[1:])
    if example_axis == NONE:  # labels that are constants
        example_axis = _counting_axis(node.inputs[1:], int(first))
    return example_axis if isinstance(example_axis, int) else UNKNOWN


def _example_axis_after_join(node: Apply, given: Sequence[ExampleAxis]) -> ExampleAxis:
    """Return the example axis of joined tensors; unknown if they are joined along it."""
    axis, tensors = join_of(node)
    example_axis = _merged(given[-len(tensors) :])
    return UNKNOWN if axis is None or example_axis == axis else example_axis


def _example_axis_after_assignment(
    op: IncSubtensor, node: Apply, given: Sequence[ExampleAxis]
) -> ExampleAxis:
    """Return the example axis of a tensor after a slice of it, with all examples, is set."""
    tensor, value = node.inputs[:2]
    ndim: int = tensor.type.ndim
    example_axis = _merged(given[:2])
    slices = [*op.idx_list, *[slice(None)] * ndim]
    kept = (
        isinstance(example_axis, int)
        and slices[example_axis] == slice(None)
        and all(isinstance(i, slice) for i in slices)
        and value.type.ndim == ndim
    )
    return example_axis if kept else UNKNOWN


def _counting_axis(indices: Sequence[Variable], number: int) -> ExampleAxis:
    """Return the axis along which index tensor ``number`` counts 0, 1, ..., if it does."""
    index = indices[number]
    long = [a for a, length in enumerate(index.type.shape) if length != 1]
    source = index
    while source.owner is not None and isinstance(source.owner.op, DimShuffle | Reshape):
        source = source.owner.inputs[0]
    if isinstance(source, Constant):
        counts = bool((source.data.ravel() == np.arange(source.data.size)).all())
    else:
        counts = source.owner is not None and isinstance(source.owner.op, ARange)
        start_and_step = source.owner.inputs[::2] if counts else []
        counts = counts and [getattr(v, "data", None) for v in start_and_step] == [0, 1]
    ahead = max(i.type.ndim for i in indices) - index.type.ndim
    return long[0] + ahead if counts and len(long) == 1 else UNKNOWN


def _folded_axis(node: Apply, axis: int) -> int | None:
    """Return the axis into which a reshape merges ``axis`` with others; None if not known."""
    before, after = (v.type.shape for v in (node.inputs[0], node.outputs[0]))
    long = [a for a, length in enumerate(after) if length != 1]
    if len(before) == 1 or not long:
        return None  # it may be split
    if axis == 0 or len(long) == 1:
        return long[0]
    kept = after[-1] is not None and after[-1] == before[-1] and axis < len(before) - 1
    return long[0] if len(long) == 2 and kept else None


def _example_axis_in_product(node: Apply, given: Sequence[ExampleAxis]) -> ExampleAxis:
    """Return the example axis of a product of matrices or vectors, none of them batched."""
    a, b = node.inputs
    result = node.outputs[0]
    first, second = given
    columns = b.type.ndim - 1 if b.type.ndim > 1 else None
    contracted = first == a.type.ndim - 1, second == max(b.type.ndim - 2, 0)
    if second == NONE and isinstance(first, int):
        if contracted[0]:
            return REDUCED
        return first if result.type.ndim <= a.type.ndim else UNKNOWN
    if first == NONE and isinstance(second, int):
        return REDUCED if contracted[1] else result.type.ndim - 1 if second == columns else UNKNOWN
    if isinstance(first, int) and isinstance(second, int) and a.type.ndim <= 2 and b.type.ndim <= 2:
        return REDUCED if all(contracted) else MIXED
    return UNKNOWN


def _is_in_batch(node: Apply, given: Sequence[ExampleAxis]) -> bool:
    """Return whether examples run over batch axes of a `Blockwise` op."""
    op = node.op
    return all(not isinstance(p, int) or p < op.batch_ndim(node) for p in given)


def is_opaque(op: Op) -> bool:
    """Return whether ``op`` is opaque: a user's code, not PyTensor's."""
    return isinstance(op, FromFunctionOp) or not type(op).__module__.startswith("pytensor.")


def _merged(example_axes: Sequence[ExampleAxis]) -> ExampleAxis:
    """Return the example axis of an elementwise function of tensors with these example axes."""
    axes = {p for p in example_axes if isinstance(p, int)}
    if len(axes) == 1:
        return axes.pop()
    if axes or UNKNOWN in example_axes:
        return UNKNOWN
    return REDUCED if REDUCED in example_axes else NONE
