"""Fully connected networks and autoencoders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.variable import TensorVariable

from symng._checks import FloatName, argument_error, check_choice, check_instance, check_number
from symng.models._initializers import glorot_init, sparse_init

Function = Callable[[TensorVariable], TensorVariable]
Activation = Literal["sigmoid", "tanh", "relu", "softplus", "linear"] | Function
Output = Literal["linear", "sigmoid", "softmax", "exp"] | Function
Initializer = (
    Literal["glorot", "sparse"] | Callable[[np.random.Generator, int, int, str], np.ndarray]
)

_ACTIVATIONS: dict[str, Function] = {
    "sigmoid": pt.sigmoid,
    "tanh": pt.tanh,
    # Not pt.maximum: its gradient at a tie is arbitrary.
    "relu": lambda r: pt.switch(r > 0, r, pt.zeros_like(r)),
    "softplus": pt.softplus,
    "linear": lambda r: r,
}
_OUTPUTS: dict[str, Function] = {
    "linear": lambda r: r,
    "sigmoid": pt.sigmoid,
    "softmax": lambda r: pt.special.softmax(r, axis=-1),
    "exp": pt.exp,
}
_INITIALIZERS: dict[str, Callable] = {"glorot": glorot_init, "sparse": sparse_init}


@dataclass(frozen=True, eq=False)
class Model:
    """The graph of a network and its parameters.

    Parameters
    ----------
    output : TensorVariable of shape (..., sizes[-1])
        The prediction, after the output activation.
    preactivation : TensorVariable of shape (..., sizes[-1])
        What goes into the output activation; losses computed from it are numerically stable. The
        same variable as ``output`` when the output is linear.
    params : list of shared variables
        ``W1, b1, W2, b2, ...``: weights of shape (fan_in, fan_out) and biases of shape (fan_out,).
    hidden : tuple of TensorVariable
        The hidden layers after their activations, from the input side.
    code : TensorVariable or None
        The code layer of an autoencoder, one of ``hidden``; None otherwise.
    """

    output: TensorVariable
    preactivation: TensorVariable
    params: list[SharedVariable]
    hidden: tuple[TensorVariable, ...]
    code: TensorVariable | None = None

    def __repr__(self) -> str:
        shapes = [param.get_value(borrow=True).shape for param in self.params[::2]]
        sizes = [shapes[0][0], *(shape[1] for shape in shapes)]
        count = sum(param.get_value(borrow=True).size for param in self.params)
        layers, dtype = "-".join(map(str, sizes)), self.params[0].type.dtype
        return f"<Model: {layers}; {count:,} parameters of {dtype}>"


def mlp(
    x: TensorVariable,
    sizes: Sequence[int],
    activation: Activation = "sigmoid",
    output: Output = "linear",
    initializer: Initializer = "glorot",
    seed: int = 0,
    dtype: FloatName | None = None,
) -> Model:
    """Build a multilayer perceptron, h_l = f(h_{l-1} W_l + b_l).

    Parameters
    ----------
    x : TensorVariable of shape (..., sizes[0])
        The input, one example per row.
    sizes : sequence of int
        Units of every layer, input and output included; at least two numbers, each at least 1.
    activation : {"sigmoid", "tanh", "relu", "softplus", "linear"} or callable, default "sigmoid"
        Of the hidden layers; a callable takes and returns a symbolic tensor.
    output : {"linear", "sigmoid", "softmax", "exp"} or callable, default "linear"
        Activation of the last layer; the softmax is over the last axis.
    initializer : {"glorot", "sparse"} or callable, default "glorot"
        `glorot_init`, `sparse_init`, or a function of the same four arguments ``(rng, fan_in,
        fan_out, dtype)``. Biases start at zero.
    seed : int, default 0
        Seed of the initial weights, at least 0.
    dtype : {"float32", "float64"}, optional
        Of the parameters; the default is the dtype of ``x`` or, when that is an integer,
        ``pytensor.config.floatX``. ``x`` is cast to it.

    Returns
    -------
    Model
        The graph and its parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from symng.models import mlp
    >>> model = mlp(pt.matrix("x", dtype="float32"), [4, 3, 2], output="softmax")
    >>> [param.name for param in model.params]
    ['W1', 'b1', 'W2', 'b2']
    >>> model
    <Model: 4-3-2; 23 parameters of float32>
    """
    _check_sizes(sizes)
    f = _function("activation", activation, _ACTIVATIONS)
    return _network(x, list(sizes), [f] * (len(sizes) - 2), output, initializer, seed, dtype)


def autoencoder(
    x: TensorVariable,
    sizes: Sequence[int],
    activation: Activation = "sigmoid",
    output: Output = "sigmoid",
    initializer: Initializer = "sparse",
    seed: int = 0,
    dtype: FloatName | None = None,
) -> Model:
    """Build a deep autoencoder: an encoder, a linear code, and the mirrored encoder as decoder.

    ``sizes=(784, 400, 200, 100, 50, 25, 6)`` is the network of section 10 of [1]_:
    784-400-200-100-50-25-6 and back, twelve weight matrices. Encoder and decoder have weights of
    their own.

    Parameters
    ----------
    x : TensorVariable of shape (..., sizes[0])
        The input, one example per row.
    sizes : sequence of int
        Units of the layers from the input to the code, both included; at least two numbers, each at
        least 1.
    activation : {"sigmoid", "tanh", "relu", "softplus", "linear"} or callable, default "sigmoid"
        Of the hidden layers but the code, which is linear.
    output : {"linear", "sigmoid", "softmax", "exp"} or callable, default "sigmoid"
        Activation of the reconstruction.
    initializer, seed, dtype
        As for `mlp`, except that the default initializer is "sparse" (Martens 2010).

    Returns
    -------
    Model
        The graph and its parameters, with ``code``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, "Revisiting Natural Gradient for Deep Networks", 2013,
       arXiv:1301.3584.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from symng.models import autoencoder
    >>> model = autoencoder(pt.matrix("x", dtype="float32"), [784, 400, 200, 100, 50, 25, 6])
    >>> model
    <Model: 784-400-200-100-50-25-6-25-50-100-200-400-784; 842,340 parameters of float32>
    """
    _check_sizes(sizes)
    f = _function("activation", activation, _ACTIVATIONS)
    sides = [f] * (len(sizes) - 2)
    mirrored = [*sizes, *reversed(list(sizes)[:-1])]
    return _network(
        x,
        mirrored,
        [*sides, _ACTIVATIONS["linear"], *sides],
        output,
        initializer,
        seed,
        dtype,
        code=len(sizes) - 2,
    )


def _check_sizes(sizes: object) -> None:
    """Refuse layer sizes that are not at least two whole numbers, each at least 1."""
    hint = "Give the units of every layer, the input first, for example [784, 100, 10]."
    if isinstance(sizes, str) or not isinstance(sizes, Collection):
        raise argument_error("sizes", "a sequence of whole numbers", sizes, hint, TypeError)
    if len(sizes) < 2:
        raise argument_error("sizes", "at least two layers, input and output", sizes, hint)
    for i, size in enumerate(sizes):
        check_number(f"sizes[{i}]", size, minimum=1, integer=True, hint=hint)


def _function(
    name: str,
    value: str | Callable,
    known: dict[str, Callable],
    takes: str = "the symbolic pre-activation",
) -> Callable:
    """Return the function for a name, or the callable itself."""
    if callable(value):
        return value
    check_choice(name, value, known, f"Or give a function of {takes}.")
    return known[value]


def _check_input(x: TensorVariable, size: int) -> None:
    """Refuse what is not a symbolic tensor with ``size`` entries along its last axis."""
    hint = 'Write for example x = pytensor.tensor.matrix("x").'
    check_instance("x", x, TensorVariable, "a symbolic tensor", hint)
    if x.type.ndim == 0 or x.type.shape[-1] not in (None, size):
        raise argument_error("x", f"{size} entries along the last axis, as sizes[0] says", x)


def _check_dtype(dtype: str | None, x: TensorVariable) -> str:
    """Return the dtype of the parameters: the one given, else that of ``x``, else floatX."""
    if dtype is None:
        dtype = x.type.dtype if x.type.dtype.startswith("float") else pytensor.config.floatX
    check_choice("dtype", dtype, get_args(FloatName), "Give dtype=, or cast x.")
    return dtype


def _network(
    x: TensorVariable,
    sizes: list[int],
    activations: list[Callable],
    output: Output,
    initializer: Initializer,
    seed: int,
    dtype: str | None,
    code: int | None = None,
) -> Model:
    """Return a network; ``code`` is the position of the code in ``hidden``."""
    _check_input(x, sizes[0])
    last = _function("output", output, _OUTPUTS)
    initialize = _function(
        "initializer", initializer, _INITIALIZERS, "(rng, fan_in, fan_out, dtype)"
    )
    check_number("seed", seed, minimum=0, integer=True)
    dtype = _check_dtype(dtype, x)
    rng = np.random.default_rng(seed)
    layer = x if x.type.dtype == dtype else x.astype(dtype)
    params: list[SharedVariable] = []
    layers = []
    for i, (fan_in, fan_out, f) in enumerate(
        zip(sizes[:-1], sizes[1:], [*activations, last], strict=True), start=1
    ):
        weights = np.asarray(initialize(rng, fan_in, fan_out, dtype), dtype=dtype)
        if weights.shape != (fan_in, fan_out):
            raise argument_error(
                "initializer",
                f"a function that returns an array of shape {(fan_in, fan_out)}",
                weights,
            )
        W = pytensor.shared(weights, name=f"W{i}")
        b = pytensor.shared(np.zeros(fan_out, dtype=dtype), name=f"b{i}")
        params += [W, b]
        # pt.dot, not @: for matrices it builds a plain Dot, which every backend turns into one BLAS
        # call.
        preactivation = pt.dot(layer, W) + b
        layer = f(preactivation)
        layers.append(layer)
    hidden = tuple(layers[:-1])
    return Model(layer, preactivation, params, hidden, None if code is None else hidden[code])
