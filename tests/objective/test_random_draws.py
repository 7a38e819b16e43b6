"""Random numbers in the graph, such as those of dropout.

Which are warned of, and what a step does with them.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import modes
from pytensor.compile.builders import OpFromGraph

import symng
from symng.training.program import Program

MODE = "FAST_COMPILE"


def draw_from(kind: str) -> Any:
    """Return a normal number, from a generator that something advances or nothing does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTensor 3.3 has other ways for both
        if kind == "RandomStream":
            return pt.random.RandomStream(seed=1).normal(0, 1)
        rng = pytensor.shared(np.random.default_rng(1), name="rng")
        following, drawn = pt.random.normal(0, 1, rng=rng, return_next_rng=True)
        if kind == "default_update":
            rng.default_update = following
        return drawn


def objective_of(drawn: Any, **kwargs: Any) -> symng.Objective:
    """Return that of y = m x w for a number m that is drawn.

    Gradient and metric are m^2 at x = w = 1 and t = 0.
    """
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(np.ones((1, 1)), name="w")
    y = (drawn * x) @ w
    return symng.Objective(
        pt.sqr(y - t).sum(axis=1).mean() / 2, y, [w], inputs=[x], targets=[t], **kwargs
    )


def in_op(drawn: Any) -> Any:
    """Return a number made of the draw by an op that holds the draw inside."""
    rng = drawn.owner.inputs[0]
    inner = rng.type()
    _, same = pt.random.normal(0, 1, rng=inner, return_next_rng=True)
    return OpFromGraph([inner], [same])(rng)


@pytest.mark.parametrize("kind", ["RandomStream", "default_update"])
def test_draws_that_advance_are_not_warned_of(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        objective_of(draw_from(kind))


@pytest.mark.parametrize("within", [lambda v: v, in_op])
def test_draws_that_stay_the_same_are_warned_of(within: Any) -> None:
    with pytest.warns(UserWarning, match="from rng.*same at every step"):
        objective_of(within(draw_from("nothing")))


@pytest.mark.parametrize("mode", modes(MODE, "JAX", slow=["JAX"]))
@pytest.mark.parametrize("kind", ["RandomStream", "default_update", "nothing"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gradient_and_metric_have_the_same_draws_and_steps_new_ones(kind: str, mode: str) -> None:
    objective = objective_of(draw_from(kind))
    solver, damping = symng.CG(maxiter=1), symng.FixedDamping(value=0.0)
    optimizer = symng.NaturalGradient(solver=solver, damping=damping)
    step = symng.compile_step(objective, optimizer, mode=mode)
    (w,) = objective.params
    losses = []
    for _ in range(3):
        w.set_value(np.ones((1, 1)))
        losses.append(float(step((np.ones((1, 1)), np.zeros((1, 1)))).loss))
        np.testing.assert_allclose(w.get_value(), 0, atol=1e-12)  # 1 - m^2 / m^2
    assert len(set(losses)) == (1 if kind == "nothing" else 3)


@pytest.mark.parametrize("kind", ["default_update", "nothing"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_search_on_the_host_draws_anew(kind: str) -> None:
    objective = objective_of(draw_from(kind))
    optimizer = symng.KrylovSubspaceDescent(basis_size=1, max_iterations=1)
    step = symng.compile_step(objective, optimizer, mode=MODE).build()
    assert step.search is not None
    found = []

    def find(evaluate: Any, carried: Any) -> Any:
        still = np.zeros(step.search.coefficients.type.shape)
        found.extend(evaluate(still)[0] for _ in range(3))
        return still

    step = replace(step, search=replace(step.search, find=find))
    Program(step, MODE)([np.ones((1, 1)), np.zeros((1, 1))])
    draws = np.random.default_rng(1).normal(size=4)  # the first is that of gradient and directions
    wanted = draws[1:] if kind == "default_update" else draws[[0, 0, 0]]
    np.testing.assert_allclose(found, wanted**2 / 2, rtol=1e-12)
