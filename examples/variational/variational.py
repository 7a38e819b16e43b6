"""Fit normal approximations of posteriors by natural gradient, beside ADVI and GPJax.

    python examples/variational/variational.py
    python examples/variational/variational.py --peers advi gpjax

A logistic regression with independent and with dependent weights, and a sparse Gaussian process
whose hyperparameters move in the same steps. ADVI is that of PyMC and needs it; the steps of
GPJax's `fit_natgrads` need GPJax. Leaves variational.png in --out.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # command_line.py

import numpy as np
from command_line import add_mode, is_ready, positive, seed, whole
from gaussians import FullRank, MeanField, NormalFisher
from matplotlib.figure import Figure
from models import (
    Bound,
    logistic_bound,
    logistic_data,
    process_at,
    process_bound,
    process_data,
)
from peers import Run, advi, natgrads

import symng


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=whole, default=40, help="of natural gradient, at most")
    parser.add_argument("--features", type=whole, default=10, help="of the regression")
    parser.add_argument("--examples", type=whole, default=500, help="of either model")
    parser.add_argument("--inducing", type=whole, default=20, help="points of the process")
    parser.add_argument("--prior", type=positive, default=3.0, help="scale of the weights")
    parser.add_argument("--seed", type=seed, default=0, help="of the data")
    parser.add_argument(
        "--peers", nargs="*", choices=("advi", "gpjax"), default=(), help="to run as well"
    )
    parser.add_argument("--peer-steps", type=whole, default=20000, help="of each of these")
    add_mode(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/variational"), help="folder of the picture"
    )
    return parser.parse_args(arguments)


def fit(name: str, family: str, bound: Bound, steps: int, mode: str | None) -> Run:
    """Raise a bound by natural gradient."""
    metric = NormalFisher(q=bound.q)
    optimizer = symng.NaturalGradient(
        metric=metric,
        solver=symng.CG(rtol=1e-6, maxiter=20),
        preconditioner=metric.inverse(bound.objective),
        damping=0.0,
        step_size=symng.BacktrackingLineSearch(),
    )
    start = time.perf_counter()
    result = symng.minimize(
        bound.objective, optimizer, data=(), max_steps=steps, progress=False, mode=mode
    )
    total = time.perf_counter() - start
    seconds, losses = result.history["seconds"], result.history["loss"]
    # The first step goes to compilation, and a loss is that before its step.
    taken = np.diff(seconds)
    clock = np.concatenate([[0.0], np.median(taken) + np.cumsum(taken) - taken])
    return Run(name, family, np.arange(len(losses)), clock, -losses, total - taken.sum())


def describe(run: Run, runs: list[Run]) -> str:
    """Return how near to the best bound of its family a run has come, and when, in words."""
    best = max(other.bounds.max() for other in runs if other.family == run.family)
    words = f"{run.name}: {run.bounds[-1]:.4f}, {run.compilation:.1f} s to compile"
    for near in (1.0, 0.01):
        reached = np.flatnonzero(run.bounds >= best - near)
        if reached.size:
            first = reached[0]
            words += f"; within {near} at step {run.steps[first]}, {run.seconds[first]:.2f} s"
    return words


def draw(
    panels: dict[str, list[Run]], data: tuple[np.ndarray, ...], fit: tuple, path: Path
) -> None:
    """Draw the bounds against steps and seconds, and the process beside its data."""
    figure = Figure(figsize=(9.6, 5.8), layout="constrained")
    axes = figure.subplots(2, 2)
    for row, (title, runs) in zip(axes, panels.items(), strict=True):
        best, worst = max(r.bounds.max() for r in runs), min(r.bounds[0] for r in runs)
        for run in runs:
            style = "-" if run.name.startswith("symng") else "--"
            row[0].plot(run.steps + 1, run.bounds, style, label=run.name)
            row[1].plot(run.seconds[1:], run.bounds[1:], style)
        room = 0.05 * (best - worst)
        for axis, name in zip(row, ("step", "seconds, without compilation"), strict=True):
            axis.set(xscale="log", xlabel=name, ylim=(worst - room, best + room))
        row[0].set(ylabel="bound (ELBO)", title=title)
    axes[0, 1].legend(*axes[0, 0].get_legend_handles_labels(), loc="lower left", fontsize="small")
    axes[1, 0].legend(loc="lower right", fontsize="small")
    inset = axes[1, 1].inset_axes((0.5, 0.08, 0.48, 0.5))
    mean, deviation = fit
    inset.plot(*data, ".", markersize=1, color="0.7")
    inset.plot(data[0], mean)
    inset.fill_between(data[0], mean - 2 * deviation, mean + 2 * deviation, alpha=0.3)
    inset.set(xticks=(), yticks=())
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Fit both models, and leave the picture in the folder of results."""
    options = parse(arguments)
    if not is_ready(options):
        return 2
    X, T = logistic_data(options.features, options.examples, options.seed)
    regressions = []
    for kind, family in ((MeanField, "mean-field"), (FullRank, "full-rank")):
        bound = logistic_bound(kind(options.features), X, T, options.prior)
        regressions.append(fit(f"symng, {family}", family, bound, options.steps, options.mode))
    if "advi" in options.peers:
        for family in ("mean-field", "full-rank"):
            for rate in (0.001, 0.01):
                name = f"ADVI({rate}), {family}"
                model = X, T, options.prior
                regressions.append(advi(name, family, *model, options.peer_steps, rate))
    x, y = process_data(options.examples, options.seed)
    inducing = np.linspace(x[0], x[-1], options.inducing)
    bound = process_bound(inducing, x, y)
    processes = [fit("symng", "process", bound, options.steps, options.mode)]
    if "gpjax" in options.peers:
        for rate in (0.01, 0.1):
            name, steps = f"GPJax, Adam({rate})", options.peer_steps // 10
            processes.append(natgrads(name, inducing, x, y, steps, rate))
    panels = {"logistic regression": regressions, "sparse Gaussian process": processes}
    for title, runs in panels.items():
        for run in runs:
            print(f"{title}, {describe(run, runs)}")
    path = options.out / "variational.png"
    draw(panels, (x, y), process_at(bound, inducing, x), path)
    print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
