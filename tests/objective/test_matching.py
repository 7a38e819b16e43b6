"""Do loss and likelihood match? `Objective.check` on the output, and the warning of `minimize`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.linear_model import (
    ADVANTAGES,
    CLASSES,
    MASK,
    ONE_HOT,
    RNG,
    YES,
    M,
    Model,
    P,
    X,
    mismatch_warnings,
)
from pytensor.graph.traversal import ancestors
from pytensor.scan.op import Scan

import symng
from symng.backends.python_modes import UNOPTIMIZED
from symng.models import categorical_cross_entropy_with_logits
from symng.objective import matching as _matching
from symng.objective import output_products as _output_products
from symng.objective.dry_run import DryRun
from symng.training import mismatch

WEIGHTS = pt.constant(np.array([1.0, 2.0, 3.0, 4.0]))
D = M.r - M.t
HETEROSCEDASTIC = pt.sqr(D[:, :2]) * pt.exp(-2 * M.r[:, 2:]) / 2 + M.r[:, 2:]
CORRELATED = pt.constant(np.eye(4) + 0.5)
# of counts, in a form that is not read off the loss.
RATES = pt.sqr(pt.exp(M.r / 2 + 0 * M.t)) - M.t * M.r
HUBER = pt.switch(abs(D) < 1, D**2 / 2, abs(D) - 0.5)

# What matches, or would but for weights, or says nothing: loss, output, targets, their values,
# whether it is weighted.
RIGHT: dict[str, tuple[Any, ...]] = {
    "decay": (M.cross_entropy().mean() + pt.sqr(M.w).sum(), M.softmax, [M.t], [ONE_HOT], False),
    "mean over outputs": ((pt.softplus(M.r) - M.t * M.r).mean(), M.sigmoid, [M.t], [YES], False),
    "smooth labels": (M.cross_entropy().mean(), M.softmax, [M.t], [0.9 * ONE_HOT + 0.025], False),
    "gathered": (
        -pt.log(M.softmax)[pt.arange(M.labels.shape[0]), M.labels].mean(),
        M.softmax,
        [M.labels],
        [CLASSES],
        False,
    ),
    "class weights": (
        (WEIGHTS[M.labels] * categorical_cross_entropy_with_logits(M.r, M.labels)).mean(),
        M.softmax,
        [M.labels],
        [CLASSES],
        True,
    ),
    "mask": (
        (M.m * M.cross_entropy()).sum() / M.m.sum(),
        M.softmax,
        [M.t, M.m],
        [ONE_HOT, MASK],
        True,
    ),
    "mask of units": (
        (pt.sqr(M.r - M.t) * pt.gt(M.t, 0)).sum(axis=1).mean(),
        M.r,
        [M.t],
        [YES],
        True,
    ),
    "weights of units": ((WEIGHTS * pt.sqr(M.r - M.t)).sum(axis=1).mean(), M.r, [M.t], [YES], True),
    "huber": (HUBER.sum(axis=1).mean(), M.r, [M.t], [3 * YES], True),
}
SILENT: dict[str, tuple[Any, ...]] = {
    "hinge": (pt.maximum(0, 1 - M.r * M.t).sum(axis=1).mean(), M.r, [M.t], [YES]),
    "absolute": (abs(M.r - M.t).sum(axis=1).mean(), M.r, [M.t], [YES]),
    "linear": ((M.t * M.r).mean(), M.r, [M.t], [YES]),
}
# What does not: loss, output, values of the targets, and the likelihood that it belongs to.
WRONG: dict[str, tuple[Any, ...]] = {
    "logits of classes": (
        pt.logsumexp(M.r - (M.t * M.r).sum(axis=1, keepdims=True), axis=1).mean(),
        M.r,
        ONE_HOT,
        symng.Categorical(logits=True),
    ),
    "logits": (M.binary().mean(), M.r, YES, symng.Bernoulli(logits=True)),
    "logits, masked": (
        (M.binary() * pt.gt(M.t[:, 0], 0)).mean(),
        M.r,
        YES,
        symng.Bernoulli(logits=True),
    ),
    "log rates": (RATES.sum(axis=1).mean(), M.r, YES, symng.Poisson(log_rate=True)),
    "squared error of sigmoid": (
        pt.sqr(M.sigmoid - M.t).sum(axis=1).mean(),
        M.sigmoid,
        YES,
        symng.Gaussian(),
    ),
    "squared error of softmax": (
        pt.sqr(M.softmax - M.t).sum(axis=1).mean(),
        M.softmax,
        ONE_HOT,
        symng.Gaussian(),
    ),
    "log-scales in the output": (HETEROSCEDASTIC.sum(axis=1).mean(), M.r, YES, None),
    "norms in another metric": (
        pt.sqr((M.r - M.t) @ CORRELATED).sum(axis=1).mean(),
        M.r,
        YES,
        None,
    ),
    "log rates of a weighted loss": (
        (YES[0] * RATES).sum(axis=1).mean(),
        M.r,
        YES,
        symng.Poisson(log_rate=True),
    ),
    "squared logarithms of exp": (
        pt.sqr(M.r - pt.log1p(M.t)).sum(axis=1).mean(),
        pt.exp(M.r),
        YES,
        symng.Gaussian(),
    ),
    "softmax and sigmoid": (M.binary().mean(), M.softmax, ONE_HOT, symng.Bernoulli(logits=True)),
}


def dense(metric: Any, objective: symng.Objective, batch: Any) -> np.ndarray:
    givens = dict(zip([*objective.inputs, *objective.targets], batch, strict=True))
    return pytensor.function(
        list(givens), metric(objective).materialise(), on_unused_input="ignore"
    )(*batch)


@pytest.mark.parametrize("name", RIGHT)
def test_right_pairs(name):
    loss, y, targets, values, weighted = RIGHT[name]
    objective = M.objective(loss, y, *targets)
    match = objective.check(X, *values)
    G, F = (
        dense(metric(), objective, (X, *values)) for metric in (symng.GaussNewton, symng.Fisher)
    )
    assert match.weighted == weighted and match.matches != weighted
    if weighted:
        assert "match but for weights" in match.message
        assert oracles.relative_error(G, F * np.vdot(F, G) / np.vdot(F, F)) > 1e-3
    else:
        assert oracles.relative_error(G, match.factor * F) < 1e-10
    assert mismatch_warnings(objective, symng.NaturalGradient(), (X, *values)) == []


@pytest.mark.parametrize("name", SILENT)
def test_losses_without_curvature_are_not_warned_of(name):
    loss, y, targets, values = SILENT[name]
    objective = M.objective(loss, y, *targets)
    assert objective.check(X, *values).message.startswith(
        "No verdict: the Gauss-Newton product is zero"
    )
    assert mismatch_warnings(objective, symng.NaturalGradient(), (X, *values)) == []


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pairs(name):
    loss, y, values, wanted = WRONG[name]
    objective = M.objective(loss, y)
    match = objective.check(X, values)
    assert not match.matches and not match.weighted and match.likelihood == wanted
    (message,) = mismatch_warnings(objective, symng.NaturalGradient(), (X, values))
    assert "loss: expected the negative log-likelihood of" in message
    if wanted is None:
        assert (
            f"likelihood={_matching.likelihood_code(objective.likelihood)})" in message
            and "GaussNewton()" in message
        )
    else:
        assert f"got that of {type(wanted).__name__}. Write " in message
        assert f"likelihood={_matching.likelihood_code(objective.likelihood)} to keep" in message
        assert f"likelihood={_matching.likelihood_code(wanted)})" in message
        assert eval(_matching.likelihood_code(wanted)) == wanted
    # Giving the likelihood that is meant silences the warning, too.
    given = M.objective(loss, y, likelihood=objective.likelihood)
    assert mismatch_warnings(given, symng.NaturalGradient(), (X, values)) == []
    if wanted is not None:
        output = M.r if "output=r" in message else y
        right = M.objective(loss, output, likelihood=wanted).check(X, values)
        assert right.matches or right.weighted


# What is not the likelihood itself, and yet belongs to it: loss, output, targets, their values.
NEAR: dict[str, tuple[Any, ...]] = {
    "policy gradient": (
        -(M.m * pt.log(P)).mean(),
        M.softmax,
        [M.labels, M.m],
        [CLASSES, ADVANTAGES],
    ),
    "with a bonus for entropy": (
        -(M.m * pt.log(P)).mean() + 0.01 * (M.softmax * pt.log(M.softmax)).sum(axis=1).mean(),
        M.softmax,
        [M.labels, M.m],
        [CLASSES, ADVANTAGES],
    ),
    "negative advantages": (
        -(M.m * pt.log(P)).mean(),
        M.softmax,
        [M.labels, M.m],
        [CLASSES, -abs(ADVANTAGES)],
    ),
    "square and a small penalty": (
        (pt.sqr(D) + 0.01 * pt.softplus(M.r)).sum(axis=1).mean(),
        M.r,
        [M.t],
        [YES],
    ),
    "log cosh": (pt.log(pt.cosh(D)).sum(axis=1).mean(), M.r, [M.t], [YES]),
    "Student's t": (pt.log1p(pt.sqr(D) / 3).sum(axis=1).mean(), M.r, [M.t], [YES]),
    "root mean square": (pt.sqrt(pt.sqr(D).mean()), M.r, [M.t], [YES]),
    "logarithm of squares": (pt.log(pt.sqr(D).mean()), M.r, [M.t], [YES]),
    "distances": (pt.sqrt(pt.sqr(D).sum(axis=1) + 1e-6).mean(), M.r, [M.t], [YES]),
    "exponential, log-rates": ((M.t * pt.exp(M.r) - M.r).mean(), M.r, [M.t], [YES + 1]),
    "Gamma, logarithms of means": ((M.t * pt.exp(-M.r) + M.r).mean(), M.r, [M.t], [YES + 1]),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_belongs_to_the_likelihood_is_not_warned_of(name):
    loss, y, targets, values = NEAR[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = M.objective(loss, y, *targets)
    assert not objective.check(X, *values).matches
    assert mismatch_warnings(objective, symng.NaturalGradient(), (X, *values)) == []


def test_five_equal_rows_with_two_classes():
    """The parameters reach one direction only, where any two curvatures are multiples."""
    x, t = pt.matrix("x"), pt.matrix("t")
    batch = np.ones((5, 3)), np.eye(2)[[1] * 5]
    for start in (np.zeros((3, 2)), RNG.standard_normal((3, 2))):
        w = pytensor.shared(start, name="w")
        y = pt.special.softmax(x @ w, axis=-1)
        objective = symng.Objective(pt.sqr(y - t).sum(axis=1).mean(), y, [w], [x], [t])
        G, F = (dense(metric(), objective, batch) for metric in (symng.GaussNewton, symng.Fisher))
        assert oracles.relative_error(G, F * np.vdot(F, G) / np.vdot(F, F)) < 1e-10
        match = objective.check(*batch)
        assert not match and match.relative_difference > 0.05


@pytest.mark.parametrize("classes", [2, 3])
def test_logits_of_zero(classes):
    """There the metric of a sigmoid is that of a Gaussian but for a factor."""
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(np.zeros((3, classes)), name="w")
    r = x @ w
    targets = np.eye(classes)[np.arange(12) % classes]
    binary = symng.Objective(
        pt.softplus(pt.where(pt.gt(t, 0.5), -r, r)).sum(axis=1).mean(), r, [w], [x], [t]
    )
    assert binary.check(X, targets).likelihood == symng.Bernoulli(logits=True)
    multi = symng.Objective(
        pt.logsumexp(r - (t * r).sum(axis=1, keepdims=True), axis=1).mean(), r, [w], [x], [t]
    )
    assert multi.check(X, targets).likelihood == symng.Categorical(logits=True)


def test_check_compiles_no_parameter_into_its_products(monkeypatch):
    calls = []

    def record(name):
        real = getattr(_output_products, name)

        def recorded(inputs, outputs, **settings):
            calls.append((name, settings.get("mode"), M.w in set(ancestors(list(outputs)))))
            return real(inputs, outputs, **settings)

        monkeypatch.setattr(_output_products, name, recorded)

    record("compile_in_python")
    record("compile_function")
    assert M.objective(M.cross_entropy().mean(), M.softmax).check(X, ONE_HOT)
    # The pre-activations, and the products at them.
    assert calls == [
        ("compile_in_python", None, True),
        ("compile_function", UNOPTIMIZED, False),
    ]


@pytest.mark.parametrize("reduce, factor", [("mean", 1), ("sum", 1000)])
def test_large_batches_are_looked_at_in_part(monkeypatch, reduce, factor):
    monkeypatch.setattr(_matching, "_MAX_EXAMPLES", 7)
    seen = []
    real = _output_products.Products.__init__

    def recorded(self, values, arrays, mode):
        seen.append([len(a) for a in arrays])
        real(self, values, arrays, mode)

    monkeypatch.setattr(_output_products.Products, "__init__", recorded)
    match = M.objective(getattr(M.cross_entropy(), reduce)(), M.softmax).check(
        RNG.standard_normal((1000, 3)), np.eye(4)[RNG.integers(0, 4, 1000)]
    )
    assert match and match.factor == pytest.approx(factor) and match.reduction == reduce
    assert seen == [[7, 7]]


def test_a_factor_that_is_the_number_of_examples(monkeypatch):
    monkeypatch.setattr(_matching, "_MAX_EXAMPLES", 7)
    batch = RNG.standard_normal((50, 3)), np.eye(4)[RNG.integers(0, 4, 50)]
    total = M.objective(M.cross_entropy().mean() * M.r.shape[0], M.softmax)
    assert total.check(*batch).factor == pytest.approx(50)
    assert M.objective(M.cross_entropy().sum() / M.t.shape[0], M.softmax).check(
        *batch
    ).factor == pytest.approx(1)


def test_a_model_for_one_length_of_batches():
    x, t = pt.matrix("x"), pt.matrix("t")
    noise = pt.constant(RNG.standard_normal((400, 1)))
    r = x @ M.w + noise
    objective = symng.Objective(pt.sqr(r - t).sum(axis=1).mean() / 2, r, [M.w], [x], [t])
    batch = RNG.standard_normal((400, 3)), RNG.standard_normal((400, 4))
    assert objective.check(*batch).reduction == "mean"
    assert mismatch_warnings(objective, symng.NaturalGradient(), batch) == []
    fixed = pt.matrix("x", shape=(400, 3))
    objective = symng.Objective(
        pt.sqr(fixed @ M.w - t).sum(axis=1).sum() / 2, fixed @ M.w, [M.w], [fixed], [t]
    )
    assert objective.check(*batch).reduction == "sum"


def test_several_outputs_of_one_and_of_each_other():
    x, t = pt.matrix("x"), pt.matrix("t")
    v = pytensor.shared(np.ones((1, 1)), name="v")
    r = x @ M.w
    first, second = r[:, :1], pt.special.softmax(r[:, 1:], axis=-1)
    squared = pt.sqr(first - t[:, :1]).sum(axis=1) / 2
    cross = -(t[:, 1:] * pt.log(second)).sum(axis=1)
    batch = X, np.concatenate([X[:, :1], np.eye(3)[CLASSES % 3]], axis=1)
    match = symng.Objective((squared + cross).mean(), [first, second], [M.w], [x], [t]).check(
        *batch
    )
    assert match and match.reduction == "mean" and "Gaussian + Categorical" in match.message
    weighed = symng.Objective((2 * squared + cross).mean(), [first, second], [M.w], [x], [t])
    assert weighed.check(*batch).weighted
    assert mismatch_warnings(weighed, symng.NaturalGradient(), batch) == []
    wrong = symng.Objective(
        (squared + pt.sqr(second - t[:, 1:]).sum(axis=1)).mean(), [first, second], [M.w], [x], [t]
    )
    assert not wrong.check(*batch) and not wrong.check(*batch).weighted
    later = pt.sigmoid(first @ v)  # is computed from the other output
    loss = (
        squared - t[:, 1] * pt.log(later)[:, 0] - (1 - t[:, 1]) * pt.log(1 - later)[:, 0]
    ).mean()
    chained = symng.Objective(loss, [first, later], [M.w, v], [x], [t])
    assert chained.check(*batch).reduction == "mean"


def test_time_major_outputs_of_a_scan():
    x, t = pt.tensor3("x"), pt.tensor3("t")
    w, u = (
        pytensor.shared(0.5 * RNG.standard_normal(shape), name="p") for shape in ((3, 4), (4, 4))
    )
    h = pytensor.scan(
        lambda a, s: pt.tanh(a @ w + s @ u),
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], 4))],
        return_updates=False,
    )
    y = pt.special.softmax(h, axis=-1)
    objective = symng.Objective(
        -(t * pt.log(y)).sum(axis=(0, 2)).mean(), y, [w, u], [x], [t], example_axis=1
    )
    batch = RNG.standard_normal((5, 6, 3)), np.eye(4)[RNG.integers(0, 4, (5, 6))]
    match = objective.check(*batch)
    assert match and match.reduction == "mean"
    mask = pt.matrix("mask")
    masked = -(mask * (t * pt.log(y)).sum(axis=2)).sum(axis=0).mean()
    objective = symng.Objective(masked, y, [w, u], [x], [t, mask], example_axis=1)
    padded = (*batch, (np.arange(5)[:, None] < np.array([5, 4, 3, 2, 1, 5])).astype(float))
    assert objective.check(*padded).weighted
    assert mismatch_warnings(objective, symng.NaturalGradient(), padded) == []


def test_the_state_of_a_scan_with_its_preactivation_beside_it():
    """Its pre-activation depends on states before: no curvature can be taken through it."""
    x, t = pt.tensor3("x"), pt.tensor3("t")
    u, v = (pytensor.shared(np.full((n, 2), 0.3), name=name) for n, name in ((3, "u"), (2, "v")))
    h = pytensor.scan(
        lambda a, h: pt.sigmoid(a @ u + h @ v),
        [x],
        [pt.zeros((x.shape[1], 2))],
        return_updates=False,
    )
    objective = symng.Objective(pt.sqr(h - t).mean(), h, [u, v], [x], [t], example_axis=1)
    assert (
        objective.heads[0].r is not None
        and objective.heads[0].source == "read off sigmoid in a scan"
    )
    batch = np.ones((2, 4, 3)), np.zeros((2, 4, 2))
    assert objective.check(*batch).message.startswith("No verdict")
    assert mismatch_warnings(objective, symng.NaturalGradient(), batch) == []


def test_saturated_units_need_no_other_mode():
    model = Model(scale=1e3)
    for loss, y, targets in (
        (model.cross_entropy(), model.softmax, ONE_HOT),
        (
            -(model.t * pt.log(model.sigmoid) + (1 - model.t) * pt.log(1 - model.sigmoid)).sum(
                axis=1
            ),
            model.sigmoid,
            YES,
        ),
    ):
        match = model.objective(loss.mean(), y).check(X, targets)
        assert match and match.reduction == "mean", match


def test_plain_python_compiles_no_function_inside_an_op():
    x, t = pt.tensor3("x"), pt.matrix("t")
    h = pytensor.scan(
        lambda a, s: pt.special.softmax(a @ M.w + s, axis=-1),
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], 4))],
        return_updates=False,
    )[-1]
    y = pt.special.softmax(h, axis=-1)
    objective = symng.Objective(
        -(t * pt.log(y)).sum(axis=1).mean(), y, [M.w], [x], [t], data_axes=[1, 0]
    )
    DryRun(objective.model)(
        "batch", [RNG.standard_normal((2, 6, 3)), np.eye(4)[RNG.integers(0, 4, 6)]]
    )
    ops = {v.owner.op for v in ancestors([objective.loss]) if v.owner is not None}
    inner = [op for op in ops if isinstance(op, Scan | pt.special.Softmax)]
    assert len(inner) == 2 and all(getattr(op, "_fn", None) is None for op in inner)


# The warning of minimize

LOGITS = M.objective(M.binary().mean(), M.r)


@pytest.mark.parametrize(
    "optimizer, warned",
    [
        (symng.NaturalGradient(metric=symng.Fisher(form="output")), True),
        (symng.NaturalConjugateGradient(), True),
        (symng.KrylovSubspaceDescent(metric=symng.Fisher()), True),
        (symng.NaturalGradient(metric=symng.StructuralDamping(hidden=[M.r])), True),
        (
            symng.NaturalGradient(
                metric=symng.StructuralDamping(metric=symng.GaussNewton(), hidden=[M.r])
            ),
            False,
        ),
        (symng.NaturalGradient(metric=symng.GaussNewton()), False),
        (symng.NaturalGradient(metric=symng.EmpiricalFisher()), False),
        (symng.HessianFree(), False),
        (symng.SGD(step_size=0.1), False),
        (symng.Adam(), False),
        (symng.TONGA(), False),
    ],
)
def test_only_metrics_that_read_the_likelihood_are_warned_of(optimizer, warned):
    assert len(mismatch_warnings(LOGITS, optimizer, (X, YES))) == warned


def test_minimize_warns_once():
    for given, expected in ((None, 1), (symng.Gaussian(), 0)):
        objective = M.objective(M.binary().mean(), M.r, likelihood=given)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            symng.minimize(
                objective, symng.NaturalGradient(), data=(X, YES), max_steps=0, progress=False
            )
        found = [w for w in caught if "expected the negative log-likelihood" in str(w.message)]
        assert len(found) == expected and all(w.filename == __file__ for w in found)


def test_nothing_is_warned_of_twice():
    y = 0.9 * M.softmax + 0.025  # no activation to be read, and the loss takes its logarithm
    with pytest.warns(UserWarning, match="The loss takes the logarithm"):
        objective = M.objective(-(M.t * pt.log(y)).sum(axis=1).mean(), y)
    assert mismatch_warnings(objective, symng.NaturalGradient(), (X, ONE_HOT)) == []


def test_a_check_that_fails_is_no_matter_of_training(monkeypatch):
    def fails(*arguments):
        raise MemoryError

    monkeypatch.setattr(mismatch, "compare", fails)
    assert mismatch_warnings(LOGITS, symng.NaturalGradient(), (X, YES)) == []


def test_training_looks_at_few_examples(monkeypatch):
    seen = []
    real = mismatch.compare

    def recorded(values, arrays, mode):
        seen.append(len(arrays[0]))
        return real(values, arrays, mode)

    monkeypatch.setattr(mismatch, "compare", recorded)
    batch = RNG.standard_normal((300, 3)), (RNG.random((300, 4)) > 0.5).astype(float)
    assert len(mismatch_warnings(LOGITS, symng.NaturalGradient(), batch)) == 1
    monkeypatch.setattr(mismatch, "_LIMITS", (16, 20))  # numbers of the output
    assert len(mismatch_warnings(LOGITS, symng.NaturalGradient(), batch)) == 1
    assert seen == [16, 5]
