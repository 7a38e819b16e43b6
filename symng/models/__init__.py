"""Functions that return graphs and parameters: networks, convolution, pooling and losses."""

from symng.models._convolution import convolve
from symng.models._initializers import glorot_init, orthogonal_init, sparse_init
from symng.models._losses import (
    binary_cross_entropy_with_logits,
    categorical_cross_entropy_with_logits,
    squared_error,
)
from symng.models._pooling import max_pool, mean_pool
from symng.models.networks import Model, autoencoder, mlp

__all__ = [
    "Model",
    "autoencoder",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy_with_logits",
    "convolve",
    "glorot_init",
    "max_pool",
    "mean_pool",
    "mlp",
    "orthogonal_init",
    "sparse_init",
    "squared_error",
]
