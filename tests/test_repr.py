"""How settings print.

Without defaults, over several lines if long, and as code that makes them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytensor
import pytest

import symng
from symng.graphs.config import full_repr, short_repr


def decay(number, start=1.0):
    """A schedule."""
    return start / (1 + number)


def test_a_long_one_spans_lines():
    optimizer = symng.NaturalGradient(
        metric=symng.GaussNewton(),
        warm_start=0.5,
        solver=symng.MinresQLP(
            rtol=1e-3, maxiter=100, max_norm=1e4, condition_limit=1e5, transition_condition=1.0
        ),
    )
    assert repr(optimizer).splitlines() == [
        "NaturalGradient(",
        "    metric=GaussNewton(),",
        "    solver=MinresQLP(",
        "        rtol=0.001,",
        "        maxiter=100,",
        "        max_norm=10000.0,",
        "        condition_limit=100000.0,",
        "        transition_condition=1.0,",
        "    ),",
        "    warm_start=0.5,",
        ")",
    ]
    assert eval(repr(optimizer), vars(symng)) == optimizer


@pytest.mark.parametrize(
    "made, text",
    [
        # a default of CG, none of HessianFree.
        (
            symng.HessianFree(solver=symng.CG()),
            "HessianFree(solver=CG())",
        ),
        (symng.Adam(step_size=0.001), "Adam()"),
        (
            symng.NaturalConjugateGradient(beta="quadratic"),
            "NaturalConjugateGradient(beta='quadratic')",
        ),
        (
            symng.NaturalConjugateGradient(beta="polak-ribiere"),
            "NaturalConjugateGradient(beta='polak-ribiere')",
        ),
        (symng.CG(check=True, maxiter=1), "CG(maxiter=1, check=True)"),
    ],
)
def test_defaults_are_left_out_and_nothing_else(made, text):
    assert repr(made) == text and eval(text, vars(symng)) == made


@pytest.mark.parametrize(
    "size, text",
    [
        (decay, "decay"),
        (partial(decay, start=2.0), "partial(decay, start=2.0)"),
        (pytensor.shared(0.1, name="eta"), "eta"),
        (lambda number: 0.1, "<function <lambda>>"),
    ],
)
def test_schedules_and_symbols_go_by_their_names(size, text):
    assert repr(symng.FixedStep(size=size)) == f"FixedStep(size={text})"


def test_no_line_is_long_and_a_line_that_fits_is_not_broken():
    made = [
        symng.CG(rtol=10.0**-n, maxiter=10**n, atol=2.0**-n, progress_rtol=3.0**-n)
        for n in range(1, 30)
    ]
    printed = [repr(solver) for solver in made]
    assert all(len(line) <= 88 for text in printed for line in text.splitlines())
    assert {"\n" in text for text in printed} == {True, False}
    joined = [
        text.replace(",\n)", ")").replace("(\n    ", "(").replace(",\n    ", ", ")
        for text in printed
    ]
    assert [len(line) > 88 for line in joined] == ["\n" in text for text in printed]


@dataclass(frozen=True, kw_only=True, eq=False)
class Needy:
    """Takes a setting that has no default."""

    needed: Any
    other: int = 1

    __repr__ = short_repr


class Odd(symng.SGD):
    """Has a constructor of its own."""

    def __init__(self):
        super().__init__(momentum=0.5)


def test_it_never_fails():
    assert repr(Needy(needed=3)) == "Needy(needed=3)"
    assert repr(Needy(needed=[1], other=2)) == "Needy(needed=[1], other=2)"
    assert repr(Odd()).startswith("Odd(step_size=FixedStep(size=0.01), momentum=0.5")


def test_the_full_one_has_every_setting():
    text = full_repr(symng.HessianFree())
    assert text.startswith(
        "HessianFree(metric=GaussNewton(), solver=CG(rtol=1e-05, atol=0.0, maxiter=250,"
    )
    assert eval(text, vars(symng)) == symng.HessianFree()


def test_the_full_one_is_the_same_in_every_process():
    text = full_repr(symng.FixedStep(size=lambda number: 0.1))
    assert "lambda" in text and "0x" not in text
    assert full_repr(symng.FixedStep(size=decay)) == "FixedStep(size=decay)"


def test_a_message_has_it_on_one_line():
    solver = symng.MinresQLP(
        rtol=1e-3, maxiter=100, max_norm=1e4, condition_limit=1e5, transition_condition=1.0
    )
    assert "\n" in repr(solver)
    with pytest.raises(
        TypeError, match=r"got MinresQLP\( rtol=0.001, .*\.\.\. \(MinresQLP\)"
    ) as caught:
        symng.compile_step(solver, symng.SGD())  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
