"""Structural damping against the Fisher matrix of targets and hidden states, formed densely."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.compiled import columns, wide_tensors
from helpers.oracles import relative_error, shared
from scipy import special

import symng
from symng.likelihoods import Sign
from symng.metrics._hidden_states import recurrent_states

ACTIVATIONS = {
    "tanh": pt.tanh,
    "sigmoid": pt.sigmoid,
    "softplus": pt.softplus,
    "softmax": lambda e: pt.special.softmax(e, axis=-1),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A recurrent or feed-forward net with its values; e is computed apart, for the references."""

    objective: symng.Objective
    r: Any
    h: Any
    e: Any
    givens: dict[Any, np.ndarray]
    activation: str


@cache
def recurrent(
    activation: str, dtype: str = "float64", scale: float = 0.7, only_last: bool = False
) -> Case:
    """Return a time-major recurrent net with sigmoid outputs at every step or at the last."""
    rng = np.random.default_rng(0)
    x, t = pt.tensor3("x", dtype=dtype), pt.tensor3("t", dtype=dtype)
    w_in, w, w_out = (shared(rng, *s, dtype=dtype, scale=scale) for s in ((2, 3), (3, 3), (3, 1)))
    f = ACTIVATIONS[activation]

    def step(x_t, h):
        e = x_t @ w_in + h @ w
        return f(e), e

    h, e = pytensor.scan(
        step,
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], 3), dtype=dtype), None],
        return_updates=False,
    )
    r = (h[-1:] if only_last else h) @ w_out
    loss = (pt.softplus(r) - t * r).sum(axis=(0, 2)).mean()
    objective = symng.Objective(loss, pt.sigmoid(r), [w_in, w, w_out], [x], [t], example_axis=1)
    values = rng.standard_normal((4, 5, 2)).astype(dtype)
    targets = (rng.random((1 if only_last else 4, 5, 1)) < 0.5).astype(dtype)
    return Case(objective, r, h, e, {x: values, t: targets}, activation)


@cache
def layered(activation: str) -> Case:
    """Return a network of two hidden layers, each with a bias, and linear outputs."""
    rng = np.random.default_rng(1)
    x, t = pt.matrix("x"), pt.matrix("t")
    params = [shared(rng, *s) for s in ((2, 3), (3,), (3, 3), (3,), (3, 2))]
    f = ACTIVATIONS[activation]
    e1 = x @ params[0] + params[1]
    e2 = f(e1) @ params[2] + params[3]
    r = f(e2) @ params[4]
    objective = symng.Objective(pt.sqr(r - t).sum(axis=1).mean() / 2, r, params, [x], [t])
    e = pt.stack([e1, e2])
    return Case(
        objective,
        r,
        f(e),
        e,
        {x: rng.standard_normal((4, 2)), t: rng.standard_normal((4, 2))},
        activation,
    )


def hidden_layers(case: Case) -> list[Any]:
    """Return the hidden layers of a layered net, as variables of the graph of its output."""
    w3 = case.objective.params[4]
    top = next(v for v in case.r.owner.inputs if v is not w3)
    first = next(v for v in top.owner.inputs[0].owner.inputs[0].owner.inputs if v.owner is not None)
    return [first, top]


def metric_on_e(activation: str, e: np.ndarray) -> np.ndarray:
    """Return the Fisher matrix of the hidden units of one example at one time."""
    if activation == "softmax":
        return oracles.metric_on_r("categorical", e)
    if activation == "tanh":
        return np.diag(1 / np.cosh(e) ** 2)
    if activation == "sigmoid":
        return oracles.metric_on_r("bernoulli", e)
    return np.diag(special.expit(e) ** 2)  # of a normal distribution around h


@cache
def hidden_fisher(case: Case) -> np.ndarray:
    """Return 1/N sum_n J_e^T M J_e."""
    size, examples = (
        case.objective.size,
        next(iter(case.givens.values())).shape[0 if case.r.ndim == 2 else 1],
    )
    j = oracles.jacobian(case.e, case.objective.params, case.givens).reshape(-1, 3, size)
    values = oracles.value(case.e, case.givens).reshape(-1, 3)
    return (
        sum(a.T @ metric_on_e(case.activation, e) @ a for a, e in zip(j, values, strict=True))
        / examples
    )


def matrix(metric: symng.Metric, case: Case) -> np.ndarray:
    return columns([metric(case.objective)], case.givens)[0]


