"""Scans whose variables inside can be differentiated by, and read, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytensor.tensor as pt
from pytensor.compile.builders import infer_shape
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors
from pytensor.scan.op import Scan
from pytensor.tensor.variable import TensorVariable

from symng.graphs.rebuild import copy_of_frozen


class OpenScan(NamedTuple):
    """A scan that adds zeros to some of its variables in each step, and returns others.

    Attributes
    ----------
    outputs : list of Variable
        What the scan returned before, with the same values.
    zeros : list of TensorVariable
        What is added, over all steps: the derivative by it is that by the variable inside.
    traces : list of TensorVariable
        The variables that it also returns, over all steps.
    """

    outputs: list[Variable]
    zeros: list[TensorVariable]
    traces: list[TensorVariable]


def open_scan(
    node: Apply, inputs: Sequence[Variable], varied: Sequence[Variable], read: Sequence[Variable]
) -> OpenScan:
    """Return the scan of ``node`` on ``inputs``, open at variables that are computed inside.

    ``varied`` are those to differentiate by, ``read`` those to return.
    """
    op = node.op
    info = replace(op.info, n_seqs=op.info.n_seqs + len(varied))
    info = replace(info, n_nit_sot=info.n_nit_sot + len(read))
    lengths = _lengths_inside(op, inputs, varied)
    zeros = [
        pt.zeros((inputs[0], *of_one), dtype=v.type.dtype)
        for v, of_one in zip(varied, lengths, strict=True)
    ]
    added: dict[Variable, Any] = {v: v.type() for v in varied}
    bound = _copies(op, added)
    first = op.info.n_seqs
    inner = [bound[v] for v in op.inner_inputs]
    inner_inputs = [*inner[:first], *added.values(), *inner[first:]]
    inner_outputs = [bound[v] for v in op.inner_outputs]
    last = len(inner_outputs) - op.info.n_untraced_sit_sot - op.info.as_while
    inner_outputs[last:last] = [pt.as_tensor_variable(bound[v]).copy() for v in read]
    opened = Scan(
        inner_inputs,
        inner_outputs,
        info,
        mode=op.mode,
        truncate_gradient=op.truncate_gradient,
        name=op.name,
        profile=op.profile,
        allow_gc=op.allow_gc,
        strict=op.strict,
    )
    before, after = list(inputs[: 1 + first]), list(inputs[1 + first :])
    others = len(after) - op.info.n_non_seqs
    after[others:others] = [inputs[0]] * len(read)  # the lengths of what is returned beside
    outputs = opened.make_node(*before, *zeros, *after).outputs
    traced = len(outputs) - op.info.n_untraced_sit_sot
    traces: list[Any] = outputs[traced - len(read) : traced]
    return OpenScan([*outputs[: traced - len(read)], *outputs[traced:]], zeros, traces)


def _copies(op: Scan, added: dict[Variable, Variable]) -> dict[Variable, Variable]:
    """Return copies of all variables inside a scan, with others added to some of them."""
    bound: dict[Variable, Any] = {v: v.type(name=v.name) for v in op.inner_inputs}
    for node in op.fgraph.toposort():
        copies: list[Any] = list(copy_of_frozen(node, bound).outputs)
        for v, copy in zip(node.outputs, copies, strict=True):
            bound[v] = copy + added[v] if v in added else copy
    # What is neither an input nor computed, such as constants.
    return _Same(bound)


class _Same(dict[Variable, Variable]):
    def __missing__(self, key: Variable) -> Variable:
        return key


def _lengths_inside(
    op: Scan, inputs: Sequence[Variable], variables: Sequence[Variable]
) -> list[tuple[Any, ...]]:
    """Return the shapes of variables inside a scan, computed from those of its inputs."""
    outer_of = op.get_oinp_iinp_iout_oout_mappings()["outer_inp_from_inner_inp"]
    bound = _copies(op, {})
    inner = [bound[v] for v in op.inner_inputs]
    lengths = []
    for k, v in enumerate(inner):
        outer: Any = inputs[outer_of[k]]
        ahead = getattr(outer.type, "ndim", 0) - getattr(v.type, "ndim", 0)  # an axis of steps
        lengths.append(tuple(outer.shape[ahead + a] for a in range(getattr(v.type, "ndim", 0))))
    shapes = infer_shape([bound[v] for v in variables], inner, lengths)
    if not set(ancestors([n for shape in shapes for n in shape])).isdisjoint(inner):
        raise NotImplementedError("a shape inside a scan that depends on values")
    return [tuple(shape) for shape in shapes]
