"""What the solvers share: the scaled system, and tables of verdicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorConstant, TensorVariable

from symng._checks import check_number, is_symbolic
from symng.graphs.types import Integer, Scalar
from symng.operators import Product
from symng.solvers._arguments import (
    Operator,
    Vector,
    checked_product,
    first_iterate,
    right_hand_side,
)
from symng.solvers.solution import Status


@dataclass(frozen=True, kw_only=True, eq=False)
class System:
    """(A + λI) x = b with b and x divided by ``scale`` = max|b|, so that squares are finite.

    Attributes
    ----------
    product, precondition : callable
        The products with A + λI and with M⁻¹; None without a preconditioner.
    b, start : symbolic vector
        The right-hand side and the first iterate, both divided by ``scale``.
    cold : bool
        Whether no x0 was given, so that the first iterate is zero.
    scale, b_norm : symbolic scalar
        max|b| (1 where that is 0 or not finite), and norm(b) of the scaled b.
    status : symbolic integer
        The verdict that is known before the first product; ``RUNNING`` if there is none.
    """

    product: Product
    precondition: Product | None
    b: TensorVariable
    start: TensorVariable
    cold: bool
    scale: TensorVariable
    b_norm: TensorVariable
    status: TensorVariable

    @property
    def eps(self) -> float:
        """Return the rounding unit of the dtype."""
        return float(np.finfo(self.b.dtype).eps)

    @property
    def length(self) -> TensorVariable:
        """Return the length of b."""
        return self.b.shape[0]

    def number(self, value: Scalar) -> TensorVariable:
        """Return ``value`` as a scalar of the system's dtype."""
        return pt.cast(pt.as_tensor_variable(value), self.b.dtype)

    def invert_preconditioner(self, r: TensorVariable) -> TensorVariable:
        """Return M⁻¹ r, which is r itself without a preconditioner."""
        return r if self.precondition is None else self.precondition(r)


def make_system(
    A: Operator,
    b: Vector,
    damping: Scalar = 0.0,
    x0: Vector | None = None,
    preconditioner: Operator | None = None,
    check: bool = False,
) -> System:
    """Return the system of a solve, scaled by max|b|, if its arguments fit.

    With ``check``, A and the preconditioner are tested on two vectors, too.
    """
    b = right_hand_side(A, b)
    dtype = b.type.dtype
    check_number("damping", damping, symbolic=True)
    multiply = checked_product("A", A, b)
    invert = (
        None if preconditioner is None else checked_product("preconditioner", preconditioner, b)
    )

    largest = abs(b).max()
    finite = pt.isfinite(largest)
    scale = divisor(largest)
    scaled = pt.switch(finite, b / scale, pt.zeros_like(b))
    start = pt.zeros_like(scaled)
    if x0 is not None:
        x0 = first_iterate(x0, b)
        x0_finite = pt.isfinite(abs(x0).max())
        start = pt.switch(x0_finite & (largest > 0), x0 / scale, start)
        finite = finite & x0_finite
    product = multiply
    if not _is_zero(damping):
        shift = pt.cast(pt.as_tensor_variable(damping), dtype)
        finite = finite & pt.isfinite(shift)

        def product(v: TensorVariable) -> TensorVariable:
            return multiply(v) + shift * v

    table = [(pt.invert(finite), Status.NOT_FINITE), (pt.eq(largest, 0), Status.ZERO_RHS)]
    if check:
        table += _tests_of_operators(product, invert, scaled)
    return System(
        product=product,
        precondition=invert,
        b=scaled,
        start=start,
        cold=x0 is None,
        scale=scale,
        b_norm=norm(scaled),
        status=first_true(*table, default=Status.RUNNING),
    )


def scale_preconditioner(system: System) -> tuple[System, TensorVariable | None]:
    """Return the system with M⁻¹ divided by about max|M⁻¹ b|, and that number.

    Squares of M⁻¹ r are finite then. Krylov methods take the same steps; norms in M⁻¹ are divided
    by the root of the number.
    """
    invert = system.precondition
    if invert is None:
        return system, None
    scale = power_of_two(abs(invert(system.b)).max())
    return replace(system, precondition=lambda v: invert(v) / scale), scale


def iteration_limit(system: System, maxiter: Integer | None) -> TensorVariable:
    """Return the iteration limit as a symbolic integer: 10 n by default, for n unknowns."""
    return pt.cast(10 * system.length if maxiter is None else maxiter, "int64")


def dot(u: TensorVariable, v: TensorVariable) -> TensorVariable:
    """Return the inner product of two vectors, summed in their own dtype on every backend."""
    return pt.dot(u, v)


def norm(v: TensorVariable) -> TensorVariable:
    """Return the Euclidean norm of a vector."""
    return pt.sqrt(dot(v, v))


def norm_of_any_size(v: TensorVariable) -> TensorVariable:
    """Return the norm of a vector whose squares may over- or underflow."""
    largest = divisor(abs(v).max())
    return largest * norm(v / largest)


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


def divisor(largest: TensorVariable) -> TensorVariable:
    """Return the largest entry of a vector to divide by: 1 where that is 0 or not finite."""
    usable = pt.isfinite(largest) & (largest > 0)
    return pt.switch(usable, largest, pt.constant(1, dtype=largest.type.dtype))


def power_of_two(largest: TensorVariable) -> TensorVariable:
    """Return the power of two below the largest entry of a vector: dividing by it rounds nothing.

    It is 1 where that entry is 0 or not finite.
    """
    return pt.exp2(pt.floor(pt.log2(divisor(largest))))


def _is_zero(value: Scalar) -> bool:
    """Return whether a setting is the number zero, so that its term can be left out."""
    return not is_symbolic(value) and value == 0


def _tests_of_operators(
    product: Product, invert: Product | None, b: TensorVariable
) -> list[tuple[TensorVariable, Status]]:
    """Return the verdicts on A and M⁻¹ as they multiply two vectors, b one of them."""
    table = [(pt.invert(pt.isfinite(product(b).sum())), Status.NOT_FINITE)]
    if invert is not None:
        definite = is_symmetric(invert, b, definite=True)
        table.append((pt.invert(definite), Status.BAD_PRECONDITIONER))
    return [*table, (pt.invert(is_symmetric(product, b)), Status.NOT_SYMMETRIC)]


def is_symmetric(product: Product, v: TensorVariable, definite: bool = False) -> TensorVariable:
    """Return whether u.(A v) = v.(A u) up to rounding, for a fixed irregular u.

    With ``definite``, u.(A u) and v.(A v) must be positive, too.
    """
    rtol = np.asarray(float(np.finfo(v.dtype).eps) ** (2 / 3), dtype=v.dtype)
    u = pt.cast(pt.cos(pt.sqr(pt.arange(v.shape[0], dtype="float64"))), v.dtype)
    Au, Av = product(u), product(v)
    largest = norm(u) * norm(Av) + norm(v) * norm(Au)
    # Written so that NaN is not called asymmetric: it has its own verdict.
    passes = pt.invert(abs(dot(u, Av) - dot(v, Au)) > rtol * largest)
    if definite:
        nonpositive = (dot(u, Au) <= 0) | ((dot(v, Av) <= 0) & (dot(v, v) > 0))
        passes = passes & pt.invert(nonpositive)
    return passes
