"""Build and compile graphs in one thread at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytensor

_lock = threading.RLock()


@contextmanager
def building(floatx: str | None = None) -> Iterator[None]:
    """Let no other thread build or compile while the context is open; also a decorator.

    PyTensor changes global flags while it builds and compiles, and then restores them. Two threads
    at once can leave the flags of one in place: no C compiler, or another floatX. Its caches are
    not thread-safe either.

    ``floatx`` is PyTensor's floatX meanwhile. For derivatives, give the dtype of the parameters: in
    a scan they have zeros of floatX where nothing is connected, float64 in a float32 model.
    """
    with _lock, nullcontext() if floatx is None else pytensor.config.change_flags(floatX=floatx):
        yield


def _renew() -> None:
    """Make a new lock in a child process: a thread that holds the old one does not exist there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
