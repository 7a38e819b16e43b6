"""Apply a graph to all entries of a batch at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.replace import vectorize_graph
from pytensor.graph.traversal import toposort
from pytensor.scan.op import Scan
from pytensor.tensor.basic import Join
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.math import Dot
from pytensor.tensor.subtensor import AdvancedIncSubtensor, AdvancedSubtensor, IncSubtensor
from pytensor.tensor.variable import TensorVariable

from symng.graphs import vectors
from symng.graphs.axes import join_of
from symng.graphs.rebuild import rebuild


def over_batch(
    outputs: Sequence[TensorVariable], stacked: Mapping[TensorVariable, TensorVariable]
) -> list[TensorVariable] | None:
    """Return ``outputs`` for all entries of a batch, along a new first axis.

    Parameters
    ----------
    outputs : sequence of TensorVariable
        A graph on one entry.
    stacked : mapping
        From variables of the graph to all their values, along a new first axis.

    Returns
    -------
    list of TensorVariable or None
        None if some op could only loop over the batch in Python.

    Notes
    -----
    Most ops are left to PyTensor's `vectorize_graph`. Those that it would turn into such a loop are
    handled here: a join with tensors that are the same for all entries, a slice that is set, and
    indices that differ between entries.
    """
    batch = next(iter(stacked.values()))

    def rewrite(node: Apply, new: Mapping[Variable, Variable]) -> list[Variable]:
        return _Batched(node, [new.get(v, v) for v in node.inputs], batch).outputs()

    try:
        found = rebuild(list(outputs), dict(stacked), rewrite)
    except NotImplementedError:
        return None
    known = {type(op.core_op) for op in _blockwise_ops(outputs)} | {Dot}
    if not all(type(op.core_op) in known for op in _blockwise_ops(found)):
        return None
    return [
        v if v.type.ndim > old.type.ndim else _repeated(v, batch)
        for v, old in zip(found, outputs, strict=True)
    ]


def _blockwise_ops(graphs: Sequence[Variable]) -> list[Blockwise]:
    return [node.op for node in toposort(graphs) if isinstance(node.op, Blockwise)]


def _repeated(v: TensorVariable, batch: TensorVariable) -> TensorVariable:
    """Return ``v`` once for each entry of ``batch``."""
    lengths = [v.shape[a] for a in range(v.type.ndim)]
    return pt.as_tensor_variable(pt.alloc(v, batch.shape[0], *lengths))


class _Batched:
    """A node whose op is applied to all entries of its new inputs.

    ``extra`` is 1 for each new input that has a batch axis, and 0 for the others.
    """

    def __init__(self, node: Apply, inputs: Sequence[Variable], batch: TensorVariable) -> None:
        self.node, self.inputs, self.batch = node, inputs, batch
        pairs = zip(node.inputs, inputs, strict=True)
        self.extra = [_ndim(new) - _ndim(old) for old, new in pairs]

    def outputs(self) -> list[Variable]:
        """Return the outputs, with a batch axis where an input has one."""
        op = self.node.op
        if not any(self.extra):
            return self.node.clone_with_new_inputs(list(self.inputs), strict=False).outputs
        if isinstance(op, Scan):
            raise NotImplementedError
        if isinstance(op, Join):
            return self._join()
        if isinstance(op, IncSubtensor) and not any(self.extra[2:]):
            return self._set_slice()
        if isinstance(op, AdvancedSubtensor | AdvancedIncSubtensor) and not any(
            isinstance(i, slice) for i in op.idx_list
        ):
            return self._index()
        inputs = [v if isinstance(v, Constant) else v.type() for v in self.node.inputs]
        core = self.node.clone_with_new_inputs(inputs).outputs
        given = zip(inputs, self.inputs, strict=True)
        return list(vectorize_graph(core, {v: new for v, new in given if v is not new}))

    def _with_batch_axis(self, k: int) -> TensorVariable:
        """Return input k with a batch axis, repeated if it has none."""
        v = pt.as_tensor_variable(self.inputs[k])
        return v if self.extra[k] else _repeated(v, self.batch)

    def _join(self) -> list[Variable]:
        axis, tensors = join_of(self.node)
        if axis is None:
            raise NotImplementedError
        count = len(self.inputs)
        batched = map(self._with_batch_axis, range(count - len(tensors), count))
        return [pt.join(axis + 1, *batched)]

    def _set_slice(self) -> list[Variable]:
        op = self.node.op
        left = sum(isinstance(i, slice) for i in op.idx_list)
        left += _ndim(self.node.inputs[0]) - len(op.idx_list)
        new = IncSubtensor((slice(None), *op.idx_list), set_instead_of_inc=op.set_instead_of_inc)
        tensor = self._with_batch_axis(0)
        return new.make_node(tensor, self._padded(1, left), *self.inputs[2:]).outputs

    def _index(self) -> list[Variable]:
        """Return the outputs of an op whose indices are tensors for the leading axes."""
        op, tensor = self.node.op, self._with_batch_axis(0)
        sets = isinstance(op, AdvancedIncSubtensor)
        numbers = range(2 if sets else 1, len(self.inputs))
        ndim = max(_ndim(self.node.inputs[k]) for k in numbers)
        entries = vectors.positions(self.batch[(slice(None), *[0] * (self.batch.ndim - 1))]) - 1
        indices = [entries.dimshuffle(0, *"x" * ndim)]
        indices += [self._padded(k, ndim) for k in numbers]
        which = tuple(range(len(indices)))
        if not sets:
            take = AdvancedSubtensor(which)  # type: ignore[abstract]
            return take.make_node(tensor, *indices).outputs
        left = ndim + _ndim(self.node.inputs[0]) - len(op.idx_list)
        new = AdvancedIncSubtensor(
            which,
            set_instead_of_inc=op.set_instead_of_inc,
            ignore_duplicates=op.ignore_duplicates,
        )
        return new.make_node(tensor, self._padded(1, left), *indices).outputs

    def _padded(self, k: int, ndim: int) -> TensorVariable:
        """Return input k, padded after its batch axis, if any, to ``ndim`` other axes."""
        v = pt.as_tensor_variable(self.inputs[k])
        if not self.extra[k]:
            return v
        own = v.type.ndim - 1
        return v.dimshuffle(0, *"x" * (ndim - own), *range(1, own + 1))


def _ndim(v: Variable) -> int:
    """Return the number of axes of a tensor; 0 for anything else."""
    return int(getattr(v.type, "ndim", 0))
