"""Loops over named symbolic state: the only module that calls `pytensor.scan`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import toposort
from pytensor.scalar.basic import ScalarType
from pytensor.scan.utils import until
from pytensor.tensor.variable import TensorVariable

State = dict[str, TensorVariable]


def while_loop(
    body: Callable[[State], Mapping[str, Any]],
    cond: Callable[[State], Any],
    state: Mapping[str, Any],
    max_iterations: Any,
) -> State:
    """Repeat ``state = body(state)`` while ``cond(state)``, at most ``max_iterations`` times.

    Parameters
    ----------
    body : callable
        Takes the state, a dictionary from name to symbolic tensor, and returns the next one, with the same names. Every
        entry keeps its number of dimensions; dtype and static shape are those of the initial state.
    cond : callable
        Takes the state, returns a symbolic Boolean scalar. It is asked before the first round, too.
    state : dict
        The initial state.
    max_iterations : int or symbolic integer scalar
        The largest number of rounds.

    Returns
    -------
    dict
        The state after the last round; the initial state if there was none.

    Notes
    -----
    Only the last value of each entry is kept. What ``body`` computes from outside variables alone is taken out of the
    loop here, not left to a later rewrite: it is computed once in every mode, and a random draw in it stays one draw.
    """
    names = list(state)
    initial = [pt.as_tensor_variable(state[name]) for name in names]
    current = [value.type() for value in initial]
    result = dict(body(dict(zip(names, current, strict=True))))
    if set(result) != set(names):
        raise ValueError(f"body: expected the entries {names}, got {list(result)}.")
    following = [_like(result[name], value) for name, value in zip(names, initial, strict=True)]
    stop = pt.invert(_as_bool(cond(dict(zip(names, following, strict=True)))))
    outer = _invariants([*following, stop], current)

    def step(*arguments: TensorVariable) -> tuple[list[Variable], Any]:
        replace = dict(zip([*current, *outer], arguments, strict=True))
        *values, end = graph_replace([*following, stop], replace, strict=False)
        return values, until(end)

    start = _as_bool(cond(dict(zip(names, initial, strict=True))))
    # Scan infers shapes through the number of steps, once a state: it is put in at the end, lest each walk the graph.
    n_steps = pt.lscalar("n_steps")
    finals = pytensor.scan(
        step,
        outputs_info=initial,
        non_sequences=outer,
        n_steps=n_steps,
        strict=True,
        return_updates=False,
    )
    finals = finals if isinstance(finals, list | tuple) else [finals]
    lasts = [_last(final, value) for final, value in zip(finals, initial, strict=True)]
    steps = pt.switch(start, pt.cast(max_iterations, "int64"), 0)
    ended: Any = graph_replace(lasts, {n_steps: steps})
    return dict(zip(names, ended, strict=True))


def map_rows(fn: Callable[[TensorVariable], TensorVariable], matrix: TensorVariable) -> TensorVariable:
    """Apply ``fn``, from vector to vector, to each row of ``matrix`` and stack what it returns as rows."""
    matrix = pt.as_tensor_variable(matrix)
    row = matrix.type.clone(shape=matrix.type.shape[1:])()
    value = fn(row)
    outer = _invariants([value], [row])

    def step(*arguments: TensorVariable) -> Variable:
        return graph_replace([value], dict(zip([row, *outer], arguments, strict=True)), strict=False)[0]

    return pytensor.scan(step, sequences=[matrix], non_sequences=outer, strict=True, return_updates=False)


def _invariants(outputs: Sequence[Variable], varying: Iterable[Variable]) -> list[Variable]:
    """Return the variables that ``outputs`` need and that do not change with ``varying``, as late as possible."""
    depends = set(varying)
    needed: list[Variable] = []
    for node in toposort(outputs, blockers=set(varying)):
        if any(variable in depends for variable in node.inputs):
            depends.update(node.outputs)
            needed += node.inputs
    needed += outputs
    found: dict[Variable, None] = {}
    while needed:
        v = needed.pop(0)
        if v in depends or isinstance(v, Constant):
            continue
        if isinstance(v.type, ScalarType) and v.owner is not None:
            needed[:0] = v.owner.inputs  # such as an index: scan takes tensors only
        else:
            found[v] = None
    return list(found)


def _like(value: Any, pattern: TensorVariable) -> TensorVariable:
    """Give ``value`` the dtype and the static shape of ``pattern``."""
    tensor = pt.cast(pt.as_tensor_variable(value), pattern.type.dtype)
    if not pattern.type.is_super(tensor.type):
        tensor = pt.specify_shape(tensor, pattern.type.shape)
    return tensor


def _as_bool(value: Any) -> TensorVariable:
    """Turn a condition into a symbolic Boolean scalar."""
    return pt.cast(pt.as_tensor_variable(value), "bool")


def _last(trace: TensorVariable, initial: TensorVariable) -> TensorVariable:
    """Return the last value of a scan output, the initial one if there was no round.

    `pytensor.scan` returns the trace without the initial value, empty after no round; the buffer below it has both.
    """
    node = trace.owner
    if node is None or not node.inputs[0].owner:
        raise RuntimeError("pytensor.scan returned an output of an unknown form.")
    last = node.inputs[0][-1]
    return pt.specify_shape(last, initial.type.shape) if last.type.shape != initial.type.shape else last
