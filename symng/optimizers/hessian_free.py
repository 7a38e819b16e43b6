"""Hessian-free optimization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.config import Setting, config, number, setting
from symng.graphs.loops import while_loop
from symng.graphs.types import Scalar
from symng.metrics import GaussNewton, Metric
from symng.metrics.base import as_metric
from symng.optimizers._damped import DampedOptimizer
from symng.optimizers._step import (
    in_units_of_loss,
    loss_along,
    refuse_batch,
    step_size_of,
)
from symng.optimizers.base import State, Step, StepBatches
from symng.optimizers.damping import Damping, LevenbergMarquardt, as_damping
from symng.optimizers.preconditioners import Preconditioner, as_preconditioner_or_martens
from symng.optimizers.preconditioners.base import PreconditionerLike
from symng.optimizers.step_sizes import (
    BacktrackingLineSearch,
    StepSize,
    StepSizeLike,
    as_step_size,
)
from symng.solvers import CG, Solver
from symng.solvers.base import Solves, as_solver


@config
class HessianFree(DampedOptimizer):
    """Descend along an iterate of a short, preconditioned Gauss-Newton solve (section 5).

    CG works on (G + lambda I) p = g, with G the metric on the metric batch and g the gradient of
    the loss on the gradient batch, until its model of the loss hardly improves. The step walks back
    from the last of the iterates kept while the loss on the search batch (the gradient batch unless
    another is given) falls, and searches along the iterate where it stops. The damping is adapted
    to how well the quadratic model predicts the loss.

    A step whose loss, direction or solve is not finite, or whose solve met negative curvature
    before it had made any progress, or that the damping rule refuses, or for which a line search
    finds no step size, leaves the parameters as they were, raises the damping and is recorded as
    rejected.

    Parameters
    ----------
    metric : Metric, default GaussNewton()
        The metric G. Where loss and output match it equals `Fisher`, and the direction of a solve
        that has converged is the natural gradient's.
    solver : CG or MinresQLP, optional
        Default: ``CG(progress_rtol=5e-4, maxiter=250, keep_iterates=1.3, recompute=False)``.
        Without ``keep_iterates`` the step takes the last iterate; with it ``maxiter`` cannot be set
        between steps. The first and third setting are Martens's, 250 is that of the paper's
        appendix.
    damping : Damping or float, optional
        A rule, or a constant of at least 0. Default: ``LevenbergMarquardt(initial=1.0,
        ratio="quadratic", reject_below=0.0)``. Thresholds and factors are Martens's. lambda is
        in the units of G, and where to start depends on the problem: 0.1, 1 and 10 all lowered the
        loss on regressions and small networks, 0.1 often fastest, 1 without a refused step.
    step_size : float, callable, symbolic scalar or StepSize, default BacktrackingLineSearch()
        As for `NaturalGradient`. Iterates are compared at the size that the rule starts from, by
        default 1.
    warm_start : float, default 0.95
        Martens's decay: each solve starts from this times the last iterate of the previous one,
        whichever iterate the step took. 0 starts from zero. From 0 to 1.
    preconditioner : "martens", Preconditioner, callable or None, default "martens"
        "martens" is diag(D + lambda)^0.75, with D the mean of the squared gradients of single
        examples, on the gradient batch (`EmpiricalFisher.diagonal`); where the losses of single
        examples are not known there is no preconditioner, with a warning. The others are as for
        `NaturalGradient`.
    solve_damping : float, symbolic scalar or callable, optional
        The lambda of the solve, if it is not to be that of the quadratic model, as in
        `NaturalGradient`.

    Notes
    -----
    One step costs a gradient; a product with the metric for each iteration, one for the warm start
    and one for the model; a forward pass for each iterate and each step size looked at; and for the
    preconditioner a matrix product for each dense layer, or 8 backward passes where there are other
    parameters. It stores the iterates kept, by default 21 vectors of the size of the parameters.

    References
    ----------
    .. [1] J. Martens, "Deep learning via Hessian-free optimization", ICML 2010.
    .. [2] R. Pascanu and Y. Bengio, "Revisiting Natural Gradient for Deep Networks",
       arXiv:1301.3584, section 5.

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
    >>> step = symng.compile_step(objective, symng.HessianFree(damping=0.0), mode="FAST_COMPILE")
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> info = step((X, X @ [3.0, -1.0]))
    >>> w.get_value().round(6)
    array([ 3., -1.])
    """

    metric: Metric = setting(convert=as_metric, default_factory=GaussNewton)
    solver: Setting[Solves, Solver] = setting(
        convert=as_solver,
        default_factory=lambda: CG(
            progress_rtol=5e-4, maxiter=250, keep_iterates=1.3, recompute=False
        ),
    )
    damping: Setting[Damping | float, Damping] = setting(
        convert=as_damping,
        default_factory=lambda: LevenbergMarquardt(
            initial=1.0, ratio="quadratic", reject_below=0.0
        ),
    )
    step_size: Setting[StepSizeLike, StepSize] = setting(
        convert=as_step_size, default_factory=BacktrackingLineSearch
    )
    warm_start: Scalar = number(default=0.95, minimum=0, maximum=1, symbolic=True)
    preconditioner: Setting[
        Literal["martens"] | PreconditionerLike | None, Preconditioner | None
    ] = setting(convert=as_preconditioner_or_martens, default="martens")

    @property
    def searches(self) -> bool:
        return super().searches or self.solver.keeps_iterates

    def build(self, batches: StepBatches, state: State) -> Step:
        if not self.searches:
            refuse_batch("search_batch", batches.search, *_NO_SEARCH)
        batches = batches.averaged()
        solve = self.solve(batches, state)
        iterates, count = solve.solution.iterates, solve.solution.iterates_count
        direction, skipped = solve.solution.x, {}

        # Walk back over the iterates, then step along the one chosen.
        if iterates is not None and count is not None:
            size = step_size_of(state, self.step_size)
            # That of a KLTrustRegion may be infinite.
            size = pt.switch(pt.isinf(size), pt.ones_like(size), size)
            row = backtrack(lambda p: loss_along(batches.for_search, p)(size), iterates, count)
            direction = iterates[row]
            skipped = {"iterates_skipped": count - 1 - row}
        # An iterate of a long solve is a good start even if the step along it was refused
        # (Martens).
        updates, records = self.descend(batches, state, solve, direction, keep_refused=True)
        records |= skipped
        return Step(batches, updates, in_units_of_loss(batches.gradient, records))


_NO_SEARCH = (
    "where nothing is searched",
    "Leave it out, or give step_size=symng.BacktrackingLineSearch(), a solver that keeps iterates, "
    "or a damping rule with on_search_batch=True.",
)


def backtrack(
    loss_of: Callable[[TensorVariable], TensorVariable],
    iterates: TensorVariable,
    count: TensorVariable,
) -> TensorVariable:
    """Walk back from the last of ``count`` rows while the loss falls; return the chosen row.

    Losses that are not finite are passed over. ``loss_of`` is evaluated once for each row visited.
    """
    last = pt.cast(count, "int64") - 1
    infinite = pt.constant(np.inf, dtype=iterates.type.dtype)
    state = {"row": last, "loss": infinite, "next": last, "goes_on": pt.constant(np.array(True))}

    def body(s: dict[str, TensorVariable]) -> dict[str, TensorVariable]:
        value = loss_of(iterates[s["next"]])
        lower = pt.lt(value, s["loss"])  # False for NaN
        best = pt.switch(lower, value, s["loss"])
        return {
            "row": pt.switch(lower, s["next"], s["row"]),
            "loss": best,
            "next": s["next"] - 1,
            "goes_on": pt.or_(lower, pt.isinf(best)),
        }

    final = while_loop(
        body, lambda s: pt.and_(s["goes_on"], s["next"] >= 0), state, iterates.shape[0]
    )
    return final["row"]
