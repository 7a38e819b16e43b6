"""Adam, a baseline."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytensor.tensor as pt

from symng.graphs.config import Setting, config, number, setting
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
class Adam(Optimizer):
    """Descend along the mean gradient, each parameter in units of its root mean square.

    m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2 and theta <- theta - eta m' /
    (sqrt(v') + epsilon), elementwise, where m' = m / (1 - beta1^t) and v' = v / (1 - beta2^t) after
    t steps: m and v start from zero, and so m' and v' are averages. A step that is not finite
    leaves everything as it was and is recorded as rejected.

    Parameters
    ----------
    step_size : float, callable or symbolic scalar, default 0.001
        eta, above 0: a number, a schedule of the step number, or a symbolic scalar. Each parameter
        changes by about eta.
    beta1 : float or symbolic scalar, default 0.9
        From 0 to below 1.
    beta2 : float or symbolic scalar, default 0.999
        From 0 to below 1.
    epsilon : float or symbolic scalar, default 1e-8
        At least 0, in units of the gradient. With 0, a parameter without a gradient makes the step
        not finite.

    Notes
    -----
    One step costs one gradient. It stores two vectors of the size of the parameters.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    Examples
    --------
    The first step has the size eta, whatever the size of the gradient:

    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x = pt.matrix("x")
    >>> w = pytensor.shared(np.array([1.0, -2.0]), name="w")
    >>> y = x @ w
    >>> objective = symng.Objective(pt.sqr(y).mean() / 2, output=y, params=[w], inputs=[x])
    >>> step = symng.compile_step(objective, symng.Adam(step_size=0.25), mode="FAST_COMPILE")
    >>> float(step((np.eye(2),)).loss), w.get_value().round(6)
    (1.25, array([ 0.75, -1.75]))
    """

    step_size: Setting[FixedStepLike, FixedStep] = setting(
        convert=partial(as_fixed_step, "Adam"), default=0.001, kw_only=False
    )
    beta1: Scalar = number(default=0.9, minimum=0, below=1, symbolic=True)
    beta2: Scalar = number(default=0.999, minimum=0, below=1, symbolic=True)
    epsilon: Scalar = number(default=1e-8, minimum=0, symbolic=True)

    def init_state(self, objective: ObjectiveLike) -> State:
        state = State(objective.dtype)
        init_step_size(state, self.step_size)
        state.add_settings(self)
        for name in ("first_moment", "second_moment"):
            state.add(name, np.zeros(objective.size))
            state.add(f"{name}_weight", 0.0)
        return state

    def build(self, batches: StepBatches, state: State) -> Step:
        refuse_other_batches("Adam", batches)
        loss, gradient = loss_and_gradient(batches.gradient)
        beta1, beta2, epsilon = (
            state.value_of(self, name) for name in ("beta1", "beta2", "epsilon")
        )
        values, means = {}, []
        for name, beta, power in (
            ("first_moment", beta1, gradient),
            ("second_moment", beta2, pt.sqr(gradient)),
        ):
            weight = f"{name}_weight"
            values[name] = beta * state.values[name] + (1 - beta) * power
            # The weights of the average add up to 1 - beta^t, with the same rounding errors as the
            # average.
            values[weight] = beta * state.values[weight] + (1 - beta)
            means.append(values[name] / values[weight])
        updates, records = descend(
            batches.params,
            state,
            loss=loss,
            gradient=gradient,
            size=step_size_of(state, self.step_size),
            direction=means[0] / (pt.sqrt(means[1]) + epsilon),
            values=values,
        )
        return Step(batches, updates, records)
