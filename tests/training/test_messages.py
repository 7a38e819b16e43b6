"""What users trip over, each end to end on a model of two parameters."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.small_steps import Unit

import symng


def logistic(loss_of=None, **changes):
    """Return a logistic model of float64 with its data; ``loss_of`` makes the loss from r and t."""
    rng = np.random.default_rng(0)
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(np.array([[0.3], [-0.2]]), name="w")
    r = x @ w
    loss = (pt.softplus(r) - t * r if loss_of is None else loss_of(r, t)).sum(axis=1).mean()
    arguments = dict(output=pt.sigmoid(r), params=[w], inputs=[x], targets=[t]) | changes
    X = rng.standard_normal((8, 2))
    return symng.Objective(loss, **arguments), w, (X, (X[:, :1] > 0).astype("float64"))


def test_wrong_shapes_are_refused_before_compiling():
    objective, _, (X, T) = logistic()
    with pytest.raises(
        ValueError,
        match=r"^data: the model cannot be evaluated on arrays of shapes \(8, 1\), \(8, 1\)",
    ):
        symng.minimize(objective, symng.NaturalGradient(), data=(X[:, :1], T), progress=False)
    step = symng.compile_step(objective, symng.NaturalGradient())
    with pytest.raises(
        ValueError, match=r"^gradient_batch: the model cannot be evaluated on arrays of shapes"
    ):
        step((X[:, :1], T))
    assert not step.functions


@pytest.fixture
def no_program(monkeypatch):
    """Fail when the functions of a step are compiled."""
    monkeypatch.setattr(
        "symng.training.program.compile_function", lambda *a, **k: pytest.fail("compiled")
    )


@pytest.mark.usefixtures("no_program")
def test_wrong_shapes_name_their_batch_before_compiling():
    objective, _, (X, T) = logistic()
    optimizer = symng.NaturalGradient(solver=Unit(), step_size=symng.BacktrackingLineSearch())
    told = "the model cannot be evaluated on arrays of shapes"
    with pytest.raises(ValueError, match=rf"^metric_data: {told} \(4, 3\): "):
        symng.minimize(
            objective,
            optimizer,
            data=(X, T),
            metric_batch="own",
            metric_data=(np.ones((4, 3)),),
            progress=False,
        )
    step = symng.compile_step(objective, optimizer)
    with pytest.raises(ValueError, match=rf"^metric_batch: {told} \(4, 3\): "):
        step((X, T), metric_batch=(np.ones((4, 3)),))
    with pytest.raises(ValueError, match=rf"^search_batch: {told} \(8, 1\), \(8, 1\): "):
        step((X, T), search_batch=(X[:, :1], T))
    targets_needed = symng.compile_step(
        objective, symng.NaturalGradient(metric=symng.EmpiricalFisher(), solver=Unit())
    )
    with pytest.raises(ValueError, match=rf"^metric_batch: {told} \(8, 1\), \(8, 1\): "):
        targets_needed((X, T), metric_batch=(X[:, :1], T))


def test_wrong_shapes_name_their_batch_at_a_later_step():
    objective, w, (X, T) = logistic()
    rule = symng.LevenbergMarquardt(ratio="quadratic")  # which multiplies with the metric
    step = symng.compile_step(objective, symng.NaturalGradient(solver=Unit(), damping=rule))
    assert step((X, T), metric_batch=(X,)).accepted
    before = w.get_value()
    with pytest.raises(
        ValueError,
        match=r"^metric_batch: the model cannot be evaluated on arrays of shapes \(8, 1\)",
    ):
        step((X, T), metric_batch=(X[:, :1],))
    with pytest.raises(
        ValueError,
        match=r"^gradient_batch: the model cannot be evaluated on arrays of shapes \(8, 1\)",
    ):
        step((X[:, :1], T), metric_batch=(X,))
    assert np.array_equal(w.get_value(), before) and step((X, T), metric_batch=(X,)).accepted


def test_check_and_to_scipy_refuse_wrong_shapes():
    objective, _, (X, T) = logistic()
    for call in (
        lambda: objective.check(X[:, :1], T),
        lambda: symng.Fisher()(objective).to_scipy(X[:, :1]),
    ):
        with pytest.raises(
            ValueError, match=r"^batch: the model cannot be evaluated on arrays of shapes \(8, 1\)"
        ):
            call()


@pytest.mark.parametrize(
    "columns, target, message",
    [
        (
            (2, 1),
            pt.vector("t"),
            r"An output of shape \(N, 1\), a target of shape \(N,\)\? Take y\[:, 0\], or give t an",
        ),
        (
            (2,),
            pt.matrix("t"),
            r"An output of shape \(N,\), a target of shape \(N, 1\)\? Take t\[:, 0\] in the loss",
        ),
        ((2, 2), pt.vector("t"), r"against the shapes of the parameters\.$"),
    ],
)
def test_column_against_vector_gets_a_hint(columns, target, message):
    x, w = pt.matrix("x"), pytensor.shared(np.ones(columns), name="w")
    objective = symng.Objective(pt.sqr(x @ w - target).mean(), x @ w, [w], [x], [target])
    X, T = np.ones((4, 2)), np.ones(4 if target.ndim == 1 else (4, 1))
    for call in (
        lambda: objective.check(X, T),
        lambda: symng.compile_step(objective, symng.SGD())((X, T)),
        lambda: symng.minimize(objective, symng.SGD(), data=(X, T), progress=False),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_example_losses_of_another_length():
    def given(losses_of):
        x, t, w = pt.matrix("x"), pt.matrix("t"), pytensor.shared(np.ones((2, 1)), name="w")
        e = pt.sqr(x @ w - t).sum(axis=1)
        return symng.Objective(e.mean(), x @ w, [w], [x], [t], example_losses=losses_of(e, x, t, w))

    for losses_of in (
        lambda e, x, t, w: pt.sqr(x @ w - t).sum(axis=0),
        lambda e, x, t, w: pt.sqr(w).sum(axis=1),
    ):
        with pytest.raises(
            ValueError,
            match="^example_losses: expected one loss per example, got .* which does not run",
        ):
            given(losses_of)
    with pytest.raises(
        ValueError, match="^example_losses: expected a vector that depends on params"
    ):
        given(lambda e, x, t, w: pt.sqr(t).sum(axis=1))
    objective = given(lambda e, x, t, w: pt.concatenate([e, e]))
    optimizer = symng.NaturalGradient(metric=symng.EmpiricalFisher(), solver=Unit())
    X, T = np.ones((4, 2)), np.ones((4, 1))
    with pytest.raises(
        ValueError,
        match="^example_losses: expected one loss for each of the 4 examples of data, got 8",
    ):
        symng.minimize(objective, optimizer, data=(X, T), progress=False)
    with pytest.raises(ValueError, match="^example_losses: expected .* 4 examples of batch, got 8"):
        objective.check(X, T)


def test_masked_arrays_are_not_taken_without_their_mask():
    objective, _, (X, T) = logistic()
    with pytest.raises(
        ValueError,
        match="^data, x: expected an array without masked values, got .* with 2 values masked",
    ):
        objective.check_batch("data", (np.ma.masked_greater(X, np.sort(X, axis=None)[-3]), T))
    objective.check_batch("data", (np.ma.masked_greater(X, np.inf), T))  # nothing is masked


def test_forgotten_example_axis_is_guessed():
    x, t, w = pt.tensor3("x"), pt.tensor3("t"), pytensor.shared(np.ones((2, 2)), name="w")
    r = x @ w
    loss = (pt.softplus(r) - t * r).sum(axis=(0, 2)).mean()  # time-major
    batch = np.random.default_rng(0).standard_normal((3, 6, 2)), np.ones((3, 6, 2))
    forgotten = symng.Objective(loss, pt.sigmoid(r), [w], [x], [t])
    match = forgotten.check(*batch)
    assert match and match.factor == pytest.approx(0.5)
    assert (
        "lengths along axes 0 and 1 (3 and 6): if examples run along axis 1, give example_axis=1"
        in match.message
    )
    given = symng.Objective(loss, pt.sigmoid(r), [w], [x], [t], example_axis=1)
    assert (
        given.check(*batch).reduction == "mean"
        and "example_axis" not in given.check(*batch).message
    )
    assert "x (examples along axis 1)" in repr(given) and "t (examples along axis 1)" in repr(given)
    assert "examples along" not in repr(forgotten)


def test_parameter_that_only_the_output_uses():
    x, t = pt.matrix("x"), pt.vector("t")
    w, v = (pytensor.shared(np.ones(2), name=name) for name in "wv")
    loss = pt.sqr(x @ w - t).mean()
    objective = symng.Objective(loss, output=x @ w + x @ v, params=[w, v], inputs=[x], targets=[t])
    assert symng.compile_step(objective, symng.SGD(step_size=0.1))(
        (np.eye(2), np.zeros(2))
    ).accepted
    assert np.array_equal(v.get_value(), np.ones(2)) and (w.get_value() < 1).all()


def test_bad_preconditioner_is_rejected_and_ends_the_run():
    objective, w, data = logistic()
    before = w.get_value()
    optimizer = symng.NaturalGradient(
        damping=1.0, preconditioner=lambda operator, damping: lambda v: -v
    )
    with pytest.warns(RuntimeWarning, match="Step after step failed and changed nothing"):
        result = symng.minimize(objective, optimizer, data=data, max_steps=50, progress=False)
    assert result.stopped == "diverged" and result.steps < 50
    assert symng.Status(result.history.last["solver_status"]) == symng.Status.BAD_PRECONDITIONER
    assert not result.history["accepted"].any() and np.array_equal(w.get_value(), before)


def test_error_in_evaluate_keeps_the_history():
    objective, _, data = logistic()

    def evaluate():
        raise KeyError("typo")

    with pytest.raises(KeyError) as caught:
        symng.minimize(
            objective,
            symng.NaturalGradient(solver=Unit()),
            data=data,
            evaluate=evaluate,
            evaluate_every=3,
            progress=False,
        )
    assert len(caught.value.history) == 3 and "3 steps were taken" in caught.value.__notes__[0]


def test_resumed_run_takes_the_new_fixed_damping(tmp_path):
    objective, _, data = logistic()

    def run(damping, steps):
        optimizer = symng.NaturalGradient(solver=Unit(), damping=damping)
        return symng.minimize(
            objective,
            optimizer,
            data=data,
            max_steps=steps,
            progress=False,
            checkpoint=tmp_path / "run.npz",
        )

    run(5.0, 2)
    with pytest.warns(
        UserWarning,
        match=r"got damping FixedDamping\(value=0.5\) where the file has FixedDamping\(value=5",
    ):
        result = run(0.5, 4)
    assert result.history["damping"].tolist() == [5.0, 5.0, 0.5, 0.5]


def test_check_without_a_preactivation_gives_no_verdict():
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(np.ones((2, 1)), name="w")
    y = 0.5 + pt.arctan(x @ w) / np.pi  # no sigmoid
    loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1).mean()
    objective = symng.Objective(
        loss, output=y, params=[w], inputs=[x], targets=[t], likelihood=symng.Bernoulli()
    )
    match = objective.check(np.eye(2), np.ones((2, 1)))
    assert not match and match.message.startswith("No verdict: no pre-activation")


def test_check_reports_a_loss_that_mixes_examples():
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.ones((2, 1)), name="w", shape=(2, 1))
    y = x @ w
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    )
    match = objective.check(np.random.default_rng(0).standard_normal((4, 2)), np.zeros(4))
    assert "it may mix examples" in match.message


def test_random_draws_are_warned_of():
    rng = pytensor.shared(np.random.default_rng(0), name="rng")
    mask = pt.random.bernoulli(0.5, size=(2,), rng=rng)
    x = pt.matrix("x")
    w = pytensor.shared(np.ones(2), name="w")
    y = (x * mask) @ w
    with pytest.warns(UserWarning, match="draws random numbers"):
        symng.Objective(pt.sqr(y).mean(), output=y, params=[w], inputs=[x])


@pytest.mark.parametrize(
    "changes, message",
    [
        (lambda x, t, w: dict(params=w), r"^params: .*Write params=\[\.\.\.\]"),
        (lambda x, t, w: dict(params={"w": w}), r"^params: .*Give list\(params.values\(\)\)"),
        (lambda x, t, w: dict(params=(p for p in [w])), r"^params: .*Give list\(params\)"),
        (
            lambda x, t, w: dict(params=[w.get_value()]),
            r"^params: .*got an array .*pytensor.shared",
        ),
        (
            lambda x, t, w: dict(inputs=[np.ones((8, 2))]),
            "^inputs: .*got an array .*as the data of minimize",
        ),
        (
            lambda x, t, w: dict(loss=0.3),
            "^loss: .*got 0.3 .*with PyTensor from output and targets",
        ),
        (
            lambda x, t, w: dict(loss=pt.sqr(x @ w - t).sum(axis=1)),
            "^loss: .*Take its mean over examples",
        ),
    ],
)
def test_parts_of_an_objective_of_the_wrong_kind(changes, message):
    x, t, w = pt.matrix("x"), pt.matrix("t"), pytensor.shared(np.ones((2, 1)), name="w")
    parts = dict(loss=pt.sqr(x @ w - t).mean(), output=x @ w, params=[w], inputs=[x], targets=[t])
    with pytest.raises((TypeError, ValueError), match=message):
        symng.Objective(**parts | changes(x, t, w))


def test_transposed_data_are_recognized():
    objective, _, (X, T) = logistic()
    with pytest.raises(
        ValueError,
        match=r"^data: .* x has 2 \(axis 0\), t has 8 \(axis 0\)\. Is x transposed\? Give",
    ):
        objective.check_batch("data", (X.T, T))
    with pytest.raises(
        ValueError, match=r"t has 7 \(axis 0\)\. Where examples run along another axis"
    ):
        objective.check_batch("data", (X, T[:7]))
