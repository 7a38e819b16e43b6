"""Tell whoever waits which stage compilation is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_show: ContextVar[Callable[[str], None] | None] = ContextVar("show", default=None)


@contextmanager
def stages_shown(show: Callable[[str], None]) -> Iterator[None]:
    """Call ``show`` with the name of each stage that begins while the context is open."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)


def begin_stage(name: str) -> None:
    """Say that a stage of compilation begins."""
    if (show := _show.get()) is not None:
        show(name)
