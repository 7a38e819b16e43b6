"""The graph of a model, open where its parameters are used: also in scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import toposort
from pytensor.tensor.variable import TensorVariable

from symng.graphs.scan_slopes import open_scan
from symng.objective.parameter_uses import ParameterUse


class OpenedGraph:
    """A graph on which variables in scans can be differentiated by, and read, step by step.

    Without uses in scans it is the graph itself.

    Parameters
    ----------
    ends : sequence of TensorVariable
        What the graph computes.
    uses : sequence of ParameterUse
        Uses of parameters, some of them in scans.

    Attributes
    ----------
    ends : list of TensorVariable
        The same values as before, computed with open scans.
    """

    def __init__(self, ends: Sequence[TensorVariable], uses: Sequence[ParameterUse]) -> None:
        in_scans: dict[Apply, list[ParameterUse]] = {}
        for use in uses:
            if use.scan is not None:
                in_scans.setdefault(use.scan, []).append(use)
        self._new: dict[Variable, Any] = {}
        self._varied: dict[tuple[Apply, Variable], TensorVariable] = {}
        self._read: dict[tuple[Apply, Variable], TensorVariable] = {}
        for node in toposort(list(ends)) if in_scans else ():
            inputs = [self._new.get(v, v) for v in node.inputs]
            if node in in_scans:
                outputs = self._open(node, inputs, in_scans[node])
            elif any(v in self._new for v in node.inputs):
                outputs = node.clone_with_new_inputs(inputs).outputs
            else:
                continue
            self._new.update(zip(node.outputs, outputs, strict=True))
        self.ends = [self._new.get(v, v) for v in ends]

    def _open(
        self, node: Apply, inputs: Sequence[Variable], uses: Sequence[ParameterUse]
    ) -> list[Variable]:
        """Open a scan where parameters are used, and return its outputs."""
        varied = list(dict.fromkeys(use.output for use in uses))
        read = list(dict.fromkeys(v for use in uses for v in use.given))
        opened = open_scan(node, inputs, varied, read)
        self._varied.update(zip(((node, v) for v in varied), opened.zeros, strict=True))
        self._read.update(zip(((node, v) for v in read), opened.traces, strict=True))
        return opened.outputs

    def place(self, use: ParameterUse) -> TensorVariable:
        """Return the variable by which to differentiate for the derivative by the use's output.

        In a scan it has an axis of steps ahead.
        """
        if use.scan is not None:
            return self._varied[use.scan, use.output]
        found: TensorVariable = self._new.get(use.output, use.output)
        return found

    def given(self, use: ParameterUse) -> list[TensorVariable]:
        """Return what the parameter is used on, in a scan with an axis of steps ahead."""
        if use.scan is not None:
            return [self._read[use.scan, v] for v in use.given]
        return [self._new.get(v, v) for v in use.given]
