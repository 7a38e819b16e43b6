"""What the loss shows of an output that no activation is known of.

Read where it is clear, else warned of.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.raise_op import Assert

import symng
from symng.training.mismatch import warn_of_mismatch

MODE = "FAST_COMPILE"
RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((5, 3)), RNG.standard_normal((3, 4))
softmax, log_softmax = pt.special.softmax, pt.special.log_softmax


def objective_of(
    loss_of: Any, end: Any = lambda r: r, labels: bool = False, **kwargs: Any
) -> symng.Objective:
    """Return the objective of an output ``end`` of x W, with a loss of it and targets."""
    x, t = pt.matrix("x"), pt.lvector("t") if labels else pt.matrix("t")
    w = pytensor.shared(W, name="w")
    y = end(x @ w)
    return symng.Objective(loss_of(y, t), y, [w], inputs=[x], targets=[t], **kwargs)


def rows(v: Any) -> Any:
    return v.sum(axis=1).mean()


def picked(v: Any, t: Any) -> Any:
    return v[pt.arange(t.shape[0]), t]


def log_sum_exp(r: Any) -> Any:
    top = r.max(axis=1, keepdims=True)
    return (top + pt.log(pt.exp(r - top).sum(axis=1, keepdims=True)))[:, 0]


def binary(y: Any, t: Any) -> Any:
    return -rows(t * pt.log(y) + (1 - t) * pt.log(1 - y))


C, B, P = symng.Categorical, symng.Bernoulli, symng.Poisson
cross_entropy = symng.models.categorical_cross_entropy_with_logits
READ = {
    "one of two logarithms": (
        False,
        B,
        lambda r, t: -rows(pt.switch(t, pt.log(pt.sigmoid(r)), pt.log(1 - pt.sigmoid(r)))),
    ),
    "a check on the way": (
        False,
        C,
        lambda r, t: -rows(Assert("t")(t * log_softmax(r, axis=-1), pt.all(t >= 0))),
    ),
    "log_softmax, one-hot": (False, C, lambda r, t: -rows(t * log_softmax(r, axis=-1))),
    "log_softmax, labels": (True, C, lambda r, t: -picked(log_softmax(r, axis=1), t).mean()),
    "log of softmax": (False, C, lambda r, t: -rows(t * pt.log(softmax(r, axis=-1)))),
    "log of softmax + 1e-8": (False, C, lambda r, t: -rows(t * pt.log(softmax(r, axis=-1) + 1e-8))),
    "log of what is picked": (True, C, lambda r, t: -pt.log(picked(softmax(r, axis=-1), t)).mean()),
    "softmax by hand": (
        False,
        C,
        lambda r, t: -rows(t * pt.log(pt.exp(r) / pt.exp(r).sum(1, keepdims=True))),
    ),
    "logsumexp less r": (True, C, lambda r, t: (log_sum_exp(r) - picked(r, t)).mean()),
    "pt.logsumexp less t r": (
        False,
        C,
        lambda r, t: (pt.logsumexp(r, axis=1) - (t * r).sum(axis=1)).mean(),
    ),
    "of symng.models": (False, C, lambda r, t: cross_entropy(r, t).mean()),
    "with labels, of symng.models": (True, C, lambda r, t: cross_entropy(r, t).mean()),
    "softplus(r) - t r": (False, B, lambda r, t: rows(pt.softplus(r) - t * r)),
    "two softplus": (False, B, lambda r, t: rows(t * pt.softplus(-r) + (1 - t) * pt.softplus(r))),
    "log of sigmoid": (False, B, lambda r, t: binary(pt.sigmoid(r), t)),
    "maximum and log1p": (
        False,
        B,
        lambda r, t: rows(pt.maximum(r, 0) - r * t + pt.log1p(pt.exp(-abs(r)))),
    ),
    "exp(r) - t r": (False, P, lambda r, t: rows(pt.exp(r) - t * r)),
}


@pytest.mark.parametrize("name", READ)
def test_logits_are_read_off_the_loss(name: str) -> None:
    labels, kind, loss_of = READ[name]
    decay = pytensor.shared(W, name="other").sum()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = objective_of(loss_of, labels=labels)
        for objective in (read, objective_of(lambda r, t: loss_of(r, t) + decay, labels=labels)):
            assert isinstance(objective.likelihood, kind) and objective.likelihood.is_logits
    setting = {"log_rate": True} if kind is symng.Poisson else {"logits": True}
    given = objective_of(loss_of, labels=labels, likelihood=kind(**setting))
    wanted, got = (
        symng.Fisher()(o).materialise().eval({o.inputs[0]: X}, mode=MODE) for o in (given, read)
    )
    np.testing.assert_array_equal(got, wanted)


SIGNED = {
    "softplus(-t r)": lambda m: pt.softplus(-m),
    "log1p": lambda m: pt.log1p(pt.exp(-m)),
    "log of sigmoid": lambda m: -pt.log(pt.sigmoid(m)),
}


@pytest.mark.parametrize("form", SIGNED)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_labels_of_1_and_minus_1(form: str, temperature: float) -> None:
    signs = np.sign(RNG.standard_normal((5, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = objective_of(lambda r, t: rows(SIGNED[form](t * (r / temperature))))
        assert objective.likelihood == symng.Bernoulli(logits=True)
        match = objective.check(X, signs)
    assert match and match.factor == pytest.approx(1)
    given = objective_of(
        lambda r, t: rows(SIGNED[form](t * r)), likelihood=symng.Bernoulli(logits=True)
    )
    given.check_batch("data", (X, signs))
    with pytest.raises(ValueError, match="values from 0 to 1"):
        given.check_batch("data", (X, 2 * signs))


@pytest.mark.parametrize(
    "kind, loss_of",
    [
        (C, lambda q, t: -rows(t * log_softmax(q, axis=-1))),
        (B, lambda q, t: rows(pt.softplus(q) - t * q)),
        (P, lambda q, t: rows(pt.exp(q) - t * q)),
    ],
)
def test_a_temperature_or_an_offset_is_part_of_the_preactivation(kind: type, loss_of: Any) -> None:
    x, t, offset = pt.matrix("x"), pt.matrix("t"), pt.vector("offset")
    w = pytensor.shared(W, name="w")
    r = x @ w
    q = r / 2 + offset[:, None]
    setting = {"log_rate": True} if kind is symng.Poisson else {"logits": True}
    products = []
    for output, likelihood in ((r, None), (q, kind(**setting))):
        objective = symng.Objective(
            loss_of(q, t), output, [w], [x, offset], [t], likelihood=likelihood
        )
        assert objective.likelihood == kind(**setting)
        batch = dict(zip(objective.inputs, (X, np.arange(5.0)), strict=True))
        products.append((symng.Fisher()(objective) @ np.arange(12.0)).eval(batch, mode=MODE))
    np.testing.assert_allclose(*products, rtol=1e-12)


SCALED = {
    "softplus(2 r) - 2 t r": (B, lambda r, t: rows(pt.softplus(2 * r) - 2 * t * r)),
    "r / T twice": (B, lambda r, t: rows(pt.softplus(r / 0.5) - t * (r / 0.5))),
    "log of the softmax of 2 r": (
        C,
        lambda r, t: (pt.logsumexp(2 * r, axis=1) - (2 * t * r).sum(axis=1)).mean(),
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_number_that_logits_are_multiplied_with_more_than_once(name: str) -> None:
    kind, loss_of = SCALED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = objective_of(loss_of)
        assert read.likelihood == kind(logits=True)
        match = read.check(X, np.eye(4)[[0, 1, 2, 3, 0]])
    assert match and match.factor == pytest.approx(1)
    x = read.inputs[0]
    given = symng.Objective(
        pt.sqr(x @ read.params[0]).mean(),
        2 * (x @ read.params[0]),
        read.params,
        [x],
        likelihood=kind(logits=True),
    )
    wanted, got = (symng.Fisher()(o).materialise().eval({x: X}, mode=MODE) for o in (given, read))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def as_pymc_writes_it(r: Any, t: Any) -> Any:
    """Return -log p(t) of a Bernoulli distribution whose probability is computed from logits."""
    p = pt.sigmoid(r)
    value = pt.switch(t, pt.log(p), pt.log1p(-p))
    return -pt.switch(pt.or_(pt.lt(t, 0), pt.gt(t, 1)), -np.inf, value).sum()


IN_THE_GRAPH = {
    "Bernoulli, of PyMC": (B, (0, 1, 1, 0), as_pymc_writes_it),
    "softplus(r) - t r": (B, (0, 1, 1, 0), lambda r, t: rows(pt.softplus(r) - t * r)),
    "one-hot rows": (C, (0, 0, 1, 0), lambda r, t: -rows(t * log_softmax(r, axis=-1))),
    "counts": (P, (0, 3, 1, 2), lambda r, t: rows(pt.exp(r) - t * r)),
}


@pytest.mark.parametrize("name", IN_THE_GRAPH)
@pytest.mark.parametrize("make", [pt.constant, pytensor.shared])
def test_targets_that_the_graph_holds(name: str, make: Any) -> None:
    kind, row, loss_of = IN_THE_GRAPH[name]
    x, w = pt.matrix("x"), pytensor.shared(W, name="w")
    loss = loss_of(x @ w, make(np.array([np.roll(row, i) for i in range(5)], dtype=float)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = symng.Objective(loss, x @ w, [w], inputs=[x])
    setting = {"log_rate": True} if kind is P else {"logits": True}
    assert objective.likelihood == kind(**setting)


def test_class_numbers_that_the_graph_holds() -> None:
    x, w = pt.matrix("x"), pytensor.shared(W, name="w")
    loss = -picked(log_softmax(x @ w, axis=-1), pt.constant(np.arange(5) % 4)).mean()
    assert symng.Objective(loss, x @ w, [w], inputs=[x]).likelihood == C(logits=True)


HELD = {
    "weights of units": lambda r, c: rows(c[0] * pt.softplus(r) - pt.sqr(r)),
    "of both terms": lambda r, c: rows(c * (pt.exp(r) - r)),
    "squares": lambda r, c: rows(pt.sqr(r - c)),
    "signs or weights": lambda r, c: rows(pt.softplus(-c * r)),
}


@pytest.mark.parametrize("name", HELD)
def test_other_numbers_that_the_graph_holds_are_not_targets(name: str) -> None:
    x, w = pt.matrix("x"), pytensor.shared(W, name="w")
    loss = HELD[name](x @ w, pt.constant(RNG.random((5, 4))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert symng.Objective(loss, x @ w, [w], inputs=[x]).likelihood == symng.Gaussian()


EXPOSURES = {
    "factor": lambda r, t, e: rows(e * pt.exp(r) - t * r),
    "rate": lambda r, t, e: rows(e * pt.exp(r) - t * pt.log(e * pt.exp(r))),
    "offset": lambda r, t, e: rows(pt.exp(r + pt.log(e)) - t * r),
    "twice": lambda r, t, e: rows(pt.exp(r + pt.log(e)) - t * (r + pt.log(e))),
    "mask": lambda r, t, e: rows(e * (pt.exp(r) - t * r)),
}
OTHERS = {
    "background": lambda r, t, e: rows(pt.exp(r) + e - t * pt.log(pt.exp(r) + e)),
    "waiting times, masked": lambda r, t, e: rows(e * (t * pt.exp(r) - r)),
    "another rate": lambda r, t, e: rows(pt.exp(2 * r + e) - t * r),
}


@pytest.mark.parametrize("name", [*EXPOSURES, *OTHERS])
def test_counts_with_an_exposure(name: str) -> None:
    """The exposure is a weight of the rate: the loss has the curvature of counts, but for it."""
    x, t, e = pt.matrix("x"), pt.matrix("t"), pt.matrix("e")
    w = pytensor.shared(W, name="w")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = {**EXPOSURES, **OTHERS}[name](x @ w, t, e)
        objective = symng.Objective(loss, x @ w, [w], [x], [t, e])
        is_read = name in EXPOSURES
        assert objective.likelihood == (
            symng.Poisson(log_rate=True) if is_read else symng.Gaussian()
        )
        match = objective.check(X, np.ones((5, 4)), RNG.uniform(1, 2, (5, 4)))
    assert match.weighted == is_read


FORMS = {
    "softplus(r) - t r": (B, lambda r, t: (pt.softplus(r) - t * r).mean()),
    "two softplus": (B, lambda r, t: (3 * t * pt.softplus(-r) + (1 - t) * pt.softplus(r)).mean()),
    "log of sigmoid": (
        B,
        lambda r, t: -(t * pt.log(pt.sigmoid(r)) + (1 - t) * pt.log(1 - pt.sigmoid(r))).mean(),
    ),
    "exp(r) - t r": (P, lambda r, t: (pt.exp(r) - t * r).mean()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("columns", [None, 1])
def test_one_logit_an_example_is_read_too(columns: int | None, form: str) -> None:
    kind, loss_of = FORMS[form]
    kind_of = pt.vector if columns is None else pt.matrix
    x, t = pt.matrix("x"), kind_of("t", shape=(None,) if columns is None else (None, 1))
    w = pytensor.shared(
        W[:, 0] if columns is None else W[:, :1],
        name="w",
        shape=(3,) if columns is None else (3, 1),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = symng.Objective(loss_of(x @ w, t), x @ w, [w], inputs=[x], targets=[t])
    assert isinstance(objective.likelihood, kind) and objective.likelihood.is_logits


def unread(r: Any) -> Any:
    """Return class probabilities whose end no one knows."""
    return pt.sqr(r) / pt.sqr(r).sum(axis=1, keepdims=True)


LOGITS, CLASSES = "symng.Categorical(logits=True)", "symng.Categorical()"
WARNED = {
    "t log y in one op": (False, unread, CLASSES, lambda y, t: -rows(pt.special.xlogy(t, y))),
    "a check on the way": (
        False,
        unread,
        CLASSES,
        lambda y, t: -rows(Assert("y")(t * pt.log(y), pt.all(y >= 0))),
    ),
    "a rate, with a mask": (
        False,
        pt.softplus,
        "symng.Poisson()",
        lambda y, t: rows(pt.switch(t < 0, 0, y - t * pt.log(y))),
    ),
    "log of probabilities": (False, unread, CLASSES, lambda y, t: -rows(t * pt.log(y))),
    "log of clipped ones": (
        False,
        unread,
        CLASSES,
        lambda y, t: -rows(t * pt.log(pt.clip(y, 1e-7, 1.0))),
    ),
    "log of one picked": (True, unread, CLASSES, lambda y, t: -pt.log(picked(y, t)).mean()),
    "binary": (False, lambda r: pt.sqr(r) / (1 + pt.sqr(r)), "symng.Bernoulli()", binary),
    "a rate": (False, pt.softplus, "symng.Poisson()", lambda y, t: rows(y - t * pt.log(y))),
    "square of softmax": (
        False,
        lambda r: r,
        LOGITS,
        lambda r, t: rows(pt.sqr(softmax(r, axis=-1) - t)),
    ),
    "cross-entropy and a penalty": (
        False,
        lambda r: r,
        LOGITS,
        lambda r, t: rows(0.1 * pt.sqr(r) - t * log_softmax(r, axis=-1)),
    ),
    "binary and a penalty": (
        False,
        lambda r: r,
        "symng.Bernoulli(logits=True)",
        lambda r, t: rows(pt.softplus(r) - t * r + pt.sqr(r)),
    ),
}


@pytest.mark.parametrize("name", WARNED)
def test_a_loss_that_contradicts_is_warned_of_once_with_the_line_to_write(name: str) -> None:
    labels, end, line, loss_of = WARNED[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        objective = objective_of(loss_of, end, labels)
    assert objective.likelihood == symng.Gaussian()
    (warning,) = caught
    assert f"likelihood={line}" in str(warning.message) and warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        likelihood = eval(line)
        assert objective_of(loss_of, end, labels, likelihood=likelihood).likelihood == likelihood
        assert (
            objective_of(loss_of, end, labels, likelihood=symng.Gaussian()).likelihood
            == symng.Gaussian()
        )


def mixture(z: Any, t: Any) -> Any:
    """Return the loss of a mixture of two normal densities, with parameters from ``z``."""
    weights, means, scales = log_softmax(z[:, :2], axis=-1), z[:, 2:3], pt.exp(z[:, 3:])
    return -pt.logsumexp(
        weights - 0.5 * pt.sqr((t[:, :1] - means) / scales) - pt.log(scales), axis=1
    ).mean()


def heteroscedastic(z: Any, t: Any) -> Any:
    means, scales = z[:, :2], z[:, 2:]
    return rows(scales + pt.sqr(means - t[:, :2]) * pt.exp(-2 * scales))


def with_accuracy(y: Any, t: Any) -> Any:
    return rows(pt.sqr(y - t)) + 0 * pt.eq(softmax(y, axis=-1) > 0.5, t).mean()


def weighted(y: Any, t: Any) -> Any:
    return rows(pt.sqr(y - t) * pytensor.gradient.zero_grad(softmax(y, axis=-1)))


SILENT = {
    "errors of log-probabilities": (
        lambda r: log_softmax(r, axis=-1),
        lambda y, t: rows(pt.sqr(y - t)),
    ),
    "square": (lambda r: r, lambda y, t: rows(pt.sqr(y - t))),
    "absolute": (lambda r: r, lambda y, t: rows(abs(y - t))),
    "with a scale that is learned": (
        lambda r: r,
        lambda y, t: rows(pt.sqr(y - t) / SCALE + pt.log(SCALE)),
    ),
    "log-scale in the output": (lambda r: r, heteroscedastic),
    "square of logarithms": (pt.softplus, lambda y, t: rows(pt.sqr(pt.log(y) - pt.log(t)))),
    "Gamma": (pt.softplus, lambda y, t: rows(t / y + pt.log(y))),
    "scale": (pt.softplus, lambda y, t: rows(pt.log(y) + pt.sqr(t) / (2 * pt.sqr(y)))),
    "a density": (pt.softplus, lambda y, t: -rows(pt.log(y)) + 0 * t.sum()),
    "linear": (lambda r: r, lambda y, t: rows(t * y)),
    "adversarial": (lambda r: r, lambda y, t: rows(pt.softplus(-y)) + 0 * t.sum()),
    "a mixture": (lambda r: r, mixture),
    "Cauchy": (lambda r: r, lambda y, t: rows(pt.log(1 + pt.sqr(y - t)))),
    "log cosh": (lambda r: r, lambda y, t: rows(pt.log(pt.cosh(y - t)))),
    "accuracy beside a square": (lambda r: r, with_accuracy),
    "softmax without a gradient": (lambda r: r, weighted),
    "a soft threshold of the difference": (lambda r: r, lambda y, t: rows(pt.softplus(y - t))),
    "a margin of the exponential": (lambda r: r, lambda y, t: rows(pt.exp(-t * y))),
    "exponential": (lambda r: r, lambda y, t: rows(pt.exp(y) * t - y)),
    "linear beside an exponential of the target": (
        lambda r: r,
        lambda y, t: rows(pt.exp(pt.ones_like(y) * t) - t * y),
    ),
}
SCALE = pytensor.shared(1.0, name="scale")


@pytest.mark.parametrize("name", SILENT)
def test_no_warning_that_is_not_deserved(name: str) -> None:
    end, loss_of = SILENT[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert objective_of(loss_of, end).likelihood == symng.Gaussian()


@pytest.mark.parametrize(
    "end",
    [
        lambda r: log_softmax(r, axis=-1),
        lambda r: pt.log(softmax(r, axis=-1)),
        lambda r: r - log_sum_exp(r)[:, None],
    ],
)
@pytest.mark.parametrize("labels", [True, False])
def test_logarithms_of_probabilities_as_output(end: Any, labels: bool) -> None:
    """The metric is that of the softmax, and the loss passes through its pre-activation."""
    loss_of = (lambda y, t: -picked(y, t).mean()) if labels else (lambda y, t: -rows(t * y))
    objective = objective_of(loss_of, end, labels)
    assert objective.likelihood == symng.Categorical()
    wanted = objective_of(lambda r, t: -rows(t * log_softmax(r, axis=-1)))
    v = np.arange(12.0)
    products = [
        (metric(o) @ v).eval(
            {o.inputs[0]: X, **({} if metric == symng.Fisher() else {o.targets[0]: T})}, mode=MODE
        )
        for o, metric, T in (
            (wanted, symng.Fisher(), None),
            (objective, symng.Fisher(), None),
            (
                objective,
                symng.GaussNewton(),
                np.arange(5) % 4 if labels else np.eye(4)[np.arange(5) % 4],
            ),
        )
    ]
    np.testing.assert_allclose(products[1], products[0], rtol=1e-9)
    np.testing.assert_allclose(products[2], products[0], rtol=1e-9)


def test_a_softmax_over_another_axis_is_warned_of_once() -> None:
    x, t = pt.tensor3("x"), pt.tensor3("t")
    w = pytensor.shared(W, name="w")
    y = softmax((x @ w).dimshuffle(0, 2, 1), axis=1)
    with pytest.warns(UserWarning, match="over its last axis") as caught:  # noqa: PT031 - from either
        objective = symng.Objective(
            -(t * pt.log(y)).sum(axis=1).mean(), y, [w], inputs=[x], targets=[t]
        )
        warn_of_mismatch(
            objective, symng.NaturalGradient(), [RNG.random((5, 2, 3)), np.full((5, 4, 2), 0.25)]
        )
    (warning,) = caught
    assert "over its last axis" in str(warning.message) and objective.likelihood == symng.Gaussian()


def test_a_mixture_of_several_outputs_is_left_as_it_is() -> None:
    x, t = pt.matrix("x"), pt.matrix("t")
    params = [pytensor.shared(W, name=name) for name in "uvw"]
    weights, means, scales = (x @ p for p in params)
    parts = log_softmax(weights, axis=-1) - 0.5 * pt.sqr((t - means) * pt.exp(-scales)) - scales
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = symng.Objective(
            -pt.logsumexp(parts, axis=1).mean(),
            [weights, means, scales],
            params,
            inputs=[x],
            targets=[t],
        )
    assert objective.likelihood == (symng.Gaussian(),) * 3


def test_a_reading_of_the_loss_refuses_no_targets() -> None:
    """Counts of several draws: no one-hot rows, but they ran before; one warning says so."""
    objective = objective_of(lambda r, t: -rows(t * log_softmax(r, axis=-1)))
    with pytest.warns(UserWarning, match="one-hot"):
        objective.check_batch("data", (X, np.full((5, 4), 2.0)))
