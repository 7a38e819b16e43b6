"""An objective as functions of one NumPy vector, as `scipy.optimize` takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng.backends import compile_with_data, to_numpy
from symng.graphs import vectors
from symng.graphs.building import building
from symng.graphs.derivatives import grad, hessian_product
from symng.graphs.rebuild import rebuild, replacements
from symng.graphs.types import ModeLike


@dataclass(frozen=True, kw_only=True, eq=False)
class ScipyProblem:
    """What ``to_scipy`` of an objective returns: an objective on one batch, for `scipy.optimize`.

    The functions take and return float64, and do not change the parameters.

    Attributes
    ----------
    fun : callable
        From the flat vector of the parameters to the loss.
    jac : callable
        From the flat vector to the gradient.
    hessp : callable
        From the flat vector and a direction to the product of the metric with the direction.
    x0 : ndarray
        The parameters at the time of ``to_scipy``, as one flat vector.
    objective : Objective or ObjectiveSum
        The model.
    batch : tuple of array
        The values of its inputs and targets.
    """

    fun: Callable[[ArrayLike], float]
    jac: Callable[[ArrayLike], np.ndarray]
    hessp: Callable[[ArrayLike, ArrayLike], np.ndarray]
    x0: np.ndarray
    objective: Any
    batch: tuple[Any, ...]

    def set(self, x: ArrayLike) -> None:
        """Set the parameters from a flat vector, such as the ``x`` of a result."""
        vectors.set_flat(self.objective.params, x)

    def __repr__(self) -> str:
        return f"ScipyProblem of {self.x0.size} parameters"


@building()
def make_problem(
    objective: Any, batch: Sequence[ArrayLike], metric: Any, mode: ModeLike
) -> ScipyProblem:
    """Return an objective as functions for SciPy; see `Summand.to_scipy`."""
    if metric is not None and (isinstance(metric, type) or not callable(metric)):
        expected = "a metric such as symng.Fisher(), or None for the Hessian"
        raise argument_error("metric", expected, metric, error=TypeError)
    terms = objective.terms
    groups = zip(terms, objective.by_term("batch", tuple(batch)), strict=True)
    arrays = [a for term, group in groups for a in to_numpy(term.check_batch("batch", group))]
    params, dtype = list(objective.params), objective.dtype
    x, v = (pt.vector(name, dtype=dtype, shape=(objective.size,)) for name in "xv")
    gradient = vectors.ravel(grad(objective.loss, params, disconnected_inputs="ignore"), params)
    if metric is None:
        parts = hessian_product(objective.loss, params, vectors.split(v, params))
        product = vectors.ravel(parts, params)
    else:
        product = metric(objective).matvec(v)
    at_x = replacements(params, vectors.split(x, params))
    loss, gradient, product = rebuild([objective.loss, gradient, product], at_x)

    variables = [v for term in terms for v in (*term.inputs, *term.targets)]

    def compiled(inputs: list[TensorVariable], output: TensorVariable) -> Callable[..., Any]:
        return compile_with_data([*variables, *inputs], output, arrays, mode, "float64")

    value = compiled([x], loss)
    return ScipyProblem(
        fun=lambda x: float(value(x)),
        jac=compiled([x], gradient),
        hessp=compiled([x, v], product),
        x0=vectors.get_flat(params).astype("float64"),
        objective=objective,
        batch=tuple(batch),
    )
