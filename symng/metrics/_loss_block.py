"""The block of a metric for parameters that the loss depends on and no output does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.linalg import eigh
from pytensor.tensor.variable import TensorVariable

from symng.graphs import vectors
from symng.graphs.derivatives import grad, pullback
from symng.graphs.loops import map_rows
from symng.graphs.types import Integer, Params
from symng.metrics.jacobian import floatx_of
from symng.objective import Objective
from symng.objective.batches import TermBatch

# Up to so many numbers the Hessian is formed.
_MAX_FORMED = 256


class LossBlock:
    """The positive part of the Hessian of the loss with respect to some parameters phi.

    H+ = Q max(Lambda, 0) Q^T, with H = Q Lambda Q^T the Hessian of the loss with respect to phi; 0
    where H is not finite. Of more than 256 numbers it is the positive part of the diagonal of H,
    taken from one product with random signs, which is exact where H is diagonal.

    Attributes
    ----------
    params, chosen : sequence of shared variables
        All parameters, and phi among them.
    """

    def __init__(self, batch: TermBatch, chosen: Params) -> None:
        self.params, self.chosen = batch.objective.params, chosen
        self._basis: TensorVariable | None = None
        size = vectors.count(chosen)
        if size == 1 or size > _MAX_FORMED:
            signs = vectors.random_signs(pt.ones((size,), dtype=batch.objective.dtype), 0)
            diagonal = signs * _mean(batch, lambda o: _hessian_product(o, chosen, signs), (size,))
            self._values = _positive(diagonal)
            return
        H = _mean(batch, lambda o: _hessian(o, chosen, size).flatten(), (size * size,))
        H = _finite(H.reshape((size, size)))
        values, basis = map(pt.as_tensor_variable, eigh((H + H.T) / 2))
        self._values, self._basis = _positive(values.astype(H.dtype)), basis.astype(H.dtype)

    def product(self, v: TensorVariable) -> TensorVariable:
        """Return the product of H+ with phi's part of ``v``, and zeros for other parameters."""
        return self._embed(self._scale(self._values, self._part(v)), None)

    def draw(self, seed: Integer) -> TensorVariable:
        """Return the product of the root of H+ with random signs, and zeros."""
        signs = vectors.random_signs(self._values, seed)
        return self._embed(self._scale(pt.sqrt(self._values), signs), None)

    def solve(self, v: TensorVariable, damping: TensorVariable) -> TensorVariable:
        """Return (H+ + lambda I)^-1 times phi's part of ``v``, and zeros."""
        shifted = self._values + damping
        inverse = 1 / pt.switch(shifted > 0, shifted, pt.ones_like(shifted))
        return self._embed(self._scale(inverse, self._part(v)), None)

    def replace(self, v: TensorVariable, by: TensorVariable) -> TensorVariable:
        """Return ``v`` with phi's part of another flat vector."""
        return self._embed(self._part(by), v)

    def _scale(self, factors: TensorVariable, part: TensorVariable) -> TensorVariable:
        if self._basis is None:
            return factors * part
        return pt.dot(self._basis, factors * pt.dot(self._basis.T, part))

    def _part(self, v: TensorVariable) -> TensorVariable:
        slices = dict(zip(self.params, vectors.split(v, self.params), strict=True))
        return vectors.ravel([slices[p] for p in self.chosen], self.chosen)

    def _embed(self, part: TensorVariable, rest: TensorVariable | None) -> TensorVariable:
        """Return a flat vector of all parameters, zeros but for phi's part, or ``rest``."""
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
    """Return the block of the parameters that the loss alone reaches; None where there are none."""
    chosen = batch.objective.model.loss_params
    return LossBlock(batch, chosen) if chosen else None


def _mean(
    batch: TermBatch, function: Callable[[Objective], TensorVariable], shape: tuple[int]
) -> TensorVariable:
    """Return the mean of a vector over the batch."""
    return batch.mean(lambda o, _: [pt.specify_shape(function(o).astype(o.dtype), shape)])[0]


def _hessian(objective: Objective, chosen: Params, size: int) -> TensorVariable:
    """Return the Hessian of the loss with respect to some parameters, row by row."""
    identity = pt.constant(np.eye(size, dtype=objective.dtype))
    return map_rows(lambda row: _hessian_product(objective, chosen, row), identity)


def _hessian_product(objective: Objective, chosen: Params, u: TensorVariable) -> TensorVariable:
    """Return H u, with H the Hessian of the loss with respect to some parameters."""
    wrt, loss = list(chosen), objective.loss
    # A gradient would begin with ones like the loss, and so need the targets in any case.
    one = pt.constant(1, dtype=loss.type.dtype)
    with floatx_of(objective):
        slopes = pullback([loss], wrt, [one], disconnected_inputs="ignore")
        along = (vectors.ravel(slopes, chosen) * u).sum()
        curved = grad(along, wrt, of=loss, consider_constant=[u], disconnected_inputs="ignore")
    return vectors.ravel(curved, chosen).astype(objective.dtype)


def _finite(H: TensorVariable) -> TensorVariable:
    """Return H, or zeros where an entry is not finite: some backends refuse NaN in `eigh`."""
    return pt.switch(pt.all(pt.isfinite(H)), H, pt.zeros_like(H))


def _positive(values: TensorVariable) -> TensorVariable:
    """Return the values that are positive and finite, and 0 for the others."""
    return pt.switch(pt.isfinite(values) & (values > 0), values, pt.zeros_like(values))
