"""Blocks of the approximate Fisher matrix: their factors, damped inverses and products."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs import vectors
from symng.graphs.inverses import divided_inverse
from symng.objective.parameter_views import View

Shape = tuple[int, ...]


class Block(ABC):
    """Parameters whose part of the Fisher matrix is approximated by itself.

    The factors of a block, and what becomes of them when they are inverted, have ``shapes``.

    Attributes
    ----------
    kind : str
        What it is called in a description.
    """

    kind: str

    @property
    @abstractmethod
    def params(self) -> tuple[int, ...]:
        """The numbers of the block's parameters among all."""

    @property
    @abstractmethod
    def shapes(self) -> list[Shape]:
        """Shapes of the factors."""

    def is_mean(self, number: int) -> bool:
        """Return whether this factor is a mean over the terms of a sum; the others are sums."""
        return False

    @abstractmethod
    def invert(
        self, factors: Sequence[TensorVariable], damping: TensorVariable
    ) -> list[TensorVariable]:
        """Return what `apply` needs of the block with damping, in the shapes of the factors."""

    @abstractmethod
    def apply(
        self,
        inverses: Sequence[TensorVariable],
        slices: Sequence[TensorVariable],
        out: MutableSequence[TensorVariable],
    ) -> None:
        """Put the product of the inverse with ``slices``, one for each parameter, into ``out``."""


@dataclass(frozen=True)
class Diagonal(Block):
    """A parameter of which only the diagonal is kept."""

    index: int
    shape: Shape
    kind = "diagonal"

    @property
    def params(self) -> tuple[int, ...]:
        return (self.index,)

    @property
    def shapes(self) -> list[Shape]:
        return [(math.prod(self.shape),)]

    def invert(
        self, factors: Sequence[TensorVariable], damping: TensorVariable
    ) -> list[TensorVariable]:
        return [_reciprocal(factors[0] + damping)]

    def apply(
        self,
        inverses: Sequence[TensorVariable],
        slices: Sequence[TensorVariable],
        out: MutableSequence[TensorVariable],
    ) -> None:
        out[self.index] = inverses[0].reshape(self.shape) * slices[self.index]


@dataclass(frozen=True)
class Layer(Block):
    """Weights W that multiply rows h, with the bias b of the products, if they have one.

    Their block is A (x) G, with A the mean of h h^T, where h has a 1 added for the bias, and G the
    sum of g g^T for an example, where g is the derivative by h W + b. Where rows are taken from W
    by their numbers, h has a single 1, and A is kept as its diagonal.

    Where W^T multiplies rows k, too, with derivatives d, the block is that of A (x) G + D (x) K,
    with K and D from k and d as A and G from h and g. It is taken as the Kronecker product that
    has the same partial traces: (A tr G + D tr K) (x) (G tr A + K tr D) / (tr A tr G + tr D tr K).

    Attributes
    ----------
    weights, bias : int
        The numbers of W and b among the parameters; None without a bias.
    shape, bias_shape : tuple of int
        Shapes of the parameters.
    matrix : View
        The parameter as the matrix W.
    kind : str
        What kind of layer it is.
    is_lookup, is_mirrored : bool
        Whether rows are taken by their numbers, and whether W^T multiplies, too.
    """

    weights: int
    bias: int | None
    shape: Shape
    matrix: View
    kind: str = field(compare=False)
    bias_shape: Shape = ()
    is_lookup: bool = False
    is_mirrored: bool = False

    @property
    def rows(self) -> int:
        """The length of h."""
        return self.matrix.lengths[0] + (self.bias is not None)

    @property
    def columns(self) -> int:
        """The length of g."""
        return self.matrix.lengths[1]

    @property
    def params(self) -> tuple[int, ...]:
        return (self.weights,) if self.bias is None else (self.weights, self.bias)

    @property
    def shapes(self) -> list[Shape]:
        rows, columns = (self.rows,) * 2, (self.columns,) * 2
        own: list[Shape] = [(self.rows,) if self.is_lookup else rows, columns]
        return [*own, columns, rows] if self.is_mirrored else own

    def is_mean(self, number: int) -> bool:
        return number % 2 == 0

    def invert(
        self, factors: Sequence[TensorVariable], damping: TensorVariable
    ) -> list[TensorVariable]:
        """Return the inverses of A and G, which share the damping.

        (A + pi sqrt(lambda) I) (x) (G + sqrt(lambda) / pi I), with pi^2 the ratio of their mean
        eigenvalues.
        """
        dtype = factors[0].type.dtype
        one = pt.constant(1, dtype=dtype)
        pair = _same_traces(factors) if self.is_mirrored else factors
        means = [_eigenvalues(t).mean().astype(dtype) for t in pair]
        pi = pt.sqrt(means[0] / means[1])
        pi = pt.switch((pi > 0) & pt.isfinite(pi), pi, one)
        root = pt.sqrt(damping)
        inverses = []
        for t, mean, shift in zip(pair, means, (pi * root, root / pi), strict=True):
            inverses.append(_damped_inverse(t, mean, shift))
        if self.is_mirrored:  # in the places of G and D, for A may be a diagonal
            left, right = inverses
            return [pt.zeros_like(factors[0]), right, pt.zeros_like(right), left]
        return inverses

    def apply(
        self,
        inverses: Sequence[TensorVariable],
        slices: Sequence[TensorVariable],
        out: MutableSequence[TensorVariable],
    ) -> None:
        left, right = inverses[-1 if self.is_mirrored else 0], inverses[1]
        V = self.matrix(slices[self.weights], self.shape)
        if self.bias is not None:
            V = pt.concatenate([V, slices[self.bias].flatten()[None, :]], axis=0)
        V = left[:, None] * V if left.type.ndim == 1 else pt.dot(left, V)
        V = pt.dot(V, right)
        if self.bias is not None:
            out[self.bias] = V[-1].reshape(self.bias_shape)
            V = V[:-1]
        out[self.weights] = self.matrix.inverse(V, self.shape)


