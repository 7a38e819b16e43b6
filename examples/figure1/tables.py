"""Results of the runs of figure1.py: tables with confidence intervals, and the picture."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from scipy import stats

import symng

Arrays = dict[str, np.ndarray]

# What the metric is measured on: name, color and line of the paper's figure (the mixture and the
# fixed set are not in it).
VARIANTS = {
    "same": ("the gradient's examples", "#009E73", ":"),
    "other": ("other training examples", "#0072B2", "--"),
    "fixed": ("a fixed set of training examples", "#56B4E9", (0, (5, 1, 1, 1, 1, 1))),
    "unlabeled": ("unlabeled examples", "#D55E00", "-"),
    "mixture": ("training and unlabeled examples", "#CC79A7", "-."),
}
# Pairs whose differences are reported, of runs with the same seed.
PAIRS = (
    ("other", "same"),
    ("fixed", "same"),
    ("unlabeled", "same"),
    ("mixture", "same"),
    ("fixed", "other"),
    ("unlabeled", "other"),
)


def history_of(arrays: Arrays) -> symng.History:
    """Return the history among the arrays of a run."""
    prefix = "history_"
    return symng.History.from_dict(
        {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
    )


def half_interval(values: np.ndarray) -> np.ndarray:
    """Return half the length of the 95% confidence interval of the mean over the first axis."""
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def with_interval(values: np.ndarray, form: str) -> str:
    """Write a mean, with half the length of its confidence interval if there are several values."""
    if len(values) < 2:
        return format(values.mean(), form)
    return f"{values.mean():{form}} ± {half_interval(values):{form.lstrip('+')}}"


def read_runs(files: dict[tuple[str, int], Path], steps: int) -> dict[str, list[Arrays]]:
    """Return the evaluated rows of all runs, up to a step, that they have in common."""
    runs: dict[str, list[Arrays]] = {}
    for (variant, _), file in files.items():
        rows = history_of(symng.load_checkpoint(file)[0]).to_dict()
        # Mean over the steps so far.
        rows["iterations"] = np.nancumsum(rows["solver_iterations"]) / np.maximum(rows["step"], 1)
        known = np.isfinite(rows["train_error"]) & (rows["step"] <= steps)
        runs.setdefault(variant, []).append({name: column[known] for name, column in rows.items()})
    shared = functools.reduce(
        np.intersect1d, [run["step"] for every in runs.values() for run in every]
    )
    return {
        variant: [
            {name: column[np.isin(run["step"], shared)] for name, column in run.items()}
            for run in every
        ]
        for variant, every in runs.items()
    }


def make_tables(runs: dict[str, list[Arrays]]) -> str:
    """Return figures after the last update and differences on the same seeds, as two tables."""
    lasts = {
        v: {name: np.array([run[name][-1] for run in every]) for name in every[0]}
        for v, every in runs.items()
    }
    errors = {"training": "train_error", "validation": "valid_error", "test": "test_error"}
    columns = [
        "metric on",
        "updates",
        "training cross-entropy",
        *(f"{part} error (%)" for part in errors),
        "damping",
        "iterations",
        "seconds per update",
    ]
    figures = [columns, ["---"] * len(columns)]
    for variant, last in lasts.items():
        cells = [
            with_interval(last["train_loss"], ".3f"),
            *(with_interval(100 * last[name], ".2f") for name in errors.values()),
        ]
        cost = [
            f"{last['iterations'].mean():.0f}",
            f"{(last['seconds'] / last['step']).mean():.2f}",
        ]
        damping = f"{np.median(last['damping']):.2g}"
        figures.append([f"`{variant}`", f"{last['step'][0]:.0f}", *cells, damping, *cost])
    columns = ["difference", "training cross-entropy", *(f"{part} error (%)" for part in errors)]
    differences = [columns, ["---"] * len(columns)]
    for one, other in PAIRS:
        if one in runs and other in runs:
            a, b = lasts[one], lasts[other]
            cells = [with_interval(a["train_loss"] - b["train_loss"], "+.3f")]
            cells += [with_interval(100 * (a[name] - b[name]), "+.2f") for name in errors.values()]
            differences.append([f"`{one}` - `{other}`", *cells])
    tables = [figures, differences] if len(differences) > 2 else [figures]
    return "\n".join("".join(f"| {' | '.join(line)} |\n" for line in table) for table in tables)


def draw(runs: dict[str, list[Arrays]], path: Path) -> None:
    """Draw training error, on a logarithmic axis, and test error in percent against updates.

    Lines are means over the seeds, bands their confidence intervals.
    """
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for variant, every in runs.items():
        words, color, line = VARIANTS[variant]
        for panel, column in zip(panels, ("train_error", "test_error"), strict=True):
            values = 100 * np.array([run[column] for run in every])
            mean, spread = (
                values.mean(axis=0),
                half_interval(values) if len(values) > 1 else 0 * values[0],
            )
            panel.plot(every[0]["step"], mean, linestyle=line, color=color, label=words)
            # A logarithmic axis has no place below the smallest value.
            low = np.maximum(mean - spread, values.min(axis=0))
            panel.fill_between(
                every[0]["step"], low, mean + spread, color=color, alpha=0.15, linewidth=0
            )
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_minor_locator(NullLocator())
    panels[0].yaxis.set_major_formatter("{x:g}")
    # The errors of the first updates, alike in all variants, would leave no room for the others.
    lowest = 100 * min(run["test_error"].min() for every in runs.values() for run in every)
    panels[1].set_ylim(top=min(100.0, 2.5 * lowest + 5.0))
    for panel, words in zip(panels, ("training error (%)", "test error (%)"), strict=True):
        panel.set(xlabel="update", ylabel=words)
        panel.grid(alpha=0.3)
    panels[1].legend(title="metric on", frameon=False)
    figure.savefig(path, dpi=150)
