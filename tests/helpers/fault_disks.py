"""Disks that fail or are slow: the calls that reach them raise what the system would."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

CALLS = ("fsync", "replace", "open", "unlink", "link", "rename")
ERRORS = (errno.EIO, errno.EDQUOT, errno.ENOSPC, errno.ESTALE, errno.EROFS)


@contextlib.contextmanager
def failing(rng: random.Random, part: float, delay: float, under: str) -> Iterator[list[str]]:
    """Let a part of the calls on paths under a folder fail, and others take their time."""
    before = {name: getattr(os, name) for name in CALLS}
    failed: list[str] = []

    def on(name: str) -> Callable[..., Any]:
        def call(target: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(target, int) or str(os.fspath(target)).startswith(under):
                time.sleep(delay * rng.random())
                if rng.random() < part:
                    number = rng.choice(ERRORS)
                    failed.append(name)
                    raise OSError(number, os.strerror(number))
            return before[name](target, *arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, on(name))
    try:
        yield failed
    finally:
        for name, function in before.items():
            setattr(os, name, function)
