"""The truth of symbolic variables: ``if not W`` was how scripts asked whether W is None."""

from __future__ import annotations

from typing import Any

from pytensor.scalar.basic import LogicalComparison
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.variable import _tensor_py_operators as Operators

_refuse: Any = Operators.__bool__


def install() -> None:
    """Make variables true."""
    Operators.__bool__ = _is_there  # type: ignore[method-assign]


def uninstall() -> None:
    """Refuse again to say whether a variable is true."""
    Operators.__bool__ = _refuse  # type: ignore[method-assign]


def _is_there(variable: Any) -> bool:
    """Return True; of a comparison, whose value ``if`` cannot know, raise PyTensor's error."""
    op = getattr(variable.owner, "op", None)
    if isinstance(op, Elemwise) and isinstance(op.scalar_op, LogicalComparison):
        return _refuse(variable)
    return True
