"""Data and training runs of figure2.py: each is one file, made by one call in any process."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytensor.tensor as pt
from workers import save

import symng
from symng.datasets import LabeledImages, deformed_digits, digits
from symng.models import categorical_cross_entropy_with_logits, mlp

METHODS = {"sgd": "SGD", "ngd": "NGD"}
PIXELS, CLASSES = 1024, 10
_AT_ONCE = 2000  # images that are made, and predicted, at a time
KEEP_SECONDS = 60.0  # from one writing of an unfinished run to the next


class FolderError(ValueError):
    """A folder holds files of other settings."""


@dataclass(frozen=True)
class Settings:
    """The settings that results depend on; all runs of a folder share them."""

    samples: int
    segments: int
    hidden: int
    batch: int
    damping: float
    iterations: int
    rtol: float
    held_out: int
    validation: int
    seed: int
    digits: str  # the `fingerprint` of the base digits
    mode: str | None
    activation: str = "sigmoid"

    @property
    def part_size(self) -> int:
        """Examples of a segment; all segments together are half of the samples."""
        return self.samples // (2 * self.segments)


@cache
def base_digits(path: str | None) -> LabeledImages:
    """Return the digits that are deformed."""
    return digits(path)


def fingerprint(path: str | None) -> str:
    """Return the size and a checksum of a set of base digits, whichever file it is in."""
    base = base_digits(path)
    arrays = [base.train_images, base.train_labels, base.test_images, base.test_labels]
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
    return f"{len(arrays[0])}+{len(arrays[2])} digits, checksum {checksum:08x}"


# Data


@dataclass(frozen=True, order=True)
class Part:
    """A stretch of examples that is made and read as one file.

    Segments 1, 2, ... are those of the first half of the stream, followed by as many of the second.
    Replica 0 is the base stream, a higher one replaces the segment. Segment 0 is not in the stream:
    it is made from held-out digits, to compare runs on (replica 0) and for the validation error
    (replica 1).
    """

    segment: int
    replica: int

    def path(self, folder: Path) -> Path:
        """Return the file of the part."""
        names = {(0, 0): "held-out", (0, 1): "validation"}
        name = names.get((self.segment, self.replica), f"segment-{self.segment:02}-{self.replica}")
        return folder / "data" / f"{name}.npz"

    def size(self, settings: Settings) -> int:
        """Return the number of examples."""
        if self.segment:
            return settings.part_size
        return settings.validation if self.replica else settings.held_out

    def make(self, settings: Settings, folder: Path, source: str | None) -> dict[str, Any]:
        """Make the examples, write them with images from 0 to 255, and return the notes."""
        base = base_digits(source)
        pool = base if self.segment else (base.test_images, base.test_labels)
        count = self.size(settings)
        images, labels = np.empty((count, PIXELS), "uint8"), np.empty(count, "uint8")
        start_time = time.perf_counter()
        for start in range(0, count, _AT_ONCE):
            here = slice(start, min(start + _AT_ONCE, count))
            made, labels[here] = deformed_digits(
                pool,
                start,
                here.stop,
                segment=self.segment,
                replica=self.replica,
                seed=settings.seed,
            )
            images[here] = np.rint(255 * made)
        meta = self._meta(settings) | {"seconds": time.perf_counter() - start_time}
        save(self.path(folder), {"images": images, "labels": labels}, meta)
        return meta

    def load(
        self, settings: Settings, folder: Path, source: str | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Return images, labels and notes; a damaged or missing file is made again."""
        path = self.path(folder)
        try:
            arrays, meta = symng.load_checkpoint(path)
        except (ValueError, FileNotFoundError) as error:
            print(f"{path} is made again: {error}", file=sys.stderr, flush=True)
            self.make(settings, folder, source)
            arrays, meta = symng.load_checkpoint(path)
        refuse_others(path, meta, self._meta(settings))
        return arrays["images"], arrays["labels"], meta

    def _meta(self, settings: Settings) -> dict[str, Any]:
        return {
            "segment": self.segment,
            "replica": self.replica,
            "size": self.size(settings),
            "seed": settings.seed,
            "digits": settings.digits,
        }


