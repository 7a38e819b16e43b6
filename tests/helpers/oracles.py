"""Slow, dense references for the metrics, and the models that they are compared on.

Nothing here uses a metric of the package, nor a second derivative by autodiff: Jacobians are
differences of fourth order (good to about 1e-12 in float64), the matrices on the pre-activation are
written out in NumPy, and gradients of single examples come from batches of one example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from scipy import special

import symng

KINDS = ("gaussian", "bernoulli", "categorical", "poisson")
STD = 1.5
LIKELIHOODS = {
    "gaussian": symng.Gaussian(std=STD),
    "bernoulli": symng.Bernoulli(),
    "categorical": symng.Categorical(),
    "poisson": symng.Poisson(),
}


def jacobian(v, params, givens, width: float = 1e-3) -> np.ndarray:
    """Return the Jacobian of ``v`` by differences, of shape ``v`` + (parameters,)."""
    f = pytensor.function(list(givens), v, mode="FAST_COMPILE", on_unused_input="ignore")
    columns = []
    for p in params:
        start = p.get_value()
        for i in np.ndindex(start.shape):
            unit = np.zeros_like(start)
            unit[i] = width
            at = {}
            for k in (-2, -1, 1, 2):
                p.set_value(start + k * unit)
                at[k] = f(*givens.values())
            columns.append((8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * width))
        p.set_value(start)
    return np.stack(columns, axis=-1)


def value(v, givens) -> np.ndarray:
    """Return the value of ``v``."""
    return pytensor.function(list(givens), v, mode="FAST_COMPILE", on_unused_input="ignore")(
        *givens.values()
    )


def metric_on_r(kind: str, r: np.ndarray) -> np.ndarray:
    """Return the Fisher matrix of one row of pre-activations."""
    if kind == "gaussian":
        return np.eye(r.size) / STD**2
    if kind == "bernoulli":
        y = special.expit(r)
        return np.diag(y * (1 - y))
    if kind == "poisson":
        return np.diag(np.exp(r))
    y = special.softmax(r)
    return np.diag(y) - np.outer(y, y)


def fisher(case: Case) -> np.ndarray:
    """Return 1/N sum_n J_n^T M_n J_n, summed over outputs and time steps."""
    total = np.zeros((case.size, case.size))
    for kind, r in zip(case.kinds, case.rs, strict=True):
        j, values = jacobian(r, case.params, case.givens), value(r, case.givens)
        j, values = j.reshape(-1, values.shape[-1], case.size), values.reshape(-1, values.shape[-1])
        total += (
            sum(j_n.T @ metric_on_r(kind, r_n) @ j_n for j_n, r_n in zip(j, values, strict=True))
            / case.examples
        )
    return total


def example_gradients(case: Case) -> np.ndarray:
    """Return the gradient of the loss on each batch of one example.

    The losses of examples, if the loss is a mean.
    """
    slopes = pytensor.grad(case.loss, list(case.params), disconnected_inputs="ignore")
    f = pytensor.function(list(case.givens), slopes, mode="FAST_COMPILE", on_unused_input="ignore")
    rows = []
    for n in range(case.examples):
        one = [
            np.take(a, [n], axis=axis)
            for a, axis in zip(case.givens.values(), case.data_axes, strict=True)
        ]
        rows.append(np.concatenate([g.ravel() for g in f(*one)]))
    return np.array(rows)


def empirical_fisher(case: Case, centered: bool) -> np.ndarray:
    """Return the (centered) covariance of the gradients of single examples."""
    g = example_gradients(case)
    return (g - g.mean(axis=0) * centered).T @ (g - g.mean(axis=0) * centered) / len(g)


def hessian(case: Case) -> np.ndarray:
    """Return the Jacobian of the gradient of the loss."""
    slopes = pytensor.grad(case.loss, list(case.params), disconnected_inputs="ignore")
    return jacobian(pt.concatenate([g.flatten() for g in slopes]), case.params, case.givens)


def relative_error(got: Any, wanted: np.ndarray) -> float:
    """Return the distance in units of the norm of what is wanted."""
    return float(np.linalg.norm(np.asarray(got) - wanted) / np.linalg.norm(wanted))


# The models


def shared(
    rng: np.random.Generator,
    *shape: int,
    dtype: str = "float64",
    name: str = "w",
    scale: float = 0.7,
) -> Any:
    """Return a parameter with random values."""
    return pytensor.shared((scale * rng.standard_normal(shape)).astype(dtype), name=name)


def output_of(kind: str, r):
    """Return the output that belongs to a pre-activation."""
    return {
        "gaussian": lambda r: r,
        "bernoulli": pt.sigmoid,
        "poisson": pt.exp,
        "categorical": lambda r: pt.special.softmax(r, axis=-1),
    }[kind](r)


def nll_terms(kind: str, r, t, through: str = "y"):
    """Return the elementwise negative log-likelihood through output or pre-activation.

    Constants are left out.
    """
    if kind == "gaussian":
        return pt.sqr(r - t) / (2 * STD**2)
    y = output_of(kind, r)
    if kind == "bernoulli":
        if through == "y":
            return -(t * pt.log(y) + (1 - t) * pt.log(1 - y))
        return pt.softplus(r) - t * r
    if kind == "poisson":
        return y - t * (pt.log(y) if through == "y" else r)
    return -t * (pt.log(y) if through == "y" else pt.special.log_softmax(r, axis=-1))


def draw_targets(
    kind: str, rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float64"
) -> np.ndarray:
    """Return targets that the likelihood could have produced."""
    if kind == "categorical":
        return np.eye(shape[-1], dtype=dtype)[rng.integers(shape[-1], size=shape[:-1])]
    if kind == "gaussian":
        return rng.standard_normal(shape).astype(dtype)
    return (rng.random(shape) < 0.5 if kind == "bernoulli" else rng.poisson(2.0, shape)).astype(
        dtype
    )


@dataclass(frozen=True, eq=False)
class Case:
    """A model with its values, and what the references need to know of it."""

    objective: symng.Objective
    loss: Any
    params: Sequence[Any]
    kinds: Sequence[str]  # of each output
    rs: Sequence[Any]  # the pre-activation of each output, its last axis one of units
    givens: dict[Any, np.ndarray]  # inputs and targets with their values
    axes: Sequence[int]
    data_axes: Sequence[int]

    @property
    def size(self) -> int:
        return self.objective.size

    @property
    def examples(self) -> int:
        return next(iter(self.givens.values())).shape[self.data_axes[0]]


def make_case(
    loss, outputs, params, kinds, rs, inputs, targets, axes=(0,), data_axes=None, **options: Any
) -> Case:
    """Return a case; ``inputs`` and ``targets`` are dictionaries from variable to value."""
    single = len(outputs) == 1
    objective = symng.Objective(
        loss,
        outputs[0] if single else outputs,
        params,
        list(inputs),
        list(targets),
        example_axis=axes[0] if single else list(axes),
        data_axes=data_axes,
        **options,
    )
    return Case(
        objective, loss, params, kinds, rs, {**inputs, **targets}, axes, objective.data_axes
    )


def mlp_case(
    kind: str,
    through: str = "y",
    *,
    logits: bool = False,
    tied: bool = False,
    units: int = 3,
    dtype: str = "float64",
    scale: float = 1.0,
    reduce: str = "mean",
) -> Case:
    """Return a network of one hidden layer with biases."""
    rng = np.random.default_rng(KINDS.index(kind))
    x, t = pt.matrix("x", dtype=dtype), pt.matrix("t", dtype=dtype)
    w1, b1, b2 = (shared(rng, *s, dtype=dtype) for s in ((3, 4), (4,), (units,)))
    w2 = None if tied else shared(rng, 4, units, dtype=dtype)
    r = pt.tanh(x @ w1 + b1) @ (w1.T if tied else w2) + b2
    terms = nll_terms(kind, r, t, through).sum(axis=1)
    loss = (terms.mean() if reduce == "mean" else terms.sum()) * np.asarray(scale, dtype=dtype)
    if logits:
        option = {"log_rate": True} if kind == "poisson" else {"logits": True}
        outputs, likelihood = [r], type(LIKELIHOODS[kind])(**option)
    else:
        outputs, likelihood = (
            [output_of(kind, r)],
            LIKELIHOODS[kind] if kind == "gaussian" else None,
        )
    params = [p for p in (w1, b1, w2, b2) if p is not None]
    inputs = {x: rng.standard_normal((5, 3)).astype(dtype)}
    return make_case(
        loss,
        outputs,
        params,
        [kind],
        [r],
        inputs,
        {t: draw_targets(kind, rng, (5, units), dtype)},
        likelihood=likelihood,
    )


def vector_case(kind: str) -> Case:
    """Return a model with a one-dimensional output, one number an example."""
    rng = np.random.default_rng(7)
    x, t = pt.matrix("x"), pt.vector("t")
    w, b = shared(rng, 3), pytensor.shared(np.array(0.3), name="b")  # a parameter may be a scalar
    r = pt.tanh(x) @ w + b
    return make_case(
        nll_terms(kind, r, t).mean(),
        [output_of(kind, r)],
        [w, b],
        [kind],
        [r[:, None]],
        {x: rng.standard_normal((5, 3))},
        {t: draw_targets(kind, rng, (5,))},
        likelihood=LIKELIHOODS[kind],
    )


def several_case() -> Case:
    """Return a model with three outputs, with a likelihood each, that share a layer."""
    rng = np.random.default_rng(8)
    kinds = ("gaussian", "categorical", "bernoulli")
    x, ts = pt.matrix("x"), [pt.matrix(f"t{i}") for i in range(3)]
    w = shared(rng, 3, 4)
    heads = [shared(rng, 4, units, name=f"w{units}") for units in (2, 3, 1)]
    h = pt.tanh(x @ w)
    rs = [h @ head for head in heads]
    loss = sum(nll_terms(k, r, t).sum(axis=1).mean() for k, r, t in zip(kinds, rs, ts, strict=True))
    targets = {
        t: draw_targets(k, rng, (5, n)) for k, t, n in zip(kinds, ts, (2, 3, 1), strict=True)
    }
    return make_case(
        loss,
        [output_of(k, r) for k, r in zip(kinds, rs, strict=True)],
        [w, *heads],
        kinds,
        rs,
        {x: rng.standard_normal((5, 3))},
        targets,
        axes=(0, 0, 0),
        likelihood=[symng.Gaussian(std=STD), None, None],
    )


def recurrent_case(kind: str = "bernoulli") -> Case:
    """Return a recurrent net by scan, its parameters inside, with time-major input and output."""
    rng = np.random.default_rng(9)
    x, t = pt.tensor3("x"), pt.tensor3("t")
    w_in, w, w_out, start = (shared(rng, *s, scale=0.5) for s in ((2, 3), (3, 3), (3, 2), (3,)))
    h = pytensor.scan(
        lambda x_t, h: pt.tanh(x_t @ w_in + h @ w),
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], 3)) + start],
        return_updates=False,
    )
    r = h @ w_out
    loss = nll_terms(kind, r, t, "r").sum(axis=(0, 2)).mean()
    return make_case(
        loss,
        [output_of(kind, r)],
        [w_in, w, w_out, start],
        [kind],
        [r],
        {x: rng.standard_normal((3, 4, 2))},
        {t: draw_targets(kind, rng, (3, 4, 2))},
        axes=(1,),
    )


def view_case(view: Callable[[Any], Any], data_axes: Sequence[int], axis: int = 0) -> Case:
    """Return a model whose output is a view of its activation, such as a slice."""
    rng = np.random.default_rng(10)
    x, w = pt.matrix("x"), shared(rng, 3, 2)
    r = x @ w
    y = view(pt.sigmoid(r))
    values = rng.standard_normal((5, 3))
    t = pt.tensor("t", dtype="float64", shape=(None,) * y.ndim)
    loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum() / x.shape[0]
    shape = y.eval({x: values}).shape
    r_rows = view(r)[:, None] if y.ndim == 1 else view(r) if axis == 0 else view(r).T
    return make_case(
        loss,
        [y],
        [w],
        ["bernoulli"],
        [r_rows],
        {x: values},
        {t: draw_targets("bernoulli", rng, shape)},
        axes=(axis,),
        data_axes=data_axes,
    )
