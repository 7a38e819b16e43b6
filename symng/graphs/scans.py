"""Look inside a scan: at what it computes in each step, and at the same for all steps at once."""

from __future__ import annotations

from typing import Any

from pytensor.graph.basic import Constant, Variable
from pytensor.graph.replace import vectorize_graph
from pytensor.graph.traversal import toposort
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.variable import TensorVariable

from symng.graphs.rebuild import copy_of_frozen


def inner_value(trace: TensorVariable) -> TensorVariable:
    """Return the variable inside a scan whose values over the rounds are ``trace``."""
    return _value_of(trace.owner.op, trace.owner.outputs.index(trace))


def first_round(trace: TensorVariable) -> int:
    """Return the row of ``trace`` that the first step computes; those before are initial values."""
    op: Any = trace.owner.op
    number, info = trace.owner.outputs.index(trace) - op.info.n_mit_mot, op.info
    taps = [*info.mit_sot_in_slices, *info.sit_sot_in_slices]
    return -min(taps[number]) if 0 <= number < len(taps) else 0


def trace_of(trace: TensorVariable, inner: Any) -> tuple[Any, Any]:
    """Return the values of ``inner`` over all rounds, and the variable that they are read from.

    ``inner`` is what the value behind ``trace`` is computed from. If it is an output of the scan or
    one of its sequences, that is the variable they are read from. Otherwise they are computed
    beside the scan, and the variable is None; where that is impossible both are None.
    """
    node: Any = trace.owner
    op, info = node.op, node.op.info
    lookup = op.get_oinp_iinp_iout_oout_mappings()
    count = trace.shape[0] - first_round(trace)
    numbers = range(info.n_mit_mot, len(node.outputs) - info.n_untraced_sit_sot)
    traces = {_value_of(op, i): node.outputs[i] for i in numbers}
    # What each step can use: what the scan computes, the states before, and the sequences.
    rounds: dict[Variable, Any] = {
        value: output[first_round(output) :] for value, output in traces.items()
    }
    if inner in rounds:
        return rounds[inner], traces[inner]
    taps = [*info.mit_sot_in_slices, *info.sit_sot_in_slices]
    for i, before in enumerate(taps, start=info.n_mit_mot):
        output, start = node.outputs[i], first_round(node.outputs[i])
        for k, tap in zip(lookup["inner_inp_from_outer_out"][i], before, strict=True):
            rounds[op.inner_inputs[k]] = output[start + tap : start + tap + count]
    for i in range(info.n_seqs):
        rounds[op.inner_inputs[i]] = node.inputs[1 + i][:count]
    if inner in op.inner_inputs[: info.n_seqs]:
        return rounds[inner], node.inputs[1 + op.inner_inputs.index(inner)]
    outer = dict(
        zip(op.inner_non_seqs(op.inner_inputs), op.outer_non_seqs(node.inputs), strict=True)
    )
    return _computed_from(inner, rounds, outer), None


def _computed_from(inner: Any, rounds: dict[Variable, Any], outer: dict[Variable, Any]) -> Any:
    """Return ``inner`` for all rounds, computed from the values of ``rounds`` and ``outer``."""
    nodes = list(toposort([inner], blockers=list(rounds)))
    used = {v for node in nodes for v in node.inputs if v.owner is None or v in rounds}
    known = all(v in rounds or v in outer or isinstance(v, Constant) for v in used)
    if not known or any(isinstance(node.op, RandomVariable) for node in nodes):
        return None
    fresh = {v: v.type() for v in used if v in rounds}
    bound: dict[Variable, Variable] = {**outer, **fresh}
    for node in nodes:
        bound.update(zip(node.outputs, copy_of_frozen(node, bound).outputs, strict=True))
    if not fresh:
        return None
    try:
        return vectorize_graph(bound[inner], {fresh[v]: rounds[v] for v in fresh})
    except (NotImplementedError, TypeError, ValueError):
        return None  # an op that is not done for all rounds at once


def _value_of(op: Any, number: int) -> Any:
    """Return the variable inside of a scan that becomes the output with this number."""
    return op.inner_outputs[
        op.get_oinp_iinp_iout_oout_mappings()["inner_out_from_outer_out"][number][-1]
    ]
