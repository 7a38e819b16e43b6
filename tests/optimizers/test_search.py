"""Step sizes: numbers, schedules, symbolic ones, line searches, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.small_steps import line, natural, start

import symng
from symng.optimizers.step_sizes import as_step_size

Search = symng.BacktrackingLineSearch


def find(rule, loss_at, slope, dtype="float64", size=None):
    """Run the search along a function of eta; return size, loss, whether found."""
    zero = pt.constant(np.asarray(0, dtype))
    outputs = rule.find(loss_at, loss_at(zero), pt.constant(np.asarray(slope, dtype)), size)
    assert [v.dtype for v in outputs] == [dtype, dtype, "bool"]
    found_size, value, found = pytensor.function([], outputs, mode="FAST_COMPILE")()
    return float(found_size), float(value), bool(found)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "first, wanted", [(4.0, 0.5), (1.0, 0.5), (0.5, 0.5), (0.3, 0.3), (0.999, 0.999)]
)
def test_first_of_the_sizes_that_decreases_enough(first, wanted, dtype):
    # (1 - 2 eta)^2 falls from 1 for eta below 1, along a slope of 4
    size, value, found = find(Search(size=first), lambda eta: pt.sqr(1 - 2 * eta), 4.0, dtype)
    assert found and size == np.asarray(wanted, dtype)
    assert value == pytest.approx((1 - 2 * wanted) ** 2, rel=1e-5)
    assert value <= 1 - 1e-4 * size * 4


def test_armijo_condition_is_what_decides():
    # with c = 0.6, (1 - 2 eta)^2 <= 1 - 0.6 * 4 eta asks for eta <= 0.4
    table = {0.0: 1.0, 0.49: 0.5, 0.6: 0.25}  # with c = 0 an equal loss will do
    for c, wanted in table.items():
        size, *_ = find(Search(sufficient_decrease=c), lambda eta: pt.sqr(1 - 2 * eta), 4.0)
        assert size == wanted


def test_shrink_and_symbolic_size():
    size, *_ = find(Search(size=pt.constant(8.0), shrink=0.1), lambda eta: pt.sqr(1 - 2 * eta), 4.0)
    assert size == pytest.approx(0.8)
    size, *_ = find(Search(size=8.0), lambda eta: pt.sqr(1 - 2 * eta), 4.0, size=pt.constant(0.7))
    assert size == 0.7


def test_none_found_gives_zero_and_the_loss_there():
    assert find(Search(), lambda eta: 2 + eta, 1.0) == (0.0, 2.0, False)
    # the third of these is below 1, but two are tried
    assert find(Search(size=3.0, max_evaluations=2), lambda eta: pt.sqr(1 - 2 * eta), 4.0) == (
        0.0,
        1.0,
        False,
    )
    assert find(Search(size=3.0, max_evaluations=3), lambda eta: pt.sqr(1 - 2 * eta), 4.0) == (
        0.75,
        0.25,
        True,
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_backs_out_of_what_is_not_finite(bad):
    size, value, found = find(Search(size=8.0), lambda eta: pt.switch(eta > 1, bad, 1 - eta), 1.0)
    assert (size, value, found) == (1.0, 0.0, True)


def test_loss_that_is_nan_at_the_start_finds_nothing():
    assert not find(Search(), lambda eta: eta * np.nan, 1.0)[2]


def test_direction_of_ascent_never_raises_the_loss():
    size, value, found = find(Search(sufficient_decrease=0.9), lambda eta: eta / 2, -1.0)
    assert (size, value, found) == (0.0, 0.0, False)
    # but a decrease further on is taken
    assert find(Search(size=4.0), lambda eta: eta - pt.sqr(eta), -1.0)[0] == 4.0


def test_zero_slope_takes_the_first_size():
    assert find(Search(size=0.7), lambda eta: pt.zeros_like(eta) + 2, 0.0) == (0.7, 2.0, True)


@pytest.mark.parametrize(
    "settings, name, error",
    [
        ({"size": 0.0}, "size", ValueError),
        ({"size": np.inf}, "size", ValueError),
        ({"size": lambda step: 1.0}, "size", TypeError),
        ({"size": pt.vector()}, "size", TypeError),
        ({"shrink": 1.0}, "shrink", ValueError),
        ({"shrink": 0.0}, "shrink", ValueError),
        ({"sufficient_decrease": -1e-9}, "sufficient_decrease", ValueError),
        ({"sufficient_decrease": 1.0}, "sufficient_decrease", ValueError),
        ({"max_evaluations": 0}, "max_evaluations", ValueError),
        ({"max_evaluations": 2.5}, "max_evaluations", TypeError),
    ],
)
def test_bad_settings(settings, name, error):
    with pytest.raises(error, match=rf"^{name}: expected .*, got "):
        Search(**settings)


@pytest.mark.parametrize(
    "value, error",
    [
        (0.0, ValueError),
        (-1.0, ValueError),
        (np.nan, ValueError),
        (np.inf, ValueError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
        (pt.vector(), TypeError),
        (Search, TypeError),
        (symng.FixedStep, TypeError),
    ],
)
@pytest.mark.parametrize("optimizer", [symng.NaturalGradient, symng.SGD])
def test_bad_step_sizes(value, error, optimizer):
    with pytest.raises(error, match="^step_size: expected .*, got "):
        optimizer(step_size=value)


def test_a_class_is_no_schedule():
    with pytest.raises(TypeError, match="^size: expected .*Did you forget the parentheses"):
        symng.FixedStep(size=Search)


def test_step_sizes_are_rules():
    assert as_step_size("step_size", 0.5) == symng.FixedStep(size=0.5)
    search = Search()
    assert as_step_size("step_size", search) is search
    assert search.searches and not symng.FixedStep().searches
    assert eval(repr(Search(size=2.0, shrink=0.1)), vars(symng)) == Search(size=2.0, shrink=0.1)


# In a step


def test_step_size_number():
    model = line()
    step, _ = start(natural(step_size=0.25), model.objective)
    assert step(model.batch).step_size == 0.25 and np.allclose(model.value, 0.25 * model.solution)


@pytest.mark.parametrize("optimizer", [natural, symng.SGD])
@pytest.mark.parametrize("symbolic", [False, True])
def test_step_size_schedule(optimizer, symbolic):
    def schedule(step):
        return (
            pt.switch(pt.lt(step, 2), 0.5, 1 / (1 + step))
            if symbolic
            else 0.5
            if step < 2
            else 1 / (1 + step)
        )

    model = line()
    step, _ = start(optimizer(step_size=schedule), model.objective)
    left = 1.0
    for size in (0.5, 0.5, 1 / 3, 1 / 4):
        assert step(model.batch).step_size == pytest.approx(size)
        left *= 1 - size
        assert np.allclose(model.value, (1 - left) * model.solution)
    assert step.state["step"].get_value() == 4


def test_step_size_of_a_schedule_may_be_zero_but_not_negative():
    model = line()
    step, _ = start(natural(step_size=lambda step: float(1 - step)), model.objective)
    assert step(model.batch).step_size == 1.0
    info = step(model.batch)
    assert info.step_size == 0.0 and info.update_norm == 0
    before = model.value
    with pytest.raises(
        ValueError, match=r"^step_size \(its schedule at step 2\): expected .* at least 0, got -1.0"
    ):
        step(model.batch)
    assert (model.value == before).all() and step.state["step"].get_value() == 2


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "fast", None])
def test_bad_schedule_is_refused_before_compilation(value):
    model = line()
    with pytest.raises(
        (ValueError, TypeError), match=r"^step_size \(its schedule at step 0\): expected .*, got "
    ):
        symng.compile_step(model.objective, natural(step_size=lambda step: value))


def test_step_size_of_the_users_own():
    model = line()
    eta = pytensor.shared(0.5, name="eta")
    step, _ = start(natural(step_size=eta * 2), model.objective)
    assert "step_size" not in step.hyperparameters
    eta.set_value(0.2)
    assert step(model.batch).step_size == pytest.approx(0.4) and np.allclose(
        model.value, 0.4 * model.solution
    )


def test_line_search_on_the_gradient_batch():
    model = line()
    search = symng.BacktrackingLineSearch(size=3.0, max_evaluations=4)
    step, before = start(natural(step_size=search), model.objective)
    info = step(model.batch)  # 3 overshoots, 1.5 is half as far from the solution as the start
    assert info.step_size == 1.5 and info.accepted
    assert info.new_loss == pytest.approx(model.loss(model.value)) == pytest.approx(info.loss / 4)
    assert info.new_loss <= info.loss - 1e-4 * 1.5 * info.gradient_norm**2
    model.w.set_value(before)
    step.hyperparameters["step_size"].set_value(0.7)  # the first size is tried as it is
    assert step(model.batch).step_size == 0.7
    model.w.set_value(before)
    step.hyperparameters["step_size"].set_value(100.0)  # 100, 50, 25, 12.5: none
    info = step(model.batch)
    assert info.step_size == 0 and not info.accepted and info.new_loss == info.loss
    assert (model.value == before).all()


def test_line_search_that_finds_nothing_raises_the_damping():
    model = line()
    optimizer = natural(
        step_size=symng.BacktrackingLineSearch(size=100.0, max_evaluations=1),
        damping=symng.LevenbergMarquardt(initial=1.0),
    )
    step, _ = start(optimizer, model.objective)
    assert not step(model.batch).accepted and step.state["damping"].get_value() == 1.5


def test_line_search_on_a_batch_of_its_own():
    model = line()
    X, T = model.batch
    step, _ = start(natural(step_size=symng.BacktrackingLineSearch(size=4.0)), model.objective)
    # There the solution is a quarter as far: sizes above 1/2 raise the loss of that batch.
    info = step(model.batch, search_batch=(X, T / 4))
    assert info.step_size == 0.25 and np.allclose(model.value, model.solution / 4)
    # Both losses are those of the gradient batch.
    assert info.loss == pytest.approx(model.loss(0 * model.solution))
    assert info.new_loss == pytest.approx(model.loss(model.value))
    assert info.reduction_ratio == pytest.approx(1 - 0.25 / 2)
    # Away from all that the search batch knows no size will do.
    before = model.value
    info = step(model.batch, search_batch=(X, -T))
    assert info.step_size == 0 and not info.accepted and (model.value == before).all()
