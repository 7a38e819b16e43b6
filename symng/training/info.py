"""The result of one step, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from symng.solvers import Status

_NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """Describe one step.

    Fields that the optimizer has no value for are NaN.

    Attributes
    ----------
    loss, new_loss : float
        Loss on the gradient batch before the step, and after it (before the step is undone, if it
        is).
    damping : float
        lambda of the quadratic model, and of the solve unless that has a setting of its own.
    reduction_ratio : float
        rho, how well the model predicted the change of the loss (equation 17).
    step_size : float
        eta; 0 when a line search found none.
    beta : float
        Weight of the previous direction in the new one, of a conjugate gradient (equation 22).
    solver_status : int
        Verdict of the solve, a `Status`; -1 without a solve.
    solver_iterations : float
        Iterations of the solve.
    iterates_skipped : float
        Kept iterates of the solve after the one that the step took.
    residual_norm, gradient_norm, update_norm : float
        Norms of the residual of the solve, of the gradient, and of the change of the parameters (0
        when rejected).
    accepted : bool
        Whether the parameters have changed.
    restarted : bool
        Whether a conjugate direction was given up for the natural direction alone.
    acceleration_ratio : float
        ``2 |c| / |p|`` of geodesic acceleration, which is left out above 0.75; NaN where its solve
        found nothing.
    search_evaluations : float
        Evaluations of the loss, on the search batch, by a search on the host.
    losses : tuple of float
        Loss of each term of an `ObjectiveSum`, without its weight, before the step: the columns
        ``loss_0``, ``loss_1``, ... of a history. Empty for an `Objective`.
    """

    loss: float = _NAN
    new_loss: float = _NAN
    damping: float = _NAN
    reduction_ratio: float = _NAN
    step_size: float = _NAN
    beta: float = _NAN
    solver_status: int = -1
    solver_iterations: float = _NAN
    iterates_skipped: float = _NAN
    residual_norm: float = _NAN
    gradient_norm: float = _NAN
    update_norm: float = _NAN
    accepted: bool = True
    restarted: bool = False
    acceleration_ratio: float = _NAN
    search_evaluations: float = _NAN
    losses: tuple[float, ...] = ()

    @property
    def status(self) -> Status | None:
        """The verdict of the solve by name, with its message; None without a solve."""
        return None if self.solver_status < 0 else Status(self.solver_status)

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a dictionary of numbers."""
        names = [f.name for f in fields(self) if f.name != "losses"]
        of_terms = {f"loss_{i}": loss for i, loss in enumerate(self.losses)}
        return {name: getattr(self, name) for name in names} | of_terms


def make_info(values: Mapping[str, np.ndarray | int]) -> StepInfo:
    """Return the outputs of the compiled step as plain numbers."""
    plain: dict[str, Any] = {}
    losses = []
    for name, value in values.items():
        if name.startswith("loss_"):  # of the terms, in order
            losses.append(float(value))
        elif name in ("accepted", "restarted"):
            plain[name] = bool(value)
        elif name in ("solver_status", "solver_iterations", "iterates_skipped"):
            plain[name] = int(value)
        else:
            plain[name] = float(value)
    return StepInfo(**plain, losses=tuple(losses))
