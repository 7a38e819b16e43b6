"""The presets against the numbers of the paper, and of the authors' programs where it has none.

The expected numbers are typed from the paper: a preset that is changed by mistake fails here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from helpers.figure2_example import figure2

EXAMPLES = Path(__file__).parents[2] / "examples"

# Program and arguments, setting, value, where it is said.
NGD = "curves --preset paper --optimizer ngd"
NGD_L = "curves --preset paper --optimizer ngd-l"
NCG_L = "curves --preset paper --optimizer ncg-l"
NCG_F = "curves --preset paper --optimizer ncg-f"
SGD = "curves --preset paper --optimizer sgd"
ALGORITHM_2 = "curves --preset algorithm-2"
TFD = "figure1 --preset paper"
AUTHORS = "figure1 --preset authors"
NISTP = "figure2 --preset paper"
CURVES_SIZES = [784, 400, 200, 100, 50, 25, 6]
TABLE: list[tuple[str, str, Any, str]] = [
    (NGD, "options.examples", 20_000, "section 10, 20K training examples"),
    (NGD, "options.sizes", CURVES_SIZES, "appendix, Curves: hidden units; section 10: 784"),
    (NGD, "options.batch", 5000, "section 10 and appendix; the caption of figure 3 has 1000"),
    (NGD, "options.metric_batch", "other", "section 10, on different samples; section 11"),
    (NGD, "options.metric_examples", 5000, "section 10, as many as for the gradient"),
    (NGD, "optimizer.step_size.size", 1.0, "section 10 and appendix"),
    (NGD, "optimizer.damping.initial", 3.0, "appendix, Curves"),
    (NGD, "optimizer.damping.ratio", "linear", "equations 17 and 32"),
    (NGD, "optimizer.solver.maxiter", 250, "appendix, Curves"),
    (NGD, "solver", "MinresQLP", "appendix, Curves"),
    (NGD_L, "solver", "MinresQLP", "appendix, Curves"),
    (NGD_L, "options.batch", 20_000, "section 10, batch mode"),
    (NGD_L, "options.metric_batch", "same", "section 10, batch mode"),
    (NGD_L, "step_size", "BacktrackingLineSearch", "section 10, a line search"),
    (NGD_L, "optimizer.damping.initial", 3.0, "appendix, Curves"),
    (NGD_L, "optimizer.solver.maxiter", 250, "appendix, Curves"),
    (NCG_L, "options.batch", 20_000, "appendix, Curves: the full batch"),
    (NCG_L, "options.metric_batch", "same", "appendix, Curves: the full batch"),
    (NCG_L, "options.search_batch", "same", "appendix, Curves: for alpha and beta too"),
    (NCG_L, "beta", "PlaneSearch", "equation 21, appendix: fmin_cobyla"),
    (NCG_L, "optimizer.damping.initial", 3.0, "appendix, Curves"),
    (NCG_L, "optimizer.solver.maxiter", 250, "appendix, Curves"),
    (NCG_L, "solver", "MinresQLP", "appendix, Curves"),
    (NCG_F, "options.batch", 20_000, "section 10, full batch mode"),
    (NCG_F, "solver", "MinresQLP", "appendix, Curves"),
    (NCG_F, "optimizer.damping.initial", 3.0, "appendix, Curves"),
    (NCG_F, "optimizer.solver.maxiter", 250, "appendix, Curves"),
    (NCG_F, "options.metric_batch", "same", "section 10, full batch mode"),
    (NCG_F, "beta", "PolakRibiere", "section 10"),
    (NCG_F, "step_size", "BacktrackingLineSearch", "section 10, standard line search"),
    (SGD, "options.batch", 100, "section 10 and appendix"),
    (SGD, "optimizer.step_size.size", 0.01, "section 10 and appendix"),
    (SGD, "optimizer.momentum", 0.0, "appendix, Curves"),
    (ALGORITHM_2, "solver", "CG", "algorithm 2, linear_cg"),
    (ALGORITHM_2, "optimizer.solver.maxiter", 20, "algorithm 2, max_iters"),
    (ALGORITHM_2, "optimizer.solver.rtol", 0.0, "theano_optimize: no relative test"),
    (ALGORITHM_2, "optimizer.solver.atol", 0.01, "algorithm 2, rtol 1e-4 of the squared residual"),
    (ALGORITHM_2, "optimizer.step_size.size", 1.0, "algorithm 2: no line search; section 10"),
    (TFD, "options.filters", 512, "section 7 and appendix"),
    (TFD, "options.filter_size", 14, "section 7 and appendix"),
    (TFD, "options.units", 1024, "section 7 and appendix"),
    (TFD, "options.network", "sigmoid", "section 7 and appendix"),
    (TFD, "options.fold", 3, "figure 1: fold 4, the fourth"),
    (TFD, "gradient_batch", 256, "figure 1 and appendix"),
    (TFD, "metric_batch", 384, "figure 1 and appendix"),
    (TFD, "optimizer.step_size.size", 0.2, "appendix, TFD"),
    (TFD, "optimizer.damping.initial", 5.0, "appendix, TFD"),
    (TFD, "optimizer.damping.ratio", "linear", "appendix, TFD: Levenberg-Marquardt; equation 32"),
    (TFD, "optimizer.solver.maxiter", 50, "appendix, TFD"),
    (TFD, "solver", "MinresQLP", "appendix, TFD"),
    (AUTHORS, "options.network", "relu-tanh", "model_convTFD_fast.py"),
    (AUTHORS, "options.filters", 16, "model_convTFD_fast.py"),
    (AUTHORS, "options.filter_size", 9, "model_convTFD_fast.py"),
    (AUTHORS, "options.stride", 1, "model_convTFD_fast.py"),
    (AUTHORS, "options.max_pool", 5, "model_convTFD_fast.py"),
    (AUTHORS, "options.pool", 1, "dataTFD_standard.py, images of 48 x 48"),
    (AUTHORS, "options.contrast", "authors", "dataTFD_standard.py, LCN"),
    (AUTHORS, "options.units", 256, "model_convTFD_fast.py"),
    (AUTHORS, "options.mixture", 256, "dataTFD_standard.py, bs of mbs"),
    (AUTHORS, "options.outputs", "mean", "model_convTFD_fast.py, TT.mean"),
    (AUTHORS, "options.steps", 6000, "run_fast_tfd.py"),
    (AUTHORS, "options.evaluate_every", 20, "run_fast_tfd.py"),
    (AUTHORS, "gradient_batch", 256, "run_fast_tfd.py, 128 * 2"),
    (AUTHORS, "metric_batch", 384, "run_fast_tfd.py, 128 * 3"),
    (AUTHORS, "optimizer.step_size.size", 0.2, "run_fast_tfd.py"),
    (AUTHORS, "optimizer.damping.initial", 5.0, "run_fast_tfd.py"),
    (AUTHORS, "optimizer.damping.minimum", 0.5, "run_fast_tfd.py, mindamp"),
    (AUTHORS, "optimizer.damping.increase", 1.25, "run_fast_tfd.py, damp_ratio"),
    (AUTHORS, "optimizer.damping.decrease", 0.8, "run_fast_tfd.py, damp_ratio"),
    (AUTHORS, "optimizer.solver.maxiter", 50, "run_fast_tfd.py"),
    (AUTHORS, "optimizer.solver.rtol", 1e-4, "run_fast_tfd.py"),
    (AUTHORS, "optimizer.solver.transition_condition", 1e-4, "run_fast_tfd.py"),
    (NISTP, "millions", 32.7, "section 8"),
    (NISTP, "options.segments", 10, "algorithm 1"),
    (NISTP, "options.replicas", 5, "algorithm 1"),
    (NISTP, "options.held_out", 10_000, "algorithm 1"),
    (NISTP, "options.hidden", 500, "appendix, NISTP"),
    (NISTP, "options.batch", 512, "section 8 and appendix"),
    (NISTP, "options.damping", 3.0, "appendix, NISTP"),
    (NISTP, "options.step_sizes", [0.1, 0.2], "appendix, NISTP: MSGD, natural gradient"),
]


@pytest.fixture(scope="module")
def figure1() -> Iterator[ModuleType]:
    """Return the settings of examples/figure1."""
    kept, path = {name: sys.modules.pop(name, None) for name in ("settings", "tables")}, sys.path
    sys.path = [str(EXAMPLES / "figure1"), *path]
    yield importlib.import_module("settings")
    sys.path = path
    for name, module in kept.items():
        sys.modules.pop(name)
        if module is not None:
            sys.modules[name] = module


def read(command: str, figure1: ModuleType) -> SimpleNamespace:
    """Return the options of a command line, its optimizer, and what kinds its parts are."""
    program, *arguments = command.split()
    if program == "figure2":
        options = figure2.parse(arguments)
        return SimpleNamespace(options=options, millions=options.samples / 1e6)
    module: Any = figure1 if program == "figure1" else importlib.import_module("curves")
    options = module.parse(arguments)
    found = SimpleNamespace(options=options, optimizer=module.make_optimizer(options))
    for part in ("solver", "step_size", "beta"):
        setattr(found, part, type(getattr(found.optimizer, part, None)).__name__)
    found.gradient_batch, found.metric_batch = figure1.GRADIENT_BATCH, figure1.METRIC_BATCH
    return found


@pytest.mark.parametrize("command, setting, value, where", TABLE)
def test_presets_have_the_numbers_of_the_paper(figure1, command, setting, value, where):
    found = attrgetter(setting)(read(command, figure1))
    if isinstance(value, float):
        value = pytest.approx(value, rel=1e-12)
    assert found == value, f"{command}: {setting} ({where})"
