"""Natural gradient descent."""

from __future__ import annotations

from symng.graphs.config import config
from symng.optimizers._damped import DampedOptimizer
from symng.optimizers._step import NO_SEARCH, in_units_of_loss, refuse_batch
from symng.optimizers.base import State, Step, StepBatches


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
        What is solved with. With `GaussNewton` this is Hessian-free's direction, with
        `EmpiricalFisher` TONGA's.
    solver : Solver, default MinresQLP(rtol=1e-4, maxiter=50)
        How it is solved: `MinresQLP` or `CG`, or directly by `Woodbury` or `QR`.
    damping : Damping or float, default LevenbergMarquardt(initial=3.0)
        A rule, or a number at least 0 that stays.
    step_size : float, callable, symbolic scalar or StepSize, default 1.0
        A number above 0, a schedule of the number of the step, a symbolic scalar, or a rule:
        `BacktrackingLineSearch`, `QuadraticModelStep` or `KLTrustRegion`.
    warm_start : float, default 0.0
        Each solve starts from this times the previous direction, or from zero after a step that was
        refused; 0 starts from zero always. From 0 to 1. With a direct solver it has an effect where
        that is ``proximal``: SPRING.
    preconditioner : Preconditioner or callable, optional
        `KroneckerPreconditioner`, `JacobiPreconditioner`, `NystromPreconditioner`, or a function
        from (operator, damping) to what applies M^-1 to a vector.
    solve_damping : float, symbolic scalar or callable, optional
        The lambda of the solve where it is to be another than that of the quadratic model, which
        gives the reduction ratio and the step size, and which ``damping`` adapts: a number of at
        least 0, a symbolic scalar, or a function of the lambda of the model, such as
        ``lambda damping: 10 * damping``. Default: the same.

    Notes
    -----
    One step costs a gradient, a product with the metric for each iteration of the solver and one
    more for its final residual, and a forward pass for the reduction ratio. The forward pass is
    shared by gradient and metric when they share the batch. It stores a handful of vectors of the
    size of the parameters. With ``solve_damping`` a quadratic ratio and a step size of the model
    take one more product.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, "Revisiting Natural Gradient for Deep Networks",
       arXiv:1301.3584.
    .. [2] S. Amari, "Natural gradient works efficiently in learning", Neural Computation 10(2),
       1998.

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

    def build(self, batches: StepBatches, state: State) -> Step:
        if not self.searches:
            refuse_batch("search_batch", batches.search, *NO_SEARCH)
        batches = batches.averaged()
        solve = self.solve(batches, state)
        updates, records = self.descend(batches, state, solve, solve.solution.x)
        return Step(batches, updates, in_units_of_loss(batches.gradient, records))
