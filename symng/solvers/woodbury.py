"""A direct solver in the space of examples, for A = R^T R where R has few rows."""

from __future__ import annotations

import pytensor.tensor as pt
from pytensor.tensor.linalg import cho_solve, cholesky
from pytensor.tensor.variable import TensorVariable

from symng.graphs.config import config
from symng.operators import identity_like
from symng.solvers._direct import DirectSolver, Factorization, describe_bytes


@config
class Woodbury(DirectSolver):
    """Solve (A + λI) x = b directly, for A = R^T R where R has fewer rows than columns.

    x = (b - R^T z) / λ, where (R R^T + λI) z = R b: the Woodbury identity. R R^T is the
    Gram matrix of the rows. For `Fisher` R has a row for each example and output, for
    `EmpiricalFisher` one for each example, so this is the way for small data and large models,
    where the solve is exact however ill-conditioned A + λI is for an iteration.

    Parameters
    ----------
    rtol : float or symbolic scalar, default 1e-5
        At least 0: the solve has converged when norm(b - (A + λI) x) <= rtol norm(b), and to
        precision when the residual is larger, but no larger than rounding errors of the dtype
        explain.
    solve_dtype : {"float32", "float64"}, optional
        The dtype to make the small matrix, factorize it and solve in; x comes back in the dtype of
        b. "float64" is for a float32 model with little damping: the rows of R are float32 all the
        same. Default: the dtype of b.
    proximal : bool, default False
        Whether the damping keeps x close to x0 and not to zero, so that x minimizes the quadratic
        x.A x / 2 - b.x + λ / 2 norm(x - x0)^2: (A + λI) x = b + λ x0. With
        ``NaturalGradient(solver=Woodbury(proximal=True), warm_start=0.9)`` this is SPRING [3]_,
        whose x0 is 0.9 times the previous direction. It is a setting because x0 is otherwise only
        the first iterate of a solver, on which the solution does not depend.

    Notes
    -----
    Before a step of `symng.compile_step` or `symng.minimize` is compiled, a warning says what a
    solve costs (`describe_cost`) where that is much more than what an iterative solver takes.

    With m rows and n parameters: m backward passes of one example each, all examples at once,
    m^2 (m / 3 + n) multiplications, and m n numbers stored. A model whose examples are not known to
    be independent, as with batch normalization or dropout, takes a backward pass of the full batch
    for each row. One step of iterative refinement takes off most of the rounding errors that a
    small λ enlarges. On JAX it runs in steps of `symng.compile_step`, which are compiled anew
    for each length of batch.

    References
    ----------
    .. [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, SIAM (2002),
       chapter 12 and section 26.1.
    .. [2] Y. Ren and D. Goldfarb, Efficient subsampled Gauss-Newton and natural gradient methods
       for training neural networks, arXiv:1906.02353 (2019).
    .. [3] G. Goldshlager, N. Abrahamsen and L. Lin, A Kaczmarz-inspired approach to accelerate the
       optimization of neural network wavefunctions, arXiv:2401.10190 (2024).

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x = pt.matrix("x")
    >>> w = pytensor.shared(np.zeros(3), name="w")
    >>> objective = symng.Objective(pt.sqr(x @ w).mean(), output=x @ w, params=[w], inputs=[x])
    >>> F = symng.Fisher()(objective)  # mean of x x^T
    >>> solution = symng.Woodbury().solve(F, pt.ones(3), damping=1.0)
    >>> solution.x.eval({x: np.array([[1.0, 0.0, 0.0]])}, mode="FAST_COMPILE").round(6).tolist()
    [0.5, 1.0, 1.0]
    """

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
        >>> cost = symng.Woodbury().describe_cost(rows=5000, size=100_000, dtype="float32")
        >>> print(textwrap.fill(cost, 60))
        Woodbury makes a backward pass of an example for each of
        5,000 rows, factorizes a matrix of that many rows and
        columns, and keeps 5,000 x (100,000 + 5,000) numbers (2.1
        GB).
        """
        text = describe_bytes(rows * (size + rows), dtype)
        return (
            f"Woodbury makes a backward pass of an example for each of {rows:,} rows, factorizes a "
            f"matrix of that many rows and columns, and keeps {rows:,} x ({size:,} + {rows:,}) "
            f"numbers ({text})."
        )

    def multiplications(self, rows: int, size: int) -> float:
        return rows**2 * (rows / 3 + size)

    def describe(self, size: int) -> str:
        return (
            f"Woodbury, for m rows and n = {size:,} parameters: m^2 (n + m / 3) multiplications; "
            "with n much above m as many as m / 4 iterations for each output"
        )

    def factorize(self, rows: TensorVariable, shift: TensorVariable) -> Factorization:
        gram = pt.dot(rows, rows.T)
        finite = pt.isfinite(gram.sum())
        gram = pt.switch(finite, gram, pt.zeros_like(gram)) + shift * identity_like(gram[0])
        factor = cholesky(gram, lower=True)

        def apply(r: TensorVariable) -> TensorVariable:
            return (r - pt.dot(cho_solve((factor, True), pt.dot(rows, r)), rows)) / shift

        return Factorization(
            apply=apply,
            finite=finite,
            definite=pt.isfinite(pt.diagonal(factor).sum()),
            trace=pt.sum(pt.diagonal(gram)),
        )
