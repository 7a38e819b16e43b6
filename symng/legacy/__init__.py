"""The interface of the original Theano code on today's solvers, imported only when asked for.

Each module stands for one of the original ones: `lincg`, `minres` and `minresQLP` for those of
``theano_optimize``, `natgrad` for the repository of that name, `hf` for ``theano-hf`` and `ksd` for
``ksd-theano``.
"""

import importlib as _importlib

_MODULES = ("hf", "ksd", "lincg", "minres", "minresQLP", "natgrad", "theano")


def __getattr__(name: str) -> object:
    """Import a module on demand."""
    if name in _MODULES:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
