"""The end of a run: the parameters that it leaves, a warning, and its result."""

from __future__ import annotations

import numpy as np

from symng._checks import warn
from symng.training.result import TrainingResult, by_name, copies, loss_after
from symng.training.run import TrainingRun
from symng.training.step import CompiledStep
from symng.training.stepping import Stepper


def make_result(run: TrainingRun, stepper: Stepper) -> TrainingResult:
    """Restore the best parameters if asked for, warn of an early end, and return the result."""
    step, best, status = run.step, run.best_evaluation, stepper.ending
    params = step.objective.params
    assert status is not None
    message = stepper.message_of(status)
    loss = stepper.watch.lowest if stepper.restored else loss_after(run.history, len(run.history))
    if best is not None and best.restore(params):
        message = stepper.message_of(status, f"the best {best.rule.monitor}")
        loss = loss_after(run.history, best.step if step.average_decay is None else 0)
    if best is not None and not best.params:
        best = None
    if message and status not in ("zero_gradient", "converged"):
        warn(f"minimize: {message}", RuntimeWarning)
    return TrainingResult(
        status=status,
        loss=loss,
        params=by_name(params, copies(params)),
        average_params=_average_params(step),
        best_params=None if best is None else by_name(params, best.params),
        best_step=None if best is None else best.step,
        best_value=float("nan") if best is None else best.value,
        history=run.history,
        steps=run.steps,
        seconds=run.seconds,
        compile_seconds=step.compile_seconds,
        message=message,
        step=step,
    )


def _average_params(step: CompiledStep) -> dict[str | int, np.ndarray] | None:
    """Return the average of the parameters by name; None without one."""
    if step.average_decay is None:
        return None
    params = step.objective.params
    with step.use_average():
        return by_name(params, copies(params))
