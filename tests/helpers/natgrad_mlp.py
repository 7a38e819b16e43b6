"""The MLP of natgrad in NumPy: cost, gradient and dense metrics."""

from __future__ import annotations

import numpy as np


def forward(params, x, y):
    """Return the mean cross-entropy and the error in percent."""
    W, b, V, c = params
    hidden = 1 / (1 + np.exp(-(x @ W + b)))
    scores = hidden @ V + c
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    cost = -np.log(p[np.arange(len(y)), y]).mean()
    return cost, 100 * np.mean(p.argmax(axis=1) != y), hidden, p


def rows(params, x, y):
    """Return the Jacobian of the scores, one matrix an example, and the probabilities."""
    *_, V, c = params
    _, _, hidden, p = forward(params, x, y)
    slope, classes = hidden * (1 - hidden), np.eye(c.size)
    found = []
    for i in range(len(x)):
        down = slope[i][:, None] * V  # hidden by classes
        dW = x[i][:, None, None] * down[None]
        dV = np.einsum("h,kl->hkl", hidden[i], classes)
        parts = [dW.reshape(-1, c.size), down, dV.reshape(-1, c.size), classes]
        found.append(np.concatenate(parts).T)
    return np.array(found), p


def gradient(params, x, y):
    """Return the flat gradient of the mean cross-entropy."""
    J, p = rows(params, x, y)
    return np.einsum("nkp,nk->p", J, p - np.eye(params[-1].size)[y]) / len(x)


def metric(params, x, y, kind):
    """Return the Fisher matrix of the softmax (KL), or the covariance of the gradients (cov)."""
    J, p = rows(params, x, y)
    if kind == "cov":
        each = np.einsum("nkp,nk->np", J, p - np.eye(params[-1].size)[y])
        return each.T @ each / len(x)
    M = np.einsum("nk,kl->nkl", p, np.eye(params[-1].size)) - p[:, :, None] * p[:, None, :]
    return np.einsum("nkp,nkl,nlq->pq", J, M, J) / len(x)
