"""Weighted sums of objectives, each on examples of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_number, is_symbolic
from symng.graphs.types import ModeLike, Scalar
from symng.objective._describe import describe_params
from symng.objective.matching import Match
from symng.objective.scipy_functions import ScipyProblem, make_problem

V = TypeVar("V", bound=Variable)


class Summand(ABC):
    """The base of objectives, which scale and add up to an `ObjectiveSum`.

    Attributes
    ----------
    terms : tuple of Objective
        The objectives that add up, each over the parameters of all.
    weights : tuple of float or symbolic scalar
        What each is multiplied by.
    """

    __array_ufunc__ = None  # else NumPy itself would compute np.float64(2) * objective

    @property
    @abstractmethod
    def terms(self) -> tuple[Any, ...]:  # Objective, whose module imports this one
        ...

    @property
    @abstractmethod
    def weights(self) -> tuple[Scalar, ...]: ...

    @abstractmethod
    def by_term(self, name: str, batch: Any) -> tuple[Any, ...]:
        """Return the arrays of a batch for each term, or refuse a batch of another form."""

    def __mul__(self, weight: Scalar) -> ObjectiveSum:
        """Return the objective with its loss and its metric multiplied by a weight above 0."""
        _check_weight(weight)
        scaled = [weight if _is_one(own) else weight * own for own in self.weights]
        return ObjectiveSum(self.terms, scaled)

    __rmul__ = __mul__

    def __add__(self, other: object) -> ObjectiveSum:
        """Return the sum of two objectives, each on examples of its own."""
        if not isinstance(other, Summand):
            hint = "A term of the loss of the same examples belongs in the loss itself."
            raise argument_error("objective + other", "an objective", other, hint, TypeError)
        return ObjectiveSum((*self.terms, *other.terms), (*self.weights, *other.weights))

    def __radd__(self, other: object) -> Summand:
        """Return the objective itself for 0 + objective, with which ``sum`` starts."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def to_scipy(self, *batch: Any, metric: Any = None, mode: ModeLike = None) -> ScipyProblem:
        """Compile loss, gradient and curvature on a batch as functions for `scipy.optimize`.

        Parameters
        ----------
        *batch : array
            Values of the inputs and then the targets; of an `ObjectiveSum` a tuple of them for
            each term.
        metric : Metric, optional
            The matrix of ``hessp``, for instance `Fisher`. Default: the Hessian of the loss.
        mode : str or Mode, optional
            PyTensor mode; default that of `set_mode`.

        Returns
        -------
        ScipyProblem
            With ``fun``, ``jac``, ``hessp`` and ``x0``; its ``set`` sets the parameters.

        Examples
        --------
        >>> import numpy as np, pytensor, pytensor.tensor as pt
        >>> import symng
        >>> from scipy.optimize import minimize
        >>> x, t = pt.matrix("x"), pt.vector("t")
        >>> w = pytensor.shared(np.zeros(2), name="w")
        >>> y = x @ w
        >>> objective = symng.Objective(pt.sqr(y - t).mean(), y, [w], inputs=[x], targets=[t])
        >>> p = objective.to_scipy(np.eye(2), np.array([1.0, 2.0]), mode="FAST_COMPILE")
        >>> p.set(minimize(p.fun, p.x0, jac=p.jac, hessp=p.hessp, method="trust-ncg").x)
        >>> w.get_value().round(6)
        array([1., 2.])
        """
        return make_problem(self, batch, metric, mode)


