"""Read the likelihood and the pre-activation off the end of an output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytensor.scalar as ps
import pytensor.scalar.math as psm
import pytensor.tensor as pt
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.ops import TypeCastingOp
from pytensor.graph.basic import Apply, Constant
from pytensor.raise_op import CheckAndRaise
from pytensor.scan.op import Scan
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.special import LogSoftmax, Softmax
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor
from pytensor.tensor.variable import TensorVariable

from symng.graphs.axes import axes_along, axis_after
from symng.graphs.evaluation import evaluate_nodes
from symng.graphs.patterns import constant_value, find_preactivation, is_near, sample
from symng.graphs.rewrites import inline, is_elementwise, open_op
from symng.graphs.scans import first_computed_row, inner_value, trace_of
from symng.likelihoods import Bernoulli, Categorical, Likelihood, Poisson

VIEWS = (
    DimShuffle,
    Reshape,
    SpecifyShape,
    Subtensor,
    AdvancedSubtensor,
    TypeCastingOp,
    CheckAndRaise,
)


@dataclass(frozen=True)
class Activation:
    """What was read off the end of an output.

    Attributes
    ----------
    preactivation : TensorVariable or None
        r, elementwise aligned with the output; None if not accessible.
    origin : TensorVariable
        The variable of the user's graph that r was taken from, else the output.
    source : str
        Where it was found, in words.
    is_plain : bool
        Whether it is an activation of PyTensor's, with nothing but rearrangements after it.
    """

    likelihood: Likelihood
    preactivation: TensorVariable | None
    origin: TensorVariable
    source: str
    is_plain: bool


@dataclass(frozen=True)
class _End:
    """What was read off a tensor that views rearrange into the output.

    Attributes
    ----------
    r : TensorVariable or None
        The pre-activation, aligned with the tensor after the innermost ``skip`` views.
    axes : sequence of int or None
        The axes of a softmax, empty if it runs over other axes than the last; else None.
    """

    likelihood: Likelihood
    source: str
    r: TensorVariable | None
    origin: TensorVariable | None = None
    axes: Sequence[int] | None = None
    skip: int = 0
    is_plain: bool = True


def read_activation(output: TensorVariable, *, tanh: Likelihood | None = None) -> Activation | None:
    """Read likelihood and pre-activation off the end of ``output``; None if there is no activation.

    Transpositions, reshapes, slices, copies and casts are skipped: elementwise activations commute
    with them, a softmax with those that leave its axis the last. So are constants that only keep an
    output away from 0 and 1. ``tanh`` is what a tanh stands for; by default nothing.
    """
    return _read(output, tanh)[0]


def read_log_softmax(output: TensorVariable) -> Activation | None:
    """Return the softmax that ``output`` is the logarithm of; None if no softmax can be read."""
    found = read_activation(pt.exp(output))
    if found is None or found.preactivation is None:
        return None
    return found if isinstance(found.likelihood, Categorical) else None


def has_misplaced_softmax(output: TensorVariable) -> bool:
    """Return whether ``output`` ends in a softmax not known to run over just its last axis."""
    return _read(output, None)[1]


def below_views(output: TensorVariable) -> tuple[TensorVariable, list[Apply]]:
    """Return what ``output`` is a rearrangement of, and the nodes in between, last first."""
    views = []
    while output.owner is not None and _is_view(output.owner):
        views.append(output.owner)
        output = output.owner.inputs[0]
    return output, views


def _read(
    output: TensorVariable, tanh: Likelihood | None, least_ndim: int = 2
) -> tuple[Activation | None, bool]:
    """Return the activation of ``output``, and whether it is a softmax over the wrong axes."""
    end, views = below_views(output)
    is_clipped = False
    while end.owner is not None and (clipped := _clipped(end.owner)) is not None:
        end, more = below_views(clipped)
        views, is_clipped = views + more, True
    found = None if end.owner is None else _read_end(end, views, tanh)
    if found is None and views and not is_clipped:
        found, views = _read_by_hand(output), []  # an activation with a view as its last step
    if found is None:
        return None, False
    if found.axes is not None and (
        output.ndim < least_ndim or _axis_behind(found.axes, views) != output.ndim - 1
    ):
        return None, True
    r = found.r
    if r is not None:
        for node in reversed(views[: len(views) - found.skip]):
            r = node.op(r, *node.inputs[1:])
    origin = output if found.origin is None else found.origin
    is_plain = found.is_plain and not is_clipped
    return Activation(found.likelihood, r, origin, found.source, is_plain), False


def _read_end(end: TensorVariable, views: Sequence[Apply], tanh: Likelihood | None) -> _End | None:
    """Read a likelihood off ``end``, which ``views`` rearrange."""
    op, argument = end.owner.op, end.owner.inputs[0]
    if isinstance(op, Softmax):
        return _End(Categorical(), "softmax", argument, argument, axes_along(end.owner))
    if is_elementwise(op, psm.Sigmoid):
        return _End(Bernoulli(), "sigmoid", argument, argument)
    if tanh is not None and is_elementwise(op, ps.Tanh):
        return _End(tanh, "tanh", argument, argument)
    is_exp = is_elementwise(op, ps.Exp)
    if is_exp and argument.owner is not None and isinstance(argument.owner.op, LogSoftmax):
        r = argument.owner.inputs[0]
        return _End(Categorical(), "exp of log_softmax", r, r, axes_along(argument.owner))
    if isinstance(op, Scan):
        return _read_in_scan(end, views, tanh)
    if found := _read_by_hand(end):
        return found
    if is_exp:
        return _End(Poisson(), "exp", argument, argument)
    if isinstance(op, OpFromGraph) and (opened := open_op(op, end.owner.inputs, every=True)):
        # An op with its own derivative, or `inline` would have opened it: r is computed outside.
        return _within(opened[end.owner.outputs.index(end)], end, "an op", tanh)
    return None


def _read_by_hand(end: TensorVariable) -> _End | None:
    """Read a likelihood off the values of ``end``."""
    found = find_preactivation(end)
    if found is None:
        return None
    kind, origin, scale, axis = found
    r = origin if scale == 1 else np.asarray(scale, origin.type.dtype) * origin
    if kind == "softmax":
        return _End(Categorical(), "softmax by hand", r, origin, (axis,), is_plain=False)
    return _End(Bernoulli(), "sigmoid by hand", r, origin, is_plain=False)


def _within(
    value: TensorVariable, end: TensorVariable, where: str, tanh: Likelihood | None
) -> _End | None:
    """Read a likelihood off ``value``, computed inside the op of ``end`` with its last axes."""
    inner, misplaced = _read(value, tanh, least_ndim=1)
    if misplaced:
        return _End(Categorical(), f"softmax in {where}", None, axes=(), is_plain=False)
    if inner is None:
        return None
    axes = (end.ndim - 1,) if isinstance(inner.likelihood, Categorical) else None
    return _End(
        inner.likelihood,
        f"{inner.source} in {where}",
        inner.preactivation,
        axes=axes,
        is_plain=False,
    )


def _read_in_scan(
    end: TensorVariable, views: Sequence[Apply], tanh: Likelihood | None
) -> _End | None:
    """Read a likelihood off the steps of a scan, with the pre-activations of all steps."""
    value = inline([inner_value(end)])[0][0]
    found = _within(value, end, "a scan", tanh)
    if found is None or found.r is None:
        return found
    # The output of a state begins with initial values, which the user's graph slices off.
    start = first_computed_row(end)
    skip = 0
    if start:
        node = views[-1] if views else None
        sliced = node is not None and isinstance(node.op, Subtensor) and _starts_at(node, start)
        if not sliced:
            return replace(found, r=None)
        skip = 1
    r, origin = trace_of(end, found.r)
    return replace(found, r=r, origin=origin, skip=skip)


def _starts_at(node: Apply, start: int) -> bool:
    """Return whether a `Subtensor` takes everything from row ``start`` on, and nothing else."""
    op = node.op
    if len(op.idx_list) != 1 or not isinstance(op.idx_list[0], slice):
        return False
    index = op.idx_list[0]
    return (
        index.stop is None
        and index.step is None
        and len(node.inputs) == 2
        and (isinstance(node.inputs[1], Constant) and int(node.inputs[1].data) == start)
    )


def _is_view(node: Apply) -> bool:
    """Return whether ``node`` rearranges, copies or casts a floating-point tensor."""
    if is_elementwise(node.op, ps.Cast):
        return node.inputs[0].type.dtype.startswith("float")
    return isinstance(node.op, VIEWS) or is_elementwise(node.op, ps.Identity)


def _clipped(node: Apply) -> TensorVariable | None:
    """Return the input of ``node`` if all it does is keep it off 0 and 1, by 2e-3 at most."""
    if not is_elementwise(
        node.op, (ps.Clip, ps.ScalarMaximum, ps.ScalarMinimum, ps.Add, ps.Sub, ps.Mul)
    ):
        return None
    others = [v for v in node.inputs if isinstance(v, TensorVariable) and constant_value(v) is None]
    if len(others) != 1 or others[0].type.ndim != node.outputs[0].type.ndim:
        return None
    (varying,) = others
    numbers = sample(varying, 0.0, 1.0)
    given = {v: constant_value(v) for v in node.inputs if v is not varying}
    got = evaluate_nodes([node], {**given, varying: numbers}).get(node.outputs[0])
    return varying if got is not None and is_near(got, numbers, 2e-3) else None


def _axis_behind(axes: Sequence[int], views: Sequence[Apply]) -> int | None:
    """Return where ``views`` put the one axis in ``axes``; None if they do not keep all of it."""
    axis: int | None = axes[0] if len(axes) == 1 else None
    for node in reversed(views):
        axis = None if axis is None else axis_after(node, axis)
    return axis
