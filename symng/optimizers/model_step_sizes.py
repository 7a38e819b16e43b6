"""Step sizes from the quadratic model, which need no evaluation of the loss."""

from __future__ import annotations

import math

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.config import config, number, setting
from symng.graphs.types import Scalar
from symng.optimizers.base import Schedule
from symng.optimizers.step_sizes import Curvature, StepSize, as_size


@config
class QuadraticModelStep(StepSize):
    """Step to the lowest point of the quadratic model along the direction.

    eta = g . p / p . (F + lambda I) p minimizes L - eta g . p + eta^2 p . (F + lambda I) p / 2. It
    is 1 for a solve that has converged and for one by `CG` from zero. It differs from 1 for a solve
    cut short that started warm or was made by `MinresQLP`, and for one with another damping than
    the model's (``solve_damping``).

    Where the curvature p . (F + lambda I) p is not above 0 the model has no lowest point along p,
    and eta is 1.

    Parameters
    ----------
    size : float, callable or symbolic scalar, default 1.0
        A factor of eta, above 0: a number, a schedule of the step number, or a symbolic scalar.

    Notes
    -----
    It costs a product with the metric; none with `CG`, which knows its residual, unless the solve
    has another damping. The model is that of the metric batch, damping and all.

    `NaturalConjugateGradient` with `QuadraticModel` also has the previous update d in the model: it
    minimizes over both coefficients of alpha p + mu d, which is K-FAC's momentum.

    References
    ----------
    .. [1] J. Martens, "New insights and perspectives on the natural gradient method",
       arXiv:1412.1193.
    .. [2] J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
       curvature", ICML 2015, section 6.4.

    Examples
    --------
    Along p = (1, 2) with g = (2, 2) and F + lambda I = 4 I, eta is 6 / 20:

    >>> import pytensor.tensor as pt
    >>> from symng import QuadraticModelStep
    >>> one, slope, curvature = map(pt.as_tensor_variable, (1.0, 6.0, 20.0))
    >>> eta = QuadraticModelStep().from_model(one, slope, lambda damped: curvature)
    >>> round(float(eta.eval()), 6)
    0.3
    """

    size: Scalar | Schedule = setting(convert=as_size, default=1.0)

    def initial(self) -> Scalar | Schedule:
        return self.size

    def from_model(
        self, size: TensorVariable, slope: TensorVariable, curvature: Curvature
    ) -> TensorVariable:
        """Return ``size`` times the minimizer. See `StepSize.from_model`."""
        return size * line_minimizer(slope, curvature(True))


def _as_bound(name: str, value: Scalar | Schedule) -> Scalar | Schedule:
    """Return a step size, or infinity, as it is; refuse anything else."""
    return value if isinstance(value, float) and value == math.inf else as_size(name, value)


@config
class KLTrustRegion(StepSize):
    """Step as far as changes the model by a given KL divergence (equations 3 and 6).

    eta = sqrt(2 delta / p . F p). Then the quadratic approximation of the divergence (equation 4)
    is 1/2 (eta p) . F (eta p) = delta. The divergence itself, from the model before the step to the
    one after it, is delta up to a relative difference that falls as the square root of delta.

    With ``size`` given, eta is at most that, so that delta is a bound: min(size,
    sqrt(2 delta / p . F p)). Implementations of K-FAC do this.

    Where p . F p is not above 0 the model does not change along p as far as F can see. There eta is
    ``size``, or 1 without one; along p = 0 it is 0.

    Parameters
    ----------
    delta : float or symbolic scalar, default 1e-3
        The KL divergence, above 0, in nats an example: a mean over the examples of the metric
        batch, summed over the outputs (and time steps) of one, as `symng.Fisher` is.
    size : float, callable or symbolic scalar, default infinity
        The largest eta, above 0: a number, a schedule of the step number, or a symbolic scalar.

    Notes
    -----
    It costs a product with the metric. F is without damping, on the metric batch.

    F has to be `symng.Fisher`, or its equal, for delta to be in nats. Where the loss is c times the
    mean negative log-likelihood, `symng.GaussNewton` is c F, and c delta takes the place of delta.
    With any other metric p . F p is a squared length, and delta half of the square of the length of
    the step.

    Without ``size`` each step changes the model by about delta, even near an optimum, where p is
    short: give ``size=1.0``, or let delta fall.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, "Revisiting Natural Gradient for Deep Networks",
       arXiv:1301.3584, section 2.
    .. [2] Y. Wu, E. Mansimov, S. Liao, R. Grosse and J. Ba, "Scalable trust-region method for deep
       reinforcement learning using Kronecker-factored approximation", NIPS 2017.

    Examples
    --------
    Along a direction with p . F p = 8, a divergence of 0.01 is reached at eta = sqrt(0.02 / 8):

    >>> import pytensor.tensor as pt
    >>> from symng import KLTrustRegion
    >>> slope, curvature = pt.as_tensor_variable(1.0), pt.as_tensor_variable(8.0)
    >>> size = pt.as_tensor_variable(float("inf"))
    >>> eta = KLTrustRegion(delta=0.01).from_model(size, slope, lambda damped: curvature)
    >>> round(float(eta.eval()), 6)
    0.05
    """

    delta: Scalar = number(default=1e-3, above=0, symbolic=True)
    size: Scalar | Schedule = setting(convert=_as_bound, default=math.inf)

    def initial(self) -> Scalar | Schedule:
        return self.size

    def from_model(
        self, size: TensorVariable, slope: TensorVariable, curvature: Curvature
    ) -> TensorVariable:
        """Return the step size of the divergence delta. See `StepSize.from_model`."""
        changes = curvature(False)
        delta = pt.cast(self.delta, slope.dtype)
        unseen = pt.le(changes, 0)  # False for NaN, which the step is to be refused for
        divisor = pt.switch(unseen, pt.ones_like(changes), changes)
        eta = pt.minimum(size, pt.sqrt(2 * delta / divisor))
        eta = pt.switch(unseen, pt.switch(pt.isinf(size), pt.ones_like(size), size), eta)
        return pt.switch(pt.eq(slope, 0), pt.zeros_like(eta), eta)


def line_minimizer(slope: TensorVariable, curvature: TensorVariable) -> TensorVariable:
    """Return the minimizer s / k of the model -c s + c^2 k / 2 over c; 1 where k is not above 0."""
    falls_on = pt.le(curvature, 0)  # False for NaN, which the step is to be refused for
    return pt.switch(falls_on, pt.ones_like(slope), slope / curvature)
