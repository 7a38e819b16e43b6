"""The Gauss-Newton product of ``theano-hf``, on lists of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytensor.graph.traversal import ancestors
from pytensor.tensor.variable import TensorVariable

from symng.graphs.derivatives import grad, pullback, pushforward


def gauss_newton_product(
    cost: TensorVariable, p: Sequence[Any], v: Sequence[Any], s: TensorVariable
) -> list[TensorVariable]:
    """Return J^T H J v, with J the Jacobian of s and H the Hessian of the cost with respect to s.

    Parameters
    ----------
    cost : symbolic scalar
        A function of ``s``.
    p : list of shared variables
        The parameters.
    v : list of tensors
        The vector, in the shapes of ``p``.
    s : symbolic tensor
        The variable at which the cost is convex, as the pre-activation of the output.

    Returns
    -------
    list of tensors
        The product, in the shapes of ``p``.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> from symng.legacy.hf import gauss_newton_product
    >>> w = pytensor.shared(np.array([1.0, 2.0]))
    >>> s = 3 * w
    >>> [product] = gauss_newton_product(pt.sqr(s).sum(), [w], [pt.constant(np.ones(2))], s)
    >>> product.eval().tolist()
    [18.0, 18.0]
    """
    reached = set(ancestors([s]))
    along_p = [(i, u) for i, u in zip(p, v, strict=True) if i in reached]
    [Jv] = pushforward([s], *(list(part) for part in zip(*along_p, strict=True)))
    [slope] = grad(cost, [s])
    along = (slope * Jv).sum()
    [HJv] = grad(along, [s], of=cost, consider_constant=[Jv], disconnected_inputs="ignore")
    return list(pullback([s], list(p), [HJv], disconnected_inputs="ignore"))
