"""The user's model: loss, outputs, parameters, inputs and targets, checked once and frozen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from symng._checks import deprecated, explain_keywords, warn
from symng.backends import to_numpy
from symng.graphs.arrays import check_batch
from symng.graphs.rebuild import V, rebuild, replacements
from symng.graphs.rewrites import inline
from symng.graphs.types import ModeLike
from symng.likelihoods import Likelihood
from symng.objective._describe import describe_model
from symng.objective._reading import read_model
from symng.objective._targets import label_mistake, read_target_checks
from symng.objective.heads import Head
from symng.objective.matching import Match, check_match
from symng.objective.model import Model
from symng.objective.sums import Summand


class Objective(Summand):
    """Describe a model and its loss, from which every metric and optimizer is built.

    L(theta) = loss(inputs, targets; params), with p(t | x) read off the end of the output: a
    sigmoid means `Bernoulli`, a softmax over the last axis `Categorical`, an exp `Poisson`,
    anything else `Gaussian` with std 1. A sigmoid or softmax may be written by hand, clipped, or
    inside a scan or an ``OpFromGraph``. Logits, and a log-softmax, are read off a loss that is
    linear in their log-softmax or softplus, as a cross-entropy is; where no targets are given, data
    in the graph of the loss may be its targets.

    Parameters
    ----------
    loss : TensorVariable
        Symbolic scalar to be minimized; as in the paper a mean over examples, or their sum: all
        optimizers but `SGD` then take the steps of its mean, N (F + lambda I) p = g. Other factors
        are not compensated; `check` names them.
    output : TensorVariable or list of them
        What the model predicts, with examples along ``example_axis``. The loss may use the
        pre-activation: ``output`` need not be its ancestor. With several outputs the metric is the
        sum of theirs.
    params : sequence of shared variables
        Floating-point, of one dtype; each must be connected to an output or to the loss. Sharing
        between layers, and use inside a scan, are fine. Their shapes are read now and must not
        change. For those that the loss alone reaches, such as scales of noise and of priors,
        `Fisher` and `GaussNewton` take the positive part of the Hessian of the loss.
    inputs : sequence of TensorVariable
        Symbolic inputs of the model; none where its data are constants in the graph.
    targets : sequence of TensorVariable, default ()
        Symbolic inputs that only the loss needs, in any order: the loss shows which output a
        target, or a slice of it, is compared with.
    likelihood : Likelihood or list of them, optional
        Overrides what is read off the graph; ``Bernoulli(logits=True)`` is for an output that is
        the pre-activation.
    example_losses : TensorVariable, optional
        Vector of per-example losses, for `EmpiricalFisher`. Found in the graph if the loss is a
        mean or sum over one, unless the model mixes examples, as batch normalization does.
    example_axis : int or list of int, default 0
        Axis of each output that runs over examples; 1 for time-major outputs.
    data_axes : sequence of int, optional
        Axis of each input and then each target that runs over examples. Default: the first output's
        ``example_axis``, 0 for variables that have fewer axes.

    Raises
    ------
    TypeError, ValueError
        When an argument has the wrong type or does not fit the graph; the message names it and says
        what to do.

    Warns
    -----
    UserWarning
        When the loss suggests, but does not prove, that an output is not the mean of a Gaussian,
        for instance by taking its logarithm; the message gives the line to write. Also when random
        draws are the same at every step.

    Notes
    -----
    Nothing is compiled here, except by `check`.

    Random numbers in the graph, such as those of dropout, are the same in the gradient and in the
    metric of a step. From step to step they change if their generators have an update, as those of
    a ``RandomStream`` and those with a ``default_update`` do; a search on the host then draws again
    for each loss. Checkpoints hold these generators: a resumed run makes the draws of one without
    interruption, on JAX except for those of a search on the host.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, "Revisiting Natural Gradient for Deep Networks",
       arXiv:1301.3584, section 2.1.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.matrix("t")
    >>> w = pytensor.shared(np.zeros((3, 2)), name="w")
    >>> y = pt.special.softmax(x @ w, axis=-1)
    >>> loss = -(t * pt.log(y)).sum(axis=1).mean()
    >>> symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    Objective
      params:     w (3, 2), 6 numbers, float64
      output:     Categorical, read off softmax
      inputs:     x
      targets:    t
      examples:   the loss is a mean over them
    """

    @explain_keywords
    def __init__(
        self,
        loss: object,  # not TensorVariable: PyTensor annotates pt.tanh(x) as None
        output: object,
        params: Sequence[SharedVariable],
        inputs: Sequence[TensorVariable],
        targets: Sequence[TensorVariable] = (),
        likelihood: Likelihood | Sequence[Likelihood | None] | None = None,
        example_losses: object = None,
        *,
        example_axis: int | Sequence[int] = 0,
        data_axes: Sequence[int] | None = None,
    ) -> None:
        # _replaced: from variables of the user's graph to those of the model.
        self._model, self._replaced = read_model(
            loss,
            output,
            params,
            inputs,
            targets,
            likelihood,
            example_losses,
            example_axis,
            data_axes,
        )
        self._has_one_output = isinstance(output, Variable)
        self._variables = self._model.variables  # of the user's graph, also in a clone
        self._target_checks = read_target_checks(self._model)
        self._warnings: list[str] = []  # those issued about targets; shared by copies

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            raise AttributeError(f"An Objective is frozen: make a new one to change {name!r}.")
        super().__setattr__(name, value)

    @property
    def model(self) -> Model:
        """Everything that was read off the graph."""
        return self._model

    @property
    def loss(self) -> TensorVariable:
        """The loss, a symbolic scalar."""
        return self._model.loss

    @property
    def outputs(self) -> tuple[TensorVariable, ...]:
        """The outputs."""
        return self._model.outputs

    @property
    def heads(self) -> tuple[Head, ...]:
        """The outputs with their likelihoods and pre-activations."""
        return self._model.heads

    @property
    def params(self) -> tuple[SharedVariable, ...]:
        """The parameters."""
        return self._model.params

    @property
    def dtype(self) -> str:
        """The dtype of the parameters."""
        return self._model.dtype

    @property
    def size(self) -> int:
        """The number of parameters, the length of the flat vector."""
        return self._model.size

    @property
    def inputs(self) -> tuple[TensorVariable, ...]:
        """The inputs."""
        return self._model.inputs

    @property
    def targets(self) -> tuple[TensorVariable, ...]:
        """The targets."""
        return self._model.targets

    @property
    def data_axes(self) -> tuple[int, ...]:
        """Axis of each input and then each target that runs over examples."""
        return self._model.data_axes

    @property
    def example_losses(self) -> TensorVariable | None:
        """Vector with the loss of every single example; None if it was not found."""
        return self._model.example_losses

    @property
    def reduction(self) -> str | None:
        """How the per-example losses make up the loss: "mean", "sum", "given" or None."""
        return self._model.reduction

    @property
    def sum_factor(self) -> float | None:
        """Factor c if the loss is c times the sum of the losses of the examples, else None."""
        return self._model.sum_factor

    @property
    def likelihood(self) -> Likelihood | tuple[Likelihood, ...]:
        """The likelihood of the output, or a tuple of them when several outputs were given."""
        likelihoods = tuple(head.likelihood for head in self.heads)
        return likelihoods[0] if self._has_one_output else likelihoods

    @property
    def output(self) -> TensorVariable | tuple[TensorVariable, ...]:
        """The output as given: one, or a tuple of several."""
        return self.outputs[0] if self._has_one_output else self.outputs

    @property
    def count(self) -> TensorVariable:
        """The number of examples in a batch, as a symbolic integer."""
        return self._model.count

    @property
    def terms(self) -> tuple[Objective, ...]:
        """The objective itself, which is a sum of one."""
        return (self,)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight 1 of the only term."""
        return (1.0,)

    def by_term(self, name: str, batch: Any) -> tuple[Any, ...]:
        return (batch,)

    def loss_at(self, values: Sequence[TensorVariable]) -> TensorVariable:
        """Return the loss with symbolic ``values``, of the same shapes, for the parameters."""
        return rebuild([self.loss], replacements(self.params, values))[0]

    def clone_inputs(self, suffix: str) -> Self:
        """Return the model on new inputs and targets, named with ``suffix``, for another batch."""
        fresh = [v.type(name=f"{v.name or 'input'}{suffix}") for v in self._model.variables]
        return self._with_model(self._model.on_inputs(fresh))

    def with_loss(self, loss: TensorVariable, reduction: str | None = None) -> Self:
        """Return the objective with another loss: the ``reduction`` of the per-example losses."""
        return self._with_model(self._model.with_loss(loss, reduction))

    def embed(self, params: Sequence[SharedVariable]) -> Self:
        """Return the objective over ``params``: its own and others that it does not depend on."""
        if tuple(params) == self.params:
            return self
        return self._with_model(replace(self._model, params=tuple(params)))

    def _with_model(self, model: Model) -> Self:
        other = copy.copy(self)
        other._model = model
        return other

    def rebind(self, graphs: Sequence[V]) -> list[V]:
        """Return ``graphs`` of the user's model on the inputs of this objective."""
        own = self._model.variables
        graphs, _ = inline(graphs, self._replaced)
        if own == self._variables:
            return graphs
        return rebuild(graphs, dict(zip(self._variables, own, strict=True)))

    def with_params(self, values: Sequence[TensorVariable]) -> TensorVariable:
        """Return `loss_at`, by its old name."""
        deprecated("Objective.with_params", "0.2", "Objective.loss_at")
        return self.loss_at(values)

    def on_fresh_inputs(self, suffix: str) -> Self:
        """Return `clone_inputs`, by its old name."""
        deprecated("Objective.on_fresh_inputs", "0.2", "Objective.clone_inputs")
        return self.clone_inputs(suffix)

    def on_own_inputs(self, graphs: Sequence[TensorVariable]) -> list[TensorVariable]:
        """Return `rebind`, by its old name."""
        deprecated("Objective.on_own_inputs", "0.2", "Objective.rebind")
        return self.rebind(graphs)

    def check_batch(
        self, name: str, arrays: object, *, targets: bool = True, finite: bool = True
    ) -> list[np.ndarray]:
        """Return a batch as NumPy arrays that fit the inputs and targets, or refuse it.

        Parameters
        ----------
        name : str
            The name of the batch in messages.
        arrays : tuple of array
            Values of the inputs and, with ``targets``, then the targets.
        targets : bool, default True
            Whether the batch holds targets. If the loss shows which output a target is compared
            with, the likelihood of that output must allow its values; ``repr`` lists exceptions.
        finite : bool, default True
            Whether to check for NaN and Inf.

        Raises
        ------
        TypeError, ValueError
            On a wrong number of arrays, a wrong dtype, shape or length, an empty batch, NaN, or
            targets out of range.

        Warns
        -----
        UserWarning
            Without targets, if the loss compares a sigmoid output with an input, as in an
            autoencoder, that is outside [0, 1].
        """
        variables = (*self.inputs, *(self.targets if targets else ()))
        if targets and isinstance(arrays, list | tuple) and len(arrays) == len(variables):
            for target, array in zip(self.targets, arrays[len(self.inputs) :], strict=True):
                if (mistake := label_mistake(name, target, array, self.heads)) is not None:
                    raise mistake
        checked = check_batch(
            name, arrays, variables, self.data_axes[: len(variables)], finite=finite
        )
        if targets:
            self._warn_once(self._target_checks.check(name, checked))
        return checked

    def _warn_once(self, warnings: Sequence[str]) -> None:
        """Issue the warnings of the first batch that has any."""
        if not self._warnings:
            self._warnings.extend(warnings)
            for message in warnings:
                warn(message)

    def check(self, *batch: ArrayLike, mode: ModeLike = None, seed: int = 0) -> Match:
        """Check whether loss and likelihood match, and up to what factor.

        Compares, on one batch, the curvature H of the loss with respect to the pre-activation r of
        the output with the metric M of the likelihood, by products with random vectors in the space
        of the output: at r and at random values near it. They match when H = c M / N at all of
        them; then the Gauss-Newton matrix G of the loss is c times the Fisher matrix F (equations
        11 to 15).

        Parameters
        ----------
        *batch : array
            Values of the inputs and then the targets, at least one example.
        mode : str or Mode, optional
            PyTensor mode of the products; default plain Python, which compiles nothing.
        seed : int, default 0
            Seed of the random vectors.

        Returns
        -------
        Match
            True if loss and likelihood match; prints its ``message``. ``factor`` is c,
            ``reduction`` "mean", "sum" or None, and ``likelihood`` the one that the loss belongs to
            instead, if found.

        Raises
        ------
        ValueError
            When the batch does not fit, or the loss does not pass through the pre-activation.

        Notes
        -----
        Costs a few forward passes in plain Python and a few products in the space of the output,
        with no derivative by the parameters. If the loss is a mean or sum over examples, at most
        256 of them are used.

        Examples
        --------
        >>> import numpy as np, pytensor, pytensor.tensor as pt
        >>> import symng
        >>> x, t = pt.matrix("x"), pt.matrix("t")
        >>> w = pytensor.shared(np.arange(6.0).reshape(3, 2), name="w")
        >>> y = pt.sigmoid(x @ w)
        >>> batch = np.eye(3), np.ones((3, 2))
        >>> right = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1).mean()
        >>> wrong = pt.sqr(y - t).sum(axis=1).mean()
        >>> for loss in (right, wrong):
        ...     print(symng.Objective(loss, y, [w], inputs=[x], targets=[t]).check(*batch).matches)
        True
        False
        """
        return check_match(
            self._model, to_numpy(self.check_batch("batch", batch)), mode=mode, seed=seed
        )

    def __repr__(self) -> str:
        return describe_model(self._model, self._target_checks.unchecked)
