"""Results of the runs of figure2.py: variances with confidence intervals, table and picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runs import METHODS
from scipy import stats

CONFIDENCE = 0.95
LARGE_DIFFERENCE = 0.01  # of validation errors, which is reported
# In the paper: examples of a run, runs of each method, and examples made in all for each of a run.
SAMPLES, RUNS, MADE = 32_700_000, 50, 3.5
_COLORS = {"sgd": "#D55E00", "ngd": "#0072B2"}


def log_variances(outputs: np.ndarray) -> np.ndarray:
    """Return log mean variances of outputs (replica, example, unit): of all, and without each."""
    outputs = outputs.astype("float64")
    without_one = [np.delete(outputs, r, axis=0) for r in range(len(outputs))]
    subsets = [outputs, *(without_one if len(outputs) > 2 else ())]
    with np.errstate(divide="ignore"):
        return np.log([subset.var(axis=0, ddof=1).mean() for subset in subsets])


def interval(logs: np.ndarray) -> tuple[float, float]:
    """Return a confidence interval of the variance, geometric mean over seeds.

    ``logs`` are `log_variances` of shape (seed, 1 + replicas). The interval is by the jackknife
    over replicas and Student's distribution (R. G. Miller, "Jackknifing variances", 1968), for the
    given seeds; NaN for two replicas, or where none differ.
    """
    of_all, without_one = logs[:, :1], logs[:, 1:]
    seeds, replicas = without_one.shape
    if replicas < 3 or not np.isfinite(logs).all():
        return math.nan, math.nan
    pseudo = replicas * of_all - (replicas - 1) * without_one
    error = math.sqrt((pseudo.var(axis=1, ddof=1) / replicas).sum()) / seeds
    half = stats.t.ppf((1 + CONFIDENCE) / 2, seeds * (replicas - 1)) * error
    return math.exp(pseudo.mean() - half), math.exp(pseudo.mean() + half)


def ratio_of_all(logs: np.ndarray) -> dict[str, float]:
    """Return the geometric mean of ratios (seed, segment, 1 + replicas) and its interval.

    The interval is by Student's distribution on the logarithms: over the seeds, since the segments
    of a seed share first weights and base stream; over the segments where there is one seed.
    """
    ratios = logs[:, :, 0]
    values = ratios.mean(axis=1) if len(ratios) > 1 else ratios[0]
    mean, half = values.mean(), math.nan
    if len(values) > 1 and np.isfinite(values).all():
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return {"value": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def summarize(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the variances of each segment and the averages of each method, over all seeds.

    A result has for each method ``logs``, `log_variances` of shape (segment, 1 + replicas),
    ``notes`` of each run, and ``step_size``.
    """
    logs = {method: np.array([result[method]["logs"] for result in results]) for method in METHODS}
    logs["ratio"] = logs["sgd"] - logs["ngd"]
    summary: dict[str, Any] = {
        "seeds": len(results),
        "segments": {},
        "all": ratio_of_all(logs["ratio"]),
        "methods": {},
    }
    for name, values in logs.items():
        rows = [(math.exp(v[:, 0].mean()), *interval(v)) for v in np.moveaxis(values, 1, 0)]
        summary["segments"][name] = [
            dict(zip(("value", "low", "high"), row, strict=True)) for row in rows
        ]
    every = [meta for result in results for method in METHODS for meta in result[method]["notes"]]
    summary["made_a_second"] = float(np.median([meta["made_a_second"] for meta in every]))
    for method in METHODS:
        notes = [meta for result in results for meta in result[method]["notes"]]
        column = {
            name: np.array([meta[name] for meta in notes])
            for name in notes[0]
            if name != "settings"
        }
        summary["methods"][method] = {
            "step_sizes": [result[method]["step_size"] for result in results],
            "runs": len(notes),
            "validation_error": float(column["validation_error"].mean()),
            "validation_error_deviation": float(column["validation_error"].std(ddof=1)),
            "held_out_error": float(column["held_out_error"].mean()),
            "examples_a_second": float(np.median(column["examples"] / column["seconds"])),
            "solver_iterations": None
            if method == "sgd"
            else float(column["solver_iterations"].mean()),
            "steps": int(column["steps"].sum()),
            "refused": int(column["refused"].sum()),
            "unsolved": int(column["unsolved"].sum()),
        }
    return summary


