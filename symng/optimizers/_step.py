"""Pieces of a step as functions from graph to graph: gradient, step size, acceptance, updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, is_symbolic
from symng.graphs import vectors
from symng.graphs.derivatives import grad
from symng.graphs.rewrites import accumulate_in_own_dtype
from symng.graphs.types import Scalar
from symng.objective import Objective, ObjectiveLike
from symng.objective.batches import Batch, as_batch
from symng.optimizers.base import Records, Schedule, State, StepBatches, Updates
from symng.optimizers.damping import Damping
from symng.optimizers.step_sizes import Curvature, StepSize
from symng.solvers import Solution, Status
from symng.solvers.solution import NO_DIRECTION, NO_GAIN

# Why an optimizer refuses a search batch that it has no use for, and what to do.
NO_SEARCH = (
    "without a line search",
    "Leave it out, or give step_size=symng.BacktrackingLineSearch(), or a damping rule with "
    "on_search_batch=True.",
)

LossPair = tuple[TensorVariable, TensorVariable]
"""The losses of one batch before and after a step."""

# Records that have the scale of the loss.
_OF_THE_LOSS = ("loss", "new_loss", "gradient_norm", "residual_norm")

# Changes of the loss by fewer units of its rounding error than this say nothing about the model.
_ROUNDINGS = 4.0


def refuse_batch(name: str, batch: Batch | None, reason: str, hint: str = "Leave it out.") -> None:
    """Refuse a batch that nothing in the step uses; ``reason`` continues the message's "none"."""
    if batch is not None:
        raise argument_error(name, f"none {reason}", Verbatim("one"), hint)


def init_step_size(state: State, rule: StepSize | None) -> None:
    """Add the step number, and the step size as a hyperparameter unless it is symbolic."""
    state.add("step", 0, "int64")
    if rule is not None:
        state.add_hyperparameter("step_size", rule.initial())


def step_size_of(state: State, rule: StepSize) -> TensorVariable:
    """Return the step size that the rule starts from, in the dtype of the parameters."""
    size: Scalar | Schedule = state.hyperparameters.get("step_size", rule.initial())
    if callable(size) and not is_symbolic(size):  # a schedule whose values are symbolic
        size = size(state.values["step"])
    return pt.cast(size, state.dtype)


def loss_and_gradient(batch: Batch) -> tuple[TensorVariable, TensorVariable]:
    """Return the loss and its gradient as a flat vector, in the dtype of the parameters."""

    def parts(o: Objective, _: Any) -> list[TensorVariable]:
        # A parameter that only the output uses has a gradient of zero.
        slopes: Any = grad(o.loss, o.params, disconnected_inputs="ignore")
        return [
            pt.cast(o.loss, o.dtype),
            vectors.ravel([accumulate_in_own_dtype(g).astype(o.dtype) for g in slopes], o.params),
        ]

    loss, gradient = batch.mean(parts)
    return loss, gradient


def in_units_of_loss(batch: Batch, records: Records) -> Records:
    """Return a step's records in units of the given loss, which the step may have divided."""
    scale = batch.divisor
    if scale is None:
        return records
    return records | {name: records[name] * scale for name in _OF_THE_LOSS if name in records}


def update_along(
    direction: TensorVariable, acceleration: TensorVariable | None, eta: TensorVariable
) -> TensorVariable:
    """Return eta direction + eta^2 acceleration; without the latter eta direction."""
    update = eta * direction
    return update if acceleration is None else update + pt.sqr(eta) * acceleration


def loss_along(
    batch: Batch | ObjectiveLike,
    direction: TensorVariable,
    acceleration: TensorVariable | None = None,
) -> Callable[[TensorVariable], TensorVariable]:
    """Return eta -> L(theta - eta direction - eta^2 acceleration)."""
    batch = as_batch(batch)
    params: Any = batch.params
    theta = vectors.ravel(params, params)

    def loss_at(eta: TensorVariable) -> TensorVariable:
        moved = vectors.split(theta - update_along(direction, acceleration, eta), params)
        return pt.cast(batch.mean(lambda o, _: [o.loss_at(moved)])[0], batch.dtype)

    return loss_at


class SizedStep(NamedTuple):
    """A step size, and the losses before and after a step of that size.

    Attributes
    ----------
    size : symbolic scalar
        The step size.
    found : symbolic boolean
        Whether the rule found one.
    new_loss : symbolic scalar
        The loss after the step on the gradient batch.
    searched : tuple of symbolic scalars, or None
        The losses before and after it on the search batch; None without one.
    """

    size: TensorVariable
    found: TensorVariable
    new_loss: TensorVariable
    searched: LossPair | None


def take_step_size(
    rule: StepSize,
    state: State,
    batches: StepBatches,
    direction: TensorVariable,
    loss: TensorVariable,
    slope: TensorVariable,
    curvature: Curvature,
    acceleration: TensorVariable | None = None,
) -> SizedStep:
    """Return the step size that the rule finds, with the losses there.

    ``slope`` and ``curvature`` are those of the quadratic model, as for `StepSize.from_model`.
    """
    size = rule.from_model(step_size_of(state, rule), slope, curvature)
    size *= state.values.get("shortening", 1)
    loss_at = loss_along(batches.gradient, direction, acceleration)
    if batches.search is None:
        size, new_loss, found = rule.find(loss_at, loss, slope, size)
        return SizedStep(size, found, new_loss, None)
    before = searched_loss(batches)
    searched_at = loss_along(batches.search, direction, acceleration)
    size, after, found = rule.find(searched_at, before, slope, size)
    return SizedStep(size, found, loss_at(size), (before, after))


