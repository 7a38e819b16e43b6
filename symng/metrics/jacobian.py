"""Products with the Jacobian of variables of a model with respect to its flat parameter vector."""

from __future__ import annotations

from collections.abc import Sequence

from pytensor.tensor.variable import TensorVariable

from symng.graphs import derivatives, vectors
from symng.graphs.building import building
from symng.graphs.rewrites import accumulate_in_own_dtype
from symng.objective import Objective


def pushforward(
    outputs: Sequence[TensorVariable], objective: Objective, v: TensorVariable
) -> list[TensorVariable]:
    """Return J v, the derivative of each of ``outputs`` along a flat vector (the paper's Rop).

    Parameters
    ----------
    outputs : sequence of TensorVariable
        Variables of the model, such as ``objective.outputs``. J is their Jacobian with respect to
        the parameters.
    objective : Objective
        The model.
    v : symbolic vector
        Flat, of ``objective.size`` entries.

    Returns
    -------
    list of TensorVariable
        One for each of ``outputs``, of its shape.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, w = pt.matrix("x"), pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> objective = symng.Objective(pt.sqr(y).mean() / 2, output=y, params=[w], inputs=[x])
    >>> (tangents,) = symng.pushforward([y], objective, pt.constant([1.0, 2.0]))
    >>> tangents.eval({x: [[1.0, 1.0], [0.0, 3.0]]})
    array([3., 6.])
    """
    with building(floatx=objective.dtype):
        return derivatives.pushforward(
            _detached(outputs), objective.params, vectors.split(v, objective.params), "ignore"
        )


def pullback(
    outputs: Sequence[TensorVariable], objective: Objective, cotangents: Sequence[TensorVariable]
) -> TensorVariable:
    """Return J^T u as a flat vector, summed over ``outputs`` (the paper's Lop).

    Parameters
    ----------
    outputs : sequence of TensorVariable
        Variables of the model. J is their Jacobian with respect to the parameters.
    objective : Objective
        The model.
    cotangents : sequence of TensorVariable
        u, one for each of ``outputs``, of its shape.

    Returns
    -------
    TensorVariable
        A vector of ``objective.size`` entries.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, w = pt.matrix("x"), pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> objective = symng.Objective(pt.sqr(y).mean() / 2, output=y, params=[w], inputs=[x])
    >>> symng.pullback([y], objective, [pt.ones_like(y)]).eval({x: [[1.0, 1.0], [0.0, 3.0]]})
    array([1., 4.])
    """
    return vectors.ravel(pullback_by_param(outputs, objective, cotangents), objective.params)


def pullback_by_param(
    outputs: Sequence[TensorVariable], objective: Objective, cotangents: Sequence[TensorVariable]
) -> list[TensorVariable]:
    """Return J^T u as a tensor for each parameter, of its shape."""
    with building(floatx=objective.dtype):
        pulled = derivatives.pullback(
            _detached(outputs), objective.params, cotangents, disconnected_inputs="ignore"
        )
    return [accumulate_in_own_dtype(v) for v in pulled]


def _detached(outputs: Sequence[TensorVariable]) -> list[TensorVariable]:
    """Return several outputs as copies, none computed from another.

    PyTensor's pullback takes the cotangent of an output as its whole gradient, so what reaches it
    through another output would be lost.
    """
    return list(outputs) if len(outputs) == 1 else [v.copy() for v in outputs]
