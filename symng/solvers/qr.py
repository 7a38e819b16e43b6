"""A direct solver in the space of the parameters, for models with few of them."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.linalg import qr, solve_triangular
from pytensor.tensor.variable import TensorVariable

from symng.graphs.config import config
from symng.operators import identity_like
from symng.solvers._direct import DirectSolver, Factorization, describe_bytes


@config
class QR(DirectSolver):
    """Solve (A + λI) x = b directly, for A = R^T R where R has few columns.

    With the QR factorization Q T of the stacked matrix (R; sqrt(λ) I), A + λI = T^T T:
    the seminormal equations T^T T x = b, and one step of refinement on the residual
    b - R^T (R x) - λ x [1]_. A itself is never formed: it is singular to precision at a
    condition number of 1 / eps^2, not 1 / eps. This is the way for models of up to a few thousand
    parameters and ill-conditioned problems, such as physics-informed networks.

    Parameters
    ----------
    rtol : float or symbolic scalar, default 1e-5
        At least 0: the solve has converged when norm(b - (A + λI) x) <= rtol norm(b), and to
        precision when the residual is larger, but no larger than rounding errors of the dtype
        explain.
    solve_dtype : {"float32", "float64"}, optional
        The dtype to factorize and solve in; x comes back in the dtype of b. "float64" is for a
        float32 model with little damping: the rows of R are float32 all the same. Default: the
        dtype of b.
    proximal : bool, default False
        Whether the damping keeps x close to x0 and not to zero: (A + λI) x = b + λ x0,
        as for `Woodbury`.

    Notes
    -----
    With m rows and n parameters: m backward passes of one example each, all examples at once,
    m n^2 + 2/3 n^3 multiplications, and 2 (m + n) n numbers stored. A model whose examples are not
    known to be independent, as with batch normalization or dropout, takes n pushforwards of the
    full batch. Where n is much larger than m, `Woodbury` costs less. Before a step of
    `symng.compile_step` or `symng.minimize` is compiled, a warning says what a solve costs
    (`describe_cost`) where that is much more than what an iterative solver takes.

    Against Cholesky's factorization of A + λI, the error of x falls from about eps k^2 to
    eps k, k the condition number of the stacked matrix, where x is large in the directions in which
    R is small. It does not where x is small in those directions: there the rounding errors of b
    itself, times k^2, are as large.

    Without damping R must have full column rank. The verdict is ``BREAKDOWN`` where T has a
    diagonal entry below the rounding errors of its largest. The condition number in the solution is
    the square of the ratio of these two, an estimate from below.

    References
    ----------
    .. [1] Å. Björck, "Stability analysis of the method of seminormal equations for linear least
       squares problems", Linear Algebra and its Applications 88/89, 1987.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x = pt.matrix("x")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> objective = symng.Objective(pt.sqr(x @ w).mean(), output=x @ w, params=[w], inputs=[x])
    >>> F = symng.Fisher()(objective)  # mean of x x^T
    >>> solution = symng.QR().solve(F, pt.ones(2))
    >>> batch = {x: np.array([[2.0, 0.0], [0.0, 4.0]])}
    >>> solution.x.eval(batch, mode="FAST_COMPILE").round(6).tolist()
    [0.5, 0.125]
    """

    needs_damping = False
    rows_or_columns = "columns"

    def describe_cost(self, rows: int, size: int, dtype: str = "float64") -> str:
        """Return a sentence on what a solve costs.

        Parameters
        ----------
        rows : int
            Rows of R: for `Fisher` examples times outputs, for `EmpiricalFisher` examples.
        size : int
            Number of parameters.
        dtype : str, default "float64"
            That of the parameters.

        Examples
        --------
        >>> import textwrap
        >>> import symng
        >>> print(textwrap.fill(symng.QR().describe_cost(rows=5000, size=1000), 60))
        QR makes a backward pass of an example for each of 5,000
        rows, factorizes a matrix of 6,000 x 1,000, and keeps twice
        as many numbers (96 MB).
        """
        text = describe_bytes(2 * (rows + size) * size, self.solve_dtype or dtype)
        return (
            f"QR makes a backward pass of an example for each of {rows:,} rows, factorizes a "
            f"matrix of {rows + size:,} x {size:,}, and keeps twice as many numbers ({text})."
        )

    def multiplications(self, rows: int, size: int) -> float:
        return rows * size**2 + 2 / 3 * size**3

    def describe(self, size: int) -> str:
        return (
            f"QR, for m rows and n = {size:,} parameters: m n^2 + 2/3 n^3 multiplications; with "
            f"m much above n as many as {max(size // 4, 1):,} iterations for each output"
        )

    def factorize(self, rows: TensorVariable, shift: TensorVariable) -> Factorization:
        finite = pt.isfinite(pt.dot(rows.flatten(), rows.flatten()))
        usable = pt.switch(finite, rows, pt.zeros_like(rows))
        identity = identity_like(rows[0])
        stacked = pt.concatenate([usable, pt.sqrt(shift) * identity])
        # Some backends return the rows of zeros below T, too.
        T = qr(stacked, mode="r")[: rows.shape[1]]
        pivots = abs(pt.diagonal(T))
        largest, smallest = pivots.max(), pivots.min()
        eps = np.asarray(np.finfo(rows.dtype).eps, rows.dtype)
        definite = smallest > eps * largest * pt.sqrt(pt.cast(rows.shape[1], rows.dtype))
        T = pt.switch(definite, T, identity)  # so that no backend refuses it

        def apply(r: TensorVariable) -> TensorVariable:
            y = solve_triangular(T, r, trans=1, lower=False, b_ndim=1)
            return solve_triangular(T, y, lower=False, b_ndim=1)

        return Factorization(
            apply=apply,
            finite=finite,
            definite=definite,
            trace=pt.dot(T.flatten(), T.flatten()),
            norm=pt.sqr(largest),
            condition=pt.sqr(largest / pt.maximum(smallest, np.finfo(rows.dtype).tiny)),
        )
