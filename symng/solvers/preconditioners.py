"""Preconditioners: products with M^-1, for a matrix M that is near A and easy to solve with."""

from __future__ import annotations

import pytensor.tensor as pt

from symng._checks import argument_error, check_number
from symng.graphs.types import Scalar
from symng.operators import Product
from symng.solvers._arguments import Vector


def diagonal_preconditioner(
    diagonal: Vector, damping: Scalar = 0.0, *, exponent: float = 0.75
) -> Product:
    """Return the product with M^-1, where M = diag(d + λ)^exponent.

    Parameters
    ----------
    diagonal : symbolic vector of shape (n,)
        d, at least 0; for instance ``symng.EmpiricalFisher().diagonal(objective)``.
    damping : float or symbolic scalar, default 0.0
        λ, at least 0. Where d + λ is 0, M is 1.
    exponent : float, default 0.75
        From 0 (no preconditioner) to 1. Martens takes 0.75 to draw in the far ends of a diagonal
        that, being one of squared gradients, measures the curvature only roughly.

    Returns
    -------
    callable
        From symbolic vector to symbolic vector, as the ``preconditioner`` of `CG.solve` and
        `MinresQLP.solve`. An optimizer asks for a function of metric and damping that returns it.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    References
    ----------
    .. [1] J. Martens, "Deep learning via Hessian-free optimization", ICML 2010, section 4.7.

    Examples
    --------
    >>> import numpy as np
    >>> from symng import diagonal_preconditioner
    >>> invert = diagonal_preconditioner(np.array([0.0, 15.0, 80.0]), damping=1.0)
    >>> (1 / invert(np.ones(3))).eval().round(6)
    array([ 1.,  8., 27.])
    """
    vector = pt.as_tensor_variable(diagonal)
    if vector.type.ndim != 1 or vector.type.dtype not in ("float32", "float64"):
        raise argument_error("diagonal", "a vector of float32 or float64", vector, error=TypeError)
    check_number("damping", damping, symbolic=True)
    check_number("exponent", exponent, minimum=0, maximum=1)
    dtype = vector.type.dtype
    damped = vector + pt.cast(damping, dtype)
    one = pt.constant(1, dtype=dtype)
    weights = pt.pow(pt.switch(damped > 0, damped, one), pt.constant(-exponent, dtype=dtype))
    return lambda v: weights * v
