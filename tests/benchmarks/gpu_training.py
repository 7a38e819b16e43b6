"""Train autoencoders against the clock with all data on the device, for gpu.py."""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Rows = Iterator[tuple[str, dict[str, Any]]]
MARKS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
CURVES = (784, 400, 200, 100, 50, 25, 6)
SMALL = (784, 100, 50, 25, 6)
MNIST = (784, 1000, 500, 250, 30)
BATCH, RATE = 500, 1e-3  # of Adam
EVALUATED = 5000  # images at a time


def curves(options: argparse.Namespace) -> Rows:
    """Train on Curves by the defaults of examples/curves.py, and by Adam of optax."""
    from symng.datasets import curves as make_images

    images = make_images(3000 if options.small else 20_000, seed=0)
    sizes, seconds = (SMALL, 5.0) if options.small else (CURVES, 60.0)
    marks = [mark for mark in MARKS if mark <= seconds]
    yield from _train_symng("Curves", sizes, {"train": images}, marks, compare_feeds=True)
    yield from _train_adam("Curves", sizes, images, marks)


def mnist(options: argparse.Namespace) -> Rows:
    """Train on MNIST by the same settings."""
    seconds = 60 * options.mnist
    data = np.load(options.data)
    name = next((n for n in ("x_train", "train_x") if n in data), None)
    if name is None:
        raise ValueError(f"--data: expected x_train or train_x, got {', '.join(data.files)}")
    images = {"train": data[name]}
    test = name.replace("train", "test")
    if test in data:
        images["test"] = data[test]
    images = {key: _as_images(value) for key, value in images.items()}
    if options.small:
        images = {key: value[:4000] for key, value in images.items()}
    marks = [m for m in (*MARKS, *np.arange(120, seconds, 60)) if m < seconds]
    sizes = SMALL if options.small else MNIST
    yield from _train_symng("MNIST", sizes, images, [*marks, seconds])


def _as_images(values: np.ndarray) -> np.ndarray:
    """Return images as rows of numbers from 0 to 1."""
    rows = values.reshape(len(values), -1)
    return (rows / 255 if rows.dtype.kind in "ui" else rows).astype("float32")