def cost(summary: dict[str, Any], jobs: int) -> str:
    """Return what the paper's numbers of examples and runs would take at the measured speeds."""
    hours = {
        METHODS[m]: RUNS * SAMPLES / summary["methods"][m]["examples_a_second"] / 3600
        for m in METHODS
    }
    hours = {"making the data": MADE * SAMPLES / summary["made_a_second"] / 3600} | hours
    total = sum(hours.values())
    parts = ", ".join(f"{name} {value:,.0f}" for name, value in hours.items())
    return (
        f"All {SAMPLES / 1e6:g} million examples, {RUNS} runs of each method, would take "
        f"{total:,.0f} hours of one process ({parts}), {total / jobs / 24:,.1f} days on {jobs} "
        f"such processes, and {MADE * SAMPLES * 1025 / 1e9:,.0f} GB of disk."
    )


def make_table(summary: dict[str, Any], jobs: int) -> str:
    """Write the variances, the methods and the cost as Markdown."""
    speed = f"{summary['made_a_second']:,.0f} images a second were made in one process."
    parts = [
        _markdown(_variance_rows(summary)),
        _markdown(_method_rows(summary)),
        _note(summary),
        f"{speed} {cost(summary, jobs)}\n",
    ]
    return "\n".join(parts)


def _markdown(rows: list[list[str]]) -> str:
    """Write a table whose first row is its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _variance_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Return the variances and their ratio for each segment, and the mean ratio."""
    names = [*(f"{name}: variance" for name in METHODS.values()), "SGD / NGD"]
    segments, rows = summary["segments"], [["segment", *names]]
    for i, ratio in enumerate(segments["ratio"]):
        variances = [_cell(segments[method][i], ".2e") for method in METHODS]
        rows.append([str(i + 1), *variances, _cell(ratio, ".3g")])
    return [*rows, ["all, geometric mean", "", "", _cell(summary["all"], ".3g")]]


def _method_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Return step size, errors, speed and solves of each method."""
    rows = [
        [
            "method",
            "step size",
            "runs",
            "validation error",
            "held-out error",
            "examples a second",
            "iterations a solve",
            "steps",
            "refused",
            "solves without success",
        ]
    ]
    for method, name in METHODS.items():
        m = summary["methods"][method]
        iterations = "" if m["solver_iterations"] is None else f"{m['solver_iterations']:.1f}"
        rows.append(
            [
                name,
                ", ".join(f"{size:g}" for size in m["step_sizes"]),
                str(m["runs"]),
                f"{m['validation_error']:.2%} ± {m['validation_error_deviation']:.2%}",
                f"{m['held_out_error']:.2%}",
                f"{m['examples_a_second']:,.0f}",
                iterations,
                str(m["steps"]),
                str(m["refused"]),
                str(m["unsolved"]),
            ]
        )
    return rows


def _note(summary: dict[str, Any]) -> str:
    """Return what the tables show, and a warning where the methods are not comparable."""
    seeds = f"{summary['seeds']} seed{'s' * (summary['seeds'] > 1)}"
    over = "seeds" if summary["seeds"] > 1 else "segments"
    note = (
        "Variance of the outputs among the replicas of a segment, mean over held-out examples and "
        f"outputs, {seeds}; in brackets intervals of {CONFIDENCE:.0%}, of a segment by the "
        f"jackknife over replicas, of the mean by Student's t over {over}. Errors are means ± "
        "standard deviations over runs.\n"
    )
    errors = [m["validation_error"] for m in summary["methods"].values()]
    difference = abs(errors[0] - errors[1])
    if difference > LARGE_DIFFERENCE:
        note += (
            f"The validation errors differ by {difference:.2%}: the models of one method have "
            "moved further than those of the other, which alone makes their variance larger. "
            "Choose step sizes by --aim.\n"
        )
    return note


def _cell(row: dict[str, float], form: str) -> str:
    """Write a value with its interval, if it has one."""
    value, low, high = (format(row[name], form) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if math.isfinite(row["high"]) else value


def draw(summary: dict[str, Any], path: Path) -> Any:
    """Draw the variance of both methods against the replaced segment, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes, shown = figure.subplots(), np.empty(0)
    for method, name in METHODS.items():
        value, low, high = (
            np.array([row[part] for row in summary["segments"][method]])
            for part in ("value", "low", "high")
        )
        segments = np.arange(1, len(value) + 1)
        shown = np.concatenate([shown, value[value > 0]])
        axes.plot(segments, value, color=_COLORS[method], marker="o", markersize=4, label=name)
        if np.isfinite(high).all():
            axes.fill_between(segments, low, high, color=_COLORS[method], alpha=0.15, linewidth=0)
    axes.set(
        yscale="log",
        xlabel="segment that was replaced",
        ylabel="variance of the outputs",
        xticks=segments,
    )
    if len(shown):  # where few replicas differ greatly an interval would hide all else
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, shown.min() / 10), min(top, 10 * shown.max()))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color="0.85", linewidth=0.8)
    axes.grid(True, which="minor", color="0.93", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    return figure
