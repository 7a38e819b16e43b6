"""The interface of the original Theano code on today's solvers, imported only when asked for.

`install_theano` makes ``import theano`` work within a program; ``python -m symng.legacy SCRIPT``
runs a script with it. Each other module stands for one of the original ones: `lincg`, `minres` and
`minresQLP` for those of ``theano_optimize``, `natgrad` for the repository of that name, `hf` for
``theano-hf`` and `ksd` for ``ksd-theano``.
"""

import importlib as _importlib

from symng.legacy._install import install_theano, uninstall_theano
from symng.legacy._run import run_script

__all__ = ["install_theano", "run_script", "uninstall_theano"]

_MODULES = ("hf", "ksd", "lincg", "minres", "minresQLP", "natgrad", "theano")


def __getattr__(name: str) -> object:
    """Import a module on demand."""
    if name in _MODULES:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
