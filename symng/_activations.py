"""Read likelihood and pre-activation off the op that ends an output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytensor.scalar as ps
import pytensor.scalar.math as psm
from pytensor.graph.basic import Apply
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.special import LogSoftmax, Softmax
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor
from pytensor.tensor.variable import TensorVariable

from symng.likelihoods import Bernoulli, Categorical, Likelihood, Poisson

VIEWS = (DimShuffle, Reshape, SpecifyShape, Subtensor, AdvancedSubtensor)


@dataclass(frozen=True)
class Activation:
    """What was read off the end of an output."""

    likelihood: Likelihood
    preactivation: TensorVariable  # r, elementwise aligned with the output
    root: TensorVariable  # the variable of the user's graph that r was taken from
    source: str


def read_activation(output: TensorVariable, *, tanh: Likelihood | None = None) -> Activation | None:
    """Read likelihood and pre-activation off the op that ends ``output``; None when no activation is known.

    Transpositions, reshapes, slices and casts on the way are looked through: elementwise activations commute with
    them, a softmax with those that leave its axis the last. ``tanh`` is what a tanh stands for; by default nothing.
    """
    end, views = below_views(output)
    if end.owner is None:
        return None
    op, root = end.owner.op, end.owner.inputs[0]
    likelihood: Likelihood
    if isinstance(op, Softmax):
        likelihood, source = Categorical(), "softmax"
    elif _is_elementwise(op, psm.Sigmoid):
        likelihood, source = Bernoulli(), "sigmoid"
    elif tanh is not None and _is_elementwise(op, ps.Tanh):
        likelihood, source = tanh, "tanh"
    elif _is_elementwise(op, ps.Exp):
        likelihood, source = Poisson(), "exp"
        if root.owner is not None and isinstance(root.owner.op, LogSoftmax):
            likelihood, source = Categorical(), "exp of log_softmax"
            op, end, root = root.owner.op, root, root.owner.inputs[0]
    else:
        return None
    if isinstance(likelihood, Categorical) and not _is_over_last_axis(op, end, views):
        return None
    r = root
    for node in reversed(views):
        r = node.op(r, *node.inputs[1:])
    return Activation(likelihood, r, root, source)


def has_misplaced_softmax(output: TensorVariable) -> bool:
    """Tell whether ``output`` ends in a softmax that is not known to run over its last axis alone."""
    end, views = below_views(output)
    if end.owner is not None and _is_elementwise(end.owner.op, ps.Exp):
        end = end.owner.inputs[0]
    if end.owner is None or not isinstance(end.owner.op, Softmax | LogSoftmax):
        return False
    return not _is_over_last_axis(end.owner.op, end, views)


def below_views(output: TensorVariable) -> tuple[TensorVariable, list[Apply]]:
    """Return what ``output`` is a rearrangement of, and the nodes passed, the last first."""
    views = []
    while output.owner is not None and (isinstance(output.owner.op, VIEWS) or _is_float_cast(output)):
        views.append(output.owner)
        output = output.owner.inputs[0]
    return output, views


def _is_elementwise(op: object, kind: type) -> bool:
    """Tell whether ``op`` applies a scalar op of type ``kind`` elementwise."""
    return isinstance(op, Elemwise) and isinstance(op.scalar_op, kind)


def _is_float_cast(v: TensorVariable) -> bool:
    """Tell whether ``v`` is a cast from one floating-point type to another."""
    return _is_elementwise(v.owner.op, ps.Cast) and v.owner.inputs[0].type.dtype.startswith("float")


def _is_over_last_axis(op: Softmax | LogSoftmax, end: TensorVariable, views: list[Apply]) -> bool:
    """Tell whether a softmax runs over the last axis of ``end`` alone, and ``views`` leave that axis whole and last."""
    axes = (op.axis,) if isinstance(op.axis, int) else op.axis
    if axes is None or end.ndim < 2 or tuple(a % end.ndim for a in axes) != (end.ndim - 1,):
        return False
    return all(_keeps_last_axis(node) for node in views)


def _keeps_last_axis(node: Apply) -> bool:
    """Tell whether the last axis of what ``node`` views is surely the last axis of the view, whole and in order."""
    before: Any = node.inputs[0]
    after: Any = node.outputs[0]
    op = node.op
    if isinstance(op, DimShuffle):
        return op.new_order[-1] == before.ndim - 1
    if isinstance(op, Subtensor):
        return len(op.idx_list) < before.ndim or op.idx_list[-1] == slice(None)
    if isinstance(op, Reshape):
        return before.type.shape[-1] is not None and before.type.shape[-1] == after.type.shape[-1]
    return isinstance(op, SpecifyShape | Elemwise)
