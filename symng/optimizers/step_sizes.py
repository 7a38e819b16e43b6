"""How far along a direction: fixed and scheduled step sizes, and a backtracking line search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, check_number, is_symbolic
from symng.graphs.config import Config, config, number, setting
from symng.graphs.loops import while_loop
from symng.graphs.types import Scalar
from symng.optimizers.base import Schedule

Curvature = Callable[[bool], TensorVariable]
"""From whether the damping counts to p . (F + lambda I) p, or else p . F p, of a direction p."""


class StepSize(Config, ABC):
    """Rule for the step size; the base of all that an optimizer takes as ``step_size``.

    Subclasses implement `initial`, `from_model` if they use the quadratic model, and `find` if they
    search.

    Attributes
    ----------
    searches : bool, default False
        Whether the step size depends on the loss, so that a step may have a search batch.
    """

    searches: bool = False

    @abstractmethod
    def initial(self) -> Scalar | Schedule:
        """Return the number, schedule or symbolic scalar that the rule starts from."""

    def from_model(
        self, size: TensorVariable, slope: TensorVariable, curvature: Curvature
    ) -> TensorVariable:
        """Return the step size that the quadratic model asks for; by default ``size`` as it is.

        Along a direction p the model is L - eta g . p + eta^2 p . (F + lambda I) p / 2. ``size`` is
        the current value of `initial` and ``slope`` is g . p. ``curvature(True)`` is
        p . (F + lambda I) p, and ``curvature(False)`` is p . F p; each costs a product with the
        metric, unless the solve knows it.
        """
        return size

    def find(
        self,
        loss_at: Callable[[TensorVariable], TensorVariable],
        loss: TensorVariable,
        slope: TensorVariable,
        size: Scalar | None = None,
    ) -> tuple[TensorVariable, TensorVariable, TensorVariable]:
        """Return step size, loss there, and whether one was found; by default ``size`` as it is.

        ``loss_at`` gives the loss at a step size, ``loss`` is that at 0, and ``slope`` is g . p,
        its decrease per unit of step size. ``size`` stands in for the one that the rule starts
        from.
        """
        size = pt.cast(self.initial() if size is None else size, loss.dtype)
        return size, loss_at(size), pt.constant(np.array(True))


def as_size(name: str, value: Scalar | Schedule) -> Scalar | Schedule:
    """Return a number, schedule or symbolic scalar as it is; refuse anything else."""
    if isinstance(value, type):
        expected = "a number, a schedule or a symbolic scalar"
        raise argument_error(name, expected, value, "Did you forget the parentheses?", TypeError)
    if not callable(value) or is_symbolic(value):
        check_number(name, value, above=0, symbolic=True)
    return value


@config
class FixedStep(StepSize):
    """Take steps of a size that does not depend on the loss.

    Parameters
    ----------
    size : float, callable or symbolic scalar, default 1.0
        The step size eta, above 0; or a schedule from the step number (0, 1, ...) to it, which may
        return 0 or a symbolic scalar; or any symbolic scalar, for instance of your own shared
        variables.

    Examples
    --------
    >>> from symng import FixedStep
    >>> FixedStep(size=lambda step: 1 / (1 + step / 20)).initial()(20)
    0.5
    """

    size: Scalar | Schedule = setting(convert=as_size, default=1.0)

    def initial(self) -> Scalar | Schedule:
        return self.size


def _as_first_size(name: str, value: Scalar | StepSize) -> Scalar | StepSize:
    """Return a number, symbolic scalar or rule as it is; refuse a rule that searches itself."""
    if not isinstance(value, StepSize):
        check_number(name, value, above=0, symbolic=True)
    elif value.searches:
        raise argument_error(name, "a number, or a rule that makes no search", value)
    return value


@config
class BacktrackingLineSearch(StepSize):
    """Shorten the step until the loss has decreased enough (Armijo), in the compiled step.

    The first eta of ``size``, ``size * shrink``, ... with L(theta - eta p) <= L(theta) - c eta
    max(g . p, 0) is taken, with c = ``sufficient_decrease``: never one that raises the loss. The
    loss is that of the search batch; without one, of the gradient batch. g is the gradient on the
    gradient batch. With full batches and `NaturalGradient` this is the paper's NGD-L.

    Parameters
    ----------
    size : float, symbolic scalar or StepSize, default 1.0
        The eta tried first, above 0; or a rule that gives it, such as `QuadraticModelStep`.
    shrink : float, default 0.5
        Factor from one eta to the next, between 0 and 1.
    sufficient_decrease : float, default 1e-4
        c, at least 0 and below 1.
    max_evaluations : int, default 20
        The limit on step sizes tried, at least 1. If none will do, the step size is 0 and the step
        is rejected.

    Notes
    -----
    One forward pass for each step size tried, and two more where the search batch is another than
    the gradient batch: of the search batch before the step, and of the gradient batch after it.

    References
    ----------
    .. [1] J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, algorithm 3.1.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from symng import BacktrackingLineSearch
    >>> search = BacktrackingLineSearch(size=4.0)
    >>> theta = pt.as_tensor_variable(1.0)
    >>> loss = lambda eta: (theta - eta * 2 * theta) ** 2  # along the gradient of theta^2
    >>> size, value, found = search.find(loss, loss(0.0), pt.as_tensor_variable(4.0))
    >>> float(size.eval())
    0.5
    """

    size: Scalar | StepSize = setting(convert=_as_first_size, default=1.0)
    shrink: float = number(default=0.5, above=0, below=1)
    sufficient_decrease: float = number(default=1e-4, minimum=0, below=1)
    max_evaluations: int = number(default=20, minimum=1, integer=True)

    searches = True

    def initial(self) -> Scalar | Schedule:
        return self.size.initial() if isinstance(self.size, StepSize) else self.size

    def from_model(
        self, size: TensorVariable, slope: TensorVariable, curvature: Curvature
    ) -> TensorVariable:
        """Return the step size to try first. See `StepSize.from_model`."""
        if isinstance(self.size, StepSize):
            return self.size.from_model(size, slope, curvature)
        return size

    def find(
        self,
        loss_at: Callable[[TensorVariable], TensorVariable],
        loss: TensorVariable,
        slope: TensorVariable,
        size: Scalar | None = None,
    ) -> tuple[TensorVariable, TensorVariable, TensorVariable]:
        """Return step size, loss there, and whether one was found; otherwise 0 and the loss at 0.

        See `StepSize.find`.
        """
        dtype = loss.dtype
        first = pt.cast(self.initial() if size is None else size, dtype)
        c, shrink = (pt.constant(a, dtype=dtype) for a in (self.sufficient_decrease, self.shrink))
        slope = pt.maximum(slope, pt.zeros_like(slope))

        def enough(eta: TensorVariable, value: TensorVariable) -> TensorVariable:
            return pt.le(value, loss - c * eta * slope)  # False for NaN

        untried = pt.full_like(loss, pt.constant(float("nan"), dtype=dtype))
        state = {"eta": first, "next": first, "loss": untried}
        final = while_loop(
            lambda s: {"eta": s["next"], "next": s["next"] * shrink, "loss": loss_at(s["next"])},
            lambda s: ~enough(s["eta"], s["loss"]),
            state,
            self.max_evaluations,
        )
        found = enough(final["eta"], final["loss"])
        zero = pt.zeros_like(loss)
        return pt.switch(found, final["eta"], zero), pt.switch(found, final["loss"], loss), found


StepSizeLike = StepSize | Scalar | Schedule
"""What an optimizer takes as a step size."""


def as_step_size(name: str, value: StepSizeLike) -> StepSize:
    """Return ``value`` as a rule; a number, schedule or symbolic scalar means `FixedStep`."""
    if isinstance(value, StepSize):
        return value
    if isinstance(value, type):
        expected = "a number, a schedule or a rule such as symng.BacktrackingLineSearch()"
        raise argument_error(name, expected, value, "Did you forget the parentheses?", TypeError)
    return FixedStep(size=as_size(name, value))
