"""Damping rules: every branch of Levenberg-Marquardt on numbers."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

import symng
from symng.optimizers._step import accept_or_reject
from symng.optimizers.damping import as_damping

LM = symng.LevenbergMarquardt
NAN, INF = math.nan, math.inf


@cache
def compiled(rule, dtype):
    """Return a function from damping, rho and failure to the next damping and the refusal."""
    damping, rho, failed = (
        pt.scalar("damping", dtype=dtype),
        pt.scalar("rho", dtype=dtype),
        pt.bscalar("failed"),
    )
    outputs = [rule.next(damping, rho, pt.neq(failed, 0)), rule.refuses(rho)]
    return pytensor.function(
        [damping, rho, failed], outputs, mode="FAST_COMPILE", on_unused_input="ignore"
    )


def follow(rule, damping, rho, failed=False, dtype="float64"):
    """Return the next damping and whether the step is refused, as plain numbers."""
    value, refused = compiled(rule, dtype)(
        np.asarray(damping, dtype), np.asarray(rho, dtype), int(failed)
    )
    assert value.dtype == dtype
    return float(value), bool(refused)


@pytest.mark.parametrize(
    "damping, rho, failed, wanted",
    [
        (3.0, 0.1, False, 4.5),  # below lower
        (3.0, -2.0, False, 4.5),  # the loss has risen
        (3.0, -INF, False, 4.5),  # the model predicted an increase
        (3.0, 0.25, False, 3.0),  # on the lower threshold
        (3.0, 0.5, False, 3.0),  # in between
        (3.0, 0.75, False, 3.0),  # on the upper threshold
        (3.0, 0.9, False, 2.0),  # above upper
        (3.0, INF, False, 2.0),
        (3.0, NAN, False, 3.0),  # nothing is known
        (3.0, NAN, True, 4.5),  # a failed step raises, whatever the ratio
        (3.0, 0.9, True, 4.5),
        (0.0, 0.1, False, 1e-5),  # from zero
        (0.0, 0.1, True, 1e-5),
        (0.0, 0.9, False, 0.0),
        (0.0, NAN, False, 0.0),
        (1.2e-4, 0.9, False, 1e-4),  # not below the minimum
        (1e-4, 0.9, False, 1e-4),
        (5e-5, 0.9, False, 5e-5),  # what was below it is left standing
        (5e-5, 0.1, False, 7.5e-5),
        (9e9, 0.1, False, 1e10),  # not above the maximum
        (1e10, 0.1, False, 1e10),
        (5e10, 0.1, True, 5e10),
        (5e10, 0.9, False, 5e10 * 2 / 3),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_levenberg_marquardt_with_the_constants_of_the_paper(damping, rho, failed, wanted, dtype):
    value, refused = follow(LM(), damping, rho, failed, dtype)
    assert value == pytest.approx(wanted, rel=1e-6, abs=0)
    assert not refused


def test_thresholds_factors_and_bounds_are_arguments():
    rule = LM(lower=-1, upper=2, increase=10, decrease=0.1, minimum=0.5, maximum=20, from_zero=7)
    table = [
        (1, -1.1, 10),
        (1, -0.9, 1),
        (1, 1.9, 1),
        (10, 2.1, 1),
        (1, 2.1, 0.5),
        (15, -2, 20),
        (0, -2, 7),
    ]
    for damping, rho, wanted in table:
        assert follow(rule, damping, rho)[0] == pytest.approx(wanted)


def test_minimum_of_zero_lets_the_damping_shrink_on():
    assert follow(LM(minimum=0.0), 1e-9, 1.0)[0] == pytest.approx(2e-9 / 3)


def test_bounds_beyond_float32_stay_finite():
    value, _ = follow(LM(maximum=1e300, increase=1e30), 1e38, 0.0, dtype="float32")
    assert math.isfinite(value) and value > 1e38


@pytest.mark.parametrize(
    "below, rho, refused",
    [(0.0, -0.1, True), (0.0, 0.0, False), (0.0, NAN, False), (0.0, -INF, True), (-1, -0.5, False)],
)
def test_refusal(below, rho, refused):
    value, said = follow(LM(reject_below=below), 3.0, rho)
    assert said is refused
    if refused:
        assert value == 4.5


def test_refusal_above_lower_raises_too():
    assert follow(LM(reject_below=0.6, lower=0.25), 3.0, 0.5) == (4.5, True)
    assert follow(LM(reject_below=0.9, upper=0.75), 3.0, 0.8) == (4.5, True)


@pytest.mark.parametrize("rho, failed", [(-5.0, False), (5.0, False), (NAN, True)])
def test_fixed_damping_stays(rho, failed):
    assert follow(symng.FixedDamping(value=3.0), 3.0, rho, failed) == (3.0, False)


def test_start():
    assert LM(initial=5).start == 5.0 and LM().start == 3.0
    assert symng.FixedDamping(value=2).start == 2.0 and symng.FixedDamping().start == 0.0


@pytest.mark.parametrize(
    "rule",
    [
        symng.FixedDamping(value=0.5),
        LM(),
        LM(initial=1, ratio="quadratic", damped_model=False, reject_below=0.0),
    ],
)
def test_repr_rebuilds(rule):
    assert eval(repr(rule), vars(symng)) == rule


@pytest.mark.parametrize(
    "settings, name, error",
    [
        ({"initial": -1.0}, "initial", ValueError),
        ({"initial": NAN}, "initial", ValueError),
        ({"initial": INF}, "initial", ValueError),
        ({"initial": "3"}, "initial", TypeError),
        ({"initial": True}, "initial", TypeError),
        ({"ratio": "cubic"}, "ratio", ValueError),
        ({"lower": NAN}, "lower", ValueError),
        ({"lower": 0.8}, "lower", ValueError),
        ({"upper": 0.2}, "lower", ValueError),
        ({"increase": 1.0}, "increase", ValueError),
        ({"decrease": 1.0}, "decrease", ValueError),
        ({"decrease": 0.0}, "decrease", ValueError),
        ({"minimum": -1e-9}, "minimum", ValueError),
        ({"maximum": INF}, "maximum", ValueError),
        ({"minimum": 2.0, "maximum": 1.0}, "minimum", ValueError),
        ({"from_zero": 0.0}, "from_zero", ValueError),
        ({"reject_below": NAN}, "reject_below", ValueError),
        ({"damped_model": 1}, "damped_model", TypeError),
    ],
)
def test_bad_settings(settings, name, error):
    with pytest.raises(error, match=rf"^{name}: expected .*, got "):
        LM(**settings)


@pytest.mark.parametrize("value", [-1.0, NAN, INF, -INF])
def test_bad_fixed_damping(value):
    with pytest.raises(ValueError, match="^value: expected a finite number, at least 0"):
        symng.FixedDamping(value=value)
    with pytest.raises(ValueError, match="^damping: expected a finite number, at least 0"):
        symng.NaturalGradient(damping=value)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.float64(2), np.int64(2)])
def test_a_number_means_fixed_damping(value):
    assert as_damping("damping", value) == symng.FixedDamping(value=2.0)


@pytest.mark.parametrize("value", [LM, "LevenbergMarquardt", None, True, pt.scalar()])
def test_what_is_no_damping_rule(value):
    with pytest.raises(
        TypeError,
        match="^damping: expected a damping rule or a number of at least 0, got .*symng.Fixed",
    ):
        symng.NaturalGradient(damping=value)


def test_rules_are_frozen_and_keyword_only():
    with pytest.raises(AttributeError):
        LM().initial = 1.0
    with pytest.raises(TypeError):
        LM(3.0)


@pytest.mark.parametrize(
    "rule, damping, rho, wanted",
    [
        (LM.natgrad(), 3.0, 0.9, 2.0),
        (LM.natgrad(), 3.0, 0.1, 4.5),
        (LM.natgrad(), 1.2e-4, 0.9, 0.8e-4),  # once to below 1e-4
        (LM.natgrad(), 1e-4, 0.9, 1e-4),  # but not from there
        (LM.natgrad(), 0.8e-4, 0.9, 0.8e-4),
        (LM.natgrad(), 0.0, 0.1, 1e-5),
        (LM.natgrad(), 0.0, 0.9, 0.0),
        (LM.natgrad(on_evaluation_batch=True), 3e-6, 0.9, 2e-6),
        (LM.natgrad(on_evaluation_batch=True), 1e-6, 0.9, 0.0),
        (LM.natgrad(on_evaluation_batch=True), 0.0, 0.1, 1e-6),
        (LM.martens(), 1e-9, 0.9, 2e-9 / 3),
        (LM.martens(), 0.1, 0.2, 0.15),
    ],
    ids=str,
)
def test_rules_of_the_original_programs(rule, damping, rho, wanted):
    value, refused = follow(rule, damping, rho)
    np.testing.assert_allclose(value, wanted, rtol=1e-12)
    assert not refused


def test_where_the_rules_of_the_original_programs_start():
    assert LM.natgrad(6.0).start == 6.0
    rule = LM.martens()
    assert (rule.start, rule.ratio, rule.damped_model) == (0.1, "quadratic", False)


def test_a_step_refused_for_its_loss_alone_raises_the_damping():
    """It would be refused again and again, on a full batch, if lambda stayed."""
    state = symng.State("float64", refuses_increases=True)
    damping, _ = state.add("damping", 2.0), state.add("step", 0, "int64")
    w = pytensor.shared(np.ones(1))
    updates, records = accept_or_reject(
        [w],
        state,
        LM(lower=-10.0),
        loss=pt.constant(1.0),
        new_loss=pt.constant(2.0),
        update=pt.constant(np.ones(1)),
        predicted=pt.constant(0.5),  # so that rho is -2
        sound=pt.constant(np.array(True)),
    )
    assert not records["accepted"].eval()
    assert updates[damping].eval() == pytest.approx(3.0) and updates[w].eval() == 1
