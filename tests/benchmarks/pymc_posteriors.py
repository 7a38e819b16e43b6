"""The PyMC models of `pymc_models.py`, on data that are made up."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt


def _data(n: int, features: int, seed: int):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, features))
    return rng, X, X @ rng.normal(0, 0.4, features)


def logistic(n=500, features=10):
    rng, X, eta = _data(n, features, 1)
    y = rng.random(n) < 1 / (1 + np.exp(-eta))
    with pm.Model() as model:
        w, b = pm.Normal("w", 0, 2, shape=features), pm.Normal("b", 0, 2)
        pm.Bernoulli("y", logit_p=X @ w + b, observed=y.astype(int))
    return model


def poisson(n=500, features=10):
    rng, X, eta = _data(n, features, 2)
    with pm.Model() as model:
        w, b = pm.Normal("w", 0, 2, shape=features), pm.Normal("b", 0, 2)
        pm.Poisson("y", pm.math.exp(X @ w + b), observed=rng.poisson(np.exp(eta + 1)))
    return model


def negative_binomial(n=500, features=10):
    rng, X, eta = _data(n, features, 3)
    y = rng.negative_binomial(2.0, 2 / (2 + np.exp(eta + 1)))
    with pm.Model() as model:
        w, b = pm.Normal("w", 0, 2, shape=features), pm.Normal("b", 0, 2)
        alpha = pm.Exponential("alpha", 1)
        pm.NegativeBinomial("y", mu=pm.math.exp(X @ w + b), alpha=alpha, observed=y)
    return model


def radon(n=900, counties=85):
    """Counties with intercepts of their own, non-centered, and a slope of the floor."""
    rng = np.random.default_rng(4)
    county, floor = rng.integers(0, counties, n), rng.integers(0, 2, n)
    y = (1.4 + 0.3 * rng.standard_normal(counties))[county] - 0.7 * floor
    y = y + 0.7 * rng.standard_normal(n)
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0, 10), pm.HalfNormal("tau", 1)
        z = pm.Normal("z", 0, 1, shape=counties)
        slope, sigma = pm.Normal("slope", 0, 10), pm.Exponential("sigma", 1)
        pm.Normal("y", (mu + tau * z)[county] + slope * floor, sigma, observed=y)
    return model


def eight_schools():
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5)
        z = pm.Normal("z", 0, 1, shape=8)
        pm.Normal("y", mu + tau * z, error, observed=y)
    return model


def mixture(n=500):
    rng = np.random.default_rng(5)
    y = rng.normal(np.array([-3.0, 0.0, 4.0])[rng.integers(0, 3, n)], 1.0)
    ordered = pm.distributions.transforms.ordered
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(3))
        mu = pm.Normal("mu", 0, 10, shape=3, transform=ordered, initval=[-1.0, 0.0, 1.0])
        sigma = pm.HalfNormal("sigma", 3, shape=3)
        pm.NormalMixture("y", w, mu, sigma, observed=y)
    return model


def autoregression(n=300):
    rng = np.random.default_rng(6)
    y = np.zeros(n)
    for t in range(2, n):
        y[t] = 0.3 + 0.6 * y[t - 1] - 0.3 * y[t - 2] + 0.5 * rng.standard_normal()
    with pm.Model() as model:
        rho, sigma = pm.Normal("rho", 0, 1, shape=3), pm.HalfNormal("sigma", 1)
        start = pm.Normal.dist(0, 1, shape=2)
        pm.AR("y", rho, sigma=sigma, constant=True, init_dist=start, observed=y)
    return model


def local_level(n=60):
    """A level that walks at random, by a scan: unbounded where the walk stands still."""
    rng = np.random.default_rng(7)
    y = np.cumsum(0.3 * rng.standard_normal(n)) + 0.5 * rng.standard_normal(n)
    with pm.Model() as model:
        walk, noise = pm.HalfNormal("walk", 1), pm.HalfNormal("noise", 1)
        start, steps = pm.Normal("start", 0, 1), pm.Normal("steps", 0, walk, shape=n)
        level = pytensor.scan(lambda step, level: level + step, steps, start, return_updates=False)
        pm.Normal("y", level, noise, observed=y)
    return model


def censored_weibull(n=400, features=3):
    rng, X, eta = _data(n, features, 8)
    times, end = np.exp(eta + 1) * rng.weibull(1.7, n), rng.uniform(1, 6, n)
    with pm.Model() as model:
        w, b = pm.Normal("w", 0, 2, shape=features), pm.Normal("b", 0, 2)
        alpha = pm.Exponential("alpha", 1)
        life = pm.Weibull.dist(alpha, pm.math.exp(X @ w + b))
        pm.Censored("y", life, None, end, observed=np.minimum(times, end))
    return model


def network(n=200, features=4, hidden=(10, 10)):
    """A network with normal priors and known noise, from a start that is the same for all."""
    rng = np.random.default_rng(9)
    X = rng.standard_normal((n, features))
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.standard_normal(n)
    with pm.Model() as model:
        h, size = pt.constant(X), features
        for layer, width in enumerate(hidden):
            first = rng.standard_normal((size, width)) / np.sqrt(size)
            W = pm.Normal(f"W{layer}", 0, 1, shape=(size, width), initval=first)
            h, size = pt.tanh(h @ W + pm.Normal(f"b{layer}", 0, 1, shape=width)), width
        first = rng.standard_normal(size) / np.sqrt(size)
        w = pm.Normal("w", 0, 1, shape=size, initval=first)
        pm.Normal("y", h @ w, 0.1, observed=y)
    return model


def ordered(n=500, features=4):
    rng, X, eta = _data(n, features, 10)
    y = np.digitize(2 * eta + rng.logistic(size=n), [-1.0, 0.5, 2.0])
    transform = pm.distributions.transforms.ordered
    with pm.Model() as model:
        w = pm.Normal("w", 0, 2, shape=features)
        cuts = pm.Normal("cuts", 0, 5, shape=3, transform=transform, initval=[-1.0, 0.0, 1.0])
        pm.OrderedLogistic("y", eta=X @ w, cutpoints=cuts, observed=y)
    return model


def gaussian_process(n=80):
    rng = np.random.default_rng(11)
    X = np.sort(rng.uniform(0, 10, n))[:, None]
    y = np.sin(X[:, 0]) + 0.2 * rng.standard_normal(n)
    with pm.Model() as model:
        length, scale = pm.Gamma("length", 2, 1), pm.HalfNormal("scale", 3)
        process = pm.gp.Marginal(cov_func=scale**2 * pm.gp.cov.ExpQuad(1, ls=length))
        process.marginal_likelihood("y", X, y, sigma=pm.HalfNormal("sigma", 1))
    return model


def hierarchical_logistic(groups=1000, per_group=10, features=3):
    """Intercepts of groups, non-centered, and slopes in common."""
    rng, X, eta = _data(groups * per_group, features, 12)
    group = np.repeat(np.arange(groups), per_group)
    eta = eta + rng.normal(-0.5, 0.8, groups)[group]
    y = rng.random(len(eta)) < 1 / (1 + np.exp(-eta))
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0, 2), pm.HalfNormal("tau", 1)
        z, w = pm.Normal("z", 0, 1, shape=groups), pm.Normal("w", 0, 2, shape=features)
        pm.Bernoulli("y", logit_p=(mu + tau * z)[group] + X @ w, observed=y.astype(int))
    return model


def large_network():
    """A network of 10,454 numbers."""
    return network(n=500, features=20, hidden=(80, 107))


SMALL = {
    "logistic": logistic,
    "Poisson": poisson,
    "negative binomial": negative_binomial,
    "radon, non-centered": radon,
    "eight schools": eight_schools,
    "mixture": mixture,
    "AR(2)": autoregression,
    "local level by scan": local_level,
    "censored Weibull": censored_weibull,
    "BNN": network,
    "ordered": ordered,
    "GP": gaussian_process,
}
LARGE = {
    "hierarchical logistic, 1,000 groups": hierarchical_logistic,
    "BNN of 10,000 numbers": large_network,
}
