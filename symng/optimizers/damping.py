"""Damping rules: the lambda of F + lambda I, and how it follows the reduction ratio."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Real
from typing import Literal, Self

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_number, is_symbolic
from symng.graphs.config import Config, choice, config, flag, number
from symng.graphs.types import Scalar
from symng.operators import LinearOperator

Ratio = Literal["linear", "quadratic"]


class Damping(Config, ABC):
    """Rule for the damping of a solve; the base of all damping rules.

    A rule says where the damping starts, and from the reduction ratio rho of a step whether the
    step is refused and what the damping is next.

    Attributes
    ----------
    ratio : {"linear", "quadratic"}, default "linear"
        The model whose prediction rho compares the step with (`predicted_decrease`).
    damped_model : bool, default True
        Whether the quadratic model has the damping term.
    on_search_batch : bool, default False
        Whether rho takes the change of the loss from the search batch, where a step has one.
    """

    ratio: Ratio = "linear"
    damped_model: bool = True
    on_search_batch: bool = False

    @property
    @abstractmethod
    def start(self) -> float:
        """The damping of the first step."""

    @abstractmethod
    def next(
        self, damping: TensorVariable, rho: TensorVariable, failed: TensorVariable
    ) -> TensorVariable:
        """Return the damping after a step of ratio ``rho``, or after a failed step."""

    def adapt(
        self,
        damping: TensorVariable,
        rho: TensorVariable,
        failed: TensorVariable,
        *,
        step: TensorVariable,
        niter: TensorVariable | None,
        status: TensorVariable | None,
    ) -> TensorVariable:
        """Return the damping after a step of which more is known; by default that of `next`.

        ``step`` is its number, from 0; ``niter`` and ``status`` are the iterations and the verdict
        of its solve, a `symng.Status`, or None where the optimizer makes none.
        """
        return self.next(damping, rho, failed)

    def refuses(self, rho: TensorVariable) -> TensorVariable:
        """Return whether a step of ratio ``rho`` is undone; by default no step is."""
        return pt.zeros_like(rho, dtype="bool")

    @property
    def leaves_increases_open(self) -> bool:
        """Whether `minimize` decides if a step that raises the loss of its batch is undone."""
        return False

    def predicted_decrease(
        self,
        operator: LinearOperator,
        damping: TensorVariable,
        gradient: TensorVariable,
        update: TensorVariable,
        image: TensorVariable | None = None,
    ) -> TensorVariable:
        """Return by how much the model predicts that theta -> theta - u lowers the loss.

        g . u (equation 16), or with the quadratic model g . u - u . (F + lambda I) u / 2. ``image``
        is (F + lambda I) u where it is known, which saves a product.
        """
        slope = pt.dot(gradient, update)
        if self.ratio == "linear":
            return slope
        if image is not None:
            curved = image if self.damped_model else image - damping * update
        else:
            curved = operator @ update
            if self.damped_model:
                curved = curved + damping * update
        return slope - pt.dot(update, curved) / 2


@config
class FixedDamping(Damping):
    """Keep the damping as it is.

    The system solved at every step is (F + lambda I) p = g. A step that is not finite is undone,
    but lambda stays. So is one that raises the loss in `minimize` without a ``batch_size``: the
    next step is half as long, and each step taken doubles the length again.

    Parameters
    ----------
    value : float, default 0.0
        lambda, at least 0, in the units of the metric: when `GaussNewton` or `Hessian` is the
        metric and the loss is scaled by c, scale it by c; by c^2 for `EmpiricalFisher`; not at all
        for `Fisher`. A sum over examples counts as their mean.

    Examples
    --------
    >>> from symng import FixedDamping
    >>> FixedDamping(value=3.0)
    FixedDamping(value=3.0)
    """

    value: float = number(default=0.0, minimum=0)

    @property
    def start(self) -> float:
        return float(self.value)

    @property
    def leaves_increases_open(self) -> bool:
        return True

    def next(
        self, damping: TensorVariable, rho: TensorVariable, failed: TensorVariable
    ) -> TensorVariable:
        return damping


@config
class LevenbergMarquardt(Damping):
    """Adapt the damping to how well the model predicts the loss (equations 16, 17, 31, 32).

    With the step delta = -eta p, the reduction ratio is

    - rho = (L(theta + delta) - L(theta)) / (g . delta) for ``ratio="linear"``, the first-order
      model of the paper,
    - rho = (L(theta + delta) - L(theta)) / (g . delta + delta . (F + lambda I) delta / 2) for
      ``ratio="quadratic"``, the model of Martens (2010).

    lambda grows by ``increase`` when rho < ``lower``, or when the model predicts an increase, and
    shrinks by ``decrease`` when rho > ``upper``. It stays where both changes of the loss, the real
    and the predicted one, are of the size of its rounding errors, as at an optimum.

    Parameters
    ----------
    initial : float, default 3.0
        lambda of the first step, at least 0, in the units of the metric (see `FixedDamping`).
    ratio : {"linear", "quadratic"}, default "linear"
        Which model predicts. Thresholds for one do not suit the other: on a quadratic loss whose
        Hessian is the metric, with exact solves and step size 1, the linear ratio runs from 1/2
        (small lambda) to 1 (large), the quadratic one from 1 to 2.
    lower, upper : float, default 0.25 and 0.75
        Thresholds of rho, ``lower`` at most ``upper``.
    increase, decrease : float, default 3/2 and 2/3
        Factors, ``increase`` above 1 and ``decrease`` between 0 and 1.
    minimum, maximum : float, default 1e-4 and 1e10
        Bounds that the rule does not move lambda across. An ``initial`` outside them is kept.
    from_zero : float, default 1e-5
        What a lambda of 0 grows to.
    reject_below : float, optional
        Refuse steps with rho below this; 0.0 refuses all that raise the loss. Default: refuse only
        steps that are not finite. A refused step leaves the parameters and raises lambda.
    damped_model : bool, default True
        Whether the quadratic model has the damping term.
    clamp : bool, default True
        Whether lambda stops at ``minimum``. Without it lambda shrinks while it is above, the last
        time to below ``minimum``, and from there only grows.
    to_zero : bool, default False
        Without ``clamp``, whether a lambda at or below ``minimum`` goes to 0 where it would shrink.
    on_search_batch : bool, default False
        Whether rho takes the change of the loss from the search batch, where a step has one
        (``search_batch`` of `minimize` and of a compiled step): the step is then judged on examples
        that its gradient has not seen. The predicted change stays that of the gradient batch. It
        costs two forward passes on the search batch, or none after a line search there.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, arXiv:1301.3584, section 5 and appendix.
    .. [2] J. Martens, "Deep learning via Hessian-free optimization", ICML 2010, section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> import pytensor.tensor as pt
    >>> from symng import LevenbergMarquardt
    >>> rule = LevenbergMarquardt(initial=3.0)
    >>> damping, rho, no = (pt.as_tensor_variable(np.array(a)) for a in (3.0, 0.1, False))
    >>> float(rule.next(damping, rho, no).eval())
    4.5
    """

    initial: float = number(default=3.0, minimum=0)
    ratio: Ratio = choice(Ratio, default="linear")
    lower: float = number(default=0.25)
    upper: float = number(default=0.75)
    increase: float = number(default=1.5, above=1)
    decrease: float = number(default=2 / 3, above=0, below=1)
    minimum: float = number(default=1e-4, minimum=0)
    maximum: float = number(default=1e10, above=0)
    from_zero: float = number(default=1e-5, above=0)
    reject_below: float | None = number(default=None)
    damped_model: bool = flag(default=True)
    clamp: bool = flag(default=True)
    to_zero: bool = flag(default=False)
    on_search_batch: bool = flag(default=False)

    @classmethod
    def natgrad(cls, initial: float = 3.0, *, on_evaluation_batch: bool = False) -> Self:
        """Return the rule of the first author's program, edge cases included.

        lambda shrinks by 2/3 while it is above 1e-4, grows by 3/2, and from 0 to 1e-5. With
        ``on_evaluation_batch``, adapt=2 in the program, the ratio is that of other examples, here
        the search batch; 1e-4 and 1e-5 become 1e-6, and a smaller lambda goes to 0.
        """
        if not on_evaluation_batch:
            return cls(initial=initial, clamp=False)
        return cls(
            initial=initial,
            minimum=1e-6,
            from_zero=1e-6,
            clamp=False,
            to_zero=True,
            on_search_batch=True,
        )

    @classmethod
    def martens(cls, initial: float = 0.1) -> Self:
        """Return the rule of Martens's Hessian-free optimization, as theano-hf has it.

        The quadratic ratio without the damping in the model, factors 3/2 and 2/3, and no bounds.
        """
        return cls(initial=initial, ratio="quadratic", minimum=0.0, damped_model=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high, expected in (
            ("lower", "upper", "a threshold of at most upper"),
            ("minimum", "maximum", "a bound of at most maximum"),
        ):
            lower, upper = getattr(self, low), getattr(self, high)
            if lower > upper:
                raise argument_error(low, expected, Verbatim(f"{lower} above {upper}"))

    @property
    def start(self) -> float:
        return float(self.initial)

    @property
    def leaves_increases_open(self) -> bool:
        return self.reject_below is None

    def next(
        self, damping: TensorVariable, rho: TensorVariable, failed: TensorVariable
    ) -> TensorVariable:
        largest = float(np.finfo(damping.dtype).max)

        def scalar(value: float) -> TensorVariable:
            return pt.constant(max(-largest, min(largest, value)), dtype=damping.dtype)

        raised = pt.maximum(damping * scalar(self.increase), scalar(self.from_zero))
        raised = pt.minimum(raised, pt.maximum(damping, scalar(self.maximum)))
        lowered, minimum = damping * scalar(self.decrease), scalar(self.minimum)
        if self.clamp:
            lowered = pt.maximum(lowered, pt.minimum(damping, minimum))
        else:
            rest = pt.zeros_like(damping) if self.to_zero else damping
            lowered = pt.switch(damping > minimum, lowered, rest)
        grows = failed | pt.lt(rho, scalar(self.lower)) | self.refuses(rho)
        return pt.switch(grows, raised, pt.switch(pt.gt(rho, scalar(self.upper)), lowered, damping))

    def refuses(self, rho: TensorVariable) -> TensorVariable:
        if self.reject_below is None:
            return pt.zeros_like(rho, dtype="bool")
        return pt.lt(rho, pt.constant(self.reject_below, dtype=rho.dtype))


def as_damping(name: str, value: object) -> Damping:
    """Return ``value`` as a damping rule; a number means `FixedDamping`."""
    if isinstance(value, Damping):
        return value
    hint = "Give symng.FixedDamping(value=...) or symng.LevenbergMarquardt(initial=...)."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise argument_error(
            name, "a damping rule or a number of at least 0", value, hint, TypeError
        )
    check_number(name, value, minimum=0, hint=hint)
    return FixedDamping(value=float(value))


SolveDamping = Scalar | Callable[[TensorVariable], Scalar]
"""The damping of a solve: a value, or a function of the damping of the model."""


def as_solve_damping(name: str, value: SolveDamping | None) -> SolveDamping | None:
    """Return a number of at least 0, a symbolic scalar, a function or None as it is."""
    if value is None:
        return None
    if callable(value) and not (is_symbolic(value) or isinstance(value, type)):
        returned = value(pt.scalar("damping", dtype="float64"))
        check_number(f"{name} (what it returns)", returned, minimum=0, symbolic=True)
        return value
    hint = "A damping rule belongs to damping=, which is that of the model."
    check_number(name, value, minimum=0, symbolic=True, hint=hint)
    return value
