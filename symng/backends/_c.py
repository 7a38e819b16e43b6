"""C and plain Python, whose virtual machines run a graph op by op."""

from __future__ import annotations

import pytensor
from pytensor.compile.mode import Mode

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

    def tune(self, mode: Mode) -> Mode:
        """Return the mode with loops that pass their state on without a copy.

        PyTensor copies the state into a buffer in each iteration. It has to where it keeps the
        memory of intermediates (``allow_gc`` off): the next state would overwrite the present one.
        """
        if not pytensor.config.allow_gc:
            return mode
        return mode.including("scan_save_mem_no_prealloc").excluding("scan_save_mem_prealloc")
