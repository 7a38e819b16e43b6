"""Small networks of many kinds of layers, on scikit-learn's digits of 8 x 8 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

import symng
from symng.models import convolve

PIXELS, CLASSES = 8, 10


class Weights:
    """Parameters of float32, with normal random numbers of variance 1 / inputs."""

    def __init__(self) -> None:
        self.rng, self.params = np.random.default_rng(0), list[Any]()

    def add(self, name: str, *shape: int, inputs: int | None = None, fill: float = 0.0) -> Any:
        """Return a parameter: random with ``inputs``, else filled with a number."""
        if inputs is None:
            value = np.full(shape, fill)
        else:
            value = self.rng.standard_normal(shape) / np.sqrt(inputs)
        self.params.append(pytensor.shared(value.astype("float32"), name=name))
        return self.params[-1]

    def dense(self, name: str, inputs: int, outputs: int) -> tuple[Any, Any]:
        """Return weights and biases."""
        return (
            self.add(f"W_{name}", inputs, outputs, inputs=inputs),
            self.add(f"b_{name}", outputs),
        )


def conv_net(w: Weights, images: Any) -> Any:
    """Return two convolutions of 3 x 3 pixels, with 8 and 16 filters, and a dense layer."""
    h = pt.tanh(convolve(images, w.add("F1", 3, 3, 8, inputs=9), w.add("b1", 8)))
    h = pt.tanh(convolve(h, w.add("F2", 3, 3, 8, 16, inputs=72), w.add("b2", 16), stride=2))
    W, b = w.dense("out", 4 * 16, CLASSES)
    return pt.dot(h.reshape((-1, 64)), W) + b


def lstm(w: Weights, images: Any, units: int = 32) -> Any:
    """Return an LSTM over the rows of pixels, and a dense layer on its last state."""
    W = w.add("W", PIXELS, 4 * units, inputs=PIXELS)
    U = w.add("U", units, 4 * units, inputs=units)
    b = w.add("b", 4 * units)

    def update(x: Any, h: Any, c: Any) -> Any:
        gates = pt.dot(x, W) + pt.dot(h, U) + b
        i, f, o, g = (gates[:, k * units : (k + 1) * units] for k in range(4))
        c = pt.sigmoid(f + 1) * c + pt.sigmoid(i) * pt.tanh(g)
        return pt.sigmoid(o) * pt.tanh(c), c

    start = pt.zeros((images.shape[0], units), dtype="float32")
    h, _ = pytensor.scan(
        update,
        sequences=[images.transpose(1, 0, 2)],
        outputs_info=[start, start],
        return_updates=False,
    )
    V, c = w.dense("out", units, CLASSES)
    return pt.dot(h[-1], V) + c


def transformer(w: Weights, images: Any, width: int = 16, heads: int = 2) -> Any:
    """Return a transformer block over the rows of pixels, and a dense layer on the mean."""

    def normalize(h: Any, name: str) -> Any:
        h = h - h.mean(axis=-1, keepdims=True)
        h = h / pt.sqrt(pt.sqr(h).mean(axis=-1, keepdims=True) + np.float32(1e-5))
        return h * w.add(f"scale_{name}", width, fill=1.0) + w.add(f"shift_{name}", width)

    def project(h: Any, name: str, inputs: int, outputs: int) -> Any:
        W, b = w.dense(name, inputs, outputs)
        return h @ W + b

    def split(h: Any) -> Any:
        return h.reshape((-1, PIXELS, heads, width // heads)).transpose(0, 2, 1, 3)

    h = project(images, "in", PIXELS, width) + w.add("position", PIXELS, width, inputs=width)
    n = normalize(h, "1")
    q, k, v = (split(project(n, name, width, width)) for name in "qkv")
    scores = pt.special.softmax(
        q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // heads)), axis=-1
    )
    mixed = (scores @ v).transpose(0, 2, 1, 3).reshape((-1, PIXELS, width))
    h = h + project(mixed, "mix", width, width)
    n = normalize(h, "2")
    h = h + project(pt.tanh(project(n, "up", width, 2 * width)), "down", 2 * width, width)
    W, b = w.dense("out", width, CLASSES)
    return pt.dot(normalize(h, "3").mean(axis=1), W) + b


NETWORKS = {"conv net": conv_net, "LSTM": lstm, "transformer": transformer}


def make_digits_objective(name: str) -> symng.Objective:
    """Return the mean cross-entropy of a network."""
    images = pt.tensor3("images", dtype="float32", shape=(None, PIXELS, PIXELS))
    labels, w = pt.lvector("labels"), Weights()
    y = pt.special.softmax(NETWORKS[name](w, images), axis=-1)
    losses = -pt.log(y)[pt.arange(labels.shape[0]), labels]
    return symng.Objective(losses.mean(), y, w.params, inputs=[images], targets=[labels])


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images from 0 to 1 and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16).astype("float32"), data.target.astype("int64")
