"""The base of all solvers: settings, and a method that solves a symmetric linear system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from symng._checks import argument_error
from symng.graphs.config import Config, config, declarations
from symng.graphs.types import Scalar
from symng.solvers._arguments import Operator, Vector
from symng.solvers.solution import Solution

AdjustableSettings = dict[str, tuple[Scalar, str | None]]
"""Settings that may change between steps: by name, value and dtype (None: the parameters')."""

# The dtypes of such settings in a solver that does not declare them.
_USUAL_SETTINGS = {
    "rtol": None,
    "atol": None,
    "maxiter": "int64",
    "max_norm": None,
    "condition_limit": None,
}


class Solver(Config, ABC):
    """Solve (A + λI) x = b for a symmetric A; the base of all solvers.

    Subclasses implement `solve`. One with settings is a frozen dataclass.

    Attributes
    ----------
    needs_full_batch : bool, default False
        Whether A must be the operator of a full batch. The cost of such a solver grows with the
        rows of the batch (`describe_cost`).
    """

    needs_full_batch: ClassVar[bool] = False

    @abstractmethod
    def solve(
        self,
        A: Operator,
        b: Vector,
        damping: Scalar = 0.0,
        x0: Vector | None = None,
        preconditioner: Operator | None = None,
    ) -> Solution:
        """Return the solution of (A + λI) x = b as symbolic variables.

        Parameters
        ----------
        A : LinearOperator or callable
            The product with a symmetric matrix: from symbolic vector to symbolic vector of the same
            length and dtype.
        b : symbolic vector
            The right-hand side, float32 or float64; its dtype is that of the solve.
        damping : float or symbolic scalar, default 0.0
            The multiple λ of the identity added to A; of either sign.
        x0 : symbolic vector, optional
            Where to start; default zero. Not used when b is zero.
        preconditioner : LinearOperator or callable, optional
            The product with M⁻¹, for a symmetric positive definite M near A + λI.

        Returns
        -------
        Solution
            The documentation of the class says which of the optional values it holds.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.
        """

    @property
    def keeps_iterates(self) -> bool:
        """Whether a solution holds iterates before the last one; by default it does not."""
        return False

    def describe_cost(self, rows: int, size: int, dtype: str = "float64") -> str:
        """Return a sentence on what a solve costs, where that grows with the rows of the batch.

        Parameters
        ----------
        rows : int
            Rows of R, where A = R^T R.
        size : int
            Number of parameters.
        dtype : str, default "float64"
            That of the parameters.
        """
        return f"{type(self).__name__} solves with {rows:,} rows of {size:,} parameters at once."

    def multiplications(self, rows: int, size: int) -> float | None:
        """Return about how many multiplications a solve takes; None if that is not known.

        Parameters
        ----------
        rows : int
            Rows of R, where A = R^T R.
        size : int
            Number of parameters.
        """
        return None

    def describe(self, size: int) -> str:
        """Return what a compiled step says of a solve with ``size`` parameters; default nothing."""
        return ""

    def adjustable_settings(self) -> AdjustableSettings:
        """Return the settings that may change between steps: by name, value and dtype.

        A dtype of None is that of the parameters.
        """
        declared = declarations(self)
        symbolic = {name: d.dtype for name, d in declared.items() if d.symbolic}
        undeclared = {name: d for name, d in _USUAL_SETTINGS.items() if name not in declared}
        return _values_of(self, symbolic | undeclared)

    def with_settings(self, **settings: Scalar) -> Solver:
        """Return the same solver with other settings, for instance symbolic scalars."""
        return replace(self, **settings) if settings else self  # type: ignore[type-var]


@runtime_checkable
class Solves(Protocol):
    """What a solver of another package has at least: ``solve`` with the arguments of `Solver`."""

    def solve(self, A: Any, b: Any) -> Any: ...


@config
class ForeignSolver(Solver):
    """Solve with an object that is no `Solver` but has its method ``solve``."""

    solver: Any

    def __repr__(self) -> str:
        return repr(self.solver)

    def solve(
        self,
        A: Operator,
        b: Vector,
        damping: Scalar = 0.0,
        x0: Vector | None = None,
        preconditioner: Operator | None = None,
    ) -> Solution:
        return self.solver.solve(A, b, damping=damping, x0=x0, preconditioner=preconditioner)

    @property
    def keeps_iterates(self) -> bool:
        return getattr(self.solver, "keep_iterates", None) is not None

    def adjustable_settings(self) -> AdjustableSettings:
        return _values_of(self.solver, _USUAL_SETTINGS)

    def with_settings(self, **settings: Scalar) -> Solver:
        return replace(self, solver=replace(self.solver, **settings)) if settings else self


def _values_of(solver: object, dtypes: Mapping[str, str | None]) -> AdjustableSettings:
    """Return value and dtype of those settings of a dataclass that are there and not None."""
    names = {f.name for f in fields(solver) if f.init} if is_dataclass(solver) else set()
    values = {name: (getattr(solver, name), d) for name, d in dtypes.items() if name in names}
    return {name: setting for name, setting in values.items() if setting[0] is not None}


def as_solver(name: str, value: object) -> Solver:
    """Return ``value`` as a `Solver`; refuse it if it has no method ``solve``."""
    if isinstance(value, Solver):
        return value
    if isinstance(value, type) or not isinstance(value, Solves):
        expected = "a solver such as symng.CG() or symng.MinresQLP()"
        raise argument_error(name, expected, value, error=TypeError)
    return ForeignSolver(solver=value)
