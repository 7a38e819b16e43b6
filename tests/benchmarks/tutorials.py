"""Models of the Deep Learning Tutorials in symng, for scripts.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

import symng
from symng.models import binary_cross_entropy_with_logits, categorical_cross_entropy_with_logits

Layer = tuple[symng.Objective, Any, list[Any]]


def train(objective: Any, optimizer: symng.Optimizer, data: Any, **options: Any) -> None:
    """Minimize, and print every fourth part of the losses."""
    result = symng.minimize(objective, optimizer, data, progress=False, **options)
    losses = result.history["loss"]
    print("losses:", *np.round(losses[:: max(1, len(losses) // 4)], 4))
    if "iterations" in result.history:
        print("iterations:", *result.history["iterations"])


def shared(values: Any, name: str) -> Any:
    """Return a shared variable in float32 with its shape in the graph."""
    values = np.asarray(values, "float32")
    return pytensor.shared(values, name=name, shape=values.shape)


def uniform(n: int, m: int, name: str = "W") -> Any:
    """Return the weights of a sigmoid layer, as the tutorials draw them."""
    bound = 4 * np.sqrt(6 / (n + m))
    return shared(np.random.default_rng(n).uniform(-bound, bound, (n, m)), name)


def corrupted(x: Any, noise: float) -> Any:
    """Return x with a part of its entries set to zero."""
    rng = pytensor.shared(np.random.default_rng(1))
    rng.default_update, kept = pt.random.bernoulli(
        1 - noise, size=x.shape, rng=rng, return_next_rng=True
    )
    return x * kept.astype("float32")


def denoising_autoencoder(noise: float) -> symng.Objective:
    """Return the 784-500-784 network of dA.py, with tied weights."""
    x = pt.matrix("x")
    return denoising_layer(x, x, 784, 500, noise)[0]


def denoising_layer(x: Any, a: Any, n: int, m: int, noise: float) -> Layer:
    """Return a denoising autoencoder of the activation a, its code, and the layer's parameters."""
    W, b, c = uniform(n, m), shared(np.zeros(m), "b"), shared(np.zeros(n), "c")
    logits = pt.sigmoid(corrupted(a, noise) @ W + b) @ W.T + c
    loss = binary_cross_entropy_with_logits(logits, a).mean()
    objective = symng.Objective(loss, pt.sigmoid(logits), [W, b, c], [x])
    return objective, pt.sigmoid(a @ W + b), [W, b]


def contractive_autoencoder(n: int = 784, m: int = 500) -> symng.Objective:
    """Return the network of cA.py, whose loss has the squares of the Jacobian of the code.

    The script rounds their sum down, so that it has no gradient there; here it has one.
    """
    x = pt.matrix("x")
    W, b, c = uniform(n, m), shared(np.zeros(m), "b"), shared(np.zeros(n), "c")
    h = pt.sigmoid(x @ W + b)
    logits = h @ W.T + c
    jacobian = (h * (1 - h))[:, None, :] * W[None]
    loss = binary_cross_entropy_with_logits(logits, x).mean()
    loss = loss + 0.1 * pt.sqr(jacobian).sum(axis=(1, 2)).mean()
    return symng.Objective(loss, pt.sigmoid(logits), [W, b, c], [x])


def free_energy(v: Any, W: Any, b: Any, c: Any) -> Any:
    """Return the free energies of visible units: b is the bias of the hidden ones."""
    return -pt.softplus(v @ W + b).sum(axis=-1) - (v * c).sum(axis=-1)


def gibbs(v: Any, rng: Any, steps: int, W: Any, b: Any, c: Any) -> tuple[Any, Any]:
    """Return visible units and the generator after steps of Gibbs sampling."""

    def step(v: Any, rng: Any, W: Any, b: Any, c: Any) -> list[Any]:
        rng, h = pt.random.bernoulli(pt.sigmoid(v @ W + b), rng=rng, return_next_rng=True)
        mean = pt.sigmoid(h.astype("float32") @ W.T + c)
        rng, v = pt.random.bernoulli(mean, rng=rng, return_next_rng=True)
        return [v.astype("float32"), rng]

    if steps == 1:
        v, rng = step(v, rng, W, b, c)
        return v, rng
    chain, rng = pytensor.scan(
        step,
        outputs_info=[v, rng],
        non_sequences=[W, b, c],
        n_steps=steps,
        return_updates=False,
    )
    return chain[-1], rng


