"""The Curves network of the benchmarks: a compiled step, and the bare matrix products of F v.

    python tests/benchmarks/curves_network.py --mode JAX --examples 20000 --chunk-size 2000

takes one step in a fresh process and prints its cost as one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SIZES = [784, 400, 200, 100, 50, 25, 6]
ALL_SIZES = SIZES + SIZES[-2::-1]


def make_objective(seed: int = 0):
    """Return the objective of the deep autoencoder in float32."""
    import pytensor.tensor as pt

    import symng
    from symng.models import autoencoder, binary_cross_entropy_with_logits

    x = pt.matrix("x", dtype="float32")
    model = autoencoder(x, SIZES, initializer="sparse", seed=seed, dtype="float32")
    loss = binary_cross_entropy_with_logits(model.preactivation, x).mean()
    return symng.Objective(loss, output=model.output, params=model.params, inputs=[x])


def make_step(mode: str | None, solver: str = "minres-qlp", chunk_size: int | None = None):
    """Return a step of a fixed number of iterations, set by ``step.hyperparameters["maxiter"]``."""
    import symng

    kind = symng.CG if solver == "cg" else symng.MinresQLP
    optimizer = symng.NaturalGradient(
        solver=kind(rtol=0.0, maxiter=20, recompute=False),
        damping=symng.FixedDamping(value=1.0),
        step_size=1e-6,
    )
    return symng.compile_step(make_objective(), optimizer, mode=mode, chunk_size=chunk_size)


def make_bare_products(examples: int, sizes: Sequence[int] = ALL_SIZES) -> Callable[[], None]:
    """Return a function that makes the matrix products of one product with F, by NumPy's BLAS.

    The floor.
    """
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal(s).astype("float32") for s in itertools.pairwise(sizes)]
    layers = [rng.random((examples, size)).astype("float32") for size in sizes]

    def run() -> None:
        for i, w in enumerate(weights):
            layers[i] @ w
            if i:
                layers[i] @ w
        for i, w in reversed(list(enumerate(weights))):
            layers[i].T @ layers[i + 1]
            if i:
                layers[i + 1] @ w.T

    return run


def peak_mib() -> float:
    """Return the largest resident memory of this program so far, in MiB.

    Linux gives it under VmHWM; its ru_maxrss begins at the size of the process that started this
    one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 2**10
        )
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Take a step with 100 images and one with ``--examples``; print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--chunk-size", type=int)
    options = parser.parse_args()
    start = time.perf_counter()
    from symng.datasets import curves

    imported = time.perf_counter() - start
    step = make_step(options.mode, chunk_size=options.chunk_size)
    step((curves(100),))
    first = time.perf_counter() - start
    small = peak_mib()
    images = curves(options.examples)
    before = peak_mib()
    step((images,))
    # All that a step updates, and so what donated buffers could save at most.
    updated = [*step.objective.params, *step.state.values()]
    print(
        json.dumps(
            {
                "mode": options.mode,
                "examples": options.examples,
                "chunk_size": options.chunk_size,
                "import_s": round(imported, 2),
                "first_step_s": round(first, 2),
                "peak_after_100_mib": round(small, 1),
                "peak_with_images_mib": round(before, 1),
                "growth_mib": round(peak_mib() - small, 1),
                "updated_mib": round(
                    sum(np.asarray(v.get_value()).nbytes for v in updated) / 2**20, 1
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
