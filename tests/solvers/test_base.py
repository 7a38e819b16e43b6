"""What optimizers and steps ask a solver, one of the package or of a user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytensor.tensor as pt
import pytest
from helpers.small_steps import Unit, line

import symng
from symng.solvers import CG, QR, MinresQLP, Solver, Woodbury
from symng.solvers.base import as_solver


@dataclass(frozen=True, kw_only=True)
class Own(Solver):
    """A solver of a user, with settings that declare nothing."""

    rtol: float = 1e-3
    maxiter: int = 7
    max_norm: Any = None
    loudness: int = 3

    def solve(self, A, b, damping=0.0, x0=None, preconditioner=None):
        return Unit().solve(A, b, damping)


@pytest.mark.parametrize(
    "solver, expected",
    [
        (CG(), {"rtol": (1e-5, None), "atol": (0.0, None)}),
        (CG(maxiter=9), {"rtol": (1e-5, None), "atol": (0.0, None), "maxiter": (9, "int64")}),
        (CG(maxiter=9, keep_iterates=1.3, rtol=0.1), {"rtol": (0.1, None), "atol": (0.0, None)}),
        (MinresQLP(max_norm=2.0), {"atol": (0.0, None), "max_norm": (2.0, None)}),
        (Woodbury(), {"rtol": (1e-5, None)}),
        (QR(solve_dtype="float64"), {"rtol": (1e-5, None)}),
        (Own(), {"rtol": (1e-3, None), "maxiter": (7, "int64")}),
        (Unit(), {"rtol": (1e-5, None)}),
    ],
)
def test_settings_that_may_change_between_steps(solver, expected):
    assert as_solver("solver", solver).adjustable_settings() == expected


def test_what_the_solvers_need_and_keep():
    assert Woodbury.needs_full_batch and QR.needs_full_batch
    assert not CG.needs_full_batch and not MinresQLP.needs_full_batch
    assert CG(maxiter=9, keep_iterates=1.3).keeps_iterates and not CG().keeps_iterates
    assert not Own().keeps_iterates


def test_one_docstring_of_solve():
    assert CG.solve.__doc__ is MinresQLP.solve.__doc__ is None
    assert "The right-hand side" in Solver.solve.__doc__


@pytest.mark.parametrize("solver", [Own(), Unit()])
def test_solvers_of_users_take_steps_and_their_settings_may_change(solver):
    model = line()
    optimizer = symng.NaturalGradient(solver=solver, damping=0.0)
    assert repr(optimizer.solver) == repr(solver)
    assert optimizer == symng.NaturalGradient(solver=solver, damping=0.0)
    step = symng.compile_step(model.objective, optimizer)
    step.hyperparameters["rtol"].set_value(0.5)
    assert step(model.batch).accepted and model.loss(model.value) < 1e-12


@pytest.mark.parametrize("value", [CG, Unit, None, pt.vector("v"), lambda A, b: b])
def test_what_is_no_solver_is_refused(value):
    with pytest.raises(TypeError, match="^solver: expected a solver such as symng.CG"):
        symng.NaturalGradient(solver=value)


def test_a_solver_without_solve_cannot_be_made():
    class Nothing(Solver):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()
