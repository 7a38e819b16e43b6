"""symng: natural-gradient optimization of models written as PyTensor graphs."""

from symng.backends import enable_jax
from symng.damping import Damping, FixedDamping, LevenbergMarquardt
from symng.history import History
from symng.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Poisson
from symng.metrics import EmpiricalFisher, Fisher, GaussNewton, Hessian, Match, Metric
from symng.objective import Objective
from symng.operators import LinearOperator
from symng.optimizers import SGD, NaturalGradient, Optimizer, Step
from symng.search import BacktrackingLineSearch, FixedStep, StepSize
from symng.solvers import CG, MinresQLP, Solution, Status
from symng.training import CompiledStep, StepInfo, TrainingResult, compile_step, minimize

__version__ = "0.1.0"

__all__ = [
    "BacktrackingLineSearch",
    "Bernoulli",
    "CG",
    "Categorical",
    "CompiledStep",
    "Damping",
    "EmpiricalFisher",
    "Fisher",
    "FixedDamping",
    "FixedStep",
    "GaussNewton",
    "Gaussian",
    "Hessian",
    "History",
    "LevenbergMarquardt",
    "Likelihood",
    "LinearOperator",
    "Match",
    "Metric",
    "MinresQLP",
    "NaturalGradient",
    "Objective",
    "Optimizer",
    "Poisson",
    "SGD",
    "Solution",
    "Status",
    "Step",
    "StepInfo",
    "StepSize",
    "TrainingResult",
    "compile_step",
    "enable_jax",
    "minimize",
]