def searched_loss(batches: StepBatches) -> TensorVariable:
    """Return the loss before the step on the search batch."""
    return pt.cast(batches.for_search.loss(), batches.gradient.dtype)


def all_finite(*tensors: TensorVariable) -> TensorVariable:
    """Return whether every value is finite."""
    checks = [pt.all(pt.isfinite(t)) if t.ndim else pt.isfinite(t) for t in tensors]
    return checks[0] if len(checks) == 1 else pt.and_(checks[0], all_finite(*tensors[1:]))


def rounding_of(loss: TensorVariable) -> TensorVariable:
    """Return the largest change of the loss that its rounding errors explain."""
    return _ROUNDINGS * np.finfo(loss.dtype).eps * abs(loss)


def norm(vector: TensorVariable) -> TensorVariable:
    """Return the Euclidean norm, by a dot product: no sum in another dtype."""
    return pt.sqrt(pt.dot(vector, vector))


def apply_update(
    params: Sequence[SharedVariable], update: TensorVariable, accepted: TensorVariable
) -> Updates:
    """Return the updates theta -> theta - update where accepted, theta as it is otherwise."""
    parts = vectors.split(update, params)
    return {
        p: _as_type_of(p, pt.switch(accepted, p - part, p))
        for p, part in zip(params, parts, strict=True)
    }


def _as_type_of(param: SharedVariable, value: TensorVariable) -> TensorVariable:
    """Return ``value`` with the static shape of ``param``, which an update of it needs."""
    return value if param.type.is_super(value.type) else pt.specify_shape(value, param.type.shape)


def has_direction(solution: Solution, gradient: TensorVariable) -> TensorVariable:
    """Return whether the solve of F p = g produced a usable direction.

    One that ended at negative curvature must also have a smaller residual than norm(g).
    """
    usable = pt.constant(np.array(True))
    for verdict in NO_DIRECTION:
        usable = pt.and_(usable, pt.neq(solution.status, int(verdict)))
    no_gain = pt.ge(solution.residual_norm, pt.cast(NO_GAIN, gradient.dtype) * norm(gradient))
    indefinite = pt.eq(solution.status, int(Status.NEGATIVE_CURVATURE))
    return pt.and_(usable, pt.invert(pt.and_(indefinite, no_gain)))


def accept_or_reject(
    params: Sequence[SharedVariable],
    state: State,
    rule: Damping,
    *,
    loss: TensorVariable,
    new_loss: TensorVariable,
    update: TensorVariable,
    predicted: TensorVariable,
    sound: TensorVariable,
    searched: LossPair | None = None,
    niter: TensorVariable | None = None,
    status: TensorVariable | None = None,
) -> tuple[Updates, Records]:
    """Accept or refuse theta -> theta - update, and adapt the damping (equations 17, 32).

    Returns the updates of parameters, damping and step number, and the records of them.
    ``sound`` says whether solve and search succeeded; else, or if not finite, the step has failed.
    ``searched`` are the losses before and after the step on the search batch, if it has one, for
    rules that take the ratio there. ``niter`` and ``status`` are those of the step's solve, if
    there was one.
    """
    damping = state.values["damping"]
    judged_on = (loss, new_loss)
    if rule.on_search_batch and searched is not None:
        judged_on = searched
    decrease = judged_on[0] - judged_on[1]
    ratio = decrease / predicted
    # A model that predicts an increase is as bad as one that is wrong, whatever the sign of its
    # ratio. Changes that are rounding errors of the loss say nothing, as at an optimum, where both
    # are 0.
    rounding = rounding_of(judged_on[0])
    unclear = pt.and_(pt.le(abs(decrease), rounding), pt.le(abs(predicted), rounding))
    judged = pt.switch(pt.lt(predicted, 0), -np.inf, ratio)
    judged = pt.switch(unclear, np.nan, judged).astype(state.dtype)
    failed = pt.invert(pt.and_(all_finite(loss, new_loss, *judged_on, update), sound))
    if state.refuses_increases and rule.leaves_increases_open:
        # A failed step to the rule: the same step would be refused again if the damping stayed.
        failed = pt.or_(failed, pt.lt(loss - new_loss, -rounding_of(loss)))
    accepted = pt.invert(pt.or_(failed, rule.refuses(judged)))
    updates = apply_update(params, update, accepted)
    if (shortening := state.values.get("shortening")) is not None:
        updates[shortening] = pt.switch(accepted, pt.minimum(2 * shortening, 1), shortening / 2)
    following = rule.adapt(
        damping, judged, failed, step=state.values["step"], niter=niter, status=status
    )
    updates[damping] = pt.cast(following, state.dtype)
    updates[state.values["step"]] = state.values["step"] + 1
    records = {
        "loss": loss,
        "new_loss": new_loss,
        "damping": damping,
        "reduction_ratio": ratio,
        "update_norm": pt.switch(accepted, norm(update), pt.zeros_like(loss)),
        "accepted": accepted,
    }
    return updates, records
