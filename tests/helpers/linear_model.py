"""A linear model of four outputs with data, whose losses and likelihoods tests compare."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

import symng
from symng.training import mismatch

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 3))
CLASSES = RNG.integers(0, 4, 12)
ONE_HOT, YES = np.eye(4)[CLASSES], (RNG.random((12, 4)) > 0.5).astype(float)
MASK = np.array([1.0, 1.0, 0.0] * 4)


class Model:
    """The variables of a linear model of four outputs."""

    def __init__(self, scale: float = 1.0) -> None:
        self.x, self.t, self.m, self.labels = (
            pt.matrix("x"),
            pt.matrix("t"),
            pt.vector("m"),
            pt.lvector("labels"),
        )
        self.w = pytensor.shared(scale * np.random.default_rng(1).standard_normal((3, 4)), name="w")
        self.r = self.x @ self.w
        self.softmax, self.sigmoid = pt.special.softmax(self.r, axis=-1), pt.sigmoid(self.r)

    def cross_entropy(self) -> Any:
        return -(self.t * pt.log(self.softmax)).sum(axis=1)

    def cross_entropy_of_logits(self, sign: int) -> Any:
        return -sign * (self.t * pt.special.log_softmax(self.r, axis=-1)).sum(axis=1)

    def binary(self) -> Any:
        """Return the cross-entropy of targets 0 and 1 in a form that is not read off the loss."""
        return pt.softplus(pt.where(pt.gt(self.t, 0.5), -self.r, self.r)).sum(axis=1)

    def objective(self, loss: Any, y: Any, *targets: Any, **settings: Any) -> symng.Objective:
        return symng.Objective(loss, y, [self.w], [self.x], list(targets or (self.t,)), **settings)


M = Model()
ADVANTAGES = RNG.standard_normal(12)
P = M.softmax[pt.arange(M.labels.shape[0]), M.labels]


def mismatch_warnings(objective: symng.Objective, optimizer: Any, batch: Any) -> list[str]:
    """Return what `minimize` warns of before its first step."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arrays = objective.check_batch("data", batch)
        mismatch.warn_of_mismatch(objective, optimizer, arrays)
        mismatch.warn_of_unseen_sum(objective, optimizer, arrays)
    return [str(w.message) for w in caught]
