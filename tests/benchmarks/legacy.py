"""Time a step of natgrad's MLP through symng.legacy beside the same step of symng.

    PYTENSOR_FLAGS=blas__ldflags=-lopenblas python tests/benchmarks/legacy.py
    python tests/benchmarks/legacy.py --modes CVM --original PYTHON --sources FOLDERS

All are the preset of natgrad on made-up digits, from the same weights: 784-1500-10, batches of
2,500, float32. symng.legacy and symng take turns in one process. The table has medians of seconds:

    first step   to build, compile and take a step
    step         of the preset, with 8 or 9 iterations of MINRES-QLP
    long step    of 30 iterations, with little damping and no tolerance
    iteration    what a long step takes beyond one of 10 iterations, by the number of iterations

As natgrad does within a step, the one of symng is followed by cost and error of a second batch.
PYTHON is a Python 2 with Theano 0.6; FOLDERS, joined by colons, have the files of natgrad, and a
package `minres` with those of theano_optimize. It runs first, in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

INPUTS, CLASSES = 784, 10
# Iterations, tolerance, damping and step size of each kind of step.
SHORT, LONG = "short step", "long step"
KINDS = {
    "step": (30, 1e-4, 6.0, 1.0),
    LONG: (30, 0.0, 1e-3, 1e-3),
    SHORT: (10, 0.0, 1e-3, 1e-3),
}
ROWS = ("first step", "step", LONG, "iteration")

State = dict[str, Any]
Take = Callable[[str], int]
"""From a kind of step to its iterations."""
Times = dict[str, list[tuple[float, int]]]
"""Seconds and iterations of the steps of each kind."""

ORIGINAL = """
import json, sys, time
import numpy
answers, sys.stdout = sys.stdout, sys.stderr
turns, state, kinds = json.load(open(sys.argv[1]))
from model_mlpMNIST_standard import mlp
from natSGD import natSGD
from dataMNIST_standard import DataMNIST
found = {}
for name, (miters, mrtol, damp, lr) in kinds:
    state.update(miters=miters, mrtol=mrtol, damp=damp, lr=lr)
    start = time.time()
    rng = numpy.random.RandomState(state["seed"])
    data = DataMNIST(state["path"], state["mbs"], state["bs"], rng, state["unlabled"])
    algo = natSGD(mlp(state, data), state, data)
    algo()
    found[name] = [[time.time() - start, 0]]
    for turn in range(turns):
        start = time.time()
        step = algo()
        found[name].append([time.time() - start, int(step["minres_iters"])])
