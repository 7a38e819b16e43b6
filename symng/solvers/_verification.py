"""Verification: the recurrence of a solver claims, the residual of x itself decides.

The residual that a Krylov method carries along drifts away from b - A x. So the verdict that ends
the steps is *pending* until one more product has given the residual of x. Where that does not bear
out the claim, the solve starts again from x, as long as each verification at least halves the
residual found by the one before.

The products with A are most of what there is to compile. All of them, those with x among them, are
therefore rounds of one loop with one product in its body; the `Phase` says what it multiplies.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.solvers._system import first_true
from symng.solvers.solution import Status


class Phase(IntEnum):
    """What a round of the loop multiplies."""

    STEP = 0  # the direction or the Lanczos vector of an iteration
    START = 1  # x0, for its residual
    VERIFY = 2  # x, for its residual
    LEAST_SQUARES = 3  # the residual r, for A r


# Each verification that the solve goes on from halves the residual, so there are few; this bounds
# the rounds of the loop beyond the iterations.
MAX_VERIFICATIONS = 100


class LoopState(Protocol):
    """What the state of a solver's loop has at least."""

    @property
    def status(self) -> TensorVariable:
        """The verdict, ``RUNNING`` as long as there is none."""


def is_running(state: LoopState) -> TensorVariable:
    """Return whether a solve has no verdict yet."""
    return pt.eq(state.status, Status.RUNNING)


def pays_off(measure: TensorVariable, last: TensorVariable) -> TensorVariable:
    """Return whether a residual is at most half of what it was when last verified."""
    return measure <= pt.constant(0.5, dtype=measure.type.dtype) * last


def judge(
    pending: TensorVariable,
    claimed: TensorVariable,
    *met: tuple[TensorVariable, Status],
    resume: TensorVariable,
    more: TensorVariable,
) -> TensorVariable:
    """Return the verdict on a candidate whose residual is known now; ``RUNNING`` to go on from it.

    Parameters
    ----------
    pending : symbolic integer
        The verdict that ended the steps.
    claimed : symbolic Boolean
        Whether that is a success by the recurrence, which does not count unless borne out.
    *met : pairs of symbolic Boolean and Status
        The tests that the candidate may pass, first true first.
    resume, more : symbolic Boolean
        Whether to go on from the candidate, and whether the iteration limit leaves iterations.
    """
    halted = claimed | pt.eq(pending, Status.BREAKDOWN)
    return first_true(
        (resume, Status.RUNNING),
        *met,
        (halted & pt.invert(more), Status.MAX_ITERATIONS),
        (claimed, Status.BREAKDOWN),
        default=pending,
    )
