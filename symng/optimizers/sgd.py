"""Stochastic gradient descent, the baseline."""

from __future__ import annotations

from functools import partial

import numpy as np

from symng._checks import Verbatim, argument_error, is_symbolic
from symng.graphs.config import Setting, config, flag, number, setting
from symng.graphs.types import Scalar
from symng.objective import ObjectiveLike
from symng.optimizers._first_order import (
    FixedStepLike,
    as_fixed_step,
    descend,
    refuse_other_batches,
)
from symng.optimizers._step import init_step_size, loss_and_gradient, step_size_of
from symng.optimizers.base import Optimizer, State, Step, StepBatches
from symng.optimizers.step_sizes import FixedStep


@config
class SGD(Optimizer):
    """Descend along the gradient, with momentum if wanted.

    v <- mu v + g and theta <- theta - eta v; with ``nesterov`` theta <- theta - eta (g + mu v). A
    step that is not finite leaves parameters and v as they were and is recorded as rejected. g has
    the scale of the loss: where that is a sum over N examples, divide eta by N.

    Parameters
    ----------
    step_size : float, callable or symbolic scalar, default 0.01
        eta, above 0: a number, a schedule of the step number, or a symbolic scalar.
    momentum : float or symbolic scalar, default 0.0
        mu, from 0 to below 1.
    nesterov : bool, default False
        Whether the momentum looks ahead; needs ``momentum`` above 0.

    Notes
    -----
    One step costs one gradient. v sums up gradients: with an eta of (1 - mu) times that of plain
    descent the steps are about as long.

    References
    ----------
    .. [1] I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization and
       momentum in deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x = pt.matrix("x")
    >>> w = pytensor.shared(np.ones(2), name="w")
    >>> y = x @ w
    >>> objective = symng.Objective(pt.sqr(y).mean() / 2, output=y, params=[w], inputs=[x])
    >>> step = symng.compile_step(objective, symng.SGD(step_size=0.5), mode="FAST_COMPILE")
    >>> float(step((np.eye(2),)).loss), w.get_value()
    (0.5, array([0.75, 0.75]))
    """

    step_size: Setting[FixedStepLike, FixedStep] = setting(
        convert=partial(as_fixed_step, "SGD"), default=0.01, kw_only=False
    )
    momentum: Scalar = number(default=0.0, minimum=0, below=1, symbolic=True)
    nesterov: bool = flag(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self._has_momentum:
            raise argument_error(
                "nesterov",
                "False without momentum",
                Verbatim("True"),
                "Give momentum, for instance 0.9.",
            )

    @property
    def _has_momentum(self) -> bool:
        return is_symbolic(self.momentum) or bool(self.momentum > 0)

    def init_state(self, objective: ObjectiveLike) -> State:
        state = State(objective.dtype)
        init_step_size(state, self.step_size)
        if self._has_momentum:
            state.add_settings(self)
            state.add("velocity", np.zeros(objective.size))
        return state

    def build(self, batches: StepBatches, state: State) -> Step:
        refuse_other_batches("SGD", batches)
        loss, gradient = loss_and_gradient(batches.gradient)
        direction, values = gradient, {}
        if self._has_momentum:
            mu = state.value_of(self, "momentum")
            velocity = mu * state.values["velocity"] + gradient
            direction, values = (
                gradient + mu * velocity if self.nesterov else velocity,
                {"velocity": velocity},
            )
        updates, records = descend(
            batches.params,
            state,
            loss=loss,
            gradient=gradient,
            size=step_size_of(state, self.step_size),
            direction=direction,
            values=values,
        )
        return Step(batches, updates, records)
