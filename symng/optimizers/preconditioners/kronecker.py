"""Preconditioning with Kronecker products, one for each layer."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import warn
from symng.graphs.config import choice, config, number
from symng.graphs.loops import while_loop
from symng.graphs.types import Integer
from symng.metrics import Metric
from symng.objective import Objective, ObjectiveLike
from symng.objective.batches import Batch, TermBatch
from symng.operators import Product
from symng.optimizers.base import State, Updates
from symng.optimizers.preconditioners._blocks import Layer
from symng.optimizers.preconditioners._factors import Kronecker, combine_factors, kroneckers_of
from symng.optimizers.preconditioners._layers import Sharing
from symng.optimizers.preconditioners.base import Preconditioner, running_mean


@config
class KroneckerPreconditioner(Preconditioner):
    """Precondition with a Kronecker product for each layer, inverted by factors (K-FAC).

    M is block diagonal. The block of a layer h W + b is (A + pi sqrt(lambda) I) (x) (G +
    sqrt(lambda) / pi I), with A the mean of h h^T over the examples, h with a 1 at its end for the
    bias, and G the mean of g g^T, g being the derivative of the log-likelihood by h W + b; pi^2 is
    the ratio of the mean eigenvalues of A and G. Layers are found on the graph (see Notes). Of
    other parameters M has only the diagonal, estimated by random signs; of those that only the loss
    uses, their own damped block.

    The solution of the system does not change, only the number of iterations until it is reached:
    with this M a few are enough for a good direction.

    Parameters
    ----------
    decay : float, default 0.95
        Weight of the factors of earlier steps in the running means of A and G, from 0 to below 1.
    refresh : int, default 5
        Steps from one inversion to the next, at least 1; the first ``refresh`` steps all invert.
    sharing : {"expand", "reduce"}, default "expand"
        What several rows of an example, such as words or time steps, are in the factors: rows of
        their own, or one row, the mean of h and the sum of g. The latter is cheaper, and meant for
        models that take the mean over positions. Where the axis of examples is not known, as in
        convolutions, and for lookups the rows are expanded all the same.

    Raises
    ------
    TypeError, ValueError
        On bad arguments; when an optimizer is built, for a likelihood without a ``metric_sqrt``.

    Warns
    -----
    UserWarning
        When an optimizer is built for a model in which no layer is found.

    Notes
    -----
    `describe` and the ``repr`` of a compiled step list what was found in an objective, by kind, and
    the parameters with a diagonal:

    - *Dense layers*, h @ W or W.T @ h.T, and *convolutions*, whose rows h are the patches of an
      image. Where an example has several rows, such as pixels, words or time steps, A is the mean
      over all rows, and G the sum over the rows of an example, averaged over the examples. That is
      exact where derivatives of different rows are uncorrelated and independent of h. With
      ``sharing="reduce"`` it is exact where those of an example are all the same. Both rules are
      from [3]_.
    - *Dense layers in scans*: each step has rows of its own. The factors take one more run of the
      scan, and memory for h and g of all steps.
    - *Row lookups*, W[i] with integers i. A is diagonal, the frequencies of the rows, and is stored
      as a vector.
    - *Weights used several times* have the rows of all uses. Where W.T is used as well, as in tied
      autoencoders or embeddings, the block is a sum of two Kronecker products, of which M takes the
      product with the same partial traces; a bias then has a block of its own.
    - *Scales and shifts*, that every example is multiplied by or that are added to it, up to 512
      numbers: the mean of g g^T over the examples, with g the derivative of an example. A scale and
      the shift after it, as in normalization, share a block.
    - *Diagonal*: all others, such as a vector ``w`` in ``x @ w``, a weight that is masked or cut
      out of a larger one, and what is used in a scan that stops early or in a scan within a scan.

    In a sum of objectives a layer is one in all terms that depend on it; A is then the weighted
    mean of those of the terms, and G the weighted sum.

    A step costs a backward pass on the metric batch and, for a layer of a inputs, g outputs and N
    rows, N (a^2 + g^2) multiplications for the factors, 2 (a^3 + g^3) for the inverses where they
    are made, and a g (a + g) in each product with M^-1. Factors and inverses take 2 (a^2 + g^2)
    numbers. The derivatives g are those of s . B^T r, for random signs s and B B^T the metric of
    the likelihood on the pre-activation r, in place of targets drawn from the model: their
    covariance is the same. The signs are a function of the step number. With ``devices=`` each
    device inverts some of the factors and hands the inverses to the others.

    References
    ----------
    .. [1] J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
       curvature", ICML 2015, sections 3, 6.3 and 8.
    .. [2] R. Grosse and J. Martens, "A Kronecker-factored approximate Fisher matrix for convolution
       layers", ICML 2016.
    .. [3] R. Eschenhagen, A. Immer, R. E. Turner, F. Schneider and P. Hennig, "Kronecker-factored
       approximate curvature for modern neural network architectures", NeurIPS 2023.

    Examples
    --------
    >>> import symng
    >>> symng.NaturalGradient(
    ...     solver=symng.CG(maxiter=5, recompute=False),
    ...     preconditioner=symng.KroneckerPreconditioner(),
    ...     warm_start=0.9,
    ... ).preconditioner
    KroneckerPreconditioner()
    """

    decay: float = number(default=0.95, minimum=0, below=1)
    refresh: int = number(default=5, minimum=1, integer=True)
    sharing: Sharing = choice(Sharing, default="expand")

    def init_state(self, objective: ObjectiveLike, state: State) -> None:
        kronecker = kroneckers_of(objective.terms)[0]
        if not any(isinstance(block, Layer) for block in kronecker.blocks):
            warn(
                "preconditioner: expected layers such as h @ W with a matrix W, got none in this "
                "model, so KroneckerPreconditioner is a diagonal here. JacobiPreconditioner is for "
                "any model."
            )
        size = kronecker.size
        state.add("kronecker_factors", np.zeros(size))
        state.add("kronecker_inverses", np.zeros(size))
        state.add("kronecker_updates", 0, "int64")

    def describe(self, objective: ObjectiveLike) -> str:
        """Return the layers with their biases, by kind, and the parameters with a diagonal."""
        return kroneckers_of(objective.terms)[0].describe()

    def build(
        self, batch: Batch, metric: Metric, state: State, damping: TensorVariable
    ) -> tuple[Product, Updates]:
        kroneckers = kroneckers_of([term.objective for term in batch.terms])
        kronecker = kroneckers[0]
        old, inverses, count = (
            state.values[f"kronecker_{name}"] for name in ("factors", "inverses", "updates")
        )

        def factors_of(number: int, term: TermBatch) -> TensorVariable:
            seed = state.values["step"] * len(kroneckers) + number
            own = kroneckers[number]

            def factors(o: Objective, offset: Integer) -> list[TensorVariable]:
                blocks = own if o is term.objective else Kronecker(o, own.layers)  # of a chunk
                return [blocks.factors(seed, offset, self.sharing)]

            return term.mean(factors)[0]

        new = combine_factors(
            kroneckers, batch.weights, [factors_of(*pair) for pair in enumerate(batch.terms)]
        )
        factors, counted, finite = running_mean(old, new, count, self.decay)
        # A loop of at most one round: not every backend can skip a branch.
        due = pt.or_(pt.eq(count % self.refresh, 0), pt.lt(count, self.refresh)) & finite
        start = {"matrices": pt.switch(due, factors, inverses), "due": due}
        final = while_loop(
            lambda s: {
                "matrices": kronecker.invert(s["matrices"], damping),
                "due": pt.zeros_like(s["due"]),
            },
            lambda s: s["due"],
            start,
            1,
        )
        updates: Updates = {old: factors, inverses: final["matrices"], count: counted}
        pairs = zip(batch.weights, (metric.loss_block(term) for term in batch.terms), strict=True)
        blocks = [(weight, block) for weight, block in pairs if block is not None]

        def apply(v: TensorVariable) -> TensorVariable:
            product = kronecker.apply(final["matrices"], v)
            for weight, block in blocks:
                w = pt.cast(weight, v.type.dtype)
                # (w H + lambda I)^-1 = (H + lambda / w I)^-1 / w
                product = block.replace(product, block.solve(v, damping / w) / w)
            return product

        return apply, updates
