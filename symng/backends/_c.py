"""C and plain Python, whose virtual machines run a graph op by op."""

from __future__ import annotations

from collections.abc import Sequence

from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import Mode, predefined_linkers
from pytensor.graph.basic import Variable
from pytensor.graph.op import Op
from pytensor.graph.traversal import toposort
from pytensor.scan.op import Scan
from pytensor.tensor.blockwise import Blockwise

from symng.backends._tracebacks import failing_op
from symng.backends.base import Backend


class Python(Backend):
    """Ops in Python, run one by one."""

    name = "python"
    mode_name = "FAST_COMPILE"

    def locate(self, error: Exception) -> str:
        op = failing_op(error)
        return "" if op is None else str(op)


class C(Python):
    """Ops compiled to C, run one by one."""

    name = "c"
    mode_name = "CVM"
    compiler = "C"

    def tune(self, mode: Mode, outputs: Sequence[Variable]) -> Mode:
        """Return the mode with loops that pass their state on without a copy.

        PyTensor copies the state into a buffer in each iteration. It has to where a loop keeps the
        memory of its intermediates: the next state would overwrite the current one.
        """
        if any(_keeps_memory(op) for op in _loops_in(outputs)):
            return mode
        return mode.including("scan_save_mem_no_prealloc").excluding("scan_save_mem_prealloc")


def _loops_in(outputs: Sequence[Variable]) -> list[Scan]:
    """Return the loops of a graph, and of the ops in it that are graphs themselves."""
    loops: list[Scan] = []
    for node in toposort(outputs):
        op: Op = node.op.core_op if isinstance(node.op, Blockwise) else node.op
        if isinstance(op, Scan):
            loops.append(op)
        elif isinstance(op, OpFromGraph):
            loops += _loops_in(op.fgraph.outputs)
    return loops


def _keeps_memory(op: Scan) -> bool:
    """Return whether a loop keeps the memory of its intermediates from one round to the next."""
    if op.mode in (None, "FAST_RUN"):
        return not predefined_linkers["cvm"].allow_gc  # the flag, as it was at the first import
    return not op.allow_gc
