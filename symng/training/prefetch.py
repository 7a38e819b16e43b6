"""Take the batches of the next step in a thread, while the current step runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from symng.training.sampler import Sampler, State, StepArrays
from symng.training.streams import StreamEndError

_Item = tuple[StepArrays, State] | BaseException


class Prefetcher:
    """Draw batches ahead of the steps that take them.

    The order of the batches is that of the sampler, and a checkpoint holds the state after the last
    batch that a step has taken. One batch waits at a time, and one is being made.

    ``place`` brings the arrays of a step to the device; ``stop`` is the number of the first step
    for which nothing is drawn, so that no more of a stream is read than is used; None if the run
    has no such limit.
    """

    def __init__(
        self,
        sampler: Sampler,
        place: Callable[[StepArrays], StepArrays],
        stop: int | None,
    ) -> None:
        self._sampler, self._place, self._stop = sampler, place, stop
        self._items: queue.Queue[_Item] = queue.Queue(maxsize=1)
        self._waiting: _Item | None = None
        self._state: State | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def wait(self, step: int) -> None:
        """Wait until the batches of a step are there. Interrupted here, none is lost."""
        if self._thread is None:
            self._state = self._sampler.get_state()
            self._thread = threading.Thread(
                target=self._draw, args=(step,), name="symng-prefetch", daemon=True
            )
            self._thread.start()
        if self._waiting is None:
            self._waiting = self._items.get()

    @property
    def is_at_end(self) -> bool:
        """Whether a step has waited for batches, and there are none."""
        return isinstance(self._waiting, StreamEndError)

    def next(self, step: int) -> StepArrays:
        """Return the batches of a step; raise what the data raised."""
        self.wait(step)
        item, self._waiting = self._waiting, None
        if isinstance(item, BaseException):
            raise item
        assert item is not None
        batches, self._state = item
        return batches

    def get_state(self) -> State:
        """Return the state of the sampler after the batches that were returned last."""
        return self._sampler.get_state() if self._state is None else self._state

    def close(self) -> None:
        """Stop drawing. A source that waits for its own data is left behind."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _draw(self, step: int) -> None:
        """Draw until the run ends or the data raise an exception."""
        while not self._closed.is_set() and step != self._stop:
            try:
                batches = self._sampler.next(step)
                item: _Item = self._place(batches), self._sampler.get_state()
            except BaseException as error:
                item = error
            self._put(item)
            if isinstance(item, BaseException):
                return
            step += 1

    def _put(self, item: _Item) -> None:
        """Hand over an item once there is room for it, unless the run has ended."""
        while not self._closed.is_set():
            try:
                self._items.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
