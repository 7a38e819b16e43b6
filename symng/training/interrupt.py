"""Ctrl-C that waits until a step is taken and recorded."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class DeferredInterrupt:
    """Defer the first Ctrl-C until the block ends; a second one interrupts at once.

    Take a step and record it in the same block, so that no step is lost. Outside of the main
    thread, and where the program has a handler of its own for Ctrl-C, this does nothing.

    Attributes
    ----------
    requested : bool
        Whether a Ctrl-C came and was deferred.

    Examples
    --------
    >>> import symng
    >>> steps = 0
    >>> while steps < 3:
    ...     with symng.DeferredInterrupt() as interrupt:
    ...         steps += 1
    ...     interrupt.raise_if_requested()
    >>> steps, interrupt.requested
    (3, False)
    """

    def __init__(self) -> None:
        self.requested = False
        self._immediate = self._installed = False

    def __enter__(self) -> DeferredInterrupt:
        try:
            self._installed = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if self._installed:
                signal.signal(signal.SIGINT, self._handle)
        except ValueError:  # not the main thread
            self._installed = False
        return self

    def __exit__(self, *error: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def raise_if_requested(self) -> None:
        """Raise the KeyboardInterrupt that was deferred, if any."""
        if self.requested:
            raise KeyboardInterrupt

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Let Ctrl-C interrupt at once, in code that may take long and may be cut short."""
        self._immediate = True
        try:
            self.raise_if_requested()
            yield
        finally:
            self._immediate = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or self._immediate:
            raise KeyboardInterrupt
        self.requested = True
