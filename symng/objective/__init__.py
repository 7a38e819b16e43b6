"""The user's model: read off the graph, checked once, and how its examples come."""

from symng.objective.batches import Batch
from symng.objective.energy import EnergyObjective
from symng.objective.matching import Match
from symng.objective.objective import Objective
from symng.objective.sums import ObjectiveSum

ObjectiveLike = Objective | ObjectiveSum
"""What optimizers train: an objective, or a weighted sum of several."""

__all__ = [
    "Batch",
    "EnergyObjective",
    "Match",
    "Objective",
    "ObjectiveLike",
    "ObjectiveSum",
]
