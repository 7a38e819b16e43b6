"""Optimizers: compositions of a metric, a solver, a damping rule and a step size."""

from symng.optimizers.base import Optimizer, Step
from symng.optimizers.natural_gradient import NaturalGradient
from symng.optimizers.sgd import SGD

__all__ = ["NaturalGradient", "Optimizer", "SGD", "Step"]
