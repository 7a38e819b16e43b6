"""Outputs of a model with their likelihoods: given, or read off the output or the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.subtensor import Subtensor
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, warn
from symng.likelihoods import Categorical, Gaussian, Likelihood, likelihood_code
from symng.objective.activations import (
    below_views,
    has_misplaced_softmax,
    read_activation,
    read_log_softmax,
)
from symng.objective.loss_reading import Finding, read_loss

UNREAD = "no known activation at its end"
MISPLACED = "softmax not known to run over its last axis alone"


@dataclass(frozen=True, eq=False)
class Head:
    """One output with its likelihood: y, and the pre-activation r that it comes from.

    Attributes
    ----------
    r : TensorVariable or None
        None if the likelihood is known but no pre-activation could be read.
    curvature_at : TensorVariable
        The variable of the user's graph where the curvature of the loss is taken.
    source : str
        Where the likelihood comes from, in words.
    is_plain : bool
        Whether the likelihood was given, or the output ends in an activation of PyTensor's.
    """

    y: TensorVariable
    r: TensorVariable | None
    curvature_at: TensorVariable
    likelihood: Likelihood
    source: str
    example_axis: int
    is_plain: bool = True


def make_head(y: TensorVariable, likelihood: object, axis: int) -> Head:
    """Return the head of one output, whose likelihood is given or read off the end of ``y``."""
    head = _head_as_read(y, axis) if likelihood is None else _head_as_given(y, likelihood, axis)
    if isinstance(head.likelihood, Categorical) and axis == y.ndim - 1:
        raise argument_error(
            "example_axis",
            f"another axis than the last of {y}, which runs over its classes",
            axis,
            "Categorical outputs have one row of probabilities per example.",
        )
    return head


def _head_as_read(y: TensorVariable, axis: int) -> Head:
    """Return the head of an output by its activation; without one the likelihood is Gaussian."""
    found = read_activation(y)
    is_softmax = found is not None and isinstance(found.likelihood, Categorical)
    if found is not None and (found.is_plain or not is_softmax or axis != y.ndim - 1):
        source = f"read off {found.source}"
        return Head(
            y, found.preactivation, found.origin, found.likelihood, source, axis, found.is_plain
        )
    # A hand-written softmax over the examples, such as attention weights, is not a likelihood.
    if not has_misplaced_softmax(y):
        return Head(y, y, y, Gaussian(), UNREAD, axis)
    what = "is not known to run over its last axis alone"
    way_out = "Write softmax(r, axis=-1) for class probabilities"
    if any(isinstance(node.op, Subtensor) for node in below_views(y)[1]):
        what = f"{what}, or of which this is a part"
        way_out += " and take the part in the loss, or sigmoid(r[:, 1] - r[:, 0]) for one of two"
    warn(
        f"The output {y} comes from a softmax that {what}, so it is taken as Gaussian. {way_out}; "
        "or give likelihood=."
    )
    return Head(y, y, y, Gaussian(), MISPLACED, axis)


def _head_as_given(y: TensorVariable, likelihood: object, axis: int) -> Head:
    """Return the head of an output with a given likelihood, with r read off the output."""
    if not isinstance(likelihood, Likelihood):
        raise argument_error(
            "likelihood",
            "an instance such as symng.Bernoulli()",
            likelihood,
            "Did you forget the parentheses?",
            TypeError,
        )
    if likelihood.is_logits:
        return Head(likelihood.mean(y), y, y, likelihood, "given, output taken as logits", axis)
    if isinstance(likelihood, Gaussian):
        return Head(y, y, y, likelihood, "given", axis)
    found = read_activation(y)
    if (
        found is None
        or type(found.likelihood) is not type(likelihood)
        or found.preactivation is None
    ):
        source = "given, no pre-activation found (product formed on the output)"
        return Head(y, None, y, likelihood, source, axis)
    source = f"given, pre-activation of {found.source}"
    return Head(y, found.preactivation, found.origin, likelihood, source, axis)


def read_off_loss(
    heads: Sequence[Head],
    loss: TensorVariable,
    params: Sequence[Variable],
    inputs: Sequence[Variable],
    targets: Sequence[Variable],
) -> tuple[Head, ...]:
    """Return ``heads`` with missing activations read off the loss, and warn of contradictions.

    Warns
    -----
    UserWarning
        When the loss takes an output for something other than the mean of a Gaussian, but does not
        show for certain what.
    """
    read = []
    for head in heads:
        found = find_in_loss(head, loss, params, inputs, targets)
        if found is not None and not _runs_over_examples(found.likelihood, head):
            if found.is_clear:
                head = _with_finding(head, found)
            else:
                _warn_of_finding(head, found, len(heads))
        read.append(head)
    return tuple(read)


def find_in_loss(
    head: Head,
    loss: TensorVariable,
    params: Sequence[Variable],
    inputs: Sequence[Variable],
    targets: Sequence[Variable],
) -> Finding | None:
    """Return the likelihood that the loss shows for an output without a known activation, or None.

    Without targets, the output may be compared with inputs, or with data in the graph.
    """
    if head.source != UNREAD:
        return None
    return read_loss(loss, head.y, params, targets or [*inputs, *_data_for(head, loss, params)])


def _data_for(head: Head, loss: TensorVariable, params: Sequence[Variable]) -> list[Variable]:
    """Return the arrays in the graph of ``loss`` that may be targets of an output.

    They are constants and shared variables that the output does not depend on. They have as many
    axes as the output, or one less for class numbers, and are not the same for all examples.
    """
    ndim = head.y.type.ndim
    found: list[Variable] = []
    for v in graph_inputs([loss], blockers=[head.y]):
        is_data = isinstance(v, Constant | SharedVariable) and v not in params
        if not is_data or not isinstance(v, TensorVariable):
            continue
        is_aligned = v.type.ndim == ndim and v.type.shape[head.example_axis] != 1
        is_labels = v.type.ndim == ndim - 1 > 0 and "int" in v.type.dtype
        if is_aligned or is_labels:
            found.append(v)
    return found


def _runs_over_examples(likelihood: Likelihood, head: Head) -> bool:
    """Return whether the classes of a likelihood would be the examples of the output."""
    return isinstance(likelihood, Categorical) and head.example_axis == head.y.ndim - 1


def _with_finding(head: Head, found: Finding) -> Head:
    """Return a head with the likelihood that was read off the loss, which is certain."""
    source = f"read off the loss, which takes {found.what}"
    head = replace(head, likelihood=found.likelihood, source=source, is_plain=False)
    if found.likelihood.is_logits:
        r = head.y if found.r is None else found.r
        at = head.y if found.is_outside_loss else r
        return replace(head, y=found.likelihood.mean(r), r=r, curvature_at=at)
    softmax = read_log_softmax(head.y)
    assert softmax is not None  # the only other certain reading
    return replace(head, y=pt.exp(head.y), r=softmax.preactivation, curvature_at=softmax.origin)


def _warn_of_finding(head: Head, found: Finding, outputs: int) -> None:
    """Warn of an output that the loss seems not to take for the mean of a Gaussian."""
    listed = f", in a list of {outputs}" if outputs > 1 else ""
    warn(
        f"The loss takes {found.what} of the output {head.y}, which does not end in an "
        "activation such as a softmax or sigmoid, so it is taken as Gaussian. Write "
        f"likelihood={likelihood_code(found.likelihood)}{listed} if that is its distribution, or "
        "likelihood=symng.Gaussian() to keep the present one."
    )
