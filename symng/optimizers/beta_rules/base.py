"""The base of rules for the weight of the previous direction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.config import Config
from symng.optimizers._damped import DampedOptimizer
from symng.optimizers.base import State, Step, StepBatches, Updates
from symng.optimizers.step_sizes import StepSize


class BetaRule(Config, ABC):
    """Build the steps along n + beta d of natural conjugate gradient: the base of beta rules."""

    @property
    @abstractmethod
    def default_step_size(self) -> StepSize | None:
        """The step size where none is given; None for a rule that finds the step size itself."""

    @property
    @abstractmethod
    def scalars(self) -> tuple[str, ...]:
        """The names of the scalars that the rule keeps from step to step."""

    @property
    def vectors(self) -> tuple[str, ...]:
        """The names of the vectors that the rule keeps; the direction is one of them."""
        return ("search_direction",)

    def init_state(self, state: State, size: int) -> None:
        """Add what the rule keeps to ``state``; ``size`` is the number of parameters."""
        for name in self.vectors:
            state.add(name, np.zeros(size))
        for name in self.scalars:
            state.add(name, 0.0)

    @abstractmethod
    def build(self, optimizer: DampedOptimizer, batches: StepBatches, state: State) -> Step:
        """Return the symbolic step of an optimizer that has this rule."""

    def keep(
        self, state: State, values: Mapping[str, TensorVariable], accepted: TensorVariable
    ) -> Updates:
        """Return the updates of what the rule keeps: the ``values``, or zero after a rejected step.

        Values that it does not keep are left out.
        """
        return {
            state.values[name]: pt.switch(accepted, value, pt.zeros_like(value))
            for name, value in values.items()
            if name in (*self.vectors, *self.scalars)
        }
