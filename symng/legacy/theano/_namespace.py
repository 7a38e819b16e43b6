"""The modules ``theano``, ``theano.tensor`` and so on: lazy views of PyTensor."""

from __future__ import annotations

import importlib
import sys
import warnings
from difflib import get_close_matches
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from symng.legacy.theano._table import GONE, MODULES, RENAMED

_HERE = "symng.legacy.theano"


class TheanoModule(ModuleType):
    """A module of Theano's name whose attributes are looked up on first use.

    In this order: what this package has of that name, what PyTensor has under another name, the
    submodule, what PyTensor has.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return [name for name in dir(self) if not name.startswith("_")]
        full = f"{self.__name__}.{name}"
        if name.startswith("__") and name != "__version__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with warnings.catch_warnings(action="ignore"):  # of names that PyTensor is about to move
            value = self._look_up(name, full)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a submodule sets it; a function of the same name, such as T.var, wins.
        function = name in self._own() or f"{self.__name__}.{name}" in RENAMED
        if isinstance(value, TheanoModule) and function:
            return
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        names = set(self.__dict__) | set(self._own())
        for source in self._sources():
            names |= {name for name in dir(source) if not name.startswith("_")}
        return sorted(names)

    def _look_up(self, name: str, full: str) -> Any:
        own = self._own()
        if name in own:
            return own[name]
        if full in RENAMED:
            module, _, attribute = RENAMED[full].rpartition(".")
            return getattr(importlib.import_module(module), attribute)
        if full in MODULES:
            return importlib.import_module(full)
        for source in self._sources():
            if hasattr(source, name) and not name.startswith("_"):
                return getattr(source, name)
        raise AttributeError(explain(full, dir(self)))

    def _own(self) -> dict[str, Any]:
        """Return what this package has for the module."""
        own = MODULES[self.__name__][0]
        if not own:
            return {}
        module = importlib.import_module(f"{_HERE}.{own}")
        return {name: getattr(module, name) for name in module.__all__}

    def _sources(self) -> list[ModuleType]:
        """Return the modules of PyTensor that have its names; releases of PyTensor move some."""
        sources = []
        for name in MODULES[self.__name__][1:]:
            try:
                sources.append(importlib.import_module(name))
            except ImportError:
                continue
        return sources


def explain(full: str, known: list[str]) -> str:
    """Return the sentences for a name of Theano that is not here, with the way out."""
    module, _, name = full.rpartition(".")
    for prefix, way_out in GONE.items():
        if full == prefix or full.startswith(f"{prefix}."):
            return f"{full} is not in symng.legacy. {way_out}"
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {module}.{close[0]}?" if close else ""
    return (
        f"{full} is not in symng.legacy, and PyTensor has nothing of that name.{hint} "
        "docs/from_theano.md says what stands for Theano's names."
    )


class TheanoFinder(MetaPathFinder, Loader):
    """Finds ``theano`` and what is under it, before any installed Theano."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a module of Theano; None for other modules."""
        if fullname.split(".")[0] != "theano":
            return None
        if fullname not in MODULES:
            parent = sys.modules.get(fullname.rpartition(".")[0])
            raise ImportError(explain(fullname, dir(parent) if parent else []))
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the empty module."""
        return TheanoModule(spec.name, f"{spec.name}, by symng.legacy on PyTensor.")

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: attributes are looked up on first use."""


class AliasFinder(MetaPathFinder, Loader):
    """Finds modules that other packages of the time provided, where nobody else does.

    It comes last, so that a file of that name beside a script is the one imported.
    """

    def __init__(self, aliases: dict[str, str]) -> None:
        self.aliases = aliases

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of an alias; None for other modules."""
        if fullname not in self.aliases:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a module with the attributes of the one that it stands for."""
        original = importlib.import_module(self.aliases[spec.name])
        module = ModuleType(spec.name, original.__doc__)
        public = {name: value for name, value in vars(original).items() if name[0] != "_"}
        module.__dict__.update(public)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the attributes are there."""