class ObjectiveSum(Summand):
    """Add up objectives with common parameters, each on examples of its own.

    L = sum_i w_i L_i and F = sum_i w_i F_i, for any metric F: each term has its own inputs,
    targets, likelihood and number of examples, such as the interior and the boundary points of a
    differential equation, or several tasks. Write ``interior + 0.1 * boundary``.

    Every optimizer takes it in place of an `Objective`, with one tuple of arrays per term:
    ``data=((X, F), (Z, G))``.

    Parameters
    ----------
    terms : sequence of Objective
        Each has at least one parameter in common with the terms before it.
    weights : sequence of float or symbolic scalar, optional
        w_i, above 0. A shared variable can be set between steps. Default: 1 for each.

    Attributes
    ----------
    terms : tuple of Objective
        The objectives, each over the parameters of all.
    weights : tuple of float or symbolic scalar
        w_i.
    params : tuple of shared variables
        The parameters of all terms, in the order in which they first appear.

    Raises
    ------
    TypeError, ValueError
        For terms without a common parameter or with several dtypes, and for a weight that is not
        above 0.

    Notes
    -----
    A term whose loss is a sum over its N_i examples counts N_i times its mean, in the loss and in
    the metric. The damping is then multiplied by the sum of these N_i: the steps are those of the
    loss divided by it.

    A variable that is an input of several terms stands for different examples in each: terms after
    the first get variables of their own (``inputs``).

    References
    ----------
    .. [1] J. Müller and M. Zeinhofer, "Achieving high accuracy with PINNs via energy natural
       gradient descent", ICML 2023, arXiv:2302.13163.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, z, t = pt.matrix("x"), pt.matrix("z"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> a = symng.Objective(pt.sqr(x @ w).mean(), output=x @ w, params=[w], inputs=[x])
    >>> b = symng.Objective(
    ...     pt.sqr(z @ w - t).mean(), output=z @ w, params=[w], inputs=[z], targets=[t]
    ... )
    >>> both = a + 0.5 * b
    >>> F = symng.Fisher()(both)  # mean of x x^T, and half the mean of z z^T
    >>> F.materialise().eval({x: [[1.0, 0.0]], z: [[0.0, 2.0]]})
    array([[1., 0.],
           [0., 2.]])
    """

    def __init__(self, terms: Sequence[Any], weights: Sequence[Scalar] | None = None) -> None:
        if not isinstance(terms, list | tuple) or not terms:
            raise argument_error("terms", "a list of objectives", terms, error=TypeError)
        for term in terms:
            if not isinstance(term, Summand) or isinstance(term, ObjectiveSum):
                raise argument_error("terms", "objectives", term, error=TypeError)
        weights = [1.0] * len(terms) if weights is None else list(weights)
        if len(weights) != len(terms):
            raise argument_error("weights", f"one for each of {len(terms)} terms", weights)
        for weight in weights:
            _check_weight(weight)
        self._weights = tuple(weights)
        self._terms = _over_common_params(_with_own_inputs(terms))

    @property
    def terms(self) -> tuple[Any, ...]:
        return self._terms

    @property
    def weights(self) -> tuple[Scalar, ...]:
        return self._weights

    @property
    def params(self) -> tuple[SharedVariable, ...]:
        return self._terms[0].params

    @property
    def dtype(self) -> str:
        """The dtype of the parameters."""
        return self._terms[0].dtype

    @property
    def size(self) -> int:
        """The number of parameters, the length of the flat vector."""
        return self._terms[0].size

    @property
    def inputs(self) -> tuple[TensorVariable, ...]:
        """The inputs of all terms."""
        return tuple(v for term in self._terms for v in term.inputs)

    @property
    def targets(self) -> tuple[TensorVariable, ...]:
        """The targets of all terms."""
        return tuple(v for term in self._terms for v in term.targets)

    @cached_property
    def loss(self) -> TensorVariable:
        """The weighted sum of the losses, a symbolic scalar."""
        return weighted_sum(self._weights, [term.loss for term in self._terms])

    def clone_inputs(self, suffix: str) -> ObjectiveSum:
        """Return the sum on new inputs and targets, named with ``suffix``, for another batch."""
        return ObjectiveSum([term.clone_inputs(suffix) for term in self._terms], self._weights)

    def rebind(self, graphs: Sequence[V]) -> list[V]:
        """Return ``graphs`` of the users' models on the inputs of the terms."""
        for term in self._terms:
            graphs = term.rebind(graphs)
        return list(graphs)

    def by_term(self, name: str, batch: Any) -> tuple[Any, ...]:
        expected = f"{len(self._terms)} tuples of arrays, one for each term"
        if not isinstance(batch, tuple | list):
            raise argument_error(name, expected, batch, error=TypeError)
        if len(batch) != len(self._terms) or not all(isinstance(b, tuple | list) for b in batch):
            shown = ", ".join(f"({_names((*t.inputs, *t.targets))})" for t in self._terms)
            got = Verbatim(_describe_groups(batch))
            raise argument_error(name, expected, got, f"They are ({shown}).")
        return tuple(batch)

    def check(self, *batch: Any, mode: ModeLike = None, seed: int = 0) -> tuple[Match, ...]:
        """Check of each term whether loss and likelihood match, as `Objective.check` does.

        Parameters
        ----------
        *batch : tuple of arrays
            One tuple for each term: its inputs and then its targets.
        mode, seed
            As in `Objective.check`.

        Returns
        -------
        tuple of Match
            One for each term.
        """
        groups = self.by_term("batch", batch)
        pairs = zip(self._terms, groups, strict=True)
        return tuple(term.check(*arrays, mode=mode, seed=seed) for term, arrays in pairs)

    def __repr__(self) -> str:
        of_params = describe_params(self._terms[0].model)  # those of all terms
        lines = ["ObjectiveSum", *of_params]
        for weight, term in zip(self._weights, self._terms, strict=True):
            first, *rest = (line for line in repr(term).splitlines() if line not in of_params)
            lines += [f"  {weight} * {first}", *(f"  {line}" for line in rest)]
        return "\n".join(lines)


