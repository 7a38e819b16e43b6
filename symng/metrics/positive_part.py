"""The positive part of a symmetric matrix that is known by its products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.linalg import eigh
from pytensor.tensor.variable import TensorVariable

from symng.graphs import vectors
from symng.graphs.building import building
from symng.graphs.derivatives import grad, pullback
from symng.graphs.loops import map_rows
from symng.graphs.types import Params
from symng.operators import Product

# The most rows of a matrix that is formed.
_MAX_FORMED = 256

Form = Callable[[Product], TensorVariable]
"""From the product u -> H u to a vector that is linear in H."""


class PositivePart:
    """The positive part of a symmetric matrix H.

    H+ = Q max(Lambda, 0) Q^T, with H = Q Lambda Q^T; 0 if H is not finite. For more than 256 rows
    it is the positive part of the diagonal of H, taken from one product with random signs, which is
    exact if H is diagonal.

    Parameters
    ----------
    size : int
        The number of rows.
    dtype : str
        That of the products.
    compute : callable
        Takes a `Form` and the shape of its value, and returns this value for the product with H, or
        a mean of such values over a batch.
    """

    def __init__(
        self,
        size: int,
        dtype: str,
        compute: Callable[[Form, tuple[int]], TensorVariable],
    ) -> None:
        self._basis: TensorVariable | None = None
        if size == 1 or size > _MAX_FORMED:
            signs = vectors.random_signs(pt.ones((size,), dtype=dtype), 0)
            self.values = _positive(compute(lambda product: signs * product(signs), (size,)))
            return
        identity = pt.constant(np.eye(size, dtype=dtype))
        H = compute(lambda product: map_rows(product, identity).flatten(), (size * size,))
        H = _finite(H.reshape((size, size)))
        values, basis = map(pt.as_tensor_variable, eigh((H + H.T) / 2))
        self.values, self._basis = _positive(values.astype(dtype)), basis.astype(dtype)

    def scale(self, factors: TensorVariable, v: TensorVariable) -> TensorVariable:
        """Return the product of ``v`` with H, but with ``factors`` as its eigenvalues.

        With ``values`` as factors it is the product with H+.
        """
        if self._basis is None:
            return factors * v
        return pt.dot(self._basis, factors * pt.dot(self._basis.T, v))


def loss_hessian_product(
    loss: TensorVariable, params: Params, u: TensorVariable, dtype: str
) -> TensorVariable:
    """Return H u, with H the Hessian of a loss with respect to the flat vector of ``params``."""
    wrt = list(params)
    # Not the gradient, which would begin with ones like the loss, and so always need the targets.
    one = pt.constant(1, dtype=loss.type.dtype)
    with building(floatx=dtype):
        gradients = pullback([loss], wrt, [one], disconnected_inputs="ignore")
        along = (vectors.ravel(gradients, params) * u).sum()
        product = grad(along, wrt, of=loss, consider_constant=[u], disconnected_inputs="ignore")
    return vectors.ravel(product, params).astype(dtype)


def _finite(H: TensorVariable) -> TensorVariable:
    """Return H, or zeros where an entry is not finite: some backends refuse NaN in `eigh`."""
    return pt.switch(pt.all(pt.isfinite(H)), H, pt.zeros_like(H))


def _positive(values: TensorVariable) -> TensorVariable:
    """Return the values that are positive and finite, and 0 for the others."""
    return pt.switch(pt.isfinite(values) & (values > 0), values, pt.zeros_like(values))
