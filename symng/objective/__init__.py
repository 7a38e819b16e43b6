"""The user's model: read off the graph, checked once, and how its examples come."""

from symng.objective.batches import Batch
from symng.objective.energy import EnergyObjective
from symng.objective.matching import Match
from symng.objective.objective import Objective

__all__ = [
    "Batch",
    "EnergyObjective",
    "Match",
    "Objective",
]
