"""A weighted sum of two objectives that share a layer, and its dense metric."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt

import symng

rng = np.random.default_rng(0)
X, T = rng.standard_normal((7, 3)), rng.standard_normal((7, 2))
Z, S = rng.standard_normal((5, 3)), np.eye(2)[rng.integers(2, size=5)]
WEIGHT = 0.3


class Terms:
    """A regression and a classification with a common layer, and what belongs to each alone."""

    def __init__(self, dtype="float64"):
        draw = np.random.default_rng(1).standard_normal
        self.w, self.u, self.c = (
            pytensor.shared(draw(shape).astype(dtype), name=name)
            for name, shape in (("w", (3, 4)), ("u", (4, 2)), ("c", (2,)))
        )
        self.x, self.t, self.z, self.s = (pt.matrix(n, dtype=dtype) for n in "xtzs")
        y = pt.tanh(self.x @ self.w) @ self.u
        p = pt.special.softmax(pt.tanh(self.z @ self.w)[:, :2] + self.c, axis=-1)
        self.first = symng.Objective(
            pt.sqr(y - self.t).sum(axis=1).mean() / 2, y, [self.w, self.u], [self.x], [self.t]
        )
        self.second = symng.Objective(
            -(self.s * pt.log(p)).sum(axis=1).mean(), p, [self.c, self.w], [self.z], [self.s]
        )
        self.both = self.first + WEIGHT * self.second
        self.givens = {self.x: X, self.t: T, self.z: Z, self.s: S}
        self.data = tuple(tuple(a.astype(dtype) for a in term) for term in ((X, T), (Z, S)))

    def evaluate(self, graph):
        return pytensor.function(
            list(self.givens), graph, mode="FAST_COMPILE", on_unused_input="ignore"
        )(*self.givens.values())

    def dense(self, metric):
        """Return the weighted sum of the matrices of the terms, each put in its place."""
        total = np.zeros((22, 22))
        places = (np.arange(20), np.r_[20:22, 0:12])  # w u, c w in the order w u c
        terms = ((1, self.first), (WEIGHT, self.second))
        for place, (weight, term) in zip(places, terms, strict=True):
            total[np.ix_(place, place)] += weight * self.evaluate(metric(term).materialise())
        return total
