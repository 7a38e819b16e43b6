"""The objective of a PyMC model: loss and metric against PyMC and dense matrices in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.modes import modes

pm = pytest.importorskip("pymc", minversion="6.0")

import symng  # noqa: E402
from symng.backends import compile_in_python  # noqa: E402

rng = np.random.default_rng(0)
X = rng.standard_normal((20, 2))
W = np.array([0.4, -0.3])
LOG_SIGMA = 0.2

pytestmark = pytest.mark.filterwarnings("ignore:.*automatically imputed")


def regression(family, **arguments):
    """A model of w and sigma, with flat priors so that the metric is that of the data alone."""
    with pm.Model() as model:
        w = pm.Flat("w", shape=2)
        sigma = pm.HalfFlat("sigma")
        family(pm.math.dot(X, w), sigma, **arguments)
    return model


def metric_of(objective):
    """Return the dense Fisher matrix at the parameters W, LOG_SIGMA."""
    for p, value in zip(objective.params, (W, LOG_SIGMA), strict=False):
        p.set_value(np.asarray(value, dtype=float))
    return compile_in_python([], symng.Fisher()(objective).materialise())()


def block(of_mu, cross, of_sigma, slope=None):
    """Return J^T I J for eta = (X w, exp(log sigma)): numbers of I, and the slope of a mean."""
    J = X if slope is None else slope[:, None] * X
    sigma = np.exp(LOG_SIGMA)
    n = np.ones(len(X))
    c = sigma * J.T @ (cross * n)
    return np.block(
        [
            [J.T @ (np.reshape(of_mu * n, (-1, 1)) * J), c[:, None]],
            [c[None], np.array([[sigma**2 * (of_sigma * n).sum()]])],
        ]
    )


S = np.exp(LOG_SIGMA)
MU = X @ W
P = 1 / (1 + np.exp(-MU))
COUNTS = rng.poisson(2.0, size=len(X))
CASES = {
    "Normal": (
        lambda r, s: pm.Normal("y", r, s, observed=MU),
        block(S**-2, 0, 2 * S**-2),
    ),
    "Normal, sigma shared, mean of rows": (
        lambda r, s: pm.Normal("y", r[:, None], s, observed=np.ones((len(X), 3))),
        3 * block(S**-2, 0, 2 * S**-2),
    ),
    "LogNormal": (
        lambda r, s: pm.LogNormal("y", r, s, observed=np.exp(MU)),
        block(S**-2, 0, 2 * S**-2),
    ),
    "StudentT": (
        lambda r, s: pm.StudentT("y", nu=4.0, mu=r, sigma=s, observed=MU),
        block(5 / 7 * S**-2, 0, 8 / 7 * S**-2),
    ),
    "Gamma by mu and sigma, a constant shape": (
        lambda r, s: pm.Gamma("y", alpha=2.0, beta=2.0 * pm.math.exp(-r) / s, observed=np.exp(MU)),
        block(2.0, 2.0 / S, 2.0 / S**2),
    ),
    "NegativeBinomial": (
        lambda r, s: pm.NegativeBinomial(
            "y", mu=pm.math.exp(r), alpha=np.array(3.0), observed=COUNTS
        ),
        block(1 / (1 / np.exp(MU) + 1 / 3), 0, 0),
    ),
    "Exponential": (
        lambda r, s: pm.Exponential("y", pm.math.exp(r), observed=np.exp(MU)),
        block(1.0, 0, 0),
    ),
    "Bernoulli": (
        lambda r, s: pm.Bernoulli("y", logit_p=r, observed=COUNTS > 2),
        block(P * (1 - P), 0, 0),
    ),
    "Binomial": (
        lambda r, s: pm.Binomial("y", n=7, logit_p=r, observed=COUNTS),
        block(7 * P * (1 - P), 0, 0),
    ),
    "Poisson": (
        lambda r, s: pm.Poisson("y", pm.math.exp(r), observed=COUNTS),
        block(np.exp(MU), 0, 0),
    ),
    "Categorical": (
        lambda r, s: pm.Categorical(
            "y", logit_p=pm.math.stack([r, 0 * r], axis=1), observed=COUNTS > 2
        ),
        block(P * (1 - P), 0, 0),
    ),
    "Multinomial": (
        lambda r, s: pm.Multinomial(
            "y",
            n=5,
            p=pm.math.stack([pm.math.sigmoid(r), pm.math.sigmoid(-r)], axis=1),
            observed=np.tile([2, 3], (len(X), 1)),
        ),
        block(5 * P * (1 - P), 0, 0),
    ),
    "OrderedLogistic of two classes": (
        lambda r, s: pm.OrderedLogistic("y", eta=r, cutpoints=np.array([0.0]), observed=COUNTS > 2),
        block(P * (1 - P), 0, 0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_metric_is_the_fisher_matrix_of_the_observed_variables(name):
    family, expected = CASES[name]
    objective = symng.from_pymc(regression(family))
    assert objective.curvatures["y"].startswith("Fisher matrix")
    np.testing.assert_allclose(metric_of(objective), expected, rtol=1e-9, atol=1e-10)


def hierarchical():
    """A model with priors of scales, of which nothing is observed directly."""
    group = np.arange(20) % 4
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 2.0)
        tau = pm.HalfNormal("tau", 1.0)
        a = pm.Normal("a", mu, tau, shape=4)
        sigma = pm.Exponential("sigma", 1.0)
        pm.Normal("y", a[group], sigma, observed=X[:, 0])
    return model


@pytest.mark.parametrize("jacobian", [False, True])
def test_loss_and_gradient_are_those_of_pymc(jacobian):
    model = hierarchical()
    objective = symng.from_pymc(model, jacobian=jacobian, initvals={"a": [0.1, 0.2, -0.3, 0.0]})
    point = objective.point()
    logp = model.compile_logp(jacobian=jacobian, mode="FAST_COMPILE")
    np.testing.assert_allclose(compile_in_python([], objective.loss)(), -logp(point), rtol=1e-12)
    np.testing.assert_array_equal(point["a"], [0.1, 0.2, -0.3, 0.0])


def test_metric_adds_the_positive_part_of_the_hessian_of_the_priors():
    model = hierarchical()
    objective = symng.from_pymc(model, initvals={"a": [0.1, 0.9, -0.8, 0.0], "tau": 0.5})
    with pm.Model() as priors:
        mu = pm.Normal("mu", 0.0, 2.0)
        tau = pm.HalfNormal("tau", 1.0)
        pm.Normal("a", mu, tau, shape=4)
        pm.Exponential("sigma", 1.0)
    of_priors = priors.compile_d2logp(jacobian=False, mode="FAST_COMPILE", negate_output=False)
    values, Q = np.linalg.eigh(-of_priors(objective.point()))
    assert values.min() < -0.1  # so that the positive part is another matrix
    H = (Q * np.maximum(values, 0)) @ Q.T
    sigma, J = 1.0, np.zeros((20, 7))
    J[np.arange(20), 2 + np.arange(20) % 4] = 1
    F = J.T @ J / sigma**2
    F[6, 6] = 2 * 20  # sigma is exp(log sigma)
    found = compile_in_python([], symng.Fisher()(objective).materialise())()
    np.testing.assert_allclose(found, F + H, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "curvature, words",
    [("gauss-newton", "Gauss-Newton matrix"), ("hessian", "positive part of the Hessian")],
)
def test_other_curvatures(curvature, words):
    model = regression(lambda r, s: pm.Normal("y", r, s, observed=MU + 1))
    objective = symng.from_pymc(model, curvature=curvature)
    assert objective.curvatures["y"].startswith(words)
    found = metric_of(objective)
    # -log p = log sigma + (r - y)^2 / (2 sigma^2); its Hessian by r and sigma, or by log sigma.
    e = -np.ones(len(X))
    expected = block(S**-2, -2 * e / S**3, -(S**-2) + 3 * e**2 / S**4)
    if curvature == "hessian":
        slope = 1 / S - e**2 / S**3
        expected[2, 2] += S * slope.sum()
        values, Q = np.linalg.eigh(expected)
        expected = (Q * np.maximum(values, 0)) @ Q.T
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


def test_repr_says_what_is_taken_of_each_variable():
    with pm.Model() as model:
        a = pm.Normal("a")
        pm.Normal("b", a, 1.0, observed=[0.0])
        pm.SkewNormal("c", mu=a, sigma=1.0, alpha=1.0, observed=[0.0])
        pm.ZeroInflatedPoisson("d", 0.5, pm.math.exp(a), observed=[0, 1])
        pm.CustomDist("e", a, logp=lambda value, mu: -((value - mu) ** 2), observed=[0.0])
        pm.Potential("f", -(a**2))
    assert repr(symng.from_pymc(model)) == (
        "PyMCObjective\n"
        "  params: a (), 1 numbers, float64\n"
        "  loss: negative log posterior, without the Jacobian of the transforms\n"
        "  b: Fisher matrix in mu\n"
        "  c: Gauss-Newton matrix in its parameters\n"
        "  d: Fisher matrix in mu\n"
        "  e: Gauss-Newton matrix in its parameters, normalized or not\n"
        "  f: positive part of the Hessian\n"
        "  priors: positive part of the Hessian"
    )


def test_an_unnormalized_density_has_the_same_metric():
    """The Hessian in the parameters: a constant of log p makes no difference."""

    def model_of(constant):
        with pm.Model() as model:
            a = pm.Normal("a", 0.0, 2.0)
            pm.CustomDist(
                "y", a, logp=lambda y, mu: -((y - mu) ** 4) + constant, observed=[0.5, 2.0]
            )
        return model

    found = []
    for constant in (0.0, 5.0):
        objective = symng.from_pymc(model_of(constant), initvals={"a": 0.1})
        found.append(compile_in_python([], symng.Fisher()(objective).materialise())())
    expected = 12 * (0.4**2 + 1.9**2) + 1 / 4
    np.testing.assert_allclose(found, np.full((2, 1, 1), expected))


def test_missing_values_are_parameters():
    y = np.where(np.arange(20) == 3, np.nan, MU)
    model = regression(lambda r, s: pm.Normal("y", r, s, observed=y))
    objective = symng.from_pymc(model)
    assert [p.name for p in objective.params] == ["w", "sigma_log__", "y_unobserved"]
    found = metric_of(objective)
    kept = np.delete(X, 3, axis=0)
    # The row of the missing value has the Hessian of its prior in place of the information.
    assert found.shape == (4, 4)
    np.testing.assert_allclose(found[3, 3], S**-2, rtol=0.5)
    assert np.linalg.eigvalsh(found[:2, :2] - kept.T @ kept / S**2).min() > -1e-9


@pytest.mark.filterwarnings("ignore:The RandomType SharedVariables")
@pytest.mark.parametrize("mode", modes("FAST_COMPILE", "JAX", slow=("JAX",)))
def test_minibatches_change_from_step_to_step(mode):
    y = np.arange(12.0)
    with pm.Model() as model:
        mu = pm.Flat("mu")
        batch = pm.Minibatch(y, batch_size=4)
        pm.Normal("y", mu, 1.0, observed=batch, total_size=12)
    objective = symng.from_pymc(model)
    optimizer = symng.NaturalGradient(damping=0.0, step_size=1.0)
    step = symng.compile_step(objective, optimizer, mode=mode)
    means = []
    for _ in range(4):
        step(())
        means.append(float(objective.params[0].get_value()))
    # A whole step goes to the mean of the minibatch: four different numbers of y.
    assert len(set(np.round(means, 6))) > 1
    assert all(abs(4 * m - round(4 * m)) < 1e-4 for m in means)
    F = symng.Fisher()(objective).materialise()
    np.testing.assert_allclose(compile_in_python([], F)(), [[12.0]])


def test_data_are_read_anew():
    with pm.Model() as model:
        x = pm.Data("x", np.ones(3))
        w = pm.Flat("w")
        pm.Normal("y", x * w, 1.0, observed=np.zeros(3))
    F = compile_in_python([], symng.Fisher()(symng.from_pymc(model)).materialise())
    np.testing.assert_allclose(F(), [[3.0]])
    with model:
        pm.set_data({"x": 2 * np.ones(3)})
    np.testing.assert_allclose(F(), [[12.0]])


def test_saturated_probabilities_are_finite():
    with pm.Model() as model:
        r = pm.Normal("r", 0.0, 1.0, shape=2)
        pm.Bernoulli("y", logit_p=r, observed=[1, 0])
    objective = symng.from_pymc(model, initvals={"r": [800.0, -800.0]})
    F = compile_in_python([], symng.Fisher()(objective).materialise())()
    np.testing.assert_allclose(F, np.eye(2))


def test_discrete_free_variables_are_refused():
    with pm.Model() as model:
        k = pm.Poisson("k", 1.0)
        pm.Normal("y", k, 1.0, observed=0.0)
    with pytest.raises(ValueError, match=r"model: expected .*continuous.*k.*Sum it out"):
        symng.from_pymc(model)
    with pm.Model() as missing:
        pm.Poisson("k", pm.HalfNormal("rate"), observed=np.ma.masked_values([1, -1, 2], -1))
    with pytest.raises(ValueError, match="k_unobserved.*missing discrete data"):
        symng.from_pymc(missing)


def test_a_model_is_needed():
    with pytest.raises(TypeError, match="model: expected a PyMC model.*with model:"):
        symng.from_pymc()
    with pytest.raises(TypeError, match="model: expected a PyMC model"):
        symng.from_pymc("model")
    with pytest.raises(ValueError, match="curvature"):
        symng.from_pymc(hierarchical(), curvature="newton")
