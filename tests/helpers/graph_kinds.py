"""Kinds of graph that people write, each a tiny model in float64.

Parameters and activations in all shapes.

Sequences and images are in `graph_sequences`, and `graphs` runs all of them. `KINDS` maps a name to
a function that returns a `Case`. Lengths are read off the graph (``x.shape[0]``, -1), as people
write it, and never declared.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.special import log_softmax, softmax
from pytensor.tensor.variable import TensorVariable

import symng


class Case(NamedTuple):
    """A model and a batch for it."""

    objective: symng.Objective
    batch: tuple[np.ndarray, ...]
    chunk_size: int | None = None


KINDS: dict[str, Callable[[], Case]] = {}
N, F = 6, 4


def kind(build: Callable[[], Case]) -> Callable[[], Case]:
    """Register a kind of graph under the name of its function."""
    KINDS[build.__name__.replace("_", " ")] = build
    return build


def layers(forward: Callable[[Any], Any]) -> Callable[[], Case]:
    """Register a regression whose output ``forward`` makes of a matrix of shape (6, 4).

    Two outputs.
    """

    def build() -> Case:
        x = pt.matrix("x")
        return regression(forward(x), [x], [data(N, F)])

    build.__name__ = forward.__name__
    return kind(build)


def param(name: str, *shape: int) -> Any:
    """Return a parameter whose values follow from its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return pytensor.shared(0.5 * rng.standard_normal(shape), name=name)


