"""symng: natural-gradient optimization of models written as PyTensor graphs."""

import importlib as _importlib
import sys as _sys
import typing as _typing

from symng.backends import compile_function, enable_jax, keep_memory, resolve_mode, set_mode
from symng.graphs import vectors
from symng.graphs.config import full_repr
from symng.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Poisson
from symng.metrics import (
    EmpiricalFisher,
    Fisher,
    GaussNewton,
    Hessian,
    Metric,
    StructuralDamping,
    pullback,
    pushforward,
)
from symng.objective import Batch, EnergyObjective, Match, Objective, ObjectiveSum
from symng.operators import LinearOperator
from symng.optimizers import (
    SGD,
    TONGA,
    Adam,
    BacktrackingLineSearch,
    Damping,
    FixedDamping,
    FixedStep,
    FletcherReeves,
    HessianFree,
    HestenesStiefel,
    JacobiPreconditioner,
    KLTrustRegion,
    KroneckerPreconditioner,
    KrylovSubspaceDescent,
    LevenbergMarquardt,
    NaturalConjugateGradient,
    NaturalGradient,
    NystromPreconditioner,
    Optimizer,
    PlaneSearch,
    PolakRibiere,
    Preconditioner,
    QuadraticModel,
    QuadraticModelStep,
    State,
    Step,
    StepBatches,
    StepSize,
)
from symng.solvers import (
    CG,
    QR,
    MinresQLP,
    Solution,
    Solver,
    Status,
    Woodbury,
    diagonal_preconditioner,
    solve,
)
from symng.training import (
    CompiledStep,
    DeferredInterrupt,
    EarlyStopping,
    History,
    StepInfo,
    TrainingResult,
    compile_step,
    load_checkpoint,
    minimize,
    save_checkpoint,
)

__version__ = "0.1.0"

_sys.modules[f"{__name__}.vectors"] = vectors  # for `import symng.vectors`

__all__ = [
    "Adam",
    "BacktrackingLineSearch",
    "Batch",
    "Bernoulli",
    "CG",
    "Categorical",
    "CompiledStep",
    "Damping",
    "DeferredInterrupt",
    "EarlyStopping",
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
    "KLTrustRegion",
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
    "NystromPreconditioner",
    "Objective",
    "ObjectiveSum",
    "Optimizer",
    "PlaneSearch",
    "Poisson",
    "PolakRibiere",
    "Preconditioner",
    "QR",
    "QuadraticModel",
    "QuadraticModelStep",
    "SGD",
    "Solution",
    "Solver",
    "State",
    "Status",
    "Step",
    "StepBatches",
    "StepInfo",
    "StepSize",
    "StructuralDamping",
    "TONGA",
    "TrainingResult",
    "Woodbury",
    "compile_function",
    "compile_step",
    "diagonal_preconditioner",
    "enable_jax",
    "full_repr",
    "keep_memory",
    "load_checkpoint",
    "minimize",
    "pullback",
    "pushforward",
    "resolve_mode",
    "save_checkpoint",
    "set_mode",
    "solve",
]

# Names that lead to other packages, each with the module of `symng.bridges` that has it.
_BRIDGES = {
    "from_pymc": "pymc",
    "from_pytensor_ml": "pytensor_ml",
    "pymc": "pymc",
    "pytensor_ml": "pytensor_ml",
    "scipy": "scipy",
}

if _typing.TYPE_CHECKING:
    from symng import datasets, models  # noqa: F401
    from symng.bridges import scipy  # noqa: F401
else:

    def __getattr__(name):
        """Import ``symng.datasets``, ``symng.models`` and the bridges on demand."""
        if name in ("datasets", "models"):
            return _importlib.import_module(f"symng.{name}")
        if name in _BRIDGES:
            bridge = _importlib.import_module("symng.bridges").load(_BRIDGES[name])
            return bridge if name in _BRIDGES.values() else getattr(bridge, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), "datasets", "models"})
