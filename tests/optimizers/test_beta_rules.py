"""Rules for beta as values: what their names stand for, and what they keep."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_steps import Unit, line

import symng

NCG = symng.NaturalConjugateGradient
KEPT = {
    "search": (symng.PlaneSearch(), {"previous_step_size"}),
    "quadratic": (symng.QuadraticModel(), {"previous_step_size"}),
    "polak-ribiere": (symng.PolakRibiere(), {"previous_gradient", "previous_slope"}),
    "fletcher-reeves": (symng.FletcherReeves(), {"previous_slope"}),
    "hestenes-stiefel": (symng.HestenesStiefel(), {"previous_gradient"}),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_name_stands_for_a_rule(name):
    rule, kept = KEPT[name]
    named, given = NCG(beta=name, damping=1.0), NCG(beta=rule, damping=1.0)
    assert named.rule == given.rule == rule and named.step_size == given.step_size
    assert eval(repr(given), vars(symng)) == given
    state = given.init_state(line().objective)
    assert set(state.values) == {"step", "damping", "search_direction"} | kept


def test_settings_of_the_search():
    settings = {"max_evaluations": 9, "radius": 1.0, "tolerance": 0.1}
    assert NCG(**settings).rule == symng.PlaneSearch(**settings)
    infos = []
    for optimizer in (
        NCG(solver=Unit(), **settings),
        NCG(solver=Unit(), beta=symng.PlaneSearch(**settings)),
    ):
        model = line()
        step = symng.compile_step(model.objective, optimizer, mode="FAST_COMPILE")
        infos.append([step(model.batch) for _ in range(2)])
    for a, b in zip(*infos, strict=True):
        np.testing.assert_equal(
            [a.new_loss, a.beta, a.search_evaluations], [b.new_loss, b.beta, b.search_evaluations]
        )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"beta": symng.PolakRibiere}, "beta: expected one of 'search', .*Or give a rule"),
        (
            {"beta": symng.PlaneSearch(), "step_size": 1.0},
            r"step_size: expected None with beta=PlaneSearch\(\)",
        ),
        (
            {"beta": symng.PlaneSearch(), "radius": 1.0},
            r"radius: expected 0.5, the default, .* "
            r"Give it to the rule: symng.PlaneSearch\(radius=",
        ),
        ({"beta": symng.QuadraticModel(), "tolerance": 0.1}, "tolerance: expected 0.01"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        NCG(**settings)


def test_a_tolerance_above_the_radius():
    with pytest.raises(ValueError, match="^tolerance: expected .*at most 0.5, got 0.6"):
        symng.PlaneSearch(tolerance=0.6)
