"""A direct solver in the space of examples, for matrices of few rows squared."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.linalg import cho_solve, cholesky
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_number, is_symbolic
from symng.graphs.config import config, number
from symng.graphs.types import Scalar
from symng.operators import LinearOperator, identity_like
from symng.solvers._arguments import Operator, Vector
from symng.solvers._system import dot, first_true, make_system, norm
from symng.solvers.base import Solver
from symng.solvers.solution import Solution, Status


@config
class Woodbury(Solver):
    """Solve (A + lambda I) x = b directly, for A = R^T R where R has fewer rows than columns.

    x = (b - R^T z) / lambda, where (R R^T + lambda I) z = R b: the Woodbury identity. R R^T is the
    Gram matrix of the rows. For `Fisher` R has a row for each example and output, for
    `EmpiricalFisher` one for each example, so this is the way for small data and large models,
    where the solve is exact however ill-conditioned A + lambda I is for an iteration.

    Parameters
    ----------
    rtol : float or symbolic scalar, default 1e-5
        At least 0: the solve is called converged when norm(b - (A + lambda I) x) <= rtol norm(b),
        and one to precision when the residual is larger, but no larger than what rounding errors of
        the dtype explain.

    Notes
    -----
    Before a step of `symng.compile_step` or `symng.minimize` is compiled for 500 rows or more, a
    warning says what they cost (`describe_cost`): an iterative solver is cheaper then.

    With m rows and n parameters: m backward passes of one example each, all examples at once,
    m^2 (m / 3 + n) multiplications, and m n numbers stored. A model whose examples are not known to
    be independent, as with batch normalization or dropout, takes a backward pass of the full batch
    for each row. One step of iterative refinement takes off most of the rounding errors that a
    small lambda enlarges. On JAX it runs in steps of `symng.compile_step`, which are compiled anew
    for each length of batch.

    References
    ----------
    .. [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, SIAM (2002),
       chapter 12 and section 26.1.
    .. [2] Y. Ren and D. Goldfarb, Efficient subsampled Gauss-Newton and natural gradient methods
       for training neural networks, arXiv:1906.02353 (2019).

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

    rtol: Scalar = number(default=1e-5, minimum=0, symbolic=True)

    needs_full_batch = True

    def describe_cost(self, rows: int, size: int, dtype: str = "float64") -> str:
        """Return in a sentence what a solve takes.

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
        numbers = rows * (size + rows)
        memory = numbers * np.dtype(dtype).itemsize
        text = f"{memory / 1e9:.2g} GB" if memory >= 1e9 else f"{max(memory / 1e6, 0.01):.2g} MB"
        return (
            f"Woodbury makes a backward pass of an example for each of {rows:,} rows, factorizes a "
            f"matrix of that many rows and columns, and keeps {rows:,} x ({size:,} + {rows:,}) "
            f"numbers ({text})."
        )

    def solve(
        self,
        A: Operator,
        b: Vector,
        damping: Scalar = 0.0,
        x0: Vector | None = None,
        preconditioner: Operator | None = None,
    ) -> Solution:
        """Return the solution of (A + lambda I) x = b as symbolic variables.

        Parameters
        ----------
        A : LinearOperator
            With a ``factor``: one that `Fisher` or `EmpiricalFisher` makes.
        b : symbolic vector
            The right-hand side, float32 or float64.
        damping : float or symbolic scalar
            lambda, above 0.
        x0 : symbolic vector, optional
            Not used: nothing is iterated.
        preconditioner : None
            There is nothing to precondition.

        Returns
        -------
        Solution
            ``niter`` is the number of rows of R. The status is ``BREAKDOWN`` where the damping is
            so small against A that it is lost in rounding errors, and for a symbolic damping that
            turns out not to be above 0; ``x`` is zero where there is no factorization.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.
        """
        if not isinstance(A, LinearOperator) or A.factor is None:
            raise argument_error(
                "A",
                "a LinearOperator with a factor, as symng.Fisher or symng.EmpiricalFisher makes",
                A,
                "A sum of operators has none, nor has a batch in chunks; use symng.CG or "
                "symng.MinresQLP.",
                TypeError,
            )
        if not is_symbolic(damping):
            check_number("damping", damping, above=0)
        if preconditioner is not None:
            raise argument_error(
                "preconditioner",
                "none",
                Verbatim("one"),
                "A direct solver has nothing to precondition.",
            )
        system = make_system(A, b, damping)
        number, b = system.number, system.b
        shift = number(damping)
        rows = A.factor.materialise(b)
        gram = pt.dot(rows, rows.T)
        finite, definite = pt.isfinite(gram.sum()) & pt.isfinite(shift), shift > 0
        # So that the factorization meets no NaN and no negative pivot; the verdict says so.
        shift = pt.switch(finite & definite, shift, number(1))
        gram = pt.switch(finite, gram, pt.zeros_like(gram)) + shift * identity_like(gram[0])
        factor = cholesky(gram, lower=True)

        def invert(r: TensorVariable) -> TensorVariable:
            return (r - pt.dot(cho_solve((factor, True), pt.dot(rows, r)), rows)) / shift

        def residual(x: TensorVariable) -> TensorVariable:
            return b - pt.dot(pt.dot(rows, x), rows) - shift * x

        x = invert(b)
        x = x + invert(residual(x))  # iterative refinement
        definite = definite & pt.isfinite(dot(x, x))
        x = pt.switch(finite & definite, x, pt.zeros_like(x))
        x_norm, r_norm = norm(x), norm(residual(x))
        # The trace of R R^T + lambda I is above norm(A + lambda I).
        explained = r_norm <= number(10 * system.eps) * (
            pt.sum(pt.diagonal(gram)) * x_norm + system.b_norm
        )
        status = first_true(
            (pt.invert(finite), Status.NOT_FINITE),
            (pt.invert(definite), Status.BREAKDOWN),
            (r_norm <= number(self.rtol) * system.b_norm, Status.CONVERGED),
            (explained, Status.CONVERGED_TO_PRECISION),
            default=Status.BREAKDOWN,
        )
        status = pt.switch(pt.eq(system.status, Status.RUNNING), status, system.status)
        return Solution(
            x=x * system.scale,
            status=status,
            niter=pt.cast(gram.shape[0], "int64"),
            residual_norm=r_norm * system.scale,
            x_norm=x_norm * system.scale,
        )
