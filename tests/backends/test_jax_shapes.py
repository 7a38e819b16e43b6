"""Shape arithmetic on JAX.

Whatever follows from the shapes of the arguments is known while JAX traces.
"""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.builders import OpFromGraph
from pytensor.scan.utils import until
from pytensor.tensor.signal import convolve1d

from symng.backends import compile_function, enable_jax, to_numpy

pytest.importorskip("jax")

try:
    from pytensor.conditional.op import ifelse
except ImportError:  # early PyTensor 3
    from pytensor.ifelse import ifelse

X = np.random.default_rng(0).standard_normal((6, 4))
x = pt.dmatrix("x")
n, k = x.shape


def through_an_inner_graph():
    """Reshape within an op that is a graph."""
    y = pt.dmatrix()
    return OpFromGraph([y], [y.reshape((y.shape[0], 2, y.shape[1] // 2)).sum(axis=1)])(x)


def through_a_scan():
    """Give a scan lengths that do not change, which it carries from step to step."""
    rows, halves = n, k // 2
    return pytensor.scan(
        lambda row, rows, halves: row.reshape((2, halves)).sum(axis=0) + pt.arange(rows).sum(),
        sequences=[x],
        non_sequences=[rows, halves],
        return_updates=False,
        strict=True,
    )


def through_a_while_scan():
    """Reshape the state of a loop that may stop early."""

    def halve(state, length):
        return state.reshape((2, length)).T.flatten() / 2, until(abs(state).max() < 1)

    # As long as the initial state only at run time.
    return pytensor.scan(
        halve,
        outputs_info=[8 * x[0]],
        non_sequences=[k // 2],
        n_steps=50,
        return_updates=False,
        strict=True,
    )[-1]


def gradient_through_a_scan():
    """Differentiate a recurrence over a sequence of a length that only the arguments tell."""
    last = pytensor.scan(
        lambda row, h: pt.tanh(row + h),
        sequences=[x],
        outputs_info=[pt.zeros((k,))],
        return_updates=False,
    )[-1]
    return pt.grad(last.sum(), x)


def convolution(mode):
    """Differentiate a convolution twice: the modes of the gradients follow from lengths."""
    slope = pt.grad(pt.sqr(convolve1d(x, x[0, : k // 2], mode=mode)).sum(), x)
    return pt.grad(pt.sin(slope).sum(), x)


def by_rows(function, signature):
    """Apply a function to each row."""
    return pt.vectorize(function, signature=signature)(x)


KINDS = {
    "reshape": lambda: x.reshape((n // 2, 2 * k)),
    "reshape with -1": lambda: x.reshape((-1, 2, 2)).max(axis=2),
    "arange": lambda: pt.arange(n * 50)[:: n * 10],
    "arange of a number": lambda: pt.arange(0, pt.ceil(n / 2.5), 1),
    "labels": lambda: x[pt.arange(n), pt.arange(n) % k],
    "split": lambda: pt.split(x, [1, k - 1], n_splits=2, axis=1)[1],
    "slices": lambda: x[n // 3 : n - 1, : k // 2],
    "set a slice": lambda: pt.set_subtensor(x[: n // 2], 0.0),
    "repeat": lambda: pt.repeat(x, n // 2, axis=0),
    "tile": lambda: pt.tile(x, (2, 1)),
    "eye": lambda: pt.eye(k) * k,
    "tril": lambda: pt.tril(x[:k, :k]),
    "alloc": lambda: pt.zeros((n + 1, k - 1)) + n,
    "join": lambda: pt.concatenate([x, pt.zeros((n, 1))], axis=1),
    "pad": lambda: pt.pad(x, [(0, 1), (1, 1)]),
    "mean by hand": lambda: x.sum(axis=0) / n,
    "shapes that are added up": lambda: pt.stack([n, k]).prod() + x.size,
    "inner graph": through_an_inner_graph,
    "scan": through_a_scan,
    "while scan": through_a_while_scan,
    "gradient of a scan": gradient_through_a_scan,
    "valid convolution": lambda: convolution("valid"),
    "full convolution": lambda: convolution("full"),
    "rows split": lambda: by_rows(
        lambda r: pt.split(r, [1, r.shape[0] - 1], n_splits=2)[1], "(a)->(b)"
    ),
    "gradient of rows split": lambda: pt.grad(pt.sin(KINDS["rows split"]()).sum(), x),
    "rows sorted": lambda: by_rows(pt.sort, "(a)->(a)"),
    "rows padded": lambda: by_rows(lambda r: pt.pad(r, 1), "(a)->(b)"),
    "nonzero": lambda: (x.T @ x)[pt.tril_indices(k)],
    "choice by lengths": lambda: ifelse(n > k, x[:k], x[: n // 2]),
    "gradient of a choice": lambda: pt.grad(
        pt.sin(pt.grad(ifelse(x[0, 0] > 0, x**3, x).sum(), x)).sum(), x
    ),
    "gradient of a reflection": lambda: pt.grad(pt.sin(pt.pad(x, 1, mode="reflect")).sum(), x),
}


@pytest.fixture(scope="module")
def on_jax():
    """Compile all kinds at once, for each alone would start JAX anew."""
    return compile_function([x], [make() for make in KINDS.values()], mode="JAX")


@pytest.mark.parametrize("examples", [6, 2, 1])
def test_what_follows_from_shapes_runs(on_jax, examples):
    """One example is an axis of length 1 like any other: nothing broadcasts along it."""
    many = ("labels", "tril", "slices", "reshape", "gradient of a reflection")
    keep = [i for i, name in enumerate(KINDS) if examples > 2 or name not in many]
    if examples < 6:
        outputs = [make() for i, make in enumerate(KINDS.values()) if i in keep]
        got = to_numpy(compile_function([x], outputs, mode="JAX")(X[:examples]))
    else:
        outputs, got = [make() for make in KINDS.values()], to_numpy(on_jax(X))
    expected = compile_function([x], outputs, mode="FAST_COMPILE")(X[:examples])
    names = [name for i, name in enumerate(KINDS) if i in keep]
    for name, value, right in zip(names, got, expected, strict=True):
        assert value.shape == right.shape, name
        np.testing.assert_allclose(value, right, rtol=1e-12, err_msg=name)


def test_another_shape_is_another_trace(on_jax):
    assert [on_jax(np.ones((rows, 4)))[0].shape for rows in (6, 8, 6)] == [(3, 8), (4, 8), (3, 8)]


def test_a_length_stays_known_where_it_is_fused_with_values():
    """Both outputs are computed from the length by one op."""
    outputs = [pt.zeros((n + k,)), pt.sqr(x.sum()) / pt.cast(n + k, "float64")]
    zeros, quotient = to_numpy(compile_function([x], outputs, mode="JAX")(X))
    assert zeros.shape == (10,) and quotient == pytest.approx(X.sum() ** 2 / 10)


def test_a_shape_that_is_computed_from_values_is_refused():
    f = compile_function([x], x.reshape((pt.cast(abs(x[0, 0]), "int64") + 1, -1)), mode="JAX")
    with pytest.raises(
        NotImplementedError,
        match="expected the shape of a reshape to follow from shapes and constants",
    ):
        f(X)


def test_dtypes_stay_those_of_the_graph():
    v, k = pt.fvector("v"), pt.vector("k", dtype="int8")
    n = v.shape[0]
    outputs = [
        v / n.astype("float32"),
        v * pt.arange(n, dtype="float32"),
        v / n.astype("float64"),
        k * (n + 100),
    ]
    values = compile_function([v, k], outputs, mode="JAX")(
        np.ones(3, dtype="float32"), np.full(3, 100, dtype="int8")
    )
    assert [value.dtype for value in values] == [output.type.dtype for output in outputs]
    np.testing.assert_array_equal(values[3], 10300)


@pytest.mark.filterwarnings("ignore:The RandomType SharedVariables")
def test_random_draws_of_a_computed_size():
    enable_jax()
    rng = pytensor.shared(np.random.default_rng(0))
    f = compile_function([x], pt.random.normal(size=(n // 2, k + 1), rng=rng), mode="JAX")
    assert f(X).shape == (3, 5)


WRITES = {
    "all": lambda x, y: pt.set_subtensor(x[:], y[0]),
    "all by its length": lambda x, y: pt.inc_subtensor(x[: x.shape[0]], y),
    "row": lambda x, y: pt.inc_subtensor(x[1], y[0]),
    "last": lambda x, y: pt.set_subtensor(x[-1, -2], y[0, 0]),
    "rows": lambda x, y: pt.inc_subtensor(x[1:-1], y[1:-1] * y[0, 0]),
    "column": lambda x, y: pt.set_subtensor(x[:, 1], 2.0),
    "reversed": lambda x, y: pt.inc_subtensor(x[::-1], y),
    "every other": lambda x, y: pt.inc_subtensor(x[::2], y[::2]),
    "none": lambda x, y: pt.inc_subtensor(x[2:2], 1.0),
    "computed": lambda x, y: pt.set_subtensor(x[pt.argmax(y[:, 0])], 0.5),
}


@pytest.mark.filterwarnings("ignore:Skipping Assert")
@pytest.mark.parametrize("name", WRITES)
def test_writing_into_parts(name):
    x, y = pt.matrix("x"), pt.matrix("y")
    arrays = np.random.default_rng(0).standard_normal((2, 4, 3))
    enable_jax()
    written = WRITES[name](x, y)
    graphs = [written, *pytensor.grad(pt.sqr(written).sum(), [x, y], disconnected_inputs="ignore")]
    found, wanted = (
        pytensor.function([x, y], graphs, mode=m)(*arrays) for m in ("JAX", "FAST_COMPILE")
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_second_derivative_of_a_recurrent_network():
    enable_jax()
    start = 0.3 * np.random.default_rng(0).standard_normal((3, 3))
    x, w = pt.matrix("x"), pytensor.shared(start)
    h = pytensor.scan(
        lambda row, s: pt.tanh(row + s @ w), [x], outputs_info=[pt.zeros(3)], return_updates=False
    )
    slope = pytensor.grad(pt.sqr(h[-1]).sum(), w)
    product = pytensor.grad((slope * w).sum(), w)
    found, wanted = (
        pytensor.function([x], product, mode=m)(np.ones((4, 3))) for m in ("JAX", "FAST_COMPILE")
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