answers.write(json.dumps(found))
"""


def write_digits(path: Path, examples: int, batch: int) -> None:
    """Write made-up digits as natgrad reads them."""
    rng = np.random.RandomState(0)
    x = rng.rand(examples, INPUTS).astype("float32")
    y = np.argmax((x - 0.5) @ rng.normal(size=(INPUTS, CLASSES)), axis=1).astype("int32")
    held_out = {f"{name}_x": x[:batch] for name in ("valid", "test")}
    held_out |= {f"{name}_y": y[:batch] for name in ("valid", "test")}
    np.savez(path, train_x=x, train_y=y, **held_out)


def make_state(path: Path, hidden: int, batch: int) -> State:
    """Return the preset of natgrad, with a step size that stays."""
    from symng.legacy.natgrad import state_mlpMNIST

    sizes = dict.fromkeys(("bs", "mbs", "ebs", "cbs"), batch)
    return state_mlpMNIST | sizes | dict(path=str(path), nhid=hidden, lr_adapt=0, btraincost=1e20)


def make_legacy(state: State) -> Take:
    """Return a step of natSGD."""
    import pytensor

    from symng.legacy.natgrad import DataMNIST, mlp, natSGD

    state = state | dict(miters=pytensor.shared(30), mrtol=pytensor.shared(np.float32(1e-4)))
    rng = np.random.RandomState(state["seed"])
    data = DataMNIST(state["path"], state["mbs"], state["bs"], rng, state["unlabled"])
    algo = natSGD(mlp(state, data), state, data)

    def take(kind: str) -> int:
        miters, mrtol, damp, lr = KINDS[kind]
        state["miters"].set_value(miters)
        state["mrtol"].set_value(np.float32(mrtol))
        algo.damping.set_value(np.array(damp, "float32"))
        algo.lr = lr
        with contextlib.redirect_stdout(io.StringIO()):
            return algo()["minres_iters"]

    return take


def make_symng(state: State) -> Take:
    """Return the same step of symng, on the same batches in another order."""
    import pytensor
    import pytensor.tensor as pt

    import symng
    from symng.backends import to_numpy
    from symng.legacy.natgrad import DataMNIST, mlp

    rng, size = np.random.RandomState(state["seed"]), state["bs"]
    data = DataMNIST(state["path"], size, size, rng, 0)
    weights = [p.get_value() for p in mlp(state, data).params]
    x, y = pt.matrix("x"), pt.ivector("y")
    W, b, V, c = params = [pytensor.shared(value) for value in weights]
    p = pt.special.softmax(pt.sigmoid(x @ W + b) @ V + c, axis=-1)
    cost = -pt.log(p)[pt.arange(y.shape[0]), y].mean()
    objective = symng.Objective(cost, output=p, params=params, inputs=[x], targets=[y])
    optimizer = symng.NaturalGradient(
        solver=symng.MinresQLP(rtol=1e-4, maxiter=30, transition_condition=state["trancond"]),
        damping=symng.LevenbergMarquardt(initial=6.0),
        step_size=1.0,
    )
    step = symng.compile_step(objective, optimizer)
    error = pt.neq(p.argmax(axis=1), y).astype("float32").mean()
    evaluate = symng.compile_function([x, y], [cost, error])
    evaluated = [data.data[f"train_{v}"][: state["ebs"]] for v in "xy"]
    taken = 0

    def take(kind: str) -> int:
        nonlocal taken
        values = dict(zip(("maxiter", "rtol", "damping", "step_size"), KINDS[kind], strict=True))
        step.state["damping"].set_value(np.array(values.pop("damping"), "float32"))
        for name, value in values.items():
            variable = step.hyperparameters[name]
            variable.set_value(np.asarray(value, variable.type.dtype))
        start = taken % data.n_batches * size
        taken += 1
        batch = [data.data[f"train_{v}"][start : start + size] for v in "xy"]
        iterations = int(step(tuple(batch)).solver_iterations)
        to_numpy(evaluate(*evaluated))
        return iterations

    return take


def measure(
    makers: dict[str, Callable[[State], Take]],
    state: State,
    turns: int,
    clock: Callable[[], float],
) -> dict[str, Times]:
    """Return seconds and iterations of each kind of step, the contestants taking turns."""
    found: dict[str, Times] = {}
    takes = {}
    for name, make in makers.items():
        start = clock()
        takes[name] = make(state)
        takes[name]("step")
        found[name] = {"first step": [(clock() - start, 0)]}
    for kind in KINDS:
        for turn in range(turns + 1):
            for name in list(takes)[:: (-1) ** turn]:
                start = clock()
                niters = takes[name](kind)
                if turn:  # the first one warms up
                    seconds = clock() - start
                    found[name].setdefault(kind, []).append((seconds, niters))
    return found


def measure_original(python: str, sources: str, state: State, turns: int) -> Times:
    """Return the same of the original, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        script, task = Path(folder, "script.py"), Path(folder, "task.json")
        script.write_text(ORIGINAL)
        task.write_text(json.dumps([turns, state, list(KINDS.items())]))
        run = subprocess.run(
            [python, str(script), str(task)],
            env=os.environ | {"PYTHONPATH": sources},
            capture_output=True,
            text=True,
        )
    if run.returncode:
        raise SystemExit(run.stderr[-2000:])
    found = json.loads(run.stdout)
    firsts = [found[kind].pop(0) for kind in KINDS]
    return found | {"first step": firsts[:1]}


def summarize(found: Times) -> dict[str, float]:
    """Return the medians of seconds, and those of one iteration."""
    medians = {kind: statistics.median(s for s, _ in times) for kind, times in found.items()}
    iterations = {kind: statistics.median(n for _, n in times) for kind, times in found.items()}
    more = iterations[LONG] - iterations[SHORT]
    medians["iteration"] = (medians[LONG] - medians[SHORT]) / more
    return {row: medians[row] for row in ROWS} | {"iterations": iterations["step"]}


def describe(columns: dict[str, dict[str, float]], base: str) -> str:
    """Return a table in Markdown: seconds, and in brackets the ratio to a column."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in ROWS:
        cells = [f"{c[row]:.3f} s ({c[row] / columns[base][row]:.2f})" for c in columns.values()]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    niters = ", ".join(f"{name} {c['iterations']:.0f}" for name, c in columns.items())
    return "\n".join([*lines, "", f"Iterations of a step: {niters}"])


def main() -> None:
    """Print a table for each backend."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modes", nargs="+", default=["JAX", "CVM"])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--hidden", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=2500)
    parser.add_argument("--original", metavar="PYTHON")
    parser.add_argument("--sources", default="", metavar="FOLDERS")
    parser.add_argument(
        "--processor-time", action="store_true", help="of all threads, on a machine that is busy"
    )
    options = parser.parse_args()
    import pytensor

    import symng

    pytensor.config.floatX = "float32"
    symng.keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "digits.npz")
        write_digits(path, options.examples, options.batch)
        state = make_state(path, options.hidden, options.batch)
        clock = time.process_time if options.processor_time else time.perf_counter
        makers = {"symng": make_symng, "symng.legacy": make_legacy}
        original = {}
        if options.original:
            found = measure_original(options.original, options.sources, state, options.turns)
            original["original"] = summarize(found)
        for mode in options.modes:
            symng.set_mode(mode)
            found = measure(makers, state, options.turns, clock)
            columns = {name: summarize(times) for name, times in found.items()} | original
            print(f"{mode}\n\n{describe(columns, 'symng')}\n", flush=True)


if __name__ == "__main__":
    main()
