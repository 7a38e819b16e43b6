"""What Hessian-free optimization (Martens) asks of CG: a progress test, and kept iterates."""

from __future__ import annotations

import math

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

# The progress test looks back over at most this many values of φ, which are part of the state.
HISTORY = 128


def initial_history(dtype: str) -> TensorVariable:
    """Return the history before the first iterate."""
    return pt.zeros((HISTORY,), dtype=dtype)


def record(
    history: TensorVariable,
    phi: TensorVariable,
    niter: TensorVariable,
    advance: TensorVariable,
    rtol: TensorVariable,
) -> tuple[TensorVariable, TensorVariable]:
    """Return the history with φ of iterate ``niter``, and whether φ has almost stopped falling.

    That is when (φ_i - φ_{i-k}) / φ_i < k rtol, with k = max(10, ceil(i / 10)) as far back as the
    history goes (Martens 2010, section 4.4).
    """
    k = pt.clip((niter + 9) // 10, 10, HISTORY)
    before, row = history[(niter - k) % HISTORY], niter % HISTORY
    slow = (niter > k) & (phi < 0) & ((phi - before) / phi < pt.cast(k, phi.type.dtype) * rtol)
    return history[row].set(pt.switch(advance, phi, history[row])), advance & slow


def kept_numbers(growth: float, limit: int) -> list[int]:
    """Return the distinct numbers ceil(growth^j) below ``limit``, for j = 0, 1, ..., and ``limit``.

    Examples
    --------
    >>> kept_numbers(1.3, 20)
    [1, 2, 3, 4, 5, 7, 9, 11, 14, 18, 20]
    """
    numbers, number = [], 1
    while number < limit:
        numbers.append(number)
        # The next power with another ceiling: with a growth near 1 many powers share one.
        power = growth ** (math.floor(math.log(number) / math.log(growth)) + 1)
        while math.ceil(power) <= number:
            power *= growth
        number = math.ceil(power)
    return [*numbers, limit]


def row_of(niter: TensorVariable, kept: list[int]) -> TensorVariable:
    """Return the row for iterate ``niter``: that of the next number in ``kept``."""
    return pt.sum(pt.lt(pt.constant(kept, dtype="int64"), niter), dtype="int64")


def initial_iterates(start: TensorVariable, kept: list[int]) -> TensorVariable:
    """Return a row for each number in ``kept``: the start in the first, zeros in the others."""
    return pt.zeros((len(kept), start.shape[0]), dtype=start.dtype)[0].set(start)


def keep(
    iterates: TensorVariable | None, kept: list[int], niter: TensorVariable, x: TensorVariable
) -> TensorVariable | None:
    """Return the iterates with x, iterate ``niter``; the next one overwrites it unless kept."""
    return None if iterates is None else iterates[row_of(niter, kept)].set(x)
