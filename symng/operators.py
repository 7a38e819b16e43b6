"""Symmetric linear operators on flat symbolic vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from pytensor.graph.traversal import ancestors
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_number, deprecated, is_symbolic
from symng.backends import (
    UNOPTIMIZED,
    backend_of,
    compile_function,
    compile_with_data,
    fallback_mode,
    to_numpy,
    warn_of_other_backend,
)
from symng.backends.failures import backend_failure, comes_from, evaluate
from symng.graphs import vectors
from symng.graphs.arrays import check_array, refuse_arrays
from symng.graphs.building import building
from symng.graphs.loops import map_rows
from symng.graphs.types import Integer, ModeLike, Scalar

if TYPE_CHECKING:
    import scipy.sparse.linalg


Product = Callable[[TensorVariable], TensorVariable]
"""From a symbolic vector v to A v."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A matrix R with a column for each parameter, known by its products.

    Parameters
    ----------
    matvec : callable
        From a symbolic vector v of the size of the operator to R v.
    rmatvec : callable
        From a symbolic vector u with an entry for each row of R to R^T u.
    rows : callable, optional
        Takes no arguments; returns R itself, or None if products with unit vectors cost no more.
    """

    matvec: Callable[[TensorVariable], TensorVariable]
    rmatvec: Callable[[TensorVariable], TensorVariable]
    rows: Callable[[], TensorVariable | None] = lambda: None

    def materialise(
        self, like: TensorVariable, by: Literal["rows", "columns"] = "rows"
    ) -> TensorVariable:
        """Return R itself, symbolic; ``like`` is any vector v that R can multiply.

        Notes
        -----
        Without ``rows`` it costs a product with R^T for each row, or one with R for each column.
        """
        rows = self.rows()
        if rows is not None:
            return rows
        if by == "columns":
            return map_rows(self.matvec, identity_like(like)).T
        return map_rows(self.rmatvec, identity_like(self.matvec(like)))


def identity_like(v: TensorVariable) -> TensorVariable:
    """Return the identity matrix with as many rows as ``v`` has entries, in its dtype."""
    positions = vectors.positions(v)
    return pt.eq(positions[:, None], positions[None, :]).astype(v.dtype)


@dataclass(frozen=True, eq=False)
class LinearOperator:
    """A symmetric matrix A, known by its product with a symbolic vector, v -> A v.

    The matrix is never formed, except by `materialise`. Operators of one size add up, scale by a
    number and take damping; each of these is again an operator.

    Parameters
    ----------
    matvec : callable
        From a symbolic vector of length ``size`` and dtype ``dtype`` to the symbolic vector A v.
    size : int
        Number of rows and columns of A, at least 1.
    dtype : str, default "float64"
        "float32" or "float64": the dtype of vectors and products.
    inputs : sequence of TensorVariable, default ()
        Symbolic inputs that the product may depend on, in the order in which `to_scipy` takes their
        values.
    name : str, default "A"
        What ``repr`` and the names of sums and multiples show.
    factor : Factor, optional
        A matrix R of few rows or columns with A = R^T R, which `symng.Woodbury` and `symng.QR`
        need. Sums, multiples and damped operators have none.
    draw : callable, optional
        From a symbolic seed to R^T s, where A = R^T R and s is a vector of random signs that the
        seed determines. `diagonal` estimates with it.

    Notes
    -----
    A sum costs the products of its terms, scaling and damping one pass over the vector.

    Examples
    --------
    >>> import numpy as np
    >>> import pytensor.tensor as pt
    >>> from symng import LinearOperator
    >>> d = np.array([1.0, 2.0, 3.0])
    >>> A = LinearOperator(lambda v: d * v, size=3)
    >>> (A @ np.ones(3)).eval()
    array([1., 2., 3.])
    >>> (2 * A + A).damped(1.0).materialise().eval()
    array([[ 4.,  0.,  0.],
           [ 0.,  7.,  0.],
           [ 0.,  0., 10.]])
    """

    matvec: Callable[[TensorVariable], TensorVariable] = field(repr=False)
    size: int
    dtype: str = "float64"
    inputs: Sequence[TensorVariable] = field(default=(), repr=False)
    name: str = "A"
    factor: Factor | None = field(default=None, repr=False)
    draw: Callable[[TensorVariable], TensorVariable] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.matvec):
            raise argument_error(
                "matvec",
                "a callable from symbolic vector to symbolic vector",
                self.matvec,
                error=TypeError,
            )
        check_number("size", self.size, minimum=1, integer=True)
        if self.dtype not in ("float32", "float64"):
            raise argument_error("dtype", "'float32' or 'float64'", self.dtype)
        object.__setattr__(self, "inputs", tuple(self.inputs))
        hint = "SciPy takes a compiled operator: A.to_scipy(*batch)."
        object.__setattr__(self, "matvec", refuse_arrays(self.matvec, hint))

    # Otherwise NumPy would apply `array @ A` and `number * A` elementwise.
    __array_ufunc__ = None

    @property
    def root(self) -> Factor | None:
        """Return ``factor``, by its old name."""
        deprecated("LinearOperator.root", "0.2", "LinearOperator.factor")
        return self.factor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return (self.size, self.size)

    def __matmul__(self, v: ArrayLike | TensorVariable) -> TensorVariable:
        """Return A v for a vector v, or A V for a matrix V, column by column, as a tensor."""
        v = self._as_operand(v)
        if v.ndim == 1:
            return self.matvec(v)
        return map_rows(self.matvec, v.T).T

    def _as_operand(self, v: ArrayLike | TensorVariable) -> TensorVariable:
        """Return ``v`` as a symbolic vector or matrix of the operator's dtype, or refuse it."""
        expected = f"a vector (or matrix of columns) of {self.size} floating-point rows"
        if not is_symbolic(v):
            array = np.asarray(v)
            if array.dtype.kind not in "fiu":
                raise argument_error("v", expected, v, error=TypeError)
            v = pt.as_tensor_variable(array.astype(self.dtype))
        if (
            not isinstance(v, TensorVariable)
            or v.ndim not in (1, 2)
            or v.type.dtype not in ("float32", "float64")
        ):
            raise argument_error("v", expected, v, error=TypeError)
        if v.type.shape[0] not in (None, self.size):
            raise argument_error(
                "v",
                expected,
                v,
                "The flat vector is the parameters in order, each raveled in C order.",
            )
        return v if v.type.dtype == self.dtype else v.astype(self.dtype)

    def __add__(self, other: object) -> LinearOperator:
        """Return the operator A + B."""
        if not isinstance(other, LinearOperator):
            return NotImplemented
        if other.size != self.size or other.dtype != self.dtype:
            mine, theirs = (f"size {a.size} and dtype {a.dtype}" for a in (self, other))
            raise argument_error("A + B", f"two operators of {mine}", Verbatim(f"one of {theirs}"))
        inputs = list(self.inputs) + [v for v in other.inputs if v not in self.inputs]
        return self._with_product(
            lambda v: self.matvec(v) + other.matvec(v), f"{self.name} + {other.name}", inputs
        )

    def __mul__(self, scale: Scalar) -> LinearOperator:
        """Return the operator c A for a number or symbolic scalar c."""
        check_number("scale", scale, symbolic=True, hint="For a product write A @ v.")
        c = pt.cast(scale, self.dtype)
        return self._with_product(lambda v: c * self.matvec(v), f"{scale} * ({self.name})")

    __rmul__ = __mul__

    def __neg__(self) -> LinearOperator:
        return self * -1.0

    def __sub__(self, other: object) -> LinearOperator:
        if not isinstance(other, LinearOperator):
            return NotImplemented
        return self + (-other)

    def damped(self, damping: Scalar) -> LinearOperator:
        """Return the operator A + damping I.

        Parameters
        ----------
        damping : float or symbolic scalar
            A finite number; a negative one shifts the other way.
        """
        check_number("damping", damping, symbolic=True)
        shift = pt.cast(damping, self.dtype)
        return self._with_product(
            lambda v: self.matvec(v) + shift * v, f"{self.name} + {damping} I"
        )

    def _with_product(
        self,
        matvec: Callable[[TensorVariable], TensorVariable],
        name: str,
        inputs: Sequence[TensorVariable] | None = None,
    ) -> LinearOperator:
        """Return an operator of the same size and dtype with the product ``matvec``."""
        return LinearOperator(
            matvec, self.size, self.dtype, self.inputs if inputs is None else inputs, name
        )

    @building()
    def materialise(self) -> TensorVariable:
        """Return the matrix itself, symbolic, of shape (size, size).

        Notes
        -----
        Costs ``size`` products and size^2 numbers: for small operators and for tests.
        """
        return map_rows(self.matvec, pt.eye(self.size, dtype=self.dtype)).T

    def diagonal(self, draws: int | None = None, seed: Integer = 0) -> TensorVariable:
        """Return the diagonal, of shape (size,), exact or estimated with random signs.

        Parameters
        ----------
        draws : int, optional
            How many vectors s of random signs to average over, at least 1. Default: exact.
        seed : int or symbolic integer scalar, default 0
            Determines the signs.

        Returns
        -------
        TensorVariable of shape (size,)
            The diagonal, or its estimate.

        Notes
        -----
        An estimate costs ``draws`` products with A or R^T; the exact diagonal costs ``size``
        products and forms the matrix.

        If ``draw`` is known, as for `symng.Fisher` and `symng.EmpiricalFisher`, the estimate is
        the mean of (R^T s)^2, elementwise. It is never negative, and its standard deviation is at
        most sqrt(2 / draws) times the diagonal.

        Otherwise it is the mean of s * (A s) [1]_, which may be negative where the diagonal is not.
        The variance of entry i is sum_{j != i} A_ij^2 / draws. Neither estimate is biased.

        References
        ----------
        .. [1] C. Bekas, E. Kokiopoulou and Y. Saad, "An estimator for the diagonal of a matrix",
           Applied Numerical Mathematics 57, 2007.

        Examples
        --------
        >>> import numpy as np
        >>> import pytensor.tensor as pt
        >>> from symng import LinearOperator
        >>> A = np.diag([1.0, 2.0, 3.0])
        >>> LinearOperator(lambda v: pt.dot(A, v), size=3, dtype="float64").diagonal(draws=1).eval()
        array([1., 2., 3.])
        """
        if draws is None:
            return pt.diagonal(self.materialise())
        check_number("draws", draws, minimum=1, integer=True)
        check_number("seed", seed, integer=True, symbolic=True)
        weights = pt.full((draws,), 1 / draws, dtype=self.dtype)
        draw = self.draw
        if draw is not None:
            seeds = pt.cast(seed, "int64") * int(draws) + np.arange(draws)
            if draws == 1:
                return pt.sqr(draw(seeds[0]))
            return pt.dot(weights, map_rows(lambda row: pt.sqr(draw(row[0])), seeds[:, None]))
        signs = vectors.random_signs(pt.zeros((self.size,), dtype=self.dtype), seed, draws)
        return pt.dot(weights, map_rows(lambda s: s * self.matvec(s), signs))

    def required_inputs(self) -> tuple[TensorVariable, ...]:
        """Return the ``inputs`` that the product depends on."""
        reached = set(
            ancestors([self.matvec(pt.vector("v", dtype=self.dtype, shape=(self.size,)))])
        )
        return tuple(v for v in self.inputs if v in reached)

    def to_scipy(
        self, *batch: ArrayLike, mode: ModeLike = None
    ) -> scipy.sparse.linalg.LinearOperator:
        """Compile the product and return it as a SciPy operator on NumPy vectors.

        Parameters
        ----------
        *batch : array
            Values of the inputs that the product needs (`required_inputs`), in that order.
            Parameters are read from their shared variables at each product.
        mode : str or Mode, optional
            PyTensor mode; default that of `set_mode`.

        Returns
        -------
        scipy.sparse.linalg.LinearOperator
            Of shape (size, size), for `scipy.sparse.linalg` and as ``hessp`` in `scipy.optimize`.

        Raises
        ------
        TypeError, ValueError
            When the arrays do not fit the inputs, or the product cannot be evaluated on them; one
            product is evaluated to check this.

        Examples
        --------
        >>> import numpy as np
        >>> from scipy.sparse.linalg import eigsh
        >>> from symng import LinearOperator
        >>> A = LinearOperator(lambda v: np.array([1.0, 2.0, 3.0]) * v, size=3)
        >>> eigsh(A.to_scipy(mode="FAST_COMPILE"), k=1, return_eigenvectors=False).round(6)
        array([3.])
        """
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        needed = self.required_inputs()
        if len(batch) != len(needed):
            names = ", ".join(str(v) for v in needed) or "none"
            hint = "Give those that the product needs, in this order: A.to_scipy(*batch)."
            raise argument_error(
                "batch", f"{len(needed)} arrays ({names})", Verbatim(f"{len(batch)}"), hint
            )
        arrays = [
            to_numpy(check_array(f"batch, {v}", a, v)) for v, a in zip(needed, batch, strict=True)
        ]
        vector = pt.vector("v", dtype=self.dtype, shape=(self.size,))
        inputs, product = [*needed, vector], self.matvec(vector)
        try:
            matvec = self._compile(inputs, product, arrays, mode)
        except Exception as error:  # of many types, from the compilation or from the product
            in_python = compile_function(inputs, product, mode=UNOPTIMIZED)
            zero = np.zeros(self.size, self.dtype)
            evaluate(lambda a: in_python(*a, zero), arrays, "batch")  # do the arrays fit?
            fallback = fallback_mode(mode)
            if fallback is None:
                if not comes_from(error, "pytensor"):  # the message is clear already
                    raise
                raise backend_failure(error, backend_of(mode), arrays) from error
            matvec = self._compile(inputs, product, arrays, fallback)
            warn_of_other_backend(error, backend_of(fallback))
        return ScipyOperator(self.shape, matvec=matvec, rmatvec=matvec, dtype=np.dtype(self.dtype))

    def _compile(
        self,
        inputs: Sequence[TensorVariable],
        product: TensorVariable,
        arrays: Sequence[np.ndarray],
        mode: ModeLike,
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Return v -> A v on NumPy vectors, compiled in ``mode``, after one product to try it.

        ``arrays`` are the values of all ``inputs`` but the last, which is v.
        """
        matvec = compile_with_data(inputs, product, arrays, mode)
        matvec(np.zeros(self.size))
        return matvec
