"""A compiled step.

The contract as written, compiling, and what is refused before anything is compiled.
"""

from __future__ import annotations

import time
from dataclasses import asdict

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.small_steps import Unit, line

import symng
from symng import vectors


def classifier(labels: bool = False):
    """Return a softmax regression and a batch.

    With class numbers instead of one-hot rows if told so.
    """
    rng = np.random.default_rng(0)
    x, t = pt.matrix("x"), pt.ivector("t") if labels else pt.matrix("t")
    w = pytensor.shared(rng.standard_normal((3, 4)), name="w")
    y = pt.special.softmax(x @ w, axis=-1)
    terms = -pt.log(y)[pt.arange(t.shape[0]), t] if labels else -(t * pt.log(y)).sum(axis=1)
    objective = symng.Objective(terms.mean(), output=y, params=[w], inputs=[x], targets=[t])
    numbers = rng.integers(4, size=10).astype("int32")
    return objective, (rng.standard_normal((10, 3)), numbers if labels else np.eye(4)[numbers])


@pytest.fixture(scope="module")
def step():
    """A step that no test compiles."""
    objective, _ = classifier()
    made = symng.compile_step(objective, symng.NaturalGradient(solver=Unit()))
    yield made
    assert not made.functions and made.compile_seconds == 0


X, T = classifier()[1]


def changed(array, index, value):
    """Return a copy of an array with one entry changed."""
    copy = np.array(array)
    copy[index] = value
    return copy


def test_contract_as_written():
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(np.zeros((3, 4)), name="w")
    y = pt.special.softmax(x @ w, axis=-1)
    loss = -(t * pt.log(y)).sum(axis=1).mean()
    objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    solver = symng.CG(rtol=1e-4, maxiter=50)
    optimizer = symng.NaturalGradient(
        metric=symng.Fisher(),
        solver=solver,
        damping=symng.LevenbergMarquardt(initial=3.0),
        step_size=1.0,
    )
    step = symng.compile_step(objective, optimizer, mode=None)
    info = step((X, T), metric_batch=None, search_batch=None)
    assert info.accepted and info.loss == pytest.approx(np.log(4)) and info.new_loss < info.loss
    assert "NaturalGradient" in repr(step) and "python" in repr(step)
    result = symng.minimize(
        objective,
        optimizer,
        data=(X, T),
        batch_size=5,
        metric_batch="same",
        metric_data=None,
        metric_batch_size=None,
        max_steps=3,
        max_seconds=None,
        target_loss=None,
        evaluate=None,
        seed=0,
        progress=False,
        callback=None,
        checkpoint=None,
    )
    assert len(result.history.to_dict()["loss"]) == 3


def test_info():
    info = symng.StepInfo(
        loss=1.0, solver_status=int(symng.Status.MAX_ITERATIONS), solver_iterations=3
    )
    assert info.status is symng.Status.MAX_ITERATIONS and "maxiter" in info.status.message
    assert symng.StepInfo().status is None and symng.StepInfo().to_dict()["solver_status"] == -1


@pytest.mark.parametrize(
    "batch, message",
    [
        (X, "gradient_batch: expected a tuple of 2 arrays .*A one-element tuple needs a comma"),
        ((X,), "gradient_batch: expected 2 arrays \\(x, t\\), got 1"),
        ((X, T, T), "gradient_batch: expected 2 arrays .* got 3"),
        ((X, T[:5]), "gradient_batch: expected the same number of examples .* x has 10 .* t has 5"),
        ((X[:0], T[:0]), "gradient_batch: expected at least one example, got 0"),
        ((X[0], T), "gradient_batch, x: expected an array of 2 axes"),
        ((X.astype(int), T), "gradient_batch, x: expected dtype float64, got .*astype"),
        ((X.astype(complex), T), "gradient_batch, x: expected dtype float64"),
        ((X, T.argmax(1)), "gradient_batch, t: expected"),
        (
            (changed(X, (7, 1), np.nan), T),
            "gradient_batch, x: expected finite values, got NaN, first in example 7",
        ),
        (
            (changed(X, (4, 0), -np.inf), T),
            "gradient_batch, x: expected finite values, got Inf, first in example 4",
        ),
        (
            (X, changed(T, (2, 0), np.nan)),
            "gradient_batch, t: expected finite values, got NaN, first in example 2",
        ),
        ((X, T * 0.5), "gradient_batch, t: expected one-hot rows"),
        ((X, changed(T, (3, 1), -1.0)), "gradient_batch, t: expected one-hot rows .* at \\(3,\\)"),
        (("a", "b"), "gradient_batch, x: expected dtype float64"),
        (None, "gradient_batch: expected a tuple"),
    ],
)
def test_bad_gradient_batch(step, batch, message):
    before = step.objective.params[0].get_value()
    with pytest.raises((TypeError, ValueError), match=message):
        step(batch)
    with pytest.raises((TypeError, ValueError), match=message):
        step.compile(batch)
    assert (step.objective.params[0].get_value() == before).all()


