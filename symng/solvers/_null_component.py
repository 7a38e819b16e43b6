"""The component of MINRES-QLP's x along a null vector, from the recurrences.

After k steps x_k = p(A) r_0 with a polynomial p, and its component in the null space of A is p(0)
times that of r_0, which is that of r_k as well. p(0) is the entry of x for one more unknown whose
row and column of A are zero and whose entry of r_0 is 1, so it takes one more scalar for each
vector of the loop.
"""

from __future__ import annotations

from typing import NamedTuple

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.solvers._qlp import Factors, Weights


class NullComponent(NamedTuple):
    """The entries of the vectors of the loop for an unknown whose row of A is zero."""

    r1: TensorVariable
    r2: TensorVariable
    w1: TensorVariable
    w2: TensorVariable
    x: TensorVariable

    @classmethod
    def of_start(cls, x: TensorVariable) -> NullComponent:
        """Return the entries before the first step: 1 of r, and ``x`` of x."""
        zero = pt.zeros_like(x)
        return cls(r1=zero, r2=pt.ones_like(x), w1=zero, w2=zero, x=x)

    def of_iterate(self, f: Factors, in_qlp: TensorVariable) -> TensorVariable:
        """Return the entry of x_{k-1}, at most the share of it that may be a null vector at all."""
        last = pt.switch(in_qlp, f.u1 * self.w1 + f.u2 * self.w2, pt.zeros_like(self.x))
        entry = abs(self.x + last)
        bound = f.chi / f.phi
        return pt.switch(entry < bound, entry, bound)  # also where the entry has overflowed

    def after_step(
        self, f: Factors, alpha: TensorVariable, w1: Weights, w2: Weights, x: Weights
    ) -> NullComponent:
        """Return the entries after a step, for the weights of the vectors."""
        v = self.r2 / f.beta
        back = pt.switch(f.beta_old > 0, f.beta / f.beta_old, pt.zeros_like(f.beta))

        def weighted(weights: Weights) -> TensorVariable:
            return weights[0] * v + weights[1] * self.w1 + weights[2] * self.w2

        return NullComponent(
            r1=self.r2,
            r2=-back * self.r1 - alpha / f.beta * self.r2,
            w1=weighted(w1),
            w2=weighted(w2),
            x=self.x + weighted(x),
        )
