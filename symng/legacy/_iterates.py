"""The numbers of the iterates that ``theano-hf`` chooses from."""

from __future__ import annotations

import math

# Martens's growth of the numbers of the iterates that are kept.
_GROWTH = 1.3
# The original keeps all of the first nine: it takes each power for the next iteration. The powers
# of this growth include those, and all of 1.3's.
GROWTH_KEPT = math.sqrt(_GROWTH)


def candidates(limit: int) -> list[int]:
    """Return the numbers of the iterates to choose from: 1 to 9, and ceil(1.3^j) after that."""
    numbers: list[int] = []
    for number in range(1, limit + 1):
        if number >= math.ceil(_GROWTH ** len(numbers)):
            numbers.append(number)
    return numbers


def kept(limit: int) -> list[int]:
    """Return the numbers of the iterates that `symng.CG` keeps, row by row."""
    powers = range(math.ceil(math.log(limit) / math.log(GROWTH_KEPT)) + 1)
    numbers = {math.ceil(GROWTH_KEPT**j) for j in powers}
    return [*sorted(number for number in numbers if number < limit), limit]
