"""Measure the metric of natural gradient on different examples: Figure 1 of the paper.

    python examples/figure1/figure1.py    # small preset: about 15 minutes on two cores
    python examples/figure1/figure1.py --seeds 3 --variants same other
    python examples/figure1/figure1.py --preset paper --data TFD_48x48.mat    # for a GPU

The network of the paper's appendix: a convolutional sigmoid layer, a dense sigmoid layer, sigmoid
outputs; images after local contrast normalization. The gradient is taken on 256 training examples,
the metric on (same) those, (other) 384 other training examples, (unlabeled) 384 unlabeled ones, or
(mixture) half of each. With one seed all variants start from the same weights and see the same
gradient batches.

Each run is kept in a file of its own in --out. After an interruption the same command continues
where it was; with more --steps or --seeds it extends what is there. Leaves in --out: figure1.png
(training and test error against updates, mean and 95% confidence interval over the seeds) and
table.md.
"""

from __future__ import annotations

import argparse
import functools
import math
import re
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The command line's helpers are shared by all examples.
sys.path.append(str(Path(__file__).parents[1]))

import numpy as np
import pytensor
import pytensor.tensor as pt
from command_line import add_mode, in_terms_of, whole
from tables import VARIANTS, draw, history_of, make_tables, read_runs

import symng
from symng.datasets import FacesFold, faces, local_contrast_normalization
from symng.models import binary_cross_entropy_with_logits, convolve, glorot_init, mlp

GRADIENT_BATCH, METRIC_BATCH = 256, 384
# The appendix: MinRes-QLP of at most 50 iterations, damping from 5 by Levenberg-Marquardt, step
# size 0.2.
OPTIMIZER = symng.NaturalGradient(
    solver=symng.MinresQLP(maxiter=50, recompute=False),
    damping=symng.LevenbergMarquardt(initial=5.0),
    step_size=0.2,
)

PRESETS = ("small", "paper")
# Network, image size and length in each preset. The stride is not given in the paper.
SETTINGS: dict[str, tuple[int, int, str]] = {
    "filters": (16, 512, "filters of the convolutional layer"),
    "filter_size": (5, 14, "pixels of a filter in each direction"),
    "stride": (1, 2, "pixels from one position of a filter to the next"),
    "units": (64, 1024, "units of the dense layer"),
    "pool": (2, 1, "images are averaged over squares of so many pixels in each direction"),
    "seeds": (6, 5, "number of seeds, from 0 on"),
    "steps": (200, 200, "updates of each run"),
    "evaluate_every": (10, 10, "updates from one evaluation to the next"),
}
SAVE_SECONDS = 30.0  # between two writings of a run under way
PIECE = 500  # examples that are evaluated at a time
PARTS = ("train", "valid", "test")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; what is not given comes from the preset."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=list(VARIANTS),
        default=list(VARIANTS),
        metavar="VARIANT",
        help=f"which of {', '.join(VARIANTS)}; default all",
    )
    for name, (*_, words) in SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=whole, help=words)
    parser.add_argument(
        "--data", type=Path, help="TFD_48x48.mat, or a folder of idx files; default Fashion-MNIST"
    )
    parser.add_argument(
        "--download", action="store_true", help="fetch Fashion-MNIST from OpenML if it is not there"
    )
    parser.add_argument(
        "--fold", type=int, default=3, help="from 0 to 4; the paper's fold 4 is 3, the default"
    )
    parser.add_argument(
        "--labeled", type=whole, help="labeled examples, in training, validation and test sets"
    )
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/figure1"), help="folder of the results"
    )
    options = parser.parse_args(arguments)
    for name, values in SETTINGS.items():
        if getattr(options, name) is None:
            setattr(options, name, values[PRESETS.index(options.preset)])
    options.variants = [variant for variant in VARIANTS if variant in options.variants]
    return options


