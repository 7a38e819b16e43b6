"""The state of MINRES-QLP's loop, and what its tests of A r find."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from pytensor.tensor.variable import TensorVariable

from symng.solvers._null_component import NullComponent
from symng.solvers._qlp import Factors
from symng.solvers._system import where

Fields = TypeVar("Fields", bound=tuple[Any, ...])


class MinresQLPState(NamedTuple):
    """What one round of the loop hands to the next, for b / max|b|, A / scale_A and scale_A x."""

    x: TensorVariable
    r1: TensorVariable  # β_{k-1} v_{k-1} times M
    r2: TensorVariable  # β_k v_k times M; the residual of x after a product with x
    scale_A: TensorVariable  # the power of two below max|A v_1|; 1 before the first step
    y: TensorVariable | None  # M⁻¹ r2, with a preconditioner
    w1: TensorVariable
    w2: TensorVariable
    factors: Factors
    in_qlp: TensorVariable  # 1 once QLP has taken over
    norm_estimate: TensorVariable  # of norm(A + λI), from below
    smallest: TensorVariable  # the smallest final pivot of L
    condition: TensorVariable
    r_norm: TensorVariable
    ls_norm: TensorVariable  # norm(A r)
    start_norm: TensorVariable  # norm(x) where the process last started
    credited: TensorVariable  # norm(x) less what it has grown along a null vector since
    lifting: TensorVariable  # x·r / r·M⁻¹r: that multiple of M⁻¹r leaves x if it is a null vector
    lifted: TensorVariable  # the multiple that has left x last; inf if none has
    null: NullComponent
    first_column: TensorVariable  # norm(A v_1): zero but for rounding if r_0 is a null vector
    verified: TensorVariable  # norm(r) and norm(A r) / norm(r) when last verified
    ls_verified: TensorVariable
    phase: TensorVariable
    pending: TensorVariable  # the verdict that ended the steps, until x is verified
    niter: TensorVariable
    status: TensorVariable
    tridiagonal: TensorVariable | None  # row k - 1: α_k and β_{k+1}


class LeastSquaresTests(NamedTuple):
    """What norm(A r) says of x_{k-1}."""

    met: TensorVariable  # x_{k-1} solves the least-squares problem to rtol
    nearly: TensorVariable  # ... but perhaps not without its null vector
    precise: TensorVariable  # ... as well as the dtype allows
    growing: TensorVariable  # x grows along a null vector, without progress
    stalled: TensorVariable  # no progress is made, near a least-squares solution


def select(condition: TensorVariable, a: Fields, b: Fields) -> Fields:
    """Return the fields of one NamedTuple where a condition holds, else those of another."""
    fields: list[object] = []
    for value, other in zip(a, b, strict=True):
        if isinstance(value, tuple):
            fields.append(select(condition, value, other))
        else:
            fields.append(value if value is other else where(condition, value, other))
    make: Any = type(a)
    return make(*fields)
