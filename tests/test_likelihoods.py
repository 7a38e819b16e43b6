"""The likelihoods.

Their metrics against dense matrices, samples against moments, targets, arguments.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.oracles import KINDS, LIKELIHOODS, STD, metric_on_r, output_of

import symng
from symng.likelihoods import describe_likelihood

R = np.random.default_rng(0).standard_normal((4, 3))
V = np.random.default_rng(1).standard_normal((4, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_on_r_and_on_y_agree_with_the_dense_matrices(kind):
    likelihood = LIKELIHOODS[kind]
    r, v = pt.matrix("r"), pt.matrix("v")
    y = likelihood.mean(r)
    on_r, on_y, values = pytensor.function(
        [r, v],
        [likelihood.metric_product(r, v), likelihood.output_metric_product(y, v), y],
        on_unused_input="ignore",
    )(R, V)
    np.testing.assert_allclose(
        on_r, [metric_on_r(kind, a) @ b for a, b in zip(R, V, strict=True)], rtol=1e-12
    )
    weights = {"gaussian": 1 / STD**2, "bernoulli": 1 / (values * (1 - values))}.get(
        kind, 1 / values
    )
    np.testing.assert_allclose(on_y, weights * V, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_is_the_output(kind):
    r = pt.matrix("r")
    np.testing.assert_allclose(
        LIKELIHOODS[kind].mean(r).eval({r: R}), output_of(kind, r).eval({r: R}), rtol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_metric_on_r_is_the_covariance_of_the_score(kind):
    """By Monte Carlo, from samples of the same likelihood.

    The definition of the Fisher matrix, with error bars.
    """
    likelihood, n = LIKELIHOODS[kind], 40_000
    r = pt.matrix("r")
    rng = pt.random.shared_rng(np.random.default_rng(5))
    y = likelihood.mean(r)
    following, draws = likelihood.sample(y, rng)
    targets, means = pytensor.function([r], [draws, y], updates={rng: following})(
        np.repeat(R[:1], n, axis=0)
    )
    # d log p / d r, for all four.
    scores = (targets - means) / (STD**2 if kind == "gaussian" else 1)
    products = scores[:, :, None] * scores[:, None, :]
    error = products.std(axis=0) / np.sqrt(n)
    assert (np.abs(products.mean(axis=0) - metric_on_r(kind, R[0])) <= 5 * error + 1e-12).all()
    assert (np.abs(scores.mean(axis=0)) <= 5 * scores.std(axis=0) / np.sqrt(n)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples(kind, dtype):
    y = pt.matrix("y", dtype=dtype)
    rng = pt.random.shared_rng(np.random.default_rng(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        following, draws = LIKELIHOODS[kind].sample(y, rng)
        assert (draws.type.dtype, draws.ndim) == (dtype, 2)
        f = pytensor.function([y], draws, updates={rng: following})
    mean = np.full((50, 4), 0.25, dtype)
    first, second = f(mean), f(mean)
    assert first.shape == (50, 4) and first.dtype == dtype
    assert not np.array_equal(first, second)
    LIKELIHOODS[kind].check_targets("t", first, 2)
    if kind == "categorical":
        assert set(np.unique(first)) == {0, 1} and (first.sum(axis=1) == 1).all()


def test_gaussian_std_may_be_a_shared_variable():
    std = pytensor.shared(2.0)
    v = pt.vector("v")
    f = pytensor.function([v], symng.Gaussian(std=std).metric_product(v, v))
    assert f([8.0]) == [2.0]
    std.set_value(4.0)
    assert f([8.0]) == [0.5]


@pytest.mark.parametrize("std", [0.3, np.float64(0.3), np.array(0.3), 3, pytensor.shared(0.3)])
def test_gaussian_keeps_float32(std):
    v = pt.fvector("v")
    product = symng.Gaussian(std=std).metric_product(v, v)
    assert product.dtype == "float32"
    value = std.get_value() if hasattr(std, "get_value") else std
    np.testing.assert_allclose(product.eval({v: np.ones(1, "float32")}), 1 / value**2, rtol=1e-6)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: symng.Gaussian(std=0),
            ValueError,
            r"std: expected a finite number, above 0 \(or a symbolic .* got 0",
        ),
        (lambda: symng.Gaussian(std=-1.0), ValueError, "std: expected .* got -1.0"),
        (lambda: symng.Gaussian(std=float("nan")), ValueError, "std: expected .* got nan"),
        (lambda: symng.Gaussian(std=float("inf")), ValueError, "std: expected a finite number"),
        (lambda: symng.Gaussian(std="1"), TypeError, "std: expected"),
        (lambda: symng.Gaussian(std=True), TypeError, "std: expected"),
        (lambda: symng.Gaussian(std=pt.vector()), TypeError, "std: expected"),
        (
            lambda: symng.Gaussian(std=2 * pt.scalar("s")),
            ValueError,
            "std: .* Make s a shared variable",
        ),
        (lambda: symng.Bernoulli(logits=1), TypeError, "logits: expected True or False, got 1"),
        (lambda: symng.Categorical(logits="yes"), TypeError, "logits: expected True or False"),
        (
            lambda: symng.Poisson(log_rate=None),
            TypeError,
            "log_rate: expected True or False, got None",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


GOOD = [
    (symng.Gaussian(), [[-3.0, 5.0]]),
    (symng.Bernoulli(), [[0.0, 0.5, 1.0]]),
    (symng.Bernoulli(), np.array([[0, 1]])),
    (symng.Categorical(), [[0.0, 1.0], [0.25, 0.75]]),
    (symng.Categorical(), np.array([0, 2, 1])),
    (symng.Poisson(), [[0.0, 7.0]]),
]
BAD = [
    (
        symng.Bernoulli(),
        [[0.5, 1.5]],
        r"values from 0 to 1 \(Bernoulli likelihood\), got 1.5 at \(0, 1\)",
    ),
    (symng.Bernoulli(), [[1.0], [-1.0]], r"got -1.0 at \(1, 0\)"),
    (symng.Bernoulli(), [[0.5], [np.nan]], r"got nan at \(1, 0\)"),
    (
        symng.Categorical(),
        [[1.0, 0.0], [1.0, 1.0]],
        r"one-hot rows .* got \[1. 1.\] at \(1,\). One-hot encode",
    ),
    (symng.Categorical(), [[2.0, -1.0]], r"one-hot rows .* got \[ 2. -1.\] at \(0,\)"),
    (
        symng.Categorical(),
        np.array([0, -1]),
        r"class numbers 0, 1, ... .* got -1 at \(1,\). Number the classes from 0",
    ),
    (symng.Categorical(), np.array([0.5]), r"class numbers .* got 0.5 at \(0,\)"),
    (
        symng.Poisson(),
        [[1.0, -2.0]],
        r"counts of at least 0 \(Poisson likelihood\), got -2.0 at \(0, 1\)",
    ),
]


@pytest.mark.parametrize("likelihood, targets", GOOD)
def test_targets_that_can_be(likelihood, targets):
    likelihood.check_targets("t", np.asarray(targets), 2)


@pytest.mark.parametrize("likelihood, targets, message", BAD)
def test_targets_that_cannot_be(likelihood, targets, message):
    with pytest.raises(ValueError, match="t: expected .*" + message):
        likelihood.check_targets("t", np.asarray(targets), 2)


def test_labels_beyond_the_classes():
    symng.Categorical().check_targets("t", np.array([2]), 2, classes=3)
    with pytest.raises(
        ValueError, match=r"t: expected class numbers from 0 to 2 .* got 3 at \(1,\)"
    ):
        symng.Categorical().check_targets("t", np.array([2, 3]), 2, classes=3)


@pytest.mark.parametrize(
    "likelihood, text",
    [
        (symng.Gaussian(), "Gaussian"),
        (symng.Gaussian(std=0.5), "Gaussian(std=0.5)"),
        (symng.Bernoulli(logits=True), "Bernoulli(logits=True)"),
        (symng.Gaussian(std=pytensor.shared(1.0, name="s")), "Gaussian(std=s)"),
    ],
)
def test_description(likelihood, text):
    assert describe_likelihood(likelihood) == text


@pytest.mark.parametrize(
    "likelihood",
    [
        symng.Gaussian(std=0.5),
        symng.Bernoulli(),
        symng.Categorical(logits=True),
        symng.Poisson(log_rate=True),
    ],
)
def test_repr_rebuilds_and_values_are_frozen(likelihood):
    assert eval(repr(likelihood), {type(likelihood).__name__: type(likelihood)}) == likelihood
    with pytest.raises(AttributeError):
        likelihood.logits = True


def test_metric_root_is_the_old_name_of_metric_sqrt():
    class Doubled(symng.Gaussian):
        metric_sqrt = symng.Likelihood.metric_sqrt

        def metric_root(self, r, v, transposed=False):
            return 2 * v

    v = pt.constant(np.array([1.0, 3.0]))
    words = r"^Likelihood\.metric_root is deprecated .*use Likelihood\.metric_sqrt"
    with pytest.warns(DeprecationWarning, match=words):
        assert Doubled().metric_sqrt(v, v).eval().tolist() == [2.0, 6.0]
    with pytest.warns(DeprecationWarning, match=words):
        assert symng.Gaussian(std=2.0).metric_root(v, v).eval().tolist() == [0.5, 1.5]
