"""The same posteriors by ADVI of PyMC and by GPJax, each of which has to be installed."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np


class Run(NamedTuple):
    """The bound at some steps of a run, the seconds that these took, and those of the rest.

    Runs of one family, such as all mean-field ones, have the same best bound.
    """

    name: str
    family: str
    steps: np.ndarray
    seconds: np.ndarray
    bounds: np.ndarray
    compilation: float


def logistic_value(
    mean: np.ndarray, covariance: np.ndarray, X: np.ndarray, T: np.ndarray, scale: float
) -> float:
    """Return the bound of `logistic_bound` for a normal q, by NumPy."""
    z, weights = np.polynomial.hermite_e.hermegauss(20)
    margin = T[:, None] * X
    deviation = np.sqrt(((margin @ covariance) * margin).sum(axis=1))
    f = (margin @ mean)[:, None] + deviation[:, None] * z
    expected = (np.logaddexp(0, -f) @ (weights / weights.sum())).sum()
    squares = (np.trace(covariance) + mean @ mean) / scale**2
    log_det = np.linalg.slogdet(covariance)[1] - len(mean) * np.log(scale**2)
    return -expected - (squares - len(mean) - log_det) / 2


def advi(
    name: str,
    family: str,
    X: np.ndarray,
    T: np.ndarray,
    scale: float,
    steps: int,
    rate: float,
) -> Run:
    """Fit the regression by ADVI with a learning rate, and take the bound some hundred times."""
    import pymc as pm

    method = pm.ADVI if family == "mean-field" else pm.FullRankADVI
    with pm.Model():
        w = pm.Normal("w", 0, scale, shape=X.shape[1])
        pm.Bernoulli("t", logit_p=X @ w, observed=(T > 0).astype(int))
        inference = method(random_seed=0)
    every, taken, clock = max(steps // 200, 1), [], []

    def look(approximation, losses, number):
        clock.append(time.perf_counter())
        if number % every == 0:
            values = {k: v.get_value() for k, v in approximation.params_dict.items()}
            taken.append((number, clock[-1], values))

    start = time.perf_counter()
    optimizer = pm.adagrad_window(learning_rate=rate)
    inference.fit(steps, callbacks=[look], progressbar=False, obj_optimizer=optimizer)
    bounds = []
    for _, _, values in taken:
        if "rho" in values:
            root = np.diag(np.log1p(np.exp(values["rho"])))
        else:
            root = np.zeros((X.shape[1],) * 2)
            root[np.tril_indices(len(root))] = values["L_tril"]
            np.fill_diagonal(root, np.log1p(np.exp(np.diag(root))))
        bounds.append(logistic_value(values["mu"], root @ root.T, X, T, scale))
    seconds = np.array([at for _, at, _ in taken]) - clock[0]
    numbers = np.array([number for number, _, _ in taken])
    return Run(name, family, numbers, seconds, np.array(bounds), clock[0] - start)


def natgrads(
    name: str, inducing: np.ndarray, x: np.ndarray, y: np.ndarray, steps: int, rate: float
) -> Run:
    """Fit the process by GPJax: natural gradient for q, and Adam for the hyperparameters."""
    import equinox as eqx
    import gpjax as gpx
    import jax
    import jax.numpy as jnp
    import optax
    import paramax

    jax.config.update("jax_enable_x64", True)
    prior = gpx.gps.Prior(
        mean_function=gpx.mean_functions.Zero(), kernel=gpx.kernels.RBF(), jitter=1e-6
    )
    model = gpx.variational_families.WhitenedVariationalGaussian(
        model=prior * gpx.likelihoods.Gaussian(), inducing_inputs=jnp.array(inducing[:, None])
    )
    model = eqx.tree_at(lambda m: m.inducing_inputs, model, replace_fn=paramax.non_trainable)
    data = gpx.Dataset(X=jnp.array(x[:, None]), y=jnp.array(y[:, None]))

    @eqx.filter_jit
    def train(model):
        return gpx.fit_natgrads(
            model=model,
            objective=lambda q, batch: -gpx.objectives.elbo(q, batch),
            train_data=data,
            optim=optax.adam(rate),
            natgrad_lr=1.0,
            num_iters=steps,
            verbose=False,
            safe=False,
        )[1]

    clock = [time.perf_counter()]
    for _ in range(2):  # the first call compiles
        losses = np.asarray(train(model))
        clock.append(time.perf_counter())
    first, second = np.diff(clock)
    numbers = np.arange(steps)
    seconds = numbers * second / steps
    return Run(name, "process", numbers, seconds, -losses, first - second)
