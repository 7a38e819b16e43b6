"""Metrics: from an `Objective` to the product of a curvature matrix with a vector."""

from symng.metrics.base import Metric
from symng.metrics.curvature import GaussNewton, Hessian
from symng.metrics.empirical import EmpiricalFisher
from symng.metrics.fisher import Fisher
from symng.metrics.jacobian import pullback, pushforward
from symng.metrics.structural import StructuralDamping

__all__ = [
    "EmpiricalFisher",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Metric",
    "StructuralDamping",
    "pullback",
    "pushforward",
]
