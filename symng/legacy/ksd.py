"""Krylov subspace descent as in ``ksd-theano``: a subspace, and BFGS in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng.backends import compile_function
from symng.graphs.derivatives import grad, hessian_product, pullback
from symng.legacy._gauss_newton import gauss_newton_product
from symng.legacy._subspace import (
    floor_matrix,
    floor_vector,
    get_optimizer_functions,
    get_subspace,
)

__all__ = [
    "Model",
    "floor_matrix",
    "floor_vector",
    "get_optimizer_functions",
    "get_subspace",
    "krylov_descent",
]

# Eigenvalues of the matrix in the subspace, and entries of a preconditioner, are at least this
# times the largest.
_FLOOR = 1e-4
# The exponent of Martens's preconditioner.
_POWER = 0.75
# How often the Jacobi preconditioner draws signs, and for how many examples at once.
_DRAWS, _CHUNK = 10, 100


class Model:
    """Compiled functions of a model: costs, gradient, and products with its matrices.

    Parameters
    ----------
    p : list of shared variables
        The parameters.
    inputs : list of symbolic variables
        What a batch gives values to; one row an example.
    s : symbolic matrix
        Where the Gauss-Newton matrix is taken: see `symng.legacy.hf.gauss_newton_product`.
    costs : list of symbolic scalars
        The first is minimized.

    Attributes
    ----------
    f_gc, f_cost : callables
        Gradient and costs, and costs alone, on a batch.
    function_Gv, function_Hv : callables
        The product of the Gauss-Newton matrix, or of the Hessian, with a list of arrays, on a batch
        and a number without effect.
    function_J_sqrt_Hv : callable
        J^T sqrt(h) r on a batch and a matrix r, with h the diagonal of the Hessian with respect to
        s.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> from symng.legacy.ksd import Model
    >>> x, w = pt.dmatrix("x"), pytensor.shared(np.ones((2, 1)))
    >>> s = x @ w
    >>> model = Model([w], [x], s, [pt.sqr(s).sum()])
    >>> [product] = model.function_Gv(np.eye(2), np.ones((2, 1)), 0.0)
    >>> product.ravel().tolist()
    [2.0, 2.0]
    """

    def __init__(
        self, p: Sequence[Any], inputs: Sequence[Any], s: TensorVariable, costs: Sequence[Any]
    ) -> None:
        self.p, self.inputs, self.s, self.costs = list(p), list(inputs), s, list(costs)
        self.shapes = [np.shape(i.get_value(borrow=True)) for i in p]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.positions = np.cumsum([0, *self.sizes])[:-1]
        options: dict[str, Any] = dict(on_unused_input="ignore")
        cost = costs[0]
        self.f_gc = compile_function(inputs, [*grad(cost, self.p), *costs], **options)
        self.f_cost = compile_function(inputs, list(costs), **options)
        v = [pt.TensorType(i.type.dtype, shape=i.type.shape)() for i in p]
        given = [*inputs, *v, pt.scalar("coefficient")]
        Gv = gauss_newton_product(cost, self.p, v, s)
        self.function_Gv = compile_function(given, Gv, **options)
        Hv = hessian_product(cost, self.p, v)
        self.function_Hv = compile_function(given, Hv, **options)
        r = pt.matrix("r", dtype=s.type.dtype)
        [diagonal] = hessian_product(cost, [s], [pt.ones_like(s)])
        slopes = pullback([s], self.p, [pt.sqrt(diagonal) * r], disconnected_inputs="ignore")
        self.function_J_sqrt_Hv = compile_function([*inputs, r], list(slopes), **options)
        self.shape_of_s = compile_function(inputs, s.shape, **options)

    def quick_cost(self, dataset: Any, delta: Any = 0) -> float:
        """Return the mean cost over the batches of a data set at the parameters plus ``delta``."""

        def total() -> float:
            batches = dataset.iterate(update=False)
            return sum(float(self.f_cost(*batch)[0]) for batch in batches)

        return self._moved(delta, total) / dataset.number_batches

    def gradient_and_costs(self, dataset: Any, delta: Any = 0) -> tuple[np.ndarray, list[Any]]:
        """Return mean gradient, and costs of each batch, at the parameters plus ``delta``."""

        def compute() -> tuple[np.ndarray, list[Any]]:
            gradient, costs = np.zeros(sum(self.sizes), dtype=pytensor.config.floatX), []
            for batch in dataset.iterate(update=False):
                result = self.f_gc(*batch)
                gradient += self.list_to_flat(result[: len(self.p)])
                costs.append([np.asarray(cost) for cost in result[len(self.p) :]])
            return gradient / dataset.number_batches, costs

        return self._moved(delta, compute)

    def flat_to_list(self, vector: np.ndarray) -> list[np.ndarray]:
        """Return a flat vector as a list of arrays in the shapes and dtypes of the parameters."""
        parts = zip(self.p, self.shapes, self.sizes, self.positions, strict=True)
        return [
            np.asarray(vector[begin : begin + size], i.type.dtype).reshape(shape)
            for i, shape, size, begin in parts
        ]

    def list_to_flat(self, l: Sequence[Any]) -> np.ndarray:
        """Return a list of arrays as one flat vector."""
        return np.concatenate([np.asarray(i).ravel() for i in l])

    def move(self, delta: Any) -> None:
        """Add a flat vector or a list of arrays to the parameters; 0 leaves them."""
        if isinstance(delta, np.ndarray):
            delta = self.flat_to_list(delta)
        if isinstance(delta, list | tuple):
            for i, d in zip(self.p, delta, strict=True):
                i.set_value((i.get_value() + d).astype(i.type.dtype))

    def _moved(self, delta: Any, function: Callable[[], Any]) -> Any:
        """Return what a function returns at the parameters plus ``delta``."""
        before = [i.get_value() for i in self.p]
        self.move(delta)
        try:
            return function()
        finally:
            for i, value in zip(self.p, before, strict=True):
                i.set_value(value)


def krylov_descent(
    model: Model,
    gradient_dataset: Any,
    matvec_dataset: Any,
    bfgs_dataset: Any,
    iterations: int = 100,
    space_size: int = 20,
    matrix_type: str = "G",
    preconditioning: Literal["martens", "jacobi", "None", False] = False,
    maxfun: int = 100,
    quirks: bool = False,
) -> list[np.ndarray]:
    """Minimize the first cost of a model by Krylov subspace descent.

    Each iteration spans a subspace by the gradient, products with the matrix and the last step, and
    searches it by BFGS, preconditioned by the matrix in the subspace, from zero.

    Parameters
    ----------
    model : Model
        The model.
    gradient_dataset, matvec_dataset, bfgs_dataset : symng.legacy.hf.SequenceDataset
        The batches of the gradient, which stay the same, those of the products, and those of the
        search.
    iterations : int, default 100
        How many steps to take.
    space_size : int, default 20
        The dimension of the Krylov space.
    matrix_type : str, default "G"
        "G" is the Gauss-Newton matrix, anything else the Hessian.
    preconditioning : {"martens", "jacobi", "None", False}, default False
        The diagonal D^0.75 with D the sum of the squared gradients of the examples, or 10 estimates
        of the diagonal of G by random signs; floored at 1e-4 of its largest entry. "None", which
        the script for the curves has, means none.
    maxfun : int, default 100
        The iteration limit of BFGS.
    quirks : bool, default False
        Leave the last step out of the subspace: see `get_subspace`.

    Returns
    -------
    list of arrays
        The mean costs before each step.

    References
    ----------
    .. [1] O. Vinyals and D. Povey, "Krylov subspace descent for deep learning", AISTATS 2012.

    Examples
    --------
    >>> import contextlib, io
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> from symng.legacy.hf import SequenceDataset
    >>> from symng.legacy.ksd import Model, krylov_descent
    >>> x, w = pt.dmatrix("x"), pytensor.shared(np.ones((2, 1)))
    >>> s = x @ w
    >>> model = Model([w], [x], s, [pt.sqr(s - 2).mean()])
    >>> data = SequenceDataset([[np.array([[1.0, 0.0], [0.0, 4.0]])]], None, 1)
    >>> with contextlib.redirect_stdout(io.StringIO()):
    ...     costs = krylov_descent(model, data, data, data, iterations=2, space_size=1)
    >>> w.get_value().ravel().round(4).tolist()
    [2.0, 0.5]
    """
    from scipy.optimize import fmin_bfgs

    if preconditioning in ("None", None):
        preconditioning = False
    if preconditioning not in ("martens", "jacobi", False):
        raise argument_error("preconditioning", "'martens', 'jacobi' or False", preconditioning)
    product = model.function_Gv if matrix_type == "G" else model.function_Hv
    costs, d_prev = [], np.zeros(sum(model.sizes))
    d_prev[0] = 1

    def matvec(vector: np.ndarray) -> np.ndarray:
        v = model.flat_to_list(vector)
        parts = [
            model.list_to_flat(product(*batch, *v, 0.0))
            for batch in matvec_dataset.iterate(update=False)
        ]
        return sum(parts) / matvec_dataset.number_batches

    def cost_at(delta: np.ndarray, dataset: Any) -> float:
        return model.quick_cost(dataset, delta)

    def gradient_at(x: np.ndarray, dataset: Any) -> tuple[np.ndarray, list[Any]]:
        return model.gradient_and_costs(dataset, x)

    for iteration in range(iterations):
        gradient, batch_costs = model.gradient_and_costs(gradient_dataset)
        costs.append(np.mean(batch_costs, axis=0))
        print("iteration:", iteration, "costs:", costs[-1])
        matvec_dataset.update()
        bfgs_dataset.update()
        inverse = _inverse_preconditioner(model, matvec_dataset, preconditioning)
        apply = partial(np.multiply, inverse)
        P, H = get_subspace(matvec, -gradient, space_size, apply, d_prev, quirks)
        L = np.linalg.cholesky(floor_matrix(H, _FLOOR))
        f_obj, f_prime = get_optimizer_functions(L, P, cost_at, gradient_at, bfgs_dataset)
        start = np.zeros(len(H))
        a, _, slope, *_ = fmin_bfgs(f_obj, start, f_prime, maxiter=maxfun, full_output=True)
        print("gnorm", np.linalg.norm(slope))
        d_prev = P @ np.linalg.solve(L.T, a)
        model.move(d_prev)
    return costs


def _inverse_preconditioner(model: Model, dataset: Any, kind: Any) -> Any:
    """Return the diagonal of M^-1, or 1."""
    if not kind:
        return 1.0
    total: Any = 0.0
    for _ in range(_DRAWS if kind == "jacobi" else 1):
        for batch in dataset.iterate(update=False):
            size = _CHUNK if kind == "jacobi" else 1
            for begin in range(0, len(batch[0]), size):
                chunk = [array[begin : begin + size] for array in batch]
                total = total + _squares(model, chunk, kind)
    return floor_vector(total, _FLOOR) ** -_POWER


def _squares(model: Model, chunk: list[np.ndarray], kind: str) -> np.ndarray:
    """Return the squares that the diagonal is a sum of, on some examples."""
    if kind == "martens":
        return model.list_to_flat(model.f_gc(*chunk)[: len(model.p)]) ** 2
    shape = [int(n) for n in model.shape_of_s(*chunk)]
    signs = np.sign(np.random.uniform(-1, 1, shape))  # noqa: NPY002 - seeded as the original is
    signs = signs.astype(model.s.type.dtype)
    return model.list_to_flat(model.function_J_sqrt_Hv(*chunk, signs)) ** 2
