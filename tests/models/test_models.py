"""Networks, initialisers and losses of `symng.models`, against NumPy."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from scipy import special

from symng.models import (
    autoencoder,
    binary_cross_entropy_with_logits,
    categorical_cross_entropy_with_logits,
    glorot_init,
    mlp,
    orthogonal_init,
    sparse_init,
    squared_error,
)

ACTIVATIONS = {
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "relu": lambda r: np.maximum(r, 0),
    "softplus": lambda r: np.logaddexp(0, r),
    "linear": lambda r: r,
}
OUTPUTS = {
    "linear": lambda r: r,
    "sigmoid": special.expit,
    "softmax": lambda r: special.softmax(r, axis=-1),
    "exp": np.exp,
}


def evaluate(inputs, outputs, *values):
    """Compile and call, in the mode that compiles fastest."""
    return pytensor.function(inputs, outputs, mode="FAST_COMPILE")(*values)


def forward(x, params, functions):
    """The network in NumPy: all layers after their activations."""
    values = [param.get_value() for param in params]
    layers = []
    for W, b, f in zip(values[::2], values[1::2], functions, strict=True):
        x = f(x @ W + b)
        layers.append(x)
    return layers


def randomize_biases(model):
    """Biases start at zero, where a forgotten bias would not show."""
    rng = np.random.default_rng(5)
    for b in model.params[1::2]:
        b.set_value(rng.standard_normal(b.get_value().shape).astype(b.type.dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mlp_is_the_numpy_forward_pass(activation, dtype):
    x = pt.matrix("x", dtype=dtype)
    model = mlp(x, [5, 4, 3, 2], activation=activation)
    randomize_biases(model)
    X = np.random.default_rng(0).standard_normal((7, 5)).astype(dtype)
    got = evaluate([x], [*model.hidden, model.output], X)
    f = ACTIVATIONS[activation]
    for value, expected in zip(
        got, forward(X, model.params, [f, f, OUTPUTS["linear"]]), strict=True
    ):
        assert value.dtype == dtype
        np.testing.assert_allclose(value, expected, rtol=1e-5 if dtype == "float32" else 1e-12)
    assert model.code is None
    assert model.preactivation is model.output


@pytest.mark.parametrize("output", OUTPUTS)
def test_output_activations_and_preactivation(output):
    x = pt.matrix("x", dtype="float32")
    model = mlp(x, [5, 3], output=output)
    X = np.random.default_rng(0).standard_normal((7, 5)).astype("float32")
    y, r = evaluate([x], [model.output, model.preactivation], X)
    assert y.dtype == r.dtype == "float32"
    np.testing.assert_allclose(y, OUTPUTS[output](r), rtol=1e-5)
    np.testing.assert_allclose(r, X @ model.params[0].get_value(), rtol=1e-4, atol=1e-6)


def test_callables_serve_as_activation_and_output():
    x = pt.matrix("x", dtype="float64")
    model = mlp(x, [2, 3, 1], activation=pt.sin, output=lambda r: r**2)
    X = np.random.default_rng(0).standard_normal((4, 2))
    expected = forward(X, model.params, [np.sin, np.square])[-1]
    np.testing.assert_allclose(evaluate([x], model.output, X), expected, rtol=1e-12)


def test_autoencoder_mirrors_the_encoder_around_a_linear_code():
    x = pt.matrix("x", dtype="float32")
    model = autoencoder(x, (6, 4, 3, 2))
    assert [W.get_value().shape for W in model.params[::2]] == [
        (6, 4),
        (4, 3),
        (3, 2),
        (2, 3),
        (3, 4),
        (4, 6),
    ]
    assert [param.name for param in model.params] == [
        f"{kind}{i}" for i in range(1, 7) for kind in "Wb"
    ]
    assert model.code is model.hidden[2]
    randomize_biases(model)
    X = np.random.default_rng(0).standard_normal((5, 6)).astype("float32")
    s, linear = ACTIVATIONS["sigmoid"], ACTIVATIONS["linear"]
    expected = forward(X, model.params, [s, s, linear, s, s, s])
    code, output = evaluate([x], [model.code, model.output], X)
    np.testing.assert_allclose(code, expected[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output, expected[-1], rtol=1e-5)
    assert output.dtype == "float32"


def test_autoencoder_of_one_layer_is_code_and_output():
    model = autoencoder(pt.matrix("x"), [5, 2])
    assert [W.get_value().shape for W in model.params[::2]] == [(5, 2), (2, 5)]
    assert model.code is model.hidden[0]


def test_default_initializer_of_the_autoencoder_is_sparse():
    weights = autoencoder(pt.matrix("x"), [40, 30, 3]).params[0].get_value()
    np.testing.assert_array_equal((weights != 0).sum(axis=0), 15)


def test_models_accept_sequences_in_time():
    x = pt.tensor3("x", dtype="float64")
    model = mlp(x, [3, 4, 2])
    X = np.random.default_rng(0).standard_normal((5, 6, 3))
    expected = forward(X, model.params, [special.expit, lambda r: r])[-1]
    np.testing.assert_allclose(evaluate([x], model.output, X), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "x_dtype, dtype, expected",
    [
        ("float32", None, "float32"),
        ("float64", None, "float64"),
        ("int8", None, pytensor.config.floatX),
        ("int64", "float32", "float32"),
        ("float64", "float32", "float32"),
        ("float32", "float64", "float64"),
    ],
)
def test_dtype(x_dtype, dtype, expected):
    model = mlp(pt.matrix("x", dtype=x_dtype), [3, 2, 2], output="softmax", dtype=dtype)
    assert {param.type.dtype for param in model.params} == {expected}
    assert (
        model.output.type.dtype
        == model.preactivation.type.dtype
        == model.hidden[0].type.dtype
        == expected
    )


def test_gradients_keep_float32():
    x = pt.matrix("x", dtype="float32")
    for activation in ACTIVATIONS:
        model = mlp(x, [3, 2, 3], activation=activation, output="sigmoid")
        loss = binary_cross_entropy_with_logits(model.preactivation, x).mean()
        assert {g.type.dtype for g in pytensor.grad(loss, model.params)} == {"float32"}


def test_same_seed_same_weights():
    def weights(seed):
        return [param.get_value() for param in mlp(pt.matrix("x"), [30, 20, 5], seed=seed).params]

    for first, second in zip(weights(3), weights(3), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(weights(3)[0], weights(4)[0])


def test_initializer_callable_and_its_shape():
    model = mlp(
        pt.matrix("x"),
        [3, 2],
        initializer=lambda rng, fan_in, fan_out, dtype: np.ones((fan_in, fan_out)),
    )
    np.testing.assert_array_equal(model.params[0].get_value(), np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"^initializer: expected .*\(3, 2\)"):
        mlp(
            pt.matrix("x"),
            [3, 2],
            initializer=lambda rng, fan_in, fan_out, dtype: np.ones((fan_out, fan_in)),
        )


@pytest.mark.parametrize(
    "fan_in, fan_out, connections", [(100, 30, 15), (6, 25, 15), (15, 4, 15), (50, 7, 3)]
)
def test_sparse_init_counts_and_scale(fan_in, fan_out, connections):
    weights = sparse_init(
        np.random.default_rng(0), fan_in, fan_out, "float32", connections=connections
    )
    assert weights.shape == (fan_in, fan_out)
    assert weights.dtype == "float32"
    np.testing.assert_array_equal((weights != 0).sum(axis=0), min(connections, fan_in))


def test_sparse_init_is_normal_and_spread_over_the_inputs():
    weights = sparse_init(np.random.default_rng(0), 100, 4000, scale=2.0)
    values = weights[weights != 0]
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 2.0) < 0.05
    # Each input is chosen by a share of 15/100 of the units: a binomial of standard deviation
    # 0.0056.
    used = (weights != 0).mean(axis=1)
    assert used.min() > 0.12
    assert used.max() < 0.18


def test_glorot_init_fills_its_bounds():
    bound = np.sqrt(6 / 300)
    weights = glorot_init(np.random.default_rng(0), 100, 200, "float32")
    assert weights.shape == (100, 200)
    assert weights.dtype == "float32"
    assert 0.99 * bound < abs(weights).max() <= bound * (1 + 1e-6)
    assert abs(weights.var() / (2 / 300) - 1) < 0.05


def test_glorot_init_with_a_gain_is_a_multiple():
    plain, scaled = (glorot_init(np.random.default_rng(0), 5, 4, gain=gain) for gain in (1.0, 4.0))
    np.testing.assert_allclose(scaled, 4 * plain)


@pytest.mark.parametrize("fan_in, fan_out", [(7, 4), (4, 7), (5, 5)])
def test_orthogonal_init(fan_in, fan_out):
    weights = orthogonal_init(np.random.default_rng(0), fan_in, fan_out, "float32", gain=3.0)
    assert weights.shape == (fan_in, fan_out) and weights.dtype == "float32"
    small = min(fan_in, fan_out)
    product = weights.T @ weights if fan_in >= fan_out else weights @ weights.T
    np.testing.assert_allclose(product, 9 * np.eye(small), atol=1e-5)


def test_squared_error_sums_over_outputs_only():
    y, t = pt.matrix("y", dtype="float32"), pt.lmatrix("t")
    Y, T = np.array([[1, 2], [3, 5]], "float32"), np.array([[0, 0], [1, 1]])
    got = evaluate([y, t], squared_error(y, t), Y, T)
    assert got.dtype == "float32"
    np.testing.assert_array_equal(got, [5, 20])


@pytest.mark.parametrize("target_dtype", ["float32", "float64", "int64"])
def test_binary_cross_entropy_is_right_and_stable(target_dtype):
    r, t = pt.matrix("r", dtype="float32"), pt.matrix("t", dtype=target_dtype)
    R = np.array([[-100, 100], [100, -100], [0.5, -2]], "float32")
    T = np.array([[0, 1], [0, 1], [1, 0]], target_dtype)
    got = evaluate([r, t], binary_cross_entropy_with_logits(r, t), R, T)
    assert got.dtype == "float32"
    np.testing.assert_allclose(
        got, [0, 200, np.log1p(np.exp(-0.5)) + np.log1p(np.exp(-2))], rtol=1e-6, atol=1e-30
    )


def test_binary_cross_entropy_of_gray_targets():
    r, t = pt.matrix("r", dtype="float64"), pt.matrix("t", dtype="float64")
    rng = np.random.default_rng(0)
    R, T = rng.standard_normal((4, 3)), rng.random((4, 3))
    y = special.expit(R)
    expected = -(T * np.log(y) + (1 - T) * np.log(1 - y)).sum(axis=1)
    got = evaluate([r, t], binary_cross_entropy_with_logits(r, t), R, T)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["one-hot", "labels"])
def test_categorical_cross_entropy_is_right_and_stable(kind):
    r = pt.matrix("r", dtype="float32")
    R = np.array([[100, -100, 0], [-100, 100, 0], [0.5, -2, 1]], "float32")
    labels = np.array([0, 0, 2])
    t, T = (
        (pt.lvector("t"), labels)
        if kind == "labels"
        else (pt.matrix("t", dtype="float32"), np.eye(3)[labels])
    )
    loss = categorical_cross_entropy_with_logits(r, t)
    value, slope = evaluate([r, t], [loss, pytensor.grad(loss.sum(), r)], R, T.astype(t.type.dtype))
    assert value.dtype == slope.dtype == "float32"
    reference = R.astype("float64")
    expected = special.logsumexp(reference, axis=1) - reference[np.arange(3), labels]
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(
        slope, special.softmax(reference, axis=1) - np.eye(3)[labels], atol=1e-6
    )


def test_categorical_cross_entropy_of_soft_targets_over_the_last_of_three_axes():
    r, t = pt.tensor3("r", dtype="float64"), pt.tensor3("t", dtype="float64")
    rng = np.random.default_rng(0)
    R, T = rng.standard_normal((2, 4, 3)), rng.dirichlet(np.ones(3), size=(2, 4))
    got = evaluate([r, t], categorical_cross_entropy_with_logits(r, t), R, T)
    np.testing.assert_allclose(got, -(T * special.log_softmax(R, axis=-1)).sum(axis=-1), rtol=1e-12)


X = pt.matrix("x", dtype="float32")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: mlp(X, [3]), ValueError, "sizes: expected at least two layers"),
        (lambda: mlp(X, 3), TypeError, "sizes: expected a sequence"),
        (lambda: mlp(X, "32"), TypeError, "sizes: expected a sequence"),
        (lambda: mlp(X, [3, 0]), ValueError, r"sizes\[1\]: expected a whole number, at least 1"),
        (lambda: autoencoder(X, [3, 2.5]), TypeError, r"sizes\[1\]: expected a whole number"),
        (
            lambda: mlp(X, [3, 2], activation="sigmiod"),
            ValueError,
            "activation: expected one of 'sigmoid'",
        ),
        (lambda: mlp(X, [3, 2], activation=None), ValueError, "activation: expected one of"),
        (
            lambda: mlp(X, [3, 2], output="tanh"),
            ValueError,
            "output: expected one of 'linear', 'sigmoid', 'softmax'",
        ),
        (
            lambda: mlp(X, [3, 2], initializer="he"),
            ValueError,
            r"initializer: expected one of 'glorot', 'sparse', got 'he' \(str\). "
            r"Or give a function of \(rng, fan_in, fan_out, dtype\)",
        ),
        (lambda: mlp(X, [3, 2], seed=-1), ValueError, "seed: expected"),
        (
            lambda: mlp(X, [3, 2], dtype="int32"),
            ValueError,
            "dtype: expected one of 'float32', 'float64'",
        ),
        (lambda: mlp(np.ones((2, 3)), [3, 2]), TypeError, "x: expected a symbolic tensor"),
        (
            lambda: mlp(pt.matrix("x", shape=(None, 4)), [3, 2]),
            ValueError,
            "x: expected 3 entries along the last axis",
        ),
        (lambda: mlp(pt.scalar("x"), [3, 2]), ValueError, "x: expected 3 entries"),
        (lambda: sparse_init(0, 3, 2), TypeError, "rng: expected a numpy.random.Generator"),
        (lambda: sparse_init(RNG, 3, 2, connections=0), ValueError, "connections: expected"),
        (lambda: sparse_init(RNG, 3, 2, scale=0.0), ValueError, "scale: expected"),
        (lambda: glorot_init(RNG, 0, 2), ValueError, "fan_in: expected"),
        (lambda: glorot_init(RNG, 2, 1.5), TypeError, "fan_out: expected"),
        (lambda: glorot_init(RNG, 2, 2, gain=0.0), ValueError, "gain: expected"),
        (lambda: orthogonal_init(RNG, 0, 2), ValueError, "fan_in: expected"),
        (lambda: squared_error(X, pt.vector("t")), ValueError, "target: expected 2 axes"),
        (
            lambda: binary_cross_entropy_with_logits(pt.imatrix("r"), X),
            TypeError,
            "logits: expected floating-point",
        ),
        (
            lambda: binary_cross_entropy_with_logits(pt.scalar("r"), pt.scalar("t")),
            ValueError,
            "logits: expected at",
        ),
        (
            lambda: categorical_cross_entropy_with_logits(X, pt.vector("t")),
            ValueError,
            "target: expected 2 axes",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match="^" + words):
        call()
