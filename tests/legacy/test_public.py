"""The public names of `symng.legacy`: on its page, sorted, and described."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
from helpers.originals import table

PAGE = (Path(__file__).parents[2] / "docs" / "legacy.md").read_text()
MODULES = [
    f"symng.legacy.{name}" for name in ("lincg", "minres", "minresQLP", "natgrad", "hf", "ksd")
]


def listed(module):
    """Return the names in the table of a module."""
    table = PAGE.split(f".. currentmodule:: {module}\n")[1].split(".. currentmodule::")[0]
    return re.findall(r"^ {3}(\w+)$", table, re.M)


def public(module):
    """Return what is public in a module and made there, classes and functions alone."""
    imported = importlib.import_module(module)
    return {
        name: getattr(imported, name)
        for name in imported.__all__
        if callable(getattr(imported, name))
        and f"{getattr(imported, name).__module__}.".startswith((f"{module}.", "symng.legacy._"))
    }


@pytest.mark.parametrize("module", MODULES)
def test_page_lists_the_public_names(module):
    assert sorted(listed(module)) == sorted(public(module))


@pytest.mark.parametrize("module", MODULES)
def test_names_are_sorted_and_there(module):
    imported = importlib.import_module(module)
    assert list(imported.__all__) == sorted(imported.__all__)
    assert all(hasattr(imported, name) for name in imported.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_every_argument_is_described_and_there_is_an_example(module):
    for name, thing in public(module).items():
        doc = inspect.getdoc(thing) or ""
        assert doc.splitlines()[0].endswith(".") and ">>>" in doc, name
        words = set(re.findall(r"\w+", doc.split("Returns\n---")[0]))
        missing = [a for a in inspect.signature(thing).parameters if a not in words]
        assert not missing, f"{module}.{name} does not describe {missing}"


def test_page_has_the_table_of_the_records_and_bounds():
    assert f"\n{table()}\n" in PAGE, f"docs/legacy.md has to hold\n{table()}"


def test_modules_are_attributes_of_the_package():
    legacy = importlib.import_module("symng.legacy")
    assert legacy.natgrad.natSGD and legacy.lincg.linear_cg
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = legacy.nothing
