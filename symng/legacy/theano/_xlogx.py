"""``theano.tensor.xlogx``: x log(x) and x log(y), zero where x is zero."""

from __future__ import annotations

from typing import Any

from pytensor.tensor.special import xlogy

__all__ = ["xlogx", "xlogy0"]


def xlogx(x: Any) -> Any:
    """Return x log(x), 0 where x is 0."""
    return xlogy(x, x)


def xlogy0(x: Any, y: Any) -> Any:
    """Return x log(y), 0 where x is 0."""
    return xlogy(x, y)
