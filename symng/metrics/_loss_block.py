"""The block of a metric for parameters that the loss depends on and no output does."""

from __future__ import annotations

from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs import vectors
from symng.graphs.types import Integer, Params
from symng.metrics.positive_part import Form, PositivePart, loss_hessian_product
from symng.objective import Objective
from symng.objective.batches import TermBatch


class LossBlock:
    """The positive part H+ of the Hessian of the loss with respect to some parameters phi.

    See `PositivePart`.

    Attributes
    ----------
    params, chosen : sequence of shared variables
        All parameters, and phi among them.
    """

    def __init__(self, batch: TermBatch, chosen: Params) -> None:
        self.params, self.chosen = batch.objective.params, chosen

        def mean(form: Form, shape: tuple[int]) -> TensorVariable:
            def of_some(o: Objective, offset: Integer) -> list[TensorVariable]:
                value = form(lambda u: loss_hessian_product(o.loss, chosen, u, o.dtype))
                return [pt.specify_shape(value.astype(o.dtype), shape)]

            return batch.mean(of_some)[0]

        self._part = PositivePart(vectors.count(chosen), batch.objective.dtype, mean)

    def product(self, v: TensorVariable) -> TensorVariable:
        """Return the product of H+ with phi's part of ``v``, and zeros for other parameters."""
        return self._embed(self._part.scale(self._part.values, self._take(v)), None)

    def draw(self, seed: Integer) -> TensorVariable:
        """Return the product of the square root of H+ with random signs, and zeros."""
        values = self._part.values
        signs = vectors.random_signs(values, seed)
        return self._embed(self._part.scale(pt.sqrt(values), signs), None)

    def solve(self, v: TensorVariable, damping: TensorVariable) -> TensorVariable:
        """Return (H+ + lambda I)^-1 times phi's part of ``v``, and zeros."""
        shifted = self._part.values + damping
        inverse = 1 / pt.switch(shifted > 0, shifted, pt.ones_like(shifted))
        return self._embed(self._part.scale(inverse, self._take(v)), None)

    def replace(self, v: TensorVariable, by: TensorVariable) -> TensorVariable:
        """Return ``v`` with phi's part replaced by that of another flat vector."""
        return self._embed(self._take(by), v)

    def _take(self, v: TensorVariable) -> TensorVariable:
        """Return phi's part of a flat vector of all parameters."""
        slices = dict(zip(self.params, vectors.split(v, self.params), strict=True))
        return vectors.ravel([slices[p] for p in self.chosen], self.chosen)

    def _embed(self, part: TensorVariable, rest: TensorVariable | None) -> TensorVariable:
        """Return a flat vector of all parameters with phi's part, and ``rest`` or else zeros."""
        slices: dict[Any, TensorVariable]
        if rest is None:
            shapes = vectors.param_shapes(self.params)
            slices = {
                p: pt.zeros(s, dtype=part.dtype) for p, s in zip(self.params, shapes, strict=True)
            }
        else:
            slices = dict(zip(self.params, vectors.split(rest, self.params), strict=True))
        slices.update(zip(self.chosen, vectors.split(part, self.chosen), strict=True))
        return vectors.ravel([slices[p] for p in self.params], self.params)


def loss_block(batch: TermBatch) -> LossBlock | None:
    """Return the block of the parameters that only the loss depends on; None if there are none."""
    chosen = batch.objective.model.loss_params
    return LossBlock(batch, chosen) if chosen else None
