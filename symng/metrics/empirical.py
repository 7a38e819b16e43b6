"""The covariance of per-example gradients, TONGA's metric."""

from __future__ import annotations

from collections.abc import Callable

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import (
    Verbatim,
    argument_error,
    check_instance,
    check_number,
)
from symng.graphs import vectors
from symng.graphs.config import config, flag
from symng.graphs.types import Integer
from symng.metrics._diagonal import known_example_losses, mean_squared_gradients
from symng.metrics._rows import RowBlock, rows_by_example
from symng.metrics.base import Metric
from symng.metrics.jacobian import pullback, pushforward
from symng.objective import Objective, ObjectiveLike
from symng.objective.batches import Batch, FullBatch, TermBatch, as_batch
from symng.objective.sums import Summand
from symng.operators import Factor


@config
class EmpiricalFisher(Metric):
    """Covariance of the per-example gradients g_n, with the targets of the data.

    U = 1/N sum_n g_n g_n^T, uncentered (equation 9); C = 1/N sum_n (g_n - g)(g_n - g)^T with g the
    mean of the g_n, centered. It is a mean over the N examples of a batch, whether the loss is a
    mean or a sum over them. A loss scaled by c scales the matrix by c^2, and a damping tuned for it
    has to follow. It is positive semi-definite, of rank at most N (N - 1 when centered).

    Parameters
    ----------
    centered : bool, default False
        Whether the mean gradient is subtracted.

    Raises
    ------
    ValueError
        When called on an objective whose losses of single examples are not known.

    Notes
    -----
    One product costs a pushforward and a pullback through the loss, and two vectors of length N; no
    g_n is formed. It depends on the targets: a metric batch for it holds inputs and targets. It is
    not the Fisher matrix: the expectation is over the targets of the data, not those of the model
    (section 4).

    References
    ----------
    .. [1] N. Le Roux, P.-A. Manzagol and Y. Bengio, "Topmoumoute online natural gradient
       algorithm", NIPS 2007.
    .. [2] R. Pascanu and Y. Bengio, arXiv:1301.3584, section 4, equation 9.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x = pt.matrix("x")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> objective = symng.Objective(y.mean(), output=y, params=[w], inputs=[x])  # g_n = x_n
    >>> U, C = (symng.EmpiricalFisher(centered=c)(objective) for c in (False, True))
    >>> batch = {x: np.array([[1.0, 1.0], [3.0, 1.0]])}
    >>> U.materialise().eval(batch)
    array([[5., 2.],
           [2., 1.]])
    >>> C.materialise().eval(batch)
    array([[1., 0.],
           [0., 0.]])
    """

    centered: bool = flag(default=False)

    def check(self, objective: Objective) -> None:
        if objective.example_losses is None:
            raise argument_error(
                "example_losses",
                "a vector of the losses of single examples",
                Verbatim("a loss that is not a plain mean or sum over one"),
                "Give Objective(..., example_losses=...).",
            )

    def product(self, objective: Objective, v: TensorVariable) -> TensorVariable:
        losses = known_example_losses(objective)
        along = pushforward([losses], objective, v)[0]  # g_n . v
        if self.centered:
            along = along - along.mean()
        return pullback([losses], objective, [along / losses.shape[0].astype(losses.dtype)])

    def apply(self, batch: TermBatch, v: TensorVariable) -> TensorVariable:
        # Examples are centered around the mean of the batch, not of their chunk.
        if not self.centered or isinstance(batch, FullBatch):
            return super().apply(batch, v)
        mean = _mean_gradient(batch)
        return EmpiricalFisher().apply(batch, v) - pt.dot(mean, v) * mean

    def factor(self, objective: Objective) -> Factor:
        """Return the matrix with rows g_n / sqrt(N), centered if ``centered``."""
        losses = known_example_losses(objective)
        scale = pt.sqrt(losses.shape[0].astype(losses.dtype))

        def scaled(v: TensorVariable) -> TensorVariable:
            return (v - v.mean() if self.centered else v) / scale

        block = RowBlock(losses, 0, lambda _, unit: unit / scale)

        def rows() -> TensorVariable | None:
            found = rows_by_example(objective, [block])
            if found is None or not self.centered:
                return found
            return found - found.mean(axis=0, keepdims=True)

        return Factor(
            lambda v: scaled(pushforward([losses], objective, v)[0]),
            lambda u: pullback([losses], objective, [scaled(u)]).astype(objective.dtype),
            rows,
        )

    def draw(self, batch: TermBatch) -> Callable[[TensorVariable], TensorVariable]:
        def drawn(seed: TensorVariable) -> TensorVariable:
            def means(o: Objective, offset: Integer) -> list[TensorVariable]:
                losses = known_example_losses(o)
                signs = vectors.random_signs(losses, seed, offset=offset)
                weights = signs / losses.shape[0].astype(losses.dtype)
                return [
                    pullback([losses], o, [weights]).astype(o.dtype),
                    weights.sum().astype(o.dtype),
                ]

            signed, sign = batch.mean(means)
            if self.centered:
                signed = signed - sign * _mean_gradient(batch)
            return pt.sqrt(batch.count.astype(batch.objective.dtype)) * signed

        return drawn

    def diagonal(
        self, objective: ObjectiveLike | Batch, *, draws: int = 8, seed: Integer = 0
    ) -> TensorVariable:
        """Return the diagonal of the matrix: the mean of g_n^2, or their variance when centered.

        Exact for dense layers: for a matrix W that enters the loss once, as h W with an example in
        each row of h, and for a bias added to such rows. For all other parameters (shared by
        layers, in a scan, with a weight decay) it is the estimate 1/N (sum_n s_n g_n)^2, averaged
        over ``draws`` of random signs s_n. Its expectation is the mean of g_n^2 and its standard
        deviation at most sqrt(2 / draws) times that, unless centered.

        Parameters
        ----------
        objective : Objective
            Whose losses of single examples are known.
        draws : int, default 8
            At least 1.
        seed : int or symbolic integer scalar, default 0
            Determines the signs: give the number of the step for new ones at each step.

        Returns
        -------
        symbolic vector
            Over the flat parameter vector, at least 0, in the dtype of the parameters.

        Notes
        -----
        The exact part costs a matrix product for each matrix. It shares the backward pass of the
        loss if the loss is a mean or sum over examples, and else costs another one. The estimate
        costs a backward pass for each draw. No g_n is formed.

        Examples
        --------
        >>> import numpy as np, pytensor, pytensor.tensor as pt
        >>> import symng
        >>> x = pt.matrix("x")
        >>> w = pytensor.shared(np.zeros(2), name="w")
        >>> y = x @ w
        >>> objective = symng.Objective(y.mean(), output=y, params=[w], inputs=[x])  # g_n = x_n
        >>> batch = {x: np.array([[1.0, 1.0], [3.0, 1.0]])}
        >>> symng.EmpiricalFisher().diagonal(objective).eval(batch)
        array([5., 1.])
        >>> symng.EmpiricalFisher(centered=True).diagonal(objective).eval(batch)
        array([1., 0.])
        """
        check_instance("objective", objective, (Summand, Batch), "a symng.Objective")
        batch = as_batch(objective)
        for term in batch.terms:
            self.check(term.objective)
        check_number("draws", draws, minimum=1, integer=True)
        check_number("seed", seed, integer=True, symbolic=True)

        def of_term(term: TermBatch) -> TensorVariable:
            squares = mean_squared_gradients(term, draws, seed)
            if not self.centered:
                return squares
            return pt.maximum(squares - pt.sqr(_mean_gradient(term)), 0)

        return batch.weighted_sum(of_term)


def _mean_gradient(batch: TermBatch) -> TensorVariable:
    """Return the mean of the gradients of single examples."""

    def mean(o: Objective, offset: Integer) -> list[TensorVariable]:
        losses = known_example_losses(o)
        return [
            pullback(
                [losses], o, [pt.ones_like(losses) / losses.shape[0].astype(losses.dtype)]
            ).astype(o.dtype)
        ]

    return batch.mean(mean)[0]
