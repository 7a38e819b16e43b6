"""Systems whose vectors are lists of tensors, for solvers that take one flat vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.solvers import Solution, Solver

Tensors = list[TensorVariable]


class ListSystem:
    """(A + λI) x = b with x and b lists of tensors.

    With a diagonal M the system is the symmetric one of M^(-1/2) (A + λI) M^(-1/2), so that all
    norms of a solution are those of the tests, r·M⁻¹r among them.

    Parameters
    ----------
    compute : callable
        From the tensors of v to those of A v: a list, or a pair (list, updates) without updates.
    bs : sequence of tensors
        The right-hand side.
    shapes : sequence of shapes, optional
        Those of ``bs``. Default: what the types and the values of shared variables say, or else
        the graph.
    Ms : sequence of tensors, optional
        The diagonal of M, positive, in the shapes of ``bs``.
    damp : float or symbolic scalar, default 0.0
        λ.
    """

    def __init__(
        self,
        compute: Callable[..., Any],
        bs: Sequence[Any],
        shapes: Sequence[Any] | None = None,
        Ms: Sequence[Any] | None = None,
        damp: Any = 0.0,
    ) -> None:
        self.compute = compute
        self.bs = [pt.as_tensor_variable(b) for b in bs]
        if not self.bs:
            raise argument_error("bs", "at least one tensor", Verbatim("none"))
        self.shapes = _shapes_of(self.bs, shapes)
        flat = _join(self.bs)
        self.dtype = flat.type.dtype if flat.type.dtype in FLOATS else pytensor.config.floatX
        self.b = self._as_vector(flat)
        self.damp: Any = damp
        self.scale: TensorVariable | None = None
        if Ms is not None:
            self.scale = 1 / pt.sqrt(self._as_vector(self.join("Ms", Ms)))
            self.b = self.scale * self.b

    def join(self, name: str, tensors: Any) -> TensorVariable:
        """Return tensors in the order of ``bs`` as one flat vector of their dtype."""
        if not isinstance(tensors, list | tuple):
            raise argument_error(name, "a list of tensors", tensors, error=TypeError)
        if len(tensors) != len(self.bs):
            expected = f"{len(self.bs)} tensors, as many as bs"
            raise argument_error(name, expected, Verbatim(f"{len(tensors)}"))
        return _join([pt.as_tensor_variable(t) for t in tensors])

    def cut(self, vector: TensorVariable) -> Tensors:
        """Return a flat vector as a list of tensors in the shapes of ``bs``."""
        tensors, start = [], 0
        for shape, b in zip(self.shapes, self.bs, strict=True):
            stop = start + (math.prod(shape) if isinstance(shape, tuple) else b.size)
            tensors.append(vector[start:stop].reshape(shape, ndim=b.ndim))
            start = stop
        return tensors

    def product(self, v: TensorVariable) -> TensorVariable:
        """Return A v, or with M the product of the scaled system, λ included."""
        u = v if self.scale is None else self.scale * v
        Au = self._as_vector(self.join("compute_Av", without_updates(self.compute(*self.cut(u)))))
        if self.scale is None:
            return Au
        return self.scale * (Au + pt.cast(pt.as_tensor_variable(self.damp), self.dtype) * u)

    def solve(self, solver: Solver) -> tuple[Tensors, Solution]:
        """Return x as a list of tensors, and the solution of the (scaled) system."""
        damping = self.damp if self.scale is None else 0.0
        solution = solver.solve(self.product, self.b, damping=damping)
        x = solution.x if self.scale is None else self.scale * solution.x
        return self.cut(x), solution

    def _as_vector(self, flat: TensorVariable) -> TensorVariable:
        """Return a flat vector in the dtype of the system, of a static length where it is known."""
        flat = pt.cast(flat, self.dtype)
        if all(isinstance(shape, tuple) for shape in self.shapes):
            length = sum(math.prod(shape) for shape in self.shapes)
            if flat.type.shape != (length,):
                return pt.specify_shape(flat, (length,))
        return flat


FLOATS = ("float32", "float64")


def without_updates(result: Any) -> list[Any]:
    """Return the tensors of what a product function returned, with or without updates."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], list | tuple):
        result, updates = result
        if updates:
            expected = "no updates of shared variables"
            raise argument_error("compute_Av", expected, Verbatim(f"{len(updates)}"))
    return list(result) if isinstance(result, list | tuple) else [result]


def nan_for_zero(tensors: Tensors, b: TensorVariable) -> Tensors:
    """Return NaN in place of the tensors where b is zero, as the original did (0 / 0)."""
    nan = np.asarray(np.nan, b.type.dtype)
    return [pt.switch(pt.eq(abs(b).max(), 0), nan, x) for x in tensors]


def _join(tensors: Sequence[TensorVariable]) -> TensorVariable:
    """Return tensors as one flat vector, each in C order."""
    parts = [t.flatten() for t in tensors]
    return parts[0] if len(parts) == 1 else pt.concatenate(parts)


def _shapes_of(bs: Tensors, shapes: Sequence[Any] | None) -> list[Any]:
    """Return the shape of each tensor: a tuple of integers where known, else a symbolic vector."""
    if shapes is not None:
        if len(shapes) != len(bs):
            expected = f"{len(bs)} shapes, as many as bs"
            raise argument_error("param_shapes", expected, Verbatim(f"{len(shapes)}"))
        return [tuple(int(n) for n in np.atleast_1d(shape)) for shape in shapes]
    own_shapes: list[Any] = []
    for b in bs:
        shape = (
            np.shape(b.get_value(borrow=True)) if isinstance(b, SharedVariable) else b.type.shape
        )
        own_shapes.append(b.shape if None in shape else tuple(shape))
    return own_shapes
