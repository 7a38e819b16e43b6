"""What the solvers share: the scaled system, checks of its arguments, tables of verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.variable import TensorConstant, TensorVariable

from symng._checks import Verbatim, argument_error, check_number, is_symbolic
from symng.operators import LinearOperator
from symng.solvers.solution import Status

Product = Callable[[TensorVariable], TensorVariable]


@dataclass(frozen=True, kw_only=True, eq=False)
class System:
    """(A + damping I) x = b with b and x divided by ``scale`` = max|b|, so that squares are finite.

    ``status`` is the verdict that is known before the first product: ``RUNNING`` if there is none.
    """

    product: Product
    precondition: Product | None
    b: TensorVariable
    x0: TensorVariable | None
    start: TensorVariable
    scale: TensorVariable
    b_norm: TensorVariable
    status: TensorVariable

    @property
    def eps(self) -> float:
        """Return the rounding unit of the dtype."""
        return float(np.finfo(self.b.dtype).eps)

    @property
    def size(self) -> TensorVariable:
        """Return the length of b."""
        return self.b.shape[0]

    def number(self, value: Any) -> TensorVariable:
        """Return ``value`` as a scalar of the system's dtype."""
        return pt.cast(pt.as_tensor_variable(value), self.b.dtype)

    def invert_preconditioner(self, r: TensorVariable) -> TensorVariable:
        """Return M⁻¹ r, which is r itself without a preconditioner."""
        return r if self.precondition is None else self.precondition(r)


def make_system(A: Any, b: Any, damping: Any, x0: Any, preconditioner: Any, check: bool) -> System:
    """Check the arguments of a solve and scale the system by max|b|."""
    b = _right_hand_side(A, b)
    dtype = b.type.dtype
    check_number("damping", damping, symbolic=True)
    shift = None if _is_zero(damping) else pt.cast(pt.as_tensor_variable(damping), dtype)
    multiply = _product("A", A, b)
    invert = None if preconditioner is None else _product("preconditioner", preconditioner, b)

    def product(v: TensorVariable) -> TensorVariable:
        return multiply(v) if shift is None else multiply(v) + shift * v

    largest = abs(b).max()
    finite = pt.isfinite(largest)
    scale = pt.switch(finite & (largest > 0), largest, _one(dtype))
    scaled = pt.switch(finite, b / scale, pt.zeros_like(b))
    start = pt.zeros_like(scaled)
    if x0 is not None:
        x0 = _vector("x0", x0)
        if x0.type.dtype != dtype:
            raise argument_error("x0", f"dtype {dtype} as that of b", x0, error=TypeError)
        x0 = _of_length("x0", "a vector", x0, b)
        x0_finite = pt.isfinite(abs(x0).max())
        start = pt.switch(x0_finite & (largest > 0), x0 / scale, start)
        finite = finite & x0_finite
    if shift is not None:
        finite = finite & pt.isfinite(shift)
    table = [(pt.invert(finite), Status.NOT_FINITE), (pt.eq(largest, 0), Status.ZERO_RHS)]
    if check:
        table.append((pt.invert(pt.isfinite(product(scaled).sum())), Status.NOT_FINITE))
        if invert is not None:
            definite = _is_symmetric(invert, scaled, definite=True)
            table.append((pt.invert(definite), Status.BAD_PRECONDITIONER))
        table.append((pt.invert(_is_symmetric(product, scaled)), Status.NOT_SYMMETRIC))
    return System(
        product=product,
        precondition=invert,
        b=scaled,
        x0=x0,
        start=start,
        scale=scale,
        b_norm=norm(scaled),
        status=first_true(*table, default=Status.RUNNING),
    )


def dot(u: TensorVariable, v: TensorVariable) -> TensorVariable:
    """Return the inner product of two vectors, summed in their own dtype on every backend."""
    return pt.dot(u, v)


def norm(v: TensorVariable) -> TensorVariable:
    """Return the Euclidean norm of a vector."""
    return pt.sqrt(dot(v, v))


def first_true(
    *table: tuple[TensorVariable, Status], default: Status | TensorVariable
) -> TensorVariable:
    """Return the verdict beside the first condition that holds, ``default`` where none does."""
    verdict = integer(default)
    for condition, status in reversed(table):
        verdict = pt.switch(condition, integer(status), verdict)
    return verdict


def is_any(verdict: TensorVariable, *statuses: Status) -> TensorVariable:
    """Return whether a verdict is one of ``statuses``."""
    return reduce(or_, [pt.eq(verdict, status) for status in statuses])


def where(
    condition: TensorVariable, value: TensorVariable, otherwise: TensorVariable
) -> TensorVariable:
    """Return ``value`` where a condition holds; a constant one selects while the graph is built."""
    if isinstance(condition, TensorConstant):
        return value if condition.data else otherwise
    return pt.switch(condition, value, otherwise)


def integer(value: int | TensorVariable) -> TensorVariable:
    """Return a verdict, a phase or a count as a symbolic integer."""
    return pt.constant(int(value), dtype="int64") if isinstance(value, int) else value


