"""Where in PyTensor an error was raised, read off its traceback."""

from __future__ import annotations

import traceback

from pytensor.graph.op import Op


def frames_of(error: Exception) -> list[tuple[str, str]]:
    """Return the names of module and function of each frame of a traceback, the innermost last."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame in frames]


def failing_op(error: Exception) -> Op | None:
    """Return the op that was being computed when ``error`` was raised, or None if not known."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        # The error itself holds the node only where PyTensor is set to verbose exceptions.
        if frame.f_code.co_name == "raise_with_op" and "node" in frame.f_locals:
            return frame.f_locals["node"].op
    return None
