"""A Bayesian logistic regression and a sparse Gaussian process, with their bounds as losses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytensor
import pytensor.tensor as pt
from gaussians import FullRank, MeanField
from pytensor.tensor.variable import TensorVariable

import symng

JITTER = 1e-6


@dataclass(frozen=True)
class Bound:
    """A negative evidence lower bound, and the q whose parameters come first in it."""

    objective: symng.Objective
    q: MeanField | FullRank
    others: tuple = ()


def objective_of(loss: TensorVariable, q: MeanField | FullRank, others: tuple = ()) -> Bound:
    """Return the objective of a loss that has the data in it; its output is q, as one example."""
    output = pt.concatenate(q.params)[None]
    params = [*q.params, *others]
    likelihood = symng.Gaussian()  # not used: the metric is NormalFisher
    return Bound(symng.Objective(loss, output, params, inputs=[], likelihood=likelihood), q, others)


def divergence(q: MeanField | FullRank, size: int, scale: float = 1.0) -> TensorVariable:
    """Return KL(q || N(0, scale^2 I))."""
    squares = (q.trace() + pt.sqr(q.mean).sum()) / scale**2
    return (squares - size - q.log_det) / 2 + size * np.log(scale)


def logistic_data(features: int, examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return correlated features, and labels of 1 and -1 that they explain in part."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(features) + rng.standard_normal((features, features)) / np.sqrt(features)
    X = rng.standard_normal((examples, features)) @ mixing
    p = 1 / (1 + np.exp(-X @ rng.standard_normal(features)))
    return X, np.where(rng.uniform(size=examples) < p, 1.0, -1.0)


def logistic_bound(
    q: MeanField | FullRank, X: np.ndarray, T: np.ndarray, scale: float, nodes: int = 20
) -> Bound:
    """Return the bound of a logistic regression with weights of N(0, scale^2).

    X w is normal for each example, so the expectation is a sum over the nodes of a quadrature.
    """
    z, weights = np.polynomial.hermite_e.hermegauss(nodes)
    margin = pt.as_tensor_variable(T * X.T).T  # one row t x for each example
    f = (margin @ q.mean)[:, None] + pt.sqrt(q.along(margin))[:, None] * z
    expected = (pt.softplus(-f) @ (weights / weights.sum())).sum()
    return objective_of(expected + divergence(q, X.shape[1], scale), q)


def process_data(examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points of a line and noisy values of a function there."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-3, 3, examples))
    return x, np.sin(3 * x) + 0.5 * np.cos(7 * x) + 0.3 * rng.standard_normal(examples)


def kernel(a: np.ndarray, b: np.ndarray, scale: TensorVariable, length: TensorVariable):
    """Return the squared exponential kernel of two lists of points."""
    return pt.sqr(scale) * pt.exp(-pt.sqr((a[:, None] - b[None, :]) / length) / 2)


def process_bound(inducing: np.ndarray, x: np.ndarray, y: np.ndarray) -> Bound:
    """Return the bound of a sparse Gaussian process with Gaussian noise, and its hyperparameters.

    The values at the points ``inducing`` are L w, with L L^T their covariance matrix, and q is over
    w, whose prior is N(0, I). The hyperparameters are the logarithms of the scale, the length and
    the noise.
    """
    names = ("log_scale", "log_length", "log_noise")
    others = tuple(pytensor.shared(0.0, name=name) for name in names)
    q, noise = FullRank(len(inducing)), pt.exp(others[2])
    A, rest = projection(inducing, x, others)
    errors = pt.sqr(y - A @ q.mean) + q.along(A) + rest
    expected = (errors / pt.sqr(noise) + pt.log(2 * np.pi * pt.sqr(noise))).sum() / 2
    return objective_of(expected + divergence(q, len(inducing)), q, others)


def projection(inducing: np.ndarray, x: np.ndarray, others: tuple) -> tuple[TensorVariable, ...]:
    """Return A and the variances r of the function at ``x``, A w with noise of variance r."""
    scale, length = pt.exp(others[0]), pt.exp(others[1])
    K = kernel(inducing, inducing, scale, length) + JITTER * np.eye(len(inducing))
    factor = pt.linalg.cholesky(K, on_error="nan")
    A = pt.linalg.solve_triangular(factor, kernel(inducing, x, scale, length), lower=True).T
    return A, pt.sqr(scale) + JITTER - pt.sqr(A).sum(axis=1)


def process_at(bound: Bound, inducing: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the mean and the standard deviation of the function at some points."""
    A, rest = (v.eval(mode="FAST_COMPILE") for v in projection(inducing, x, bound.others))
    mean, covariance = bound.q.moments()
    return A @ mean, np.sqrt(rest + ((A @ covariance) * A).sum(axis=1))
