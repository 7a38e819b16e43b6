"""Natural gradient descent."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng.graphs.config import config, flag
from symng.metrics.base import OutputMetric
from symng.optimizers._damped import DampedOptimizer, DampedSolve
from symng.optimizers._step import (
    NO_SEARCH,
    all_finite,
    has_direction,
    in_units_of_loss,
    norm,
    refuse_batch,
)
from symng.optimizers.base import Records, State, Step, StepBatches

# The largest 2 |c| / |p| with which Transtrum and Sethna take the acceleration c of a step p.
_MAX_RATIO = 0.75


@config
class NaturalGradient(DampedOptimizer):
    """Descend along the natural gradient (equation 2, algorithm 2 of the appendix).

    theta <- theta - eta p, where (F + lambda I) p = g: g is the gradient of the loss on the
    gradient batch, F the metric on the metric batch (the same one unless another is given), lambda
    the damping, eta the step size. A loss that is a sum over N examples takes the step of its mean:
    N (F + lambda I) p = g.

    A step whose loss, direction or solve is not finite, or whose solve met negative curvature
    before it had made any progress, or that the damping rule refuses, or for which a line search
    finds no step size, leaves the parameters as they were, raises the damping and is recorded as
    rejected.

    Parameters
    ----------
    metric : Metric, default Fisher()
        The metric F. With `GaussNewton` p is Hessian-free's direction, with `EmpiricalFisher`
        TONGA's.
    solver : Solver, default MinresQLP(rtol=1e-4, maxiter=50)
        The solver of (F + lambda I) p = g: `MinresQLP` or `CG`, or a direct one, `Woodbury` or
        `QR`.
    damping : Damping or float, default LevenbergMarquardt(initial=3.0)
        A rule, or a constant of at least 0.
    step_size : float, callable, symbolic scalar or StepSize, default 1.0
        A number above 0, a schedule of the step number, a symbolic scalar, or a rule:
        `BacktrackingLineSearch`, `QuadraticModelStep` or `KLTrustRegion`.
    warm_start : float, default 0.0
        Each solve starts from this times the previous direction, or from zero after a refused step;
        0 starts from zero always. From 0 to 1. A direct solver uses it only if it is ``proximal``:
        SPRING.
    preconditioner : Preconditioner or callable, optional
        `KroneckerPreconditioner`, `JacobiPreconditioner`, `NystromPreconditioner`, or a function
        from (operator, damping) to what applies M^-1 to a vector.
    solve_damping : float, symbolic scalar or callable, optional
        The lambda of the solve, if it is not to be that of the quadratic model, which gives the
        reduction ratio and the step size, and which ``damping`` adapts: a number of at least 0, a
        symbolic scalar, or a function of the lambda of the model, such as
        ``lambda damping: 10 * damping``. Default: the same.
    geodesic_acceleration : bool, default False
        Whether the step follows the curve theta - eta p - eta^2 c [3]_, with
        (F + lambda I) c = J^T H r'' / 2: r'' is the second derivative along p of the outputs r on
        which F = J^T H J is formed, by which their path bends on a straight step. For `Fisher` and
        `GaussNewton`.

    Notes
    -----
    One step costs a gradient, a product with the metric for each iteration of the solver and one
    more for its final residual, and a forward pass for the reduction ratio. The forward pass is
    shared by gradient and metric when they share the batch. It stores a handful of vectors of the
    size of the parameters. With ``solve_damping`` a quadratic ratio and a step size of the model
    take one more product.

    Geodesic acceleration takes a second solve, by the same solver with the same preconditioner, and
    a pushforward of a pushforward; `QR` and `Woodbury` factorize once for both. Where
    ``2 |c| > 0.75 |p|``, or where the second solve found nothing, the step is along p alone: [3]_
    refuse such a step, but not every damping rule would then change the next one. The reduction
    ratio compares the loss at the end of the curve with the model of eta p. Where the outputs are
    linear in the parameters c is 0.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, "Revisiting Natural Gradient for Deep Networks",
       arXiv:1301.3584.
    .. [2] S. Amari, "Natural gradient works efficiently in learning", Neural Computation 10(2),
       1998.
    .. [3] M. K. Transtrum and J. P. Sethna, "Improvements to the Levenberg-Marquardt algorithm for
       nonlinear least-squares minimization", arXiv:1201.5885.

    Examples
    --------
    Linear least squares is solved in one undamped step:

    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> loss = pt.sqr(y - t).mean() / 2
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> optimizer = symng.NaturalGradient(damping=0.0)
    >>> step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE")
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> info = step((X, X @ [3.0, -1.0]))
    >>> w.get_value().round(6)
    array([ 3., -1.])
    """

    geodesic_acceleration: bool = flag(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.geodesic_acceleration and not isinstance(self.metric, OutputMetric):
            expected = "symng.Fisher or symng.GaussNewton, for geodesic_acceleration"
            hint = "Other metrics have no outputs whose second derivative counts."
            raise argument_error("metric", expected, self.metric, hint, TypeError)

    def build(self, batches: StepBatches, state: State) -> Step:
        if not self.searches:
            refuse_batch("search_batch", batches.search, *NO_SEARCH)
        batches = batches.averaged()
        solve = self.solve(batches, state)
        acceleration, measured = self._accelerate(batches, solve)
        updates, records = self.descend(
            batches, state, solve, solve.solution.x, acceleration=acceleration
        )
        return Step(batches, updates, in_units_of_loss(batches.gradient, records | measured))

    def _accelerate(
        self, batches: StepBatches, solve: DampedSolve
    ) -> tuple[TensorVariable | None, Records]:
        """Return the acceleration c, zero where it is of no use, and the record of its size."""
        metric, p = self.metric, solve.solution.x
        if not (self.geodesic_acceleration and isinstance(metric, OutputMetric)):
            return None, {}
        bend = batches.for_metric.mean(lambda o, _: [metric.bend(o, p).astype(o.dtype)])[0]
        solution = solve.again(bend / 2)
        ratio = 2 * norm(solution.x) / norm(p)
        sound = pt.and_(has_direction(solution, bend / 2), all_finite(solution.x, ratio))
        taken = pt.and_(sound, pt.le(ratio, pt.constant(_MAX_RATIO, dtype=p.dtype)))
        nan = pt.constant(np.nan, dtype=p.dtype)
        return (
            pt.switch(taken, solution.x, pt.zeros_like(p)),
            {"acceleration_ratio": pt.switch(sound, ratio, nan)},
        )
