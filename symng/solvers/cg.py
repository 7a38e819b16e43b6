"""The method of conjugate gradients.

References
----------
M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems, J. Res.
Nat. Bur. Standards 49 (1952) 409-436. L. Zhou and H. F. Walker, Residual smoothing techniques for
iterative methods, SIAM J. Sci. Comput. 15(2) (1994) 297-312. Y. Liu, A. Milzarek and F. Roosta,
Obtaining pseudo-inverse solutions with MINRES, arXiv:2309.17096 (2023). J. Martens, Deep learning
via Hessian-free optimization, ICML 2010.
"""

from __future__ import annotations

import math
from typing import Any

from symng._checks import argument_error, is_symbolic
from symng.graphs.config import config, flag, number
from symng.solvers._cg_round import Run
from symng.solvers._system import make_system
from symng.solvers.base import Solver
from symng.solvers.solution import Solution


@config
class CG(Solver):
    """Solve (A + λI) x = b for symmetric positive definite A + λI by conjugate gradients.

    Each step minimizes φ(x) = x·(A + λI)x / 2 - b·x over the Krylov space of b. The solve ends when
    norm(b - (A + λI) x) <= rtol norm(b) + atol.

    Parameters
    ----------
    rtol : float or symbolic scalar, default 1e-5
        The tolerance relative to norm(b); at least 0.
    atol : float or symbolic scalar, default 0.0
        The absolute tolerance, in units of b; at least 0.
    maxiter : int or symbolic integer scalar, optional
        The iteration limit; at least 0. Default: 10 n for a system of n unknowns.
    recompute : bool, default True
        Compute the residual norm from ``x`` itself, one product at the end. A solution whose
        recurrence met the tolerance but whose residual does not is worked on until it does or until
        rounding errors stop the progress. With False the product is saved and the residual norm is
        that of the recurrence.
    check : bool, default False
        Test A for symmetry, and the preconditioner for symmetry and positive definiteness, before
        the first step, by three and two more products. It is a test on two vectors, not a proof.
    progress_rtol : float or symbolic scalar, optional
        The relative progress of φ in an iteration, as a mean over the last k, below which the solve
        ends, with ``SMALL_PROGRESS``; at least 0 (Martens [4]_: 5e-4). After iteration i that is

            i > k,  φ(x_i) < 0,  (φ(x_i) - φ(x_{i-k})) / φ(x_i) < k progress_rtol,  k = max(10,
            ceil(i / 10)),

        with k at most 128. Default: no such test.
    keep_iterates : float, optional
        A growth factor above 1 (Martens: 1.3): the solution also holds the iterates numbered
        ceil(keep_iterates^j), for j = 0, 1, ..., and the last one. Needs a ``maxiter`` that is a
        plain number. Default: none are kept.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of range.

    Notes
    -----
    A solution holds ``norm_estimate``, ``curvature`` and ``direction``, and where asked for
    ``iterates`` and ``iterates_count``.

    Cost: one product an iteration, one for ``x0`` if given, one for the residual at the end.
    Memory: four vectors beside b and what the product needs, and the iterates kept, which every
    iteration copies. φ costs no product: it is -x·(b + r) / 2 with r the residual. Symbolic
    settings, say shared variables, change without a recompilation.

    Where b is not in the range of a singular A + λI, φ has no minimum and the iterates of CG grow
    along a null vector without bound. Such a solve hands back another vector x̄ of the Krylov
    space: the mean of the iterates x_j with weights 1 / (r_j·M⁻¹r_j), whose residual is the least
    in the norm of M⁻¹ [2]_. That is the iterate of MINRES, and without a preconditioner a
    least-squares solution to about √ε, as far as iterates of norm(A) norm(x) <= norm(b) / √ε lead.
    Its residual norm comes from a product with it, but for a solve from zero without preconditioner
    whose ``recompute`` is False: there it is that of the recurrence, too.

    Verdicts beside ``CONVERGED``, ``ZERO_RHS``, ``MAX_ITERATIONS``, ``NOT_FINITE`` and those of
    ``check``:

    - ``NEGATIVE_CURVATURE``: d·(A + λI)d <= ε norm(A) norm(d)² for a direction d, with ε the
      rounding unit. ``direction`` is d, ``curvature`` is d·(A + λI)d / d·d. A negative curvature
      tells an indefinite matrix, and ``x`` is the iterate before it. A curvature of zero, up to
      rounding, tells a singular one with b outside its range, and ``x`` is x̄ without its component
      along d [3]_.
    - ``CONVERGED_TO_PRECISION``: the residual is below 10 ε (norm(A) norm(x) + norm(b)), above the
      tolerance but well below norm(b).
    - ``BREAKDOWN``: rounding errors stopped the progress before that. Here, and with
      ``MAX_ITERATIONS`` after n or more iterations, x̄ takes the place of an iterate whose residual
      is above norm(b).
    - ``SMALL_PROGRESS``: the test of ``progress_rtol``.
    - ``BAD_PRECONDITIONER``: r·M⁻¹r <= 0 for a residual r that is not zero.

    References
    ----------
    .. [1] M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems,
       J. Res. Nat. Bur. Standards 49 (1952) 409-436.
    .. [2] L. Zhou and H. F. Walker, Residual smoothing techniques for iterative methods, SIAM J.
       Sci. Comput. 15(2) (1994) 297-312.
    .. [3] Y. Liu, A. Milzarek and F. Roosta, Obtaining pseudo-inverse solutions with MINRES,
       arXiv:2309.17096 (2023).
    .. [4] J. Martens, Deep learning via Hessian-free optimization, ICML 2010, section 4.4.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from symng.solvers import CG
    >>> A, b = pt.constant(np.array([[4.0, 1.0], [1.0, 3.0]])), pt.constant(np.array([1.0, 2.0]))
    >>> solution = CG(rtol=1e-10).solve(lambda v: A @ v, b)
    >>> (11 * solution.x).eval(mode="FAST_COMPILE").round(6).tolist()
    [1.0, 7.0]
    """

    rtol: Any = number(default=1e-5, minimum=0, symbolic=True)
    atol: Any = number(default=0.0, minimum=0, symbolic=True)
    maxiter: Any = number(default=None, minimum=0, integer=True, symbolic=True)
    recompute: bool = flag(default=True)
    check: bool = flag(default=False)
    progress_rtol: Any = number(default=None, minimum=0, symbolic=True)
    keep_iterates: float | None = number(default=None, above=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_iterates is not None and (self.maxiter is None or is_symbolic(self.maxiter)):
            raise argument_error(
                "maxiter",
                "a plain number where keep_iterates is given",
                self.maxiter,
                "Room is made for the iterates of so many iterations.",
                TypeError,
            )

    @property
    def keeps_iterates(self) -> bool:
        return self.keep_iterates is not None

    def adjustable_settings(self) -> dict[str, tuple[Any, str | None]]:
        found = super().adjustable_settings()
        if self.keeps_iterates:  # maxiter says how many there is room for
            found.pop("maxiter")
        return found

    def solve(
        self, A: Any, b: Any, damping: Any = 0.0, x0: Any = None, preconditioner: Any = None
    ) -> Solution:
        kept = (
            None
            if self.keep_iterates is None
            else kept_numbers(self.keep_iterates, int(self.maxiter))
        )
        run = Run(self, make_system(A, b, damping, x0, preconditioner, self.check), kept)
        return run.solution(run.loop(run.initial()))


def kept_numbers(growth: float, limit: int) -> list[int]:
    """Return the distinct numbers ceil(growth^j) below ``limit``, for j = 0, 1, ..., and ``limit``.

    Examples
    --------
    >>> kept_numbers(1.3, 20)
    [1, 2, 3, 4, 5, 7, 9, 11, 14, 18, 20]
    """
    numbers, number = [], 1
    while number < limit:
        numbers.append(number)
        # The next power whose ceiling is another one; a growth near 1 has many that are not.
        power = growth ** (math.floor(math.log(number) / math.log(growth)) + 1)
        while math.ceil(power) <= number:
            power *= growth
        number = math.ceil(power)
    return [*numbers, limit]
