"""Early stopping: when a run ends, which parameters it keeps, and the same after a resumed run."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytensor
import pytest
from helpers.small_steps import regression, train

import symng
from symng.training.early_stopping import BestEvaluation

NAN, INF = math.nan, math.inf


def judged(values, **settings):
    """Return the best step, its value, and the step at which the rule has waited long enough."""
    best = BestEvaluation(symng.EarlyStopping(monitor="v", **settings))
    w = pytensor.shared(np.zeros(1))
    for step, value in enumerate(values, 1):
        w.set_value(np.array([float(step)]))
        best.see({"v": value, "other": 0.0}, step, [w], counts=True)
        assert not best.params or best.params[0] == best.step  # copies
        if best.is_exhausted:
            return best.step, best.value, step
    return best.step, best.value, None


@pytest.mark.parametrize(
    "values, settings, wanted",
    [
        ([3, 2, 2, 1, 5, 5, 5], {"patience": 2}, (4, 1, 6)),
        ([3, 2, 2, 2, 1], {"patience": 2}, (2, 2, 4)),  # an equal value is no improvement
        ([3, 2.5, 2.45, 1.9], {"patience": 2, "min_delta": 0.6}, (1, 3, 3)),
        ([3, 2.5, 2.3, 2.4], {"patience": 2, "min_delta": 0.6}, (3, 2.3, None)),
        ([1, 2, 3, 2, 2], {"patience": 2, "higher_is_better": True}, (3, 3, 5)),
        ([1, 1.5, 1.7], {"patience": 1, "higher_is_better": True, "min_delta": 1}, (1, 1, 2)),
        ([NAN, 3, NAN, 2, NAN, NAN], {"patience": 2}, (4, 2, 6)),
        ([NAN, NAN, 1], {"patience": 2}, (0, NAN, 2)),
        ([INF, 1, NAN, INF], {"patience": 3}, (2, 1, None)),
        ([-INF, 1], {"patience": 3, "higher_is_better": True}, (2, 1, None)),
        ([1, *[2] * 50], {"patience": None}, (1, 1, None)),
    ],
)
def test_which_evaluation_is_the_best_and_when_it_has_waited_long_enough(values, settings, wanted):
    assert judged(values, **settings) == pytest.approx(wanted, nan_ok=True)


def passing(model, at=-0.3, kill_at=None):
    """Return an evaluation by a parameter that passes its best value on the way to the optimum."""
    w, calls = model[0].params[0], []

    def evaluate():
        calls.append(1)
        if len(calls) == kill_at:
            raise KeyboardInterrupt
        return {"error": abs(w.get_value()[1] - at), "other": 1.0}

    return evaluate


def run(every=1, kill_at=None, optimizer=None, **settings):
    """Train in minibatches, with an error that is best somewhere in the middle of the run."""
    model = regression()
    rule = settings.pop("rule", symng.EarlyStopping(monitor="error", patience=4))
    return train(
        symng.SGD(step_size=3e-3) if optimizer is None else optimizer,
        *model,
        batch_size=4,
        evaluate=passing(model, kill_at=kill_at),
        evaluate_every=every,
        early_stopping=rule,
        **{"max_steps": 400, "seed": 2} | settings,
    )


def test_the_run_ends_and_has_the_parameters_of_the_best_evaluation():
    iterates = []
    result = run(callback=lambda row, step: iterates.append(step.objective.params[0].get_value()))
    errors = result.history["error"]
    assert result.status == "early_stopping" and 10 < result.steps == len(errors) < 390
    assert result.best_step == np.argmin(errors) + 1 == result.steps - 4
    assert result.best_value == errors.min()
    assert (result.best_params["w"] == iterates[result.best_step - 1]).all()
    assert (result.params["w"] == iterates[-1]).all()
    again = pickle.loads(pickle.dumps(result))
    assert again.best_step == result.best_step and again.status == "early_stopping"
    assert (again.best_params["w"] == result.best_params["w"]).all()
    assert f"best: {errors.min():.6g} after step {result.best_step}" in repr(result)


def test_the_best_parameters_are_restored_on_request():
    rule = symng.EarlyStopping(monitor="error", patience=4, restore_best=True)
    optimizer = symng.NaturalGradient(solver=symng.CG(maxiter=3), damping=30.0, step_size=0.05)
    result = run(rule=rule, optimizer=optimizer)
    w = result.step.objective.params[0]
    assert result.status == "early_stopping" and result.best_step == result.steps - 4
    assert (result.params["w"] == result.best_params["w"]).all()
    assert (w.get_value() == result.best_params["w"]).all()
    assert result.loss == result.history["new_loss"][result.best_step - 1]
    w.set_value(np.zeros(3))
    assert (result.best_params["w"] != 0).any()  # a copy


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_resumed_run_is_the_uninterrupted_one(tmp_path, every, restore):
    rule = symng.EarlyStopping(monitor="error", patience=5, restore_best=restore)
    whole = run(every, rule=rule)
    best, end = whole.best_step, whole.steps
    assert whole.status == "early_stopping" and end == best + 5 * every
    path = tmp_path / "run.npz"
    # Before the best, after it, where Ctrl-C comes while the second evaluation from then on is
    # made, and to the end. With every=3 the first two are between evaluations.
    stops = [(best - every - 1, None), (best + every + 1, None), (400, 2), (400, None)]
    for steps, kill_at in stops:
        resumed = run(every, kill_at, rule=rule, max_steps=steps, checkpoint=path)
        if kill_at:
            assert resumed.status == "interrupted" and best < resumed.steps < end
            assert resumed.steps % every == 0 and np.isnan(resumed.history["error"][-1])
        elif steps < 400:
            assert resumed.steps == steps
    for _ in range(2):  # there is nothing left to do the second time
        assert (resumed.status, resumed.steps) == ("early_stopping", end)
        assert (resumed.best_step, resumed.best_value) == (best, whole.best_value)
        assert (resumed.best_params["w"] == whole.best_params["w"]).all()
        assert (resumed.params["w"] == whole.params["w"]).all() and resumed.loss == whole.loss
        resumed = run(every, rule=rule, checkpoint=path)
    assert resumed.compile_seconds == 0


def test_an_evaluation_between_those_asked_for_does_not_count(tmp_path):
    # Step 7 is evaluated as the last one, and better than all before.
    result = run(3, max_steps=7)
    errors = result.history["error"]
    assert result.status == "max_steps" and not np.isnan(errors[6]) and errors[6] < errors[5]
    assert result.best_step == 6 and result.best_value == errors[5]


def test_another_measure_begins_anew_in_a_resumed_run(tmp_path):
    path = tmp_path / "run.npz"
    run(max_steps=6, checkpoint=path)
    rule = symng.EarlyStopping(monitor="other", patience=4)
    with pytest.warns(UserWarning, match=r"early_stopping .*monitor='other'.* where the file has"):
        result = run(max_steps=8, rule=rule, checkpoint=path)
    # The parameters that it goes on from are evaluated first.
    assert result.best_step == 6 and result.best_value == 1.0


def test_ctrl_c_and_a_loss_that_blows_up_keep_the_best():
    def interrupt(row):
        if row["step"] == 5:
            raise KeyboardInterrupt

    rule = symng.EarlyStopping(monitor="error", patience=None, restore_best=True)
    result = run(rule=rule, callback=interrupt)
    assert result.status == "interrupted" and result.best_step == 5
    assert (result.params["w"] == result.best_params["w"]).all()

    objective, data = regression()
    w = objective.params[0]
    values = iter([4.0, 3.0, 2.0, *range(5, 50)])
    with pytest.warns(RuntimeWarning, match="The parameters are those of the best validation_err"):
        result = train(
            symng.SGD(step_size=1e3),
            objective,
            data,
            max_steps=40,
            evaluate=lambda: {"validation_error": next(values)},
            early_stopping=symng.EarlyStopping(patience=None, restore_best=True),
        )
    assert result.status == "diverged" and result.best_step == 3 and result.best_value == 2.0
    assert (w.get_value() == result.best_params["w"]).all() and (w.get_value() != 0).all()
    assert result.loss == result.history["loss"][2]


def test_the_best_average_is_kept_where_there_is_one():
    averages = []

    def note(row, step):
        averages.append(step.state["average"].get_value())

    rule = symng.EarlyStopping(monitor="error", patience=4, restore_best=True)
    result = run(rule=rule, average_decay=0.8, callback=note)
    assert result.status == "early_stopping" and result.best_step == result.steps - 4
    assert (result.params["w"] == averages[result.best_step - 1]).all()
    assert (result.average_params["w"] == averages[-1]).all() and np.isnan(result.loss)


def test_without_an_evaluation_there_is_no_best():
    for settings in ({"max_steps": 0}, {"max_steps": 2, "every": 5}):
        result = run(**settings)
        assert result.best_params is result.best_step is None and np.isnan(result.best_value)
    assert "best" not in repr(result)


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"valid_error": 1.0, "count": 2},
            r"^monitor: expected a column that evaluate returns \(there are: 'valid_error', "
            r"'count'\), got 'validation_error'. Write symng.EarlyStopping\(monitor='valid_error'",
        ),
        (1.0, r"\(there are: 'evaluate'\), .*EarlyStopping\(monitor='evaluate'\)"),
        (None, r"\(there are: none\), .* Let evaluate return \{'validation_error': \.\.\.\}\."),
    ],
)
def test_a_column_that_evaluate_does_not_return(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        train(
            evaluate=lambda: values,
            evaluate_every=2,
            max_steps=5,
            early_stopping=symng.EarlyStopping(),
        )
    assert len(caught.value.history) == 2  # the first evaluation


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"patience": 0}, "patience: expected a whole number, at least 1, got 0 .* None never"),
        ({"patience": -1}, "patience: expected a whole number, at least 1, got -1"),
        ({"patience": 2.5}, "patience: expected a whole number, at least 1, got 2.5"),
        ({"patience": True}, "patience: expected a whole number"),
        ({"min_delta": -0.1}, "min_delta: expected a finite number, at least 0"),
        ({"min_delta": NAN}, "min_delta: expected"),
        ({"monitor": 3}, "monitor: expected the name of a column"),
        ({"higher_is_better": 1}, "higher_is_better: expected True or False"),
        ({"restore_best": "yes"}, "restore_best: expected True or False"),
        ({"mode": "min"}, "mode: expected an argument of EarlyStopping"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        symng.EarlyStopping(**settings)


def test_what_is_no_rule():
    for value in (10, symng.EarlyStopping, "validation_error"):
        message = "^early_stopping: expected a symng.EarlyStopping, got .* Write symng.Early"
        with pytest.raises(TypeError, match=message):
            train(evaluate=lambda: 1.0, early_stopping=value)
    with pytest.raises(TypeError, match="^early_stopping: expected none without evaluate, got Ear"):
        train(early_stopping=symng.EarlyStopping())
    with pytest.raises(TypeError, match=r"early_stopping=symng.EarlyStopping\(patience=3\)"):
        train(patience=3)
