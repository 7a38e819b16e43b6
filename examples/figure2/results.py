"""What the runs of figure2.py say: variances with their confidence intervals, table and picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runs import METHODS
from scipy import stats

CONFIDENCE = 0.95
APART = 0.01  # a difference of validation errors that is reported
# The paper's: examples of a run, runs of each method, and examples that are made for one example of
# a run.
SAMPLES, RUNS, MADE = 32_700_000, 50, 3.5
_COLORS = {"sgd": "#D55E00", "ngd": "#0072B2"}


def log_variances(outputs: np.ndarray) -> np.ndarray:
    """Return log mean variances of outputs (replica, example, unit), also without each replica."""
    outputs = outputs.astype("float64")
    chosen = [
        outputs,
        *(np.delete(outputs, r, axis=0) for r in range(len(outputs)) if len(outputs) > 2),
    ]
    with np.errstate(divide="ignore"):
        return np.log([o.var(axis=0, ddof=1).mean() for o in chosen])


def interval(logs: np.ndarray) -> tuple[float, float]:
    """Return a confidence interval of the `log_variances`, mean over seeds.

    ``logs`` is (seed, 1 + replicas).

    By the jackknife over replicas and Student's distribution (R. G. Miller, "Jackknifing
    variances", 1968), the variances given the seeds; NaN for two replicas, or where none differ.
    """
    whole, left = logs[:, :1], logs[:, 1:]
    seeds, replicas = left.shape
    if replicas < 3 or not np.isfinite(logs).all():
        return math.nan, math.nan
    pseudo = replicas * whole - (replicas - 1) * left
    error = math.sqrt((pseudo.var(axis=1, ddof=1) / replicas).sum()) / seeds
    half = stats.t.ppf((1 + CONFIDENCE) / 2, seeds * (replicas - 1)) * error
    return math.exp(pseudo.mean() - half), math.exp(pseudo.mean() + half)


def ratio_of_all(logs: np.ndarray) -> dict[str, float]:
    """Return the geometric mean of ratios (seed, segment, 1 + replicas) and its interval.

    By Student's distribution on the logarithms: over the seeds, for the segments of one have first
    weights and base stream in common; over the segments, given these, where there is one seed.
    """
    ratios = logs[:, :, 0]
    values = ratios.mean(axis=1) if len(ratios) > 1 else ratios[0]
    mean, half = values.mean(), math.nan
    if len(values) > 1 and np.isfinite(values).all():
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return {"value": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def summarize(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the variances of each segment and what the runs of each method noted, over all seeds.

    A result has for each method ``logs``, (segment, 1 + replicas) of `log_variances`, ``notes`` of
    each run and ``step_size``.
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
    columns = [*METHODS, "ratio"]
    names = [*(f"{name}: variance" for name in METHODS.values()), "SGD / NGD"]
    lines = [["segment", *names], ["---"] * 4]
    for i in range(len(summary["segments"]["ratio"])):
        rows = [summary["segments"][column][i] for column in columns]
        lines.append(
            [str(i + 1), *(_cell(row, ".3g" if row is rows[-1] else ".2e") for row in rows)]
        )
    lines.append(["all, geometric mean", "", "", _cell(summary["all"], ".3g")])
    about = [
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
    about.append(["---"] * len(about[0]))
    for method, name in METHODS.items():
        m = summary["methods"][method]
        iterations = "" if m["solver_iterations"] is None else f"{m['solver_iterations']:.1f}"
        about.append(
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
    tables = ["".join(f"| {' | '.join(line)} |\n" for line in table) for table in (lines, about)]
    seeds = f"{summary['seeds']} seed{'s' * (summary['seeds'] > 1)}"
    over = "seeds" if summary["seeds"] > 1 else "segments"
    note = (
        "Variance of the outputs among the replicas of a segment, mean over held-out examples and "
        f"outputs, {seeds}; "
        f"in brackets intervals of {CONFIDENCE:.0%}, of a segment by the jackknife over replicas, "
        "of the mean by "
        f"Student's t over {over}. Errors are means ± standard deviations over runs.\n"
    )
    errors = [m["validation_error"] for m in summary["methods"].values()]
    if abs(errors[0] - errors[1]) > APART:
        note += (
            f"The validation errors differ by {abs(errors[0] - errors[1]):.2%}: the models of one "
            "method have moved "
            "further than those of the other, which alone makes their variance larger. Choose step "
            "sizes by --aim.\n"
        )
    speed = f"{summary['made_a_second']:,.0f} images a second were made in one process."
    told = f"{speed} {cost(summary, jobs)}\n"
    return "\n".join([*tables, note, told])


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