def refuse_others(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a file that was made with other settings."""
    other = [
        f"{name} {found.get(name)!r}, not {value!r}"
        for name, value in expected.items()
        if found.get(name) != value
    ]
    if other:
        raise FolderError(
            f"--out: {path} was made with {'; '.join(other)}. Give another folder, or empty this "
            "one."
        )


def stream_of(settings: Settings, segment: int, replica: int) -> list[Part]:
    """Return the parts, in order, of the training stream in which a segment is replaced."""
    return [Part(i, replica if i == segment else 0) for i in range(1, 2 * settings.segments + 1)]


def batches(
    parts: Iterable[tuple[np.ndarray, np.ndarray]], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut the examples of the parts, in their order, into batches of images and of targets.

    A batch may span parts. Examples that do not fill a last batch are left out.
    """
    left = np.empty((0, PIXELS), "uint8"), np.empty(0, "uint8")
    for images, labels in parts:
        start = 0
        if len(left[0]):  # examples of the part before
            start = min(size - len(left[0]), len(images))
            left = tuple(
                np.concatenate([old, new[:start]])
                for old, new in zip(left, (images, labels), strict=True)
            )
            if len(left[0]) < size:
                continue
            yield _batch(*left)
        full = start + (len(images) - start) // size * size
        for first in range(start, full, size):
            yield _batch(images[first : first + size], labels[first : first + size])
        left = images[full:].copy(), labels[full:].copy()  # copies: a part may be large


def _batch(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images as gray values and the targets."""
    return gray(images), np.eye(CLASSES, dtype="float32")[labels]


def gray(images: np.ndarray) -> np.ndarray:
    """Return whole numbers from 0 to 255 as gray values from 0 to 1."""
    return images * np.float32(1 / 255)


# Runs


class Trainer:
    """Train the network any number of times from the same first weights; compiles once."""

    def __init__(self, method: str, settings: Settings) -> None:
        self.settings = settings
        x, t = pt.matrix("x", dtype="float32"), pt.matrix("t", dtype="float32")
        sizes = [PIXELS, settings.hidden, CLASSES]
        model = mlp(
            x, sizes, settings.activation, output="softmax", seed=settings.seed, dtype="float32"
        )
        loss = categorical_cross_entropy_with_logits(model.preactivation, t).mean()
        objective = symng.Objective(
            loss, output=model.output, params=model.params, inputs=[x], targets=[t]
        )
        self.params, self.first = model.params, [p.get_value() for p in model.params]
        self.step = symng.compile_step(
            objective, make_optimizer(method, settings), mode=settings.mode
        )
        self.first_state = {
            name: variable.get_value() for name, variable in self.step.state.items()
        }
        blank = (
            np.zeros((settings.batch, PIXELS), "float32"),
            np.eye(CLASSES, dtype="float32")[[0] * settings.batch],
        )
        self.step.compile(blank)
        self._predict = symng.compile_function([x], model.output, mode=settings.mode)

    def start(self, step_size: float) -> None:
        """Set parameters and state to their first values."""
        for param, value in zip(self.params, self.first, strict=True):
            param.set_value(value.copy())
        for name, variable in self.step.state.items():
            variable.set_value(self.first_state[name])
        self.step.hyperparameters["step_size"].set_value(np.float32(step_size))

    def variables(self) -> dict[str, Any]:
        """Return all that a step changes, by its name in a file."""
        params = {f"param_{i}": param for i, param in enumerate(self.params)}
        return params | {f"state_{name}": variable for name, variable in self.step.state.items()}

    def train(
        self,
        record: dict[str, Any],
        data: Iterable[tuple[np.ndarray, np.ndarray]],
        keep: Callable[[], None],
    ) -> None:
        """Train on the batches in order, count in ``record``, and call ``keep`` every minute."""
        kept = time.monotonic()
        for batch in data:
            begun = time.perf_counter()
            info = self.step(batch)
            record["seconds"] += time.perf_counter() - begun
            record["steps"] += 1
            record["refused"] += not info.accepted
            if info.status is not None:
                record["unsolved"] += not info.status.success
                record["solver_iterations"] += int(info.solver_iterations)
            if time.monotonic() - kept > KEEP_SECONDS:
                keep()
                kept = time.monotonic()

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return the outputs for images as whole numbers."""
        chunks = np.array_split(images, -(-len(images) // _AT_ONCE))
        return np.concatenate([np.asarray(self._predict(gray(chunk))) for chunk in chunks])


def make_optimizer(method: str, settings: Settings) -> symng.Optimizer:
    """Return gradient descent, or natural gradient with the paper's metric, solver and damping."""
    if method == "sgd":
        return symng.SGD()
    return symng.NaturalGradient(
        metric=symng.Fisher(),
        solver=symng.MinresQLP(rtol=settings.rtol, maxiter=settings.iterations, recompute=False),
        damping=symng.FixedDamping(value=settings.damping),
    )


@cache
def trainer_of(method: str, settings: Settings) -> Trainer:
    """Return the trainer of this process."""
    return Trainer(method, settings)


@dataclass(frozen=True)
class Run:
    """Training from scratch on the stream in which one segment is replaced."""

    method: str
    step_size: float
    segment: int
    replica: int

    def path(self, folder: Path) -> Path:
        """Return the file of the run."""
        return (
            folder
            / "runs"
            / f"{self.method}-{self.step_size:g}"
            / f"{self.segment:02}-{self.replica}.npz"
        )

    def parts(self, settings: Settings) -> list[Part]:
        """Return all the data that the run reads."""
        return [*stream_of(settings, self.segment, self.replica), Part(0, 0), Part(0, 1)]

    def make(self, settings: Settings, folder: Path, source: str | None) -> dict[str, Any]:
        """Train, write the outputs on the held-out examples, and return the notes.

        The state of a long run is written every minute, so that an interruption loses no more.
        """
        trainer, file = trainer_of(self.method, settings), self.path(folder)
        under_way = file.with_name(f"{file.stem}.under-way.npz")
        meta = asdict(self) | {"settings": asdict(settings)}
        record = self._resume(trainer, under_way, meta)

        def keep() -> None:
            arrays = {
                name: np.asarray(variable.get_value())
                for name, variable in trainer.variables().items()
            }
            save(under_way, arrays, meta | {"record": record})

        def stream() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            """Read on from the first example that was not trained on."""
            first, rest = divmod(record["steps"] * settings.batch, settings.part_size)
            for part in stream_of(settings, self.segment, self.replica)[first:]:
                images, labels, notes = part.load(settings, folder, source)
                record["made"].append(notes["size"] / notes["seconds"])
                yield images[rest:], labels[rest:]
                rest = 0

        trainer.train(record, batches(stream(), settings.batch), keep)
        solves, speeds = record["steps"] if self.method == "ngd" else 0, record.pop("made")
        meta |= record | {
            "examples": record["steps"] * settings.batch,
            "solver_iterations": record["solver_iterations"] / solves if solves else None,
            "made_a_second": float(np.median(speeds)),
        }
        outputs = {}
        for name, part in (("held_out", Part(0, 0)), ("validation", Part(0, 1))):
            images, labels, _ = part.load(settings, folder, source)
            outputs[name] = trainer.predict(images)
            meta[f"{name}_error"] = float((outputs[name].argmax(axis=1) != labels).mean())
        save(file, {"outputs": outputs["held_out"]}, meta)
        under_way.unlink(missing_ok=True)
        return meta

    def _resume(self, trainer: Trainer, under_way: Path, meta: dict[str, Any]) -> dict[str, Any]:
        """Set the trainer to where the run was left, or to its start; return its record so far."""
        trainer.start(self.step_size)
        try:
            arrays, kept = symng.load_checkpoint(under_way)
            refuse_others(under_way, kept, meta)
            for name, variable in trainer.variables().items():
                variable.set_value(arrays[name])
            return kept["record"]
        except FileNotFoundError:
            pass
        except (ValueError, KeyError) as error:
            print(f"{under_way} is ignored, the run starts again: {error}", file=sys.stderr)
            trainer.start(self.step_size)
        counts = dict.fromkeys(("steps", "refused", "unsolved", "solver_iterations"), 0)
        return counts | {"seconds": 0.0, "made": []}

    def load(self, settings: Settings, folder: Path) -> tuple[np.ndarray, dict[str, Any]] | None:
        """Return outputs and notes; None without such a file, a damaged one is deleted."""
        path = self.path(folder)
        try:
            arrays, meta = symng.load_checkpoint(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            print(f"{path} is made again: {error}", file=sys.stderr, flush=True)
            path.unlink()
            return None
        refuse_others(path, meta.pop("settings", {}) | meta, asdict(settings) | asdict(self))
        return arrays["outputs"], meta
