"""Bridges to other packages, imported only when asked for, such as by ``symng.from_pymc``."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from types import ModuleType

# What some bridges need: package, its first version that will do, and the extra that brings it.
_NEEDS = {
    "pymc": ("pymc", (6, 0), "pymc"),
    "pytensor_ml": ("pytensor-ml", (0, 3), "ml"),
}


def load(name: str) -> ModuleType:
    """Return the module of a bridge, or say what it needs.

    Raises
    ------
    ImportError
        Where its package is not installed or too old, or on a Python for which there is none.
    """
    if name in _NEEDS:
        _check(name, *_NEEDS[name])
    return importlib.import_module(f"symng.bridges.{name}")


def _check(name: str, package: str, minimum: tuple[int, int], extra: str) -> None:
    """Refuse a bridge whose package is missing or too old."""
    version = ".".join(map(str, minimum))
    needs = f"symng.{name} needs {package} {version} or newer, and that Python 3.12 or newer"
    install = f'pip install "symng[{extra}]"'
    if tuple(sys.version_info) < (3, 12):
        text = f"this is Python {sys.version.split()[0]}. In a newer one: {install}"
        raise ImportError(f"{needs}: {text}")
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        raise ImportError(f"{needs}: {package} is not installed. {install} brings it.") from None
    if tuple(map(int, installed.split(".")[:2])) < minimum:
        raise ImportError(f"{needs}: {installed} is installed. {install} brings a newer one.")
