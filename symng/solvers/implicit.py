"""A solve as part of a graph, whose derivatives follow from the implicit function theorem.

With x = K⁻¹ b and K = A + λI symmetric, dx = K⁻¹ (db - dλ x - dA x): a derivative of a solve is
another solve with the same matrix, by the same op.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytensor.tensor as pt
from pytensor.compile.builders import OpFromGraph
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.replace import _vectorize_node
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.type import TensorType
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error, check_number, is_symbolic
from symng.graphs.derivatives import pullback, pushforward
from symng.graphs.loops import invariants
from symng.graphs.rebuild import rebuild, replacements
from symng.graphs.types import Scalar
from symng.operators import LinearOperator
from symng.solvers._arguments import Operator, Vector, checked_product, right_hand_side
from symng.solvers._system import integer, is_any, is_symmetric
from symng.solvers.base import Solver, as_solver
from symng.solvers.minres_qlp import MinresQLP
from symng.solvers.solution import NO_DIRECTION, Solution, Status

T = TypeVar("T")


def solve(
    A: Operator,
    b: Vector,
    *,
    solver: Solver | None = None,
    damping: Scalar = 0.0,
    preconditioner: Operator | None = None,
) -> Solution:
    """Solve (A + λI) x = b for a symmetric A, as a part of a graph that has derivatives.

    The derivative of x is that of the equation, not that of the iterations:

        dx = (A + λI)⁻¹ (db - dλ x - dA x).

    So x can be differentiated with respect to b, to the damping λ, and to all floating-point
    variables that the product with A is computed from, by ``pytensor.grad`` and both ways of
    ``pytensor.gradient.pushforward``, as often as the product itself can.

    Parameters
    ----------
    A : LinearOperator or callable
        The product with a symmetric matrix: from symbolic vector to symbolic vector of the same
        length and dtype. It may use any variables.
    b : symbolic vector
        The right-hand side, float32 or float64; its dtype is that of the solve.
    solver : Solver, optional
        Default: ``MinresQLP()``.
    damping : float or symbolic scalar, default 0.0
        The multiple λ of the identity added to A; of either sign.
    preconditioner : LinearOperator or callable, optional
        The product with M⁻¹, for a symmetric positive definite M near A + λI. Derivatives take it
        as a constant, and symbolic settings of the solver, too.

    Returns
    -------
    Solution
        ``x``, ``status``, ``niter`` and ``residual_norm``, of which ``x`` alone has a derivative.
        ``x`` is NaN if ``status`` is ``NOT_FINITE``, ``NOT_SYMMETRIC`` or ``BAD_PRECONDITIONER``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    NotImplementedError
        When a derivative is taken: if an operation in the product has none.

    Notes
    -----
    Cost: that of the solver, and two products for a test of A for symmetry on two vectors. A
    gradient costs another solve, to the same tolerance, and a pullback through one product; so does
    a pushforward. Errors of derivatives are of the order of the solver's tolerance times the
    condition number.

    A + λI must not be singular where a derivative is taken, and nothing tests whether it is. A
    second derivative with respect to a matrix that is A itself is that along symmetric changes.

    ``vectorize_graph`` makes it a batch of solves, over b, the damping and what A is computed from.
    Each has its own verdict and its own number of iterations: one that is finished does not change
    while others go on.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> d, b, damping = pt.dvector("d"), pt.dvector("b"), pt.dscalar("damping")
    >>> x = symng.solve(lambda v: d * v, b, damping=damping).x  # b / (d + damping)
    >>> slope = pytensor.grad(x.sum(), damping)  # -sum(b / (d + damping)^2)
    >>> f = symng.compile_function([d, b, damping], [x, slope], mode="FAST_COMPILE")
    >>> x, slope = f([1.0, 3.0], [4.0, 8.0], 1.0)
    >>> x.round(6).tolist(), round(float(slope), 6)
    ([2.0, 2.0], -1.5)
    """
    solver = as_solver("solver", MinresQLP() if solver is None else solver)
    check_number("damping", damping, symbolic=True)
    b = right_hand_side(A, b)
    v, rhs = b.type(), b.type()
    product = checked_product("A", A, v)(v)
    closure = _closure([product], [v])
    fresh: dict[Variable, Variable] = {c: c.type() for c in closure}
    inner = ProductGraph(v, list(fresh.values()), rebuild([product], fresh)[0])

    def multiply(u: TensorVariable) -> TensorVariable:
        return rebuild([product], replacements([v], [u]))[0]

    shift = pt.cast(damping, b.type.dtype)
    inner_shift = shift.type()
    solution = solver.solve(
        replace(A, matvec=multiply) if isinstance(A, LinearOperator) else multiply,
        rhs,
        damping=inner_shift if is_symbolic(damping) else damping,
        preconditioner=preconditioner,
    )
    symmetric = is_symmetric(multiply, rhs)
    status = pt.switch(symmetric, solution.status, integer(Status.NOT_SYMMETRIC))
    nan = pt.constant(float("nan"), dtype=b.type.dtype)
    x = pt.switch(is_any(status, *NO_DIRECTION), nan, solution.x)
    outputs = rebuild([x, status, solution.niter, solution.residual_norm], fresh)

    # What else they are computed from: the preconditioner and settings.
    inputs = [rhs, inner_shift, *inner.closure]
    others = _closure(outputs, inputs)
    inner_others: dict[Variable, Variable] = {other: other.type() for other in others}
    op = ImplicitSolve(
        [*inputs, *inner_others.values()], rebuild(outputs, inner_others), product=inner
    )
    x, status, niter, residual_norm = op(b, shift, *closure, *others)
    return Solution(x=x, status=status, niter=niter, residual_norm=residual_norm)


@dataclass(frozen=True, eq=False)
class ProductGraph:
    """The graph of v -> A v, as a function of v and of all that A is computed from."""

    v: TensorVariable
    closure: list[Variable]
    Av: TensorVariable

    @property
    def varying(self) -> list[Variable]:
        """Those of ``closure`` in which A has a derivative."""
        return [c for c in self.closure if _is_float(c)]

    def at(
        self, graphs: Sequence[TensorVariable], x: TensorVariable, closure: Sequence[Variable]
    ) -> list[TensorVariable]:
        """Return ``graphs`` with ``x`` in place of ``v``, and with the values of the closure."""
        given: dict[Variable, Variable] = {self.v: x}
        return rebuild(graphs, given | dict(zip(self.closure, closure, strict=True)))


class ImplicitSolve(OpFromGraph):
    """The op b, λ, closure of A, others -> x, status, niter, residual_norm.

    Compiled modes inline it, so that backends see the solver's loop; its derivatives are more nodes
    of the same op.
    """

    def __init__(
        self,
        inputs: list[Variable],
        outputs: list[Variable],
        *,
        product: ProductGraph,
    ) -> None:
        super().__init__(inputs, outputs, inline=True, on_unused_input="ignore")
        self.product = product

    def _closure_of(self, inputs: Sequence[T]) -> Sequence[T]:
        """Return those inputs that A is computed from."""
        return inputs[2 : 2 + len(self.product.closure)]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Return which outputs have a derivative in which inputs: x alone."""
        varies = [True, True, *map(_is_float, self.product.closure)]
        varies += [False] * (len(node.inputs) - len(varies))
        return [[varying, False, False, False] for varying in varies]

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        output_grads: Sequence[Variable],
    ) -> list[Variable]:
        """Return w = K⁻¹ u for b, -w·x for λ, and -(d(A x))ᵀ w for what A is computed from."""
        x, u = pt.as_tensor_variable(outputs[0]), output_grads[0]
        slopes = [disconnected_type() for _ in inputs]
        if isinstance(u.type, DisconnectedType):
            return slopes
        w = self(u, *inputs[1:])[0]
        # A copy: PyTensor's pushforward loses what depends on one slope by way of another.
        slopes[:2] = [w.copy(), -pt.dot(w, x)]
        product = self.product
        if product.varying:
            cotangent = w.type()
            pulled = pullback(
                [product.Av], product.varying, [cotangent], disconnected_inputs="ignore"
            )
            pulled = product.at(pulled, x, self._closure_of(inputs))
            for c, slope in zip(product.varying, rebuild(pulled, {cotangent: w}), strict=True):
                slopes[2 + product.closure.index(c)] = -slope
        return slopes

    def pushforward(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        eval_points: Sequence[Variable],
    ) -> list[Variable]:
        """Return K⁻¹ (db - dλ x - dA x)."""
        x, product = pt.as_tensor_variable(outputs[0]), self.product
        change = pt.zeros_like(x)
        given = [
            None if isinstance(point.type, DisconnectedType) else pt.as_tensor_variable(point)
            for point in eval_points
        ]
        if given[0] is not None:
            change += given[0]
        if given[1] is not None:
            change -= given[1] * x
        points = zip(product.closure, self._closure_of(given), strict=True)
        moved = {c: point for c, point in points if _is_float(c) and point is not None}
        if moved:
            tangents = [c.type() for c in moved]
            along = pushforward([product.Av], list(moved), tangents)
            along = product.at(along, x, self._closure_of(inputs))
            change -= rebuild(along, dict(zip(tangents, moved.values(), strict=True)))[0]
        return [self(change, *inputs[1:])[0], *(disconnected_type() for _ in range(3))]


