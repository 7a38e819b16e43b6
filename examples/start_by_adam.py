"""Training in two runs: a start by Adam, then another optimizer. A module to copy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import symng


def minimize_after_adam(
    objective: symng.Objective,
    optimizer: symng.Optimizer,
    data: tuple[np.ndarray, ...],
    *,
    start: int,
    start_batch: int,
    start_step_size: float,
    start_evaluate_every: int,
    batch_size: int | None,
    metric_batch: Any,
    metric_batch_size: int | None,
    search_batch: Any,
    evaluate_every: int,
    max_steps: int | None,
    max_seconds: float | None,
    checkpoint: Path | None = None,
    **always: Any,
) -> symng.TrainingResult:
    """Take ``start`` steps of Adam, then those of the optimizer, and return both as one run.

    The limits are those of both together. The checkpoint of the start is beside that of the rest.
    """
    first = None
    if start:
        first = symng.minimize(
            objective,
            symng.Adam(step_size=start_step_size),
            data,
            batch_size=min(start_batch, len(data[0])),
            max_steps=start if max_steps is None else min(start, max_steps),
            max_seconds=max_seconds,
            evaluate_every=start_evaluate_every,
            checkpoint=checkpoint and checkpoint.with_name(f"{checkpoint.name}.start"),
            **always,
        )
        max_steps = None if max_steps is None else max_steps - first.steps
        max_seconds = None if max_seconds is None else max_seconds - first.seconds
        spent = max_steps == 0 or (max_seconds is not None and max_seconds <= 0)
        if first.status != "max_steps" or spent:
            return first
    rest = symng.minimize(
        objective,
        optimizer,
        data,
        batch_size=batch_size,
        metric_batch=metric_batch,
        metric_batch_size=metric_batch_size,
        search_batch=search_batch,
        max_steps=max_steps,
        max_seconds=max_seconds,
        evaluate_every=evaluate_every,
        checkpoint=checkpoint,
        **always,
    )
    return rest if first is None else joined(first, rest)


def joined(first: symng.TrainingResult, rest: symng.TrainingResult) -> symng.TrainingResult:
    """Return two runs, one after the other, as one: steps and seconds of the second go on."""
    if not rest.steps:
        return dataclasses.replace(first, status=rest.status, message=rest.message)
    ended = {"step": first.steps, "seconds": first.seconds}
    columns = {}
    for name in dict.fromkeys([*first.history.to_dict(), *rest.history.to_dict()]):
        after = _column(rest.history, name) + ended.get(name, 0)
        columns[name] = np.concatenate([_column(first.history, name), after])
    return dataclasses.replace(
        rest,
        history=symng.History.from_dict(columns),
        steps=first.steps + rest.steps,
        seconds=first.seconds + rest.seconds,
        compile_seconds=first.compile_seconds + rest.compile_seconds,
    )


def _column(history: symng.History, name: str) -> np.ndarray:
    """Return a column; NaN where there is none, as of an evaluation that was never due."""
    return history[name] if name in history else np.full(len(history), np.nan)