@pytest.mark.parametrize(
    "activation, only_last", [*((a, False) for a in ACTIVATIONS), ("tanh", True)]
)
def test_equals_dense_reference_in_a_scan(activation, only_last):
    case = recurrent(activation, only_last=only_last)
    base = matrix(symng.Fisher(), case)
    got = matrix(symng.StructuralDamping(coefficient=2.5), case)
    assert relative_error(got - base, 2.5 * hidden_fisher(case)) < 1e-10
    # Else the line above would say little.
    assert np.linalg.norm(hidden_fisher(case)) > 0.1 * np.linalg.norm(base)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_dense_reference_where_the_hidden_states_are_given(activation):
    case = layered(activation)
    metric = symng.StructuralDamping(hidden=hidden_layers(case), coefficient=0.5)
    wanted = matrix(symng.Fisher(), case) + 0.5 * hidden_fisher(case)
    assert relative_error(matrix(metric, case), wanted) < 1e-10


@pytest.mark.parametrize(
    "base", [symng.GaussNewton(), symng.Hessian()], ids=lambda metric: type(metric).__name__
)
def test_adds_to_any_metric(base):
    case = recurrent("tanh")
    got = matrix(symng.StructuralDamping(metric=base, coefficient=2.0), case)
    assert relative_error(got - matrix(base, case), 2 * hidden_fisher(case)) < 1e-10


def test_coefficient_of_zero_gives_the_metric():
    case = recurrent("tanh")
    assert (
        relative_error(
            matrix(symng.StructuralDamping(coefficient=0.0), case), matrix(symng.Fisher(), case)
        )
        < 1e-14
    )


def test_coefficient_may_be_symbolic():
    case, mu = recurrent("tanh"), pytensor.shared(2.0)
    metric = symng.StructuralDamping(coefficient=mu)(case.objective)
    f = pytensor.function(
        list(case.givens), metric @ np.ones(metric.size), on_unused_input="ignore"
    )
    first = f(*case.givens.values())
    mu.set_value(3.0)
    assert (
        relative_error(f(*case.givens.values()) - first, hidden_fisher(case) @ np.ones(metric.size))
        < 1e-9
    )


# The joint of targets and hidden states


@pytest.mark.parametrize("activation, values", [("tanh", (-1.0, 1.0)), ("sigmoid", (0.0, 1.0))])
def test_equals_the_fisher_matrix_of_the_joint(activation, values):
    """With coefficient 1.

    T and h independent given x, means from the deterministic pass, summed over time steps.

    The expectation of (d log p(t, h | x))^2 is a sum over all values that t and h can take, of
    scores by autodiff.
    """
    rng = np.random.default_rng(2)
    x = pt.tensor3("x")
    w_in, w, w_out = (shared(rng, *s) for s in ((1, 2), (2, 2), (2, 1)))
    params, steps = [w_in, w, w_out], 2
    hs = [pt.zeros((x.shape[1], 2))]
    for i in range(steps):  # unrolled: no scan here
        hs.append(ACTIVATIONS[activation](x[i] @ w_in + hs[-1] @ w))
    means, y = pt.stack(hs[1:]), pt.sigmoid(pt.stack(hs[1:]) @ w_out)
    t, drawn = pt.tensor3("t"), pt.tensor3("drawn")
    p_one = (1 + means) / 2 if activation == "tanh" else means
    log_p = pt.switch(t > 0, pt.log(y), pt.log(1 - y)).sum()
    log_p += pt.switch(drawn > 0, pt.log(p_one), pt.log(1 - p_one)).sum()
    score = pt.concatenate([g.flatten() for g in pytensor.grad(log_p, params)])
    f = pytensor.function([x, t, drawn], [score, log_p], mode="FAST_COMPILE")
    X = rng.standard_normal((steps, 2, 1))
    joint, total = 0.0, 0.0
    for n in range(2):
        for outcome in product((0, 1), repeat=3 * steps):
            chosen = np.array(outcome, float)
            targets, states = (
                chosen[:steps].reshape(steps, 1, 1),
                np.array(values)[chosen[steps:].astype(int)],
            )
            g, log_probability = f(X[:, n : n + 1], targets, states.reshape(steps, 1, 2))
            joint += np.exp(log_probability) * np.outer(g, g) / 2
            total += np.exp(log_probability) / 2
    assert abs(total - 1) < 1e-12

    h = pytensor.scan(
        lambda x_t, h: ACTIVATIONS[activation](x_t @ w_in + h @ w),
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], 2))],
        return_updates=False,
    )
    output = pt.sigmoid(h @ w_out)
    objective = symng.Objective(output.mean(), output, params, [x], example_axis=1)
    got = columns([symng.StructuralDamping(coefficient=1.0)(objective)], {x: X})[0]
    assert relative_error(got, joint) < 1e-10


# What is found


