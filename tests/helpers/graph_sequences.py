"""Kinds of graph over sequences and images.

Attention, recurrent networks, convolution; and batches of one.
"""

from __future__ import annotations

from typing import Any

import pytensor
import pytensor.tensor as pt
from pytensor.tensor.signal import convolve1d
from pytensor.tensor.special import softmax

from helpers.graph_kinds import (
    KINDS,
    Case,
    F,
    N,
    classification,
    data,
    hidden,
    kind,
    numbers,
    objective,
    param,
    regression,
)
from symng.models import convolve

TIME = 5


def attend(x: Any, heads: int = 1, causal: bool = False) -> Any:
    """Return attention of a sequence (N, T, 4) to itself, of shape (N, T, 4)."""
    q, k, v = (
        (x @ param(name, F, F)).reshape((x.shape[0], x.shape[1], heads, -1)).dimshuffle(0, 2, 1, 3)
        for name in "QKV"
    )
    scores = pt.matmul(q, k.dimshuffle(0, 1, 3, 2)) / pt.sqrt(F // heads)
    if causal:
        scores = pt.where(pt.tril(pt.ones((x.shape[1], x.shape[1]))) > 0, scores, -1e9)
    mixed = pt.matmul(softmax(scores, axis=-1), v).dimshuffle(0, 2, 1, 3)
    return mixed.reshape((x.shape[0], x.shape[1], -1))


def attention_case(
    n: int = N, time: int = TIME, chunk_size: int | None = None, **settings: Any
) -> Case:
    """Return a regression on the mean of what attention returns."""
    x = pt.tensor3("x")
    y = pt.tanh(attend(x, **settings)).mean(axis=1) @ param("W", F, 2)
    return regression(y, [x], [data(n, time, F)], chunk_size=chunk_size)


@kind
def attention() -> Case:
    return attention_case()


@kind
def attention_with_several_heads() -> Case:
    return attention_case(heads=2)


@kind
def causal_attention() -> Case:
    return attention_case(causal=True)


@kind
def transformer_on_ids() -> Case:
    ids = pt.lmatrix("ids")
    x = param("E", 5, F)[ids] + param("P", TIME, F)[pt.arange(ids.shape[1])]
    x = x + attend(x, heads=2)
    x = (x - x.mean(axis=-1, keepdims=True)) / pt.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return classification(
        (x + hidden(x, F)).mean(axis=1) @ param("W", F, 3), [ids], [numbers(5, N, TIME)]
    )


# Recurrent networks, time first.


def states_of(x: Any, units: int = 3) -> Any:
    """Return the states of a plain recurrent network over x of shape (T, N, 4)."""
    W, U, b = param("W", F, units), param("U", units, units), param("b", units)
    return pytensor.scan(
        lambda x_t, h: pt.tanh(x_t @ W + h @ U + b),
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], units))],
        return_updates=False,
    )


def recurrent_case(n: int = N, time: int = TIME, chunk_size: int | None = None) -> Case:
    """Return a regression on the last state of a plain recurrent network."""
    x = pt.tensor3("x")
    y = states_of(x)[-1] @ param("V", 3, 2)
    return regression(y, [x], [data(time, n, F)], data_axes=[1, 0], chunk_size=chunk_size)


@kind
def recurrent_network() -> Case:
    return recurrent_case()


@kind
def recurrent_network_with_an_output_at_each_step() -> Case:
    x, t = pt.tensor3("x"), pt.tensor3("t")
    y = states_of(x) @ param("V", 3, 2)
    loss = pt.sqr(y - t).sum(axis=(0, 2)).mean() / 2
    return Case(
        objective(loss, y, [x], [t], data_axes=[1, 1]), (data(TIME, N, F), data(TIME, N, 2, seed=2))
    )