@_vectorize_node.register(ImplicitSolve)
def vectorize_solve(op: ImplicitSolve, node: Apply, *inputs: Any) -> Apply:
    """Return a node that solves a system for each entry of the batch axes of its inputs."""
    if not all(isinstance(v.type, TensorType) for v in node.inputs):
        raise argument_error(
            "A",
            "a product without random draws in it, for a batch of solves",
            node.inputs[-1],
            "Draw before the product, and close over what was drawn.",
            NotImplementedError,
        )
    parts = [[f"i{k}{j}" for j in range(v.type.ndim)] for k, v in enumerate(node.inputs)]
    parts[0] = ["n"]
    signature = ",".join(f"({','.join(part)})" for part in parts) + "->(n),(),(),()"
    return Blockwise(op, signature=signature).make_node(*inputs)


def _closure(outputs: Sequence[Variable], varying: Sequence[Variable]) -> list[Variable]:
    """Return what ``outputs`` are computed from besides ``varying`` and constants."""
    return [
        v
        for v in invariants(outputs, varying)
        if not all(isinstance(source, Constant) for source in graph_inputs([v]))
    ]


def _is_float(v: Variable) -> bool:
    """Return whether ``v`` is a tensor of floating-point numbers."""
    return isinstance(v.type, TensorType) and v.type.dtype.startswith("float")
