"""Time what an iteration of CG costs beside its product, here with a diagonal matrix in float32.

    PYTENSOR_FLAGS=blas__ldflags=-lopenblas python tests/benchmarks/vectors.py --size 842340

The results are medians of seconds per iteration on each backend.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import pytensor
import pytensor.tensor as pt

import symng
from symng.backends import backend_of, compile_function, to_numpy

ITERATIONS = 20


def main() -> None:
    """Time each backend and print a line for it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=842_340)
    parser.add_argument("--modes", nargs="+", default=["CVM", "NUMBA", "JAX"])
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    symng.keep_memory()
    # So wide a spectrum that no solve is done before its last iteration.
    diagonal = pytensor.shared(np.logspace(-4, 4, options.size).astype("float32"))
    b = pt.vector("b", dtype="float32")
    solver = symng.CG(rtol=0.0, maxiter=ITERATIONS, recompute=False)
    solution = solver.solve(lambda v: diagonal * v, b, damping=1e-4)
    vector = np.random.default_rng(0).standard_normal(options.size).astype("float32")
    runs, seconds = {}, {mode: [] for mode in options.modes}
    for mode in options.modes:
        function = compile_function([b], [solution.x, solution.niter], mode=mode)
        function.trust_input = True
        runs[mode] = function, backend_of(mode).device_put([vector])
    for turn in range(options.turns + 1):
        for mode, (function, arguments) in runs.items():
            start = time.perf_counter()
            done = int(to_numpy(function(*arguments))[1])
            if turn:  # the first one warms up
                seconds[mode].append((time.perf_counter() - start) / done)
    for mode, values in seconds.items():
        print(f"{mode}: {1000 * statistics.median(values):.2f} ms an iteration ({done} iterations)")


if __name__ == "__main__":
    main()
