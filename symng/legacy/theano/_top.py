"""What differs in ``theano`` itself from `pytensor`."""

from __future__ import annotations

from typing import Any

from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.replace import clone_replace
from pytensor.tensor.math import dot

from symng.legacy.theano._config import config
from symng.legacy.theano._function import (
    In,
    Mode,
    OrderedUpdates,
    Out,
    Param,
    function,
    get_mode,
    shared,
)
from symng.legacy.theano._gof import Op
from symng.legacy.theano._gradient import Lop, Rop, grad
from symng.legacy.theano._scan import foldl, foldr, map, reduce, scan

__all__ = [
    "Apply",
    "Constant",
    "In",
    "Lop",
    "Mode",
    "Op",
    "OrderedUpdates",
    "Out",
    "Param",
    "Rop",
    "Variable",
    "__version__",
    "clone",
    "config",
    "dot",
    "foldl",
    "foldr",
    "function",
    "get_mode",
    "grad",
    "map",
    "reduce",
    "scan",
    "shared",
]

# The last release of Theano, whose names, and older ones, are here.
__version__ = "1.0.5"


def clone(
    output: Any,
    replace: Any = None,
    strict: bool = True,
    share_inputs: bool = True,
    copy_inputs: Any = None,
) -> Any:
    """Return a copy of a graph with some variables replaced, as Theano's ``clone`` did.

    Parameters
    ----------
    output : variable or list of them
        The graph.
    replace : dict or list of pairs, optional
        Variables and what to put for them.
    strict : bool, default True
        Refuse variables of another type.
    share_inputs : bool, default True
        Keep the inputs of the graph, instead of copies; ``copy_inputs`` is an older name.

    Returns
    -------
    variable or list of them
        In the form of ``output``.
    """
    keep = share_inputs if copy_inputs is None else copy_inputs
    pairs = list(replace.items() if hasattr(replace, "items") else replace or [])
    return clone_replace(output, pairs, rebuild_strict=strict, copy_inputs_over=keep)
