"""What users trip over, each end to end on a model of two parameters."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

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


def test_wrong_shapes_are_told_before_compiling():
    objective, _, (X, T) = logistic()
    with pytest.raises(
        ValueError, match=r"^data: the model cannot be evaluated on arrays of shapes \(8, 1\), \(8, 1\)"
    ):
        symng.minimize(objective, symng.NaturalGradient(), data=(X[:, :1], T), progress=False)
    step = symng.compile_step(objective, symng.NaturalGradient())
    with pytest.raises(ValueError, match=r"^gradient_batch: the model cannot be evaluated on arrays of shapes"):
        step((X[:, :1], T))
    assert not step._functions


def test_parameter_that_only_the_output_uses():
    x, t = pt.matrix("x"), pt.vector("t")
    w, v = (pytensor.shared(np.ones(2), name=name) for name in "wv")
    loss = pt.sqr(x @ w - t).mean()
    objective = symng.Objective(loss, output=x @ w + x @ v, params=[w, v], inputs=[x], targets=[t])
    assert symng.compile_step(objective, symng.SGD(step_size=0.1))((np.eye(2), np.zeros(2))).accepted
    assert np.array_equal(v.get_value(), np.ones(2)) and (w.get_value() < 1).all()


def test_bad_preconditioner_is_rejected_and_ends_the_run():
    objective, w, data = logistic()
    before = w.get_value()
    optimizer = symng.NaturalGradient(damping=1.0, preconditioner=lambda operator, damping: lambda v: -v)
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
            objective, symng.NaturalGradient(), data=data, evaluate=evaluate, evaluate_every=3, progress=False
        )
    assert len(caught.value.history) == 3 and "3 steps were taken" in caught.value.__notes__[0]


def test_resumed_run_takes_the_new_fixed_damping(tmp_path):
    objective, _, data = logistic()
    for damping, steps in ((5.0, 2), (0.5, 4)):
        result = symng.minimize(
            objective, symng.NaturalGradient(damping=damping), data=data, max_steps=steps, progress=False,
            checkpoint=tmp_path / "run.npz",
        )  # fmt: skip
    assert result.history["damping"].tolist() == [5.0, 5.0, 0.5, 0.5]


def test_check_without_a_preactivation_gives_no_verdict():
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(np.ones((2, 1)), name="w")
    y = 1 / (1 + pt.exp(-(x @ w)))
    loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1).mean()
    objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t], likelihood=symng.Bernoulli())
    match = objective.check(np.eye(2), np.ones((2, 1)))
    assert not match and match.message.startswith("No verdict: no pre-activation")


def test_check_tells_of_a_loss_that_mixes_examples():
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.ones((2, 1)), name="w", shape=(2, 1))
    y = x @ w
    objective = symng.Objective(pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t])
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