@pytest.mark.parametrize(
    "batch, message",
    [
        (
            (X, T),
            "metric_batch: expected 1 array \\(x\\), got 2. This metric needs no targets: give "
            "inputs alone",
        ),
        (X, "metric_batch: expected a tuple of 1 array"),
        ((), "metric_batch: expected 1 array \\(x\\), got 0"),
        ((X[:0],), "metric_batch: expected at least one example"),
        (
            (changed(X, (9, 1), np.nan),),
            "metric_batch, x: expected finite values, got NaN, first in example 9",
        ),
        ((X.astype("float32")[0],), "metric_batch, x: expected an array of 2 axes"),
    ],
)
def test_bad_metric_batch(step, batch, message):
    with pytest.raises((TypeError, ValueError), match=message):
        step((X, T), metric_batch=batch)


def test_batches_that_nothing_uses(step):
    with pytest.raises(
        ValueError, match="^search_batch: expected none without a line search, got one"
    ):
        step((X, T), search_batch=(X, T))
    sgd = symng.compile_step(classifier()[0], symng.SGD())
    with pytest.raises(
        ValueError, match="^metric_batch: expected none: the optimizer has no metric, got one"
    ):
        sgd((X, T), metric_batch=(X,))
    with pytest.raises(ValueError, match="^search_batch: expected none for SGD"):
        sgd((X, T), search_batch=(X, T))
    assert not sgd.functions


def test_bad_search_batch():
    optimizer = symng.NaturalGradient(solver=Unit(), step_size=symng.BacktrackingLineSearch())
    step = symng.compile_step(classifier()[0], optimizer)
    with pytest.raises(ValueError, match="^search_batch: expected 2 arrays"):
        step((X, T), search_batch=(X,))
    with pytest.raises(ValueError, match="^search_batch, t: expected one-hot"):
        step((X, T), search_batch=(X, 2 * T))
    assert not step.functions


@pytest.mark.parametrize("wrong, value", [(4, 4), (1, -1)])
def test_class_numbers_out_of_range(wrong, value):
    objective, (inputs, labels) = classifier(labels=True)
    step = symng.compile_step(objective, symng.SGD())
    with pytest.raises(
        ValueError,
        match=rf"^gradient_batch, t: expected class numbers .* got {value} at \({wrong},\)",
    ):
        step((inputs, changed(labels, wrong, value)))
    assert not step.functions
    assert step((inputs, labels)).accepted


def test_arrays_that_fit_after_a_widening():
    objective, _ = classifier()
    step = symng.compile_step(objective, symng.SGD())
    assert step((X.astype("float32"), T)).accepted
    assert step((X.tolist(), T.tolist())).accepted
    assert step((X[::2][::-1], T[::2][::-1])).accepted  # not contiguous


def test_shapes_that_only_the_model_knows():
    objective, _ = classifier()
    step = symng.compile_step(objective, symng.SGD())
    before = objective.params[0].get_value()
    with pytest.raises(
        ValueError,
        match=r"^gradient_batch: the model cannot be evaluated on arrays of shapes \(10, 2\)",
    ):
        step((X[:, :2], T))
    assert (objective.params[0].get_value() == before).all() and step((X, T)).accepted


