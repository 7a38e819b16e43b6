"""`install_theano`: from then on ``import theano`` gives PyTensor under Theano's names."""

from __future__ import annotations

import logging
import sys

import pytensor

from symng.legacy.theano import _truth
from symng.legacy.theano._config import compile_to_c, config, read_flags
from symng.legacy.theano._namespace import AliasFinder, TheanoFinder, TheanoModule

# natgrad imports its solvers from a package of this name.
_ALIASES = {"minres": "symng.legacy.minres", "minresQLP": "symng.legacy.minresQLP"}

_linker_is_ours = False
_theano = TheanoFinder()
_blas = logging.getLogger("pytensor.tensor.blas")
_aliases = AliasFinder(_ALIASES)


def install_theano() -> None:
    """Make ``import theano`` work in this program, on PyTensor.

    Only this process is changed: nothing is written anywhere, and a Theano that is installed stays
    as it is, though it is not the one imported from then on. The flags of the environment variable
    THEANO_FLAGS are set in ``pytensor.config`` where PyTensor has them. Where nobody else provides
    ``minres``, the package that natgrad takes its solvers from, it is ``symng.legacy.minres``.

    Symbolic variables are true from then on, as they were in Theano: ``if not W`` asks whether W is
    None. PyTensor compiles to C by default, as Theano did, where there is a compiler and neither
    flags nor ``pytensor.config`` say otherwise. A second call changes nothing.

    Raises
    ------
    ImportError
        If another Theano is imported already.

    Warns
    -----
    UserWarning
        For each flag of THEANO_FLAGS that has no effect, such as ``device=gpu``.

    Notes
    -----
    A script of Python 2 has to be converted first: ``2to3 -w script.py``. What Theano had and
    PyTensor has not raises an `AttributeError` or `ImportError` that names it, with the way out.

    Examples
    --------
    >>> from symng.legacy import install_theano, uninstall_theano
    >>> install_theano()
    >>> import theano
    >>> import theano.tensor as T
    >>> x = T.dscalar("x")
    >>> n = T.dscalar("n")
    >>> f = theano.function([x, theano.In(n, value=2.0)], n * T.sqr(x))
    >>> float(f(3.0))
    18.0
    >>> uninstall_theano()
    """
    if _theano in sys.meta_path:
        return
    imported = sys.modules.get("theano")
    if imported is not None and not isinstance(imported, TheanoModule):
        raise ImportError(
            f"theano is imported already, from {getattr(imported, '__file__', None)}. Call"
            " symng.legacy.install_theano() before it, in a new process."
        )
    global _linker_is_ours
    read_flags()
    _linker_is_ours = compile_to_c()
    sys.meta_path.insert(0, _theano)
    sys.meta_path.append(_aliases)
    _truth.install()
    _blas.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for what PyTensor logs with each matrix product: it has warned of it once."""
    return "NumPy C-API" not in record.getMessage()


def uninstall_theano() -> None:
    """Undo `install_theano`: ``import theano`` means what it meant before.

    Examples
    --------
    >>> from symng.legacy import install_theano, uninstall_theano
    >>> install_theano()
    >>> uninstall_theano()
    """
    global _linker_is_ours
    for finder in (_theano, _aliases):
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
    if _linker_is_ours and pytensor.config.linker == "cvm":
        pytensor.config.linker = "auto"
    _linker_is_ours = False
    config.forget()
    _truth.uninstall()
    _blas.removeFilter(_is_news)
    for name, module in list(sys.modules.items()):
        ours = isinstance(module, TheanoModule)
        if ours or getattr(getattr(module, "__spec__", None), "loader", None) is _aliases:
            del sys.modules[name]