def weighted_sum(weights: Sequence[Scalar], values: Sequence[TensorVariable]) -> TensorVariable:
    """Return sum_i w_i v_i in the dtype of the values."""
    total = None
    for weight, value in zip(weights, values, strict=True):
        scaled = value if _is_one(weight) else _in_dtype(weight, value.type.dtype) * value
        total = scaled if total is None else total + scaled
    assert total is not None  # a sum has terms
    return total


def _in_dtype(weight: Scalar, dtype: str) -> Any:
    """Return a weight as a constant or symbolic scalar of a dtype."""
    return pt.cast(pt.as_tensor_variable(weight), dtype)


def _is_one(weight: Scalar) -> bool:
    return not is_symbolic(weight) and weight == 1


def _check_weight(weight: object) -> None:
    """Refuse a weight that is not a number above 0: the metric would be indefinite."""
    check_number("weight", weight, above=0, symbolic=True)


def _describe_groups(batch: Sequence[object]) -> str:
    kinds = {type(b).__name__ for b in batch}
    return f"{len(batch)} of type {' and '.join(sorted(kinds))}" if batch else "none"


def _with_own_inputs(terms: Sequence[Any]) -> list[Any]:
    """Return the terms, with new inputs for one that shares any with a term before it."""
    seen: set[Variable] = set()
    own = []
    for number, term in enumerate(terms):
        if any(v in seen for v in (*term.inputs, *term.targets)):
            term = term.clone_inputs(f"_{number}")
        seen.update((*term.inputs, *term.targets))
        own.append(term)
    return own


def _over_common_params(terms: Sequence[Any]) -> tuple[Any, ...]:
    """Return the terms over the parameters of all, or refuse those that have none in common."""
    dtypes = sorted({term.dtype for term in terms})
    if len(dtypes) > 1:
        raise argument_error(
            "terms", "parameters of one dtype", Verbatim(" and ".join(dtypes)), error=TypeError
        )
    params: dict[SharedVariable, None] = {}
    for number, term in enumerate(terms):
        if params and not any(p in params for p in term.params):
            raise argument_error(
                "terms",
                "objectives with common parameters",
                Verbatim(
                    f"term {number} with none that an earlier term has: {_names(term.params)}"
                ),
                "Minimize it on its own, or put it after a term that it shares one with.",
            )
        params |= dict.fromkeys(term.params)
    return tuple(term.embed(tuple(params)) for term in terms)


def _names(variables: Iterable[Variable]) -> str:
    return ", ".join(map(str, variables))
