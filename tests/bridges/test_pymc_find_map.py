"""MAP estimates of PyMC models by natural gradient, beside those of PyMC."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.modes import modes

pm = pytest.importorskip("pymc", minversion="6.0")

import symng  # noqa: E402
from symng.bridges import _pymc_mode  # noqa: E402

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 3))
PYTHON = {"mode": "FAST_COMPILE"}

# PyMC, of its own functions.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def logistic():
    y = rng.random(60) < 1 / (1 + np.exp(-X @ [1.0, -2.0, 0.5]))
    with pm.Model() as model:
        w, b = pm.Normal("w", 0.0, 2.0, shape=3), pm.Normal("b", 0.0, 2.0)
        pm.Bernoulli("y", logit_p=pm.math.dot(X, w) + b, observed=y.astype(int))
    return model


def poisson():
    y = rng.poisson(np.exp(X @ [0.3, -0.5, 0.2] + 1))
    with pm.Model() as model:
        w, b = pm.Normal("w", 0.0, 2.0, shape=3), pm.Normal("b", 0.0, 2.0)
        pm.Poisson("y", pm.math.exp(pm.math.dot(X, w) + b), observed=y)
    return model


def negative_binomial():
    mean = np.exp(X @ [0.3, -0.5, 0.2] + 1)
    y = rng.negative_binomial(2.0, 2 / (2 + mean))
    with pm.Model() as model:
        w, b = pm.Normal("w", 0.0, 2.0, shape=3), pm.Normal("b", 0.0, 2.0)
        alpha = pm.Exponential("alpha", 1.0)
        pm.NegativeBinomial("y", mu=pm.math.exp(pm.math.dot(X, w) + b), alpha=alpha, observed=y)
    return model


def radon():
    """Counties with intercepts of their own, non-centered, as in the radon model."""
    county = rng.integers(0, 8, size=60)
    y = 1.3 + 0.4 * rng.standard_normal(8)[county] - 0.6 * X[:, 0] + 0.7 * rng.standard_normal(60)
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0.0, 10.0), pm.HalfNormal("tau", 1.0)
        z = pm.Normal("z", 0.0, 1.0, shape=8)
        slope, sigma = pm.Normal("slope", 0.0, 10.0), pm.Exponential("sigma", 1.0)
        pm.Normal("y", (mu + tau * z)[county] + slope * X[:, 0], sigma, observed=y)
    return model


def eight_schools():
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0.0, 5.0), pm.HalfCauchy("tau", 5.0)
        z = pm.Normal("z", 0.0, 1.0, shape=8)
        pm.Normal("y", mu + tau * z, error, observed=y)
    return model


def logp_of(model, point):
    """Return the logarithm of the density at a point, from the transformed values in it."""
    logp = model.compile_logp(jacobian=False, mode="FAST_COMPILE")
    return float(logp({v.name: point[v.name] for v in model.value_vars}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [logistic, poisson, negative_binomial, radon, eight_schools], ids=lambda f: f.__name__
)
def test_density_is_that_of_pymc(make):
    model = make()
    arguments = dict(progressbar=False, return_inferencedata=False, compile_kwargs=PYTHON)
    found = symng.pymc.find_MAP(model, **arguments)
    expected = pm.find_MAP(model=model, jitter=False, **arguments)
    assert set(found) == set(expected)
    # At least as good: PyMC's optimizer may stop before.
    np.testing.assert_allclose(logp_of(model, found), logp_of(model, expected), atol=1e-5)


@pytest.mark.parametrize("mode", modes("FAST_COMPILE", "JAX", slow=("JAX",)))
def test_result_is_a_datatree_of_one_draw(mode):
    y = np.array([2.0, 4.0, 3.0])
    with pm.Model(coords={"unit": ["a", "b"]}):
        mu = pm.Normal("mu", 0.0, 1.0, dims="unit")
        pm.Deterministic("twice", 2 * mu, dims="unit")
        pm.Normal("y", mu[0], 1.0, observed=y)
        tree = symng.pymc.find_MAP(progressbar=False, compile_kwargs={"mode": mode})
    posterior = tree["posterior"]
    np.testing.assert_allclose(posterior["mu"].values, [[[9 / 4, 0.0]]], atol=1e-6)
    np.testing.assert_allclose(posterior["twice"].sel(unit="a"), 9 / 2, atol=1e-6)
    np.testing.assert_array_equal(tree["observed_data"]["y"], y)
    assert list(tree["fit"]["mean_vector"]["rows"].values) == ["mu[0]", "mu[1]"]
    result = tree["optimizer_result"]
    assert bool(result["success"]) and int(result["nit"]) < 50
    np.testing.assert_allclose(result["fun"], -logp_of_normal(y, 9 / 4), atol=1e-9)


def logp_of_normal(y, mu):
    squares = ((y - mu) ** 2).sum() + mu**2
    return -squares / 2 - 5 * np.log(2 * np.pi) / 2


def test_jitter_follows_the_seed_and_a_limit_warns():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0.0, 1.0), 1.0, observed=[2.0, 4.0, 3.0])
    arguments = dict(progressbar=False, return_inferencedata=False, compile_kwargs=PYTHON)

    def start(**more):
        # A step so short that the result is the start, but for rounding.
        optimizer = symng.NaturalGradient(damping=1e12)
        with pytest.warns(UserWarning, match="has not converged"):
            found = symng.pymc.find_MAP(model, maxiter=1, optimizer=optimizer, **arguments, **more)
        return float(found["mu"])

    assert start(initvals={"mu": 0.7}) == pytest.approx(0.7)
    assert start(jitter=True, random_seed=1) == pytest.approx(start(jitter=True, random_seed=1))
    assert abs(start(jitter=True, random_seed=1) - start(jitter=True, random_seed=2)) > 1e-3


def test_unknown_compile_kwargs_are_refused():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), observed=0.0)
    with pytest.raises(ValueError, match="compile_kwargs: expected no key but 'mode'"):
        symng.pymc.find_MAP(model, compile_kwargs={"profile": True})


def test_variables_that_are_not_named_stay_where_they_are():
    with pm.Model() as model:
        k = pm.Poisson("k", 3.0)
        scale = pm.HalfNormal("scale")
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("y", mu + k, scale, observed=np.array([4.0, 6.0]))
    arguments = dict(progressbar=False, compile_kwargs=PYTHON, initvals={"k": 2, "scale": 1.0})
    tree = symng.pymc.find_MAP(model, vars=[mu], **arguments)
    posterior = tree["posterior"]
    np.testing.assert_allclose(posterior["mu"], (2 + 4) / 3, atol=1e-5)
    assert int(posterior["k"].item()) == 2
    np.testing.assert_allclose(posterior["scale"], 1.0)
    assert list(tree["fit"]["mean_vector"]["rows"].values) == ["mu"]
    with pytest.raises(ValueError, match="vars: expected free variables of the model.*got nu"):
        symng.pymc.find_MAP(model, vars=["nu"], **arguments)
    with pytest.raises(ValueError, match="continuous.*k"):
        symng.pymc.find_MAP(model, vars=["k", "mu"], **arguments)


def test_an_unbounded_density_has_diverged():
    with pm.Model() as model:
        scale = pm.HalfNormal("scale", 1.0)
        x = pm.Normal("x", 0.0, scale, shape=6)
        pm.Normal("y", x, 1.0, observed=0.1 * X[:6, 0])
    with pytest.warns(UserWarning, match="density seems to be unbounded.*along scale_log__"):
        tree = symng.pymc.find_MAP(model, progressbar=False, compile_kwargs=PYTHON)
    assert tree["optimizer_result"]["status"].item() == "diverged"
    assert not tree["optimizer_result"]["success"]


def test_a_large_model_is_solved_by_conjugate_gradients():
    n = 600
    data = np.random.default_rng(0).standard_normal((3, n))
    with pm.Model() as model:
        w = pm.Normal("w", 0.0, np.linspace(0.1, 3.0, n), shape=n)
        pm.Normal("y", w, 1.0, observed=data)
    solver = _pymc_mode._default_optimizer(symng.from_pymc(model)).solver
    assert isinstance(solver, symng.CG)
    kwargs = {"mode": "FAST_COMPILE"}
    tree = symng.pymc.find_MAP(model, progressbar=False, compile_kwargs=kwargs)
    precision = np.linspace(0.1, 3.0, n) ** -2.0
    expected = data.sum(axis=0) / (3 + precision)
    np.testing.assert_allclose(tree["posterior"]["w"].values[0, 0], expected, rtol=1e-5, atol=1e-6)
    assert tree["optimizer_result"]["status"].item() == "converged"
