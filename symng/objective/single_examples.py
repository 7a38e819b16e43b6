"""A model on one example of a batch, where its outputs do not mix examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytensor.tensor as pt
from pytensor.compile.builders import OpFromGraph
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors, graph_inputs, toposort
from pytensor.scan.op import Scan
from pytensor.tensor.basic import ARange, Join
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.extra_ops import CumOp
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.special import LogSoftmax, Softmax
from pytensor.tensor.subtensor import AdvancedSubtensor, IncSubtensor
from pytensor.tensor.variable import TensorVariable

from symng.graphs.axes import infer_length
from symng.graphs.rebuild import rebuild, replacements
from symng.objective._example_axes import NONE, ExampleAxis, locate_examples
from symng.objective.objective import Objective


@dataclass(frozen=True, eq=False)
class SingleExample:
    """Variables of a model as functions of one example, which has length 1 along its axis.

    Attributes
    ----------
    ends : list of TensorVariable
        The variables, on ``placeholders``.
    placeholders : list of TensorVariable
        One example of each input and target that ``ends`` depend on.
    stacked : list of TensorVariable
        All examples of the batch: entry n along the first axis is a value of the placeholder.
    has_loop : bool
        Whether the graph has a loop, which cannot run over a batch axis.
    """

    ends: list[TensorVariable]
    placeholders: list[TensorVariable]
    stacked: list[TensorVariable]
    has_loop: bool


def single_example(
    objective: Objective, ends: Mapping[TensorVariable, int]
) -> SingleExample | None:
    """Return ``ends``, each with its axis of examples, on one example of the objective's batch.

    None if it is not certain that example n of the ends depends only on example n of the batch.

    Notes
    -----
    The number of examples has two meanings in a graph: the length of an array, which becomes 1, and
    a number in a formula, such as the divisor of a mean, which stays that of the batch.
    """
    axis_of = objective.model.axis_of or _constants_by_example(objective, ends)
    tensors = list(ends)
    if not keeps_examples(ends, axis_of, objective.params):
        return None
    nodes = list(toposort(tensors))
    has_loop = any(isinstance(node.op, Scan) for node in nodes)
    reached = set(ancestors(tensors))
    data = [v for v in axis_of if v in reached]
    placeholders = [_placeholder(v, axis_of[v]) for v in data]
    on_one = dict(zip(data, placeholders, strict=True))
    if has_loop:
        on_one = replacements(data, placeholders)
    try:
        singles = rebuild(tensors, on_one, _keep_counts)
    except (TypeError, ValueError):  # an op that insists on the length of the batch
        return None
    for k, (end, axis) in enumerate(zip(tuple(singles), ends.values(), strict=True)):
        length = end.type.shape[axis]
        if length not in (None, 1):
            return None
        if length is None:
            shape = [1 if a == axis else n for a, n in enumerate(end.type.shape)]
            singles[k] = pt.specify_shape(end, shape)
    stacked = [_stack(v, axis_of[v]) for v in data]
    return SingleExample(singles, placeholders, stacked, has_loop)


def _constants_by_example(
    objective: Objective, ends: Mapping[TensorVariable, int]
) -> dict[TensorVariable, int]:
    """Return constants and shared variables as long as the examples of a model without inputs."""
    end, axis = next(iter(ends.items()))
    count = infer_length(end, axis)
    if count in (None, 1):
        return {}
    found: dict[TensorVariable, int] = {}
    for v in graph_inputs(list(ends)):
        if v in objective.params or not isinstance(v, TensorVariable) or v.type.ndim == 0:
            continue
        along = axis if axis < v.type.ndim else 0
        if infer_length(v, along) == count:
            found[v] = along
    return found


def keeps_examples(
    ends: Mapping[TensorVariable, int],
    axis_of: Mapping[TensorVariable, int],
    params: Sequence[Variable] = (),
) -> bool:
    """Return whether example n of ``ends`` is known to depend only on example n of the data.

    Both come with their axes of examples.
    """
    tensors = list(ends)
    # Copies as outputs make all of the graph part of the model, where sums over examples that enter
    # single ones again count as mixing.
    copies = {end.copy(): axis for end, axis in ends.items()}
    axes = locate_examples(tensors[0], axis_of, copies)
    return all(axes.get(end) == axis for end, axis in ends.items()) and not any(
        _may_depend_on_others(node, axes, params) for node in toposort(tensors)
    )


def _placeholder(v: TensorVariable, axis: int) -> TensorVariable:
    """Return a variable for one example of ``v``."""
    shape = [1 if a == axis else length for a, length in enumerate(v.type.shape)]
    single: TensorVariable = v.type.clone(shape=shape)(name=f"{v.name or 'input'}_single")
    return single


def _stack(v: TensorVariable, axis: int) -> TensorVariable:
    """Return the examples of ``v`` along a new first axis, each of length 1 along its own."""
    others = [a if a != axis else "x" for a in range(v.type.ndim)]
    return v.dimshuffle(axis, *others)


def _keep_counts(node: Apply, new: Mapping[Variable, Variable]) -> list[Variable]:
    """Return the outputs of a node on one example, with counts in formulas those of the batch."""
    in_formula = isinstance(node.op, Elemwise) and not _is_discrete(node.outputs[0])
    inputs = [v if in_formula and _is_length(v) else new.get(v, v) for v in node.inputs]
    # Strict cloning would insist on the batch's number of examples, if the graph knows it.
    return node.clone_with_new_inputs(inputs, strict=False).outputs


def _may_depend_on_others(
    node: Apply, axes: Mapping[Variable, ExampleAxis], params: Sequence[Variable]
) -> bool:
    """Return whether a node may compute another value for an example alone than in the batch.

    It may if an array without examples has the length of the batch, such as weights of the examples
    or a random mask.
    """
    op = node.op
    if isinstance(op, RandomVariable):
        return True
    example_axes = [axes.get(v, NONE) for v in node.outputs]
    if not any(isinstance(axis, int) for axis in example_axes):
        return False
    fixed = [v for v in node.inputs if axes.get(v, NONE) == NONE]
    if isinstance(op, Scan):
        return _counts_in_loop(op) or not all(_arrays_of(v) <= set(params) for v in fixed)
    if isinstance(op, OpFromGraph):
        return not isinstance(op, Softmax | LogSoftmax)
    if isinstance(op, AdvancedSubtensor):  # the other indices may number the examples
        return any(v.type.ndim > 0 and _arrays_of(v) for v in fixed if v is not node.inputs[0])
    axis = next(axis for axis in example_axes if isinstance(axis, int))
    ndim = node.outputs[0].type.ndim
    aligned = [v for v in fixed if getattr(v.type, "ndim", 0) == ndim]
    if isinstance(op, Reshape | SpecifyShape):  # to a number of examples
        return node.outputs[0].type.shape[axis] not in (None, 1)
    if isinstance(op, Join | IncSubtensor):
        return not all(_is_filled(v, axis) for v in aligned)
    if isinstance(op, Elemwise) or (isinstance(op, Blockwise) and axis < op.batch_ndim(node)):
        return not all(v.type.shape[axis] == 1 or _is_filled(v, axis) for v in aligned)
    return False


def _is_discrete(v: Variable) -> bool:
    """Return whether ``v`` holds integers or Booleans."""
    return not str(getattr(v.type, "dtype", "")).startswith(("float", "complex"))


def _is_filled(v: Variable, axis: int) -> bool:
    """Return whether ``v`` is constant along ``axis``, with the length of other tensors."""
    if v.type.shape[axis] is not None or _arrays_of(v):
        return False
    nodes = _nodes_above_lengths(v)
    return not any(isinstance(node.op, ARange | CumOp) for node in nodes)


def _counts_in_loop(scan: Scan) -> bool:
    """Return whether a formula in a loop uses the length of a tensor as a number."""
    return any(
        isinstance(node.op, Elemwise)
        and not _is_discrete(node.outputs[0])
        and any(_is_length(v) for v in node.inputs)
        for node in scan.fgraph.toposort()
    )


def _is_length(v: Variable) -> bool:
    """Return whether ``v`` is an integer that is computed only from lengths of tensors."""
    if not _is_discrete(v) or not all(v.type.broadcastable):
        return False
    nodes = _nodes_above_lengths(v)
    return any(isinstance(node.op, Shape | Shape_i) for node in nodes) and not _arrays_of(v)


def _arrays_of(v: Variable) -> set[Variable]:
    """Return the arrays whose values ``v`` is computed from; lengths do not count."""
    nodes = _nodes_above_lengths(v)
    computed = {out for node in nodes for out in node.outputs}
    inputs = [i for node in nodes if not isinstance(node.op, Shape | Shape_i) for i in node.inputs]
    leaves = [i for i in [*inputs, v] if i not in computed]
    return {i for i in leaves if not all(getattr(i.type, "broadcastable", ()))}


def _nodes_above_lengths(v: Variable) -> list[Apply]:
    """Return the nodes that compute ``v``, up to those that take lengths of tensors."""
    nodes: dict[Apply, None] = {}
    waiting = [v]
    while waiting:
        node = waiting.pop().owner
        if node is None or node in nodes:
            continue
        nodes[node] = None
        if not isinstance(node.op, Shape | Shape_i):
            waiting.extend(node.inputs)
    return list(nodes)
