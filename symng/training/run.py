"""The state of a run: its steps, seconds and history, and its checkpoint."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from symng._checks import Words, problem
from symng.checkpoint import load_checkpoint, save_checkpoint
from symng.damping import FixedDamping
from symng.history import History
from symng.training.batches import Feed
from symng.training.step import CompiledStep


class Run:
    """Count the steps and seconds of a run, keep its history, save and load all of it."""

    def __init__(self, step: CompiledStep, feed: Feed, path: str | os.PathLike[str] | None) -> None:
        self.step, self.feed, self.path = step, feed, path
        self.history, self.steps, self.seconds = History(), 0, 0.0
        self.saved, self.warned = 0, False  # steps in the file, and whether a failed writing was told
        if path is None:
            return
        if not Path(path).parent.is_dir():  # it would be found out only after the first minutes
            raise problem("checkpoint", "a file in a folder that exists", Words(f"folder {str(Path(path).parent)!r}"),
                          "Make it first.")  # fmt: skip
        if Path(path).is_dir():
            raise problem("checkpoint", "the name of a file", Words(f"the folder {os.fspath(path)!r}"))
        if os.path.exists(path):
            self._load(path)

    def save(self, final: bool = False) -> None:
        """Write the checkpoint, if there is to be one; a full disk is warned of and does not end the run."""
        if self.path is None or self.steps == self.saved:
            return
        feed_arrays, feed_meta = self.feed.get_state()
        arrays = {name: np.asarray(v.get_value(borrow=True)) for name, v in self._variables().items()}
        arrays |= {f"feed_{name}": a for name, a in feed_arrays.items()}
        arrays |= {f"history_{name}": column for name, column in self.history.to_dict().items()}
        meta = {"kind": self._kind(), "steps": self.steps, "seconds": self.seconds, "feed": feed_meta}
        try:
            save_checkpoint(self.path, arrays, meta)
            self.saved = self.steps
        except OSError as error:
            reason = error.strerror or str(error)
            if final:
                lost = f"the last {self.steps - self.saved} steps are not in {os.fspath(self.path)!r}"
                warnings.warn(f"checkpoint: {lost}: {reason}.", RuntimeWarning, stacklevel=3)
            elif not self.warned:
                warnings.warn(f"checkpoint: {reason}. The run goes on and tries again.", RuntimeWarning, stacklevel=3)
                self.warned = True

    def _load(self, path: str | os.PathLike[str]) -> None:
        """Go on from the checkpoint."""
        try:
            arrays, meta = load_checkpoint(path)
        except ValueError as error:
            raise ValueError(f"checkpoint: {str(error).removeprefix('path: ')}") from error
        variables = self._variables()
        expected = {name: _layout(v.get_value(borrow=True)) for name, v in variables.items()}
        expected |= {f"feed_{name}": _layout(array) for name, array in self.feed.get_state()[0].items()}
        found = {name: _layout(array) for name, array in arrays.items() if not name.startswith("history_")}
        if found != expected or meta.get("kind") != self._kind():
            raise problem(
                "checkpoint", f"one of the same model, optimizer, data and batches ({self._kind()})",
                Words(f"{os.fspath(path)!r} of others ({meta.get('kind', 'not written by minimize')})"),
                "Give another path, or delete the file to start anew.",
            )  # fmt: skip
        for name, variable in variables.items():
            variable.set_value(arrays[name])
        rule = getattr(self.step.optimizer, "damping", None)
        if isinstance(rule, FixedDamping):  # a setting, not a state: the optimizer given now has the say
            variables["state_damping"].set_value(rule.start)
        self.feed.set_state(_without_prefix(arrays, "feed_"), meta["feed"])
        self.history = History.from_dict(_without_prefix(arrays, "history_"))
        self.steps, self.seconds, self.saved = meta["steps"], meta["seconds"], meta["steps"]

    def _variables(self) -> dict[str, Any]:
        """Return every shared variable that a run changes, by its name in the checkpoint."""
        named = {f"param_{i}": p for i, p in enumerate(self.step.objective.params)}
        return named | {f"state_{name}": v for name, v in self.step.state.items()}

    def _kind(self) -> str:
        """Name what the checkpoint belongs to, beside the shapes of its arrays."""
        feed = self.feed
        sizes = f"batch {feed.gradient.size} of {feed.gradient.count}"
        metric = "" if feed.metric_batch == "same" else f" of {feed.metric_size}"
        return (
            f"{type(self.step.optimizer).__name__}, {sizes}, metric batch {feed.metric_batch!r}{metric}, "
            f"search batch {feed.search_batch!r}"
        )


def _layout(array: Any) -> tuple[tuple[int, ...], str]:
    """Return the shape and dtype of an array."""
    return np.shape(array), np.asarray(array).dtype.name


def _without_prefix(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names have a prefix, under their names without it."""
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


@contextmanager
def whole_steps() -> Iterator[list[bool]]:
    """Hold back a Ctrl-C until the block has ended, so that no step is taken by half; a second one passes.

    Hands out a list that holds True once there was one. Does nothing outside of the main thread, or where the program
    handles Ctrl-C in a way of its own.
    """
    asked: list[bool] = []

    def handle(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    try:
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread
        ours = False
    try:
        yield asked
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
