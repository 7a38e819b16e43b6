"""The networks of figure1.py: that of the paper's appendix, and that of the authors' program."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np
import pytensor
import pytensor.tensor as pt

import symng
from symng.models import (
    binary_cross_entropy_with_logits,
    convolve,
    glorot_init,
    max_pool,
    mlp,
    orthogonal_init,
)


def make_objective(
    options: argparse.Namespace, side: Sequence[int], classes: int, seed: int
) -> symng.Objective:
    """Return the network and its cross-entropy, with the weights of a seed."""
    size, count = options.filter_size, options.filters
    is_paper = options.network == "sigmoid"
    x = pt.tensor3("x", dtype="float32", shape=(None, side[0], side[1]))
    t = pt.matrix("t", dtype="float32")
    rng = np.random.default_rng([seed, 2])
    if is_paper:
        filters = glorot_init(rng, size * size, count, "float32")
    else:
        filters = rng.uniform(-0.2, 0.2, size=(size * size, count)).astype("float32")
    W = pytensor.shared(filters.reshape(size, size, count), name="filters")
    b = pytensor.shared(np.zeros(count, "float32"), name="b")
    maps = convolve(x, W, b, stride=options.stride)
    if options.max_pool > 1:
        maps = max_pool(maps, options.max_pool)
    hidden = pt.sigmoid(maps) if is_paper else pt.switch(maps > 0, maps, pt.zeros_like(maps))
    features = math.prod(hidden.type.shape[1:])

    def orthogonal(rng: np.random.Generator, fan_in: int, fan_out: int, dtype: str) -> np.ndarray:
        # The authors' gain and bias of a layer of sigmoids, here the outputs.
        return orthogonal_init(rng, fan_in, fan_out, dtype, gain=4.0 if fan_out == classes else 1.0)

    network = mlp(
        hidden.reshape((-1, features)),
        [features, options.units, classes],
        activation="sigmoid" if is_paper else "tanh",
        output="sigmoid",
        initializer="glorot" if is_paper else orthogonal,
        seed=seed,
    )
    if not is_paper:
        network.params[-1].set_value(np.full(classes, -2.0, "float32"))
    loss = binary_cross_entropy_with_logits(network.preactivation, t).mean()
    if options.outputs == "mean":
        loss = loss / classes
    return symng.Objective(
        loss, output=network.output, params=[W, b, *network.params], inputs=[x], targets=[t]
    )