def equal(value: TensorVariable, constant: int) -> TensorVariable:
    """Return whether two integers are equal, as a constant where both are known."""
    if isinstance(value, TensorConstant):
        return pt.constant(np.array(int(value.data) == constant))
    return pt.eq(value, constant)


def _one(dtype: str) -> TensorVariable:
    """Return 1 in ``dtype``."""
    return pt.constant(1, dtype=dtype)


def _is_zero(value: Any) -> bool:
    """Return whether a setting is the number zero, so that its term can be left out."""
    return not is_symbolic(value) and value == 0


def _vector(name: str, value: Any) -> TensorVariable:
    """Return an argument as a symbolic vector of floats."""
    expected = "a vector of float32 or float64"
    try:
        vector = pt.as_tensor_variable(value)
    except (TypeError, NotImplementedError, AttributeError):
        raise argument_error(name, expected, value, error=TypeError) from None
    if vector.type.ndim != 1 or vector.type.dtype not in ("float32", "float64"):
        raise argument_error(name, expected, vector, "Flatten or cast it first.", TypeError)
    return vector


def _right_hand_side(A: Any, b: Any) -> TensorVariable:
    """Return b as a symbolic vector that is not empty and as long as the operator requires."""
    b = _vector("b", b)
    length = b.type.shape[0]
    if length == 0:
        raise argument_error("b", "at least one number", Verbatim("a vector of length 0"))
    if isinstance(A, LinearOperator):
        if length not in (None, A.size):
            raise argument_error(
                "b",
                f"a vector of length {A.size}, the size of A",
                Verbatim(f"one of length {length}"),
            )
        return pt.specify_shape(b, (A.size,)) if length is None else b
    return (
        b
        if length is not None
        else _refuse_unless(b.shape[0] > 0, b, "b: expected at least one number, got none.")
    )


def _of_length(name: str, what: str, vector: TensorVariable, b: TensorVariable) -> TensorVariable:
    """Return ``vector`` if it is as long as b; refuse another as soon as the lengths are known.

    Broadcasting would take one of length 1 for one of any length.
    """
    length, expected = vector.type.shape[0], b.type.shape[0]
    if expected is None:
        message = f"{name}: expected {what} of the length of b, got one of another length."
        return _refuse_unless(pt.eq(vector.shape[0], b.shape[0]), vector, message)
    if length is None:
        # The message of this check says less, but the result has a known length.
        return pt.specify_shape(vector, (expected,))
    if length != expected:
        raise argument_error(
            name, f"{what} of length {expected}, that of b", Verbatim(f"one of length {length}")
        )
    return vector


def _refuse_unless(condition: Any, vector: TensorVariable, message: str) -> TensorVariable:
    """Return ``vector``, with a check of ``condition`` when it is computed."""
    checked: Any = CheckAndRaise(ValueError, message)(vector, condition)
    return checked


def _product(name: str, operator: Any, b: TensorVariable) -> Product:
    """Return the product with an operator, a callable, or an object with ``matvec``, checked."""
    if hasattr(operator, "matvec"):
        apply = operator.matvec
    elif callable(operator) and not isinstance(operator, type):
        apply = operator
    else:
        hint = "Wrap a matrix as `lambda v: matrix @ v`."
        raise argument_error(
            name,
            "a LinearOperator or a callable from vector to vector",
            operator,
            hint,
            TypeError,
        )

    def product(v: TensorVariable) -> TensorVariable:
        result = pt.as_tensor_variable(apply(v))
        if result.type.ndim != 1:
            raise argument_error(
                name,
                "a callable that returns a vector",
                Verbatim(f"one that returns {result.type}"),
                error=TypeError,
            )
        if result.type.dtype != b.type.dtype:
            raise argument_error(
                name,
                f"a product of dtype {b.type.dtype}, that of b",
                Verbatim(f"one of dtype {result.type.dtype}"),
                "Cast b or the parameters so that they agree.",
                TypeError,
            )
        return _of_length(name, "a product", result, b)

    return product


def _is_symmetric(product: Product, v: TensorVariable, definite: bool = False) -> TensorVariable:
    """Return whether u.(A v) = v.(A u) up to rounding, for a fixed irregular u.

    With ``definite``, u.(A u) and v.(A v) must be positive, too.
    """
    tolerance = float(np.finfo(v.dtype).eps) ** (2 / 3)
    u = pt.cast(pt.cos(pt.sqr(pt.arange(v.shape[0], dtype="float64"))), v.dtype)
    Au, Av = product(u), product(v)
    size = norm(u) * norm(Av) + norm(v) * norm(Au)
    # Written so that NaN is not called asymmetric: it has its own verdict.
    good = pt.invert(abs(dot(u, Av) - dot(v, Au)) > np.asarray(tolerance, dtype=v.dtype) * size)
    if definite:
        good = good & pt.invert(dot(u, Au) <= 0) & pt.invert((dot(v, Av) <= 0) & (dot(v, v) > 0))
    return good
