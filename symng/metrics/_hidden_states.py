"""Hidden states of a model, found in its scans or given, and their distributions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytensor.tensor as pt
from pytensor.graph.basic import Apply
from pytensor.graph.traversal import ancestors, toposort
from pytensor.scan.op import Scan
from pytensor.tensor.variable import TensorVariable

from symng.likelihoods import Gaussian, Likelihood, Sign
from symng.objective import Objective
from symng.objective.activations import below_views, read_activation


@dataclass(frozen=True, eq=False)
class Hidden:
    """A hidden state h, its pre-activation e if known, and the distribution of its activation."""

    h: TensorVariable
    e: TensorVariable | None
    likelihood: Likelihood
    source: str

    @property
    def end(self) -> TensorVariable:
        """The variable on which the Fisher matrix of the state is formed."""
        return self.h if self.e is None else self.e

    def metric_product(self, tangent: TensorVariable) -> TensorVariable:
        """Return the Fisher matrix of p(h) with respect to `end`, times ``tangent``."""
        if self.e is not None:
            return self.likelihood.metric_product(self.e, tangent)
        # On h the metric is diagonal. For a unit that is saturated to rounding it is 1 / 0, but the
        # tangent is 0 up to rounding: such units are left out.
        weights = self.likelihood.output_metric_product(self.h, pt.ones_like(self.h))
        return pt.switch(pt.isinf(weights), pt.zeros_like(weights), weights) * tangent


def read_hidden(h: TensorVariable, likelihood: Likelihood | None = None) -> Hidden:
    """Return ``h`` with the distribution read off its activation, unless ``likelihood`` is given.

    If ``h`` is a trace of a scan, its activation is read inside the scan; its pre-activation stays
    in the loop.
    """
    end, _ = below_views(h)
    in_scan = end.owner is not None and isinstance(end.owner.op, Scan)
    found = read_activation(h, tanh=Sign())
    where = " in a scan" if in_scan else ""
    if likelihood is not None and likelihood.is_logits:
        return Hidden(likelihood.mean(h), h, likelihood, "given, state taken as logits")
    if found is None:
        source = "given" if likelihood else f"no known activation at its end{where}"
        return Hidden(h, None, likelihood or Gaussian(), source)
    if likelihood is None:
        likelihood, source = found.likelihood, f"read off {found.source}"
    else:
        source = "given"
    has_e = not in_scan and type(found.likelihood) is type(likelihood)
    return Hidden(h, found.preactivation if has_e else None, likelihood, source)


def recurrent_states(objective: Objective) -> list[TensorVariable]:
    """Return the traces of the recurrent states that the outputs depend on, without initial values.

    They are found in the scans that the outputs are computed from, not in scans within scans.
    States are those that hold floating-point numbers which the parameters enter.
    """
    outputs, params = [head.y for head in objective.heads], set(objective.params)
    reached = set(ancestors(outputs))
    traces: list[TensorVariable] = []
    for node in toposort(outputs):
        if isinstance(node.op, Scan):
            used = [i for i, v in enumerate(node.outputs) if v in reached]
            traces += [
                trace for trace in _traces(node, used) if not params.isdisjoint(ancestors([trace]))
            ]
    return traces


def _traces(node: Apply, used: Sequence[int]) -> Iterator[TensorVariable]:
    """Yield the traces of those states of a scan that its outputs numbered ``used`` depend on."""
    op = node.op
    lookup = op.get_oinp_iinp_iout_oout_mappings()
    inner_inputs, inner_outputs = op.inner_inputs, op.inner_outputs
    fed_by = {
        i: {inner_inputs[k] for k in lookup["inner_inp_from_outer_out"][i]}
        for i in range(len(node.outputs))
    }
    needed: set[int] = set()
    following = set(used)
    while following:
        needed |= following
        values = [
            inner_outputs[k] for i in following for k in lookup["inner_out_from_outer_out"][i]
        ]
        reached = set(ancestors(values))
        following = {
            i for i, fed in fed_by.items() if i not in needed and not fed.isdisjoint(reached)
        }
    for i, taps in enumerate(
        (*op.info.mit_sot_in_slices, *op.info.sit_sot_in_slices), start=op.info.n_mit_mot
    ):
        buffer = node.outputs[i]
        if i in needed and isinstance(buffer, TensorVariable) and buffer.dtype.startswith("float"):
            yield buffer[-min(taps) :]