def data(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random numbers."""
    return np.random.default_rng(seed).standard_normal(shape)


def numbers(below: int, *shape: int) -> np.ndarray:
    """Return random whole numbers, as a user's ids or labels."""
    return np.random.default_rng(1).integers(0, below, shape)


def objective(
    loss: Any, output: Any, inputs: list[Any], targets: list[Any], **settings: Any
) -> symng.Objective:
    """Return the objective; its parameters are the floating-point shared variables of the loss."""
    shared = [
        v
        for v in graph_inputs([loss])
        if isinstance(v, SharedVariable) and isinstance(v, TensorVariable)
    ]
    params: Any = sorted(shared, key=lambda v: str(v.name))
    return symng.Objective(loss, output, params, inputs=inputs, targets=targets, **settings)


def regression(
    y: Any, inputs: list[Any], arrays: list[np.ndarray], outputs: int = 2, **settings: Any
) -> Case:
    """Return least squares for an output of shape (N, outputs)."""
    t, chunk_size = pt.matrix("t"), settings.pop("chunk_size", None)
    axes = settings.get("data_axes", [0])
    T = data(arrays[0].shape[axes[0]], outputs, seed=2)
    return Case(
        objective(pt.sqr(y - t).sum(axis=1).mean() / 2, y, inputs, [t], **settings),
        (*arrays, T),
        chunk_size,
    )


def classification(
    logits: Any, inputs: list[Any], arrays: list[np.ndarray], **settings: Any
) -> Case:
    """Return a softmax with labels in one-hot rows, for logits of shape (N, 3)."""
    t = pt.matrix("t")
    T = np.eye(3)[numbers(3, arrays[0].shape[settings.get("data_axes", [0])[0]])]
    loss = -(t * log_softmax(logits, axis=-1)).sum(axis=-1).mean()
    return Case(objective(loss, softmax(logits, axis=-1), inputs, [t], **settings), (*arrays, T))


def hidden(x: Any, units: int = 6) -> Any:
    """Return a hidden layer."""
    return pt.tanh(x @ param("W", F, units) + param("b", units))


# Parameters cut, joined and reshaped.


@layers
def parameters_reshaped(x: Any) -> Any:
    return pt.tanh(x @ param("W", 12).reshape((4, 3))) @ param("V", 2, 3).T


@layers
def parameters_cut_from_one_vector(x: Any) -> Any:
    theta = param("theta", 24)
    return (
        pt.tanh(x @ theta[:12].reshape((4, -1)) + theta[12:15]) @ theta[15:21].reshape((3, 2))
        + theta[21:23]
    )


@layers
def parameters_concatenated(x: Any) -> Any:
    W = pt.concatenate([param("A", F, 2), param("B", F, 3)], axis=1)
    return pt.tanh(x @ W) @ pt.stack([param("c", 5), param("d", 5)], axis=1)


@layers
def parameters_split(x: Any) -> Any:
    left, right = pt.split(param("W", F, 5), [2, 3], n_splits=2, axis=1)
    return pt.tanh(x @ left) * (x @ right)[:, :2]


@layers
def tril_and_diagonal(x: Any) -> Any:
    return pt.tanh(x @ pt.tril(param("L", F, F)) @ pt.diag(param("d", F))) @ param("V", F, 2)


@layers
def tied_weights(x: Any) -> Any:
    W = param("W", F, 3)
    return (pt.tanh(x @ W) @ W.T)[:, :2]


# Activations reshaped.


@layers
def activation_reshaped(x: Any) -> Any:
    return hidden(x).reshape((x.shape[0], 2, 3)).sum(axis=2) * param("s", 2)


@layers
def max_over_reshaped_axis(x: Any) -> Any:
    return pt.max(hidden(x).reshape((x.shape[0], 3, 2)), axis=2) @ param("V", 3, 2)


@layers
def repeat(x: Any) -> Any:
    return pt.repeat(hidden(x, 3), 2, axis=1) @ param("V", 6, 2)


@layers
def tile(x: Any) -> Any:
    return pt.tile(hidden(x, 3), (1, 2)) @ param("V", 6, 2)


@layers
def branches_concatenated(x: Any) -> Any:
    return pt.concatenate([hidden(x, 3), pt.exp(-pt.sqr(x @ param("U", F, 2)))], axis=1) @ param(
        "V", 5, 2
    )


@layers
def activation_split(x: Any) -> Any:
    half = hidden(x).shape[1] // 2
    gate, value = pt.split(hidden(x), [half, half], n_splits=2, axis=1)
    return (pt.sigmoid(gate) * value) @ param("V", 3, 2)


@layers
def dimensions_split_and_joined(x: Any) -> Any:
    cut = pt.split_dims(hidden(x), axis=1, shape=(2, 3))
    return pt.join_dims(cut * param("s", 2)[:, None], start_axis=1, n_axes=2) @ param("V", 6, 2)


@layers
def pad(x: Any) -> Any:
    padded = pt.pad(hidden(x), ((0, 0), (1, 1)))
    return (padded[:, :-2] + padded[:, 1:-1] * padded[:, 2:]) @ param("V", 6, 2)


@layers
def roll(x: Any) -> Any:
    h = hidden(x)
    return (h * pt.roll(h, 2, axis=1)) @ param("V", 6, 2)


@layers
def outer_products(x: Any) -> Any:
    h = hidden(x, 3)
    return pt.flatten(h[:, :, None] * h[:, None, :], ndim=2) @ param("V", 9, 2)


@layers
def batched_matmul(x: Any) -> Any:
    return pt.matmul(hidden(x).reshape((-1, 2, 3)), param("V", 3, 2)).sum(axis=1)


@layers
def einsum(x: Any) -> Any:
    return pt.einsum("ni,ijk,nj->nk", x, param("B", F, 3, 2), hidden(x, 3))


@layers
def written_into(x: Any) -> Any:
    h = pt.zeros((x.shape[0], 5))
    return pt.inc_subtensor(pt.set_subtensor(h[:, :3], hidden(x, 3))[:, 2:], hidden(x, 3)) @ param(
        "V", 5, 2
    )


@layers
def ops_inside_an_OpFromGraph(x: Any) -> Any:
    a, W = pt.matrix("a"), pt.matrix("W")
    layer = OpFromGraph([a, W], [pt.tanh(a @ W).reshape((a.shape[0], 3, 2)).sum(axis=2)])
    return layer(x, param("W", F, 6)) @ param("V", 3, 2)


# Order and choice.


@layers
def sort(x: Any) -> Any:
    return pt.sort(hidden(x), axis=1) @ param("V", 6, 2)


@layers
def cumsum(x: Any) -> Any:
    return pt.cumsum(hidden(x), axis=1) @ param("V", 6, 2)


@layers
def argmax(x: Any) -> Any:
    h = hidden(x)
    return (h * pt.eq(pt.arange(h.shape[1]), pt.argmax(h, axis=1)[:, None])) @ param("V", 6, 2)


@layers
def where_and_clip(x: Any) -> Any:
    h = x @ param("W", F, 6)
    return pt.where(h > 0, pt.clip(h, 0, 1), 0.1 * h) @ param("V", 6, 2)


# Normalizations and noise.


@layers
def batch_norm(x: Any) -> Any:
    h = hidden(x)
    scaled = (h - h.mean(axis=0)) / pt.sqrt(h.var(axis=0) + 1e-5)
    return (scaled * param("gamma", 6) + param("beta", 6)) @ param("V", 6, 2)


@layers
def layer_norm(x: Any) -> Any:
    h = hidden(x)
    scaled = (h - h.mean(axis=-1, keepdims=True)) / pt.sqrt(h.var(axis=-1, keepdims=True) + 1e-5)
    return (scaled * param("gamma", 6) + param("beta", 6)) @ param("V", 6, 2)


@layers
def group_norm(x: Any) -> Any:
    h = hidden(x).reshape((x.shape[0], 2, 3))
    scaled = (h - h.mean(axis=2, keepdims=True)) / pt.sqrt(h.var(axis=2, keepdims=True) + 1e-5)
    return (scaled.reshape((x.shape[0], -1)) * param("gamma", 6)) @ param("V", 6, 2)


@layers
def rms_norm(x: Any) -> Any:
    h = hidden(x)
    return (h / pt.sqrt(pt.sqr(h).mean(axis=-1, keepdims=True) + 1e-5) * param("gamma", 6)) @ param(
        "V", 6, 2
    )


@layers
def dropout(x: Any) -> Any:
    # JAX draws other numbers than NumPy: nearly all of these are 1, so that results can be
    # compared.
    h, rng = hidden(x), pytensor.shared(np.random.default_rng(3))
    return (h * pt.random.bernoulli(1 - 1e-15, size=h.shape, rng=rng)) @ param("V", 6, 2)


# Mixtures and derivatives.


@layers
def mixture_of_experts(x: Any) -> Any:
    experts = (x @ param("E", F, 6)).reshape((x.shape[0], 3, 2))
    return (softmax(x @ param("G", F, 3), axis=1)[:, :, None] * pt.tanh(experts)).sum(axis=1)


@kind
def mixture_density() -> Case:
    x, t = pt.matrix("x"), pt.vector("t")
    r = hidden(x) @ param("V", 6, 9)
    logits, mean, scale = r[:, :3], r[:, 3:6], r[:, 6:]
    parts = (
        pt.log(softmax(logits, axis=1)) - scale - pt.sqr((t[:, None] - mean) / pt.exp(scale)) / 2
    )
    loss = -pt.logsumexp(parts, axis=1).mean()
    return Case(
        objective(loss, r, [x], [t], likelihood=symng.Gaussian()), (data(N, F), data(N, seed=2))
    )


@layers
def derivative_in_the_model(x: Any) -> Any:
    u = pt.tanh(hidden(x) @ param("V", 6, 2))
    slope: Any = pytensor.grad(u.sum(), x)
    return u + slope[:, :2]


@kind
def several_outputs() -> Case:
    x, s, t = pt.matrix("x"), pt.matrix("s"), pt.matrix("t")
    y, p = hidden(x) @ param("V", 6, 2), pt.sigmoid(hidden(x) @ param("U", 6, 1))
    cross = -(t * pt.log(p) + (1 - t) * pt.log(1 - p)).sum(axis=1).mean()
    loss = pt.sqr(y - s).sum(axis=1).mean() / 2 + cross
    targets = data(N, 2, seed=2), numbers(2, N, 1).astype(float)
    return Case(objective(loss, [y, p], [x], [s, t]), (data(N, F), *targets))


# Linear algebra.


def positive() -> Any:
    """Return a positive definite matrix of parameters."""
    A = param("A", F, F)
    return pt.eye(A.shape[0]) + A @ A.T


@layers
def solve(x: Any) -> Any:
    return pt.tanh(x @ pt.linalg.solve(positive(), param("V", F, 2)))


@layers
def cholesky(x: Any) -> Any:
    return pt.tanh(x @ pt.linalg.cholesky(positive())) @ param("V", F, 2)


@layers
def inverse(x: Any) -> Any:
    return pt.tanh(x @ pt.linalg.inv(positive())) @ param("V", F, 2)


@layers
def determinant(x: Any) -> Any:
    return pt.tanh(x @ param("V", F, 2)) * pt.log(pt.linalg.det(positive()))


# Ids, labels and masks.


@kind
def labels_by_arange() -> Case:
    x, t = pt.matrix("x"), pt.lvector("t")
    p = softmax(hidden(x) @ param("V", 6, 3), axis=-1)
    loss = -pt.log(p)[pt.arange(t.shape[0]), t].mean()
    # 130: more than an int8 holds.
    return Case(objective(loss, p, [x], [t]), (data(130, F), numbers(3, 130)))


@kind
def gather_of_labels() -> Case:
    x, t = pt.matrix("x"), pt.lvector("t")
    logits = hidden(x) @ param("V", 6, 3)
    loss = -pt.take_along_axis(log_softmax(logits, axis=-1), t[:, None], axis=1)[:, 0].mean()
    return Case(objective(loss, softmax(logits, axis=-1), [x], [t]), (data(N, F), numbers(3, N)))


@kind
def embedding() -> Case:
    ids = pt.lmatrix("ids")
    vectors = param("E", 5, 3)[ids]
    flat = vectors.reshape((ids.shape[0], -1))
    return regression(
        pt.tanh(flat @ param("W", 12, 3)) @ param("V", 3, 2), [ids], [numbers(5, N, 4)]
    )


@kind
def matrix_of_ids_averaged() -> Case:
    ids = pt.lmatrix("ids")
    return classification(
        pt.tanh(param("E", 5, 3)[ids].mean(axis=1)) @ param("V", 3, 3), [ids], [numbers(5, N, 4)]
    )


@kind
def mask() -> Case:
    x, m = pt.tensor3("x"), pt.matrix("m")
    h = hidden(x, 3) * m[:, :, None]
    M = (np.arange(5) < numbers(5, N, 1) + 1).astype(float)
    mean = h.sum(axis=1) / m.sum(axis=1)[:, None]
    return regression(mean @ param("V", 3, 2), [x, m], [data(N, 5, F), M])
