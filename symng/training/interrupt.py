"""Signals that wait until a step is taken and recorded."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


class Interrupts:
    """Let Ctrl-C, SIGTERM and SIGHUP end a run between steps, with its result.

    A context manager for a whole run. Signals are counted: the first ends the run once the current
    step is recorded, the second cuts that step short, the third stops everything at once. Code says
    how many signals it lets pass by the context that it runs in: `immediate` none, `stepping` one,
    all other code two.

    Outside of the main thread this does nothing. Signals for which the program has a handler of its
    own, or that it ignores, keep it; the previous handlers come back at the end. A run within
    another one, in its callback, leaves the signals to that one.

    Attributes
    ----------
    count : int
        How many signals came.
    """

    def __init__(self) -> None:
        self.count = 0
        self._patience = _ALL  # signals that are only counted
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        with suppress(ValueError):  # not the main thread
            for name, default in _DEFAULTS.items():
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is not None and signal.getsignal(number) is default:
                    signal.signal(number, self._handle)
                    self._before[number] = default
        self._patience = _WHILE_RECORDING
        return self

    def __exit__(self, *error: object) -> None:
        self._patience = _ALL
        self._restore()

    def _restore(self) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def must_stop(self) -> bool:
        """Whether everything has to stop at once, without a last checkpoint."""
        return self.count > _WHILE_RECORDING

    def raise_if_requested(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self.count:
            raise KeyboardInterrupt

    def immediate(self, *, own: bool = True) -> _Patience:
        """Return a context that the first signal cuts short.

        With ``own=False`` it runs the user's code, whose exceptions are passed on as they are.
        """
        return _Patience(self, 0, own)

    def stepping(self) -> _Patience:
        """Return a context that the second signal cuts short."""
        return _Patience(self, _WHILE_STEPPING, True)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > self._patience:
            if self.must_stop:  # also on the way into `__exit__`, which then has nothing to do
                self._restore()
            raise KeyboardInterrupt


_DEFAULTS = {
    "SIGINT": signal.default_int_handler,
    "SIGTERM": signal.SIG_DFL,
    "SIGHUP": signal.SIG_DFL,
}

# How many signals are only counted.
_WHILE_STEPPING, _WHILE_RECORDING, _ALL = 1, 2, 2**31


class _Patience:
    """A context in which so many signals are only counted.

    Libraries turn a KeyboardInterrupt that they do not expect into other exceptions: zipfile into a
    ValueError, Numba into a SystemError. With ``translates`` it is a KeyboardInterrupt again at the
    end of the context.
    """

    def __init__(self, interrupts: Interrupts, patience: int, translates: bool) -> None:
        self._interrupts, self._translates = interrupts, translates
        self._patience, self._before = patience, interrupts._patience

    def __enter__(self) -> None:
        self._interrupts._patience = self._patience
        if self._interrupts.count > self._patience:
            self._interrupts._patience = self._before
            raise KeyboardInterrupt

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._interrupts._patience = self._before
        if self._translates and isinstance(error, Exception) and _hides_interrupt(error):
            raise KeyboardInterrupt from error


def _hides_interrupt(error: BaseException) -> bool:
    """Return whether an exception was raised because of a KeyboardInterrupt."""
    now: BaseException | None = error
    seen: set[int] = set()
    while now is not None and id(now) not in seen:
        if isinstance(now, KeyboardInterrupt) or "KeyboardInterrupt" in str(now):
            return True
        seen.add(id(now))
        now = now.__cause__ or now.__context__
    return False
