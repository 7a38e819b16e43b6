"""The Fisher information matrix of the model's own predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import pytensor.tensor as pt
from pytensor.graph.traversal import ancestors
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.graphs import vectors
from symng.graphs.config import choice, config
from symng.graphs.types import Integer
from symng.likelihoods import Likelihood
from symng.metrics._rows import RowBlock, entries_first, from_entries_first, rows_by_example
from symng.metrics.base import OutputMetric
from symng.metrics.jacobian import pullback, pushforward
from symng.objective import Objective
from symng.objective.batches import TermBatch
from symng.objective.heads import Head
from symng.operators import Factor

Form = Literal["natural", "output"]


@config
class Fisher(OutputMetric):
    """Fisher information matrix, the metric of natural gradient.

    F = 1/N sum_n J_r(n)^T M(r_n) J_r(n), a mean over the N examples of a batch, summed over the
    outputs (and time steps) of one: r is the pre-activation of the output, J_r(n) its Jacobian with
    respect to the parameters and M the metric of the likelihood (``symng.likelihoods``). It is
    positive semi-definite, and it does not change when the loss is scaled.

    Parameters
    ----------
    form : {"natural", "output"}, default "natural"
        "natural" is the product through r, equal to "output" in exact arithmetic (equations 11 to
        15) and finite for saturated outputs. "output" is the recipe of the paper on y (equations 7,
        8 and 30, Lop of a weighted Rop), 0 / 0 where a unit saturates.

    Raises
    ------
    ValueError
        When called on an objective whose output depends on targets.

    Notes
    -----
    One product costs a pushforward and a pullback through the model: 4 matrix products per dense
    layer (2 for the first), besides the forward pass, which a solver's loop does once. It does not
    depend on the targets. With a loss that is c times the mean negative log-likelihood, the
    Gauss-Newton matrix is c F: a damping tuned for one suits the other when scaled by c.

    Parameters phi that the loss depends on and the output does not have a block of their own next
    to F: the positive part of the Hessian of the loss with respect to phi, at the scale of the
    loss, which may need the targets. For up to 256 numbers it is formed, by a pass for each row.
    For more, the diagonal stands in for it, from one pass, exact if the Hessian is diagonal. If the
    scale of the noise is such a parameter, `GaussNewton` follows it, and F does not.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, "Revisiting Natural Gradient for Deep Networks",
       arXiv:1301.3584, section 2.1, equations 7, 8, 26, 28, 30, and the pseudo-code of the
       appendix.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.matrix("t")
    >>> w = pytensor.shared(np.zeros((2, 1)), name="w")
    >>> y = pt.sigmoid(x @ w)
    >>> loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1).mean()
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> F = symng.Fisher()(objective)
    >>> F.materialise().eval({x: np.array([[2.0, 0.0], [0.0, 4.0]])})  # mean of x x^T / 4
    array([[0.5, 0. ],
           [0. , 2. ]])
    """

    form: Form = choice(Form, default="natural")

    def check(self, objective: Objective) -> None:
        reached = set(ancestors([head.y for head in objective.heads]))
        for target in objective.targets:
            if target in reached:
                raise argument_error(
                    "targets",
                    "variables that the output does not depend on (Fisher never needs targets)",
                    Verbatim(f"{target}, which the output depends on"),
                    f"List {target} among the inputs.",
                )

    def outputs(self, objective: Objective) -> list[TensorVariable]:
        return [self._end(head) for head in objective.heads]

    def output_curvature_product(
        self, objective: Objective, tangents: Sequence[TensorVariable]
    ) -> list[TensorVariable]:
        cotangents = []
        for head, tangent in zip(objective.heads, tangents, strict=True):
            end, likelihood = self._end(head), head.likelihood
            on_y = self._is_on_output(head)
            product = likelihood.output_metric_product if on_y else likelihood.metric_product
            count = end.shape[head.example_axis].astype(end.dtype)
            # A factor, not a divisor: a solver's loop multiplies it with other constants first.
            cotangents.append(product(end, tangent) * (1 / count))
        return cotangents

    def _has_factor(self, objective: Objective) -> bool:
        """Return whether B with B B^T = M is known for each output."""
        ends = [(head.likelihood, head.r) for head in objective.heads]
        return self.form == "natural" and all(
            r is not None and likelihood.metric_sqrt(r, r) is not None for likelihood, r in ends
        )

    def factor(self, objective: Objective) -> Factor | None:
        """Return B^T J_r / sqrt(N), with B B^T = M, for likelihoods whose B is known."""
        if not self._has_factor(objective):
            return None
        heads = objective.heads
        ends = _preactivations(heads)
        pairs = list(zip(heads, ends, strict=True))
        axes = [head.example_axis for head in heads]

        def scaled(tangents: Sequence[TensorVariable], transposed: bool) -> list[TensorVariable]:
            return [
                _scaled_sqrt_product(head, r, r, v, transposed)
                for (head, r), v in zip(pairs, tangents, strict=True)
            ]

        def matvec(v: TensorVariable) -> TensorVariable:
            tangents = scaled(pushforward(ends, objective, v), transposed=True)
            return pt.concatenate(
                [entries_first(u, a) for u, a in zip(tangents, axes, strict=True)]
            )

        def rmatvec(u: TensorVariable) -> TensorVariable:
            parts, start = [], 0
            for r, axis in zip(ends, axes, strict=True):
                stop = start + r.size
                parts.append(from_entries_first(u[start:stop], r, axis))
                start = stop
            return pullback(ends, objective, scaled(parts, transposed=False)).astype(
                objective.dtype
            )

        blocks = [
            RowBlock(r, head.example_axis, partial(_scaled_sqrt_product, head, r))
            for head, r in pairs
        ]
        return Factor(matvec, rmatvec, partial(rows_by_example, objective, blocks))

    def draw(self, batch: TermBatch) -> Callable[[TensorVariable], TensorVariable] | None:
        if not self._has_factor(batch.objective):
            return None

        def drawn(seed: TensorVariable) -> TensorVariable:
            def mean(o: Objective, offset: Integer) -> list[TensorVariable]:
                ends = _preactivations(o.heads)
                parts = []
                for number, (head, r) in enumerate(zip(o.heads, ends, strict=True)):
                    own = seed * len(ends) + number
                    signs = vectors.random_signs(r, own, axis=head.example_axis, offset=offset)
                    count = r.shape[head.example_axis].astype(r.dtype)
                    parts.append(_sqrt_product(head.likelihood, r, signs, False) / count)
                return [pullback(ends, o, parts).astype(o.dtype)]

            return pt.sqrt(batch.count.astype(batch.objective.dtype)) * batch.mean(mean)[0]

        return drawn

    def _is_on_output(self, head: Head) -> bool:
        """Return whether the product is formed on the output itself, not on its pre-activation."""
        return self.form == "output" or head.r is None

    def _end(self, head: Head) -> TensorVariable:
        """Return the variable on which the product is formed."""
        return head.y if self.form == "output" or head.r is None else head.r


def _preactivations(heads: Sequence[Head]) -> list[TensorVariable]:
    """Return the pre-activations of heads that all have one."""
    return [head.r for head in heads if head.r is not None]


def _sqrt_product(
    likelihood: Likelihood, r: TensorVariable, v: TensorVariable, transposed: bool
) -> TensorVariable:
    """Return B v or B^T v, of a likelihood whose B is known."""
    product = likelihood.metric_sqrt(r, v, transposed)
    assert product is not None  # by `Fisher._has_factor`
    return product


def _scaled_sqrt_product(
    head: Head,
    batch: TensorVariable,
    r: TensorVariable,
    v: TensorVariable,
    transposed: bool = False,
) -> TensorVariable:
    """Return B v / sqrt(N) or B^T v / sqrt(N) at r, for N examples in the ``batch`` of r."""
    count = pt.sqrt(batch.shape[head.example_axis].astype(r.dtype))
    return _sqrt_product(head.likelihood, r, v, transposed) / count
