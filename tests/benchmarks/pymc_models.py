"""MAP estimates of PyMC models by symng, PyMC and pymc-extras, which has to be installed.

    python tests/benchmarks/pymc_models.py                     # twelve models
    python tests/benchmarks/pymc_models.py --large             # two of 1,000 and of 10,000 numbers
    python tests/benchmarks/pymc_models.py --laplace           # normal approximations
    python tests/benchmarks/pymc_models.py --only logistic GP

Prints a table in Markdown: the negative log posterior reached, the seconds of the whole call, and
in parentheses those of its steps alone, without compilation. All run in one process, one after the
other, with nothing compiled before.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import tempfile
import time
import warnings

os.environ["PYTENSOR_FLAGS"] = ",".join(
    filter(None, [os.environ.get("PYTENSOR_FLAGS"), f"base_compiledir={tempfile.mkdtemp()}"])
)

import jax
import numpy as np
import pymc as pm
import pymc_extras as pmx
import scipy.optimize
from pymc_posteriors import LARGE, SMALL, hierarchical_logistic

import symng
from symng.bridges import _pymc_mode

jax.config.update("jax_enable_x64", True)
warnings.simplefilter("ignore", FutureWarning)

steps: dict[str, float] = {}  # seconds of the steps of the last call
status: dict[str, str] = {}


def time_steps() -> None:
    """Record how long the steps take, once all is compiled."""
    ours, theirs = _pymc_mode.minimize, scipy.optimize.minimize
    of_extras = importlib.import_module("better_optimize.minimize")

    def minimize_ours(*args, **kwargs):
        result = ours(*args, **kwargs)
        seconds = result.history["seconds"]
        # The first step compiles on JAX; it counts as one like the others.
        count = max(len(seconds) - 1, 1)
        steps["seconds"] = (seconds[-1] - seconds[0]) * (count + 1) / count
        status["end"] = f"{len(seconds)} steps"
        return result

    def minimize_theirs(fun, x0, *args, hessp=None, **kwargs):
        fun(x0)
        if hessp is not None:
            hessp(x0, x0)
        start = time.perf_counter()
        try:
            result = theirs(fun, x0, *args, hessp=hessp, **kwargs)
        finally:
            steps["seconds"] = time.perf_counter() - start
            status["end"] = "stopped"
        status["end"] = f"{'converged' if result.success else result.message}, {result.nit} steps"
        return result

    _pymc_mode.minimize = minimize_ours
    scipy.optimize.minimize = of_extras.sp_minimize = minimize_theirs


def by_symng(model: pm.Model) -> dict:
    found = symng.pymc.find_MAP(model, progressbar=False, return_inferencedata=False)
    return {v.name: found[v.name] for v in model.value_vars}


def by_pymc(model: pm.Model) -> dict:
    options = {"jitter": False, "return_inferencedata": False}  # of PyMC 6.4
    known = set(options) & set(inspect.signature(pm.find_MAP).parameters)
    found = pm.find_MAP(model=model, progressbar=False, **{name: options[name] for name in known})
    return {v.name: found[v.name] for v in model.value_vars}


# Settings of pymc-extras, for both of its functions.
EXTRAS = {
    "use_hessp": True,
    "gradient_backend": "jax",
    "progressbar": False,
    "compile_kwargs": {"mode": "JAX"},
}


def by_extras(model: pm.Model) -> dict:
    found = pmx.find_MAP("trust-ncg", model=model, **EXTRAS)
    point = {}
    for name, start in model.initial_point().items():
        group = "posterior" if name in found["posterior"] else "unconstrained_posterior"
        point[name] = found[group][name].values.reshape(start.shape)
    return point


METHODS = {
    "symng.pymc.find_MAP": by_symng,
    "pm.find_MAP": by_pymc,
    'pmx.find_MAP, "trust-ncg"': by_extras,
}


def compare(models: dict) -> None:
    names = list(METHODS)
    print(f"| model | numbers | {' | '.join(names)} |", flush=True)
    print("|---|" + "---|" * (len(names) + 1))
    ends = []
    for name, make in models.items():
        model, cells = make(), []
        size = sum(v.size for v in model.initial_point().values())
        logp = model.compile_logp(jacobian=False, mode="FAST_COMPILE")
        for method, find in METHODS.items():
            steps.clear(), status.clear()
            start = time.perf_counter()
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    point = find(model)
                    warned = [
                        str(w.message) for w in caught if "has not converged" in str(w.message)
                    ]
                    status["end"] += "; " + warned[0] if warned else ""
                seconds = time.perf_counter() - start
                loss = -float(logp(point))
                cells.append(f"{loss:.6f}; {seconds:.1f} s ({steps['seconds']:.3g} s)")
                ends.append(f"{name}, {method}: {status['end']}")
            except Exception as error:
                cells.append(f"fails: {type(error).__name__}")
                ends.append(f"{name}, {method}: {error}"[:300])
        print(f"| {name} | {size:,} | {' | '.join(cells)} |", flush=True)
    print("\n" + "\n".join(ends))


def compare_laplace() -> None:
    """Print the largest difference of standard deviations, and the seconds of both."""
    print("| model | numbers | symng.pymc.laplace | pmx.fit_laplace | difference of deviations |")
    print("|---|---|---|---|---|", flush=True)
    for name, make, draws in (
        ("logistic", SMALL["logistic"], 500),
        ("Poisson", SMALL["Poisson"], 500),
        ("hierarchical logistic, 1,000 groups", hierarchical_logistic, 500),
        ("hierarchical logistic, 100,000 groups", lambda: hierarchical_logistic(100_000, 3), 10),
    ):
        model = make()
        size = sum(v.size for v in model.initial_point().values())
        start = time.perf_counter()
        ours = symng.pymc.laplace(model, draws=draws, jacobian=False, progressbar=False)
        seconds = time.perf_counter() - start
        try:
            if size > 20_000:
                raise MemoryError(f"a matrix of {8 * size**2 / 1e9:.0f} GB")
            start = time.perf_counter()
            theirs = pmx.fit_laplace("trust-ncg", model=model, draws=draws, **EXTRAS)
            other = f"{time.perf_counter() - start:.1f} s"
            matrices = [tree["fit"]["covariance_matrix"] for tree in (ours, theirs)]
            rows = matrices[0]["rows"].values
            deviations = [np.sqrt(np.diag(m.sel(rows=rows, columns=rows))) for m in matrices]
            difference = f"{np.abs(deviations[0] / deviations[1] - 1).max():.1e}"
        except Exception as error:
            other, difference = f"{type(error).__name__}: {error}"[:80], ""
        print(f"| {name} | {size:,} | {seconds:.1f} s | {other} | {difference} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--laplace", action="store_true")
    parser.add_argument("--only", nargs="+", default=None)
    options = parser.parse_args()
    time_steps()
    if options.laplace:
        compare_laplace()
        return
    models = LARGE if options.large else SMALL
    compare({name: models[name] for name in options.only or models})


if __name__ == "__main__":
    main()