class Data:
    """The images of a fold as the network takes them, and the targets."""

    def __init__(self, found: FacesFold, pool: int, with_unlabeled: bool) -> None:
        self.source, self.classes = found.source, found.classes
        sums = [zlib.crc32(a.tobytes()) for a in (found.train_images, found.test_images)]
        counts = f"{len(found.train_labels):,} images to train with, "
        counts += f"{len(found.unlabeled_images):,} unlabeled"
        self.summary = f"{counts}, checksums {sums}"
        self.images = {part: preprocess(getattr(found, f"{part}_images"), pool) for part in PARTS}
        self.labels = {part: getattr(found, f"{part}_labels") for part in PARTS}
        self.targets = np.eye(found.classes, dtype="float32")[self.labels["train"]]
        self.unlabeled = (
            preprocess(found.unlabeled_images, pool) if with_unlabeled else self.images["train"][:0]
        )

    def batches(
        self, variant: str, seed: int, step: int
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray] | None]:
        """Return gradient and metric batch of a step, which follow from seed and step alone.

        So a run continues after an interruption as if there had been none. An epoch is a
        permutation of the training set, cut into batches; what the metric takes from the training
        set is not in the gradient batch.
        """
        train = self.images["train"]
        epoch, number = divmod(step, len(train) // GRADIENT_BATCH)
        # Not [seed, 0, epoch]: zeros at the end of a seed do not count, and the dense weights are
        # drawn from seed.
        order = np.random.default_rng([seed, 3, epoch]).permutation(len(train))
        first = number * GRADIENT_BATCH
        gradient = tuple(a[order[first : first + GRADIENT_BATCH]] for a in (train, self.targets))
        if variant == "same":
            return gradient, None
        rng = np.random.default_rng([seed, 1, step])
        from_train = {"other": METRIC_BATCH, "unlabeled": 0, "mixture": METRIC_BATCH // 2}[variant]
        rest = np.concatenate([order[:first], order[first + GRADIENT_BATCH :]])
        others = train[rng.choice(rest, from_train, replace=False)]
        unlabeled = self.unlabeled[
            rng.choice(len(self.unlabeled), METRIC_BATCH - from_train, replace=False)
        ]
        return gradient, (np.concatenate([others, unlabeled]),)


def preprocess(images: np.ndarray, pool: int) -> np.ndarray:
    """Return images averaged over full squares of ``pool`` pixels, and normalized."""
    count, height, width = images.shape
    if pool > 1:
        cut = images[:, : height // pool * pool, : width // pool * pool]
        squares = cut.reshape(count, height // pool, pool, width // pool, pool)
        images = squares.mean(axis=(2, 4), dtype="float32")
    return local_contrast_normalization(images.astype("float32") / 255)


def read_data(options: argparse.Namespace) -> Data:
    """Return the data, or refuse too little for the batches or images too small for the filters."""
    found = faces(
        options.data, fold=options.fold, labeled=options.labeled, download=options.download
    )
    train, unlabeled = len(found.train_labels), len(found.unlabeled_images)
    needed = GRADIENT_BATCH + METRIC_BATCH
    if train < needed or unlabeled < METRIC_BATCH:
        expected = f"at least {needed} examples to train with and {METRIC_BATCH} unlabeled"
        raise ValueError(f"--labeled: expected {expected}, got {train} and {unlabeled}.")
    pixels = min(found.train_images.shape[1:])
    side = pixels // options.pool
    if not side:
        raise ValueError(
            f"--pool: expected at most the {pixels} pixels of an image, got {options.pool}."
        )
    if options.filter_size > side:
        raise ValueError(
            f"--filter-size: expected at most the {side} pixels of an image, got "
            f"{options.filter_size}."
        )
    return Data(found, options.pool, bool({"unlabeled", "mixture"} & set(options.variants)))


def make_objective(
    options: argparse.Namespace, side: Sequence[int], classes: int, seed: int
) -> symng.Objective:
    """Return the network and its cross-entropy, with the weights of a seed."""
    size, count = options.filter_size, options.filters
    x = pt.tensor3("x", dtype="float32", shape=(None, side[0], side[1]))
    t = pt.matrix("t", dtype="float32")
    filters = glorot_init(np.random.default_rng([seed, 2]), size * size, count, "float32")
    W = pytensor.shared(filters.reshape(size, size, count), name="filters")
    b = pytensor.shared(np.zeros(count, "float32"), name="b")
    hidden = pt.sigmoid(convolve(x, W, b, stride=options.stride))
    features = math.prod(hidden.type.shape[1:])
    network = mlp(
        hidden.reshape((-1, features)),
        [features, options.units, classes],
        output="sigmoid",
        seed=seed,
    )
    loss = binary_cross_entropy_with_logits(network.preactivation, t).mean()
    return symng.Objective(
        loss, output=network.output, params=[W, b, *network.params], inputs=[x], targets=[t]
    )


class Trainer:
    """Make the runs, all with one compiled step (one more for a metric batch of its own)."""

    def __init__(self, data: Data, options: argparse.Namespace) -> None:
        self.data, self.options = data, options
        self.fresh = functools.partial(
            make_objective, options, data.images["train"].shape[1:], data.classes
        )
        self.objective = self.fresh(0)
        self.step = symng.compile_step(self.objective, OPTIMIZER, mode=options.mode)
        self.start = {name: v.get_value() for name, v in self.step.state.items()}
        self.predict = symng.compile_function(
            self.objective.inputs, self.objective.heads[0].r, mode=options.mode
        )

    def variables(self) -> dict[str, Any]:
        """Return every variable that a step changes, by its name in the file of a run."""
        named = {f"param_{i}": param for i, param in enumerate(self.objective.params)}
        return named | {f"state_{name}": v for name, v in self.step.state.items()}

    def reset(self, seed: int) -> None:
        """Set parameters and state to the start of a run."""
        for param, fresh in zip(self.objective.params, self.fresh(seed).params, strict=True):
            param.set_value(fresh.get_value())
        for name, v in self.step.state.items():
            v.set_value(self.start[name])

    @np.errstate(invalid="ignore")
    def evaluate(self) -> dict[str, float]:
        """Return share of misclassified examples and cross-entropy of each part."""
        row = {}
        for part, images in self.data.images.items():
            labels = self.data.labels[part]
            r = np.concatenate(
                [self.predict(images[i : i + PIECE]) for i in range(0, len(images), PIECE)]
            )
            t = np.eye(self.data.classes)[labels]
            wrong = (r.argmax(axis=1) != labels) | ~np.isfinite(r).all(axis=1)
            row[f"{part}_error"] = float(wrong.mean())
            row[f"{part}_loss"] = float((np.logaddexp(0.0, r) - t * r).sum(axis=1).mean())
        return row

    def run(self, variant: str, seed: int, file: Path, settings: dict[str, Any]) -> None:
        """Make a run up to the last step, from where its file ends.

        The file is written every half minute, and however the run ends.
        """
        steps, history, taken, seconds = self.options.steps, symng.History(), 0, 0.0
        if file.exists():
            arrays, meta = symng.load_checkpoint(file)
            for key, variable in self.variables().items():
                variable.set_value(arrays[key])
            history, taken, seconds = history_of(arrays), meta["steps"], meta["seconds"]
        else:
            self.reset(seed)
            history.append(step=0, seconds=0.0, **self.evaluate())
        print(f"== {variant}, seed {seed}, {taken} of {steps} updates done", flush=True)
        self.step.compile(*self.data.batches(variant, seed, 0))
        saved, intact = time.monotonic(), True
        try:
            while taken < steps:
                # Ctrl-C waits until the step is recorded; a second one does not.
                with symng.DeferredInterrupt() as interrupt:
                    begun, intact = time.perf_counter(), False
                    info = self.step.run(*self.data.batches(variant, seed, taken), sync=False)
                    taken, seconds = taken + 1, seconds + time.perf_counter() - begun
                    row = {"step": taken, "seconds": seconds, **info.to_dict()}
                    if taken % self.options.evaluate_every == 0 or taken == steps:
                        self.step.sync_to_host()
                        row |= self.evaluate()
                    history.append(**row)
                    intact = True
                interrupt.raise_if_requested()
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save(file, settings, history, taken, seconds)
                    saved = time.monotonic()
                    print(
                        f"   {taken} updates, loss {info.loss:.3f}, damping {info.damping:.3g}",
                        flush=True,
                    )
        finally:
            if intact:
                self.step.sync_to_host()
                self.save(file, settings, history, taken, seconds)
        last = history.last
        print(
            f"   {taken} updates in {seconds:.1f} s: training error {last['train_error']:.2%}, "
            f"test error {last['test_error']:.2%}",
            flush=True,
        )

    def save(
        self,
        file: Path,
        settings: dict[str, Any],
        history: symng.History,
        taken: int,
        seconds: float,
    ) -> None:
        """Write the run."""
        arrays = {name: np.asarray(v.get_value()) for name, v in self.variables().items()}
        arrays |= {f"history_{name}": column for name, column in history.to_dict().items()}
        symng.save_checkpoint(
            file, arrays, {"settings": settings, "steps": taken, "seconds": seconds}
        )


def settings_of(options: argparse.Namespace, data: Data) -> dict[str, Any]:
    """Return what all runs of a figure have in common, except the number of steps."""
    network = {
        name: getattr(options, name)
        for name in ("filters", "filter_size", "stride", "units", "pool")
    }
    return network | {
        "fold": options.fold,
        "data": data.summary,
        "batches": [GRADIENT_BATCH, METRIC_BATCH],
        "optimizer": symng.full_repr(OPTIMIZER),  # defaults too: a later version may have others
    }


def is_done(file: Path, settings: dict[str, Any], steps: int) -> bool:
    """Return whether a run has all its steps.

    Refuse a file that is damaged or of a run with other settings.
    """
    if not file.exists():
        return False
    try:
        meta = symng.load_checkpoint(file)[1]
        found, taken = meta["settings"], meta["steps"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"--out: {file}: {error} Delete it to make that run anew.") from None
    other = [
        f"{key} {found.get(key)!r}, not {value!r}"
        for key, value in settings.items()
        if found.get(key) != value
    ]
    if other:
        raise ValueError(
            f"--out: {file} holds a run with {'; '.join(other)}. Give another folder, or delete it."
        )
    return taken >= steps


def main(arguments: list[str] | None = None) -> int:
    """Make the runs that are missing, and draw and tabulate all."""
    options = parse(arguments)
    try:
        symng.resolve_mode(options.mode)
        data = read_data(options)
        settings = settings_of(options, data)
        options.out.mkdir(parents=True, exist_ok=True)
        files = {
            (v, seed): options.out / f"{v}-{seed}.npz"
            for seed in range(options.seeds)
            for v in options.variants
        }
        missing = [key for key, file in files.items() if not is_done(file, settings, options.steps)]
    except (OSError, ValueError, TypeError, ImportError) as error:
        # symng.datasets.faces names its own arguments.
        message = in_terms_of("--data", error).replace("download=True", "--download")
        print(re.sub(r"^(fold|labeled):", r"--\1:", message), file=sys.stderr)
        return 2
    print(
        f"{data.source}: {data.summary}; "
        f"{len(files) - len(missing)} of {len(files)} runs are done.",
        flush=True,
    )
    try:
        if missing:
            trainer = Trainer(data, options)
            for variant, seed in missing:
                trainer.run(variant, seed, files[variant, seed], settings)
            print(f"Compilation: {trainer.step.compile_seconds:.0f} s")
        runs = read_runs(files, options.steps)
        tables = make_tables(runs)
        (options.out / "table.md").write_text(tables)
        draw(runs, options.out / "figure1.png")
    except KeyboardInterrupt:
        print("Interrupted. The same command continues from here.", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"--out: cannot write to {options.out}: {error}", file=sys.stderr)
        return 1
    print(tables)
    print(f"Wrote figure1.png and table.md to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
