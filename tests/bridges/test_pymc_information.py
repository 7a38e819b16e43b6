"""Fisher information of distributions, against sums and integrals over the distribution."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
import pytest
from scipy import special, stats

pm = pytest.importorskip("pymc", minversion="6.0")

from symng.backends import compile_in_python  # noqa: E402
from symng.bridges._pymc_information import FAMILIES, family_of  # noqa: E402

# The op's parameters, PyMC's distribution of them, and SciPy's.
CONTINUOUS = {
    "Normal": ((0.3, 1.7), pm.Normal.dist, lambda m, s: stats.norm(m, s)),
    "LogNormal": ((0.3, 0.7), pm.LogNormal.dist, lambda m, s: stats.lognorm(s, scale=np.exp(m))),
    "HalfNormal": ((0.0, 1.7), lambda loc, s: pm.HalfNormal.dist(s), stats.halfnorm),
    "Laplace": ((0.3, 1.7), pm.Laplace.dist, stats.laplace),
    "Logistic": ((0.3, 1.7), pm.Logistic.dist, stats.logistic),
    "Cauchy": ((0.3, 1.7), pm.Cauchy.dist, stats.cauchy),
    "Gumbel": ((0.3, 1.7), pm.Gumbel.dist, stats.gumbel_r),
    "StudentT": (
        (3.5, 0.3, 1.7),
        lambda nu, m, s: pm.StudentT.dist(nu, mu=m, sigma=s),
        stats.t,
    ),
    "Exponential": ((1.7,), lambda s: pm.Exponential.dist(scale=s), lambda s: stats.expon(0, s)),
    "Gamma": (
        (2.5, 1.7),
        lambda a, s: pm.Gamma.dist(alpha=a, beta=1 / s),
        lambda a, s: stats.gamma(a, scale=s),
    ),
    "InverseGamma": ((2.5, 1.7), pm.InverseGamma.dist, lambda a, b: stats.invgamma(a, scale=b)),
    "Beta": ((2.5, 1.7), pm.Beta.dist, stats.beta),
    "Weibull": ((2.5, 1.7), pm.Weibull.dist, lambda a, b: stats.weibull_min(a, scale=b)),
}
DISCRETE = {
    "Bernoulli": ((0.3,), pm.Bernoulli.dist, stats.bernoulli),
    "Binomial": ((7.0, 0.3), pm.Binomial.dist, lambda n, p: stats.binom(int(n), p)),
    "Geometric": ((0.3,), pm.Geometric.dist, stats.geom),
    "Poisson": ((2.7,), pm.Poisson.dist, stats.poisson),
    "NegativeBinomial": (
        (1.3, 0.4),
        lambda n, p: pm.NegativeBinomial.dist(n=n, p=p),
        stats.nbinom,
    ),
}
ALL = CONTINUOUS | DISCRETE


def scores(frozen, theta, free, x):
    """Return the slopes of log p(x) by the free parameters, by central differences."""
    slopes = []
    for i in free:
        step = 1e-5 * np.eye(len(theta))[i]
        above, below = frozen(*(theta + step)), frozen(*(theta - step))
        log = "logpdf" if hasattr(above.dist, "pdf") else "logpmf"
        slopes.append((getattr(above, log)(x) - getattr(below, log)(x)) / 2e-5)
    return np.array(slopes)


def expected_outer_product(name, theta, free):
    """Return E[s s^T] for the score s, summed or integrated over the distribution."""
    frozen = ALL[name][2]
    distribution = frozen(*theta)
    if name in DISCRETE:
        first, last = distribution.support()
        x = np.arange(first, min(last, distribution.ppf(1 - 1e-16) + 30) + 1)
        s = scores(frozen, theta, free, x)
        return (distribution.pmf(x) * s) @ s.T
    # x is the quantile of u = sigmoid(z), on either side of the median.
    nodes, weights = np.polynomial.legendre.leggauss(200)
    z = np.concatenate([18 * nodes - 18, 18 * nodes + 18])
    u, above = special.expit(z), special.expit(-z)
    x = np.where(z < 0, distribution.ppf(u), distribution.isf(above))
    s = scores(frozen, theta, free, x)
    return (18 * np.tile(weights, 2) * u * above * s) @ s.T


@pytest.mark.parametrize("name", ALL)
def test_information_is_the_mean_outer_product_of_scores(name):
    theta, make, _ = ALL[name]
    family = family_of(make(*theta).owner.op)
    free = [i for i in range(len(theta)) if (i, i) in family.entries]
    parameters = [pt.constant(value) for value in theta]
    entries = [family.entries.get((min(i, j), max(i, j))) for i in free for j in free]
    values = [pt.constant(0.0) if f is None else f(*parameters) for f in entries]
    found = np.reshape(compile_in_python([], values)(), (len(free), len(free)))
    expected = expected_outer_product(name, np.array(theta), free)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-7)


def test_every_family_is_tested():
    tested = {type(make(*theta).owner.op) for theta, make, _ in ALL.values()}
    of_probabilities = {op for op, family in FAMILIES.items() if family.event}
    assert {cls for op in tested for cls in op.__mro__} & set(FAMILIES) == (
        set(FAMILIES) - of_probabilities
    )


@pytest.mark.parametrize("n, p", [(0.3, 0.01), (2.0, 0.5), (1e3, 0.5), (1.5, 1e-3), (3.0, 0.999)])
def test_information_in_n_of_a_negative_binomial(n, p):
    entry = FAMILIES[type(pm.NegativeBinomial.dist(n=n, p=p).owner.op)].entries[0, 0]
    found = compile_in_python([], entry(pt.constant(n), pt.constant(p)))()
    distribution = stats.nbinom(n, p)
    x = np.arange(distribution.ppf(1 - 1e-15) + 50)
    # psi'(n) - psi'(n + x) is a sum of x terms.
    gaps = np.cumsum(1 / (n + x) ** 2) - 1 / (n + x) ** 2
    np.testing.assert_allclose(found, (distribution.pmf(x) * gaps).sum(), rtol=1e-9)