@dataclass(frozen=True)
class Joint(Block):
    """Small parameters, such as the scale and the shift of a normalization, with their own block.

    It is the mean of g g^T over the examples, where g is the derivative by the parameters of an
    example, one after another.
    """

    numbers: tuple[int, ...]
    own_shapes: tuple[Shape, ...]
    kind = "scales and shifts"

    @property
    def params(self) -> tuple[int, ...]:
        return self.numbers

    @property
    def shapes(self) -> list[Shape]:
        return [(sum(map(math.prod, self.own_shapes)),) * 2]

    def invert(
        self, factors: Sequence[TensorVariable], damping: TensorVariable
    ) -> list[TensorVariable]:
        (F,) = factors
        return [_damped_inverse(F, pt.diagonal(F).mean().astype(F.type.dtype), damping)]

    def apply(
        self,
        inverses: Sequence[TensorVariable],
        slices: Sequence[TensorVariable],
        out: MutableSequence[TensorVariable],
    ) -> None:
        v = pt.concatenate([slices[i].flatten() for i in self.params])
        solved = vectors.cut(pt.dot(inverses[0], v), self.own_shapes)
        for i, part in zip(self.params, solved, strict=True):
            out[i] = part


def _damped_inverse(
    t: TensorVariable, mean: TensorVariable, shift: TensorVariable
) -> TensorVariable:
    """Return the inverse of a matrix, or of one kept as a diagonal, plus a multiple of I.

    ``mean`` is that of its eigenvalues.
    """
    n, dtype = t.type.shape[0], t.type.dtype
    # So that there is an inverse even without damping, and for a dead layer.
    tiny = pt.constant(10 * np.finfo(dtype).eps, dtype=dtype)
    shift = pt.maximum(shift, n * tiny * mean)
    shift = pt.switch(shift > 0, shift, pt.constant(1, dtype=dtype))
    if t.type.ndim == 1:
        return 1 / (t + shift)
    inverse = pt.as_tensor_variable(divided_inverse(t + shift * pt.eye(n, dtype=dtype)))
    return ((inverse + inverse.T) / 2).astype(dtype)


def _reciprocal(v: TensorVariable) -> TensorVariable:
    """Return 1 / v where ``v`` is positive, and 1 elsewhere."""
    return 1 / pt.switch(v > 0, v, pt.constant(1, dtype=v.type.dtype))


def _eigenvalues(t: TensorVariable) -> TensorVariable:
    """Return a vector with the sum of the eigenvalues of a matrix, or of one kept as a diagonal."""
    return t if t.type.ndim == 1 else pt.diagonal(t)


def _same_traces(factors: Sequence[TensorVariable]) -> list[TensorVariable]:
    """Return the Kronecker product with the partial traces of A (x) G + D (x) K."""
    A, G, K, D = factors
    a, g, k, d = (_eigenvalues(t).sum().astype(t.type.dtype) for t in factors)
    A = pt.diag(A) if A.type.ndim == 1 else A
    return [(A * g + D * k) * _reciprocal(a * g + d * k), G * a + K * d]
