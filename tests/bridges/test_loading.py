"""What a bridge says where its package is missing."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

import symng


def version_of(version):
    def found(package):
        if version is None:
            raise metadata.PackageNotFoundError(package)
        return version

    return found


@pytest.mark.parametrize("name", ["pymc", "from_pymc"])
@pytest.mark.parametrize(
    "python, found, message",
    [
        ((3, 11, 9), "4.0.1", r"pymc 6.0 or newer, and that Python 3.12 or newer: this is Python"),
        ((3, 12, 1), None, r"pymc is not installed. pip install \"symng\[pymc\]\" brings it"),
        ((3, 12, 1), "5.22.0", "5.22.0 is installed"),
    ],
)
def test_a_bridge_says_what_it_needs(name, python, found, message, monkeypatch):
    monkeypatch.setattr(sys, "version_info", python)
    monkeypatch.setattr(metadata, "version", version_of(found))
    with pytest.raises(ImportError, match=message):
        getattr(symng, name)


def test_other_names_are_no_attributes():
    assert not hasattr(symng, "from_stan")
