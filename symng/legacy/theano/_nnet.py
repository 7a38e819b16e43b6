"""``theano.tensor.nnet``: activations and losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.special import log_softmax
from pytensor.tensor.special import softmax as any_softmax

from symng.legacy.theano._conv import conv2d

__all__ = [
    "batch_normalization",
    "binary_crossentropy",
    "categorical_crossentropy",
    "confusion_matrix",
    "conv2d",
    "crossentropy_categorical_1hot",
    "crossentropy_softmax_argmax_1hot_with_bias",
    "crossentropy_softmax_1hot",
    "crossentropy_softmax_1hot_with_bias",
    "elu",
    "hard_sigmoid",
    "logsoftmax",
    "relu",
    "selu",
    "sigmoid",
    "sigmoid_binary_crossentropy",
    "softmax",
    "softmax_with_bias",
    "softplus",
    "softsign",
    "ultra_fast_sigmoid",
]

sigmoid = pt.sigmoid
softplus = pt.softplus


def ultra_fast_sigmoid(x: Any) -> Any:
    """Return the sigmoid itself, not Theano's approximation of it."""
    return pt.sigmoid(x)


def hard_sigmoid(x: Any) -> Any:
    """Return 0.2 x + 0.5, cut to 0 and 1."""
    x = pt.as_tensor_variable(x)
    slope, shift = (pt.constant(np.asarray(c, dtype=_float(x))) for c in (0.2, 0.5))
    return pt.clip(x * slope + shift, 0, 1)


def relu(x: Any, alpha: Any = 0) -> Any:
    """Return max(x, alpha x); half the slope of either side at zero."""
    if isinstance(alpha, int | float) and alpha == 0:
        return 0.5 * (x + abs(x))
    return 0.5 * (1 + alpha) * x + 0.5 * (1 - alpha) * abs(x)


def elu(x: Any, alpha: Any = 1) -> Any:
    """Return x where it is positive, else alpha (exp(x) - 1)."""
    return pt.switch(x > 0, x, alpha * pt.expm1(x))


def selu(x: Any) -> Any:
    """Return the scaled `elu` that keeps mean 0 and variance 1."""
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return scale * elu(x, alpha)


def softsign(x: Any) -> Any:
    """Return x / (1 + abs(x))."""
    return x / (1.0 + abs(x))


def softmax(c: Any) -> Any:
    """Return the softmax of each row; a vector becomes a matrix of one row, as in Theano."""
    return any_softmax(_rows(c), axis=-1)


def logsoftmax(c: Any) -> Any:
    """Return the logarithm of the softmax of each row."""
    return log_softmax(_rows(c), axis=-1)


def softmax_with_bias(x: Any, b: Any) -> Any:
    """Return the softmax of each row of x + b."""
    return softmax(x + b)


def binary_crossentropy(output: Any, target: Any) -> Any:
    """Return -t log(y) - (1 - t) log(1 - y), entry by entry."""
    return -(target * pt.log(output) + (1.0 - target) * pt.log(1.0 - output))


def sigmoid_binary_crossentropy(output: Any, target: Any) -> Any:
    """Return `binary_crossentropy` of the sigmoid of ``output``, finite where that saturates."""
    return pt.softplus(output) - target * output


def categorical_crossentropy(coding_dist: Any, true_dist: Any) -> Any:
    """Return the cross-entropy of each row, for probabilities or for a vector of classes."""
    coding, truth = pt.as_tensor_variable(coding_dist), pt.as_tensor_variable(true_dist)
    if truth.type.ndim == coding.type.ndim:
        return -pt.sum(truth * pt.log(coding), axis=coding.type.ndim - 1)
    if truth.type.ndim == coding.type.ndim - 1 == 1:
        return crossentropy_categorical_1hot(coding, truth)
    raise TypeError(
        "categorical_crossentropy: expected true_dist with the axes of coding_dist, or a vector of"
        f" classes for a matrix, got {truth.type.ndim} and {coding.type.ndim} axes"
    )


def crossentropy_categorical_1hot(coding_dist: Any, true_one_of_n: Any) -> Any:
    """Return -log of the probability of the class of each row."""
    return -pt.log(coding_dist[pt.arange(true_one_of_n.shape[0]), true_one_of_n])


def crossentropy_softmax_1hot(x: Any, y_idx: Any) -> tuple[Any, Any]:
    """Return the losses of the classes ``y_idx``, and the softmax of ``x``."""
    logs = logsoftmax(x)
    return -logs[pt.arange(y_idx.shape[0]), y_idx], softmax(x)


def crossentropy_softmax_1hot_with_bias(x: Any, b: Any, y_idx: Any) -> tuple[Any, Any]:
    """Return the losses of the classes ``y_idx``, and the softmax of ``x + b``."""
    return crossentropy_softmax_1hot(x + b, y_idx)


def crossentropy_softmax_argmax_1hot_with_bias(x: Any, b: Any, y_idx: Any) -> tuple[Any, Any, Any]:
    """Return the losses of the classes ``y_idx``, the softmax of ``x + b``, and its argmax."""
    losses, probabilities = crossentropy_softmax_1hot(x + b, y_idx)
    return losses, probabilities, pt.argmax(x + b, axis=-1)


def batch_normalization(
    inputs: Any, gamma: Any, beta: Any, mean: Any, std: Any, mode: str = "low_mem"
) -> Any:
    """Return (x - mean) / std * gamma + beta; ``mode`` chose between two ways to compute it."""
    return (inputs - mean) / std * gamma + beta


def confusion_matrix(actual: Any, pred: Any) -> list[Any]:
    """Return how often each class was predicted for each, and the classes in order."""
    order = pt.extra_ops.Unique(False, False, False)(pt.concatenate([actual, pred]))
    actual_hot = pt.eq(pt.as_tensor_variable(actual).dimshuffle(0, "x"), order).astype("int64")
    pred_hot = pt.eq(pt.as_tensor_variable(pred).dimshuffle(0, "x"), order).astype("int64")
    return [pt.dot(actual_hot.T, pred_hot), order]


def _rows(c: Any) -> Any:
    c = pt.as_tensor_variable(c)
    return c.dimshuffle("x", 0) if c.type.ndim == 1 else c


def _float(x: Any) -> str:
    return x.type.dtype if x.type.dtype.startswith("float") else "float64"
