"""When a run has converged: tests of the gradient, of the loss and of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable

from symng._checks import Verbatim, argument_error, check_number
from symng.solvers import Status
from symng.training.history import History

LossTolerance = float | Literal["auto"] | None
"""The largest change of a loss that has converged; "auto" allows for rounding errors alone."""

# Accepted steps in a row whose loss has to stay as it is: for a tolerance that was given, and for
# one that was not.
_FEW, _PATIENCE = 3, 9

# Changes of the loss by fewer units of its rounding error do not count.
_ROUNDINGS = 4.0

# After this many small steps in a row whose solves ended early, a run has stalled.
_MANY = 100

_COLUMNS = ("loss", "new_loss", "accepted", "gradient_norm", "update_norm", "solver_status")


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """The relative tolerances of a run; None means no test."""

    gradient: float | None = None
    loss: LossTolerance = "auto"
    update: float | None = None

    @property
    def is_limit(self) -> bool:
        """Whether a tolerance was given, so that a run needs no other limit."""
        given = (self.gradient, self.loss, self.update)
        return any(value not in (None, "auto") for value in given)

    def check(self) -> None:
        """Refuse tolerances out of range."""
        hint = "It is relative: 1e-6 is a millionth. None makes no such test."
        loss: object = self.loss
        if isinstance(loss, str) and loss != "auto":
            expected = 'a number, at least 0 and below 1, "auto" or None'
            raise argument_error("loss_tolerance", expected, Verbatim(repr(loss)), hint)
        given = {"gradient": self.gradient, "loss": self.loss, "update": self.update}
        if loss == "auto":
            del given["loss"]
        for name, value in given.items():
            if value is not None:
                check_number(f"{name}_tolerance", value, minimum=0, below=1, hint=hint)


class ConvergenceTest:
    """Judge after each step whether a run has converged.

    All it needs of earlier steps is in the history, so that a resumed run ends as one without
    interruption.

    Parameters
    ----------
    tolerances : Tolerances
        The tests to make.
    params : sequence of shared variables
        The parameters.
    stays : bool
        Whether a loss that no longer changes means that the run has converged, as on full batches.
    history : History
        The steps up to a checkpoint.
    """

    def __init__(
        self,
        tolerances: Tolerances,
        params: Sequence[SharedVariable],
        stays: bool,
        history: History,
    ) -> None:
        self.params, self.gradient, self.update = params, tolerances.gradient, tolerances.update
        eps = float(np.finfo(params[0].type.dtype).eps)
        self._is_auto, self._eps = tolerances.loss == "auto", eps
        if isinstance(tolerances.loss, str):
            self.loss = _ROUNDINGS * eps if stays else None
        else:
            self.loss = tolerances.loss
        self._first_loss = self._first_gradient = np.nan
        self._previous: Mapping[str, float] = {}  # the row of the last step
        self._unchanged, self._change, self._moved = 0, np.nan, False
        self._stalled = 0  # small steps in a row that prove nothing
        columns = [history[name] for name in _COLUMNS] if len(history) else []
        for values in zip(*columns, strict=True):
            self.see(dict(zip(_COLUMNS, map(float, values), strict=True)))

    def see(self, row: Mapping[str, float]) -> None:
        """Take in the next row of the history."""
        loss, gradient = row["loss"], row["gradient_norm"]
        if np.isnan(self._first_loss) and np.isfinite(loss):
            self._first_loss = loss
        if np.isnan(self._first_gradient) and np.isfinite(gradient):
            self._first_gradient = gradient
        if row["accepted"]:  # a step that was undone says nothing
            before, after = self._losses_around(row)
            self._change = abs(after - before)
            scale = max(abs(before), self._eps * abs(self._first_loss))
            small = self.loss is not None and self._change <= self.loss * scale
            # The gradient has the last word where no tolerance was given.
            self._unchanged = self._unchanged + 1 if small and self._is_proof(row) else 0
            self._moved |= row["update_norm"] > 0
            small = (small and not self._is_auto) or self._is_still(row)
            self._stalled = self._stalled + 1 if small and not self._is_solved(row) else 0
        self._previous = row

    @property
    def message(self) -> str:
        """Which test the last step meets, in a sentence; empty for none."""
        if not self._moved:  # a gradient of zero from the start is no convergence
            return ""
        message = self._of_gradient()
        # A step that was undone has changed neither loss nor parameters, for another reason.
        if message or not self._previous["accepted"]:
            return message
        return self._of_loss() or self._of_update()

    @property
    def stall(self) -> str:
        """That the steps are small only because solves ended early, in a sentence; else empty."""
        if self._stalled < _MANY:
            return ""
        status = Status(int(self._previous["solver_status"]))
        return (
            f"Step after step was small enough to have converged, {self._stalled} in a row, but "
            f"their solves ended early: the last as {status.name}. {status.message}"
        )

    @staticmethod
    def _is_solved(row: Mapping[str, float]) -> bool:
        """Return whether the solve of a step, if any, reached its goal: else any step may be small.

        The first iterates reach only along the steepest directions.
        """
        status = row.get("solver_status", np.nan)
        return not status >= 0 or Status(int(status)).success  # NaN, or -1 in a history, for none

    def _is_proof(self, row: Mapping[str, float]) -> bool:
        """Return whether a step that changed nothing says that there is nothing to change."""
        return self._is_auto or self._is_solved(row)

    def _losses_around(self, row: Mapping[str, float]) -> tuple[float, float]:
        """Return the losses before and after the step; NaN where they are not known.

        An optimizer that does not evaluate its step is judged by the step before.
        """
        if np.isfinite(row["new_loss"]):
            return row["loss"], row["new_loss"]
        if self._previous and self._previous["accepted"]:
            return self._previous["loss"], row["loss"]
        return np.nan, np.nan

    def _is_gradient_below(self, tolerance: float) -> bool:
        """Return whether the gradient has become that small, compared with the first one."""
        return bool(self._previous["gradient_norm"] <= tolerance * self._first_gradient)

    def _of_gradient(self) -> str:
        if self.gradient is None or not self._is_gradient_below(self.gradient):
            return ""
        return (
            f"The gradient has converged: its norm {self._previous['gradient_norm']:.3g} is at "
            f"most gradient_tolerance={self.gradient:g} times that of the first step, "
            f"{self._first_gradient:.3g}."
        )

    def _of_loss(self) -> str:
        if self.loss is None or self._unchanged < (_PATIENCE if self._is_auto else _FEW):
            return ""
        # A loss stays as it is on a plateau, too.
        if self._is_auto and not self._is_gradient_below(self._eps**0.75):
            return ""
        loss = self._previous["loss"]
        if self._is_auto:
            return (
                f"The loss has converged: it is {loss:.6g} up to rounding errors in "
                f"{self._unchanged} steps in a row, and the norm of its gradient fell from "
                f"{self._first_gradient:.3g} to {self._previous['gradient_norm']:.3g}."
            )
        return (
            f"The loss has converged: in {self._unchanged} steps in a row it changed by at most "
            f"loss_tolerance={self.loss:g} of its value, in the last one by {self._change:.3g} "
            f"at {loss:.6g}."
        )

    def _of_update(self) -> str:
        if self.update is None:
            return ""
        if not (self._is_still(self._previous) and self._is_solved(self._previous)):
            return ""
        step, size = self._previous["update_norm"], self._size()
        return (
            f"The parameters have converged: the norm of the update, {step:.3g}, is at most "
            f"update_tolerance={self.update:g} times theirs, {size:.3g}."
        )

    def _is_still(self, row: Mapping[str, float]) -> bool:
        """Return whether a step was within the tolerance of the parameters."""
        return self.update is not None and bool(row["update_norm"] <= self.update * self._size())

    def _size(self) -> float:
        """Return the norm of the parameters."""
        return _norm([np.asarray(p.get_value(borrow=True)) for p in self.params])


def _norm(arrays: Sequence[np.ndarray]) -> float:
    """Return the Euclidean norm of all entries."""
    return float(np.linalg.norm([np.linalg.norm(a) for a in arrays]))
