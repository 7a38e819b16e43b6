"""Arguments that do not exist, and those that are given by position."""

import inspect
import pickle

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

import symng


@pytest.fixture
def objective():
    x, w = pt.matrix("x"), pytensor.shared(np.ones(2), name="w")
    return symng.Objective(pt.sqr(x @ w).mean(), x @ w, [w], inputs=[x])


@pytest.mark.parametrize("kind", [symng.SGD, symng.Adam])
def test_step_size_by_position(kind):
    optimizer = kind(0.5)
    assert (
        optimizer == kind(step_size=0.5) == eval(repr(optimizer), vars(symng))
        and optimizer != kind()
    )
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer
    with pytest.raises(
        TypeError,
        match=rf"^{kind.__name__}: expected settings by name, got 0.9 \(float\) without one",
    ):
        kind(0.5, 0.9)
    with pytest.raises(TypeError, match="step_size"):
        kind(0.5, step_size=0.5)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: symng.SGD(lr=0.1),
            r"^lr: expected an argument of SGD, got one .* it step_size: give step_size=0.1\.",
        ),
        (lambda: symng.Adam(learning_rate=1e-3), r"give step_size=0.001\."),
        (lambda: symng.NaturalGradient(lr=lambda k: 1 / k), r"calls it step_size\.$"),
        (
            lambda: symng.NaturalGradient(maxiter=9),
            r"setting of the solver: solver=symng.CG\(maxiter=9\)",
        ),
        (
            lambda: symng.NaturalGradient(tol=0.1),
            r"setting of the solver: solver=symng.CG\(rtol=0.1\)",
        ),
        (lambda: symng.NaturalGradient(lambda_=0.1), r"calls it damping: give damping=0.1"),
        (
            lambda: symng.NaturalGradient(0.1),
            r"^NaturalGradient: expected settings .*NaturalGradient\(step_size=\.\.\.\)",
        ),
        (lambda: symng.CG(max_iter=9), r"calls it maxiter: give maxiter=9"),
        (lambda: symng.CG(tol=0.1), r"calls it rtol"),
        (lambda: symng.LevenbergMarquardt(intial=3.0), r"Did you mean initial\?"),
        (lambda: symng.Adam(betas=(0.9, 0.99)), r"Give beta1 and beta2\."),
        (lambda: symng.SGD(momentun=0.9), r"Did you mean momentum\?"),
        (lambda: symng.SGD(weight_decay=1e-4), r"Add it to the loss"),
        (lambda: symng.Fisher(qqq=1), r"Known arguments: form\."),
        (
            lambda: symng.GaussNewton(centered=True),
            r"^centered: expected an argument of GaussNewton",
        ),
    ],
)
def test_settings_that_do_not_exist(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            dict(epochs=10),
            r"^epochs: expected an argument of minimize.*Give max_steps\. An epoch is N // "
            r"batch_size steps",
        ),
        (dict(n_epochs=10), "Give max_steps. An epoch"),
        (dict(num_steps=10), r"calls it max_steps: give max_steps=10\."),
        (dict(maxiter=10), r"give max_steps=10\."),
        (
            dict(lr=0.1),
            r"setting of the optimizer: optimizer=symng.NaturalGradient\(step_size=0.1\)",
        ),
        (dict(damping=0.1), r"setting of the optimizer: .*\(damping=0.1\)"),
        (dict(verbose=False), r"symng calls it progress\.$"),
        (dict(batchsize=10), r"give batch_size=10\."),
        (dict(max_second=10), r"Did you mean max_seconds\?"),
    ],
)
def test_arguments_of_minimize_that_do_not_exist(objective, arguments, message):
    with pytest.raises(TypeError, match=message):
        symng.minimize(objective, symng.SGD(), (np.eye(2),), **arguments)
    with pytest.raises(TypeError, match="backend: .* calls it mode"):
        symng.compile_step(objective, symng.SGD(), backend="JAX")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"parameters": []},
            r"^parameters: expected an argument of Objective, got .* symng calls it params\.$",
        ),
        ({"outputs": 0}, "calls it output"),
        ({"labels": 0}, "calls it targets"),
        (
            {"lr": 0.1},
            r"^lr: .* Known arguments: loss, output, params, inputs, targets,",
        ),
        ({"example_axes": 1}, r"Did you mean example_axis\?"),
    ],
)
def test_arguments_of_an_objective_that_do_not_exist(arguments, message):
    with pytest.raises(TypeError, match=message):
        symng.Objective(pt.scalar(), **arguments)


def test_signatures_stay_readable():
    assert list(inspect.signature(symng.SGD).parameters) == ["step_size", "momentum", "nesterov"]
    assert list(inspect.signature(symng.Objective).parameters)[:3] == ["loss", "output", "params"]
    assert "max_steps" in inspect.signature(symng.minimize).parameters
    assert symng.minimize.__doc__.startswith("Train a model")


def test_a_batch_is_as_many_steps_as_the_message_says(objective):
    seen = []
    data = (np.arange(14.0).reshape(7, 2),)
    symng.minimize(
        objective,
        symng.SGD(1e-9),
        data,
        batch_size=3,
        max_steps=7 // 3,
        progress=False,
        callback=lambda row: seen.append(row["loss"]),
    )
    assert len(set(seen)) == 2  # an epoch has two batches, of other examples