def scan_of(step, x, states):
    """Return the outputs of a scan over x."""
    return pytensor.scan(step, sequences=[x], outputs_info=states, return_updates=False)


def test_finds_the_states_that_the_output_depends_on():
    """Both states of a gated cell, none that the output ignores, traces of lags without start."""
    x, w, u = pt.matrix("x"), pytensor.shared(0.5, name="w"), pytensor.shared(2.0, name="u")
    zero = pt.zeros((x.shape[1],))

    def step(x_t, older, old, c, unused, total):
        c = c + pt.sigmoid(w * x_t + old)
        return pt.tanh(w * c + older), c, unused + w * x_t, total + 1.0, u * c

    lagged = dict(initial=pt.zeros((2, x.shape[1])), taps=[-2, -1])
    h, c, unused, _total, y = scan_of(step, x, [lagged, zero, zero, zero, None])
    givens = {x: np.random.default_rng(3).standard_normal((4, 3))}
    for output in (h * u, y):  # of a nit-sot, too, the states are found that it is computed from
        objective = symng.Objective(pt.mean(output), output, [w, u], [x], example_axis=1)
        traces = recurrent_states(objective)
        assert len(traces) == 2
        for trace, wanted in zip(traces, (h, c), strict=True):
            assert np.array_equal(trace.eval(givens), wanted.eval(givens))
        lines = symng.StructuralDamping().describe(objective).splitlines()
        assert [line.split(": ")[1] for line in lines] == [
            "Sign, read off tanh in a scan",
            "Gaussian, no known activation at its end in a scan",
        ]
    objective = symng.Objective(pt.mean(c * u), c * u, [w, u], [x], example_axis=1)
    assert len(recurrent_states(objective)) == 2  # c depends on h, by way of its old value
    objective = symng.Objective(
        pt.mean(unused * w * u), unused * w * u, [w, u], [x], example_axis=1
    )
    assert len(recurrent_states(objective)) == 1


def test_a_trace_given_is_the_same_as_one_found():
    case = recurrent("sigmoid")
    given = matrix(symng.StructuralDamping(hidden=case.h), case)
    assert relative_error(given, matrix(symng.StructuralDamping(), case)) < 1e-14


def test_likelihood_given():
    case = recurrent("tanh")
    j = oracles.jacobian(case.h, case.objective.params, case.givens).reshape(
        -1, case.objective.size
    )
    base = matrix(symng.Fisher(), case)
    got = matrix(symng.StructuralDamping(likelihood=symng.Gaussian(std=2.0)), case)
    assert relative_error(got - base, j.T @ j / 4 / 5) < 1e-10
    # Of a sigmoid that is not known as one: on h, and on the pre-activation given as logits.
    case = recurrent("sigmoid")
    wanted = hidden_fisher(case)
    by_hand = 1 / (1 + pt.exp(-case.e))
    base = matrix(symng.Fisher(), case)
    for hidden, likelihood in (
        (by_hand, symng.Bernoulli()),
        (case.e, symng.Bernoulli(logits=True)),
    ):
        metric = symng.StructuralDamping(hidden=hidden, likelihood=[likelihood])
        assert relative_error(matrix(metric, case) - base, wanted) < 1e-10


def test_sign_is_the_distribution_of_the_docstring():
    rng = np.random.default_rng(4)
    e = rng.standard_normal(5)
    h = np.tanh(e)
    up, down = (1 + h) / 2, (1 - h) / 2  # dlog p / de = 2 (1 - up) for a 1, -2 up for a -1
    metric = up * (2 * down) ** 2 + down * (2 * up) ** 2
    assert np.allclose(Sign().metric_product(e, np.ones(5)).eval(), metric, rtol=1e-13)
    assert np.allclose(
        Sign().output_metric_product(h, np.ones(5)).eval(), metric / (1 - h**2) ** 2, rtol=1e-13
    )
    generator = pt.random.shared_rng(np.random.default_rng(5))
    draws = Sign().sample(pt.as_tensor_variable(np.full(4000, 0.5)), generator)[1].eval()
    assert set(draws) == {-1.0, 1.0}
    assert abs(draws.mean() - 0.5) < 4 * np.sqrt(0.75 / 4000)


# Dtypes, saturation, batches


