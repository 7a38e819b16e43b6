"""Compile a step: the function for loops of one's own."""

from __future__ import annotations

from pytensor.compile.mode import Mode

from symng._checks import explain_keywords
from symng.backends import Devices
from symng.objective import ObjectiveLike
from symng.optimizers import Optimizer
from symng.training.step import CompiledStep
from symng.training.updates import OwnUpdates


@explain_keywords
def compile_step(
    objective: ObjectiveLike,
    optimizer: Optimizer,
    mode: str | Mode | None = None,
    *,
    chunk_size: int | None = None,
    average_decay: float | None = None,
    updates: OwnUpdates | None = None,
    devices: Devices = None,
) -> CompiledStep:
    """Make a compiled step: gradient, solve, damping and update in one function.

    Parameters
    ----------
    objective : Objective or ObjectiveSum
        The model and its loss. Its parameters are updated in place, in their shared variables.
    optimizer : Optimizer
        For instance `NaturalGradient`.
    mode : str or Mode, optional
        PyTensor mode: "CVM" (C), "NUMBA", "JAX", "FAST_COMPILE". Default: see `set_mode`, as a rule
        JAX where it is installed; a model that JAX cannot run then runs in PyTensor's own mode,
        with a warning.
    chunk_size : int, optional
        Compute gradient, products with the metric and losses over chunks of so many examples of a
        batch, one after another, so that memory follows the chunk and not the batch. The results
        are the same to rounding. The loss must be a mean or sum over examples. Default: the full
        batch at once, whose activations are kept for the solve; with chunks each product makes a
        forward pass of its own.
    average_decay : float, optional
        xi, at least 0 and below 1, of an average of the parameters theta_s after each step s:
        average_k = 1/W_k sum_s xi^(k-s) theta_s with W_k = sum_s xi^(k-s), over the steps s = 1 ...
        k. It has less of the noise of minibatches than the parameters have, and the steps do not
        depend on it. It is the flat vector ``state["average"]``, and in the context of
        ``use_average()`` the parameters have its values. Default: no average. It costs one more
        vector of the size of the parameters, and no pass through the model.
    updates : mapping, or sequence of pairs, optional
        From shared variables other than the parameters to symbolic next values, for instance
        running statistics of batch normalization. They may depend on the inputs and targets of the
        gradient batch, and on the parameters, which then have their values from before the step. A
        step that is undone leaves the variables as they are, except random generators, which always
        go on. Variables of the graph with a ``default_update`` are updated without being given. Not
        with ``chunk_size``.
    devices : int, list of JAX devices, Mesh or NamedSharding, optional
        On JAX, split the examples of each batch over these devices. Parameters and state are on
        each, but the second axis of a mesh splits the state. The results are those of one device to
        rounding, for any number of examples; a sharding has to divide it. With the devices of
        several processes each gives its part of a batch. Default: one device.

    Returns
    -------
    CompiledStep
        Called with arrays it takes a step and returns a `StepInfo`. Compilation happens at its
        first call, for the batches given there, or in its ``compile``.

    Raises
    ------
    TypeError, ValueError
        When objective and optimizer do not fit together; the message names the way out.

    References
    ----------
    .. [1] B. Polyak and A. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM
       Journal on Control and Optimization 30(4), 1992.
    .. [2] J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
       curvature", ICML 2015, whose experiments average in this way.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.matrix("t")
    >>> w = pytensor.shared(np.zeros((2, 1)), name="w")
    >>> y = pt.sigmoid(x @ w)
    >>> loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1).mean()
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> step = symng.compile_step(objective, symng.NaturalGradient(), mode="FAST_COMPILE")
    >>> X, T = np.eye(2), np.array([[1.0], [0.0]])
    >>> info = step((X, T))
    >>> info.status.name, round(info.loss, 4)
    ('CONVERGED', 0.6931)
    >>> step.hyperparameters["maxiter"].set_value(10)  # between steps, without a recompilation
    >>> step((X, T), metric_batch=(X,)).accepted
    True
    """
    step = CompiledStep(
        objective,
        optimizer,
        mode,
        chunk_size,
        average_decay=average_decay,
        updates=updates,
        devices=devices,
    )
    step.build()  # refuses a model that does not fit the optimizer
    return step
