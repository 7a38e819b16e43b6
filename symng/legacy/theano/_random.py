"""``theano.tensor.shared_randomstreams``: streams with the numbers of NumPy's RandomState.

Uniform, binomial and multinomial draws are those that Theano gave for the same seed; normal ones,
whole numbers and orders are not, since NumPy has other methods for them today.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.random import basic

from symng.legacy.theano._function import quiet

__all__ = ["RandomStreams"]


class SharedState:
    """The generator of a draw, read and written as a `numpy.random.RandomState`."""

    def __init__(self, variable: SharedVariable) -> None:
        self.variable = variable

    def get_value(self, borrow: bool = False, **_: Any) -> np.random.RandomState:
        """Return the state; with ``borrow=True``, seeding it seeds the draw."""
        return np.random.RandomState(self.variable.get_value(borrow=borrow).bit_generator)

    def set_value(self, state: np.random.RandomState, borrow: bool = False) -> None:
        """Go on from a state."""
        state = state if borrow else copy.deepcopy(state)
        self.variable.set_value(np.random.Generator(state._bit_generator), borrow=True)


class Streams:
    """What all streams share: a generator for each draw, seeded from one."""

    def __init__(self, seed: Any = None, **_: Any) -> None:
        if isinstance(seed, np.random.RandomState):
            seed = int(seed.randint(2**30))
        self.default_instance_seed = seed
        self.state_updates: list[tuple[Any, Any]] = []
        self.gen_seedgen = np.random.RandomState(seed)

    def updates(self) -> list[tuple[Any, Any]]:
        """Return pairs of generators and next states, which functions apply by themselves."""
        return list(self.state_updates)

    def seed(self, seed: int | None = None) -> None:
        """Start all generators again."""
        self.gen_seedgen = np.random.RandomState(
            self.default_instance_seed if seed is None else seed
        )
        for rng, _ in self.state_updates:
            rng.set_value(self._generator(), borrow=True)

    def gen(
        self, op: Callable[..., Any], *arguments: Any, dtype: str | None = None, **options: Any
    ) -> Any:
        """Return a draw by an op of PyTensor, in a dtype; its generator moves on at each call.

        The draw's ``rng`` is its generator, and its ``update`` that with its next state.
        """
        rng = pytensor.shared(self._generator(), borrow=True)
        draw = op(*arguments, **options, rng=rng)
        state = draw.owner.outputs[0]
        with quiet():
            rng.default_update = state
        self.state_updates.append((rng, state))
        draw = draw.astype(dtype or draw.dtype)
        draw.rng, draw.update = SharedState(rng), (rng, state)
        return draw

    def _generator(self) -> np.random.Generator:
        """Return the generator of the next stream, with the state of a RandomState."""
        state = np.random.RandomState(int(self.gen_seedgen.randint(2**30)))
        return np.random.Generator(state._bit_generator)

    def uniform(
        self,
        size: Any = None,
        low: Any = 0.0,
        high: Any = 1.0,
        ndim: int | None = None,
        dtype: str | None = None,
        nstreams: Any = None,
    ) -> Any:
        """Return numbers spread evenly from ``low`` to ``high``."""
        return self.gen(basic.uniform, low, high, size=size, dtype=_float(dtype))

    def normal(
        self,
        size: Any = None,
        avg: Any = 0.0,
        std: Any = 1.0,
        ndim: int | None = None,
        dtype: str | None = None,
        nstreams: Any = None,
    ) -> Any:
        """Return draws of a Gaussian of mean ``avg`` and standard deviation ``std``."""
        return self.gen(basic.normal, avg, std, size=size, dtype=_float(dtype))

    def binomial(
        self,
        size: Any = None,
        n: Any = 1,
        p: Any = 0.5,
        ndim: int | None = None,
        dtype: str = "int64",
        nstreams: Any = None,
        prob: Any = None,
    ) -> Any:
        """Return the number of successes in ``n`` trials that succeed with probability ``p``."""
        p = p if prob is None else prob
        return self.gen(basic.binomial, n, p, size=size, dtype=dtype)

    def multinomial(
        self,
        size: Any = None,
        n: Any = 1,
        pvals: Any = None,
        ndim: int | None = None,
        dtype: str = "int64",
        nstreams: Any = None,
    ) -> Any:
        """Return how often each outcome comes up in ``n`` trials, for each row of ``pvals``."""
        return self.gen(basic.multinomial, n, pvals, size=size, dtype=dtype)

    def choice(
        self,
        size: Any = None,
        a: Any = 2,
        replace: bool = True,
        p: Any = None,
        ndim: int | None = None,
        dtype: str = "int64",
    ) -> Any:
        """Return entries of ``a``, or of the numbers below it."""
        return self.gen(basic.choice, a, size=size, replace=replace, p=p, dtype=dtype)


class RandomStreams(Streams):
    """Random draws in a graph, each with a generator of its own."""

    def random_integers(
        self,
        size: Any = None,
        low: Any = 0,
        high: Any = 1,
        ndim: int | None = None,
        dtype: str = "int64",
    ) -> Any:
        """Return whole numbers from ``low`` to ``high``, both included."""
        end = pt.as_tensor_variable(high) + 1
        return self.gen(basic.integers, low, end, size=size, dtype=dtype)

    def permutation(
        self, size: Any = None, n: int = 1, ndim: int | None = None, dtype: str = "int64"
    ) -> Any:
        """Return random orders of the numbers below ``n``, as many as ``size`` says."""
        if size is None:
            return self.gen(basic.permutation, n, dtype=dtype)
        return self.shuffle_row_elements(pt.alloc(pt.arange(n, dtype=dtype), *size, n))

    def shuffle_row_elements(self, input: Any) -> Any:
        """Return the rows with their entries in random order, another one for each row."""
        keys = self.uniform(size=pt.as_tensor_variable(input).shape)
        return pt.take_along_axis(input, pt.argsort(keys, axis=-1), axis=-1)


def _float(dtype: str | None) -> str:
    """Return a dtype, floatX without one."""
    return dtype or str(pytensor.config.floatX)
