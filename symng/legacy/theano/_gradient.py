"""``grad``, ``Lop`` and ``Rop`` in their old form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt

from symng.graphs import derivatives

__all__ = ["Lop", "Rop", "grad"]


def grad(
    cost: Any,
    wrt: Any,
    consider_constant: Any = None,
    disconnected_inputs: str = "raise",
    add_names: bool = True,
    known_grads: Any = None,
    return_disconnected: str = "zero",
    null_gradients: str = "raise",
) -> Any:
    """Return the gradient of a scalar: a variable for a variable, a list for a list or tuple."""
    got = derivatives.grad(
        cost,
        _sequence(wrt),
        consider_constant=consider_constant,
        disconnected_inputs=disconnected_inputs,
        add_names=add_names,
        known_grads=known_grads,
        return_disconnected=return_disconnected,
        null_gradients=null_gradients,
    )
    return _in_form_of(wrt, got)


def Lop(
    f: Any,
    wrt: Any,
    eval_points: Any,
    consider_constant: Any = None,
    disconnected_inputs: str = "raise",
) -> Any:
    """Return u J for the Jacobian J of ``f`` by ``wrt``: in the form of ``wrt``."""
    got = derivatives.pullback(
        _sequence(f),
        _sequence(wrt),
        _sequence(eval_points),
        consider_constant=consider_constant,
        disconnected_inputs=disconnected_inputs,
    )
    return _in_form_of(wrt, got)


def Rop(
    f: Any,
    wrt: Any,
    eval_points: Any,
    disconnected_outputs: str = "ignore",
    return_disconnected: str = "zero",
) -> Any:
    """Return J v for the Jacobian J of ``f`` by ``wrt``: in the form of ``f``.

    Variables that ``f`` does not depend on add nothing, as in Theano.
    """
    got = derivatives.pushforward(
        _sequence(f),
        _sequence(wrt),
        _sequence(eval_points),
        disconnected_outputs,
        return_disconnected,
    )
    return _in_form_of(f, got)


def _listed(wrt: Any) -> Any:
    """Return a list of what iterates, and a variable itself."""
    return wrt if hasattr(wrt, "type") or isinstance(wrt, list | tuple) else list(wrt)


def _sequence(value: Any) -> list[Any]:
    """Return the variables, at least one, as a list."""
    several = _listed(value)
    return [pt.as_tensor_variable(v) for v in several] if _is_many(several) else [several]


def _is_many(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _in_form_of(model: Any, values: Sequence[Any]) -> Any:
    """Return one variable for one, a tuple for a tuple, else a list."""
    model = _listed(model)
    if not _is_many(model):
        return values[0]
    return tuple(values) if isinstance(model, tuple) else list(values)
