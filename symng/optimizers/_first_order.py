"""What optimizers that take one gradient a step, and look no further, have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng.graphs.types import Scalar
from symng.optimizers._step import all_finite, apply_update, norm, refuse_batch
from symng.optimizers.base import Records, Schedule, State, StepBatches, Updates
from symng.optimizers.step_sizes import FixedStep, StepSizeLike, as_step_size

FixedStepLike = FixedStep | Scalar | Schedule
"""What an optimizer without a line search and a quadratic model takes as a step size."""


def as_fixed_step(owner: str, name: str, value: StepSizeLike) -> FixedStep:
    """Return a number, schedule or symbolic scalar as a step size; refuse other rules."""
    rule = as_step_size(name, value)
    if not isinstance(rule, FixedStep):
        raise argument_error(
            name,
            "a number, a schedule or a symbolic scalar",
            rule,
            f"{owner} makes no line search and has no quadratic model.",
            TypeError,
        )
    return rule


def refuse_other_batches(owner: str, batches: StepBatches) -> None:
    """Refuse a metric batch and a search batch."""
    refuse_batch("metric_batch", batches.metric, f"for {owner}")
    refuse_batch("search_batch", batches.search, f"for {owner}")


def descend(
    params: Sequence[SharedVariable],
    state: State,
    *,
    loss: TensorVariable,
    gradient: TensorVariable,
    size: TensorVariable,
    direction: TensorVariable,
    values: Mapping[str, TensorVariable],
    checked: Sequence[TensorVariable] = (),
) -> tuple[Updates, Records]:
    """Return updates and records of theta -> theta - size direction, if all is finite.

    ``values`` are the next values of the optimizer's state, by name. The norm of the gradient must
    be finite, too: Adam divides by its square, and an infinite one would make a step of zero.
    ``checked`` is what else must be.
    """
    update = size * direction
    # By norms, which are recorded anyway: XLA takes a dot product faster than it looks at each
    # entry.
    gradient_norm, update_norm = norm(gradient), norm(update)
    accepted = all_finite(loss, gradient_norm, update_norm, *checked)
    updates = apply_update(params, update, accepted)
    updates[state.values["step"]] = state.values["step"] + 1
    for name, value in values.items():
        updates[state.values[name]] = pt.switch(accepted, value, state.values[name])
    records = {
        "loss": loss,
        "step_size": size,
        "gradient_norm": gradient_norm,
        "update_norm": pt.switch(accepted, update_norm, pt.zeros_like(loss)),
        "accepted": accepted,
    }
    return updates, records
