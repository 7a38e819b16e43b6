"""Estimate the cost of a direct solve before it is compiled."""

from __future__ import annotations

import warnings

import numpy as np
import pytensor.tensor as pt

from symng._checks import warn
from symng.backends import compile_in_python
from symng.metrics import Metric
from symng.objective import Objective, ObjectiveLike
from symng.objective.batches import FullBatch
from symng.optimizers import Optimizer
from symng.training.batch_arrays import Arrays, Groups

# Below this, in rows of full batches and in multiplications, no cost is worth a warning.
_FEW_ROWS = 500
_FEW_MULTIPLICATIONS = 1e8  # about a tenth of a second

# This many times the multiplications of an iterative solve are much more. That has 50 products by
# default, each of two passes through the model, of two multiplications an example and parameter.
_MUCH_MORE = 5
_ITERATIVE = 50 * 2 * 2


def warn_of_cost(objective: ObjectiveLike, optimizer: Optimizer, groups: Groups) -> None:
    """Warn of a direct solve that costs much more than an iterative one, with its cost.

    ``groups`` are those of the metric batch, with or without targets.
    """
    solver, metric = optimizer.solver, optimizer.metric
    if solver is None or metric is None or not solver.needs_full_batch:
        return
    try:
        pairs = list(zip(objective.terms, groups, strict=True))
        rows = sum(count_rows(term, metric, arrays) for term, arrays in pairs)
        examples = sum(term.model.count_of(arrays) for term, arrays in pairs)
        factors = [metric(term).factor for term in objective.terms]
        by_example = all(f is not None and f.rows() is not None for f in factors)
    except Exception:  # the step itself raises a better message
        return
    multiplications = solver.multiplications(rows, objective.size) if by_example else None
    if multiplications is None:
        much = rows >= _FEW_ROWS
    else:
        iterative = _ITERATIVE * examples * objective.size
        much = multiplications >= max(_FEW_MULTIPLICATIONS, _MUCH_MORE * iterative)
    if not much:
        return
    cost = solver.describe_cost(rows, objective.size, objective.dtype)
    if not by_example:
        cost += (
            " The examples of this model are not known to be independent, so that these passes are "
            "of the full batch."
        )
    warn(
        f"solver: {cost} An iterative solver takes two passes an iteration, and 50 iterations are "
        "often enough: symng.MinresQLP(rtol=1e-4, maxiter=50). Or give the metric a smaller batch."
    )


def count_rows(objective: Objective, metric: Metric, batch: Arrays) -> int:
    """Return the number of rows of R, with the metric equal to R^T R, from two examples."""
    full = FullBatch(objective=objective, length=len(batch))
    variables, axes = full.variables, full.axes
    count = batch[0].shape[axes[0]] if batch else 1  # or all of them, where they are constants
    few = min(count, 2)
    factor = metric(objective).factor
    assert factor is not None  # else Woodbury refuses it
    v = pt.vector(dtype=objective.dtype, shape=(objective.size,))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        length = compile_in_python([*variables, v], factor.matvec(v).shape[0])
        part = [a.take(np.arange(few), axis=axis) for a, axis in zip(batch, axes, strict=True)]
        rows = int(length(*part, np.zeros(objective.size, objective.dtype)))
    return rows * count // few