def _make_objective(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the objective, and a graph of the sum of squared errors."""
    import pytensor.tensor as pt

    import symng
    from symng.models import autoencoder, binary_cross_entropy_with_logits

    x = pt.matrix("x", dtype="float32")
    model = autoencoder(x, sizes, initializer="sparse", seed=0, dtype="float32")
    loss = binary_cross_entropy_with_logits(model.preactivation, x).mean()
    objective = symng.Objective(loss, output=model.output, params=model.params, inputs=[x])
    return objective, pt.sqr(model.output - x).sum()


def _default_settings(examples: int) -> Any:
    """Return the options of examples/curves.py."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    import curves as example

    options = example.parse(["--mode", "JAX", "--examples", str(examples), "--start", "0"])
    return example.make_optimizer(options), options, example.describe(options).partition(";")[0]


def _train_symng(
    data: str,
    sizes: tuple[int, ...],
    images: dict[str, np.ndarray],
    marks: list[float],
    compare_feeds: bool = False,
) -> Rows:
    """Train by symng, with the batches that minimize would draw, gathered on the device."""
    import jax

    import symng
    from symng.training.term_batches import IndexSampler

    train = images["train"]
    optimizer, options, words = _default_settings(len(train))
    objective, error = _make_objective(sizes)
    on_device = jax.device_put(train)
    take = jax.jit(lambda rows, chosen: rows[chosen])
    sampler = IndexSampler(len(train), options.batch, np.random.default_rng(0))
    metric_size = options.metric_examples

    def draw() -> tuple[np.ndarray, np.ndarray]:
        return sampler.next(), sampler.others(metric_size)[0]

    start = time.perf_counter()
    step = symng.compile_step(objective, optimizer, mode="JAX")
    step.compile((train[: options.batch],), (train[:metric_size],))
    squared_errors = _make_evaluation(objective, error, images)
    [take(on_device, chosen) for chosen in draw()]
    compiled = time.perf_counter() - start
    yield _settings(data, "symng", words, compiled)

    def advance() -> int:
        gradient, metric = (take(on_device, chosen) for chosen in draw())
        step.run((gradient,), (metric,), sync=False)
        return 1

    for row in _against_the_clock(advance, squared_errors, marks):
        yield f"{data}: squared error", {"contestant": "symng", **row}
    if compare_feeds:

        def advance_by_host() -> int:
            gradient, metric = (train[chosen] for chosen in draw())
            step.run((gradient,), (metric,), sync=False)
            return 1

        for feed, function in (("device", advance), ("host, as minimize", advance_by_host)):
            yield f"{data}: a step", {"batches from": feed, "ms": 1e3 * _median(function)}


def _median(function: Callable[[], Any], turns: int = 30) -> float:
    """Return the median seconds of a call."""
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _make_evaluation(
    objective: Any, error: Any, images: dict[str, np.ndarray]
) -> Callable[[], dict[str, float]]:
    """Return a function of the squared errors per image over whole sets, compiled."""
    import jax

    import symng

    function = symng.compile_function(objective.inputs, error, mode="JAX")
    function.trust_input = True
    chunks = {
        name: [jax.device_put(c) for c in np.array_split(rows, -(-len(rows) // EVALUATED))]
        for name, rows in images.items()
    }

    def evaluate() -> dict[str, float]:
        return {
            _name(name): sum(float(function(c)) for c in chunks[name]) / len(images[name])
            for name in images
        }

    evaluate()
    return evaluate


def _settings(data: str, name: str, words: str, seconds: float) -> tuple[str, dict[str, Any]]:
    """Return the row that says how a contestant trains."""
    row = {"contestant": name, "settings": words, "seconds of compilation": seconds}
    return f"{data}: settings", row


def _name(kind: str) -> str:
    """Return the column of a set of images."""
    return "squared error" if kind == "train" else f"squared error, {kind}"


def _against_the_clock(
    advance: Callable[[], int], evaluate: Callable[[], dict[str, float]], marks: list[float]
) -> Iterator[dict[str, Any]]:
    """Train, and return a row when the clock reaches a mark; evaluations are not counted."""
    spent, steps = 0.0, 0
    yield {"seconds": spent, "steps": steps, **evaluate()}
    for mark in marks:
        while spent < mark:
            start = time.perf_counter()
            steps += advance()
            spent += time.perf_counter() - start
        yield {"seconds": spent, "steps": steps, **evaluate()}


def _train_adam(data: str, sizes: tuple[int, ...], images: np.ndarray, marks: list[float]) -> Rows:
    """Train by Adam of optax from the same weights, an epoch in each call."""
    import jax
    import jax.numpy as jnp
    import optax

    objective, _ = _make_objective(sizes)
    arrays = [jnp.asarray(p.get_value()) for p in objective.params]
    on_device = jax.device_put(images)
    linear = (len(sizes) - 2, len(arrays) // 2 - 1)  # the code, and the last, in the loss
    optimizer = optax.adam(RATE)
    batches = len(images) // BATCH

    def logits(params: list[Any], h: Any) -> Any:
        for i, (w, b) in enumerate(zip(params[::2], params[1::2], strict=True)):
            h = h @ w + b
            h = h if i in linear else jax.nn.sigmoid(h)
        return h

    def loss(params: list[Any], x: Any) -> Any:
        r = logits(params, x)
        return jnp.sum(jax.nn.softplus(r) - x * r, axis=1).mean()

    @jax.jit
    def epoch(params: list[Any], state: Any, key: Any, rows: Any) -> Any:
        order = jax.random.permutation(key, len(rows))[: batches * BATCH].reshape(batches, BATCH)

        def update(carry: Any, chosen: Any) -> Any:
            params, state = carry
            changes, state = optimizer.update(jax.grad(loss)(params, rows[chosen]), state)
            return (optax.apply_updates(params, changes), state), None

        return jax.lax.scan(update, (params, state), order)[0]

    @jax.jit
    def squared_error(params: list[Any], rows: Any) -> Any:
        return jnp.sum((jax.nn.sigmoid(logits(params, rows)) - rows) ** 2)

    def evaluate() -> dict[str, float]:
        chunks = jnp.array_split(on_device, -(-len(images) // EVALUATED))
        return {"squared error": sum(float(squared_error(params, c)) for c in chunks) / len(images)}

    params, state = arrays, optimizer.init(arrays)
    keys = (jax.random.key(i) for i in itertools.count())
    start = time.perf_counter()
    jax.block_until_ready(epoch(params, state, next(keys), on_device))
    evaluate()
    words = f"Adam of optax: batches of {BATCH}, rate {RATE:g}, {batches} steps in a call"
    compiled = time.perf_counter() - start
    yield _settings(data, "Adam", words, compiled)

    def advance() -> int:
        nonlocal params, state
        params, state = jax.block_until_ready(epoch(params, state, next(keys), on_device))
        return batches

    for row in _against_the_clock(advance, evaluate, marks):
        yield f"{data}: squared error", {"contestant": "Adam", **row}
