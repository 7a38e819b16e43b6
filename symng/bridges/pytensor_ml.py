"""pytensor-ml: its models as objectives, and natural gradient as a rule of its training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable
from pytensor_ml.loss import CrossEntropy, Loss, SquaredError, supervised_loss
from pytensor_ml.model import Model
from pytensor_ml.optim import Steps
from pytensor_ml.pytensorf import (
    collect_differentiable_params,
    collect_graph_inputs,
    collect_non_trainable_updates,
)
from pytensor_ml.pytensorf.rng import collect_default_updates

from symng._checks import check_instance
from symng.likelihoods import Categorical, Gaussian, Likelihood
from symng.objective import Objective
from symng.optimizers import Optimizer
from symng.optimizers.rules import check_loss, updates_on_loss


class PytensorMLObjective(Objective):
    """The objective of a pytensor-ml model; made by `from_pytensor_ml`.

    Attributes
    ----------
    updates : dict
        From the running statistics of the model to their next values, for ``updates=`` of
        `minimize` and `compile_step`.
    """

    _updates: dict[SharedVariable, Variable]

    @property
    def updates(self) -> dict[SharedVariable, Variable]:
        """The next values of the running statistics of the model."""
        return dict(self._updates)


def from_pytensor_ml(
    model: Model, loss: Loss | TensorVariable, *, likelihood: Likelihood | None = None
) -> PytensorMLObjective:
    """Return the objective of a pytensor-ml model.

    Parameters
    ----------
    model : pytensor_ml.model.Model
        The model, as it is for training: with dropout, and batch normalization by the batch.
    loss : pytensor_ml.loss.Loss or TensorVariable
        A loss such as ``SquaredError()``, whose target becomes the target of the objective, or the
        scalar graph of one. Inputs that only this graph reaches are then targets.
    likelihood : Likelihood, optional
        That of the output. Default: `Gaussian` for ``SquaredError``, `Categorical` for
        ``CrossEntropy``; else it is read off the graph as in `Objective`.

    Returns
    -------
    PytensorMLObjective
        An `Objective` whose ``updates`` are those of running statistics. Give them to `minimize`.

    Raises
    ------
    ValueError
        For a loss that does not depend on a parameter of the model.

    Notes
    -----
    A ``SquaredError`` is a mean without the factor 1/2 of a likelihood, so its Gauss-Newton matrix
    is 2 F for one output: with little damping take `GaussNewton`, which has the scale of the loss.

    The generators of dropout get a ``default_update``, so that each step has another mask, the same
    in the gradient and in the metric.

    Examples
    --------
    >>> import numpy as np
    >>> import symng
    >>> from pytensor_ml.layers import Input, Linear
    >>> from pytensor_ml.loss import SquaredError
    >>> from pytensor_ml.model import Model
    >>> model = Model(Linear("fc", n_in=2, n_out=1)(Input("x", shape=(None, 2)))).initialize(seed=0)
    >>> objective = symng.from_pytensor_ml(model, SquaredError())
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> optimizer = symng.NaturalGradient(metric=symng.GaussNewton(), damping=1e-6)
    >>> result = symng.minimize(
    ...     objective, optimizer, data=(X, X @ [[3.0], [-1.0]]), max_steps=5, progress=False
    ... )
    >>> result.loss < 1e-6
    True
    """
    check_instance("model", model, Model, "a pytensor_ml.model.Model")
    if isinstance(loss, Loss):
        if likelihood is None:
            likelihood = _likelihood_of(loss)
        graph, target = supervised_loss(model.y, loss)
        targets: Sequence[Any] = [target]
    else:
        expected = "a pytensor_ml.loss.Loss, or a scalar graph"
        check_instance("loss", loss, TensorVariable, expected)
        graph, targets = loss, _targets_of(loss, model.y)
    _advance_generators(graph)
    params = collect_differentiable_params(graph)
    objective = PytensorMLObjective(
        graph,
        model.y,
        list(params),
        inputs=_inputs_of(model.y),
        targets=list(targets),
        likelihood=likelihood,
    )
    objective._updates = dict(collect_non_trainable_updates(graph))
    return objective


def rule(
    optimizer: Optimizer, model: Model, *, likelihood: Likelihood | None = None
) -> Callable[[Any, Sequence[SharedVariable]], Steps]:
    """Return an optimizer as a rule of pytensor-ml, with the output of a model.

    An optimizer is a rule itself where its output is found in the graph of the loss, as those of
    ``SquaredError`` and ``CrossEntropy`` are. This is for other losses.

    Parameters
    ----------
    optimizer : Optimizer
        Of one stage, such as `NaturalGradient` with a step size that needs no search on the host.
    model : pytensor_ml.model.Model
        The model, whose output the metric is made of.
    likelihood : Likelihood, optional
        That of the output. Default: read off the graph as in `Objective`.

    Returns
    -------
    callable
        A transform, for ``compile_train``, or as the first one of ``chain(...)``.

    Notes
    -----
    ``compile_train`` advances running statistics by itself; generators are among the updates.

    Examples
    --------
    >>> import numpy as np
    >>> import symng
    >>> from pytensor_ml.layers import Input, Linear
    >>> from pytensor_ml.loss import SquaredError
    >>> from pytensor_ml.model import Model
    >>> model = Model(Linear("fc", n_in=2, n_out=1)(Input("x", shape=(None, 2)))).initialize(seed=0)
    >>> optimizer = symng.NaturalGradient(metric=symng.GaussNewton(), damping=1e-6)
    >>> natural = symng.pytensor_ml.rule(optimizer, model)
    >>> step = model.compile_train(natural, SquaredError())
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> losses = [float(step(X, X @ [[3.0], [-1.0]])) for _ in range(5)]
    >>> losses[-1] < 1e-6
    True
    """
    check_instance("optimizer", optimizer, Optimizer, "an optimizer such as NaturalGradient()")
    check_instance("model", model, Model, "a pytensor_ml.model.Model")

    def transform(loss: Any, parameters: Sequence[SharedVariable]) -> Steps:
        check_loss(loss)
        updates = updates_on_loss(
            optimizer.updates,
            loss,
            model.y,
            parameters,
            inputs=_inputs_of(model.y),
            targets=_targets_of(loss, model.y),
            likelihood=likelihood,
        )
        return Steps({**updates, **collect_default_updates(loss)})

    return transform


def _likelihood_of(loss: Loss) -> Likelihood | None:
    """Return the likelihood that a loss of pytensor-ml belongs to, if it is one of its own."""
    if isinstance(loss, SquaredError):
        return Gaussian()
    if isinstance(loss, CrossEntropy):
        return Categorical(logits=loss.expect_logits)
    return None


def _inputs_of(output: TensorVariable) -> list[Any]:
    """Return the inputs that a model's output depends on."""
    return list(collect_graph_inputs(output))


def _targets_of(loss: TensorVariable, output: TensorVariable) -> list[Any]:
    """Return the inputs that only the loss depends on."""
    inputs = set(_inputs_of(output))
    return [v for v in collect_graph_inputs(loss) if v not in inputs]


def _advance_generators(loss: TensorVariable) -> None:
    """Let the generators that a loss draws from go on with each step."""
    with warnings.catch_warnings():
        # The only way for a variable to bring its own update to PyTensor's functions.
        warnings.filterwarnings("ignore", "Setting default_update", DeprecationWarning)
        for generator, following in collect_default_updates(loss).items():
            generator.default_update = following
