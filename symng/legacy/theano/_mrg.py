"""``theano.sandbox.rng_mrg``: streams under the name of the generator that Theano had for GPUs."""

from __future__ import annotations

from symng.legacy.theano._random import Streams

__all__ = ["MRG_RandomStreams"]


class MRG_RandomStreams(Streams):
    """Random draws in a graph; their distributions are Theano's, their numbers are not."""

    def __init__(self, seed: int = 12345, use_cuda: bool | None = None) -> None:
        super().__init__(int(seed))