def test_float32_stays_float32():
    """Also that of the metrics alone.

    PyTensor's derivative of a scan has zeros of floatX in it, if let.
    """
    case = recurrent("tanh", "float32")
    metrics = [
        symng.StructuralDamping(coefficient=0.3),
        symng.StructuralDamping(metric=symng.Hessian()),
    ]
    products = [
        metric(case.objective) @ np.ones(case.objective.size, "float32") for metric in metrics
    ]
    f = pytensor.function(list(case.givens), products, on_unused_input="ignore")
    assert not wide_tensors(f)
    assert {p.dtype for p in f(*case.givens.values())} == {np.dtype("float32")}


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_saturated_units_in_float32(activation):
    """Weights that drive many units to exactly 1.

    The product is finite, and right to the rounding of float32.
    """
    case = recurrent(activation, "float32", 30.0)
    h = oracles.value(case.h, case.givens)
    assert (abs(h) == 1).any()
    metric = symng.StructuralDamping(coefficient=1e3)
    got = matrix(metric, case)
    assert np.isfinite(got).all()
    exact = recurrent(activation, "float64", 30.0)
    for mine, theirs in zip(exact.objective.params, case.objective.params, strict=True):
        mine.set_value(theirs.get_value().astype("float64"))
    givens = dict(
        zip(exact.givens, (a.astype("float64") for a in case.givens.values()), strict=True)
    )
    wanted = columns([metric(exact.objective)], givens)[0]
    assert np.linalg.norm(got - wanted) < 1e-3 * max(np.linalg.norm(wanted), 1.0)


def test_needs_no_targets_on_a_metric_batch():
    for case, metric in (
        (recurrent("tanh"), symng.StructuralDamping()),
        (layered("tanh"), symng.StructuralDamping(hidden=hidden_layers(layered("tanh")))),
    ):
        fresh = case.objective.clone_inputs("_metric")
        operator = metric(fresh)
        assert [v.name for v in operator.required_inputs()] == ["x_metric"]
        got = columns([operator], {fresh.inputs[0]: next(iter(case.givens.values()))})[0]
        assert relative_error(got, matrix(metric, case)) < 1e-12


# In an optimizer


def test_step_solves_with_it():
    """Relative to the damping, which is what the optimizer adds."""
    case = recurrent("tanh")
    params = case.objective.params
    start = [p.get_value() for p in params]
    metric = symng.StructuralDamping(coefficient=0.5, relative=True)
    optimizer = symng.NaturalGradient(
        metric=metric, solver=symng.CG(rtol=1e-13, maxiter=200), damping=0.2
    )
    slopes = pytensor.grad(case.objective.loss, list(params))
    gradient = np.concatenate(
        [g.ravel() for g in pytensor.function(list(case.givens), slopes)(*case.givens.values())]
    )
    dense = matrix(symng.Fisher(), case) + 0.5 * 0.2 * hidden_fisher(case)
    wanted = np.linalg.solve(dense + 0.2 * np.eye(len(dense)), gradient)
    try:
        symng.compile_step(case.objective, optimizer)(tuple(case.givens.values()))
        moved = np.concatenate(
            [(a - p.get_value()).ravel() for a, p in zip(start, params, strict=True)]
        )
    finally:
        for p, value in zip(params, start, strict=True):
            p.set_value(value)
    assert relative_error(moved, wanted) < 1e-8


# What is refused


def test_refuses_a_graph_without_a_recurrent_state():
    case = layered("tanh")
    with pytest.raises(
        ValueError, match=r"hidden: .* got neither. Give them: StructuralDamping\(hidden=\[h\]\)"
    ):
        symng.StructuralDamping()(case.objective)


def test_refuses_hidden_states_of_other_inputs():
    case = layered("tanh")
    for other in (pt.matrix("z"), case.objective.targets[0] * case.objective.params[0][0, 0]):
        with pytest.raises(
            ValueError,
            match="hidden: expected states that are computed only from the objective's inputs",
        ):
            symng.StructuralDamping(hidden=other)(case.objective)


def test_refuses_likelihoods_of_another_number():
    case = recurrent("tanh")
    with pytest.raises(
        ValueError, match="likelihood: expected one for each of 1 hidden states, got 2"
    ):
        symng.StructuralDamping(likelihood=[None, None])(case.objective)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(metric="fisher"), TypeError, "metric: expected a metric"),
        (dict(coefficient=-1.0), ValueError, "coefficient: expected .* at least 0"),
        (dict(relative=1), TypeError, "relative: expected True or False"),
        (dict(hidden=[]), TypeError, "hidden: expected"),
        (dict(hidden="h"), TypeError, "hidden: expected"),
        (dict(hidden=pt.scalar("h")), TypeError, "hidden: expected .* axis of examples"),
        (
            dict(hidden=pt.lmatrix("h")),
            TypeError,
            "hidden: expected a symbolic floating-point tensor",
        ),
        (dict(likelihood="tanh"), TypeError, "likelihood: expected an instance"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        symng.StructuralDamping(**arguments)
