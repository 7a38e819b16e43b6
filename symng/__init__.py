"""symng: natural-gradient optimization of models written as PyTensor graphs."""

import importlib as _importlib
import sys as _sys
import typing as _typing

from symng.backends import enable_jax, keep_memory, set_mode
from symng.graphs import vectors
from symng.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Poisson
from symng.metrics import EmpiricalFisher, Fisher, GaussNewton, Hessian, Metric, StructuralDamping
from symng.objective import EnergyObjective, Match, Objective
from symng.operators import LinearOperator
from symng.optimizers import (
    SGD,
    TONGA,
    Adam,
    FletcherReeves,
    HessianFree,
    HestenesStiefel,
    JacobiPreconditioner,
    KroneckerPreconditioner,
    KrylovSubspaceDescent,
    NaturalConjugateGradient,
    NaturalGradient,
    Optimizer,
    PlaneSearch,
    PolakRibiere,
    Preconditioner,
    QuadraticModel,
    Step,
)
from symng.optimizers.damping import Damping, FixedDamping, LevenbergMarquardt
from symng.optimizers.step_sizes import BacktrackingLineSearch, FixedStep, StepSize
from symng.solvers import (
    CG,
    MinresQLP,
    Solution,
    Solver,
    Status,
    Woodbury,
    diagonal_preconditioner,
)
from symng.training import CompiledStep, StepInfo, TrainingResult, compile_step, minimize
from symng.training.history import History

__version__ = "0.1.0"

_sys.modules[f"{__name__}.vectors"] = vectors  # so that it can be imported by its public name

__all__ = [
    "Adam",
    "BacktrackingLineSearch",
    "Bernoulli",
    "CG",
    "Categorical",
    "CompiledStep",
    "Damping",
    "EmpiricalFisher",
    "EnergyObjective",
    "Fisher",
    "FixedDamping",
    "FixedStep",
    "FletcherReeves",
    "GaussNewton",
    "Gaussian",
    "Hessian",
    "HessianFree",
    "HestenesStiefel",
    "History",
    "JacobiPreconditioner",
    "KroneckerPreconditioner",
    "KrylovSubspaceDescent",
    "LevenbergMarquardt",
    "Likelihood",
    "LinearOperator",
    "Match",
    "Metric",
    "MinresQLP",
    "NaturalConjugateGradient",
    "NaturalGradient",
    "Objective",
    "Optimizer",
    "PlaneSearch",
    "Poisson",
    "PolakRibiere",
    "Preconditioner",
    "QuadraticModel",
    "SGD",
    "Solution",
    "Solver",
    "Status",
    "Step",
    "StepInfo",
    "StepSize",
    "StructuralDamping",
    "TONGA",
    "TrainingResult",
    "Woodbury",
    "compile_step",
    "diagonal_preconditioner",
    "enable_jax",
    "keep_memory",
    "minimize",
    "set_mode",
]

if _typing.TYPE_CHECKING:
    from symng import datasets, models  # noqa: F401
else:

    def __getattr__(name):
        """Import ``symng.datasets`` and ``symng.models`` when they are asked for, as not every program does."""
        if name in ("datasets", "models"):
            return _importlib.import_module(f"symng.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), "datasets", "models"})
