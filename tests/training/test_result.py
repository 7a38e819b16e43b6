"""What minimize returns.

How the run ended, the loss and the parameters, and that all of it can be sent around.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.small_steps import descent, regression, train

import symng


def loss_at(objective, params, data):
    """The loss of the objective with the parameters as a result has them."""
    for variable, value in zip(objective.params, params.values(), strict=True):
        variable.set_value(value)
    return pytensor.function([*objective.inputs, *objective.targets], objective.loss)(*data)


def test_loss_and_params_are_those_of_the_end():
    objective, data = regression()
    result = train(descent(), objective, data, max_steps=3)
    params = {name: array.copy() for name, array in result.params.items()}
    for variable in objective.params:
        variable.set_value(np.zeros_like(variable.get_value()))
    # Copies, at the end.
    assert all(np.array_equal(result.params[name], params[name]) for name in params)
    assert result.loss == pytest.approx(loss_at(objective, result.params, data), rel=1e-12)
    assert result.loss == result.history["new_loss"][-1] < result.history["loss"][-1]


def test_loss_after_a_rejected_step_is_that_before_it():
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.zeros(2), name="w")
    y = pt.exp(x @ w)
    objective = symng.Objective(
        (y - t * (x @ w)).mean(), output=y, params=[w], inputs=[x], targets=[t]
    )
    result = train(
        descent(step_size=1e6), objective, (np.eye(2), np.array([3.0, 5.0])), max_steps=2
    )
    assert (
        not result.history["accepted"].any()
        and result.loss == 1.0
        and (result.params["w"] == 0).all()
    )


def test_loss_of_an_optimizer_that_does_not_evaluate_its_step():
    result = train(symng.SGD(step_size=1e-2), max_steps=2)
    assert np.isnan(result.history["new_loss"]).all() and result.loss == result.history["loss"][-1]


def test_without_steps_there_is_no_loss():
    result = train(descent(), max_steps=0)
    assert np.isnan(result.loss) and result.status == result.stopped == "max_steps"


def test_parameters_without_a_name_of_their_own_go_by_position():
    x, t = pt.matrix("x"), pt.vector("t")
    a, b, c, d = (
        pytensor.shared(np.full(2, float(i)), name=name)
        for i, name in enumerate(["w", None, "v", "w"])
    )
    y = x @ (a + b + c + d)
    objective = symng.Objective(
        pt.sqr(y - t).mean(), output=y, params=[a, b, c, d], inputs=[x], targets=[t]
    )
    params = train(descent(), objective, (np.eye(2), np.ones(2)), max_steps=0).params
    assert list(params) == [0, 1, "v", 3] and [array[0] for array in params.values()] == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(
    "pack", [lambda result: pickle.loads(pickle.dumps(result)), copy.deepcopy, copy.copy]
)
def test_a_result_can_be_sent_around(pack):
    result = train(descent(), max_steps=2)
    other = pack(result)
    assert other is not result and repr(other) == repr(result)
    assert (other.status, other.loss, other.steps, other.seconds) == (
        "max_steps",
        result.loss,
        2,
        result.seconds,
    )
    assert all(np.array_equal(other.params[name], result.params[name]) for name in result.params)
    assert np.array_equal(other.history["loss"], result.history["loss"])
    assert other.step is (result.step if pack is copy.copy else None) and result.step is not None


def test_repr_is_a_few_lines():
    lines = repr(train(descent(), max_steps=2)).splitlines()
    assert lines[:2] == ["TrainingResult", "    status: max_steps"] and len(lines) == 5
    assert max(map(len, lines)) < 100 and any("2 in " in line for line in lines)
