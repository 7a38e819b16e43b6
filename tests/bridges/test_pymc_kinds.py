"""Fisher information of distributions made of others, against sums and integrals in SciPy."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
import pytest
from scipy import stats

pm = pytest.importorskip("pymc", minversion="6.0")

import symng  # noqa: E402
from symng.backends import compile_in_python  # noqa: E402
from symng.bridges._pymc_kinds import kind_of  # noqa: E402

LOW, HIGH = 0.4, 2.1


def by_weibull(a, b):
    return stats.weibull_min(a, scale=b)


def by_gamma(a, s):
    return stats.gamma(a, scale=s)


# The distribution in PyMC, its base in SciPy, and the parameters of the base.
BASES = {
    "Normal": (pm.Normal.dist(0.3, 1.7), stats.norm, (0.3, 1.7)),
    "Weibull": (pm.Weibull.dist(2.5, 1.7), by_weibull, (2.5, 1.7)),
    "Exponential": (pm.Exponential.dist(scale=1.7), lambda s: stats.expon(0, s), (1.7,)),
    "LogNormal": (
        pm.LogNormal.dist(0.3, 0.7),
        lambda m, s: stats.lognorm(s, scale=np.exp(m)),
        (0.3, 0.7),
    ),
    "Logistic": (pm.Logistic.dist(0.3, 1.7), stats.logistic, (0.3, 1.7)),
    "Gumbel": (pm.Gumbel.dist(0.3, 1.7), stats.gumbel_r, (0.3, 1.7)),
}
BOUNDS = {"both": (LOW, HIGH), "lower": (LOW, np.inf), "upper": (-np.inf, HIGH)}


def information(theta, log_p, support=None, points=()):
    """Return E[s s^T]: an integral over an interval, and a sum over points."""
    theta = np.array(theta)
    x, weights = np.array(points, dtype=float), np.ones(len(points))
    if support is not None:
        # Gauss's rule on panels that grow away from the lower end, where some densities rise.
        nodes, of_nodes = np.polynomial.legendre.leggauss(20)
        edges = support[0] + (support[1] - support[0]) * np.linspace(0, 1, 61)[:, None] ** 3
        half = np.diff(edges, axis=0) / 2
        x = np.concatenate([x, (edges[:-1] + half + half * nodes).ravel()])
        weights = np.concatenate([weights, (half * of_nodes).ravel()])
    # Central differences of fourth order.
    scores = [
        (8 * (log_p(theta + s, x) - log_p(theta - s, x)))
        - (log_p(theta + 2 * s, x) - log_p(theta - 2 * s, x))
        for s in 1e-3 * np.eye(len(theta))
    ]
    scores = np.array(scores) / 12e-3
    return (weights * np.exp(log_p(theta, x)) * scores) @ scores.T


def found(rv, count=None):
    """Return the information in the first parameters of a PyMC variable."""
    kind = kind_of(rv)
    parameters = [pt.constant(np.atleast_1d(p.eval())) for p in kind.given]
    varying = range(len(parameters) if count is None else count)
    if kind.blocks is not None:
        return compile_in_python([], kind.blocks(parameters, varying))()[0]
    entries = kind.matrix(parameters, varying)
    values = compile_in_python([], list(entries.values()))()
    matrix = np.zeros((len(varying), len(varying)))
    for (i, j), value in zip(entries, values, strict=True):
        matrix[i, j] = matrix[j, i] = value.item()
    return matrix


def support_of(base, theta, low, high):
    """Return where a base has its draws between the bounds, but for 1e-13 of them."""
    first, last = base(*theta).ppf(1e-14), base(*theta).isf(1e-14)
    return max(first, low), min(last, high)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("name", BASES)
def test_censored(name, bounds):
    dist, base, theta = BASES[name]
    low, high = BOUNDS[bounds]

    def log_p(t, x):
        frozen = base(*t)
        inside = np.where(x >= high, frozen.logsf(high), frozen.logpdf(x))
        return np.where(x <= low, frozen.logcdf(low), inside)

    expected = information(
        theta,
        log_p,
        support_of(base, theta, low, high),
        [bound for bound in (low, high) if np.isfinite(bound)],
    )
    rv = pm.Censored.dist(dist, lower=low, upper=high)
    np.testing.assert_allclose(found(rv, len(theta)), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("name", BASES)
def test_truncated(name, bounds):
    dist, base, theta = BASES[name]
    low, high = BOUNDS[bounds]

    def log_p(t, x):
        frozen = base(*t)
        return frozen.logpdf(x) - np.log(frozen.cdf(high) - frozen.cdf(low))

    expected = information(theta, log_p, support_of(base, theta, low, high))
    rv = pm.Truncated.dist(dist, lower=low, upper=high)
    np.testing.assert_allclose(found(rv, len(theta)), expected, rtol=1e-6, atol=1e-8)


def with_zeros(log_p):
    """Return log p of a draw that is 0 but for a probability."""

    def log_mixed(t, x):
        p = t[0] * np.exp(log_p(t[1:], x))
        return np.log(p + (x == 0) * (1 - t[0]))

    return log_mixed


def hurdle(log_p, log_rest):
    """Return log p of a draw that is positive with a probability."""

    def log_mixed(t, x):
        positive = np.log(t[0]) + log_p(t[1:], np.where(x == 0, 1, x)) - log_rest(t[1:])
        return np.where(x == 0, np.log1p(-t[0]), positive)

    return log_mixed


def binomial(t, x):
    return stats.binom(9, t[0]).logpmf(x)


def poisson(t, x):
    return stats.poisson(*t).logpmf(x)


def negative_binomial(t, x):
    return stats.nbinom(*t).logpmf(x)


def gamma(t, x):
    return by_gamma(*t).logpdf(x)


COUNTS = range(60)
ZEROS = {
    "ZeroInflatedPoisson": (
        pm.ZeroInflatedPoisson.dist(0.7, 2.7),
        (0.7, 2.7),
        with_zeros(poisson),
    ),
    "ZeroInflatedPoisson of a small mean": (
        pm.ZeroInflatedPoisson.dist(0.2, 0.1),
        (0.2, 0.1),
        with_zeros(poisson),
    ),
    "ZeroInflatedNegativeBinomial": (
        pm.ZeroInflatedNegativeBinomial.dist(0.7, n=1.3, p=0.4),
        (0.7, 1.3, 0.4),
        with_zeros(negative_binomial),
    ),
    "HurdlePoisson": (
        pm.HurdlePoisson.dist(0.7, 2.7),
        (0.7, 2.7),
        hurdle(poisson, lambda t: np.log1p(-np.exp(poisson(t, 0)))),
    ),
    "HurdleNegativeBinomial": (
        pm.HurdleNegativeBinomial.dist(0.7, n=1.3, p=0.4),
        (0.7, 1.3, 0.4),
        hurdle(negative_binomial, lambda t: np.log1p(-np.exp(negative_binomial(t, 0)))),
    ),
}


@pytest.mark.parametrize("name", ZEROS)
def test_counts_with_zeros(name):
    rv, theta, log_p = ZEROS[name]
    expected = information(theta, log_p, points=COUNTS)
    np.testing.assert_allclose(found(rv, len(theta)), expected, rtol=1e-6, atol=1e-8)


def test_zero_inflated_binomial():
    kind = kind_of(pm.ZeroInflatedBinomial.dist(0.7, n=9, p=0.3))
    assert kind.names == ("psi", "n", "p")
    p = [pt.constant(np.array([value])) for value in (0.7, 9.0, 0.3)]
    entries = kind.matrix(p, [0, 2])
    a, b, c = compile_in_python([], [entries[key] for key in ((0, 0), (0, 2), (2, 2))])()
    expected = information((0.7, 0.3), with_zeros(binomial), points=range(10))
    np.testing.assert_allclose(np.ravel([a, b, b, c]), expected.ravel(), rtol=1e-6)


def test_hurdle_of_a_continuous_distribution():
    rv = pm.HurdleGamma.dist(0.7, alpha=2.5, beta=1 / 1.7)
    theta = (0.7, 2.5, 1.7)
    log_p = hurdle(gamma, lambda t: 0.0)
    expected = information(theta, log_p, (1e-14, 80.0), [0])
    np.testing.assert_allclose(found(rv, 3), expected, rtol=1e-6, atol=1e-8)


def test_mixture_of_normals():
    theta = np.array([0.4, 0.6, -0.3, 0.8, 1.5, 0.5])  # weights; mean and scale of each

    def log_p(t, x):
        a, b = stats.norm(*t[2:4]), stats.norm(*t[4:])
        return np.log(t[0] * a.pdf(x) + t[1] * b.pdf(x))

    expected = information(theta, log_p, (-8.0, 8.0))
    rv = pm.NormalMixture.dist(w=theta[:2], mu=theta[[2, 4]], sigma=theta[[3, 5]])
    np.testing.assert_allclose(found(rv), expected, rtol=2e-6, atol=1e-7)
    apart = [pm.Normal.dist(*theta[2:4]), pm.Normal.dist(*theta[4:])]
    rv = pm.Mixture.dist(w=theta[:2], comp_dists=apart)
    np.testing.assert_allclose(found(rv), expected, rtol=2e-6, atol=1e-7)


def test_mixture_of_counts_takes_the_components_as_observed():
    w, mu = np.array([0.4, 0.6]), np.array([1.5, 4.0])
    rv = pm.Mixture.dist(w=w, comp_dists=pm.Poisson.dist(mu, shape=2))
    matrix = found(rv)
    np.testing.assert_allclose(matrix, np.diag([*1 / w, *w / mu]), rtol=1e-12)

    def log_p(t, x):
        return np.log(sum(t[k] * stats.poisson(t[2 + k]).pmf(x) for k in range(2)))

    own = information((*w, *mu), log_p, points=COUNTS)
    # What is lost without the components is the information on them: never negative.
    assert np.linalg.eigvalsh(matrix - own).min() > -1e-6


def test_bounds_of_single_draws_may_be_infinite():
    y, upper = np.array([0.5, 1.2, 2.0]), np.array([np.inf, 1.2, 2.5])
    with pm.Model() as model:
        scale = pm.HalfFlat("scale", initval=1.7)
        pm.Censored("y", pm.Exponential.dist(scale=scale), None, upper, observed=y)
    objective = symng.from_pymc(model)
    assert objective.curvatures["y"] == "Fisher matrix in scale"
    metric = compile_in_python([], symng.Fisher()(objective).materialise())()
    # In the logarithm of the scale: the share of draws that are seen.
    np.testing.assert_allclose(metric, [[(1 - np.exp(-upper / 1.7)).sum()]], rtol=1e-8)


def test_multivariate_normal():
    rng = np.random.default_rng(0)
    Y, X = rng.standard_normal((7, 3)), rng.standard_normal((7, 2))
    packed = np.array([0.3, -0.4, -0.2, 0.5, 0.1, 0.2])
    rows, columns = np.tril_indices(3)

    def mean_and_covariance(theta):
        B, L = theta[:6].reshape(2, 3), np.zeros((3, 3))
        L[rows, columns] = theta[6:]
        L[np.diag_indices(3)] = np.exp(np.diag(L))
        return X @ B, L @ L.T

    with pm.Model() as model:
        B, c = pm.Flat("B", shape=(2, 3)), pm.Flat("c", shape=6)
        L = pt.zeros((3, 3))[rows, columns].set(c)
        L = pt.set_subtensor(L[np.arange(3), np.arange(3)], pt.exp(pt.diagonal(L)))
        pm.MvNormal("y", X @ B, chol=L, observed=Y)
    theta = np.array([*rng.standard_normal(6), *packed])
    objective = symng.from_pymc(model, initvals={"B": theta[:6].reshape(2, 3), "c": packed})
    assert objective.curvatures["y"] == "Fisher matrix in mean, covariance"
    metric = compile_in_python([], symng.Fisher()(objective).materialise())()

    C = mean_and_covariance(theta)[1]
    P = np.linalg.inv(C)
    means, covariances = [], []
    for step in 1e-6 * np.eye(12):
        above, below = mean_and_covariance(theta + step), mean_and_covariance(theta - step)
        means.append((above[0] - below[0]) / 2e-6)
        covariances.append((above[1] - below[1]) / 2e-6)
    expected = np.einsum("aij,jk,bik->ab", means, P, means)
    expected += 7 / 2 * np.einsum("aij,jk,bkl,li->ab", covariances, P, covariances, P)
    np.testing.assert_allclose(metric, expected, rtol=1e-6, atol=1e-7)
