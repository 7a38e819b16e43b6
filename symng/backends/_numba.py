"""Numba, which compiles a graph to machine code at its first call.

Importing this module does not import numba.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable

from symng.backends.base import Backend


class Numba(Backend):
    """A graph compiled as one function, for any shapes."""

    name = "numba"
    mode_name = "NUMBA"
    compiler = "LLVM"
    compiles_on_first_call = True
    rehearsal_examples = 2

    def tune(self, mode: Mode, outputs: Sequence[Variable]) -> Mode:
        """Return the mode with matrix products that make no copies, and without large constants."""
        from symng.backends import _numba_rewrites

        _numba_rewrites.register()
        return mode.including(_numba_rewrites.TAG)
