"""The two networks of ``natgrad``, with their metrics as products of lists of tensors."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng._files import read_npz, write_npz
from symng.backends import compile_function
from symng.graphs.derivatives import pullback, pushforward
from symng.legacy.natgrad.layers import (
    HiddenLayerStandard,
    LeNetConvPoolLayerStandard,
    SoftmaxLayerStandard,
)
from symng.legacy.natgrad.state import require


class Classifier:
    """What both networks have: cost, error, metric, validation and files.

    Subclasses make `layers` of `x`, and call `_finish`.
    """

    x: TensorVariable
    y: TensorVariable
    layers: Sequence[Any]

    def __init__(self, state: Mapping[str, Any], data: Any, keys: Sequence[str]) -> None:
        require(state, ("seed", "nhid", "cbs", "mbs", *keys), type(self).__name__)
        self.state, self.data = state, data
        self.rng = np.random.RandomState(state["seed"])
        self.rng.randint(100000)  # the seed of random streams that no layer uses
        self.n_in, self.n_out = data.xdim, data.ydim
        self.x, self.y = pt.matrix("X"), pt.ivector("y")

    def _finish(self) -> None:
        """Make cost, error and metric from the last layer."""
        self.params = [p for layer in self.layers for p in layer.params]
        self.params_shape = [p.get_value(borrow=True).shape for p in self.params]
        self.best_params = self._values()
        self.inputs = [self.x, self.y]
        last = self.layers[-1]
        self.logits = pt.dot(last.input, last.W) + last.b
        log_probabilities = pt.special.log_softmax(self.logits, axis=-1)
        chosen = pt.eq(self.y[:, None], np.arange(self.n_out, dtype="int32")[None, :])
        self.costs = -pt.where(chosen, log_probabilities, 0).sum(axis=1)
        self.costs = self.costs.astype(log_probabilities.dtype)
        self.train_cost = _mean(self.costs)
        wrong = pt.neq(pt.argmax(self.logits, axis=1), self.y)
        self.error = _mean(wrong.astype(pytensor.config.floatX)) * 100
        self._error_of: Any = None

    def Gvs(self, *vs: Any) -> list[TensorVariable]:
        """Return the product of the metric with a list of tensors, over the examples of a chunk.

        The sum over examples, divided by ``mbs``: chunks of a batch add up to its mean. With
        ``matrix`` "KL" it is the Fisher matrix of the softmax, with "cov" the uncentered covariance
        of the gradients of the examples.
        """
        scale = np.asarray(1 / self.state["mbs"], pytensor.config.floatX)
        if self.state.get("matrix", "KL") == "cov":
            [tangent] = pushforward([self.costs], self.params, list(vs))
            return pullback([self.costs], self.params, [tangent * scale])
        # On the pre-activations, where saturated units do not divide zero by zero.
        [tangent] = pushforward([self.logits], self.params, list(vs))
        y = self.layers[-1].output
        weighted = y * (tangent - (y * tangent).sum(axis=1, keepdims=True))
        return pullback([self.logits], self.params, [weighted * scale])

    def validate(self) -> float:
        """Return the error on the validation examples, in percent."""
        return self._error_on(self.data.valid_x, self.data.valid_y, self.data.n_valid_samples)

    def test_eval(self) -> float:
        """Return the error on the test examples, in percent."""
        return self._error_on(self.data.test_x, self.data.test_y, self.data.n_test_samples)

    def save(self, filename: str | os.PathLike[str]) -> None:
        """Write the parameters, and the best ones with "b" before their names, as an npz file."""
        values = dict(self._values())
        values.update({f"b{name}": value for name, value in self.best_params})
        write_npz(filename, values)

    def load(self, filename: str | os.PathLike[str]) -> None:
        """Read the parameters from a file that `save` wrote."""
        values = read_npz(filename, "a file of parameters", "Give one that save() wrote.")
        missing = [p.name for p in self.params if p.name not in values]
        if missing:
            expected = f"a file with the array {missing[0]}"
            raise argument_error("filename", expected, os.fspath(filename))
        for p, shape in zip(self.params, self.params_shape, strict=True):
            if values[p.name].shape != shape:
                expected = f"the shape {shape}, as the network has it"
                raise argument_error(f"filename, {p.name}", expected, values[p.name])
        for p in self.params:
            p.set_value(values[p.name].astype(p.dtype))

    def _values(self) -> list[tuple[str, np.ndarray]]:
        """Return names and values of the parameters."""
        return [(p.name, np.asarray(p.get_value())) for p in self.params]

    def _error_on(self, x: Any, y: Any, count: int) -> float:
        """Return the error on examples, in percent, computed in chunks of ``cbs``."""
        if self._error_of is None:
            self._error_of = compile_function(self.inputs, self.error, on_unused_input="ignore")
        size, wrong = int(self.state["cbs"]), 0.0
        inputs, classes = (np.asarray(rows(0, count).eval(mode="FAST_COMPILE")) for rows in (x, y))
        for start in range(0, count, size):
            chunk = inputs[start : start + size], classes[start : start + size]
            wrong += float(self._error_of(*chunk)) * len(chunk[0])
        return wrong / count


class mlp(Classifier):
    """A network of one hidden layer of sigmoids and softmax outputs.

    Parameters
    ----------
    state : dict
        Settings: seed, nhid, cbs, mbs, and matrix, "KL" or "cov" (see ``Gvs``).
    data : DataMNIST
        Says how many inputs and classes there are, and has the validation and test examples.

    Attributes
    ----------
    params, params_shape : lists
        Weights and biases, shared variables in floatX, and their shapes.
    inputs, x, y
        The symbolic inputs, a matrix of examples and an ivector of classes; both as a list.
    train_cost : symbolic scalar
        The mean cross-entropy.
    error : symbolic scalar
        Wrong answers in percent.
    best_params : list of (name, array)
        The parameters of the lowest validation error.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from symng.legacy.natgrad import mlp
    >>> data = SimpleNamespace(xdim=3, ydim=2)
    >>> model = mlp(dict(seed=203, nhid=4, cbs=10, mbs=10, matrix="KL"), data)
    >>> [p.name for p in model.params]
    ['layer0_W', 'layer0_b', 'tmp_W', 'tmp_b']
    """

    def __init__(self, state: Mapping[str, Any], data: Any) -> None:
        super().__init__(state, data, ("matrix",))
        if state["matrix"] not in ("KL", "cov"):
            raise argument_error("state['matrix']", "'KL' or 'cov'", state["matrix"])
        (hidden,) = _positive_integers("nhid", state["nhid"])
        layer0 = HiddenLayerStandard(self.rng, self.x, self.n_in, hidden, name="layer0")
        self.layers = [
            layer0,
            SoftmaxLayerStandard(self.rng, layer0.output, hidden, self.n_out),
        ]
        self.layer0, self.layer1 = self.layers
        self._finish()


class convMat(Classifier):
    """Two layers of convolution and pooling on images of 28 x 28, a dense one, and the softmax.

    Parameters
    ----------
    state : dict
        Settings: seed, nkerns, nhid, cbs, mbs.
    data : DataMNIST
        As for `mlp`; 784 inputs.

    Notes
    -----
    Attributes are those of `mlp`; the metric is "KL". In the original two layers have the same
    name, so that its files lack one of them; here they are called layer2 and tmp.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from symng.legacy.natgrad import convMat
    >>> data = SimpleNamespace(xdim=784, ydim=10)
    >>> model = convMat(dict(seed=200, nkerns="[2,3]", nhid=5, cbs=10, mbs=10), data)
    >>> model.params_shape[2], model.params_shape[4]
    ((3, 2, 5, 5), (48, 5))
    """

    def __init__(self, state: Mapping[str, Any], data: Any) -> None:
        super().__init__(state, data, ("nkerns",))
        if data.xdim != 28 * 28:
            raise argument_error("data.xdim", "784, for images of 28 x 28", data.xdim)
        first, second = _positive_integers("nkerns", state["nkerns"], 2)
        (hidden,) = _positive_integers("nhid", state["nhid"])
        cbs = int(state["cbs"])
        layer0 = LeNetConvPoolLayerStandard(
            self.rng,
            self.x.reshape((-1, 1, 28, 28)),
            image_shape=(cbs, 1, 28, 28),
            filter_shape=(first, 1, 5, 5),
            name="layer0",
        )
        layer1 = LeNetConvPoolLayerStandard(
            self.rng,
            layer0.output,
            image_shape=(cbs, first, 12, 12),
            filter_shape=(second, first, 5, 5),
            name="layer1",
        )
        features = layer1.output.reshape((-1, second * 4 * 4))
        layer2 = HiddenLayerStandard(self.rng, features, second * 4 * 4, hidden, name="layer2")
        layer3 = SoftmaxLayerStandard(self.rng, layer2.output, hidden, self.n_out)
        self.layers = [layer0, layer1, layer2, layer3]
        self.layer0, self.layer1, self.layer2, self.layer3 = self.layers
        self._finish()


def _positive_integers(key: str, value: Any, count: int | None = None) -> list[int]:
    """Return a positive whole number of the state as a list, or a list of ``count``.

    Either may be given as text.
    """
    try:
        given = ast.literal_eval(str(value)) if isinstance(value, str) else value
        numbers = [given] if count is None else list(given)
        if len(numbers) == (count or 1) and all(n == int(n) and n >= 1 for n in numbers):
            return [int(n) for n in numbers]
    except (TypeError, ValueError, SyntaxError):
        pass
    expected = "a positive whole number, or its text"
    if count is not None:
        expected = f"{count} positive whole numbers, or their text"
    raise argument_error(f"state[{key!r}]", expected, value)


def _mean(x: TensorVariable) -> TensorVariable:
    """Return the mean of a vector in its own dtype."""
    return (x.sum() / x.shape[0].astype(x.dtype)).astype(x.dtype)
