"""Every metric against dense references: products, scale, dtype and errors."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.compiled import columns, wide_tensors
from helpers.oracles import (
    KINDS,
    LIKELIHOODS,
    mlp_case,
    nll_terms,
    output_of,
    relative_error,
    shared,
)
from pytensor.graph.traversal import ancestors
from scipy import special

import symng

METRICS = {
    "fisher": symng.Fisher(),
    "fisher_output": symng.Fisher(form="output"),
    "gauss_newton": symng.GaussNewton(),
    "empirical": symng.EmpiricalFisher(),
    "centered": symng.EmpiricalFisher(centered=True),
    "hessian": symng.Hessian(),
}
# The loss is the mean negative log-likelihood in each: the Gauss-Newton matrix is the Fisher
# matrix.
CASES = {
    **{kind: lambda kind=kind: mlp_case(kind) for kind in KINDS},
    **{f"{kind}_through_r": lambda kind=kind: mlp_case(kind, "r") for kind in KINDS[1:]},
    **{f"{kind}_logits": lambda kind=kind: mlp_case(kind, "r", logits=True) for kind in KINDS[1:]},
    "tied": lambda: mlp_case("categorical", tied=True),
    **{
        f"vector_{kind}": lambda kind=kind: oracles.vector_case(kind)
        for kind in ("gaussian", "bernoulli", "poisson")
    },
    "several": oracles.several_case,
    "recurrent_bernoulli": oracles.recurrent_case,
    "recurrent_categorical": lambda: oracles.recurrent_case("categorical"),
    "column": lambda: oracles.view_case(lambda y: y[:, 0], (0, 0)),
    "columns": lambda: oracles.view_case(lambda y: y[:, 1:], (0, 0)),
    "transposed": lambda: oracles.view_case(lambda y: y.T, (0, 1), axis=1),
    "reshaped": lambda: oracles.view_case(lambda y: y.reshape((-1, 2)), (0, 0)),
}


@cache
def case(name):
    return CASES[name]()


@cache
def matrices(name):
    """Return the matrices of all metrics on a case."""
    operators = [metric(case(name).objective) for metric in METRICS.values()]
    return dict(zip(METRICS, columns(operators, case(name).givens), strict=True))


@cache
def reference(name, metric):
    c = case(name)
    if metric in ("fisher", "fisher_output", "gauss_newton"):
        return oracles.fisher(c) if metric == "fisher" else reference(name, "fisher")
    return (
        oracles.hessian(c)
        if metric == "hessian"
        else oracles.empirical_fisher(c, metric == "centered")
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", CASES)
def test_equals_dense_reference(name, metric):
    assert relative_error(matrices(name)[metric], reference(name, metric)) < 1e-10


def test_likelihoods_are_those_meant():
    """Guard the table above.

    Were the likelihood misread, both sides would still be compared, but not what is meant.
    """
    for name in CASES:
        kinds = [type(head.likelihood).__name__.lower() for head in case(name).objective.heads]
        assert kinds == list(case(name).kinds)


@pytest.mark.parametrize("name", ["bernoulli", "several", "recurrent_bernoulli"])
def test_materialise(name):
    F = symng.Fisher()(case(name).objective)
    matrix = F.materialise().eval(case(name).givens, on_unused_input="ignore")
    assert relative_error(matrix, reference(name, "fisher")) < 1e-10


# Pairs of loss and likelihood that do not match


def squared_error_on_sigmoid():
    """Return an objective with squared error on sigmoids, and its Gauss-Newton matrix by hand."""
    rng = np.random.default_rng(3)
    x, t, w = pt.matrix("x"), pt.matrix("t"), shared(rng, 3, 2)
    y = pt.sigmoid(x @ w)
    objective = symng.Objective(pt.sqr(y - t).sum(axis=1).mean(), y, [w], [x], [t])
    givens = {x: rng.standard_normal((6, 3)), t: rng.random((6, 2))}
    j = oracles.jacobian(x @ w, [w], givens).reshape(12, -1)
    p, targets = special.expit(givens[x] @ w.get_value()), givens[t]
    # d^2/dr^2 (p - t)^2.
    curvature = 2 * (p * (1 - p)) ** 2 + 2 * (p - targets) * p * (1 - p) * (1 - 2 * p)
    return objective, givens, j.T @ (curvature.ravel()[:, None] / 6 * j)


def test_gauss_newton_of_a_loss_that_does_not_match():
    objective, givens, wanted = squared_error_on_sigmoid()
    assert relative_error(columns([symng.GaussNewton()(objective)], givens)[0], wanted) < 1e-10


@pytest.mark.parametrize("likelihood", [symng.Gaussian(), symng.Bernoulli(logits=True), None])
def test_gauss_newton_with_likelihood_given(likelihood):
    """The curvature is taken where the likelihood says.

    On the output itself if that is given as its end.
    """
    rng = np.random.default_rng(4)
    x, t, w = pt.matrix("x"), pt.matrix("t"), shared(rng, 3, 2)
    y = pt.sigmoid(x @ w)
    objective = symng.Objective(pt.sqr(y - t).sum(axis=1).mean(), y, [w], [x], [t], likelihood)
    givens = {x: rng.standard_normal((6, 3)), t: rng.random((6, 2))}
    j = oracles.jacobian(y, [w], givens).reshape(12, -1)
    got = columns([symng.GaussNewton()(objective)], givens)[0]
    if likelihood is None:
        assert relative_error(got, 2 / 6 * j.T @ j) > 0.1
    else:
        assert relative_error(got, 2 / 6 * j.T @ j) < 1e-10


def test_one_output_computed_from_another():
    rng = np.random.default_rng(5)
    x, w1, w2 = pt.matrix("x"), shared(rng, 3, 2), shared(rng, 2, 2)
    r1 = x @ w1
    r2 = pt.tanh(r1) @ w2
    loss = (pt.sqr(r1).sum() + pt.sqr(r2).sum()) / x.shape[0]
    objective = symng.Objective(loss, [r1, r2], [w1, w2], [x])
    givens = {x: rng.standard_normal((4, 3))}
    js = [oracles.jacobian(r, [w1, w2], givens).reshape(8, -1) for r in (r1, r2)]
    wanted = sum(j.T @ j for j in js) / 4
    assert relative_error(columns([symng.Fisher()(objective)], givens)[0], wanted) < 1e-10
    assert relative_error(columns([symng.GaussNewton()(objective)], givens)[0], 2 * wanted) < 1e-10


def test_one_output_given_twice_counts_twice():
    rng = np.random.default_rng(5)
    x, w = pt.matrix("x"), shared(rng, 3, 2)
    y = x @ w
    givens = {x: rng.standard_normal((4, 3))}
    once, twice = (
        symng.Fisher()(symng.Objective(pt.sqr(y).mean(), o, [w], [x])) for o in (y, [y, y])
    )
    once, twice = columns([once, twice], givens)
    assert relative_error(twice, 2 * once) < 1e-12


def test_gauss_newton_of_outputs_cut_from_one_activation():
    rng = np.random.default_rng(6)
    x, w = pt.matrix("x"), shared(rng, 3, 2)
    r = x @ w
    y, loss = pt.sigmoid(r), pt.softplus(r).sum(axis=1).mean()
    givens = {x: rng.standard_normal((4, 3))}
    whole, cut = (symng.Objective(loss, output, [w], [x]) for output in (y, [y[:, 0], y[:, 1]]))
    for metric in (symng.GaussNewton(), symng.Fisher()):
        wanted, got = columns([metric(whole), metric(cut)], givens)
        assert relative_error(got, wanted) < 1e-12


@pytest.mark.parametrize(
    "recompute", [lambda x, w, b: x @ w + b, lambda x, w, b: pt.as_tensor(x) @ w + b]
)
def test_gauss_newton_of_a_loss_that_recomputes_the_preactivation(recompute):
    c = {}
    for apart in (False, True):
        rng = np.random.default_rng(7)
        x, t, w, b = pt.matrix("x"), pt.matrix("t"), shared(rng, 3, 2), shared(rng, 2)
        r = x @ w + b
        again = recompute(x, w, b) if apart else r
        loss = (pt.softplus(again) - t * again).sum(axis=1).mean()
        objective = symng.Objective(loss, pt.sigmoid(r), [w, b], [x], [t])
        givens = {x: rng.standard_normal((4, 3)), t: np.ones((4, 2))}
        c[apart] = columns([symng.GaussNewton()(objective)], givens)[0]
    assert np.array_equal(c[True], c[False])


def test_gauss_newton_refuses_a_loss_that_computes_the_preactivation_otherwise():
    rng = np.random.default_rng(8)
    x, w, b = pt.matrix("x"), shared(rng, 3, 2), shared(rng, 2)
    objective = symng.Objective(pt.softplus(b + x @ w).mean(), pt.sigmoid(x @ w + b), [w, b], [x])
    with pytest.raises(
        ValueError, match=r"loss: expected a graph that passes through .* Use one variable"
    ):
        symng.GaussNewton()(objective)


def test_parameters_that_the_loss_does_not_use_have_no_curvature():
    rng = np.random.default_rng(9)
    x, w, u = pt.matrix("x"), shared(rng, 2, 1), shared(rng, 2, 1)
    objective = symng.Objective(pt.sqr(x @ w).sum() / x.shape[0], [x @ w, x @ u], [w, u], [x])
    givens = {x: rng.standard_normal((4, 2))}
    for metric in (symng.Hessian(), symng.EmpiricalFisher()):
        matrix = columns([metric(objective)], givens)[0]
        assert matrix[:2, :2].any() and not matrix[2:].any() and not matrix[:, 2:].any()


# Scale


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_scale_of_the_loss(reduce):
    one, scaled = (mlp_case("categorical", reduce=reduce, scale=scale) for scale in (1.0, -0.3))
    powers = {
        "fisher": 0,
        "fisher_output": 0,
        "gauss_newton": 1,
        "empirical": 2,
        "centered": 2,
        "hessian": 1,
    }
    for name, metric in METRICS.items():
        a, b = (columns([metric(c.objective)], c.givens)[0] for c in (one, scaled))
        assert relative_error(b, (-0.3) ** powers[name] * a) < 1e-12, name


def test_reduction_of_the_loss_scales_what_the_docstrings_say():
    mean, total = (mlp_case("bernoulli", reduce=reduce) for reduce in ("mean", "sum"))
    powers = {
        "fisher": 0,
        "fisher_output": 0,
        "gauss_newton": 1,
        "empirical": 0,
        "centered": 0,
        "hessian": 1,
    }
    for name, metric in METRICS.items():
        a, b = (columns([metric(c.objective)], c.givens)[0] for c in (mean, total))
        assert relative_error(b, mean.examples ** powers[name] * a) < 1e-12, name


# Saturated outputs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_natural_form_is_right_for_saturated_outputs(kind, dtype):
    """At pre-activations of +-100 outputs are exactly 1 (float32): on them the form is 0 / 0."""
    x, w = (
        pt.matrix("x", dtype=dtype),
        pytensor.shared(np.array([[100.0, -100.0, 3.0]], dtype), name="w"),
    )
    r = x @ w
    objective = symng.Objective(r.sum(), output_of(kind, r), [w], [x])
    batch = np.array([[1.0], [-1.0], [0.5]], dtype)
    natural = columns([symng.Fisher()(objective)], {x: batch})[0]
    wanted = np.zeros((3, 3))
    for value in batch.astype("float64").ravel():
        wanted += (
            value**2 * oracles.metric_on_r(kind, value * w.get_value().astype("float64")[0]) / 3
        )
    if kind == "bernoulli":  # 1 - y, in the reference, cancels even in float64
        slope = special.expit(np.outer(batch, w.get_value()).astype("float64"))
        slope *= special.expit(-np.outer(batch, w.get_value()).astype("float64"))
        wanted = np.diag((batch.astype("float64") ** 2 * slope).sum(axis=0) / 3)
    assert natural.dtype == dtype and np.isfinite(natural).all()
    np.testing.assert_allclose(
        natural, wanted, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-37
    )


def test_natural_form_where_the_output_is_exactly_0_or_1():
    x, w = pt.fmatrix("x"), pytensor.shared(np.float32([[1e4, -1e4]]), name="w")
    for kind in ("bernoulli", "categorical", "poisson"):
        r = x @ (w if kind != "poisson" else -abs(w))
        y = output_of(kind, r)
        assert set(np.unique(y.eval({x: np.ones((2, 1), "float32")}))) <= {0.0, 1.0}
        F = symng.Fisher()(symng.Objective(r.sum(), y, [w], [x]))
        assert np.array_equal(columns([F], {x: np.ones((2, 1), "float32")})[0], np.zeros((2, 2)))


# float32 stays float32


@pytest.mark.usefixtures("rewrites")
@pytest.mark.parametrize(
    "kind, mode",
    [
        *((kind, "FAST_COMPILE") for kind in KINDS),
        pytest.param("bernoulli", "CVM", marks=pytest.mark.slow),
    ],
)
def test_float32_stays_float32(kind, mode):
    rng = np.random.default_rng(2)
    x, t, w = pt.fmatrix("x"), pt.fmatrix("t"), shared(rng, 3, 2, dtype="float32")
    decay = pytensor.shared(np.float32(0.1))
    r = x @ w
    # 0.3 has no exact float32: PyTensor goes to float64 for it if let.
    for std in (0.3, pytensor.shared(0.3)) if kind == "gaussian" else (1.0,):
        likelihood = symng.Gaussian(std=std) if kind == "gaussian" else None
        terms = nll_terms(kind, r, t)
        loss = terms.sum() / x.shape[0] + decay * pt.sqr(w).sum() + 0.1 * terms.mean()
        objective = symng.Objective(loss, output_of(kind, r), [w], [x], [t], likelihood)
        assert objective.example_losses.dtype == "float32"
        v = np.ones(6, "float32")
        products = [0.3 * metric(objective).damped(0.1) @ v for metric in METRICS.values()]
        f = pytensor.function([x, t], products, mode=mode, on_unused_input="ignore")
        assert not wide_tensors(f)
        assert {p.dtype for p in f(np.ones((4, 3), "float32"), np.ones((4, 2), "float32"))} == {
            np.dtype("float32")
        }


# What a metric needs, and refuses


@pytest.mark.parametrize("form", ["natural", "output"])
def test_fisher_compiles_on_fresh_inputs_without_targets(form):
    c = case("several")
    fresh = c.objective.clone_inputs("_metric")
    F = symng.Fisher(form=form)(fresh)
    assert [v.name for v in F.required_inputs()] == ["x_metric"]
    matrix = columns([F], {fresh.inputs[0]: c.givens[c.objective.inputs[0]]})[0]
    assert relative_error(matrix, reference("several", "fisher")) < 1e-10


def test_metrics_of_a_loss_need_targets_on_fresh_inputs():
    c = case("bernoulli")
    fresh = c.objective.clone_inputs("_metric")
    givens = dict(zip([*fresh.inputs, *fresh.targets], c.givens.values(), strict=True))
    for name in ("gauss_newton", "empirical", "hessian"):
        operator = METRICS[name](fresh)
        assert [v.name for v in operator.required_inputs()] == ["x_metric", "t_metric"]
        assert relative_error(columns([operator], givens)[0], matrices("bernoulli")[name]) < 1e-12


def test_fisher_refuses_a_target_in_its_graph():
    x, t, w = pt.matrix("x"), pt.matrix("t"), pytensor.shared(np.ones((3, 2)), name="w")
    y = (x + t) @ w
    objective = symng.Objective(pt.sqr(y).mean(), y, [w], [x], [t])
    with pytest.raises(
        ValueError, match=r"targets: expected .*, got t, .* List t among the inputs"
    ):
        symng.Fisher()(objective)


def test_empirical_fisher_refuses_a_loss_without_example_losses():
    x, w = pt.matrix("x"), pytensor.shared(np.ones((3, 2)), name="w")
    y = x @ w
    objective = symng.Objective(pt.sqr(y).max(), y, [w], [x])
    with pytest.raises(
        ValueError, match=r"example_losses: .* Give Objective\(\.\.\., example_losses=\.\.\.\)"
    ):
        symng.EmpiricalFisher()(objective)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: symng.Fisher(form="both"),
            ValueError,
            "form: expected one of 'natural', 'output', got 'both'",
        ),
        (
            lambda: symng.EmpiricalFisher(centered=1),
            TypeError,
            "centered: expected True or False, got 1",
        ),
        (
            lambda: symng.Fisher()("loss"),
            TypeError,
            "objective: expected a symng.Objective, got 'loss'",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_repr_rebuilds(metric):
    assert eval(repr(metric), {type(metric).__name__: type(metric)}) == metric


def test_metric_graph_does_not_hold_the_matrix():
    """No tensor of the product's graph is as large as the matrix."""
    c = case("gaussian")
    for metric in METRICS.values():
        product = metric(c.objective) @ np.ones(c.size)
        f = pytensor.function(
            list(c.givens),
            [v for v in ancestors([product]) if getattr(v.type, "ndim", 0)],
            on_unused_input="ignore",
        )
        assert max(np.size(a) for a in f(*c.givens.values())) < c.size**2


def test_likelihoods_table_is_complete():
    assert set(LIKELIHOODS) == set(KINDS)
