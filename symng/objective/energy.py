"""Models given by energies and samples, such as restricted Boltzmann machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.gradient import zero_grad
from pytensor.graph.basic import Constant, Variable
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.graphs.arrays import check_batch
from symng.graphs.rebuild import rebuild, replacements
from symng.likelihoods import Boltzmann
from symng.objective._describe import describe_params
from symng.objective.objective import Objective


class EnergyObjective(Objective):
    """Describe a model p(x) = exp(-E(x)) / Z with unknown Z by its energy and samples of it.

    The loss L = 1/N sum_n E(x_n) - 1/M sum_m E(s_m), over N examples of the data and M samples, has
    the gradient of the mean negative log-likelihood, the samples standing for p. The Fisher matrix
    is F = 1/M sum_m (g_m - g)(g_m - g)^T, g_m the gradient of E(s_m) and g the mean of the g_m: the
    centered covariance over model samples [1]_.

    Parameters
    ----------
    energy : callable
        From a symbolic batch to the vector of its energies, one per row. If latent units are summed
        out, return the free energy; or let batches hold the latent units too.
    params : sequence of shared variables
        As for `Objective`.
    data : TensorVariable
        Symbolic batch of examples, along its first axis.
    samples : TensorVariable
        Symbolic batch of samples of the model, along its first axis; any number of them. Or a
        shared variable, such as the state of chains, which is then not part of the batches: set it
        between steps, or let the ``updates`` of `compile_step` and `minimize` do it.

    Raises
    ------
    TypeError, ValueError
        When an argument has the wrong type or does not fit the graph; the message names it and says
        what to do.

    Notes
    -----
    Batches are (data, samples), a metric batch too, although the Fisher matrix uses only the
    samples; with shared samples they are (data,), and a checkpoint of `minimize` holds the samples,
    whoever sets them.

    The loss after a step, for line searches and reduction ratios, is L plus the change of the mean
    energy of the data plus log(1/M sum_m exp(E(s_m) - E'(s_m))), E' the energy after the step: the
    change of log Z as estimated from the samples before it. When a step is so long that few samples
    carry most of the weight, the estimate is too low.

    `GaussNewton` equals `Fisher`, and `EmpiricalFisher` is the (centered) second moment of the
    gradients over the data.

    References
    ----------
    .. [1] G. Desjardins, R. Pascanu, A. Courville and Y. Bengio, "Metric-free natural gradient for
       joint-training of Boltzmann machines", ICLR 2013.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> v, s = pt.matrix("v"), pt.matrix("s")
    >>> b = pytensor.shared(np.zeros(2), name="b")
    >>> objective = symng.EnergyObjective(lambda x: -x @ b, params=[b], data=v, samples=s)
    >>> objective
    EnergyObjective
      params:     b (2,), 2 numbers, float64
      model:      p = exp(-energy) / Z, Fisher matrix from its samples
      data:       v
      samples:    s
    >>> F = symng.Fisher()(objective)
    >>> F.materialise().eval({s: np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])})
    array([[0.25, 0.  ],
           [0.  , 0.25]])
    """

    def __init__(
        self,
        energy: Callable[[TensorVariable], TensorVariable],
        params: Sequence[SharedVariable],
        data: TensorVariable,
        samples: TensorVariable,
    ) -> None:
        if not callable(energy):
            raise argument_error(
                "energy",
                "a callable from symbolic batch to vector of energies",
                energy,
                error=TypeError,
            )
        for name, batch in (("data", data), ("samples", samples)):
            if (
                not isinstance(batch, TensorVariable)
                or isinstance(batch, Constant)
                or batch.ndim == 0
            ):
                raise argument_error(
                    name, "a symbolic batch, such as pt.matrix('x')", batch, error=TypeError
                )
        # Only if they are shared: other samples are the second input, which a clone replaces.
        self._samples = samples if isinstance(samples, SharedVariable) else None
        of_data, of_samples = (_energies(energy, batch) for batch in (data, samples))
        expected = of_samples.mean()
        before = zero_grad(of_samples)
        super().__init__(
            of_data.mean() - before.mean() + _log_mean_exp(before - of_samples),
            output=of_samples,
            params=params,
            inputs=[data, samples] if self._samples is None else [data],
            likelihood=Boltzmann(),
            example_losses=of_data - expected,
        )

    @property
    def shared_samples(self) -> SharedVariable | None:
        """Samples that are not part of the batches; checkpoints hold them."""
        return self._samples

    def loss_at(self, values: Sequence[TensorVariable]) -> TensorVariable:
        before = self.outputs[0]
        after = rebuild([before], replacements(self.params, values))[0]
        # The loss depends only on the new parameters: L' = E'(data) - E'(samples).
        return (
            super().loss_at(values) + after.mean() - before.mean() + _log_mean_exp(before - after)
        )

    def check_batch(
        self, name: str, arrays: object, *, targets: bool = True, finite: bool = True
    ) -> list[np.ndarray]:
        if not isinstance(arrays, tuple | list) or len(arrays) != len(self.inputs):
            return super().check_batch(name, arrays, targets=targets, finite=finite)
        # Data and samples may differ in number.
        pairs = zip(arrays, self.inputs, strict=True)
        return [
            a for array, v in pairs for a in check_batch(name, (array,), (v,), (0,), finite=finite)
        ]

    def __repr__(self) -> str:
        shared = self._samples
        samples = self.inputs[1] if shared is None else f"{shared}, a shared variable"
        return "\n".join(
            [
                type(self).__name__,
                *describe_params(self.model),
                "  model:      p = exp(-energy) / Z, Fisher matrix from its samples",
                f"  data:       {self.inputs[0]}",
                f"  samples:    {samples}",
            ]
        )


def _energies(
    energy: Callable[[TensorVariable], TensorVariable], batch: TensorVariable
) -> TensorVariable:
    """Return the energies of a batch, or refuse them if they are not a vector."""
    energies = energy(batch)
    if (
        not isinstance(energies, TensorVariable)
        or energies.ndim != 1
        or not energies.type.dtype.startswith("float")
    ):
        raise argument_error(
            "energy",
            f"a floating-point vector of energies, one for each row of {batch}",
            energies if isinstance(energies, Variable) else Verbatim(type(energies).__name__),
            "Sum over all axes but the first.",
        )
    return energies


def _log_mean_exp(v: TensorVariable) -> TensorVariable:
    """Return log(mean(exp(v))), without overflow."""
    top = zero_grad(pt.max(v))
    return top + pt.log(pt.exp(v - top).mean())