@pytest.mark.parametrize(
    "objective, optimizer, message",
    [
        (None, symng.SGD(), "objective: expected a symng.Objective, got None"),
        (
            line().objective,
            symng.SGD,
            "optimizer: expected an optimizer .* got the class SGD .*forget the parentheses",
        ),
        (line().objective, symng.NaturalGradient, "optimizer: .*Did you forget the parentheses"),
        (line().objective, "sgd", "optimizer: expected an optimizer"),
    ],
)
def test_wrong_types(objective, optimizer, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        symng.compile_step(objective, optimizer)
    with pytest.raises(TypeError, match=f"^{message}"):
        symng.minimize(objective, optimizer, data=(X, T), progress=False)


def test_unknown_mode():
    with pytest.raises(ValueError, match="^mode: expected one of"):
        symng.compile_step(line().objective, symng.SGD(), mode="FORTRAN")


def test_metric_that_does_not_fit_is_refused_when_the_step_is_made():
    x = pt.matrix("x")
    w = pytensor.shared(np.ones(2), name="w")
    y = x @ w
    objective = symng.Objective(pt.prod(y), output=y, params=[w], inputs=[x])
    with pytest.raises(ValueError, match="^example_losses: expected"):
        symng.compile_step(objective, symng.NaturalGradient(metric=symng.EmpiricalFisher()))


def test_compile_leaves_everything_as_it_was():
    model = line(start=(1.0, 2.0))
    step = symng.compile_step(
        model.objective, symng.NaturalGradient(solver=Unit(), warm_start=0.5), mode="FAST_COMPILE"
    )
    assert step.compile(model.batch) is step and step.compile_seconds > 0
    assert (model.value == [1.0, 2.0]).all() and step.state["step"].get_value() == 0
    assert (
        step.state["damping"].get_value() == 3.0
        and (step.state["direction"].get_value() == 0).all()
    )
    seconds, functions = step.compile_seconds, list(step.functions)
    step.compile(model.batch)
    # Another length.
    assert step(model.batch).accepted and step(tuple(a[:2] for a in model.batch)).accepted
    assert step.compile_seconds == seconds and step.functions == functions


def test_checked_and_unchecked_calls_agree():
    one, two = line(), line()
    settings = {"solver": Unit(), "damping": 1.0}
    first = symng.compile_step(one.objective, symng.NaturalGradient(**settings))(one.batch)
    second = symng.compile_step(two.objective, symng.NaturalGradient(**settings)).run(two.batch)
    # NaN, where a number is not defined, equals itself.
    np.testing.assert_equal(asdict(first), asdict(second))
    assert (one.value == two.value).all()


def test_parameters_may_be_scalars_and_share_a_fixed_shape():
    x, t = pt.matrix("x"), pt.vector("t")
    w, b = (
        pytensor.shared(np.ones(3), name="w", shape=(3,)),
        pytensor.shared(np.array(0.5), name="b"),
    )
    y = x @ w + b
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w, b], inputs=[x], targets=[t]
    )
    step = symng.compile_step(
        objective, symng.NaturalGradient(solver=symng.CG(rtol=1e-12), damping=0.0)
    )
    inputs = np.random.default_rng(0).standard_normal((9, 3))
    info = step((inputs, inputs @ [1.0, -2.0, 0.5] + 3.0))
    assert (
        info.new_loss < 1e-20
        and b.get_value().shape == ()
        and w.get_value() == pytest.approx([1.0, -2.0, 0.5])
    )


def test_two_steps_of_one_objective_have_separate_states():
    model = line()
    one, two = (
        symng.compile_step(model.objective, symng.NaturalGradient(solver=Unit())) for _ in range(2)
    )
    one(model.batch)
    assert one.state["step"].get_value() == 1 and two.state["step"].get_value() == 0
    assert two.state["damping"].get_value() == 3.0


def test_hyperparameters_and_state_are_read_only_mappings():
    step = symng.compile_step(line().objective, symng.SGD())
    for mapping in (step.hyperparameters, step.state):
        with pytest.raises(TypeError):
            mapping["step_size"] = 1.0


def test_time_major_batches():
    case = oracles.recurrent_case()
    step = symng.compile_step(case.objective, symng.SGD(step_size=0.01))
    batch = tuple(case.givens.values())
    moved = vectors.get_flat(case.params) - 0.01 * oracles.example_gradients(case).mean(axis=0)
    assert step(batch).accepted
    assert oracles.relative_error(vectors.get_flat(case.params), moved) < 1e-10
    with pytest.raises(
        ValueError, match="^gradient_batch: expected the same number of examples .*\\(axis 1\\)"
    ):
        step((batch[0], batch[1][:, :2]))


def test_a_deep_network_starts_soon():
    """Every run pays for reading the model and building its step, on all backends."""
    x, t = pt.matrix("x"), pt.matrix("t")
    network = symng.models.mlp(x, [20] * 13 + [10], "tanh", "softmax")
    loss = -(t * pt.log(network.output)).sum(axis=1).mean()
    start = time.process_time()
    objective = symng.Objective(loss, network.output, network.params, inputs=[x], targets=[t])
    read = time.process_time()
    symng.compile_step(objective, symng.NaturalGradient())
    assert read - start < 1 and time.process_time() - read < 3  # seconds; 0.01 and 0.7 as a rule


def test_old_names_of_a_step_are_deprecated():
    model = line()
    step = symng.compile_step(model.objective, symng.SGD(step_size=0.1))
    batch = model.batch
    with pytest.warns(DeprecationWarning, match=r"^CompiledStep\.run\(settled=\) .*run\(sync=\)"):
        step.run(batch, settled=False)
    with pytest.warns(DeprecationWarning, match=r"use CompiledStep\.sync_to_host"):
        step.settle()
    with pytest.warns(DeprecationWarning, match=r"use CompiledStep\.keep_on_device"):
        context = step.holding(batch)
    with context, pytest.warns(DeprecationWarning, match=r"use CompiledStep\.check_shapes"):
        step.try_model("data", batch)
