"""The same calls by Theano 0.6.0 on Python 2.7, whose results are in ``data/theano.json``.

Recorded with ``mode=FAST_COMPILE`` and ``linker=py`` in float64.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from symng.legacy import install_theano, uninstall_theano

REFERENCE = json.loads((Path(__file__).parent / "data" / "theano.json").read_text())


@pytest.fixture(scope="module")
def results():
    install_theano()
    try:
        yield {**draws(), **images(), **activations(), **loops(), **small()}
    finally:
        uninstall_theano()


def draws():
    """Uniform, binomial and multinomial draws, two calls of one function."""
    import theano
    from theano.tensor.shared_randomstreams import RandomStreams

    streams, found = RandomStreams(234), {}
    outputs = [
        streams.uniform((2, 3), low=-1.0, high=2.0),
        streams.binomial((6,), n=1, p=0.3),
        streams.binomial((6,), n=5, p=0.3),
    ]
    f = theano.function([], outputs)
    for call in range(2):
        for name, value in zip(("uniform", "binomial", "binomial5"), f(), strict=True):
            found[f"{name}_{call}"] = value
    draw = RandomStreams(9).multinomial(size=(3,), n=1, pvals=[0.2, 0.3, 0.5])
    return {**found, "multinomial": theano.function([], draw)()}


def images():
    """Convolutions and poolings of images and filters whose size the graph does not know."""
    import theano
    import theano.tensor as T
    from theano.tensor.nnet import conv
    from theano.tensor.signal import downsample

    rng = np.random.RandomState(0)
    values, filters = rng.randn(2, 2, 5, 7), rng.randn(3, 2, 3, 2)
    x, w = T.dtensor4(), T.dtensor4()
    graphs = {
        "conv_valid": conv.conv2d(x, w, border_mode="valid"),
        "conv_full": conv.conv2d(x, w, border_mode="full"),
        "conv_subsample": conv.conv2d(x, w, subsample=(2, 2)),
    }
    for ignore in (True, False):
        for size in ((2, 2), (3, 2), (2, 3)):
            name = f"pool_{ignore:d}_{size[0]}_{size[1]}"
            graphs[name] = downsample.max_pool_2d(x, size, ignore_border=ignore)
    found = theano.function([x, w], list(graphs.values()))(values, filters)
    pooled = downsample.max_pool_2d(x, (2, 2), ignore_border=True)
    slopes = theano.function([x], T.grad(pooled.sum(), x))(np.round(values))
    return {**dict(zip(graphs, found, strict=True)), "pool_grad_ties": slopes}


def activations():
    """Activations and losses of a matrix."""
    import theano
    import theano.tensor as T

    rng = np.random.RandomState(0)
    rng.randn(2 * 2 * 5 * 7 + 3 * 2 * 3 * 2)
    M = rng.randn(3, 4)
    m, v, y = T.dmatrix(), T.dvector(), T.lvector()
    p = T.nnet.softmax(m)
    graphs = {
        "softmax_matrix": p,
        "softmax_vector": T.nnet.softmax(v),
        "softplus": T.nnet.softplus(m),
        "hard_sigmoid": T.nnet.hard_sigmoid(m),
        "categorical": T.nnet.categorical_crossentropy(p, y),
        "categorical_dist": T.nnet.categorical_crossentropy(p, T.nnet.softmax(2 * m)),
        "binary": T.nnet.binary_crossentropy(T.nnet.sigmoid(m), T.nnet.sigmoid(-2 * m)),
        "softmax_grad": T.grad(p[:, 0].sum(), m),
    }
    found = theano.function([m, v, y], list(graphs.values()))(M, M[0], [1, 3, 0])
    return dict(zip(graphs, found, strict=True))


def loops():
    """Buffers of the sandbox's scan, loops that stop, and folds."""
    import theano
    import theano.tensor as T
    from theano.sandbox.scan import scan

    until, found = theano.scan_module.until, {}
    start = T.unbroadcast(T.shape_padleft(T.constant(np.array([1.0, 2.0]))), 0)
    for rows in (1, 2, 4, 6):
        more = T.zeros((rows - 1, 2), dtype="float64")
        (kept,), _ = scan(lambda s: [2 * s], states=[T.concatenate([start, more])], n_steps=5)
        found[f"sandbox_{rows}"] = kept
    (kept,), _ = scan(lambda s: ([2 * s], until((s > 7).any())), states=[start], n_steps=50)
    found["sandbox_until"] = kept
    one = T.constant(np.array(1.0))
    found["scan_until"], _ = theano.scan(
        lambda s: (2 * s, until(s > 7)), outputs_info=[one], n_steps=50
    )
    x = T.constant(np.array([1.0, 2.0, 4.0]))
    for name in ("foldl", "foldr", "reduce"):
        fold = getattr(theano, name)
        found[name] = fold(lambda a, s: a - 2 * s, x, T.constant(np.array(0.5)))[0]
    return dict(zip(found, theano.function([], list(found.values()))(), strict=True))


def small():
    """Names that PyTensor has under others, or with other defaults."""
    import theano.tensor as T
    from theano.sandbox.linalg import ops

    rng = np.random.RandomState(0)
    rng.randn(2 * 2 * 5 * 7 + 3 * 2 * 3 * 2 + 3 * 4)
    A = rng.randn(4, 4)
    return {
        "trace": ops.trace(A).eval(),
        "inverse": ops.matrix_inverse(A).eval(),
        "round": T.round(np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])).eval(),
        "sgn": T.sgn(np.array([-2.5, 0.0, 3.0])).eval(),
    }


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_is_what_theano_gave(name, results):
    np.testing.assert_allclose(results[name], REFERENCE[name], rtol=1e-11, atol=1e-13)


def test_nothing_is_left_out(results):
    assert set(results) == set(REFERENCE)
