"""Likelihoods: the distribution of the targets given an output, and its metric.

A network's output y is the parameter of p(t | x) (section 2.1 of the paper). Each likelihood gives
the Fisher matrix of one example with respect to the pre-activation r (the natural parameter) and
with respect to y:

============  ==============  ======================  ===================
likelihood    y               metric on r             metric on y
============  ==============  ======================  ===================
Gaussian      r               I / std^2               I / std^2
Bernoulli     sigmoid(r)      diag(y (1 - y))         diag(1 / (y (1-y)))
Categorical   softmax(r)      diag(y) - y y^T         diag(1 / y)
Poisson       exp(r)          diag(y)                 diag(1 / y)
============  ==============  ======================  ===================

The last column is the recipe of the paper (equations 7, 8 and 30); the column before it follows by
the chain rule (equations 11 to 15) and stays finite when an output saturates. Two more have no
targets: `Sign`, for hidden states, and `Boltzmann`, for samples of an energy model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, deprecated, is_symbolic
from symng.graphs.config import Config, config, flag, number
from symng.graphs.rebuild import free_inputs
from symng.graphs.types import Scalar


class Likelihood(Config, ABC):
    """Distribution of a target given an output; the base of all likelihoods."""

    @abstractmethod
    def mean(self, r: TensorVariable) -> TensorVariable:
        """Return the output y that belongs to the pre-activation r."""

    @abstractmethod
    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        """Return the Fisher matrix with respect to r, times v, for each example."""

    @abstractmethod
    def output_metric_product(self, y: TensorVariable, v: TensorVariable) -> TensorVariable:
        """Return the Fisher matrix with respect to y, times v, for each example (eq. 7, 8, 30)."""

    def metric_sqrt(
        self, r: TensorVariable, v: TensorVariable, transposed: bool = False
    ) -> TensorVariable | None:
        """Return B v or B^T v, where B B^T is the Fisher matrix on r; None if B is unknown."""
        if type(self).metric_root is Likelihood.metric_root:
            return None
        deprecated("Likelihood.metric_root", "0.2", "Likelihood.metric_sqrt")
        return self.metric_root(r, v, transposed)

    def metric_root(
        self, r: TensorVariable, v: TensorVariable, transposed: bool = False
    ) -> TensorVariable | None:
        """Return `metric_sqrt`, by its old name."""
        deprecated("Likelihood.metric_root", "0.2", "Likelihood.metric_sqrt")
        return self.metric_sqrt(r, v, transposed)

    @abstractmethod
    def sample(self, y: TensorVariable, rng: Any) -> tuple[Variable, TensorVariable]:
        """Return the next generator and targets drawn from p(t | y), of the shape and dtype of y.

        ``rng`` is a symbolic generator, such as ``pt.random.shared_rng(np.random.default_rng(0))``;
        update it with the next one. The targets of a `Categorical` are one-hot.
        """

    def check_targets(
        self, name: str, targets: np.ndarray, output_ndim: int, classes: int | None = None
    ) -> None:
        """Refuse targets outside the range of this distribution; by default all pass.

        ``output_ndim`` is the number of axes of the output, and ``classes`` the length of the last
        of these, if known.
        """

    @property
    def is_logits(self) -> bool:
        """Whether the output given is the pre-activation r itself."""
        return False


@config
class Gaussian(Likelihood):
    """Read the output as the mean of a normal distribution of fixed standard deviation.

    p(t | x) = prod_i N(t_i | y_i, std^2), with metric I / std^2 on the output.

    Parameters
    ----------
    std : float or symbolic scalar, default 1.0
        Standard deviation in units of the targets, above 0. A symbolic one may depend on shared
        variables only.

    Notes
    -----
    Equation 7 of the paper has the factor std^2; the Fisher matrix of this distribution has
    1 / std^2.

    Examples
    --------
    >>> from symng import Gaussian
    >>> float(Gaussian(std=2.0).metric_product(None, 8.0).eval())
    2.0
    """

    std: Scalar = number(default=1.0, above=0, symbolic=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.std, Variable) and (free := free_inputs([self.std])):
            raise argument_error(
                "std",
                "a number or a scalar made of shared variables",
                self.std,
                f"Make {free[0]} a shared variable: pytensor.shared(value).",
            )

    def mean(self, r: TensorVariable) -> TensorVariable:
        return r

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        if not is_symbolic(self.std) and self.std == 1:
            return v
        v = pt.as_tensor_variable(v)
        # Cast first: a Python number would turn a float32 tensor into float64.
        return v / pt.cast(pt.sqr(pt.as_tensor_variable(self.std, dtype=None)), v.dtype)

    def output_metric_product(self, y: TensorVariable, v: TensorVariable) -> TensorVariable:
        return self.metric_product(y, v)

    def metric_sqrt(
        self, r: TensorVariable, v: TensorVariable, transposed: bool = False
    ) -> TensorVariable:
        return v / pt.cast(pt.as_tensor_variable(self.std, dtype=None), v.dtype)

    def sample(self, y: TensorVariable, rng: Any) -> tuple[Variable, TensorVariable]:
        return rng.normal(y, pt.cast(self.std, y.dtype), dtype=y.dtype)


@config
class Bernoulli(Likelihood):
    """Read each output unit as the probability of a yes, after a sigmoid.

    p(t | x) = prod_i y_i^t_i (1 - y_i)^(1 - t_i) (equation 27), with metric diag(y (1 - y)) on the
    pre-activation.

    Parameters
    ----------
    logits : bool, default False
        True when the output given is the pre-activation r, before the sigmoid.

    Examples
    --------
    >>> import numpy as np
    >>> from symng import Bernoulli
    >>> Bernoulli().metric_product(np.array([0.0, 100.0]), np.array([1.0, 1.0])).eval().round(12)
    array([0.25, 0.  ])
    """

    logits: bool = flag(default=False)

    @property
    def is_logits(self) -> bool:
        return self.logits

    def mean(self, r: TensorVariable) -> TensorVariable:
        return pt.sigmoid(r)

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        # sigmoid(r) sigmoid(-r), not y (1 - y): no cancellation in 1 - y when y is near 1.
        return pt.sigmoid(r) * pt.sigmoid(-r) * v

    def output_metric_product(self, y: TensorVariable, v: TensorVariable) -> TensorVariable:
        return v / (y * (1 - y))

    def metric_sqrt(
        self, r: TensorVariable, v: TensorVariable, transposed: bool = False
    ) -> TensorVariable:
        return pt.sqrt(pt.sigmoid(r) * pt.sigmoid(-r)) * v

    def sample(self, y: TensorVariable, rng: Any) -> tuple[Variable, TensorVariable]:
        next_rng, draw = rng.bernoulli(y)
        return next_rng, draw.astype(y.dtype)

    def check_targets(
        self, name: str, targets: np.ndarray, output_ndim: int, classes: int | None = None
    ) -> None:
        inside = (targets >= 0) & (targets <= 1)
        expected = "values from 0 to 1 (Bernoulli likelihood)"
        hint = "Rescale them, or give another likelihood."
        _refuse_first(name, targets, ~inside, expected, hint)


@config
class Categorical(Likelihood):
    """Read the last axis of the output as the probabilities of classes, after a softmax.

    p(t | x) = prod_i y_i^t_i (equation 29), with metric diag(y) - y y^T on the pre-activation
    (equation 15).

    Parameters
    ----------
    logits : bool, default False
        True when the output given is the pre-activation r, before the softmax.

    Examples
    --------
    >>> import numpy as np
    >>> from symng import Categorical
    >>> Categorical().metric_product(np.zeros((1, 2)), np.array([[1.0, 0.0]])).eval()
    array([[ 0.25, -0.25]])
    """

    logits: bool = flag(default=False)

    @property
    def is_logits(self) -> bool:
        return self.logits

    def mean(self, r: TensorVariable) -> TensorVariable:
        return pt.special.softmax(r, axis=-1)

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        y = self.mean(r)
        return y * (v - (y * v).sum(axis=-1, keepdims=True))

    def output_metric_product(self, y: TensorVariable, v: TensorVariable) -> TensorVariable:
        return v / y

    def metric_sqrt(
        self, r: TensorVariable, v: TensorVariable, transposed: bool = False
    ) -> TensorVariable:
        # B = diag(q) - y q^T, where q holds the square roots of y; B B^T needs that y sums to 1.
        y = self.mean(r)
        q = pt.sqrt(y)
        if transposed:
            return q * (v - (y * v).sum(axis=-1, keepdims=True))
        return q * v - y * (q * v).sum(axis=-1, keepdims=True)

    def sample(self, y: TensorVariable, rng: Any) -> tuple[Variable, TensorVariable]:
        next_rng, classes = rng.categorical(y)
        return next_rng, pt.eq(pt.expand_dims(classes, -1), pt.arange(y.shape[-1])).astype(y.dtype)

    def check_targets(
        self, name: str, targets: np.ndarray, output_ndim: int, classes: int | None = None
    ) -> None:
        suffix = " (Categorical likelihood)"
        column = targets.ndim == output_ndim and targets.shape[-1] == 1 and classes != 1
        if targets.ndim == output_ndim - 1 or column:
            wrong = (targets < 0) | (targets % 1 != 0)
            expected = "class numbers 0, 1, ..."
            if classes is not None:
                wrong |= targets >= classes
                expected = f"class numbers from 0 to {classes - 1}"
            _refuse_first(name, targets, wrong, expected + suffix, "Number the classes from 0.")
        elif targets.ndim == output_ndim:
            if classes not in (None, targets.shape[-1]):
                expected = f"rows of {classes} numbers, one for each class"
                hint = "Make output and targets equally wide."
                raise argument_error(name, expected + suffix, targets, hint)
            expected = "one-hot rows (or probabilities that sum to 1)"
            wrong = (targets < 0).any(axis=-1) | (abs(targets.sum(axis=-1) - 1) > 1e-3)
            _refuse_first(name, targets, wrong, expected + suffix, "One-hot encode the labels.")


@config
class Poisson(Likelihood):
    """Read each output unit as the rate of a count, after an exponential.

    p(t | x) = prod_i y_i^t_i exp(-y_i) / t_i!, with metric diag(y) on the pre-activation.

    Parameters
    ----------
    log_rate : bool, default False
        True when the output given is the pre-activation r, before the exponential.

    Examples
    --------
    >>> import numpy as np
    >>> from symng import Poisson
    >>> Poisson().metric_product(np.zeros(1), np.array([3.0])).eval()
    array([3.])
    """

    log_rate: bool = flag(default=False)

    @property
    def is_logits(self) -> bool:
        return self.log_rate

    def mean(self, r: TensorVariable) -> TensorVariable:
        return pt.exp(r)

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        return pt.exp(r) * v

    def output_metric_product(self, y: TensorVariable, v: TensorVariable) -> TensorVariable:
        return v / y

    def metric_sqrt(
        self, r: TensorVariable, v: TensorVariable, transposed: bool = False
    ) -> TensorVariable:
        return pt.exp(r / 2) * v

    def sample(self, y: TensorVariable, rng: Any) -> tuple[Variable, TensorVariable]:
        next_rng, draw = rng.poisson(y)
        return next_rng, draw.astype(y.dtype)

    def check_targets(
        self, name: str, targets: np.ndarray, output_ndim: int, classes: int | None = None
    ) -> None:
        expected = "counts of at least 0 (Poisson likelihood)"
        hint = "Clean the data, or give another likelihood."
        _refuse_first(name, targets, targets < 0, expected, hint)


@config
class Sign(Likelihood):
    """Read each unit as the mean of a sign, -1 or 1, after a tanh.

    (1 + h) / 2 = sigmoid(2 e) is the probability of a 1: the pair of tanh and cross-entropy of
    Martens and Sutskever. The metric is diag(1 - h^2) on the pre-activation e and
    diag(1 / (1 - h^2)) on h.
    """

    def mean(self, r: TensorVariable) -> TensorVariable:
        return pt.tanh(r)

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        # No cancellation in 1 - h^2 when h is near 1 or -1.
        return 4 * pt.sigmoid(2 * r) * pt.sigmoid(-2 * r) * v

    def output_metric_product(self, y: TensorVariable, v: TensorVariable) -> TensorVariable:
        return v / (1 - pt.sqr(y))

    def sample(self, y: TensorVariable, rng: Any) -> tuple[Variable, TensorVariable]:
        next_rng, draw = rng.bernoulli((1 + y) / 2)
        return next_rng, 2 * draw.astype(y.dtype) - 1


@config
class Boltzmann(Likelihood):
    """Read the output as the energies E of samples of p = exp(-E) / Z.

    With respect to the energies of the N samples, N times the Fisher matrix subtracts the mean:
    I - 1 1^T / N.
    """

    @property
    def is_logits(self) -> bool:
        return True

    def mean(self, r: TensorVariable) -> TensorVariable:
        return r

    def metric_product(self, r: TensorVariable, v: TensorVariable) -> TensorVariable:
        return v - v.mean()

    def output_metric_product(self, y: TensorVariable, v: TensorVariable) -> TensorVariable:
        return self.metric_product(y, v)

    def sample(self, y: TensorVariable, rng: Any) -> tuple[Variable, TensorVariable]:
        raise NotImplementedError("Boltzmann: the user draws the samples of an energy model.")


def _refuse_first(
    name: str, targets: np.ndarray, wrong: np.ndarray, expected: str, hint: str
) -> None:
    """Refuse ``targets`` if any entry (or row) is wrong, and show the first one that is."""
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise argument_error(name, expected, Verbatim(f"{targets[where]} at {where}"), hint)


def describe_likelihood(likelihood: Likelihood) -> str:
    """Return the name of a likelihood and those of its settings that are not the defaults."""
    settings = []
    for f in fields(likelihood):  # type: ignore[arg-type]
        value = getattr(likelihood, f.name)
        if is_symbolic(value) or value != f.default:
            settings.append(f"{f.name}={value}")
    return type(likelihood).__name__ + (f"({', '.join(settings)})" if settings else "")


def likelihood_code(likelihood: Likelihood) -> str:
    """Return the Python code that makes a likelihood."""
    name = describe_likelihood(likelihood)
    return f"symng.{name}" if "(" in name else f"symng.{name}()"
