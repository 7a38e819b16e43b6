"""Krylov subspace descent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng.graphs.config import Setting, config, flag, number, setting
from symng.graphs.derivatives import grad
from symng.metrics import GaussNewton, Metric
from symng.metrics.base import as_metric
from symng.objective import Objective, ObjectiveLike
from symng.operators import LinearOperator
from symng.optimizers._damped import inputs_of_metric
from symng.optimizers._krylov_basis import krylov_basis
from symng.optimizers._step import (
    accept_or_reject,
    all_finite,
    in_units_of_loss,
    loss_along,
    loss_and_gradient,
    norm,
    searched_loss,
)
from symng.optimizers._subspace_search import search_subspace
from symng.optimizers.base import Carried, HostSearch, Optimizer, State, Step, StepBatches, Updates
from symng.optimizers.damping import Damping, as_damping
from symng.optimizers.preconditioners import Preconditioner, as_preconditioner_or_martens
from symng.optimizers.preconditioners.base import PreconditionerLike, build_preconditioner
from symng.solvers import Status


class FirstStage(NamedTuple):
    """What the second stage of a step takes from the first, as inputs of its graph."""

    loss: TensorVariable
    gradient_norm: TensorVariable
    basis: TensorVariable  # V
    slopes: TensorVariable  # V g
    metric: TensorVariable  # V F V^T
    rank: TensorVariable
    updates: Updates  # of the preconditioner

    @property
    def is_finite(self) -> TensorVariable:
        """Whether the model in the subspace is finite."""
        return all_finite(self.metric, self.slopes, self.gradient_norm)

    @property
    def status(self) -> TensorVariable:
        """A verdict where there is no model or no subspace, else -1."""
        lost = pt.and_(pt.eq(self.rank, 0), pt.gt(self.gradient_norm, 0))
        verdict = pt.switch(lost, int(Status.BAD_PRECONDITIONER), -1)
        return pt.cast(pt.switch(self.is_finite, verdict, int(Status.NOT_FINITE)), "int64")


@config
class KrylovSubspaceDescent(Optimizer):
    """Minimize the loss over a Krylov subspace of the metric and the previous direction, by BFGS.

    theta <- theta - V^T c with c = arg min_c L(theta - V^T c) (equations 19 and 20). The rows of V
    are an orthonormal basis of g, F g, ..., F^(k-1) g and the previous update: g is the gradient on
    the gradient batch, F the metric on the metric batch, L the loss on the search batch. Each batch
    is the gradient batch unless another is given.

    The search is over a, with c = C^-T a and C C^T = V F V^T + lambda I, whose eigenvalues are
    raised to at least 1e-4 of the largest: in a the quadratic model is round. It starts from the
    minimizer of the model, c = (C C^T)^-1 V g, or from zero, whichever has the lower loss, and
    returns the best point it has seen. When that is theta itself, or when something is not finite,
    the parameters stay as they were, and the step is recorded as rejected.

    Parameters
    ----------
    metric : Metric, default GaussNewton()
        F. `GaussNewton`, as in the original, has the scale of the loss and so models it; where the
        loss is a mean negative log-likelihood, `Fisher` is the same matrix and needs no targets.
    basis_size : int, default 20
        k, at least 1: vectors of the Krylov subspace; fewer where it ends before.
    damping : Damping or float, default 0.0
        lambda, which affects only the start and the coordinates of the search; the method needs
        none. A rule judges the model at the point found, where on a loss that is its model the
        linear ratio is 1/2, the quadratic one 1 without the damping term.
    previous_direction : bool, default True
        Whether the previous update is part of the subspace.
    max_iterations : int, default 30
        The limit on iterations of BFGS; 0 takes the better of start and zero.
    preconditioner : "martens", Preconditioner, callable or None, default None
        M near F + lambda I, as for `HessianFree`: the subspace is that of M^-1 (F + lambda I) and
        M^-1 g in place of F and g. Where the metric is singular, give a lambda above 0 with it.

    Notes
    -----
    One step costs a gradient, k + 1 products with the metric, a gradient on the search batch for
    each evaluation of the search (``search_evaluations``; often one an iteration), and a forward
    pass. A new vector is made orthogonal to all others twice, which with its column of V F V^T
    takes five passes over V. ``solver_iterations`` is the number of vectors found.

    It stores k + 1 vectors of the size of the parameters, V, and the previous update; while V is
    built, two to four times V, but 2 k times in mode FAST_COMPILE, which keeps every state of a
    loop.

    With ``max_iterations=0``, without the previous direction and with eigenvalues above their
    floor, the update is that of `NaturalGradient` by k iterations of `CG`, unless it raises the
    loss; with a preconditioner, by k iterations of preconditioned CG.

    References
    ----------
    .. [1] O. Vinyals and D. Povey, "Krylov subspace descent for deep learning", AISTATS 2012.
    .. [2] R. Pascanu and Y. Bengio, "Revisiting Natural Gradient for Deep Networks",
       arXiv:1301.3584, section 6.

    Examples
    --------
    Two vectors span the space of two parameters, in which least squares is solved in one step:

    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> loss = pt.sqr(y - t).mean() / 2
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> optimizer = symng.KrylovSubspaceDescent(basis_size=2)
    >>> step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE")
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> info = step((X, X @ [3.0, -1.0]))
    >>> w.get_value().round(6), info.solver_iterations
    (array([ 3., -1.]), 2)
    """

    metric: Metric = setting(convert=as_metric, default_factory=GaussNewton)
    basis_size: int = number(default=20, minimum=1, integer=True)
    damping: Setting[Damping | float, Damping] = setting(convert=as_damping, default=0.0)
    previous_direction: bool = flag(default=True)
    max_iterations: int = number(default=30, minimum=0, integer=True)
    preconditioner: Setting[
        Literal["martens"] | PreconditionerLike | None, Preconditioner | None
    ] = setting(convert=as_preconditioner_or_martens, default=None)

    def metric_inputs(self, objective: Objective) -> tuple[TensorVariable, ...]:
        return inputs_of_metric(self.metric, objective)

    def describe(self, objective: ObjectiveLike) -> str:
        return "" if self.preconditioner is None else self.preconditioner.describe(objective)

    def init_state(self, objective: ObjectiveLike) -> State:
        state = State(objective.dtype)
        state.add("step", 0, "int64")
        state.add("damping", self.damping.start)
        if self.previous_direction:
            state.add("search_direction", np.zeros(objective.size))
        if self.preconditioner is not None:
            self.preconditioner.init_state(objective, state)
        return state

    def build(self, batches: StepBatches, state: State) -> Step:
        batches = batches.averaged()
        params, dtype = batches.params, batches.gradient.dtype
        damping, previous = state.values["damping"], state.values.get("search_direction")

        first, carried = self._first_stage(batches, state)

        # What is searched on the host.
        c = pt.vector("coefficients", dtype=dtype, shape=first.basis.type.shape[:1])
        update = pt.dot(c, first.basis)
        one = pt.constant(1, dtype=dtype)

        def loss_and_slopes(o: Objective, _: object) -> list[TensorVariable]:
            value = loss_along(o, update)(one)
            return [value, *grad(value, [c])]

        searched, along = batches.for_search.mean(loss_and_slopes)

        # The second stage. Where the gradient is zero, so is the update, and that is no failure.
        new_loss = loss_along(batches.gradient, update)(one)
        judged = None
        if batches.search is not None:
            judged = searched_loss(batches), loss_along(batches.search, update)(one)
        model = LinearOperator(lambda v: pt.dot(first.metric, v), c.type.shape[0], dtype)
        moved = pt.or_(pt.any(pt.neq(c, 0)), pt.eq(first.gradient_norm, 0))
        updates, records = accept_or_reject(
            params,
            state,
            self.damping,
            loss=first.loss,
            new_loss=new_loss,
            update=update,
            predicted=self.damping.predicted_decrease(model, damping, first.slopes, c),
            sound=pt.and_(first.is_finite, moved),
            searched=judged,
        )
        updates |= first.updates
        if previous is not None:
            updates[previous] = pt.switch(records["accepted"], update, previous)
        records |= {
            "gradient_norm": first.gradient_norm,
            "solver_iterations": first.rank,
            "solver_status": first.status,
        }
        search = HostSearch(carried, c, searched, self.find, along)
        return Step(batches, updates, in_units_of_loss(batches.gradient, records), search)

    def _first_stage(self, batches: StepBatches, state: State) -> tuple[FirstStage, Carried]:
        """Return the subspace, and the quadratic model in it."""
        damping, previous = state.values["damping"], state.values.get("search_direction")
        loss, gradient = loss_and_gradient(batches.gradient)
        metric = self.metric.with_damping(damping)
        apply, updates = build_preconditioner(self.preconditioner, batches, metric, state, damping)
        operator = metric(batches.for_metric)
        V, VFV, rank = krylov_basis(operator, gradient, self.basis_size, previous, apply, damping)
        carried = Carried()
        carried.add("damping", damping)
        first = FirstStage(
            loss=carried.add("loss", loss),
            gradient_norm=carried.add("gradient_norm", norm(gradient)),
            basis=carried.add("basis", V),
            slopes=carried.add("slopes", pt.dot(V, gradient)),
            metric=carried.add("metric", VFV),
            rank=carried.add("rank", rank),
            updates={v: carried.add(str(v.name), value) for v, value in updates.items()},
        )
        return first, carried

    def find(
        self,
        loss_at: Callable[[np.ndarray], tuple[float, np.ndarray]],
        values: Mapping[str, np.ndarray],
    ) -> np.ndarray:
        """Return the coefficients of the lowest loss that the search found."""
        metric, slopes, damping = (
            np.asarray(values[name]) for name in ("metric", "slopes", "damping")
        )
        curvature = metric + damping * np.eye(len(slopes), dtype=metric.dtype)
        return search_subspace(loss_at, slopes, curvature, max_iterations=self.max_iterations)
