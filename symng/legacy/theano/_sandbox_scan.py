"""``theano.sandbox.scan``: a loop whose states say how many of their values to keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytensor.tensor as pt

from symng.legacy.theano._function import OrderedUpdates
from symng.legacy.theano._scan import scan as full_scan
from symng.legacy.theano._scan import until

__all__ = ["scan", "until"]


def scan(
    fn: Callable[..., Any],
    sequences: Any = None,
    states: Any = None,
    params: Any = None,
    n_steps: Any = None,
    mode: Any = None,
    name: str | None = None,
    profile: Any = False,
    allow_gc: bool | None = None,
) -> tuple[list[Any], OrderedUpdates]:
    """Loop over states, each given as a buffer along its first axis.

    Parameters
    ----------
    fn : callable
        From the entries of ``sequences``, the states and ``params`` to the new states, with a
        condition to stop or not.
    sequences, params : list of tensors, optional
        What the loop runs over, and what it is given whole.
    states : list of tensors
        Row 0 is the start; the number of rows says how many of the last values are kept. None
        stands for an output that is no state.
    n_steps : int or symbolic integer
        The number of rounds, at most.
    mode, name, profile, allow_gc
        As for ``theano.scan``.

    Returns
    -------
    list of tensors
        Of each state the last values, as many as its buffer has rows, the start among them.
    OrderedUpdates
        The updates of shared variables.
    """
    states = _listed(states)
    starts = [None if state is None else pt.as_tensor_variable(state)[0] for state in states]
    outputs, updates = full_scan(
        fn,
        sequences,
        starts,
        params,
        n_steps,
        mode=mode,
        name=name,
        profile=profile,
        allow_gc=allow_gc,
        return_list=True,
    )
    return [
        output if state is None else _last(state, output)
        for state, output in zip(states, outputs, strict=True)
    ], updates


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]


def _last(state: Any, output: Any) -> Any:
    """Return the last rows of a start and what followed, as many as the buffer has."""
    if pt.as_tensor_variable(state).type.shape[0] == 1:
        return output[-1:]
    return pt.concatenate([state[:1], output])[-state.shape[0] :]
