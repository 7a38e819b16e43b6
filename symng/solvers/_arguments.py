"""Checks of a solve's arguments: while the graph is built, and of lengths when it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.operators import LinearOperator, Product

Operator = LinearOperator | Product
Vector = TensorVariable | np.ndarray


def right_hand_side(A: Operator, value: Vector) -> TensorVariable:
    """Return b as a symbolic vector that is not empty and as long as the operator requires."""
    b = _vector("b", value)
    length = b.type.shape[0]
    if length == 0:
        raise argument_error("b", "at least one number", Verbatim("a vector of length 0"))
    if isinstance(A, LinearOperator):
        if length not in (None, A.size):
            raise argument_error(
                "b",
                f"a vector of length {A.size}, the size of A",
                Verbatim(f"one of length {length}"),
            )
        return pt.specify_shape(b, (A.size,)) if length is None else b
    if length is None:
        return _refuse_unless(b.shape[0] > 0, b, "b: expected at least one number, got none.")
    return b


def first_iterate(value: Vector, b: TensorVariable) -> TensorVariable:
    """Return x0 as a symbolic vector of the dtype and length of b."""
    x0 = _vector("x0", value)
    if x0.type.dtype != b.type.dtype:
        expected = f"dtype {b.type.dtype} as that of b"
        raise argument_error("x0", expected, x0, "Cast x0 or b.", TypeError)
    return _of_length("x0", "a vector", x0, b)


def checked_product(name: str, operator: Any, b: TensorVariable) -> Product:
    """Return the product with an operator as a function that checks what it returns."""
    if hasattr(operator, "matvec"):
        apply = operator.matvec
    elif callable(operator) and not isinstance(operator, type):
        apply = operator
    else:
        hint = "Wrap a matrix as `lambda v: matrix @ v`."
        raise argument_error(
            name,
            "a LinearOperator or a callable from vector to vector",
            operator,
            hint,
            TypeError,
        )

    def product(v: TensorVariable) -> TensorVariable:
        result = pt.as_tensor_variable(apply(v))
        if result.type.ndim != 1:
            raise argument_error(
                name,
                "a callable that returns a vector",
                Verbatim(f"one that returns {result.type}"),
                error=TypeError,
            )
        if result.type.dtype != b.type.dtype:
            raise argument_error(
                name,
                f"a product of dtype {b.type.dtype}, that of b",
                Verbatim(f"one of dtype {result.type.dtype}"),
                "Cast b or the parameters so that they agree.",
                TypeError,
            )
        return _of_length(name, "a product", result, b)

    return product


def _vector(name: str, value: Any) -> TensorVariable:
    """Return an argument as a symbolic vector of floats."""
    expected = "a vector of float32 or float64"
    try:
        vector = pt.as_tensor_variable(value)
    except (TypeError, NotImplementedError, AttributeError):
        raise argument_error(name, expected, value, error=TypeError) from None
    if vector.type.ndim != 1 or vector.type.dtype not in ("float32", "float64"):
        raise argument_error(name, expected, vector, "Flatten or cast it first.", TypeError)
    return vector


def _of_length(name: str, what: str, vector: TensorVariable, b: TensorVariable) -> TensorVariable:
    """Return ``vector`` if it is as long as b; refuse another as soon as the lengths are known.

    Broadcasting would take a vector of length 1 for one of any length.
    """
    length, expected = vector.type.shape[0], b.type.shape[0]
    if expected is None:
        message = f"{name}: expected {what} of the length of b, got one of another length."
        return _refuse_unless(pt.eq(vector.shape[0], b.shape[0]), vector, message)
    if length is None:
        # The message of this check says less, but the result has a known length.
        return pt.specify_shape(vector, (expected,))
    if length != expected:
        raise argument_error(
            name, f"{what} of length {expected}, that of b", Verbatim(f"one of length {length}")
        )
    return vector


def _refuse_unless(
    condition: TensorVariable, vector: TensorVariable, message: str
) -> TensorVariable:
    """Return ``vector``, with a check of ``condition`` when it is computed."""
    checked = CheckAndRaise(ValueError, message)(vector, condition)
    return pt.as_tensor_variable(checked)
