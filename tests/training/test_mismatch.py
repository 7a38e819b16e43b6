"""The warning of `minimize` of losses that are no likelihood.

Where it is deserved, and what it says.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.linear_model import ADVANTAGES, CLASSES, ONE_HOT, RNG, YES, M, P, X, mismatch_warnings

import symng
from symng.likelihoods import likelihood_code

D = M.r - M.t


def focal(p: Any) -> Any:
    """Return the focal loss of class probabilities."""
    return -(M.t * pt.sqr(1 - p) * pt.log(p)).sum(axis=1).mean()


def surrogate(p: Any) -> Any:
    """Return the clipped loss of proximal policy optimization."""
    ratio = p / 0.3
    return -pt.minimum(ratio * M.m, pt.clip(ratio, 0.8, 1.2) * M.m).mean()


def dice(p: Any) -> Any:
    return 1 - (2 * (p * M.t).sum(axis=1) / (p + M.t).sum(axis=1)).mean()


HELD = pytensor.gradient.disconnected_grad
ENTROPY = (M.softmax * pt.log(M.softmax)).sum(axis=1).mean()
P_OF_LOGITS = pt.exp(pt.special.log_softmax(M.r, axis=-1)[pt.arange(M.labels.shape[0]), M.labels])
# Losses that are no likelihood, on an output that has a distribution all the same.
CHOSEN: dict[str, tuple[Any, ...]] = {
    "focal, classes": (focal(M.softmax), M.softmax, [M.t], [ONE_HOT]),
    "focal, binary": (focal(M.sigmoid), M.sigmoid, [M.t], [YES]),
    "dice": (dice(M.sigmoid), M.sigmoid, [M.t], [YES]),
    "clipped surrogate": (surrogate(P), M.softmax, [M.labels, M.m], [CLASSES, ADVANTAGES]),
    "a penalty on entropy": (M.cross_entropy().mean() + ENTROPY, M.softmax, [M.t], [ONE_HOT]),
    "weights by the losses": (
        (HELD(pt.exp(-M.cross_entropy())) * M.cross_entropy()).mean(),
        M.softmax,
        [M.t],
        [ONE_HOT],
    ),
    "easy examples": (
        (M.cross_entropy() * pt.lt(M.cross_entropy(), 1)).mean(),
        M.softmax,
        [M.t],
        [ONE_HOT],
    ),
}
# Logits of such a loss, which are taken as Gaussian: the likelihood that the warning names.
UNCHOSEN: dict[str, tuple[Any, ...]] = {
    "focal": (focal(pt.sigmoid(M.r)), [M.t], [YES], "symng.Bernoulli(logits=True)"),
    "dice": (dice(pt.sigmoid(M.r)), [M.t], [YES], "symng.Bernoulli(logits=True)"),
    "clipped surrogate": (
        surrogate(P_OF_LOGITS),
        [M.labels, M.m],
        [CLASSES, ADVANTAGES],
        "symng.Categorical(logits=True)",
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_loss_that_is_no_likelihood_does_not_contradict_a_distribution(name):
    loss, y, targets, values = CHOSEN[name]
    objective = M.objective(loss, y, *targets)
    assert not objective.check(X, *values).matches
    assert mismatch_warnings(objective, symng.NaturalGradient(), (X, *values)) == []


@pytest.mark.parametrize("name", UNCHOSEN)
def test_logits_of_a_loss_that_is_no_likelihood(name):
    loss, targets, values, wanted = UNCHOSEN[name]
    (message,) = mismatch_warnings(
        M.objective(loss, M.r, *targets), symng.NaturalGradient(), (X, *values)
    )
    assert f"likelihood={wanted})" in message
    given = M.objective(loss, M.r, *targets, likelihood=eval(wanted))
    assert mismatch_warnings(given, symng.NaturalGradient(), (X, *values)) == []


@pytest.mark.parametrize(
    "y, sign", [(M.softmax, M.cross_entropy_of_logits(-1)), (M.r, -pt.sqr(D).sum(axis=1))]
)
def test_the_opposite_sign(y, sign):
    objective = M.objective(sign.mean(), y)
    assert not objective.check(X, ONE_HOT).matches
    (message,) = mismatch_warnings(objective, symng.NaturalGradient(), (X, ONE_HOT))
    assert (
        "opposite sign" in message
        and f"likelihood={likelihood_code(objective.likelihood)})" in message
    )


def test_a_policy_with_a_value():
    """The advantages depend on the value, but count as constant."""
    x, labels, returns = pt.matrix("x"), pt.lvector("labels"), pt.vector("returns")
    v = pytensor.shared(np.ones(3), name="v")
    policy, value = pt.special.softmax(x @ M.w, axis=-1), x @ v
    log_p = pt.log(policy[pt.arange(labels.shape[0]), labels])
    loss = (-log_p * HELD(returns - value) + pt.sqr(returns - value)).mean()
    objective = symng.Objective(loss, [policy, value], [M.w, v], [x], [labels, returns])
    batch = X, CLASSES, ADVANTAGES
    assert objective.check(*batch).weighted
    assert mismatch_warnings(objective, symng.NaturalGradient(), batch) == []


def test_outputs_that_no_data_are_compared_with():
    """An embedding, a generated sample or a log variance has no distribution to contradict."""
    x, noise = pt.matrix("x"), pt.matrix("noise")
    params = [
        pytensor.shared(0.3 * RNG.standard_normal(s), name="p") for s in ((3, 2), (3, 2), (2, 3))
    ]
    means, spreads = x @ params[0], x @ params[1]
    y = pt.sigmoid((means + pt.exp(spreads / 2) * noise) @ params[2])
    loss = -(x * pt.log(y) + (1 - x) * pt.log(1 - y)).sum(axis=1)
    loss += 0.5 * (pt.sqr(means) + pt.exp(spreads) - spreads).sum(axis=1)
    autoencoder = symng.Objective(loss.mean(), [y, means, spreads], params, [x, noise])
    batch = (YES[:, :3], RNG.standard_normal((12, 2)))
    assert autoencoder.check(*batch).outputs == (2,)
    judge = pt.constant(RNG.standard_normal((2, 1)))
    generator = symng.Objective(pt.softplus(-pt.tanh(means) @ judge).mean(), means, params[:1], [x])
    near, far = pt.matrix("near"), pt.matrix("far")
    distances = [pt.sqr(means - other @ params[0]).sum(axis=1) for other in (near, far)]
    triplets = symng.Objective(
        pt.softplus(distances[0] - distances[1]).mean(), means, params[:1], [x, near, far]
    )
    for objective, arrays in (
        (autoencoder, batch),
        (generator, (X,)),
        (triplets, (X, X + 0.1, X[::-1])),
    ):
        assert not objective.check(*arrays).matches
        assert mismatch_warnings(objective, symng.NaturalGradient(), arrays) == []


def test_targets_that_are_constants():
    """As observed data are in a probabilistic program: the model is made for their number."""
    x, w = pt.matrix("x"), pytensor.shared(np.zeros((3, 4)), name="w")
    r = x @ w
    p = pt.sigmoid(r)
    many = np.concatenate([X, X])  # more than are looked at
    observed = np.concatenate([YES, YES]).astype(bool)
    loss = -pt.switch(observed, pt.log(p), pt.log1p(-p)).sum()
    flat = (pt.softplus(r.ravel()) - observed.ravel().astype(float) * r.ravel()).sum()
    optimizer = symng.NaturalGradient(damping=1.0)
    unread = symng.Objective(flat, output=r, params=[w], inputs=[x])
    with pytest.warns(UserWarning, match=r"likelihood=symng.Bernoulli\(logits=True\)"):
        symng.minimize(unread, optimizer, data=(many,), max_steps=1, progress=False)
    read = symng.Objective(loss, output=r, params=[w], inputs=[x])
    given = symng.Objective(loss, r, [w], [x], likelihood=symng.Bernoulli(logits=True))
    for objective in (read, given):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            symng.minimize(objective, optimizer, data=(many,), max_steps=1, progress=False)


def test_what_the_objective_has_warned_of_is_not_warned_of_again():
    """Without targets, too: an autoencoder, and data in the graph."""
    x, w = pt.matrix("x"), pytensor.shared(np.zeros((3, 3)), name="w")
    r = x @ w
    values = np.abs(np.tanh(X))
    for t in (x, pt.constant(values)):
        loss = (pt.softplus(r) - t * r + 0.1 * pt.sqr(r)).sum(axis=1).mean()
        with pytest.warns(UserWarning, match=r"likelihood=symng.Bernoulli\(logits=True\)"):
            objective = symng.Objective(loss, r, [w], [x])
        assert mismatch_warnings(objective, symng.NaturalGradient(), (values,)) == []


LOSSES = M.cross_entropy()
ONES = pt.ones_like(LOSSES)


def joined(losses: Any) -> Any:
    return pt.concatenate([losses[:3], losses[3:]])


def summed_in_a_loop(losses: Any) -> Any:
    return pytensor.scan(
        lambda e, total: e + total, [losses], [pt.zeros(())], return_updates=False
    )[-1]


# Sums over examples, few of which are found in the graph.
SUMS: dict[str, Any] = {
    "scan": summed_in_a_loop(LOSSES),
    "switch": pt.switch(pt.gt(M.w.sum(), 1e9), 0.0, LOSSES.sum()),
    "maximum": pt.maximum(LOSSES.sum(), 0.0),
    "product with ones": pt.dot(ONES, LOSSES),
    "einsum": pt.einsum("n,n->", ONES, LOSSES),
    "cumsum": pt.cumsum(LOSSES)[-1],
    "concatenate": joined(LOSSES).sum(),
    "sorted": pt.sort(LOSSES).sum(),
}


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_is_seen_or_warned_of(name):
    """Steps of the Fisher matrix would be N times too long without a word."""
    objective = M.objective(SUMS[name], M.softmax)
    messages = mismatch_warnings(objective, symng.NaturalGradient(), (X, ONE_HOT))
    if objective.sum_factor is None:
        (message,) = messages
        assert "12 times too long" in message
    else:
        assert objective.sum_factor == 1 and messages == []


@pytest.mark.parametrize("name", SUMS)
def test_a_mean_in_the_same_words_is_not_warned_of(name):
    mean = SUMS[name] / M.x.shape[0]
    objective = M.objective(mean, M.softmax)
    assert mismatch_warnings(objective, symng.NaturalGradient(), (X, ONE_HOT)) == []
    divided = M.objective(SUMS[name] / 12, M.softmax)  # by the number in this batch
    assert mismatch_warnings(divided, symng.NaturalGradient(), (X, ONE_HOT)) == []


def test_a_sum_is_no_matter_to_a_metric_that_grows_with_it():
    objective = M.objective(SUMS["scan"], M.softmax)
    optimizer = symng.NaturalGradient(metric=symng.GaussNewton())
    assert mismatch_warnings(objective, optimizer, (X, ONE_HOT)) == []
