"""Structural damping: a metric plus the Fisher matrix of hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_instance, check_tensors
from symng.graphs.config import config, flag, number, setting
from symng.graphs.rebuild import free_inputs
from symng.graphs.types import Scalar
from symng.likelihoods import Likelihood, describe_likelihood
from symng.metrics._hidden_states import Hidden, read_hidden, recurrent_states
from symng.metrics._loss_block import LossBlock
from symng.metrics.base import Metric, OutputMetric, as_metric
from symng.metrics.fisher import Fisher
from symng.metrics.jacobian import pullback, pushforward
from symng.objective import Objective
from symng.objective.batches import TermBatch


def _as_states(name: str, value: object) -> tuple[TensorVariable, ...] | None:
    """Return hidden states, one or several of them, as a tuple."""
    return None if value is None else check_tensors(name, value)


def _as_likelihoods(name: str, value: object) -> object:
    """Return one likelihood, for all hidden states, as it is, and several as a tuple."""
    likelihoods = tuple(value) if isinstance(value, list | tuple) else (value,)
    for likelihood in likelihoods:
        if likelihood is not None:
            expected = "an instance such as symng.Bernoulli()"
            check_instance(
                name, likelihood, Likelihood, expected, "Did you forget the parentheses?"
            )
    return likelihoods if isinstance(value, list | tuple) else value


@config
class StructuralDamping(Metric):
    """Add the Fisher matrix of the hidden states to a metric, so that a step changes them little.

    S = A + mu F_h with F_h = 1/N sum_n J_e(n)^T M(e_n) J_e(n), a mean over the N examples of a
    batch, summed over the units and time steps of one (equation 18): A is ``metric``, e the
    pre-activation of the hidden states, J_e(n) its Jacobian with respect to the parameters and M
    the metric of what the activation stands for: `Bernoulli` for a sigmoid, signs of mean h for a
    tanh (M = 1 - h^2), `Gaussian` with std 1 on h itself where no activation is known. With
    `Fisher` and mu = 1, S is the Fisher matrix of p(t, h | x), with t and h independent given x.

    Parameters
    ----------
    metric : Metric, default Fisher()
        A. With `GaussNewton` this is the matrix of Martens and Sutskever.
    coefficient : float or symbolic scalar, default 1.0
        mu, at least 0. If the loss is scaled, `GaussNewton` scales with it: scale mu likewise. In
        an optimizer a sum over examples counts as their mean.
    relative : bool, default False
        Whether mu is ``coefficient`` times the damping lambda of the optimizer, which it then
        follows from step to step, as in [1]_. Outside of an optimizer lambda counts as 1.
    hidden : TensorVariable or sequence of them, optional
        The hidden states h, computed from the inputs of the objective. Default: the traces of all
        recurrent states of scans that the outputs depend on, initial values left out.
    likelihood : Likelihood or list of them, optional
        Overrides what is read off the activations; ``Bernoulli(logits=True)`` means that h is a
        pre-activation.

    Raises
    ------
    TypeError, ValueError
        On bad arguments; when called, if no hidden state is found or one depends on variables other
        than inputs.

    Notes
    -----
    One product costs a pushforward and a pullback through the model, shared with those of `Fisher`
    and `GaussNewton`. It needs no targets beyond those that ``metric`` needs. The product on the
    states of a scan is formed on h, with M / h'^2 for M, and units that are saturated to rounding
    are left out: their contribution is of the size of rounding errors.

    References
    ----------
    .. [1] J. Martens and I. Sutskever, "Learning recurrent neural networks with Hessian-free
       optimization", ICML 2011, section 3.2.
    .. [2] R. Pascanu and Y. Bengio, arXiv:1301.3584, section 5, equation 18.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x = pt.matrix("x")
    >>> w = pytensor.shared(np.array([[0.0]]), name="w")
    >>> u = pytensor.shared(np.array([[1.0]]), name="u")
    >>> h = pt.tanh(x @ w)
    >>> objective = symng.Objective(pt.sqr(h @ u).sum(), output=h @ u, params=[w, u], inputs=[x])
    >>> metric = symng.StructuralDamping(hidden=h, coefficient=3.0)
    >>> print(metric.describe(objective))
    Tanh.0: Sign, read off tanh
    >>> S = metric(objective)  # for w: 1 from the Fisher matrix, and 3 from h
    >>> S.materialise().eval({x: np.ones((4, 1))})
    array([[4., 0.],
           [0., 0.]])
    """

    metric: Metric = setting(convert=as_metric, default_factory=Fisher)
    coefficient: Scalar = number(default=1.0, minimum=0, symbolic=True)
    relative: bool = flag(default=False)
    hidden: Sequence[TensorVariable] | None = setting(convert=_as_states, default=None)
    likelihood: Likelihood | Sequence[Likelihood | None] | None = setting(
        convert=_as_likelihoods, default=None
    )

    def describe(self, objective: Objective) -> str:
        """Return the hidden states and what their activations stand for, one line per state."""
        return "\n".join(
            f"{s.h}: {describe_likelihood(s.likelihood)}, {s.source}"
            for s in self._states(objective)
        )

    def check(self, objective: Objective) -> None:
        self.metric.check(objective)
        self._states(objective)

    def with_damping(self, damping: TensorVariable) -> Metric:
        metric = self.metric.with_damping(damping)
        if not self.relative:
            return replace(self, metric=metric)
        return replace(self, metric=metric, coefficient=self.coefficient * damping, relative=False)

    def loss_block(self, batch: TermBatch) -> LossBlock | None:
        return self.metric.loss_block(batch)

    def product(self, objective: Objective, v: TensorVariable) -> TensorVariable:
        states = self._states(objective)
        head = objective.heads[0]
        scale = pt.cast(self.coefficient, objective.dtype) / head.y.shape[head.example_axis].astype(
            objective.dtype
        )
        # A metric of the same form shares the passes through the model.
        shared = self.metric if isinstance(self.metric, OutputMetric) else None
        outputs = [] if shared is None else shared.outputs(objective)
        ends = [*outputs, *(state.end for state in states)]
        tangents = pushforward(ends, objective, v)
        of_outputs, of_states = tangents[: len(outputs)], tangents[len(outputs) :]
        cotangents = (
            [] if shared is None else shared.output_curvature_product(objective, of_outputs)
        )
        cotangents += [
            scale * state.metric_product(tangent)
            for state, tangent in zip(states, of_states, strict=True)
        ]
        product = pullback(ends, objective, cotangents)
        return product if shared is not None else self.metric.product(objective, v) + product

    def _states(self, objective: Objective) -> list[Hidden]:
        """Return the hidden states on the inputs of ``objective``."""
        if self.hidden is None:
            found: Sequence[TensorVariable] = recurrent_states(objective)
            if not found:
                raise argument_error(
                    "hidden",
                    "the hidden states, or a scan with a recurrent state that the output uses",
                    Verbatim("neither"),
                    "Give them: StructuralDamping(hidden=[h]).",
                )
        else:
            found = _on_inputs(self.hidden, objective)
        given = self.likelihood
        likelihoods = given if isinstance(given, Sequence) else (given,) * len(found)
        if len(likelihoods) != len(found):
            raise argument_error(
                "likelihood",
                f"one for each of {len(found)} hidden states",
                Verbatim(str(len(likelihoods))),
            )
        return [
            read_hidden(h, likelihood) for h, likelihood in zip(found, likelihoods, strict=True)
        ]


def _on_inputs(hidden: Sequence[TensorVariable], objective: Objective) -> list[TensorVariable]:
    """Return the given hidden states on the inputs of ``objective``, or refuse them."""
    states = objective.rebind(hidden)
    foreign = [v for v in free_inputs(states) if v not in objective.inputs]
    if foreign:
        raise argument_error(
            "hidden",
            "states that are computed only from the objective's inputs",
            Verbatim(f"one that needs {foreign[0]}"),
            "A hidden state cannot depend on targets.",
        )
    return states
