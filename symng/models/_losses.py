"""Losses of single examples as stable graphs; public through `symng.models`."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor import TensorLike
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error


def squared_error(output: TensorLike, target: TensorLike) -> TensorVariable:
    """Return the squared error of every example, sum_k (y_k - t_k)^2.

    Half of it is the negative log-likelihood of a Gaussian with standard deviation 1, up to a
    constant.

    Parameters
    ----------
    output, target : tensor-like of shape (..., K)
        Prediction and target; the target is cast to the dtype of the prediction.

    Returns
    -------
    TensorVariable of shape (...)
        One number per example.

    Examples
    --------
    >>> from symng.models import squared_error
    >>> squared_error([[0.5, 1.0]], [[0.0, 3.0]]).eval()
    array([4.25])
    """
    output, target = _pair("output", output, target)
    return ((output - target) ** 2).sum(axis=-1)


def binary_cross_entropy_with_logits(logits: TensorLike, target: TensorLike) -> TensorVariable:
    """Return the sigmoid cross-entropy of every example, sum_k softplus(r_k) - t_k r_k.

    This is -sum_k [t_k log y_k + (1 - t_k) log(1 - y_k)] with y = sigmoid(r), and finite for every
    finite r.

    Parameters
    ----------
    logits : tensor-like of shape (..., K)
        Pre-activations r of the sigmoid.
    target : tensor-like of shape (..., K)
        From 0 to 1; cast to the dtype of the logits.

    Returns
    -------
    TensorVariable of shape (...)
        One number per example, in nats.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.models import binary_cross_entropy_with_logits
    >>> loss = binary_cross_entropy_with_logits([0.0, 0.0], [0.0, 1.0])
    >>> bool(np.isclose(loss.eval(), 2 * np.log(2)))
    True
    """
    logits, target = _pair("logits", logits, target)
    return (pt.softplus(logits) - target * logits).sum(axis=-1)


def categorical_cross_entropy_with_logits(logits: TensorLike, target: TensorLike) -> TensorVariable:
    """Return the softmax cross-entropy of every example, -sum_k t_k (r_k - logsumexp(r)).

    Finite for every finite r.

    Parameters
    ----------
    logits : tensor-like of shape (..., K)
        Pre-activations r of the softmax over the last axis.
    target : tensor-like of shape (..., K), or of integers of shape (...)
        Probabilities (usually one-hot rows), cast to the dtype of the logits; or labels from 0 to
        K - 1.

    Returns
    -------
    TensorVariable of shape (...)
        One number per example, in nats; NaN for a label out of range, so that a wrong label cannot
        go unnoticed. Give padding a label in range and a weight of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from symng.models import categorical_cross_entropy_with_logits
    >>> loss = categorical_cross_entropy_with_logits([[1.0, 1.0, 1.0]], [2])
    >>> bool(np.isclose(loss.eval()[0], np.log(3)))
    True
    """
    logits, target = pt.as_tensor_variable(logits), pt.as_tensor_variable(target)
    is_float = logits.type.dtype.startswith("float")  # else `_pair` refuses it
    if is_float and target.type.ndim == logits.type.ndim - 1 and "int" in target.type.dtype:
        # A sum: without `enable_jax`, PyTensor's JAX backend has no arange of computed length.
        classes = pt.cumsum(pt.ones_like(logits, dtype="int64"), axis=-1) - 1
        hit = pt.eq(target[..., None], classes)
        target = pt.switch(
            hit.any(axis=-1, keepdims=True),
            hit.astype(logits.dtype),
            np.array(np.nan, logits.dtype),
        )
    logits, target = _pair("logits", logits, target)
    return -(target * pt.special.log_softmax(logits, axis=-1)).sum(axis=-1)


def _pair(
    name: str, prediction: TensorLike, target: TensorLike
) -> tuple[TensorVariable, TensorVariable]:
    """Return both as tensors of one dtype, or refuse them if their shapes cannot match."""
    prediction, target = pt.as_tensor_variable(prediction), pt.as_tensor_variable(target)
    if not prediction.type.dtype.startswith("float"):
        raise argument_error(name, "floating-point numbers", prediction, "Cast it.", TypeError)
    if prediction.type.ndim == 0:
        raise argument_error(name, "at least one axis, the outputs of an example", prediction)
    # Broadcasting would silently give a loss of the wrong shape.
    if target.type.ndim != prediction.type.ndim:
        raise argument_error("target", f"{prediction.type.ndim} axes, as {name} has", target)
    return prediction, target if target.type.dtype == prediction.type.dtype else target.astype(
        prediction.type.dtype
    )
