"""Preconditioning with a low-rank approximation of the metric."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.linalg import eigh, qr
from pytensor.tensor.variable import TensorVariable

from symng.graphs import vectors
from symng.graphs.config import config, number
from symng.graphs.loops import while_loop
from symng.graphs.types import Integer
from symng.metrics import Metric
from symng.objective import ObjectiveLike
from symng.objective.batches import Batch
from symng.operators import LinearOperator, Product
from symng.optimizers.base import State, Updates
from symng.optimizers.preconditioners.base import Preconditioner


@config
class NystromPreconditioner(Preconditioner):
    """Precondition with a randomized low-rank approximation of the metric.

    From the products Y = F Omega with a random n x k matrix Omega of orthonormal columns, F is
    approximated by Y (Omega^T Y)^-1 Y^T = U diag(l) U^T, with l_1 >= ... >= l_k. Then

    M^-1 v = U diag((l_k + lambda) / (l + lambda)) U^T v + (v - U U^T v),

    so that M is F + lambda I in the span of U, and l_k + lambda elsewhere, both over l_k + lambda.
    For any metric, and any model. It pays where few eigenvalues of F are far above the damping
    lambda and the others are not: the condition number falls from l_1 / lambda to about
    l_k / lambda.

    Parameters
    ----------
    rank : int, default 60
        Columns k of the basis U, at least 1; never more than there are parameters.
    refresh : int, default 1
        Steps from one approximation to the next, at least 1.

    Raises
    ------
    TypeError, ValueError
        On bad arguments.

    Notes
    -----
    The approximation takes ``rank`` products with the metric and about 6 n rank^2 multiplications
    for n parameters, once in ``refresh`` steps. Each product with M^-1 takes 2 n rank
    multiplications. The basis takes n rank numbers, and a few times as many while it is made. Omega
    is a function of the step number. A change of the damping takes effect at once.

    In the steps after the one that made it, an approximation helps with eigenvalues that are larger
    than the change of the metric since. Smaller ones do harm, because M divides what has changed
    by them: with ``refresh`` above 1, keep the rank so low that l_k is above that change.

    A metric is taken to be positive semidefinite up to rounding errors. Of an indefinite one, as
    `Hessian` may be, the directions in which Omega^T Y is not positive are left out, and so are
    those of eigenvalues that F cannot have. M is positive definite all the same. Where the products
    are not finite, the approximation stays what it was, and is tried again in the next step.

    References
    ----------
    .. [1] Z. Frangella, J. A. Tropp and M. Udell, "Randomized Nyström preconditioning", SIAM
       Journal on Matrix Analysis and Applications 44, 2023. arXiv:2110.02820
    .. [2] I. Bioli, C. Marcati and G. Sangalli, "Accelerating natural gradient descent for PINNs
       with randomized Nyström preconditioning", 2025. arXiv:2505.11638

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(8), name="w")
    >>> y = x @ w
    >>> objective = symng.Objective(
    ...     pt.sqr(y - t).mean(), output=y, params=[w], inputs=[x], targets=[t]
    ... )
    >>> batch = 8 * np.diag(np.arange(1.0, 9.0)), np.ones(8)
    >>> for preconditioner in (None, symng.NystromPreconditioner(rank=8)):
    ...     optimizer = symng.NaturalGradient(preconditioner=preconditioner, damping=1.0)
    ...     step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE")
    ...     print(int(step(batch).solver_iterations))
    8
    1
    """

    rank: int = number(default=60, minimum=1, integer=True)
    refresh: int = number(default=1, minimum=1, integer=True)

    def init_state(self, objective: ObjectiveLike, state: State) -> None:
        rank = min(self.rank, objective.size)
        state.add("nystrom_basis", np.zeros((rank, objective.size)))
        state.add("nystrom_values", np.zeros(rank))
        state.add("nystrom_age", 0, "int64")

    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Product, Updates]:
        basis, values, age = (
            state.values[f"nystrom_{name}"] for name in ("basis", "values", "age")
        )
        operator = metric(batch)
        rank = min(self.rank, operator.size)

        def renew(s: dict[str, TensorVariable]) -> dict[str, TensorVariable]:
            # From the state of the loop alone: what is not would be computed in every step.
            new_basis, new_values, finite = approximate(operator, rank, s["seed"])
            return {
                "basis": pt.switch(finite, new_basis, s["basis"]),
                "values": pt.switch(finite, new_values, s["values"]),
                "seed": s["seed"],
                "due": pt.zeros_like(s["due"]),
                "failed": pt.invert(finite),
            }

        # A loop of at most one round: not every backend can skip a branch.
        due = pt.eq(age, 0)
        start = {
            "basis": basis,
            "values": values,
            "seed": state.values["step"],
            "due": due,
            "failed": pt.zeros_like(due),
        }
        final = while_loop(renew, lambda s: s["due"], start, 1)
        following = pt.switch(final["failed"], 0, (age + 1) % self.refresh)
        updates: Updates = {
            basis: final["basis"],
            values: final["values"],
            age: pt.cast(following, "int64"),
        }
        return nystrom_product(final["basis"], final["values"], damping), updates


def approximate(
    operator: LinearOperator, rank: int, seed: Integer
) -> tuple[TensorVariable, TensorVariable, TensorVariable]:
    """Return eigenvectors, as rows, and eigenvalues of the approximation, and whether it is finite.

    If it is not, the other two mean nothing. The eigenvalues ascend, and none is negative.
    """
    n, dtype = operator.size, operator.dtype
    eps = pt.constant(np.finfo(dtype).eps, dtype=dtype)
    signs = vectors.random_signs(pt.zeros((n,), dtype=dtype), seed, rank)
    Omega = qr(pt.specify_shape(signs.T, (n, rank)), mode="economic")[0]
    Y = operator @ Omega
    finite = pt.isfinite(Y).all()
    Y = pt.switch(finite, Y, Omega)  # so that no backend refuses it
    norm = pt.sqrt(pt.dot(Y.flatten(), Y.flatten()))
    # The approximation of F + nu I is stable, and nu is no more than rounding errors.
    nu = eps * norm
    Y = Y + nu * Omega
    core = pt.dot(Omega.T, Y)
    s, W = eigh((core + core.T) / 2)
    Q, R = qr(Y, mode="economic")
    K = pt.dot(R, W)  # Y W = Q K, and the approximation is Q K diag(1 / s) K^T Q^T.
    # Each term has the norm |K_j|^2 / s_j, and a positive F none above its own norm, which is
    # hardly above 10 times this estimate of its Frobenius norm.
    bound = pt.constant(10 * np.sqrt(n / rank), dtype=dtype) * norm
    usable = s * bound > pt.diagonal(pt.dot(K.T, K))
    K = K * pt.switch(usable, 1 / pt.sqrt(pt.switch(usable, s, 1)), 0)
    values, V = eigh(pt.dot(K, K.T))
    basis = pt.specify_shape(pt.dot(Q, V).T.astype(dtype), (rank, n))
    return basis, pt.maximum(values - nu, 0).astype(dtype), finite


def nystrom_product(
    basis: TensorVariable, values: TensorVariable, damping: TensorVariable
) -> Callable[[TensorVariable], TensorVariable]:
    """Return the product with M^-1 for the eigenvectors, as rows, and eigenvalues of `approximate`.

    A damping below the rounding errors of the eigenvalues is raised to these.
    """
    dtype = basis.type.dtype
    eps = pt.constant(np.finfo(dtype).eps, dtype=dtype)
    shift = pt.maximum(pt.cast(damping, dtype), values.shape[0].astype(dtype) * eps * values.max())
    shift = pt.switch(shift > 0, shift, pt.ones_like(shift))
    scale = (values.min() + shift) / (values + shift)

    def apply(v: TensorVariable) -> TensorVariable:
        return v + pt.dot((scale - 1) * pt.dot(basis, v), basis)

    return apply
