"""Find the mode of a PyMC model's posterior."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from symng._checks import argument_error, warn
from symng.backends import compile_in_python
from symng.bridges._pymc_objective import PyMCObjective
from symng.graphs import vectors
from symng.graphs.derivatives import grad
from symng.objective import Objective
from symng.optimizers import LevenbergMarquardt, NaturalGradient, Optimizer
from symng.solvers import CG, MinresQLP
from symng.training import TrainingResult, minimize

# A gradient below this, relative to that of the first step, is one at a mode.
_SMALL = 1e-3

# MINRES-QLP solves models of up to this many numbers.
_SMALL_MODEL = 500


def find_mode(
    objective: PyMCObjective,
    caller: str,
    optimizer: Optimizer | None,
    maxiter: int,
    tol: float,
    progressbar: bool,
    compile_kwargs: dict[str, Any] | None,
) -> TrainingResult:
    """Return the result of minimizing the loss; warn if the run has not converged."""
    kwargs = {} if compile_kwargs is None else dict(compile_kwargs)
    mode = kwargs.pop("mode", None)
    if kwargs:
        raise argument_error("compile_kwargs", "no key but 'mode'", compile_kwargs)
    result = minimize(
        objective,
        _default_optimizer(objective) if optimizer is None else optimizer,
        data=(),
        max_steps=maxiter,
        gradient_tolerance=tol,
        loss_tolerance=tol,
        progress=progressbar,
        mode=mode,
    )
    if result.status in ("converged", "stalled"):
        result = _check_bounded(objective, result)
    if result.status != "converged":
        warn(f"{caller} has not converged: {result.message or f'{maxiter} steps were not enough'}")
    return result


def _default_optimizer(objective: Objective) -> Optimizer:
    """Return natural gradient that converges quickly: exact solves, and steps that may grow fast.

    Near a mode the ratio of the quadratic model without damping is 1, and the damping goes to its
    minimum: next to nothing compared with priors of unit scale, yet large enough to grow soon.

    The metric is positive semi-definite, and the loop of CG compiles in half the time of that of
    MINRES-QLP, which on small models finds more where the density has no mode.
    """
    kind = CG if objective.size > _SMALL_MODEL else MinresQLP
    return NaturalGradient(
        solver=kind(rtol=1e-6, maxiter=max(50, min(2 * objective.size, 500))),
        damping=LevenbergMarquardt(
            initial=1.0,
            ratio="quadratic",
            damped_model=False,
            increase=4.0,
            decrease=1 / 8,
            minimum=1e-6,
            reject_below=0.0,
        ),
    )


def _check_bounded(objective: PyMCObjective, result: TrainingResult) -> TrainingResult:
    """Return a result as it is, or as diverged where the loss falls on at a constant rate.

    As the scale of a prior goes to 0, the density of the variable that it scales grows without
    bound. Such a run ends when the solves have no precision left, with a gradient that is not
    small: the loss no longer changes.
    """
    norms = result.history["gradient_norm"]
    if not norms[-1] > _SMALL * norms[0]:
        return result
    params = list(objective.params)
    slopes = grad(objective.loss, params, disconnected_inputs="ignore")
    # In plain Python: the function is called three times.
    loss_at = compile_in_python([], [objective.loss, vectors.ravel(slopes, params)])
    theta = vectors.get_flat(params)
    loss, gradient = loss_at()
    norm = float(np.linalg.norm(gradient))
    falls = []
    for distance in (1.0, 3.0):
        vectors.set_flat(params, theta - distance * gradient / norm)
        falls.append(float(loss - loss_at()[0]) / (distance * norm))
    vectors.set_flat(params, theta)
    if not min(falls) > 0.9:
        return result
    sizes = [np.abs(part).max() for part in _parts(gradient, objective)]
    name = params[int(np.argmax(sizes))].name
    message = (
        f"the density seems to be unbounded. The loss {float(loss):.6g} falls on along {name}, by "
        f"{norm:.3g} for each unit, where the solves have no precision left. A prior that keeps "
        "this variable away from the edge has a mode."
    )
    return replace(result, status="diverged", message=message)


def _parts(flat: np.ndarray, objective: PyMCObjective) -> list[np.ndarray]:
    """Return the entries of a flat vector for each parameter."""
    sizes = [np.size(p.get_value(borrow=True)) for p in objective.params]
    return np.split(flat, np.cumsum(sizes)[:-1])
