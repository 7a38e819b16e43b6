"""Normal distributions in natural parameters, with their Fisher matrix in closed form.

q(w) is proportional to exp(a . w - w . P w / 2): a = P m and P = S^-1 for mean m and covariance S.
The Fisher matrix of natural parameters is the Jacobian of the expectation parameters, the means of
what multiplies them: w, and -w_i^2 / 2 or -w_i w_j for an entry of P.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

import symng


class MeanField:
    """Independent normal variables; P is diagonal, and its diagonal the second parameter."""

    def __init__(self, size: int, precision: float = 1.0) -> None:
        self.linear = pytensor.shared(np.zeros(size), name="linear")
        self.precision = pytensor.shared(np.full(size, precision), name="precision")
        self.params = [self.linear, self.precision]
        self.variance = 1 / self.precision
        self.mean = self.linear * self.variance
        self.log_det = -pt.log(self.precision).sum()  # of S

    def along(self, rows: TensorVariable) -> TensorVariable:
        """Return the variance of x . w for each row x."""
        return pt.sqr(rows) @ self.variance

    def trace(self) -> TensorVariable:
        """Return the trace of S."""
        return self.variance.sum()

    def product(self, da: TensorVariable, dp: TensorVariable) -> list[TensorVariable]:
        """Return the Fisher matrix times a step in the parameters."""
        dm = self.variance * (da - dp * self.mean)
        return [dm, (pt.sqr(self.variance) * dp - 2 * self.mean * dm) / 2]

    def solve(self, dm: TensorVariable, db: TensorVariable) -> list[TensorVariable]:
        """Return the step in the parameters that `product` takes to ``dm`` and ``db``."""
        dp = pt.sqr(self.precision) * 2 * (db + self.mean * dm)
        return [self.precision * dm + dp * self.mean, dp]

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the covariance matrix as arrays."""
        variance = 1 / self.precision.get_value()
        return variance * self.linear.get_value(), np.diag(variance)


class FullRank:
    """A normal vector; the second parameter holds the lower triangle of P, row by row."""

    def __init__(self, size: int, precision: float = 1.0) -> None:
        self.rows, self.columns = np.tril_indices(size)
        self.size, self.is_diagonal = size, self.rows == self.columns
        self.linear = pytensor.shared(np.zeros(size), name="linear")
        self.precision = pytensor.shared(precision * self.is_diagonal, name="precision")
        self.params = [self.linear, self.precision]
        self.matrix = self.symmetric(self.precision)
        # A matrix that is not positive definite has no factor: the loss is NaN, the step refused.
        factor = pt.linalg.cholesky(self.matrix, on_error="nan")
        self.covariance = pt.linalg.inv(self.matrix)
        self.mean = self.covariance @ self.linear
        self.log_det = -2 * pt.log(pt.diag(factor)).sum()

    def symmetric(self, entries: TensorVariable) -> TensorVariable:
        """Return the symmetric matrix with this lower triangle."""
        lower = pt.zeros((self.size, self.size))[self.rows, self.columns].set(entries)
        return lower + lower.T - pt.diag(pt.diag(lower))

    def along(self, rows: TensorVariable) -> TensorVariable:
        """Return the variance of x . w for each row x."""
        return ((rows @ self.covariance) * rows).sum(axis=1)

    def trace(self) -> TensorVariable:
        """Return the trace of S."""
        return pt.diag(self.covariance).sum()

    def product(self, da: TensorVariable, dp: TensorVariable) -> list[TensorVariable]:
        """Return the Fisher matrix times a step in the parameters."""
        dP = self.symmetric(dp)
        dm = self.covariance @ (da - dP @ self.mean)
        outer = pt.outer(self.mean, dm)
        second = self.covariance @ dP @ self.covariance - outer - outer.T
        halves = np.where(self.is_diagonal, 0.5, 1.0)
        return [dm, halves * second[self.rows, self.columns]]

    def solve(self, dm: TensorVariable, db: TensorVariable) -> list[TensorVariable]:
        """Return the step in the parameters that `product` takes to ``dm`` and ``db``."""
        outer = pt.outer(self.mean, dm)
        second = self.symmetric(np.where(self.is_diagonal, 2.0, 1.0) * db) + outer + outer.T
        dP = self.matrix @ second @ self.matrix
        return [self.matrix @ dm + dP @ self.mean, dP[self.rows, self.columns]]

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the covariance matrix as arrays."""
        P = np.zeros((self.size, self.size))
        P[self.rows, self.columns] = self.precision.get_value()
        S = np.linalg.inv(P + np.tril(P, -1).T)
        return S @ self.linear.get_value(), S


@dataclass(frozen=True, kw_only=True)
class NormalFisher(symng.Metric):
    """The Fisher matrix F of q, bordered by second derivatives of the loss in other parameters.

    With C the derivatives in a parameter of q and another one, and H those in two others, it is
    F, C, C^T and S + C^T F^-1 C: S is H - C^T F^-1 C with the absolute values of its eigenvalues,
    where these are not too small. A step then expects q to follow the other parameters.
    """

    q: MeanField | FullRank

    def product(self, objective: symng.Objective, v: TensorVariable) -> TensorVariable:
        """Return the product with the flat vector ``v``."""
        da, dp, *others = symng.vectors.split(v, objective.params)
        parts = self.q.product(da, dp)
        if others:
            (C, lifted, vectors, values), d = self.border(objective), pt.stack(others)
            q = objective.params[:2]
            following = symng.vectors.ravel([da, dp], q) + lifted.T @ d
            shifts = symng.vectors.split(C.T @ d, q)
            parts = [part + shift for part, shift in zip(parts, shifts, strict=True)]
            parts += list(C @ following + vectors @ (values * (vectors.T @ d)))
        return symng.vectors.ravel(parts, objective.params)

    def inverse(self, objective: symng.Objective) -> Callable:
        """Return a preconditioner, which is exact without damping."""

        def solve(v: TensorVariable) -> TensorVariable:
            dm, db, *others = symng.vectors.split(v, objective.params)
            parts = self.q.solve(dm, db)
            if others:
                (_, lifted, vectors, values), q = self.border(objective), objective.params[:2]
                rest = pt.stack(others) - lifted @ symng.vectors.ravel([dm, db], q)
                d = vectors @ ((vectors.T @ rest) / values)
                shifts = symng.vectors.split(lifted.T @ d, q)
                parts = [part - shift for part, shift in zip(parts, shifts, strict=True)]
                parts += list(d)
            return symng.vectors.ravel(parts, objective.params)

        return lambda operator, damping: solve

    def border(self, objective: symng.Objective) -> tuple[TensorVariable, ...]:
        """Return C^T, C^T F^-1, and the eigenvectors and eigenvalues of S."""
        q, others = objective.params[:2], objective.params[2:]
        slopes = pytensor.grad(objective.loss, others)
        H = pt.stack([pt.stack(pytensor.grad(slope, others)) for slope in slopes])
        mixed = [pytensor.grad(slope, q) for slope in slopes]
        C = pt.stack([symng.vectors.ravel(rows, q) for rows in mixed])
        lifted = pt.stack([symng.vectors.ravel(self.q.solve(*rows), q) for rows in mixed])
        values, vectors = pt.linalg.eigh(H - C @ lifted.T)
        return C, lifted, vectors, pt.maximum(abs(values), 1e-3 * abs(values).max())
