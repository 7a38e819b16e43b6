"""Optimizers: compositions of a metric, a solver, a damping rule and a step size."""

from symng.optimizers.adam import Adam
from symng.optimizers.base import Optimizer, State, Step, StepBatches
from symng.optimizers.beta_rules import (
    FletcherReeves,
    HestenesStiefel,
    PlaneSearch,
    PolakRibiere,
    QuadraticModel,
)
from symng.optimizers.damping import Damping, FixedDamping, LevenbergMarquardt
from symng.optimizers.hessian_free import HessianFree
from symng.optimizers.krylov_subspace_descent import KrylovSubspaceDescent
from symng.optimizers.model_step_sizes import KLTrustRegion, QuadraticModelStep
from symng.optimizers.natural_conjugate_gradient import NaturalConjugateGradient
from symng.optimizers.natural_gradient import NaturalGradient
from symng.optimizers.preconditioners import (
    JacobiPreconditioner,
    KroneckerPreconditioner,
    NystromPreconditioner,
    Preconditioner,
)
from symng.optimizers.sgd import SGD
from symng.optimizers.step_sizes import BacktrackingLineSearch, FixedStep, StepSize
from symng.optimizers.tonga import TONGA

__all__ = [
    "Adam",
    "BacktrackingLineSearch",
    "Damping",
    "FixedDamping",
    "FixedStep",
    "FletcherReeves",
    "HessianFree",
    "HestenesStiefel",
    "JacobiPreconditioner",
    "KLTrustRegion",
    "KroneckerPreconditioner",
    "KrylovSubspaceDescent",
    "LevenbergMarquardt",
    "NaturalConjugateGradient",
    "NaturalGradient",
    "NystromPreconditioner",
    "Optimizer",
    "PlaneSearch",
    "PolakRibiere",
    "Preconditioner",
    "QuadraticModel",
    "QuadraticModelStep",
    "SGD",
    "State",
    "Step",
    "StepBatches",
    "StepSize",
    "TONGA",
]
