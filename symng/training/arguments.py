"""Check the arguments of a compiled step and of a run."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import get_args

from symng._checks import Verbatim, argument_error, check_choice, check_instance, check_number
from symng.metrics import EmpiricalFisher
from symng.objective import ObjectiveLike
from symng.objective.chunks import check_chunks
from symng.objective.sums import Summand
from symng.optimizers import Optimizer
from symng.optimizers.preconditioners import MartensPreconditioner
from symng.training.convergence import Tolerances
from symng.training.term_batches import MetricBatch, SearchBatch


def check_arguments(
    objective: ObjectiveLike,
    optimizer: Optimizer,
    chunk_size: int | None,
    average_decay: float | None,
    updates: object,
) -> None:
    """Refuse what is no objective or no optimizer, and settings that they cannot take."""
    check_instance("objective", objective, Summand, "a symng.Objective")
    check_instance(
        "optimizer",
        optimizer,
        Optimizer,
        "an optimizer such as symng.NaturalGradient()",
        "Give the optimizer, not its name."
        if isinstance(optimizer, str)
        else "Did you forget the parentheses?",
    )
    if average_decay is not None:
        hint = "It is the weight of the past: 0.99 averages about the last 100 steps."
        check_number("average_decay", average_decay, minimum=0, below=1, hint=hint)
    if chunk_size is None:
        return
    check_number("chunk_size", chunk_size, minimum=1, integer=True)
    if updates:
        hint = "Leave chunk_size out, and give smaller batches."
        text = Verbatim("both: an update needs the full batch")
        raise argument_error("chunk_size", "none with updates", text, hint)
    for term in objective.terms:
        check_chunks(term)
    solver = optimizer.solver
    if solver is not None and solver.needs_full_batch:
        name = f"{type(solver).__module__.split('.')[0]}.{type(solver).__name__}"
        raise argument_error(
            "chunk_size",
            f"none with {name}, which needs the full batch",
            Verbatim("one"),
            "Leave it out, or take symng.CG or symng.MinresQLP.",
            NotImplementedError,
        )


def takes_single_examples(settings: object) -> bool:
    """Return whether an optimizer, or a part of it, takes the gradients of single examples."""
    if isinstance(settings, EmpiricalFisher | MartensPreconditioner):
        return True
    if not is_dataclass(settings):
        return False
    return any(takes_single_examples(getattr(settings, field.name)) for field in fields(settings))


def check_batches(
    batch_size: object,
    metric_batch: object,
    metric_batch_size: object,
    search_batch: object,
    seed: object,
) -> None:
    """Refuse sizes out of range, unknown kinds of batches, and what is no seed."""
    given = {"batch_size": batch_size, "metric_batch_size": metric_batch_size}
    for name, value in given.items():
        for size in value if isinstance(value, tuple | list) else [value]:
            if size is not None and not (callable(size) and name == "batch_size"):
                check_number(name, size, minimum=1, integer=True)
    check_choice("metric_batch", metric_batch, get_args(MetricBatch))
    check_choice("search_batch", search_batch, get_args(SearchBatch))
    check_number("seed", seed, minimum=0, integer=True)


def check_checkpoint(
    checkpoint: object, seconds: object, every: object, keep: object, resume: object
) -> None:
    """Refuse settings of a checkpoint that are out of range, or useless without a file."""
    check_number("checkpoint_seconds", seconds, minimum=0, finite=False)
    if every is not None:
        check_number("checkpoint_every", every, minimum=1, integer=True)
    check_number("keep", keep, minimum=1, integer=True)
    if not isinstance(resume, bool) and resume != "must":
        raise argument_error("resume", "True, False or 'must'", resume)
    if checkpoint is not None:
        check_instance("checkpoint", checkpoint, (str, os.PathLike), "the name of a file")
    elif resume == "must":
        hint = "Give checkpoint=, the name of the file."
        raise argument_error("resume", "True or False without a checkpoint", resume, hint)


def check_limits(
    max_steps: object,
    max_seconds: object,
    target_loss: object,
    tolerances: Tolerances,
    callback: object,
    *,
    ends: bool,
) -> None:
    """Refuse limits out of range, and a run without any; ``ends`` says whether its data end."""
    if max_steps is not None:
        check_number("max_steps", max_steps, minimum=0, integer=True)
    if max_seconds is not None:
        check_number("max_seconds", max_seconds, above=0, finite=False)
    if target_loss is not None:
        check_number("target_loss", target_loss, finite=False)
    if callback is not None and not callable(callback):
        raise argument_error("callback", "a callable", callback, error=TypeError)
    tolerances.check()
    limits = (max_steps, max_seconds, target_loss, callback)
    if all(limit is None for limit in limits) and not (tolerances.is_limit or ends):
        hint = "Give max_steps, max_seconds, target_loss, a tolerance or a callback."
        raise argument_error("max_steps", "a limit", None, hint)


def check_evaluation(evaluate: object, evaluate_every: object, evaluate_data: object) -> None:
    """Refuse an evaluation that cannot be called, and arguments that it cannot be called with."""
    check_number("evaluate_every", evaluate_every, minimum=1, integer=True)
    if evaluate is not None and not callable(evaluate):
        raise argument_error("evaluate", "a callable", evaluate, error=TypeError)
    if evaluate_data is None:
        return
    if evaluate is None:
        raise argument_error(
            "evaluate_data", "none without evaluate", evaluate_data, error=TypeError
        )
    if not isinstance(evaluate_data, tuple | list):
        raise argument_error(
            "evaluate_data",
            "a tuple of arguments for evaluate",
            evaluate_data,
            "A one-element tuple needs a comma: (X,).",
            TypeError,
        )


def count_arguments(function: Callable[..., object], *counts: int) -> int:
    """Return how many arguments to call a function with: the first of ``counts`` that it takes.

    It is the first of all for a function that takes none of them, or that has no signature.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in function may have none
        return counts[0]
    for count in counts:
        try:
            signature.bind(*range(count))
            return count
        except TypeError:
            continue
    return counts[0]