def boltzmann_machine(X: Any, units: int = 100, chains: int = 20) -> None:
    """Train the machine of rbm.py by chains that go on from step to step, and sample from it."""
    x, n = pt.matrix("x"), X.shape[1]
    W, b, c = uniform(n, units), shared(np.zeros(units), "b"), shared(np.zeros(n), "c")
    chain, rng = shared(np.zeros((chains, n)), "chain"), pytensor.shared(np.random.default_rng(2))
    objective = symng.EnergyObjective(
        lambda v: free_energy(v, W, b, c), [W, b, c], data=x, samples=chain
    )
    after, next_rng = gibbs(chain, rng, 15, W, b, c)
    updates = {chain: after, rng: next_rng}
    train(objective, symng.SGD(0.1), (X,), batch_size=20, max_steps=len(X) // 20, updates=updates)
    after, next_rng = gibbs(chain, rng, 1000, W, b, c)
    sample = symng.compile_function([], after, updates={chain: after, rng: next_rng})
    print("mean of samples:", *(round(float(sample().mean()), 3) for _ in range(2)))


def boltzmann_layer(x: Any, a: Any, n: int, m: int, noise: float) -> Layer:
    """Return a machine on the activation a with a chain of one step, its units, and parameters."""
    W, b, c = uniform(n, m), shared(np.zeros(m), "b"), shared(np.zeros(n), "c")
    rng = pytensor.shared(np.random.default_rng(3))
    sample, rng.default_update = gibbs(a, rng, 1, W, b, c)
    sample = pytensor.gradient.disconnected_grad(sample)
    loss = free_energy(a, W, b, c).mean() - free_energy(sample, W, b, c).mean()
    objective = symng.Objective(loss, a @ W + b, [W, b, c], [x])
    return objective, pt.sigmoid(a @ W + b), [W, b]


def pretrained(X: Any, T: Any, make: Callable[..., Layer], step_size: float) -> None:
    """Train three layers of 1,000 units one after another, then all by their classes."""
    x, t = pt.matrix("x"), pt.ivector("t")
    a, n, params = x, X.shape[1], []
    for noise in (0.1, 0.2, 0.3):
        objective, a, of_layer = make(x, a, n, 1000, noise)
        params, n = params + of_layer, 1000
        train(objective, symng.SGD(step_size), (X,), batch_size=100, max_steps=len(X) // 100)
    V, d = shared(np.zeros((n, 10)), "V"), shared(np.zeros(10), "d")
    logits = a @ V + d
    loss = categorical_cross_entropy_with_logits(logits, t).mean()
    objective = symng.Objective(
        loss, pt.special.softmax(logits, axis=-1), [*params, V, d], [x], [t]
    )
    train(objective, symng.SGD(0.1), (X, T), batch_size=100, max_steps=2 * len(X) // 100)


def sentences(count: int, words: int, lengths: tuple[int, int]) -> list[Any]:
    """Return made-up sentences, as arrays of the numbers of their words."""
    rng = np.random.default_rng(0)
    return [rng.integers(2, words, rng.integers(*lengths)) for _ in range(count)]


def sentiment(count: int = 400, size: int = 32) -> None:
    """Train the network of lstm.py on made-up sentences of 20 to 60 words, 2 epochs, by Adam."""
    rng = np.random.default_rng(1)
    E, V = shared(0.01 * rng.random((10_000, size)), "E"), shared(np.zeros((size, 2)), "V")
    W, U = (
        shared(np.hstack([symng.models.orthogonal_init(rng, size, size) for _ in range(4)]), name)
        for name in "WU"
    )
    b, d = shared(np.zeros(4 * size), "b"), shared(np.zeros(2), "d")
    x, m, t = pt.lmatrix("x"), pt.matrix("m"), pt.lvector("t")

    def step(m: Any, a: Any, h: Any, c: Any, U: Any) -> list[Any]:
        i, f, o, new = pt.split(a + h @ U, [size] * 4, axis=1)
        new = pt.sigmoid(f) * c + pt.sigmoid(i) * pt.tanh(new)
        c = m[:, None] * new + (1 - m)[:, None] * c
        return [m[:, None] * pt.sigmoid(o) * pt.tanh(c) + (1 - m)[:, None] * h, c]

    start = pt.zeros((x.shape[1], size), dtype="float32")
    h, _ = pytensor.scan(
        step,
        sequences=[m, E[x] @ W + b],
        outputs_info=[start, start],
        non_sequences=[U],
        return_updates=False,
    )
    mean = (h * m[:, :, None]).sum(axis=0) / m.sum(axis=0)[:, None]
    logits = 2 * corrupted(mean, 0.5) @ V + d
    loss = categorical_cross_entropy_with_logits(logits, t).mean()
    objective = symng.Objective(
        loss,
        pt.special.softmax(logits, axis=-1),
        [E, W, U, b, V, d],
        [x, m],
        [t],
        data_axes=[1, 1, 0],
    )
    data, T = sentences(count, 1000, (20, 60)), rng.integers(0, 2, count)

    def epoch() -> Iterator[tuple[Any, ...]]:
        order = rng.permutation(count)
        for chosen in order.reshape(-1, 16):
            length = max(len(data[n]) for n in chosen)
            X, M = np.zeros((length, 16), int), np.zeros((length, 16), "float32")
            for k, n in enumerate(chosen):
                X[: len(data[n]), k], M[: len(data[n]), k] = data[n], 1
            yield X, M, T[chosen]

    train(objective, symng.Adam(), epoch, max_steps=2 * count // 16)


def slots(units: int = 50, words: int = 500, classes: int = 20) -> None:
    """Train the network of rnnslu.py on made-up sentences, one a step, 3 epochs."""
    rng = np.random.default_rng(1)
    size, window = 50, 7

    def weights(name: str, *shape: int) -> Any:
        return shared(0.2 * rng.uniform(-1, 1, shape), name)

    E, Wx = weights("E", words + 1, size), weights("Wx", size * window, units)
    Wh, V = weights("Wh", units, units), weights("V", units, classes)
    b, d, h0 = (
        shared(np.zeros(n), name) for n, name in ((units, "b"), (classes, "d"), (units, "h0"))
    )
    x, t = pt.imatrix("x"), pt.ivector("t")
    h = pytensor.scan(
        lambda a, h, Wh: pt.sigmoid(a + h @ Wh),
        sequences=[E[x].reshape((x.shape[0], size * window)) @ Wx + b],
        outputs_info=[h0],
        non_sequences=[Wh],
        return_updates=False,
    )
    logits = h @ V + d
    loss = categorical_cross_entropy_with_logits(logits, t).mean()
    output = pt.special.softmax(logits, axis=-1)
    objective = symng.Objective(loss, output, [E, Wx, Wh, V, b, d, h0], [x], [t])
    step = symng.compile_step(objective, symng.SGD(0.097))
    normalize = symng.compile_function([], [], updates={E: E / pt.sqrt(pt.sqr(E).sum(1))[:, None]})
    classify = symng.compile_function([x], output.argmax(axis=1))
    data = sentences(150, words, (5, 20))
    for _ in range(3):
        losses, right, total = [], 0, 0
        for row in data:
            padded = np.pad(row, window // 2, constant_values=-1)
            X = np.lib.stride_tricks.sliding_window_view(padded, window).astype("int32")
            T = (row % classes).astype("int32")
            losses.append(step((X, T)).loss)
            normalize()
            right, total = right + int((classify(X) == T).sum()), total + len(row)
        print("loss:", round(float(np.mean(losses)), 4), "right:", round(right / total, 3))


def recurrent_boltzmann_machine(n: int = 88, units: int = 150, recurrent: int = 100) -> None:
    """Train the model of rnnrbm.py on made-up rolls, 3 epochs, and generate twice."""
    rng = np.random.default_rng(1)

    def weights(name: str, a: int, b: int, scale: float) -> Any:
        return shared(scale * rng.standard_normal((a, b)), name)

    W = weights("W", n, units, 0.01)
    Wuh, Wuv = weights("Wuh", recurrent, units, 1e-4), weights("Wuv", recurrent, n, 1e-4)
    Wvu, Wuu = weights("Wvu", n, recurrent, 1e-4), weights("Wuu", recurrent, recurrent, 1e-4)
    bv, bh, b_u = (
        shared(np.zeros(k), name) for k, name in ((n, "bv"), (units, "bh"), (recurrent, "b_u"))
    )
    params = [W, bv, bh, Wuh, Wuv, Wvu, Wuu, b_u]
    v, generator = pt.matrix("v"), pytensor.shared(np.random.default_rng(2))
    u0 = pt.zeros((recurrent,), dtype="float32")
    u = pytensor.scan(
        lambda a, u, Wuu: pt.tanh(a + u @ Wuu),
        sequences=[v @ Wvu + b_u],
        outputs_info=[u0],
        non_sequences=[Wuu],
        return_updates=False,
    )
    before = pt.concatenate([u0[None], u[:-1]])
    b, c = bh + before @ Wuh, bv + before @ Wuv
    sample, generator.default_update = gibbs(v, generator, 15, W, b, c)
    sample = pytensor.gradient.disconnected_grad(sample)
    loss = free_energy(v, W, b, c).mean() - free_energy(sample, W, b, c).mean()
    objective = symng.Objective(loss, v @ W + b, params, [v])
    rolls = [(rng.random((100, n)) < 0.05).astype("float32") for _ in range(10)]
    train(objective, symng.SGD(0.001), lambda: ((roll,) for roll in rolls), max_steps=30)

    def generate(u: Any, rng: Any, *params: Any) -> list[Any]:
        W, bv, bh, Wuh, Wuv, Wvu, Wuu, b_u = params
        start = pt.zeros((n,), dtype="float32")
        v, rng = gibbs(start, rng, 25, W, bh + u @ Wuh, bv + u @ Wuv)
        return [v, pt.tanh(b_u + v @ Wvu + u @ Wuu), rng]

    rng_of_rolls = pytensor.shared(np.random.default_rng(4))
    roll, _, next_rng = pytensor.scan(
        generate,
        outputs_info=[None, u0, rng_of_rolls],
        non_sequences=params,
        n_steps=200,
        return_updates=False,
    )
    draw = symng.compile_function([], roll, updates={rng_of_rolls: next_rng})
    print("mean of rolls:", *(round(float(draw().mean()), 3) for _ in range(2)))
