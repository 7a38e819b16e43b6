"""Look inside a scan: what it computes in each step, and the same for all steps at once."""

from __future__ import annotations

from pytensor.graph.basic import Constant, Variable
from pytensor.graph.replace import vectorize_graph
from pytensor.graph.traversal import toposort
from pytensor.scan.op import Scan
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.variable import TensorVariable

from symng.graphs.rebuild import copy_of_frozen


def inner_value(trace: TensorVariable) -> TensorVariable:
    """Return the variable inside a scan whose values over all steps are ``trace``."""
    return _value_of(trace.owner.op, trace.owner.outputs.index(trace))


def first_computed_row(trace: TensorVariable) -> int:
    """Return the row of ``trace`` that the first step computes; those before are initial values."""
    info = trace.owner.op.info
    number = trace.owner.outputs.index(trace) - info.n_mit_mot
    taps = [*info.mit_sot_in_slices, *info.sit_sot_in_slices]
    return -min(taps[number]) if 0 <= number < len(taps) else 0


def trace_of(
    trace: TensorVariable, inner: Variable
) -> tuple[TensorVariable | None, TensorVariable | None]:
    """Return the values over all steps of a variable inside a scan, and where they come from.

    Parameters
    ----------
    trace : TensorVariable
        An output of the scan.
    inner : Variable
        A variable inside the scan that its `inner_value` is computed from.

    Returns
    -------
    values : TensorVariable or None
        The values; None if they can only be computed in the scan.
    source : TensorVariable or None
        The output or sequence of the scan that has these values; None if they are computed outside
        of it.
    """
    node = trace.owner
    op, info = node.op, node.op.info
    mappings = op.get_oinp_iinp_iout_oout_mappings()
    count = trace.shape[0] - first_computed_row(trace)
    numbers = range(info.n_mit_mot, len(node.outputs) - info.n_untraced_sit_sot)
    traces: dict[Variable, TensorVariable] = {_value_of(op, i): node.outputs[i] for i in numbers}
    # What each step can use: what the scan computes, earlier states, and the sequences.
    steps: dict[Variable, TensorVariable] = {
        value: output[first_computed_row(output) :] for value, output in traces.items()
    }
    if inner in steps:
        return steps[inner], traces[inner]
    taps = [*info.mit_sot_in_slices, *info.sit_sot_in_slices]
    for i, before in enumerate(taps, start=info.n_mit_mot):
        output, start = node.outputs[i], first_computed_row(node.outputs[i])
        for k, tap in zip(mappings["inner_inp_from_outer_out"][i], before, strict=True):
            steps[op.inner_inputs[k]] = output[start + tap : start + tap + count]
    for i in range(info.n_seqs):
        steps[op.inner_inputs[i]] = node.inputs[1 + i][:count]
    if inner in op.inner_inputs[: info.n_seqs]:
        return steps[inner], node.inputs[1 + op.inner_inputs.index(inner)]
    outer = dict(
        zip(op.inner_non_seqs(op.inner_inputs), op.outer_non_seqs(node.inputs), strict=True)
    )
    return _computed_from(inner, steps, outer), None


def _computed_from(
    inner: Variable, steps: dict[Variable, TensorVariable], outer: dict[Variable, Variable]
) -> TensorVariable | None:
    """Return ``inner`` for all steps at once, or None if that is impossible.

    ``steps`` maps variables inside the scan to their values over all steps, ``outer`` maps others
    to their values outside, which are the same in every step.
    """
    nodes = list(toposort([inner], blockers=list(steps)))
    used = {v for node in nodes for v in node.inputs if v.owner is None or v in steps}
    known = all(v in steps or v in outer or isinstance(v, Constant) for v in used)
    if not known or any(isinstance(node.op, RandomVariable) for node in nodes):
        return None
    fresh = {v: v.type() for v in used if v in steps}
    if not fresh:
        return None
    bound: dict[Variable, Variable] = {**outer, **fresh}
    for node in nodes:
        bound.update(zip(node.outputs, copy_of_frozen(node, bound).outputs, strict=True))
    try:
        values = vectorize_graph(bound[inner], {fresh[v]: steps[v] for v in fresh})
    except (NotImplementedError, TypeError, ValueError):
        return None  # an op that PyTensor cannot vectorize
    return values if isinstance(values, TensorVariable) else None


def _value_of(op: Scan, number: int) -> TensorVariable:
    """Return the variable inside a scan that becomes the output with this number."""
    inner = op.get_oinp_iinp_iout_oout_mappings()["inner_out_from_outer_out"][number]
    return op.inner_outputs[inner[-1]]
