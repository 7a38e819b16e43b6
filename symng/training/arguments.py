"""Check the arguments of a compiled step."""

from __future__ import annotations

from symng._checks import Verbatim, argument_error, check_instance, check_number
from symng.objective import Objective
from symng.objective.batches import check_chunks
from symng.optimizers import Optimizer


def check_arguments(
    objective: Objective, optimizer: Optimizer, chunk_size: int | None, average_decay: float | None
) -> None:
    """Refuse what is no objective or no optimizer, and settings that they cannot take."""
    check_instance("objective", objective, Objective, "a symng.Objective")
    check_instance(
        "optimizer",
        optimizer,
        Optimizer,
        "an optimizer such as symng.NaturalGradient()",
        "Did you forget the parentheses?",
    )
    if average_decay is not None:
        hint = "It is the weight of the past: 0.99 averages about the last 100 steps."
        check_number("average_decay", average_decay, minimum=0, below=1, hint=hint)
    if chunk_size is None:
        return
    check_number("chunk_size", chunk_size, minimum=1, integer=True)
    check_chunks(objective)
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
