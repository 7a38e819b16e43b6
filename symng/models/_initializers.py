"""Initial weights of a layer; public through `symng.models`."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from symng._checks import check_instance, check_number


def glorot_init(
    rng: np.random.Generator,
    fan_in: int,
    fan_out: int,
    dtype: DTypeLike = "float64",
    *,
    gain: float = 1.0,
) -> np.ndarray:
    """Draw weights uniformly from [-s, s] with s = gain sqrt(6 / (fan_in + fan_out)).

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the numbers come from.
    fan_in, fan_out : int
        Units below and above, at least 1.
    dtype : dtype, default "float64"
        Of the result.
    gain : float, default 1.0
        What the weights are multiplied by, above 0; 4 suits sigmoids, 1 tanh.

    Returns
    -------
    ndarray of shape (fan_in, fan_out)
        The weights, with variance 2 gain^2 / (fan_in + fan_out).

    References
    ----------
    .. [1] X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward
       neural networks", 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.models import glorot_init
    >>> weights = glorot_init(np.random.default_rng(0), 4, 2)
    >>> weights.shape, bool(abs(weights).max() <= 1)
    ((4, 2), True)
    """
    _check_init(rng, fan_in, fan_out)
    check_number("gain", gain, above=0)
    bound = gain * np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, size=(fan_in, fan_out)).astype(dtype)


def orthogonal_init(
    rng: np.random.Generator,
    fan_in: int,
    fan_out: int,
    dtype: DTypeLike = "float64",
    *,
    gain: float = 1.0,
) -> np.ndarray:
    """Draw a matrix with orthonormal columns, or rows where these are fewer, times a gain.

    It is uniform among such matrices: U V^T of the singular value decomposition U S V^T of a matrix
    of normal numbers.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the numbers come from.
    fan_in, fan_out : int
        Units below and above, at least 1.
    dtype : dtype, default "float64"
        Of the result.
    gain : float, default 1.0
        What the matrix is multiplied by, above 0.

    Returns
    -------
    ndarray of shape (fan_in, fan_out)
        The weights W, with W^T W or W W^T the identity times gain^2.

    References
    ----------
    .. [1] A. M. Saxe, J. L. McClelland and S. Ganguli, "Exact solutions to the nonlinear dynamics
       of learning in deep linear neural networks", ICLR 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.models import orthogonal_init
    >>> weights = orthogonal_init(np.random.default_rng(0), 4, 2)
    >>> bool(np.allclose(weights.T @ weights, np.eye(2)))
    True
    """
    _check_init(rng, fan_in, fan_out)
    check_number("gain", gain, above=0)
    normal = rng.standard_normal((fan_in, fan_out))
    u, _, vt = np.linalg.svd(normal, full_matrices=False)
    return (gain * (u @ vt)).astype(dtype)


def sparse_init(
    rng: np.random.Generator,
    fan_in: int,
    fan_out: int,
    dtype: DTypeLike = "float64",
    *,
    connections: int = 15,
    scale: float = 1.0,
) -> np.ndarray:
    """Draw a few incoming weights of every unit from N(0, scale^2), and leave the others zero.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the numbers come from.
    fan_in, fan_out : int
        Units below and above, at least 1.
    dtype : dtype, default "float64"
        Of the result.
    connections : int, default 15
        Nonzero incoming weights of a unit, at least 1; 15 is the number in [1]_. If ``fan_in``
        is smaller, all weights are drawn.
    scale : float, default 1.0
        Standard deviation of the nonzero weights, above 0.

    Returns
    -------
    ndarray of shape (fan_in, fan_out)
        The weights, one column per unit.

    References
    ----------
    .. [1] J. Martens, "Deep learning via Hessian-free optimization", 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.models import sparse_init
    >>> weights = sparse_init(np.random.default_rng(0), 20, 3)
    >>> (weights != 0).sum(axis=0)
    array([15, 15, 15])
    """
    _check_init(rng, fan_in, fan_out)
    check_number("connections", connections, minimum=1, integer=True)
    check_number("scale", scale, above=0)
    count = min(connections, fan_in)
    chosen = rng.random((fan_out, fan_in)).argsort(axis=1)[:, :count]
    weights = np.zeros((fan_in, fan_out), dtype=dtype)
    weights[chosen, np.arange(fan_out)[:, None]] = scale * rng.standard_normal((fan_out, count))
    return weights


def _check_init(rng: object, fan_in: object, fan_out: object) -> None:
    """Refuse bad values of the arguments that all initializers share."""
    check_instance(
        "rng",
        rng,
        np.random.Generator,
        "a numpy.random.Generator",
        "Write numpy.random.default_rng(0).",
    )
    check_number("fan_in", fan_in, minimum=1, integer=True)
    check_number("fan_out", fan_out, minimum=1, integer=True)
