"""The state of a run: its steps, seconds and history, and its checkpoint."""

from __future__ import annotations

import time
import zlib
from contextlib import nullcontext
from typing import Any

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable

from symng._checks import warn
from symng._files import DamagedFileError
from symng.backends import to_numpy
from symng.backends.generators import get_generator_state, is_generator, set_generator_state
from symng.backends.host import checksum
from symng.graphs.config import full_repr, stable_settings
from symng.optimizers.damping import FixedDamping
from symng.training.checkpoint_file import CheckpointFile
from symng.training.early_stopping import BestEvaluation
from symng.training.history import History
from symng.training.identity import describe_model, describe_programs, other_shared
from symng.training.info import StepInfo
from symng.training.prefetch import Prefetcher
from symng.training.sampler import Sampler
from symng.training.saved_run import Expected, SavedRun, layout, not_finite, verify
from symng.training.snapshot import Snapshot
from symng.training.step import CompiledStep

_PART = 0.05  # of the time of a run, at most, is for checkpoints that are due by time

Best = tuple[float, list[np.ndarray]]
"""The lowest loss so far and its parameters."""


class TrainingRun:
    """Count the steps and seconds of a run, keep its history, save and load all of it.

    A checkpoint is read and verified here, and takes effect with `resume`.
    """

    def __init__(
        self,
        step: CompiledStep,
        sampler: Sampler,
        file: CheckpointFile,
        best_evaluation: BestEvaluation | None = None,
        prefetcher: Prefetcher | None = None,
        parts: int = 1,
    ) -> None:
        self.step, self.sampler, self.file = step, sampler, file
        self.parts = parts  # of the examples, each given by a process
        self._prefetcher = prefetcher
        self._feed = prefetcher or sampler
        self.best_evaluation = best_evaluation
        self.history, self.steps, self.seconds = History(), 0, 0.0
        self.best: Best | None = None  # that of the file
        self._is_of_same_data = True
        self.saved = 0  # steps in the file
        self._has_warned = False  # of a checkpoint that could not be written
        self._last_save = time.monotonic()
        self._writing = 0.0  # seconds that the last write has taken
        self._before = Snapshot([*step.state.values(), *step.updated], lambda: step.functions)
        self._loaded: SavedRun | None = None
        if file.path is None:
            return
        known = [*self.variables().values(), *self._samples.values(), *self._generators]
        known += step.hyperparameters.values()
        self._others = other_shared(step.objective, dict.fromkeys(known))
        self._given: dict[str, Any] = {
            "settings": _settings_of(step, best_evaluation),
            "data": step.processes.combine(sampler.checksums()),
            "parts": parts,
            "model": describe_model(step.objective),
            "programs": describe_programs(step),
            "shared": self._checksums(),
        }
        with step.processes.together("checkpoint"):
            if step.processes.is_first:
                file.open()
            self._loaded = self._load()
            if self._loaded is not None:
                self._continue_feed(self._loaded)
            self._feed_state = sampler.get_state()  # after the steps that are counted
            if step.processes.is_first:
                self._warn_of_generators()
                file.try_to_write(*self._contents(None))

    def resume(self) -> None:
        """Continue from the checkpoint that was read, if there was one."""
        saved = self._loaded
        if saved is None:
            return
        variables = self.variables()
        for name, value in saved.variables.items():
            variables[name].set_value(value)
        for name, value in saved.samples.items():
            self._samples[name].set_value(value)
        # A fixed damping is a setting, not a state: that of the given optimizer holds.
        if isinstance(rule := self.step.optimizer.damping, FixedDamping):
            variables["state_damping"].set_value(rule.start)
        for generator, state in zip(self._generators, saved.generators, strict=False):
            if state is not None:
                set_generator_state(generator, state)
        if self.best_evaluation is not None and saved.evaluation is not None:
            self.best_evaluation.set_state(*saved.evaluation)
        self.history, self.best = saved.history, saved.best
        self._is_of_same_data = saved.is_of_same_data
        self.steps, self.seconds, self.saved = saved.steps, saved.seconds, saved.steps
        self._loaded = None

    def _continue_feed(self, saved: SavedRun) -> None:
        """Continue with the batches after those of the file; a stream is read up to there."""
        if saved.has_feed:
            self.sampler.set_state(*saved.feed)
        else:
            self.sampler.begin_epoch(saved.feed[1])

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
        """Keep what a step changes besides the parameters, for `undo`."""
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
        if self.file.path is not None:
            self._feed_state = self._feed.get_state()

    @property
    def comparable_history(self) -> History:
        """The history of steps on this data: that of a checkpoint on other data is left out."""
        return self.history if self._is_of_same_data else History()

    @property
    def is_due_for_saving(self) -> bool:
        """Whether there is a checkpoint that was not written for a while, or for so many steps."""
        settings = self.file.settings
        if self.file.path is None:
            return False
        by_count = settings.every is not None and self.steps % settings.every == 0
        wait = max(settings.seconds, self._writing / _PART) if settings.seconds else 0.0
        return by_count or time.monotonic() - self._last_save >= wait

    def save(self, best: Best | None = None, final: bool = False) -> None:
        """Write the checkpoint, if any; a full disk is a warning and does not end the run.

        ``best`` is the lowest loss so far and its parameters.
        """
        if self.file.path is None or self.steps == self.saved:
            return
        self._last_save = time.monotonic()
        if not self.step.processes.is_first:
            return
        self.step.sync_to_host()
        try:
            self.file.write(*self._contents(best), self.history)
            self.saved, self._has_warned = self.steps, False
        except OSError as error:
            reason = error.strerror or str(error)
            if final:
                lost, file = self.steps - self.saved, str(self.file.path)
                text = f"checkpoint: the last {lost} steps are not in {file!r}: {reason}."
                warn(text, RuntimeWarning)
            elif not self._has_warned:
                warn(f"checkpoint: {reason}. The run continues and tries again.", RuntimeWarning)
                self._has_warned = True
        finally:
            self._writing = time.monotonic() - self._last_save

    def _contents(self, best: Best | None) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        """Return the arrays and the text of a checkpoint, without the history."""
        feed_arrays, feed_meta = self._feed_state
        arrays = {n: to_numpy(v.get_value(borrow=True)) for n, v in self.variables().items()}
        meta: dict[str, object] = {
            "kind": self._kind(),
            "steps": self.steps,
            "seconds": self.seconds,
            "feed": feed_meta,
            "generators": [get_generator_state(v) for v in self._generators],
            "not_finite": not_finite(arrays),
            **self._given,
            "shared": self._checksums(),
        }
        if "state_step" in arrays:
            meta["state_step"] = int(arrays["state_step"])
        arrays |= {n: to_numpy(v.get_value(borrow=True)) for n, v in self._samples.items()}
        arrays |= {f"feed_{name}": a for name, a in feed_arrays.items()}
        if best is not None:
            meta["lowest"] = best[0]
            arrays |= {f"best_{i}": value for i, value in enumerate(best[1])}
        if self.best_evaluation is not None:
            kept, meta["evaluation"] = self.best_evaluation.get_state()
            arrays |= {f"evaluation_{name}": value for name, value in kept.items()}
        return arrays, meta

    def _load(self) -> SavedRun | None:
        """Return the newest checkpoint that is not damaged, if it is one of this run."""
        variables = {n: layout(v.get_value(borrow=True)) for n, v in self.variables().items()}
        expected = Expected(
            kind=self._kind(),
            variables=variables,
            feed={n: layout(a) for n, a in self.sampler.get_state()[0].items()},
            params=[variables[f"param_{i}"] for i in range(len(self.step.objective.params))],
            samples={n: v.type for n, v in self._samples.items()},
            given=self._given,
            check_feed=self.sampler.check_state,
        )
        damaged = {}
        for path in self.file.candidates():
            try:
                saved = verify(path, *self.file.read(path), expected)
            except DamagedFileError as error:
                damaged[path] = error
                continue
            self.file.continue_from(path, damaged)
            if saved.changes:
                warn(
                    f"checkpoint: expected the settings and data of {str(path)!r}, got "
                    f"{'; '.join(saved.changes)}. The run continues with what is given now; start "
                    "it again with another path if this is not intended."
                )
            return saved
        if damaged:
            raise next(iter(damaged.values()))
        return None

    def _warn_of_generators(self) -> None:
        """Warn of random generators whose state has no place in a file."""
        for variable in self._generators:
            if get_generator_state(variable) is None:
                kind = type(variable.get_value(borrow=True).bit_generator).__name__
                warn(
                    f"checkpoint: the state of the random generator {variable} of kind {kind} "
                    "cannot be stored: a resumed run will draw other numbers. Make it with "
                    "np.random.default_rng()."
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
    def _samples(self) -> dict[str, SharedVariable]:
        """Shared samples of models given by energies, which the user sets, by name."""
        samples = [getattr(t, "shared_samples", None) for t in self.step.objective.terms]
        known = self.variables().values()
        return {f"sample_{i}": v for i, v in enumerate(samples) if v is not None and v not in known}

    @property
    def _generators(self) -> list[SharedVariable]:
        """The random generators that a step advances."""
        return [v for v in self.step.updated if is_generator(v)]

    def _checksums(self) -> list[int]:
        """Return checksums of the shared variables that a step reads and does not update."""
        return [_checksum_of(v) for v in self._others]

    def _kind(self) -> str:
        """Return in words what the checkpoint belongs to, apart from the shapes of its arrays."""
        return f"{type(self.step.optimizer).__name__}, {self.sampler.describe(self.parts)}"


def _checksum_of(variable: SharedVariable) -> int:
    """Return a checksum of the value of a variable; 0 where it is neither array nor generator."""
    if is_generator(variable):
        return zlib.crc32(repr(get_generator_state(variable)).encode())
    value = to_numpy(variable.get_value(borrow=True))
    return checksum(value) if isinstance(value, np.ndarray) else 0


def _settings_of(step: CompiledStep, best: BestEvaluation | None) -> dict[str, str]:
    """Return the settings of the optimizer, of the average and of early stopping."""
    settings = stable_settings(step.optimizer)
    if step.average_decay is not None:
        settings["average_decay"] = repr(float(step.average_decay))
    if best is not None:
        settings["early_stopping"] = full_repr(best.rule)
    return settings
