"""The output of a model is found in the graph of its loss, and an optimizer takes the loss."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

import symng
from symng.objective.output_finding import find_output

x, t, mask = pt.matrix("x"), pt.matrix("t"), pt.vector("mask")
labels = pt.lvector("labels")


def params():
    rng = np.random.default_rng(0)
    shapes = {"V": (2, 3), "W": (3, 4)}
    return [pytensor.shared(rng.standard_normal(s), name=n) for n, s in shapes.items()]


def logits_of(V, W):
    return pt.tanh(x @ V) @ W


def decayed(loss_of):
    """Return a loss with terms of the parameters alone."""
    return lambda r, V, W: loss_of(r) + 1e-2 * (pt.sqr(V).sum() + abs(W).sum())


def squares(r):
    return pt.sqr(r - t).mean()


def classes(r):
    return -pt.special.log_softmax(r, axis=-1)[pt.arange(labels.size), labels].mean()


def by_hand(r):
    p = pt.exp(r) / pt.exp(r).sum(axis=1, keepdims=True)
    return -(t * pt.log(p)).sum(axis=1).mean()


FOUND = {
    "squares": lambda r, V, W: squares(r),
    "half of squares": lambda r, V, W: ((t - r) ** 2).sum() / 2,
    "squares, product": lambda r, V, W: ((t - r) * (t - r)).sum(axis=1).mean(),
    "squares, decay": decayed(squares),
    "squares, mask": lambda r, V, W: (mask * pt.sqr(r - t).sum(axis=1)).sum() / mask.sum(),
    "autoencoder": lambda r, V, W: pt.sqr(pt.concatenate([x, x], axis=1) - r).mean(),
    "classes": lambda r, V, W: classes(r),
    "classes, decay": decayed(classes),
    "softmax by hand": lambda r, V, W: by_hand(r),
    "yes or no": lambda r, V, W: (pt.softplus(r) - t * r).mean(),
    "counts": lambda r, V, W: (pt.exp(r) - t * r).sum(axis=1).mean(),
}
UNKNOWN = {
    "absolute": lambda r, V, W: abs(r - t).mean(),
    "root": lambda r, V, W: pt.sqrt(pt.sqr(r - t).mean()),
    "activations": lambda r, V, W: squares(r) + 0.1 * pt.sqr(pt.tanh(x @ V)).mean(),
    "scale of noise": lambda r, V, W: (pt.sqr((r - t) * V[0, 0])).mean() - pt.log(V[0, 0]),
    "no target": lambda r, V, W: r.mean(),
    "no data": lambda r, V, W: pt.sqr(V).sum() + pt.sqr(W).sum(),
}


@pytest.mark.parametrize("name", FOUND)
def test_metric_is_that_of_the_output_that_was_meant(name):
    V, W = params()
    r = logits_of(V, W)
    loss = FOUND[name](r, V, W)
    found = find_output(loss, [V, W])
    assert found is not None and found.inputs == [x]
    assert set(found.targets) <= {t, mask, labels}
    likelihoods = {"classes": symng.Categorical, "softmax by hand": symng.Categorical}
    likelihoods |= {"classes, decay": symng.Categorical}
    likelihoods |= {"yes or no": symng.Bernoulli, "counts": symng.Poisson}
    likelihood = likelihoods.get(name, symng.Gaussian)
    logits = {
        symng.Categorical: symng.Categorical(logits=True),
        symng.Bernoulli: symng.Bernoulli(logits=True),
        symng.Poisson: symng.Poisson(log_rate=True),
        symng.Gaussian: symng.Gaussian(),
    }
    meant = symng.Objective(
        loss, r, [V, W], [x], targets=found.targets, likelihood=logits[likelihood]
    )
    other = symng.Objective(
        loss, found.output, [V, W], [x], found.targets, likelihood=found.likelihood
    )
    assert isinstance(other.likelihood, likelihood)
    matrices = [symng.Fisher()(o).materialise() for o in (meant, other)]
    F, G = pytensor.function([x], matrices, mode="FAST_COMPILE")(np.arange(10.0).reshape(5, 2) / 9)
    np.testing.assert_allclose(F, G, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_certain_is_refused(name):
    V, W = params()
    loss = UNKNOWN[name](logits_of(V, W), V, W)
    assert find_output(loss, [V, W]) is None
    with pytest.raises(ValueError, match=r"loss: expected .*symng.Objective\(loss, output=..."):
        symng.NaturalGradient()(loss, [V, W])


def test_a_loss_gives_the_updates_of_its_objective():
    X, T = np.arange(10.0).reshape(5, 2) / 9, np.ones((5, 4))
    optimizer = symng.NaturalGradient(damping=symng.LevenbergMarquardt(initial=0.3))
    values = []
    for is_found in (True, False):
        V, W = params()
        r = logits_of(V, W)
        objective = symng.Objective(squares(r), r, [V, W], [x], [t])
        updates = optimizer(squares(r), [V, W]) if is_found else optimizer.updates(objective)
        step = pytensor.function([x, t], squares(r), updates=updates, mode="FAST_COMPILE")
        values.append([step(X, T), step(X, T), V.get_value(), W.get_value()])
    for one, other in zip(*values, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


def test_draws_are_those_of_the_loss_and_advance():
    V, W = params()
    rng = pytensor.shared(np.random.default_rng(0), name="rng")
    h = pt.tanh(x @ V)
    keep = pt.random.bernoulli(p=0.5, size=h.shape, rng=rng)
    loss = squares((h * keep) @ W)
    updates = symng.NaturalGradient(step_size=1e-12)(loss, [V, W])
    assert rng in updates
    step = pytensor.function([x, t], loss, updates=updates, mode="FAST_COMPILE")
    draws = [n for n in step.maker.fgraph.toposort() if n.op == keep.owner.op]
    assert len({n.inputs[0] for n in draws}) == 1
    X, T = np.arange(10.0).reshape(5, 2) / 9, np.ones((5, 4))
    assert len({float(step(X, T)) for _ in range(4)}) > 1


def test_gradients_in_place_of_a_loss_are_refused():
    V, W = params()
    with pytest.raises(TypeError, match="loss: expected a scalar loss.*first in a chain"):
        symng.NaturalGradient()([V, W], [V, W])
