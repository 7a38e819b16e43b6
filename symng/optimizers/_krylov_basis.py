"""An orthonormal basis of a Krylov space, as a symbolic loop."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.loops import while_loop
from symng.graphs.types import Scalar
from symng.operators import LinearOperator, Product
from symng.optimizers._step import norm


def krylov_basis(
    operator: LinearOperator,
    gradient: TensorVariable,
    size: int,
    previous: TensorVariable | None = None,
    preconditioner: Product | None = None,
    damping: Scalar = 0.0,
) -> tuple[TensorVariable, TensorVariable, TensorVariable]:
    """Return an orthonormal basis V of the Krylov space and ``previous``, V F V^T, and its rank.

    The space is that of F and g; with ``preconditioner``, the product with M^-1, that of
    M^-1 (F + lambda I) and M^-1 g, which preconditioned CG takes its iterates from.

    The vectors are the rows of V, ``previous`` the last. A row that would depend on those before it
    is zero: where the subspace is invariant (up to rounding) and so ends, and where ``previous`` is
    zero or lies in it.
    """
    n, dtype = operator.size, operator.dtype
    shift = pt.cast(damping, dtype)
    rows = size if previous is None else size + 1
    numbers = np.arange(rows)
    # The size of a product's rounding errors, with room to spare.
    rounding = pt.constant(np.finfo(dtype).eps ** 0.75, dtype=dtype)

    def unit(
        vector: TensorVariable, errors: TensorVariable | int
    ) -> tuple[TensorVariable, TensorVariable]:
        """Return the vector at length 1, and whether it is longer than ``errors``; zero if not."""
        length = norm(vector)
        usable = pt.gt(length, errors)  # False for NaN
        return pt.switch(usable, vector / length, pt.zeros_like(vector)), usable

    def extend(s: dict[str, TensorVariable]) -> dict[str, TensorVariable]:
        """Multiply row i by F, which gives column i of V F V^T and, orthogonalized, row i + 1."""
        V, i = s["basis"], s["i"]
        product = operator @ s["vector"]
        column = pt.dot(V, product)  # of the rows so far: its part above the diagonal
        image = product
        if preconditioner is not None:  # else the damping spans nothing new
            image = preconditioner(product + shift * s["vector"])
        # About |F|, in whose units the errors of a product are.
        scale = pt.maximum(s["scale"], norm(image))
        candidate = image / scale
        if previous is not None:
            candidate = pt.switch(pt.eq(i, size - 1), unit(previous, 0)[0], candidate)
        rest = candidate - pt.dot(pt.dot(V, candidate), V)
        rest = rest - pt.dot(pt.dot(V, rest), V)  # twice is enough
        vector, usable = unit(rest, rounding)
        # After the end of the Krylov subspace comes the previous direction, after that nothing.
        end = pt.switch(pt.lt(i, size - 1), size - 1, rows)
        return {
            "basis": pt.switch(pt.eq(numbers, i + 1)[:, None], vector[None, :], V),
            "metric": pt.switch(pt.eq(numbers, i)[None, :], column[:, None], s["metric"]),
            "vector": vector,
            "scale": scale,
            "i": pt.switch(usable, i + 1, end),
            "rank": s["rank"] + pt.and_(usable, pt.lt(i + 1, rows)),
        }

    starting_vector = gradient if preconditioner is None else preconditioner(gradient)
    first, usable = unit(pt.specify_shape(starting_vector, (n,)), 0)
    start = {
        "basis": pt.switch(
            pt.eq(numbers, 0)[:, None], first[None, :], pt.zeros((rows, n), dtype=dtype)
        ),
        "metric": pt.zeros((rows, rows), dtype=dtype),
        "vector": first,
        "scale": pt.zeros((), dtype=dtype),
        "i": pt.cast(pt.switch(usable, 0, rows), "int64"),
        "rank": pt.cast(usable, "int64"),
    }
    final = while_loop(extend, lambda s: pt.lt(s["i"], rows), start, rows)
    above = np.triu(np.ones((rows, rows), dtype=dtype))
    return (
        final["basis"],
        final["metric"] * above + final["metric"].T * np.tril(above.T, -1),
        final["rank"],
    )
