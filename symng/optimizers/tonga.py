"""TONGA, natural gradient under a running covariance of gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytensor.tensor as pt

from symng.graphs.config import Setting, config, flag, number, setting
from symng.graphs.types import Scalar
from symng.objective import ObjectiveLike
from symng.optimizers._first_order import (
    FixedStepLike,
    as_fixed_step,
    descend,
    refuse_other_batches,
)
from symng.optimizers._step import (
    all_finite,
    in_units_of_loss,
    init_step_size,
    loss_and_gradient,
    step_size_of,
)
from symng.optimizers.base import Optimizer, State, Step, StepBatches
from symng.optimizers.step_sizes import FixedStep


@config
class TONGA(Optimizer):
    """Descend along the natural gradient under a low-rank running covariance of gradients.

    theta <- theta - eta p, where (C_t + lambda I) p = g_t for the gradient g_t of the batch of step
    t and

    C_t = 1/W_t sum_s gamma^(t-s) g_s g_s^T with W_t = sum_s gamma^(t-s), over the steps s = 1 ...
    t,

    or with ``centered`` the same of g_s - m_t, m_t being the mean of the g_s with the same weights.
    W_t C_t is kept as U^T U for k rows U: those of the best approximation of rank k, made once a
    step. C_t is exact up to step k; from then on that of step t is exact in g_t, and made from the
    approximation of step t - 1.

    A step that is not finite leaves everything as it was and is recorded as rejected.

    Parameters
    ----------
    rank : int, default 10
        k, at least 1.
    decay : float or symbolic scalar, default 0.995
        gamma, from 0 (the last gradient alone) to 1 (all alike).
    damping : float or symbolic scalar, default 1.0
        lambda, above 0, in units of the square of a gradient: when the loss is scaled by c, scale
        it by c^2.
    centered : bool, default False
        Whether the running mean of the gradients is taken off, as in the original.
    step_size : float, callable or symbolic scalar, default 0.1
        eta, above 0: a number, a schedule of the step number, or a symbolic scalar.
        Orthogonal to the rows of U and to g_t, p is g / lambda: there eta compares with lambda
        times the step size of plain descent.

    Notes
    -----
    With the rows X = (sqrt(gamma) U, g_t), or in place of g_t what it adds to the covariance around
    the mean, W_t C_t = X^T X has the eigenvalues of the small Gram matrix G = X X^T = Q D Q^T, and
    the eigenvectors X^T Q D^(-1/2). So the best U are the k rows of Q^T X with the largest
    eigenvalues, and p = (g - X^T (G + W_t lambda I)^-1 X g) / lambda.

    One step costs one gradient and (k + 1) (2 k + 1) n multiplications for n parameters, about
    those of the gradient of k^2 examples in dense layers: little for large batches. The original
    compresses once in several steps instead. It stores k vectors of the size of the parameters, one
    more when centered.

    C_t is that of the gradients of batches. That of single examples is `EmpiricalFisher`, the
    metric of ``NaturalGradient(metric=EmpiricalFisher(centered=True))``.

    References
    ----------
    .. [1] N. Le Roux, P.-A. Manzagol and Y. Bengio, "Topmoumoute online natural gradient
       algorithm", NIPS 2007.

    Examples
    --------
    The first step is g / (g . g + lambda), here with the gradient (1, 2):

    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x = pt.matrix("x")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> objective = symng.Objective(y.mean(), output=y, params=[w], inputs=[x])
    >>> optimizer = symng.TONGA(rank=1, damping=5.0, step_size=1.0)
    >>> step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE")
    >>> info = step((np.array([[1.0, 2.0]]),))
    >>> w.get_value().round(6)
    array([-0.1, -0.2])
    """

    rank: int = number(default=10, minimum=1, integer=True)
    decay: Scalar = number(default=0.995, minimum=0, maximum=1, symbolic=True)
    damping: Scalar = number(default=1.0, above=0, symbolic=True)
    centered: bool = flag(default=False)
    step_size: Setting[FixedStepLike, FixedStep] = setting(
        convert=partial(as_fixed_step, "TONGA"), default=0.1
    )

    def init_state(self, objective: ObjectiveLike) -> State:
        state = State(objective.dtype)
        init_step_size(state, self.step_size)
        state.add_settings(self)
        state.add("weight", 0.0)
        state.add("factor", np.zeros((self.rank, objective.size)))
        if self.centered:
            state.add("mean", np.zeros(objective.size))
        return state

    def build(self, batches: StepBatches, state: State) -> Step:
        refuse_other_batches("TONGA", batches)
        batches = batches.averaged()
        loss, gradient = loss_and_gradient(batches.gradient)
        decay, damping = state.value_of(self, "decay"), state.value_of(self, "damping")

        # W C as X^T X; around the mean, g adds (1 - 1/W) (g - m)(g - m)^T, where m is the mean
        # before it.
        weight = decay * state.values["weight"] + 1
        values, added = {"weight": weight}, gradient
        if self.centered:
            difference = gradient - state.values["mean"]
            values["mean"] = state.values["mean"] + difference / weight
            added = pt.sqrt(1 - 1 / weight) * difference
        X = pt.concatenate([pt.sqrt(decay) * state.values["factor"], added[None, :]])
        gram = pt.dot(X, X.T)
        usable = pt.switch(all_finite(gram), gram, pt.zeros_like(gram))  # NaN would be refused
        parts: Any = pt.linalg.eigh(usable)
        eigenvalues, Q = parts

        # The best approximation of rank k leaves out the smallest eigenvalue, which is the first.
        values["factor"] = pt.dot(Q[:, 1:].T, X)
        # (C + lambda I)^-1 g by the Woodbury identity.
        along = pt.dot(Q.T, pt.dot(X, gradient)) / (pt.maximum(eigenvalues, 0) + weight * damping)
        direction = (gradient - pt.dot(pt.dot(Q, along), X)) / damping
        updates, records = descend(
            batches.params,
            state,
            loss=loss,
            gradient=gradient,
            size=step_size_of(state, self.step_size),
            direction=direction,
            values=values,
            checked=[gram],
        )
        records |= {"damping": damping}
        return Step(batches, updates, in_units_of_loss(batches.gradient, records))
