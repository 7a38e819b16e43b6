"""Rules for the weight of the previous direction in natural conjugate gradient."""

from symng.optimizers.beta_rules.base import BetaRule
from symng.optimizers.beta_rules.formulas import FletcherReeves, HestenesStiefel, PolakRibiere
from symng.optimizers.beta_rules.plane import PlaneSearch, QuadraticModel

__all__ = [
    "BetaRule",
    "FletcherReeves",
    "HestenesStiefel",
    "PlaneSearch",
    "PolakRibiere",
    "QuadraticModel",
]
