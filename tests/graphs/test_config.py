"""Settings are declared once.

What they may be, what they become, and which may change between steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytensor.tensor as pt
import pytest

from symng.graphs.config import Config, choice, config, declarations, flag, number, setting


def as_list(name: str, value: Any) -> list[Any]:
    if isinstance(value, str):
        raise ValueError(f"{name}: no word")
    return list(value)


@config
class Base(Config):
    size: Any = number(default=1.0, above=0, symbolic=True)
    count: int = number(default=3, minimum=1, integer=True, symbolic=True)
    limit: float | None = number(default=None, below=1)
    loud: bool = flag(default=False)
    form: Literal["a", "b"] = choice(Literal["a", "b"], default="a")


@config
class Derived(Base):
    items: Any = setting(convert=as_list, default=())
    others: Any = setting(convert=as_list, default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loud and self.form == "b":
            raise ValueError("loud: not with b")


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"size": 0}, ValueError, "^size: expected a finite number, above 0 "),
        ({"size": None}, TypeError, "^size: "),
        ({"count": 1.5}, TypeError, "^count: expected a whole number"),
        ({"count": pt.dscalar()}, TypeError, "^count: "),
        ({"limit": 1}, ValueError, "^limit: "),
        ({"limit": pt.dscalar()}, TypeError, "^limit: "),
        ({"loud": 1}, TypeError, "^loud: expected True or False"),
        ({"form": "c"}, ValueError, "^form: expected one of 'a', 'b'"),
        ({"items": "few"}, ValueError, "^items: no word"),
        ({"loud": True, "form": "b"}, ValueError, "^loud: not with b"),
        ({"lourd": True}, TypeError, r"Did you mean loud\?"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        Derived(**settings)
    with pytest.raises(error, match=message):
        dataclasses.replace(Derived(), **settings)


def test_good_settings_are_kept_and_converted():
    scalar = pt.dscalar("s")
    made = Derived(size=scalar, count=pt.lscalar(), limit=0.5, items=(1, 2))
    assert made.size is scalar and made.items == [1, 2] and made.others == []
    assert Derived(limit=None) == Derived() != Derived(form="b")


def test_settings_are_given_by_name_and_cannot_be_set():
    with pytest.raises(TypeError, match=r"Write Derived\(size=\.\.\.\)"):
        Derived(0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Derived().size = 2.0


def test_it_prints_as_the_call_that_makes_it():
    assert repr(Derived(items=[1], loud=True)) == "Derived(loud=True, items=[1])"


def test_declarations_say_which_settings_may_change_between_steps():
    symbolic = {name: d.dtype for name, d in declarations(Derived).items() if d.symbolic}
    assert symbolic == {"size": None, "count": "int64"}


def test_a_subclass_of_a_user_needs_no_declarations():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Plain(Config):
        size: float = -1.0

    class Bare(Config):
        pass

    assert Plain(size=-2.0).size == -2.0 and not declarations(Plain)
    assert "Bare object" in repr(Bare())