@kind
def GRU() -> Case:
    x = pt.tensor3("x")
    W, U, C, D, V = (
        param("W", F, 6),
        param("U", 3, 6),
        param("C", F, 3),
        param("D", 3, 3),
        param("V", 3, 2),
    )

    def step(x_t: Any, h: Any) -> Any:
        gates = pt.sigmoid(x_t @ W + h @ U)
        update, reset = gates[:, :3], gates[:, 3:]
        return update * h + (1 - update) * pt.tanh(x_t @ C + (reset * h) @ D)

    states = pytensor.scan(
        step, sequences=[x], outputs_info=[pt.zeros((x.shape[1], 3))], return_updates=False
    )
    return regression(states[-1] @ V, [x], [data(TIME, N, F)], data_axes=[1, 0])


@kind
def LSTM_with_an_embedding() -> Case:
    ids = pt.lmatrix("ids")
    x = param("E", 5, F)[ids].dimshuffle(1, 0, 2)
    W, U, b = param("W", F, 12), param("U", 3, 12), param("b", 12)

    def step(x_t: Any, h: Any, c: Any) -> Any:
        i, f, o, g = pt.split(x_t @ W + h @ U + b, [3, 3, 3, 3], n_splits=4, axis=1)
        c = pt.sigmoid(f) * c + pt.sigmoid(i) * pt.tanh(g)
        return pt.sigmoid(o) * pt.tanh(c), c

    start = pt.zeros((ids.shape[0], 3))
    states, _ = pytensor.scan(
        step, sequences=[x], outputs_info=[start, start], return_updates=False
    )
    return classification(states[-1] @ param("V", 3, 3), [ids], [numbers(5, N, TIME)])


@kind
def network_in_both_directions() -> Case:
    x = pt.tensor3("x")
    W, U = param("W", F, 3), param("U", 3, 3)
    last = [
        pytensor.scan(
            lambda x_t, h: pt.tanh(x_t @ W + h @ U),
            sequences=[x],
            outputs_info=[pt.zeros((x.shape[1], 3))],
            go_backwards=backwards,
            return_updates=False,
        )[-1]
        for backwards in (False, True)
    ]
    y = pt.concatenate(last, axis=1) @ param("V", 6, 2)
    return regression(y, [x], [data(TIME, N, F)], data_axes=[1, 0])


# Convolution and pooling.


@kind
def convolution_and_pooling() -> Case:
    x = pt.tensor4("x", shape=(None, 6, 6, 1))
    maps = pt.tanh(convolve(x, param("K", 3, 3, 1, 2), param("b", 2)))  # (N, 4, 4, 2)
    pooled = pt.max(maps.reshape((x.shape[0], 2, 2, 2, 2, 2)), axis=(2, 4))
    return classification(pt.flatten(pooled, ndim=2) @ param("V", 8, 3), [x], [data(N, 6, 6, 1)])


@kind
def convolution_in_time() -> Case:
    x = pt.matrix("x")
    maps = pt.tanh(convolve1d(x[:, None, :], param("K", 2, 3), mode="valid"))  # (N, 2, 5)
    return regression(maps.mean(axis=2) @ param("V", 2, 2), [x], [data(N, 7)])


# Batches and sequences of one.


@kind
def one_example() -> Case:
    x = pt.matrix("x")
    y = hidden(x).reshape((x.shape[0], 2, 3)).sum(axis=2)
    return regression(y, [x], [data(1, F)])


@kind
def one_example_in_attention() -> Case:
    return attention_case(n=1)


@kind
def one_example_in_a_recurrent_network() -> Case:
    return recurrent_case(n=1)


@kind
def one_time_step() -> Case:
    return recurrent_case(time=1)


@kind
def one_place_in_attention() -> Case:
    return attention_case(time=1)


@kind
def last_chunk_of_one_example() -> Case:
    return recurrent_case(n=5, chunk_size=2)


@kind
def last_chunk_of_one_example_in_attention() -> Case:
    return attention_case(n=5, chunk_size=2)


__all__ = ["KINDS"]
