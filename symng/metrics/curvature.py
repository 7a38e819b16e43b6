"""Second derivatives of the loss itself: Gauss-Newton and Hessian."""

from __future__ import annotations

from collections.abc import Sequence

from pytensor.tensor.variable import TensorVariable

from symng.graphs import vectors
from symng.graphs.building import building
from symng.graphs.config import config
from symng.graphs.derivatives import grad, hessian_product
from symng.graphs.rebuild import rebuild
from symng.metrics.base import Metric, OutputMetric
from symng.objective import Objective
from symng.objective.output_products import check_passage


@config
class GaussNewton(OutputMetric):
    """Extended Gauss-Newton matrix of the loss, the metric of Hessian-free.

    G = J_r^T H J_r (equation 10), with r the pre-activation of the output, J_r its Jacobian with
    respect to the parameters over the batch, and H the Hessian of the loss with respect to r,
    by automatic differentiation. It has the scale of the loss: with a mean over examples it is a
    mean, with a sum a sum, and a loss scaled by c gives c G, so that a damping tuned for it scales
    with c. It is positive semi-definite if the loss is convex in r.

    Raises
    ------
    ValueError
        When called on an objective whose loss does not pass through the pre-activation.

    Notes
    -----
    One product costs a pushforward and a pullback through the model and one reverse pass through
    the loss's end. Terms of the loss that do not pass through r, such as weight decay, are left
    out, except for parameters that only the loss depends on: they have a block as with `Fisher`.
    For matching pairs of output and loss it equals the Fisher matrix (equations 11 to 15). It may
    depend on the targets (see the operator's ``required_inputs``); a metric batch then holds inputs
    and targets.

    References
    ----------
    .. [1] N. Schraudolph, "Fast curvature matrix-vector products for second-order gradient
       descent", Neural Computation 14(7), 2002.
    .. [2] R. Pascanu and Y. Bengio, arXiv:1301.3584, section 5.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> loss = pt.sqr(y - t).mean()
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> G = symng.GaussNewton()(objective)
    >>> batch = {x: np.array([[1.0, 1.0], [3.0, 1.0]]), t: np.zeros(2)}
    >>> G.materialise().eval(batch)  # 2/N sum of x x^T
    array([[10.,  4.],
           [ 4.,  2.]])
    """

    def check(self, objective: Objective) -> None:
        check_passage(objective.model)

    def outputs(self, objective: Objective) -> list[TensorVariable]:
        # Slices of one r share it.
        return list(dict.fromkeys(head.curvature_at for head in objective.heads))

    def output_curvature_product(
        self, objective: Objective, tangents: Sequence[TensorVariable]
    ) -> list[TensorVariable]:
        preactivations = self.outputs(objective)
        # The loss as a function of only the pre-activations, even if one is computed from another.
        placeholders: list[TensorVariable] = [r.type() for r in preactivations]
        loss = rebuild([objective.loss], dict(zip(preactivations, placeholders, strict=True)))[0]
        product = hessian_product(loss, placeholders, tangents)
        return rebuild(product, dict(zip(placeholders, preactivations, strict=True)))


@config
class Hessian(Metric):
    """Hessian of the loss with respect to the parameters.

    H = d^2 L / d theta^2, with the scale of the loss: a loss scaled by c gives c H, and a damping
    tuned for it scales with c. Symmetric, in general indefinite: solve with `MinresQLP`, or damp it
    enough.

    Notes
    -----
    One product costs a forward-over-reverse pass, about the work of two gradients. It may depend on
    the targets: a metric batch for it holds inputs and targets.

    References
    ----------
    .. [1] B. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6(1),
       1994.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x = pt.matrix("x")
    >>> w = pytensor.shared(np.array([1.0, 2.0]), name="w")
    >>> y = w[0] * w[1] * x
    >>> objective = symng.Objective(y.mean(), output=y, params=[w], inputs=[x])
    >>> symng.Hessian()(objective).materialise().eval({x: np.ones((3, 1))})
    array([[0., 1.],
           [1., 0.]])
    """

    def product(self, objective: Objective, v: TensorVariable) -> TensorVariable:
        params = objective.params
        with building(floatx=objective.dtype):
            gradients = grad(objective.loss, params, disconnected_inputs="ignore")
            along = (vectors.ravel(gradients, params) * v).sum()
            product = grad(
                along,
                params,
                of=objective.loss,
                consider_constant=[v],
                disconnected_inputs="ignore",
            )
        return vectors.ravel(product, params)
