"""Train the Curves autoencoder by symng, Adam and kfac-jax, and print squared errors.

    pip install ".[examples]" kfac-jax "jax<0.9"  # kfac-jax 0.0.8 does not run on JAX 0.10
    python tests/benchmarks/curves_peers.py --seconds 300

All start from the same weights and see the same images. symng and Adam are examples/curves.py with
its defaults. kfac-jax runs with its adaptive damping, learning rate and momentum, those of Martens
and Grosse (2015). The clock is that of training: compilation and evaluation are not counted. Each
contestant is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).parents[2] / "examples" / "curves.py"
CONTESTANTS = ("symng", "adam", "kfac-jax")
TIMES = (30, 60, 120, 180, 240, 300)
AIM = 0.44

Curve = list[tuple[float, float]]
"""Seconds of training and the squared error per image after them."""


def run_symng(optimizer: str, seconds: float, seed: int) -> Curve:
    """Run examples/curves.py."""
    from symng import History

    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(EXAMPLE),
            "--optimizer",
            optimizer,
            "--seconds",
            str(seconds),
        ]
        command += ["--seed", str(seed), "--mode", "JAX", "--out", folder]
        subprocess.run(command, check=True, stdout=sys.stderr)
        history = History.load(Path(folder) / "history.npz")
    error = history["squared_error"]
    return [
        (float(s), float(e))
        for s, e in zip(history["seconds"], error, strict=True)
        if np.isfinite(e)
    ]


def run_kfac(seconds: float, seed: int, batch: int, damping: float, every: int = 20) -> Curve:
    """Run kfac-jax."""
    import jax
    import jax.numpy as jnp
    import kfac_jax
    import pytensor.tensor as pt

    import symng
    from symng.datasets import curves
    from symng.models import autoencoder

    symng.keep_memory()  # as the others do
    sizes = [784, 400, 200, 100, 50, 25, 6]
    model = autoencoder(
        pt.matrix("x", dtype="float32"), sizes, initializer="sparse", seed=seed, dtype="float32"
    )
    arrays = [p.get_value() for p in model.params]
    images = jnp.asarray(curves(20_000, seed=seed))
    layers = len(arrays) // 2

    def start() -> list[tuple[jax.Array, jax.Array]]:
        return [(jnp.array(arrays[2 * i]), jnp.array(arrays[2 * i + 1])) for i in range(layers)]

    def logits(params: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
        for i, (w, b) in enumerate(params):
            x = x @ w + b
            # The code is linear, the last sigmoid is in the loss.
            if i not in (
                len(sizes) - 2,
                layers - 1,
            ):
                x = jax.nn.sigmoid(x)
        return x

    def loss(params: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
        z = logits(params, x)
        kfac_jax.register_multi_bernoulli_predictive_distribution(z, x)
        return jnp.mean(jnp.sum(jax.nn.softplus(z) - x * z, axis=1))

    @jax.jit
    def squared_error(params: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
        return sum(
            jnp.sum((jax.nn.sigmoid(logits(params, c)) - c) ** 2) for c in jnp.split(images, 4)
        ) / len(images)

    optimizer = kfac_jax.Optimizer(
        jax.value_and_grad(loss),
        l2_reg=0.0,
        use_adaptive_learning_rate=True,
        use_adaptive_momentum=True,
        use_adaptive_damping=True,
        initial_damping=damping,
        num_burnin_steps=0,
    )
    rng = np.random.default_rng(seed)
    key = jax.random.PRNGKey(seed)

    def step(params, state, number: int):
        x = images[rng.choice(len(images), batch, replace=False)]
        return optimizer.step(
            params, state, jax.random.fold_in(key, number), batch=x, global_step_int=number
        )[:2]

    # Everything is compiled once before the clock starts: six steps hold one of each kind.
    params = start()
    state = optimizer.init(params, key, images[:batch])
    for number in range(6):
        params, state = step(params, state, number)
    squared_error(params)
    params = start()
    state = optimizer.init(params, key, images[:batch])
    found: Curve = []
    spent, number = 0.0, 0
    while spent < seconds:
        begun = time.perf_counter()
        for _ in range(every):
            params, state = step(params, state, number)
            number += 1
        jax.block_until_ready(params)
        spent += time.perf_counter() - begun
        found.append((spent, float(squared_error(params))))
        print(f"  step {number}, {spent:.1f} s: {found[-1][1]:.3f}", file=sys.stderr, flush=True)
    return found


def row_of(name: str, curve: Curve, times: list[int]) -> str:
    """Return a row of the table: the last error at each time, and when the aim was reached."""
    cells = []
    for t in times:
        before = [error for second, error in curve if second <= t]
        cells.append(f"{before[-1]:.2f}" if before else "-")
    reached = [second for second, error in curve if error <= AIM]
    return f"| {name} | {' | '.join(cells)} | {f'{reached[0]:.0f}' if reached else '-'} |"


def main() -> None:
    """Run the contestants and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="of training, for each contestant"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=2000, help="of kfac-jax")
    parser.add_argument("--damping", type=float, default=10.0, help="of kfac-jax, the first one")
    # Run kfac-jax and print its curve.
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        print(json.dumps(run_kfac(options.seconds, options.seed, options.batch, options.damping)))
        return
    times = [t for t in TIMES if t <= options.seconds]
    print(f"| squared error after | {' | '.join(f'{t} s' for t in times)} | seconds to {AIM} |")
    print("|---" * (len(times) + 2) + "|", flush=True)
    for name in options.contestants:
        if name == "kfac-jax":
            done = subprocess.run(
                [sys.executable, __file__, "--serve", *sys.argv[1:]],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            curve = json.loads(done.stdout.strip().splitlines()[-1])
        else:
            curve = run_symng("ngd" if name == "symng" else name, options.seconds, options.seed)
        print(row_of(name, curve, times), flush=True)


if __name__ == "__main__":
    main()
