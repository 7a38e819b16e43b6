"""The Hessian-free optimizer of ``theano-hf`` on symng's conjugate gradients."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng._files import write_atomically
from symng.backends import compile_function
from symng.graphs.derivatives import grad
from symng.graphs.rebuild import rebuild
from symng.legacy._gauss_newton import gauss_newton_product
from symng.legacy._iterates import GROWTH_KEPT, candidates, kept
from symng.legacy._sequences import SequenceDataset
from symng.solvers import CG

__all__ = ["SequenceDataset", "gauss_newton_product", "hf_optimizer"]

# Martens's progress of the quadratic in an iteration, as a mean, that ends the solve; and the first
# iteration that is judged by it.
_PROGRESS, _FIRST_JUDGED = 5e-4, 11
_LOWER, _UPPER, _RATIO = 0.25, 0.75, 1.5
# What keeps the logarithms of the structural term finite.
_TINY = 1e-10


class _HostProduct(Op):
    """The product with a vector, computed by a Python function when the graph runs."""

    # PyTensor takes ops of equal properties for one another.
    __props__ = ("product",)

    def __init__(self, product: Callable[[np.ndarray], np.ndarray]) -> None:
        self.product = product

    def make_node(self, *inputs: Any) -> Apply:
        v = pt.as_tensor_variable(inputs[0])
        return Apply(self, [v], [v.type()])

    def perform(self, node: Apply, inputs: Sequence[Any], outputs: Any) -> None:
        v = np.array(inputs[0])
        outputs[0][0] = np.asarray(self.product(v), dtype=v.dtype)


class hf_optimizer:
    """Minimize a cost by Hessian-free optimization on the Gauss-Newton matrix.

    Parameters
    ----------
    p : list of shared variables
        The parameters.
    inputs : list of symbolic variables
        What a batch gives values to, targets included.
    s : symbolic tensor
        Where the Gauss-Newton matrix is taken: see `gauss_newton_product`.
    costs : list of symbolic scalars
        The first is minimized, the others are watched.
    h : symbolic tensor, optional
        Hidden units in (0, 1) that structural damping holds back: the cross-entropy between h and
        its value is added, over h.shape[0] and times lambda mu.
    ha : symbolic tensor, optional
        Where the matrix of that term is taken; default ``h``.
    quirks : bool, default False
        Let a solve that has converged go on without progress to iteration 11, as the original did.
        Its last iterates are the same then, so that without ``global_backtracking`` none of the
        earlier ones is chosen.

    Notes
    -----
    The products and costs are compiled functions; the solve is `symng.CG`, on their sum over the
    batches of a data set.

    Examples
    --------
    >>> import contextlib, io
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> from symng.legacy.hf import SequenceDataset, hf_optimizer
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> x, t = pt.dmatrix("x"), pt.dvector("t")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> s = x @ w
    >>> optimizer = hf_optimizer([w], [x, t], s, [pt.sqr(s - t).mean()])
    >>> data = SequenceDataset([[X], [X @ [3.0, -1.0]]], batch_size=None, number_batches=1)
    >>> with contextlib.redirect_stdout(io.StringIO()):
    ...     best = optimizer.train(data, data, initial_lambda=1e-6, num_updates=5)
    >>> best[0].round(3).tolist()
    [3.0, -1.0]
    """

    def __init__(
        self,
        p: Sequence[Any],
        inputs: Sequence[Any],
        s: TensorVariable,
        costs: Sequence[Any],
        h: TensorVariable | None = None,
        ha: TensorVariable | None = None,
        quirks: bool = False,
    ) -> None:
        self.p, self.quirks = list(p), quirks
        self.shapes = [np.shape(i.get_value(borrow=True)) for i in p]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.positions = np.cumsum([0, *self.sizes])[:-1]
        options: dict[str, Any] = dict(on_unused_input="ignore")
        gradient = grad(costs[0], self.p)
        self.f_gc = compile_function(inputs, [*gradient, *costs], **options)
        self.f_cost = compile_function(inputs, list(costs), **options)
        self.function_Gv = compile_function(
            *self._products(list(inputs), s, costs[0], h, ha), **options
        )
        self._solves: dict[Any, Any] = {}

    def _products(
        self, inputs: list[Any], s: TensorVariable, cost: Any, h: Any, ha: Any
    ) -> tuple[list[Any], list[Any]]:
        """Return inputs and outputs of the product on one batch."""
        v = [pt.TensorType(i.type.dtype, shape=i.type.shape)() for i in self.p]
        coefficient = pt.scalar("coefficient")
        Gv = gauss_newton_product(cost, self.p, v, s)
        if h is not None:
            fixed = h.type()
            log = [pt.log(part + _TINY) for part in (h, 1 - h)]
            entropy = (-fixed * log[0] - (1 - fixed) * log[1]).sum()
            term = pt.cast(coefficient, entropy.type.dtype) * entropy / h.shape[0]
            damped = gauss_newton_product(term, self.p, v, h if ha is None else ha)
            damped = rebuild(damped, {fixed: h})
            Gv = [a + b for a, b in zip(Gv, damped, strict=True)]
        return [*inputs, *v, coefficient], Gv

    def quick_cost(self, delta: Any = 0) -> Any:
        """Return the mean cost over the batches for the solve, at the parameters plus ``delta``.

        ``delta`` is a flat vector, a list of arrays, or 0.
        """
        if isinstance(delta, np.ndarray):
            delta = self.flat_to_list(delta)
        moved = isinstance(delta, list | tuple)
        before = [i.get_value() for i in self.p] if moved else []
        if moved:
            self._move(delta)
        try:
            batches = self.cg_dataset.iterate(update=False)
            return np.mean([np.asarray(self.f_cost(*batch)[0]) for batch in batches])
        finally:
            for i, value in zip(self.p, before, strict=False):
                i.set_value(value)

    def cg(self, b: np.ndarray) -> tuple[Any, np.ndarray, int, int]:
        """Solve (G + lambda I) x = b from the last x, and choose one of the iterates.

        Returns the cost at the iterate chosen, that iterate, its number and the iterations made.
        The iterates are the first nine and those of numbers near the powers of 1.3; the one chosen
        is the last of a falling sequence on the way back, or with ``global_backtracking`` the best
        one.
        """
        iterates, numbers, last, made = self._solve(b)
        self.cg_last_x = last.copy()
        costs: dict[int, Any] = {}

        def cost_of(row: int) -> Any:
            if row not in costs:
                costs[row] = self.quick_cost(iterates[row])
            return costs[row]

        chosen = len(numbers) - 1
        if self.global_backtracking:
            chosen = int(np.argmin([cost_of(row) for row in range(len(numbers))]))
        else:
            while chosen > 0 and cost_of(chosen - 1) < cost_of(chosen):
                chosen -= 1
        print(f" backtracked {numbers[chosen]}/{made}", end=" ", flush=True)
        return cost_of(chosen), iterates[chosen], numbers[chosen], made

    def _solve(self, b: np.ndarray) -> tuple[np.ndarray, list[int], np.ndarray, int]:
        """Return iterates, their numbers, the last iterate and how many were made."""
        limit, start = int(self.max_cg_iterations), getattr(self, "cg_last_x", np.zeros_like(b))
        key = limit, str(b.dtype), self.preconditioner
        if key not in self._solves:
            self._solves[key] = self._compile_solve(limit, str(b.dtype))
        given = [b, np.asarray(start, b.dtype)]
        if self.preconditioner:
            given.append(self._inverse_preconditioner(b))
        iterates, x, niter = self._solves[key](*given)
        made, rows = int(niter), {number: row for row, number in enumerate(kept(limit))}
        numbers = [number for number in candidates(limit) if number <= made]
        chosen = [iterates[rows[number]] for number in numbers]
        last = min(limit, _FIRST_JUDGED) if self.quirks else 0
        again = [number for number in candidates(last) if number > made]
        if not numbers and not again:  # the start solves the system
            again = [0]
        choices = np.asarray([*chosen, *(x for _ in again)])
        return choices, [*numbers, *again], x, max(made, last)

    def _compile_solve(self, limit: int, dtype: str) -> Any:
        """Return a function from b, start and inverse preconditioner to the iterates."""
        b, x0, inverse = (pt.TensorType(dtype, shape=(None,))(name) for name in ("b", "x0", "M"))
        host_product = _HostProduct(lambda v: self.batch_Gv(v))

        def product(v: TensorVariable) -> TensorVariable:
            return pt.as_tensor_variable(host_product(v))

        solver = CG(
            rtol=0.0,
            maxiter=limit,
            progress_rtol=_PROGRESS,
            keep_iterates=GROWTH_KEPT,
            recompute=False,
        )
        given = [b, x0]
        apply: Callable[[TensorVariable], TensorVariable] | None = None
        if self.preconditioner:
            given.append(inverse)

            def apply(r: TensorVariable) -> TensorVariable:
                return inverse * r

        solution = solver.solve(product, b, x0=x0, preconditioner=apply)
        outputs: list[Any] = [solution.iterates, solution.x, solution.niter]
        # In Python thunks, since the product is a Python function.
        return compile_function(given, outputs, mode="FAST_COMPILE")

    def _inverse_preconditioner(self, b: np.ndarray) -> np.ndarray:
        """Return (lambda + sum over batches of g^2)^-0.75."""
        M = self.lambda_ * np.ones_like(b)
        for batch in self.cg_dataset.iterate(update=False):
            M += self.list_to_flat(self.f_gc(*batch)[: len(self.p)]) ** 2
        return M**-0.75

    def flat_to_list(self, vector: np.ndarray) -> list[np.ndarray]:
        """Return a flat vector as a list of arrays in the shapes of the parameters."""
        parts = zip(self.shapes, self.sizes, self.positions, strict=True)
        return [vector[begin : begin + size].reshape(shape) for shape, size, begin in parts]

    def list_to_flat(self, l: Sequence[Any]) -> np.ndarray:
        """Return a list of arrays as one flat vector."""
        return np.concatenate([np.asarray(i).ravel() for i in l])

    def batch_Gv(self, vector: np.ndarray, lambda_: float | None = None) -> np.ndarray:
        """Return (G + lambda I) times a flat vector, with G the mean over the batches."""
        lambda_ = self.lambda_ if lambda_ is None else lambda_
        dtypes = [i.type.dtype for i in self.p]
        v = [a.astype(d) for a, d in zip(self.flat_to_list(vector), dtypes, strict=True)]
        coefficient = np.asarray(lambda_ * self.mu, pytensor.config.floatX)
        result = lambda_ * vector
        for batch in self.cg_dataset.iterate(update=False):
            product = self.list_to_flat(self.function_Gv(*batch, *v, coefficient))
            result = result + product / self.cg_dataset.number_batches
        return result

    def train(
        self,
        gradient_dataset: Any,
        cg_dataset: Any,
        initial_lambda: float = 0.1,
        mu: float = 0.03,
        global_backtracking: bool = False,
        preconditioner: bool = False,
        max_cg_iterations: int = 250,
        num_updates: int = 100,
        validation: Any = None,
        validation_frequency: int = 1,
        patience: float = np.inf,
        save_progress: str | None = None,
    ) -> list[np.ndarray]:
        """Train, and return the parameters best on the validation data, or the last ones.

        Parameters
        ----------
        gradient_dataset, cg_dataset : SequenceDataset
            The batches of the gradient, and those of the solve and of the cost that judges a step.
        initial_lambda : float, default 0.1
            The first damping.
        mu : float, default 0.03
            The weight of structural damping, in units of the damping.
        global_backtracking : bool, default False
            Choose the best of all iterates, not the first minimum on the way back.
        preconditioner : bool, default False
            Precondition by (lambda + sum of squared gradients)^0.75.
        max_cg_iterations : int, default 250
            The iteration limit of a solve.
        num_updates : int, default 100
            How many updates to make.
        validation : SequenceDataset or callable, optional
            Data, or a function that returns a list of costs.
        validation_frequency : int, default 1
            Updates from one validation to the next.
        patience : float, default infinity
            How many updates to go on without a better validation cost.
        save_progress : str, optional
            A file that is written after each update, and from which a later call goes on.

        Returns
        -------
        list of arrays
            The parameters.
        """
        self.lambda_, self.mu = initial_lambda, mu
        self.global_backtracking, self.preconditioner = global_backtracking, preconditioner
        self.cg_dataset, self.max_cg_iterations = cg_dataset, max_cg_iterations
        best: list[Any] = [0, np.inf, None]  # update, cost, parameters
        first = 1
        if isinstance(save_progress, str) and Path(save_progress).is_file():
            best, first = self._recover(save_progress)
        try:
            for u in range(first, 1 + num_updates):
                print(f"update {u}/{num_updates},", end=" ")
                self._update(gradient_dataset)
                if validation is not None and u % validation_frequency == 0:
                    best = self._validate(validation, u, best)
                if isinstance(save_progress, str):
                    saved = getattr(self, "cg_last_x", None), best, self.lambda_, u, self._values()
                    write_atomically(save_progress, lambda file, s=saved: pickle.dump(s, file))  # type: ignore[misc]
                if u - best[0] > patience:
                    print("PATIENCE ELAPSED, BAILING OUT")
                    break
                print(flush=True)
        except KeyboardInterrupt:
            print("Interrupted by user.")
        return self._values() if best[2] is None else best[2]

    def _update(self, gradient_dataset: Any) -> None:
        """Make one update of the parameters and of the damping."""
        gradient, costs = np.zeros(sum(self.sizes), dtype=pytensor.config.floatX), []
        for batch in gradient_dataset.iterate(update=True):
            result = self.f_gc(*batch)
            gradient += self.list_to_flat(result[: len(self.p)]) / gradient_dataset.number_batches
            costs.append([np.asarray(cost) for cost in result[len(self.p) :]])
        print("cost=", np.mean(costs, axis=0), f"lambda={self.lambda_:.5f},", end=" ", flush=True)
        after, delta, _, _ = self.cg(-gradient)
        undamped = self.batch_Gv(delta, lambda_=0)
        predicted = np.dot(delta, gradient + 0.5 * undamped)
        before = self.quick_cost()
        self._move(self.flat_to_list(delta))
        self.cg_dataset.update()
        rho = (after - before) / predicted if predicted else np.nan
        if rho < _LOWER:
            self.lambda_ *= _RATIO
        elif rho > _UPPER:
            self.lambda_ /= _RATIO

    def _validate(self, validation: Any, u: int, best: list[Any]) -> list[Any]:
        """Compute the validation costs, and return the best update so far."""
        if hasattr(validation, "iterate"):
            batch_costs = [
                [np.asarray(c) for c in self.f_cost(*batch)] for batch in validation.iterate()
            ]
            costs = np.mean(batch_costs, axis=0)
        elif callable(validation):
            costs = validation()
        else:
            expected = "a data set with a method iterate, or a function"
            raise argument_error("validation", expected, validation, error=TypeError)
        print("validation=", costs, end=" ")
        if costs[0] < best[1]:
            best = [u, costs[0], self._values()]
            print("*NEW BEST", end=" ")
        return best

    def _recover(self, path: str) -> tuple[list[Any], int]:
        """Go on from a file, and return the best update so far and the number of the next."""
        content = pickle.loads(Path(path).read_bytes())
        if not isinstance(content, tuple) or len(content) != 5:
            expected = "a file that train(save_progress=) wrote"
            raise argument_error("save_progress", expected, Verbatim(os.fspath(path)))
        last, best, self.lambda_, u, values = content
        if last is not None:
            self.cg_last_x = last
        for i, value in zip(self.p, values, strict=True):
            i.set_value(value)
        print("* recovered saved model")
        return list(best), u + 1

    def _move(self, delta: Sequence[np.ndarray]) -> None:
        """Add a list of arrays to the parameters."""
        for i, d in zip(self.p, delta, strict=True):
            value = np.asarray(i.get_value(borrow=True))
            i.set_value((value + d).astype(value.dtype))

    def _values(self) -> list[np.ndarray]:
        return [np.array(i.get_value()) for i in self.p]
