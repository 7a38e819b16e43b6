"""Outputs of a model with their likelihoods: given, or read off the output or the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, warn
from symng.likelihoods import Categorical, Gaussian, Likelihood, likelihood_code
from symng.objective.activations import has_misplaced_softmax, read_activation, read_log_softmax
from symng.objective.loss_reading import read_loss

UNREAD = "no activation known by its end"
MISPLACED = "softmax not known to run over its last axis alone"


@dataclass(frozen=True, eq=False)
class Head:
    """One output with its likelihood: y, and the pre-activation r that it comes from.

    ``r`` is None when the likelihood is known but no pre-activation could be read;
    ``curvature_at`` is the variable of the user's graph where the curvature of the loss is taken.
    """

    y: TensorVariable
    r: TensorVariable | None
    curvature_at: TensorVariable
    likelihood: Likelihood
    source: str
    example_axis: int
    is_plain: bool = True  # whether it was given, or ends in an activation of PyTensor's


def make_head(y: TensorVariable, likelihood: Any, axis: int) -> Head:
    """Return the head of one output: its likelihood, given or read, and its pre-activation."""
    if likelihood is not None and not isinstance(likelihood, Likelihood):
        raise argument_error(
            "likelihood",
            "an instance such as symng.Bernoulli()",
            likelihood,
            "Did you forget the parentheses?",
            TypeError,
        )
    found = read_activation(y)
    over_classes = axis == y.ndim - 1
    if likelihood is None and found is not None and not found.is_plain and over_classes:
        found = None if isinstance(found.likelihood, Categorical) else found
    if likelihood is None and found is not None:
        source = f"read off {found.source}"
        head = Head(
            y, found.preactivation, found.origin, found.likelihood, source, axis, found.is_plain
        )
    elif likelihood is None:
        misplaced = has_misplaced_softmax(y)
        if misplaced:
            warn(
                f"The output {y} comes from a softmax that is not known to run over its last axis "
                "alone, so it is taken as Gaussian. Write softmax(r, axis=-1) for class "
                "probabilities, or give likelihood=."
            )
        head = Head(y, y, y, Gaussian(), MISPLACED if misplaced else UNREAD, axis)
    elif likelihood.is_logits:
        head = Head(likelihood.mean(y), y, y, likelihood, "given, output taken as logits", axis)
    elif isinstance(likelihood, Gaussian):
        head = Head(y, y, y, likelihood, "given", axis)
    elif (
        found is not None
        and type(found.likelihood) is type(likelihood)
        and found.preactivation is not None
    ):
        head = Head(
            y,
            found.preactivation,
            found.origin,
            likelihood,
            f"given, pre-activation of {found.source}",
            axis,
        )
    else:
        head = Head(
            y,
            None,
            y,
            likelihood,
            "given, no pre-activation found (product formed on the output)",
            axis,
        )
    if isinstance(head.likelihood, Categorical) and over_classes:
        raise argument_error(
            "example_axis",
            f"another axis than the last of {y}, which runs over its classes",
            axis,
            "Categorical outputs have one row of probabilities an example.",
        )
    return head


def read_off_loss(
    heads: Sequence[Head], loss: Variable, params: Sequence[Variable], targets: Sequence[Variable]
) -> tuple[Head, ...]:
    """Return ``heads`` with missing activations read off the loss, and warn of contradictions.

    Warns
    -----
    UserWarning
        When the loss takes an output for other than the mean of a Gaussian, and does not show
        beyond doubt for what.
    """
    read = []
    for head in heads:
        found = read_loss(loss, head.y, params, targets) if head.source == UNREAD else None
        over_classes = (
            found is not None
            and isinstance(found.likelihood, Categorical)
            and head.example_axis == (head.y.ndim - 1)
        )
        if found is None or over_classes:
            read.append(head)
        elif found.is_clear:
            source = f"read off the loss, which takes {found.what}"
            head = replace(head, likelihood=found.likelihood, source=source, is_plain=False)
            if found.likelihood.is_logits:
                r = head.y if found.r is None else found.r
                read.append(replace(head, y=found.likelihood.mean(r), r=r, curvature_at=r))
            elif (softmax := read_log_softmax(head.y)) is not None:
                read.append(
                    replace(
                        head, y=pt.exp(head.y), r=softmax.preactivation, curvature_at=softmax.origin
                    )
                )
        else:
            many = f", in a list of {len(heads)}" if len(heads) > 1 else ""
            warn(
                f"The loss takes {found.what} of the output {head.y}, which does not end in an "
                "activation such as a softmax or sigmoid, so it is taken as Gaussian. Write "
                f"likelihood={likelihood_code(found.likelihood)}{many} if that is its "
                "distribution, or likelihood=symng.Gaussian() to keep the present one."
            )
            read.append(head)
    return tuple(read)
