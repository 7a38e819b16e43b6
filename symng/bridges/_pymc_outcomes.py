"""Sums over the outcomes of a distribution: scores, probabilities and quantiles.

Parameters are vectors with a number for each draw; outcomes have a row for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.logprob.utils import CheckParameterValue
from pytensor.graph.basic import Apply, Variable
from pytensor.scalar.basic import upcast
from pytensor.tensor.variable import TensorVariable
from scipy.special import expit

from symng.graphs.derivatives import grad
from symng.graphs.rebuild import rebuild

Parameters = Sequence[TensorVariable]
Make = Callable[[Parameters], TensorVariable]
LogDensity = Callable[[Parameters, TensorVariable], TensorVariable]

Scores = dict[int, TensorVariable]
"""From the index of a parameter to the derivative of log p(x) with respect to it, at each x."""

Entries = dict[tuple[int, int], TensorVariable]
"""From (row, column), with row <= column, to a number for each draw; others are 0."""

# The tanh-sinh rule on (0, 1): quantiles may be singular at both ends.
_T = np.arange(-30, 31) * 0.1
_NODES = expit(np.pi * np.sinh(_T))
_WEIGHTS = 0.1 * np.pi * np.cosh(_T) * _NODES * expit(-np.pi * np.sinh(_T))


def scores_of(
    log_density: LogDensity, parameters: Parameters, varying: Sequence[int], x: TensorVariable
) -> Scores:
    """Return the slopes of log p(x) by the parameters that vary."""
    copies = [p[:, None] + pt.zeros_like(x, dtype=p.dtype) for p in parameters]
    total = without_checks(log_density(copies, x).sum(), copies)
    wrt = [copies[i] for i in varying]
    slopes = grad(total, wrt, disconnected_inputs="ignore")
    return dict(zip(varying, slopes, strict=True))


def outer(scores: Scores, weights: TensorVariable) -> Entries:
    """Return the sum of the weights times s s^T over the outcomes."""
    keys = [(i, j) for i in scores for j in scores if i <= j]
    return {(i, j): (weights * scores[i] * scores[j]).sum(axis=1) for i, j in keys}


def add(entries: Entries, more: Entries) -> None:
    """Add ``more`` to the entries of a matrix."""
    for key, value in more.items():
        entries[key] = entries[key] + value if key in entries else value


def mass_beyond(
    make: Make, parameters: Parameters, bound: TensorVariable, left: bool
) -> TensorVariable:
    """Return the probability below or above a bound; 0 where that is not a number."""
    log = without_checks(pm.logcdf(make(parameters), bound, warn_rvs=False), parameters)
    mass = pt.exp(log) if left else -pt.expm1(log)
    return pt.switch(pt.gt(mass, 0) & pt.le(mass, 1) & pt.isfinite(bound), mass, 0)


def over_quantiles(
    make: Make, parameters: Parameters, low: TensorVariable, high: TensorVariable
) -> tuple[TensorVariable, TensorVariable]:
    """Return quantiles between two probabilities, and their weights in a mean over these."""
    # Constants may be of a smaller dtype.
    floats = [p.dtype for p in parameters if p.dtype.startswith("float")]
    dtype = upcast(*(floats or [pytensor.config.floatX]))
    low, high = low[:, None].astype(dtype), high[:, None].astype(dtype)
    u = low + (high - low) * _NODES.astype(dtype)
    # Strictly between 0 and 1, whose quantiles may be infinite; and so is the rounded 1 - u.
    least = np.finfo(dtype).eps
    u = pt.clip(u, least, 1 - least)
    copies = [p[:, None] + pt.zeros_like(u, dtype=p.dtype) for p in parameters]
    x = pm.icdf(make(copies), u, warn_rvs=False)
    return without_checks(x, copies), pt.constant(_WEIGHTS.astype(dtype))


def between(
    make: Make,
    parameters: Parameters,
    varying: Sequence[int],
    low: TensorVariable,
    high: TensorVariable,
    total: TensorVariable,
    centered: bool = False,
) -> Entries:
    """Return the integral of s s^T over the draws between two probabilities, over ``total``."""
    x, weights = over_quantiles(make, parameters, low, high)
    scores = scores_of(lambda p, x: pm.logp(make(p), x), parameters, varying, x)
    if centered:
        scores = {i: s - (weights * s).sum(axis=1, keepdims=True) for i, s in scores.items()}
    share = ((high - low) / total).astype(x.dtype)
    return outer(scores, share[:, None] * weights)


def without_checks(graph: TensorVariable, parameters: Parameters) -> TensorVariable:
    """Return a graph without PyMC's checks of ``parameters``: the loss has them."""
    return rebuild([graph], {p: p for p in parameters}, _pass_checks)[0]


def _pass_checks(node: Apply, new: Mapping[Variable, Variable]) -> list[Variable]:
    """Return a node on new inputs; in place of a check what it checks."""
    inputs = [new.get(v, v) for v in node.inputs]
    if isinstance(node.op, CheckParameterValue):
        return inputs[:1]
    return node.clone_with_new_inputs(inputs).outputs


def replace_checks(node: Apply, new: Mapping[Variable, Variable]) -> list[Variable]:
    """Return a node on new inputs; in place of a check of parameters its value, or -inf."""
    inputs = [new.get(v, v) for v in node.inputs]
    if isinstance(node.op, CheckParameterValue) and node.op.can_be_replaced_by_ninf:
        value, *conditions = map(pt.as_tensor_variable, inputs)
        passed = pt.all([pt.all(condition) for condition in conditions])
        return [pt.switch(passed, value, pt.constant(-np.inf, dtype=value.dtype))]
    return node.clone_with_new_inputs(inputs).outputs
