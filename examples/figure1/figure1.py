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
import re
import sys
import time
from pathlib import Path
from typing import Any

# The command line's helpers are shared by all examples.
sys.path.append(str(Path(__file__).parents[1]))

import numpy as np
import settings as presets
from batches import Data, read_data
from command_line import in_terms_of
from network import make_objective
from tables import draw, history_of, make_tables, read_runs

import symng

SAVE_SECONDS = 30.0  # between two writings of a run under way
PIECE = 500  # examples that are evaluated at a time


class Trainer:
    """Make the runs, all with one compiled step (one more for a metric batch of its own)."""

    def __init__(self, data: Data, options: argparse.Namespace) -> None:
        self.data, self.options = data, options
        self.fresh = functools.partial(
            make_objective, options, data.images["train"].shape[1:], data.classes
        )
        self.objective = self.fresh(0)
        self.step = symng.compile_step(
            self.objective, presets.make_optimizer(options), mode=options.mode
        )
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
        for name in (
            "network",
            "filters",
            "filter_size",
            "stride",
            "max_pool",
            "units",
            "pool",
            "contrast",
            "outputs",
            "mixture",
        )
    }
    return network | {
        "fold": options.fold,
        "data": data.summary,
        "batches": [presets.GRADIENT_BATCH, presets.METRIC_BATCH],
        # Defaults too: a later version may have others.
        "optimizer": symng.full_repr(presets.make_optimizer(options)),
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
    options = presets.parse(arguments, __doc__)
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
