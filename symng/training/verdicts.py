"""Why a run ends early: it diverges, no step is finite, or the gradient is zero."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from symng.solvers import Status
from symng.solvers.solution import NO_DIRECTION, NO_GAIN
from symng.training.info import StepInfo
from symng.training.result import Ending
from symng.training.snapshot import copied, put_back
from symng.training.step import CompiledStep

# What each reason means, in a sentence.
_MESSAGES = {
    "diverged": "The loss blew up. The parameters are those of {kept}. Give a smaller step or more "
    "damping.",
    "failed": "Step after step failed and changed nothing. The history names the cause in "
    "solver_status and new_loss.",
    "not_finite": "No step was finite: the loss, its gradient or the metric is NaN or infinite at "
    "the parameters that the run began with. Look for log(0), 0 / 0 or the norm of zeros there.",
    "zero_gradient": "The gradient is zero: an optimum, a saddle, or units that do not pass on any "
    "gradient.",
}

# A run ends after this many steps in a row that fail without a change in between, whose loss is too
# high, or whose gradient is zero. Fewer high losses suffice where the run ends anyway.
_PATIENCE, _FEW = 9, 3

# A run ends after this many refused steps in a row, even if the damping grows.
_MANY = 100

# A loss is too high at this multiple of the losses that a run begins with. These count as at least
# _SMALL: from a loss of 1e-9, Adam may rise to 1e-3 before it comes back.
_TOO_HIGH, _SMALL = 1e3, 1e-3


def message_of(status: str, restored: bool, kept: str = "its lowest value") -> str:
    """Return what the status of a run that ended early means; empty for other statuses.

    ``restored`` is whether the parameters were put back to those of ``kept``.
    """
    status = "failed" if status == "diverged" and not restored else status
    return _MESSAGES.get(status, "").format(kept=kept)


class Watch:
    """Judge a run after each step, and keep the parameters of its lowest loss.

    ``full_batch`` says whether each batch holds all examples. ``losses`` are those up to a
    checkpoint, ``best`` the lowest of them and its parameters, if the file has them. ``refusal``
    says why the steps were refused if that ended the run.
    """

    def __init__(
        self,
        step: CompiledStep,
        full_batch: bool,
        batches_per_epoch: int,
        losses: Iterable[float],
        best: tuple[float, list[np.ndarray]] | None = None,
    ) -> None:
        self.step, self.full_batch, self.batches_per_epoch = step, full_batch, batches_per_epoch
        finite = [float(loss) for loss in losses if np.isfinite(loss)]
        self._initial: list[float] = []
        self._start = 0.0
        for loss in finite[:_PATIENCE]:
            self._record_initial(loss)
        self._latest = deque(finite, maxlen=_PATIENCE)
        self._bottom = min(finite, default=np.inf)
        self.lowest = np.inf  # of the losses whose parameters are kept
        # NumPy's arrays, or those of a device.
        self._params: list[object] = [None] * len(step.objective.params)
        self._best: Sequence[object] = list(self._params)
        if best is not None:
            self.lowest, self._best = best
        self._steps = self._failed = self._not_finite = self._high = self._flat = 0
        self._refused = 0
        self._rounding = 4 * float(np.finfo(step.objective.dtype).eps)
        self.refusal = ""
        self._moved = bool(finite)

    def remember(self) -> None:
        """Keep the parameters before a step: a copy, or the immutable array of JAX itself."""
        for i, param in enumerate(self.step.objective.params):
            self._params[i] = copied(param, self._params[i])

    def undo(self) -> None:
        """Put the remembered parameters back, after a step that failed."""
        for param, value in zip(self.step.objective.params, self._params, strict=True):
            put_back(param, value)

    @property
    def best(self) -> tuple[float, list[np.ndarray]] | None:
        """The lowest loss and its parameters; None before there is a finite one."""
        return (
            (self.lowest, [np.asarray(value) for value in self._best])
            if np.isfinite(self.lowest)
            else None
        )

    def judge(self, info: StepInfo, last: bool) -> Ending | None:
        """Return why the run ends with the step that began with the remembered parameters, or None.

        ``last`` is whether it ends with this one anyway.
        """
        self._steps += 1
        if np.isfinite(info.loss):
            self._record_initial(info.loss)
            self._bottom = min(self._bottom, info.loss)
            if info.loss < self.lowest:
                self.lowest = info.loss
                self._best, self._params = self._params, self._best
        self._latest.append(info.loss)
        slope = info.gradient_norm if info.status is None else 0.0  # else the solve has seen it
        finite = np.isfinite(info.loss + slope) and info.status is not Status.NOT_FINITE
        self._not_finite = 0 if info.accepted or finite else self._not_finite + 1
        self._moved |= info.accepted and info.update_norm != 0
        self._failed = self._failed + 1 if _is_failure(info, self.step) else 0
        if not info.accepted:
            self._refused += 1
        elif not abs(info.loss - info.new_loss) <= self._rounding * abs(info.loss):
            self._refused = 0  # a step so short that nothing changes is no better than none
        self._high = self._high + 1 if info.loss > self._limit() else 0
        self._flat = self._flat + 1 if info.gradient_norm == 0 == info.update_norm else 0

        if self._is_reached(self._not_finite, _PATIENCE, last) and not self._moved:
            return "not_finite"
        if max(self._failed, self._not_finite) >= _PATIENCE or self._rises(
            _FEW if last else _PATIENCE
        ):
            return "diverged"
        if self._refused >= _MANY:
            self.refusal = _refusal(info)
            return "refused"
        if self.full_batch:
            return "zero_gradient" if self._is_reached(self._flat, _PATIENCE, last) else None
        # A batch may come first in one epoch and last in the next.
        enough = max(_PATIENCE, 2 * self.batches_per_epoch)
        return "zero_gradient" if self._flat >= enough else None

    def restore(self) -> bool:
        """Restore the parameters of the lowest loss if the loss blew up; return whether it did."""
        blown_up = np.isfinite(self.lowest) and not self._latest[-1] <= self._limit()
        if blown_up:
            self.step.sync_to_host()
            for param, value in zip(self.step.objective.params, self._best, strict=True):
                param.set_value(np.array(value, dtype=param.type.dtype))
        return bool(blown_up)

    def _record_initial(self, loss: float) -> None:
        """Record one of the first losses; their median is the start if batches are not full."""
        if len(self._initial) < _PATIENCE:
            self._initial.append(loss)
            first = next(filter(None, self._initial), 0.0)
            self._start = first if self.full_batch else float(np.median(self._initial))

    def _is_reached(self, count: int, patience: int, last: bool) -> bool:
        """Return whether ``count`` steps are enough, or all there are where the run ends."""
        return count >= patience or (last and count == self._steps)

    def _limit(self) -> float:
        """Return the loss above which a loss is too high."""
        return self._bottom + _TOO_HIGH * max(abs(self._start) + self._start - self._bottom, _SMALL)

    def _rises(self, patience: int) -> bool:
        """Return whether ``patience`` losses in a row are too high and do not fall."""
        return self._high >= patience and self._latest[-1] >= self._latest[-patience]


def _refusal(info: StepInfo) -> str:
    """Return why a run of refused steps ends, by the last of them."""
    if info.status in NO_DIRECTION:
        cause = f"the solve of the last gave no direction, with the status {info.status.name}."
    elif not np.isfinite(info.new_loss):
        cause = "the loss after the last was not finite."
    else:
        cause = (
            f"the last would have raised the loss of {info.loss:.6g} by "
            f"{info.new_loss - info.loss:.2g}. If that is rounding error, this is an optimum; else "
            "check that the loss and its gradient belong together."
        )
    return f"{_MANY} steps in a row were refused and changed nothing: {cause}"


def _is_failure(info: StepInfo, step: CompiledStep) -> bool:
    """Return whether a step failed, and neither more damping nor a shorter step comes next."""
    useless = info.status in NO_DIRECTION or (
        info.status is Status.NEGATIVE_CURVATURE
        and info.residual_norm >= NO_GAIN * info.gradient_norm
    )
    if info.accepted or (np.isfinite(info.loss + info.new_loss) and not useless):
        return False
    if "shortening" in step.state and not useless:
        return False
    damping = step.state.get("damping")
    return damping is None or not float(damping.get_value()) > info.damping
