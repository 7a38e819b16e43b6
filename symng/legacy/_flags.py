"""The integer flags of the original solvers, from a `symng.Status`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.solvers import Solution, Status


def flag_of(
    solution: Solution, flags: Mapping[Status, int], default: int, b_norm: TensorVariable
) -> TensorVariable:
    """Return the flag of a solve, int64; ``default`` for a verdict that is not in ``flags``.

    The limit of norm(x) is flag 6, or 5 where x has passed norm(b) / (ε norm(A)), too.
    """
    flag = pt.constant(default, dtype="int64")
    for status, value in flags.items():
        flag = pt.switch(pt.eq(solution.status, status), value, flag)
    return pt.switch(pt.eq(flag, 6) & ~(rounding_of_Ax(solution) < b_norm), 5, flag)


def rounding_of_Ax(solution: Solution) -> TensorVariable:
    """Return ε norm(A) norm(x): at norm(b), rounding errors are as large as b."""
    assert solution.norm_estimate is not None and solution.x_norm is not None
    return eps_of(solution.x) * solution.norm_estimate * solution.x_norm


def eps_of(value: TensorVariable) -> float:
    """Return the rounding unit of the dtype of a tensor."""
    return float(np.finfo(value.type.dtype).eps)


def relative_residual(
    solution: Solution, b_norm: TensorVariable, norm_estimate: TensorVariable | None = None
) -> TensorVariable:
    """Return norm(r) / (norm(A) norm(x) + norm(b)), and 0 for b = 0."""
    norm_estimate = solution.norm_estimate if norm_estimate is None else norm_estimate
    assert norm_estimate is not None and solution.x_norm is not None
    size = norm_estimate * solution.x_norm + b_norm
    return pt.switch(size > 0, solution.residual_norm / size, pt.zeros_like(size))
