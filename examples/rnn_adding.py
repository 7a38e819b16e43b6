"""Train a recurrent network on the adding problem, with and without structural damping.

    python examples/rnn_adding.py    # sequences of 50 steps, both ways, 60 seconds of training each
    python examples/rnn_adding.py --length 30 --hidden 30
    python examples/rnn_adding.py --runs structural --seed 1

Leaves in --out: history-plain.npz and history-structural.npz (one row a step; test_error is the
mean squared error on sequences that are not trained on, solved the share of them with an error
below 0.04), rnn_adding.png and config.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

# The matrices of a time step are small: threads would mostly wait for each other, above all where
# other work shares the cores.
if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytensor
import pytensor.tensor as pt
from command_line import add_mode, is_ready, positive, seed, whole

import symng
from symng.datasets import adding
from symng.models import sparse_init, squared_error
from symng.plot import training_curves

RUNS = {"plain": "Hessian-free", "structural": "with structural damping"}


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", choices=[*RUNS, "both"], default="both", help="without or with structural damping"
    )
    parser.add_argument("--length", type=whole, default=50, help="steps of a sequence, at least 6")
    parser.add_argument("--hidden", type=whole, default=50, help="hidden units")
    parser.add_argument(
        "--radius",
        type=positive,
        default=1.1,
        help="spectral radius of the first recurrent weights",
    )
    parser.add_argument("--steps", type=whole, help="optimization steps at most")
    parser.add_argument(
        "--seconds", type=positive, help="seconds of training at most; 60 unless --steps is given"
    )
    parser.add_argument("--examples", type=whole, default=10_000, help="training sequences")
    parser.add_argument("--batch", type=whole, default=500, help="sequences in a gradient batch")
    parser.add_argument(
        "--metric-examples", type=whole, default=250, help="other sequences for the metric"
    )
    parser.add_argument("--iterations", type=whole, default=50, help="iterations of CG at most")
    parser.add_argument("--damping", type=positive, default=0.1, help="damping of the first step")
    parser.add_argument(
        "--coefficient", type=positive, default=0.03, help="structural damping, times the damping"
    )
    add_mode(parser)
    parser.add_argument(
        "--seed", type=seed, default=0, help="of sequences, first weights and order of examples"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/rnn_adding"), help="folder of the results"
    )
    return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.length < 6:
        parser.error(f"--length: expected at least 6, got {options.length}")
    if options.batch + options.metric_examples > options.examples:
        needed = options.batch + options.metric_examples
        parser.error(
            f"--examples: expected at least --batch plus --metric-examples, {needed}, got "
            f"{options.examples}"
        )
    if options.seconds is None and options.steps is None:
        options.seconds = 60.0
    return options


def make_objective(hidden: int, radius: float, seed: int) -> symng.Objective:
    """Return a network from x (time, example, 2) to y (example, 1), and half its squared error.

    The weights are those of Martens and Sutskever: 15 incoming ones a unit, the recurrent ones
    scaled to a spectral radius.
    """
    rng = np.random.default_rng(seed)
    recurrent = sparse_init(rng, hidden, hidden, "float64")
    recurrent *= radius / abs(np.linalg.eigvals(recurrent)).max()
    values = {
        "W_in": sparse_init(rng, 2, hidden, "float32"),
        "W": recurrent.astype("float32"),
        "b": np.zeros(hidden, "float32"),
        "W_out": sparse_init(rng, hidden, 1, "float32", scale=0.1),
        "b_out": np.full(1, 0.5, "float32"),
    }
    params = [pytensor.shared(value, name=name) for name, value in values.items()]
    W_in, W, b, W_out, b_out = params
    x, t = pt.tensor3("x", dtype="float32", shape=(None, None, 2)), pt.matrix("t", dtype="float32")
    states = pytensor.scan(
        lambda x_t, h: pt.tanh(pt.dot(x_t, W_in) + pt.dot(h, W) + b),
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], hidden), dtype="float32")],
        return_updates=False,
    )
    y = pt.dot(states[-1], W_out) + b_out
    loss = squared_error(y, t).mean() / 2
    return symng.Objective(loss, output=y, params=params, inputs=[x], targets=[t], data_axes=[1, 0])


def make_optimizer(options: argparse.Namespace, structural: bool) -> symng.Optimizer:
    """Return Hessian-free, with or without the metric of the hidden states added."""
    metric: symng.Metric = symng.Fisher()  # which the Gauss-Newton matrix equals here
    if structural:
        metric = symng.StructuralDamping(
            metric=metric, coefficient=options.coefficient, relative=True
        )
    return symng.HessianFree(
        metric=metric,
        solver=symng.CG(
            rtol=0.0,
            maxiter=options.iterations,
            progress_rtol=5e-4,
            keep_iterates=1.3,
            recompute=False,
        ),
        damping=symng.LevenbergMarquardt(
            initial=options.damping, ratio="quadratic", reject_below=0.0
        ),
        preconditioner=None,  # Martens's would need 8 more passes back through time
    )


def train(options: argparse.Namespace, name: str) -> symng.TrainingResult:
    """Train one way, from the same weights on the same sequences as the other."""
    data = adding(options.examples, options.length, seed=options.seed)
    unseen, targets = adding(1000, options.length, seed=options.seed + 1_000_000)
    objective = make_objective(options.hidden, options.radius, options.seed)
    predict = symng.compile_function(objective.inputs, objective.output, mode=options.mode)

    def evaluate() -> dict[str, float]:
        errors = np.asarray(predict(unseen)) - targets
        return {
            "test_error": float((errors**2).mean()),
            "solved": float((abs(errors) < 0.04).mean()),
        }

    print(
        f"\n{RUNS[name]}: {objective.size:,} parameters, test error {evaluate()['test_error']:.4f} "
        "at the start"
    )
    return symng.minimize(
        objective,
        make_optimizer(options, name == "structural"),
        data=data,
        batch_size=options.batch,
        metric_batch="other",
        metric_batch_size=options.metric_examples,
        max_steps=options.steps,
        max_seconds=options.seconds,
        evaluate=evaluate,
        seed=options.seed,
        mode=options.mode,
    )


def main(arguments: list[str] | None = None) -> int:
    """Train both ways, and leave histories, picture and configuration in the folder of results."""
    options = parse(arguments)
    config: dict[str, Any] = {
        name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()
    }
    if not is_ready(options):
        return 2
    print("Predicting 0.5 for every sequence gives a mean squared error of about 0.042.")
    histories, outcome = {}, {}
    for name in RUNS if options.runs == "both" else (options.runs,):
        result = train(options, name)
        if not result.steps:
            print(f"No step was taken ({result.status}).")
            continue
        history = result.history
        history.save(options.out / f"history-{name}.npz")
        histories[RUNS[name]] = history
        outcome[name] = {
            "stopped": result.status,
            "steps": result.steps,
            "seconds": round(result.seconds, 1),
            "compile_seconds": round(result.compile_seconds, 1),
        }
        print(
            f"{result.steps} steps in {result.seconds:.1f} s of training ({result.status}), "
            f"{result.compile_seconds:.1f} s of compilation: test error "
            f"{history['test_error'][-1]:.5f}, {history['solved'][-1]:.1%} solved"
        )
        if result.status == "interrupted":
            break
    (options.out / "config.json").write_text(
        json.dumps(config | {"outcome": outcome}, indent=2) + "\n"
    )
    if not histories:
        return 1
    training_curves(histories, "test_error", path=options.out / "rnn_adding.png")
    print(f"\nResults in {options.out}: {', '.join(sorted(p.name for p in options.out.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
