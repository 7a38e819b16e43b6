"""Derivatives that PyTensor lacks are named; those that it gets wrong are right."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.builders import OpFromGraph
from pytensor.gradient import DisconnectedInputError
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.scan.utils import until

import symng
from symng.backends import UNOPTIMIZED, compile_function
from symng.graphs.derivatives import grad, pushforward


class Alone(Op):
    """The identity, without a derivative."""

    def make_node(self, x):
        return Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = inputs[0].copy()

    def __str__(self):
        return "Alone"


def model(function):
    """Return an objective of squares of ``function`` of a hidden layer."""
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.linspace(-0.5, 0.7, 12).reshape(3, 4), name="w")
    y = function(1.5 + pt.tanh(x @ w))
    return symng.Objective(pt.sqr(y - t).mean() / 2, y, [w], inputs=[x], targets=[t])


# Operations without a second derivative: what users call, and the op that the message names.
SECOND = {
    "prod": (lambda h: pt.prod(h, axis=1), "Prod"),
    "in a scan": (
        lambda h: pytensor.scan(lambda row: row.prod(), sequences=[h], return_updates=False),
        "Prod",
    ),
    "in an OpFromGraph": (lambda h: OpFromGraph([m := pt.matrix()], [m.prod(axis=1)])(h), "Prod"),
}


@pytest.mark.parametrize("function, name", SECOND.values(), ids=SECOND)
@pytest.mark.parametrize(
    "optimizer",
    [symng.NaturalGradient(), symng.NaturalGradient(metric=symng.Hessian()), symng.HessianFree()],
    ids=["Fisher", "Hessian", "GaussNewton"],
)
def test_an_op_without_a_second_derivative_is_named(function, name, optimizer):
    objective = model(function)
    with pytest.raises(
        NotImplementedError, match=rf"^loss, output: .* second derivative, .* got {name}.*no_zeros"
    ):
        symng.compile_step(objective, optimizer, mode="FAST_COMPILE")
    step = symng.compile_step(objective, symng.SGD(0.01), mode="FAST_COMPILE")  # the way out
    assert step((np.ones((2, 3)), np.zeros(2))).accepted


def test_an_op_in_a_scan_matters_only_where_the_parameters_reach_it():
    x, w = pt.matrix("x"), pytensor.shared(np.ones(2), name="w")
    y = pytensor.scan(
        lambda row, w: (row * w).sum() * row.prod(),
        sequences=[x],
        non_sequences=[w],
        return_updates=False,
    )
    objective = symng.Objective(pt.sqr(y).mean() / 2, y, [w], inputs=[x])
    X = np.array([[1.0, 2.0], [3.0, -1.0]])
    J = X * X.prod(axis=1, keepdims=True)
    np.testing.assert_allclose(symng.Fisher()(objective).materialise().eval({x: X}), J.T @ J / 2)


def test_the_curvature_of_a_loss_is_named_too():
    x, t, w = pt.matrix("x"), pt.matrix("t"), pytensor.shared(np.ones((2, 2)), name="w")
    objective = symng.Objective(
        pt.sqr(x @ w - t).prod(axis=1).mean(), x @ w, [w], inputs=[x], targets=[t]
    )
    with pytest.raises(NotImplementedError, match="got Prod"):
        symng.GaussNewton()(objective).materialise()


@pytest.mark.parametrize("function", [lambda h: Alone()(h).sum(axis=1), lambda h: pt.unique(h)])
def test_an_op_without_a_derivative_is_named(function):
    name = "Alone|Unique"
    with pytest.raises(
        NotImplementedError,
        match=f"operations with a first derivative, got ({name}).*disconnected_grad",
    ):
        symng.compile_step(model(function), symng.SGD(), mode="FAST_COMPILE")


def test_the_way_out_of_a_product_is_one():
    X, T = np.linspace(-1, 1, 6).reshape(2, 3), np.zeros(2)
    v = np.linspace(-1, 1, 12)
    ways = [
        lambda h: 1 + pt.prod(h, axis=1, no_zeros_in_input=True),
        lambda h: 1 + pt.cumprod(h, axis=1)[:, -1],
        lambda h: 1 + pt.exp(pt.log(h).sum(axis=1)),
        lambda h: 1 + h[:, 0] * h[:, 1] * h[:, 2] * h[:, 3],
    ]
    products = [
        [
            m(model(way)).to_scipy(*batch, mode="FAST_COMPILE") @ v
            for m, batch in ((symng.Fisher(), (X,)), (symng.Hessian(), (X, T)))
        ]
        for way in ways
    ]
    for found in products[:-1]:
        np.testing.assert_allclose(found, products[-1], rtol=1e-9)


def test_what_has_no_slope_does_not_matter():
    y = model(lambda h: (h[:, pt.argmax(h[0])] + pt.round(h[:, 0])) * pt.prod(pt.shape(h))).outputs
    assert y  # integers and steps have zero slopes, which is right
    symng.compile_step(
        model(lambda h: h[:, pt.argmax(h[0])] * pt.prod(h.shape)), symng.NaturalGradient()
    )


def test_other_errors_stay_what_they_are():
    x = pt.vector("x")
    with pytest.raises(TypeError, match="[Cc]ost must be a scalar"):
        grad(x, [x])
    with pytest.raises(DisconnectedInputError):
        grad(x.sum(), [pt.vector()])


# Scans that stop early: pytensor#2217. Sequence, weight, initial state.

VALUES = np.array([0.4, -0.7, 0.2, 0.9, -0.3, 0.6]), np.array(0.7), np.array(0.3)


def loops(limit):
    """Return outputs of scans that stop after three steps with a limit of 2.5, never with 100."""

    def run(step, s, w, start):
        return pytensor.scan(
            step,
            sequences=[pt.arange(6), s],
            outputs_info=start,
            non_sequences=[w],
            return_updates=False,
        )

    def two_outputs(i, x, h, w):
        h = pt.tanh(w * h + x)
        return (h, h * x), until(i > limit - 1)

    def without_sequence(h, i, w):
        return (pt.tanh(w * h), i + 1, h * h * w), until(i > limit - 1)

    return {
        "state": lambda s, w, h: run(
            lambda i, x, h, w: (pt.tanh(w * h + x), until(i > limit - 1)), s, w, [h]
        ),
        "fixed sequence": lambda s, w, h: run(
            lambda i, x, h, w: (pt.tanh(w * h) * x, until(i > limit - 1)),
            pt.constant(VALUES[0]),
            w,
            [h],
        ),
        "two rows": lambda s, w, h: run(
            lambda i, x, g, h, w: (pt.tanh(w * h + x * g), until(i > limit - 1)),
            s,
            w,
            [dict(initial=pt.stack([h, 2 * h]), taps=[-2, -1])],
        ),
        "more outputs": lambda s, w, h: run(two_outputs, s * w, w, [h, None])[1],
        "no sequence": lambda s, w, h: pytensor.scan(
            without_sequence,
            outputs_info=[h, pt.constant(0.0), None],
            non_sequences=[w],
            n_steps=6,
            return_updates=False,
        )[2],
        "no state": lambda s, w, h: run(
            lambda i, x, w: (pt.tanh(w * x), until(i > limit - 1)), s, w, None
        ),
    }


def at(variables, values, outputs):
    """Return ``outputs`` at values of the variables."""
    return compile_function(variables, outputs, mode=UNOPTIMIZED, on_unused_input="ignore")(*values)


def slopes_of(f, tangents):
    """Return the derivative of ``f`` at VALUES along ``tangents``, by differences."""
    up, down = ([v + e * u for v, u in zip(VALUES, tangents, strict=True)] for e in (1e-6, -1e-6))
    return (f(*up) - f(*down)) / 2e-6


@pytest.mark.parametrize(
    "name, limit", [*((name, 2.5) for name in loops(0)), ("state", 100), ("more outputs", 100)]
)
def test_derivatives_of_a_scan_that_stops_early(name, limit):
    variables = [pt.vector("s"), pt.scalar("w"), pt.scalar("h")]
    y = loops(limit)[name](*variables)
    weights = np.array([0.5, -1.0, 2.0, 0.3, 0.7, -0.2])
    loss = (
        (pt.sqr(y) * weights[: limit < 6 and 3 or None]).sum() + y[-1]
        if name != "no sequence"
        else pt.sqr(y).sum()
    )
    f = compile_function(variables, loss, mode=UNOPTIMIZED, on_unused_input="ignore")
    slopes = at(variables, VALUES, grad(loss, variables, disconnected_inputs="ignore"))
    for i, slope in enumerate(slopes):
        for j in np.ndindex(slope.shape):
            unit = [np.zeros(v.shape) for v in VALUES]
            unit[i][j] = 1.0
            assert slope[j] == pytest.approx(slopes_of(f, unit), abs=1e-7)

    tangents = [np.linspace(1, 2, 6), np.array(0.5), np.array(-1.0)]
    pushed = at(variables, VALUES, pushforward([y], variables, tangents, "ignore"))[0]
    f = compile_function(variables, y, mode=UNOPTIMIZED, on_unused_input="ignore")
    np.testing.assert_allclose(pushed, slopes_of(f, tangents), atol=1e-7)
    assert len(pushed) == (6 if limit == 100 else 3)


def test_second_derivatives_of_a_scan_that_stops_early():
    variables = [pt.vector("s"), pt.scalar("w"), pt.scalar("h")]
    loss = pt.sqr(loops(2.5)["more outputs"](*variables)).sum()
    tangents = [np.linspace(1, 2, 6), np.array(0.5), np.array(-1.0)]
    along = sum((g * u).sum() for g, u in zip(grad(loss, variables), tangents, strict=True))
    f = compile_function(variables, along, mode=UNOPTIMIZED)
    curved = at(variables, VALUES, grad(along, variables, of=loss))
    other = [np.linspace(-1, 1, 6), np.array(2.0), np.array(1.0)]
    assert sum((c * u).sum() for c, u in zip(curved, other, strict=True)) == pytest.approx(
        slopes_of(f, other), abs=1e-6
    )


def test_training_through_a_scan_that_stops_early():
    x, t = pt.matrix("x"), pt.vector("t")
    s = pytensor.shared(VALUES[0], name="s")
    y = x[:, 0] * loops(2.5)["state"](s, VALUES[1], pt.constant(0.3))[-1]
    objective = symng.Objective(pt.sqr(y - t).mean() / 2, y, [s], inputs=[x], targets=[t])
    step = symng.compile_step(objective, symng.NaturalGradient(damping=0.1), mode="FAST_COMPILE")
    losses = [step((np.ones((2, 1)), np.full(2, 0.5))).loss for _ in range(8)]
    assert losses[-1] < 1e-3 * losses[0] and np.array_equal(s.get_value()[4:], VALUES[0][4:])
