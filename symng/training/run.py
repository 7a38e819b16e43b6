"""The state of a run: its steps, seconds and history, and its checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike
from pytensor.compile.sharedvalue import SharedVariable

from symng._checks import Verbatim, argument_error, warn
from symng.backends.generators import get_generator_state, is_generator, set_generator_state
from symng.graphs.config import full_repr, stable_settings
from symng.optimizers.damping import FixedDamping
from symng.training.checkpoint import load_checkpoint, save_checkpoint
from symng.training.early_stopping import BestEvaluation
from symng.training.history import History
from symng.training.info import StepInfo
from symng.training.prefetch import Prefetcher
from symng.training.sampler import Sampler
from symng.training.snapshot import Snapshot
from symng.training.step import CompiledStep


class _Given(TypedDict):
    """What a checkpoint says of the arguments of the run, to warn of other ones."""

    settings: dict[str, str]
    data: list[int]
    parts: int


class TrainingRun:
    """Count the steps and seconds of a run, keep its history, save and load all of it."""

    def __init__(
        self,
        step: CompiledStep,
        sampler: Sampler,
        path: str | os.PathLike[str] | None,
        seconds_between_saves: float,
        best_evaluation: BestEvaluation | None = None,
        prefetcher: Prefetcher | None = None,
        parts: int = 1,
    ) -> None:
        self.step, self.sampler, self.path = step, sampler, path
        self.parts = parts  # of the examples, each given by a process
        self._prefetcher = prefetcher
        self._feed = prefetcher or sampler
        self.best_evaluation = best_evaluation
        self.history, self.steps, self.seconds = History(), 0, 0.0
        self.best: tuple[float, list[np.ndarray]] | None = None  # that of the file
        self._is_of_same_data = True
        self.saved = 0  # steps in the file
        self.warned = False  # of a checkpoint that could not be written
        self._interval, self._last_save = seconds_between_saves, time.monotonic()
        others = [*step.state.values(), *step.updated]
        self._before = Snapshot(others, lambda: step.functions)
        if path is None:
            return
        self.given: _Given = {
            "settings": _settings_of(step, best_evaluation),
            "data": step.processes.combine(sampler.checksums()),
            "parts": parts,
        }
        with step.processes.together("checkpoint"):
            self._open(path)
        self._feed_state = sampler.get_state()  # after the steps that are counted

    def _open(self, path: str | os.PathLike[str]) -> None:
        """Continue from the file, if there is one."""
        if not Path(path).parent.is_dir():  # the first save would notice only after a minute
            raise argument_error(
                "checkpoint",
                "a file in a folder that exists",
                Verbatim(f"folder {str(Path(path).parent)!r}"),
                "Make it first.",
            )
        if Path(path).exists():
            if not Path(path).is_file():  # a device such as /dev/zero would be read without end
                kind = "folder" if Path(path).is_dir() else "device"
                raise argument_error(
                    "checkpoint", "the name of a file", Verbatim(f"the {kind} {os.fspath(path)!r}")
                )
            self._load(path)

    def wait_for_batches(self) -> None:
        """Wait until the batches of the next step are there; this may be cut short."""
        if self._prefetcher is not None:
            start = time.perf_counter()
            self._prefetcher.wait(self.steps)
            self.seconds += time.perf_counter() - start

    @property
    def is_at_end(self) -> bool:
        """Whether a stream, of any process, is known to hold no batch for the next step."""
        ahead = self._prefetcher
        return ahead is not None and bool(self.step.processes.agree(ahead.is_at_end))

    def remember(self) -> None:
        """Keep what a step changes beside the parameters, for `undo`."""
        self._before.take()

    def undo(self) -> None:
        """Put back what `remember` has kept, after a step that failed."""
        self._before.restore()

    def take_step(self) -> StepInfo:
        """Take one step on the next batches; parameters and state may stay on the device."""
        start = time.perf_counter()
        with self.step.processes.together("data") if self._prefetcher else nullcontext():
            batches = self._feed.next(self.steps)
            if self._prefetcher:  # shapes of later batches of a stream are not known before
                self.step.check_shapes(f"data (step {self.steps + 1})", batches[0])
        if self._prefetcher and self.step.processes.count > 1:
            self.step.check_lengths({}, *batches)
        info = self.step.run(*batches, sync=False)
        self.seconds += time.perf_counter() - start
        return info

    def count_step(self) -> None:
        """Count a step that was taken: from now on a checkpoint holds it."""
        self.steps += 1
        if self.path is not None:
            self._feed_state = self._feed.get_state()

    @property
    def comparable_history(self) -> History:
        """The history of steps on this data: that of a checkpoint on other data is left out."""
        return self.history if self._is_of_same_data else History()

    @property
    def is_due_for_saving(self) -> bool:
        """Whether there is a checkpoint that was not written for a while."""
        return self.path is not None and time.monotonic() - self._last_save >= self._interval

    def save(self, best: tuple[float, list[np.ndarray]] | None = None, final: bool = False) -> None:
        """Write the checkpoint, if any; a full disk is a warning and does not end the run.

        ``best`` is the lowest loss so far and its parameters.
        """
        if self.path is None or self.steps == self.saved:
            return
        self._last_save = time.monotonic()
        if not self.step.processes.is_first:
            return
        self.step.sync_to_host()
        feed_arrays, feed_meta = self._feed_state
        arrays = {
            name: np.asarray(v.get_value(borrow=True)) for name, v in self.variables().items()
        }
        arrays |= {f"feed_{name}": a for name, a in feed_arrays.items()}
        arrays |= {f"history_{name}": column for name, column in self.history.to_dict().items()}
        meta: dict[str, object] = {
            "kind": self._kind(),
            "steps": self.steps,
            "seconds": self.seconds,
            "feed": feed_meta,
            "generators": [get_generator_state(v) for v in self._generators],
        }
        meta |= self.given
        if best is not None:
            meta["lowest"] = best[0]
            arrays |= {f"best_{i}": value for i, value in enumerate(best[1])}
        if self.best_evaluation is not None:
            kept, meta["evaluation"] = self.best_evaluation.get_state()
            arrays |= {f"evaluation_{name}": value for name, value in kept.items()}
        try:
            save_checkpoint(self.path, arrays, meta)
            self.saved = self.steps
        except OSError as error:
            reason = error.strerror or str(error)
            if final:
                lost, file = self.steps - self.saved, os.fspath(self.path)
                text = f"checkpoint: the last {lost} steps are not in {file!r}: {reason}."
                warn(text, RuntimeWarning)
            elif not self.warned:
                warn(f"checkpoint: {reason}. The run continues and tries again.", RuntimeWarning)
                self.warned = True

    def _load(self, path: str | os.PathLike[str]) -> None:
        """Continue from the checkpoint, if it belongs to this model, optimizer and data."""
        try:
            arrays, meta = load_checkpoint(path)
        except ValueError as error:
            raise ValueError(f"checkpoint: {str(error).removeprefix('path: ')}") from error
        meta.setdefault("parts", 1)
        if meta["parts"] != self.parts:  # neither data nor their order can be compared
            meta["data"] = self.given["data"]
            arrays = {n: a for n, a in arrays.items() if not n.startswith("feed_")}
        variables = self.variables()
        given = {name: _layout(v.get_value(borrow=True)) for name, v in variables.items()}
        given |= {
            f"feed_{name}": _layout(array)
            for name, array in self.sampler.get_state()[0].items()
            if meta["parts"] == self.parts
        }
        if "generators" not in meta:  # a file of an earlier version, which had none
            for name in [name for name in variables if name.startswith("updated_")]:
                del given[name], variables[name]
        saved = {
            name: _layout(array)
            for name, array in arrays.items()
            if not name.startswith(("history_", "best_", "evaluation_"))
        }
        kind = str(meta.get("kind", "not written by minimize"))
        if differences := _differences({"run": self._kind()}, {"run": kind}) or _differences(
            given, saved
        ):
            raise argument_error(
                "checkpoint",
                f"one of the same model, optimizer, data and batches ({self._kind()})",
                Verbatim(f"{os.fspath(path)!r} of others: {differences[0]}"),
                "Give another path, or delete the file to start again.",
            )
        self._warn_of_changes(meta)
        for name, variable in variables.items():
            variable.set_value(arrays[name])
        # A fixed damping is a setting, not a state: that of the given optimizer holds.
        if isinstance(rule := self.step.optimizer.damping, FixedDamping):
            variables["state_damping"].set_value(rule.start)
        for generator, state in zip(self._generators, meta.get("generators", ()), strict=False):
            if state is not None:
                set_generator_state(generator, state)
        if meta["parts"] == self.parts:
            self.sampler.set_state(_without_prefix(arrays, "feed_"), meta["feed"])
        else:
            self.sampler.begin_epoch(meta["feed"])
        self.history = History.from_dict(_without_prefix(arrays, "history_"))
        self._is_of_same_data = meta.get("data", self.given["data"]) == self.given["data"]
        # Losses on other data cannot be compared.
        if "lowest" in meta and meta["data"] == self.given["data"]:
            self.best = (
                meta["lowest"],
                [arrays[f"best_{i}"] for i in range(len(self.step.objective.params))],
            )
        if self.best_evaluation is not None and "evaluation" in meta:
            kept = _without_prefix(arrays, "evaluation_")
            self.best_evaluation.set_state(kept, meta["evaluation"])
        self.steps, self.seconds, self.saved = meta["steps"], meta["seconds"], meta["steps"]

    def _warn_of_changes(self, meta: Mapping[str, Any]) -> None:
        """Warn of settings and data that differ from those of the file, perhaps on purpose."""
        differences = _differences(
            self.given["settings"], meta.get("settings", self.given["settings"])
        )
        if meta.get("data", self.given["data"]) != self.given["data"]:
            differences.append("data of the same shapes but with other values")
        if differences:
            warn(
                f"checkpoint: expected the settings and data of {os.fspath(self.path or '')!r}, "
                f"got {'; '.join(differences)}. The run continues with what is given now; start it "
                "again with another path if this is not intended."
            )

    def variables(self) -> dict[str, SharedVariable]:
        """Return every shared variable that a run changes, by its name in the checkpoint."""
        named: dict[str, SharedVariable] = {
            f"param_{i}": p for i, p in enumerate(self.step.objective.params)
        }
        named |= {f"state_{name}": v for name, v in self.step.state.items()}
        others = [v for v in self.step.updated if not is_generator(v)]
        return named | {f"updated_{i}": v for i, v in enumerate(others)}

    @property
    def _generators(self) -> list[SharedVariable]:
        """The random generators that a step advances."""
        return [v for v in self.step.updated if is_generator(v)]

    def _kind(self) -> str:
        """Describe what the checkpoint belongs to, apart from the shapes of its arrays."""
        return f"{type(self.step.optimizer).__name__}, {self.sampler.describe(self.parts)}"


def _settings_of(step: CompiledStep, best: BestEvaluation | None) -> dict[str, str]:
    """Return the settings of the optimizer, of the average and of early stopping."""
    settings = stable_settings(step.optimizer)
    if step.average_decay is not None:
        settings["average_decay"] = repr(float(step.average_decay))
    if best is not None:
        settings["early_stopping"] = full_repr(best.rule)
    return settings


def _layout(array: ArrayLike) -> str:
    """Return the shape and dtype of an array as text."""
    return f"{np.shape(array)} {np.asarray(array).dtype.name}"


def _differences(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    """Return the entries that differ, each with what is given and what the file has."""
    names = dict.fromkeys([*now, *then])
    return [
        f"{name} {now.get(name, 'missing')} where the file has {then.get(name, 'none')}"
        for name in names
        if now.get(name) != then.get(name)
    ]


def _without_prefix(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names have a prefix, under their names without it."""
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
