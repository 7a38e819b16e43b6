"""The user's model: loss, outputs, parameters, inputs and targets, checked once and frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from symng._checks import explain_keywords
from symng.graphs import vectors
from symng.graphs.arrays import check_batch
from symng.graphs.rebuild import rebuild
from symng.graphs.rewrites import inline, merge_equal
from symng.likelihoods import Likelihood
from symng.objective import _arguments as _objective_checks
from symng.objective import _example_axes as _places
from symng.objective import _example_losses as _examples
from symng.objective._describe import describe_objective
from symng.objective._targets import TargetChecks, label_mistake
from symng.objective.heads import make_head, read_off_loss
from symng.objective.matching import Match, check_match


class Objective:
    """Describe a model and its loss, from which every metric and optimizer is built.

    L(theta) = loss(inputs, targets; params), with p(t | x) read off the end of the output: a sigmoid means `Bernoulli`,
    a softmax over the last axis `Categorical`, an exp `Poisson`, anything else `Gaussian` with std 1. A sigmoid or
    softmax may be written by hand, clipped, or inside a scan or an ``OpFromGraph``. Logits, and a log-softmax, are read
    off a loss that is linear in their log-softmax or softplus, as a cross-entropy is.

    Parameters
    ----------
    loss : TensorVariable
        Symbolic scalar to be minimized; as in the paper a mean over examples, or their sum: all optimizers but `SGD`
        then take the steps of its mean, N (F + lambda I) p = g. Other factors are not compensated; `check` names them.
    output : TensorVariable or list of them
        What the model predicts, with examples along ``example_axis``. The loss may use the pre-activation: ``output``
        need not be its ancestor. With several outputs the metric is the sum of theirs.
    params : sequence of shared variables
        Floating-point, of one dtype; each must be connected to an output. Sharing between layers, and use inside a
        scan, are fine. Their shapes are read now and stay.
    inputs : sequence of TensorVariable
        Symbolic inputs of the model.
    targets : sequence of TensorVariable, default ()
        Symbolic inputs that only the loss needs, in any order: which output a target, or a part of one, is compared
        with is read off the loss.
    likelihood : Likelihood or list of them, optional
        Overrides what is read off the graph; ``Bernoulli(logits=True)`` is for an output that is the pre-activation.
    example_losses : TensorVariable, optional
        Vector with the loss of every single example. Found on the graph when the loss is a mean or sum over one and
        no example enters the output of another, as with batch normalization; needed only where gradients of single
        examples are (`EmpiricalFisher`).
    example_axis : int or list of int, default 0
        Axis of each output that runs over examples; 1 for time-major outputs.
    data_axes : sequence of int, optional
        Axis of each input and then each target that runs over examples. Default: the first output's ``example_axis``,
        0 for variables that have fewer axes.

    Raises
    ------
    TypeError, ValueError
        When a part has the wrong type or does not fit the graph; the message names the argument and the way out.

    Warns
    -----
    UserWarning
        When the loss shows that an output is not the mean of a Gaussian, as one that takes its logarithm, but not for
        certain what it is; the message has the line to write. When random draws are the same at every step.

    Notes
    -----
    Nothing is compiled here, except by `check`.

    Random numbers in the graph, such as those of dropout, are the same in the gradient and in the metric of a step.
    From step to step they change if their generators have an update of their own, as those of a ``RandomStream`` and
    those with a ``default_update`` have; a search on the host then draws anew for each loss. Checkpoints do not hold
    the generators.

    References
    ----------
    .. [1] R. Pascanu and Y. Bengio, "Revisiting Natural Gradient for Deep Networks", arXiv:1301.3584, section 2.1.

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
        loss: Any,  # not TensorVariable: PyTensor annotates pt.tanh(x) as None, and softmax(x) as perhaps a list
        output: Any,
        params: Sequence[SharedVariable],
        inputs: Sequence[TensorVariable],
        targets: Sequence[TensorVariable] = (),
        likelihood: Likelihood | Sequence[Likelihood | None] | None = None,
        example_losses: Any = None,
        *,
        example_axis: int | Sequence[int] = 0,
        data_axes: Sequence[int] | None = None,
    ) -> None:
        checks = _objective_checks
        loss = checks.check_loss(loss)
        self.outputs = checks.check_outputs(output)
        self._single = isinstance(output, Variable)
        self.params = checks.check_params(params, self.outputs)
        self.dtype: str = self.params[0].type.dtype
        self.size = vectors.count(self.params)
        self.inputs = checks.check_roots("inputs", inputs)
        self.targets = checks.check_roots("targets", targets)
        checks.check_example_losses(example_losses)
        graphs = [v for v in (loss, *self.outputs, example_losses) if v is not None]
        checks.check_connections(graphs, self.params, self.inputs, self.targets)
        checks.warn_of_random_draws(loss, self.outputs)
        # Open the ops that are graphs, so that all readers see what is inside; gradients do not change.
        (loss, example_losses, *opened), self._opened = inline([loss, example_losses, *self.outputs])
        self.outputs = tuple(opened)
        axes = checks.check_example_axis(example_axis, self.outputs)
        likelihoods = checks.per_output("likelihood", likelihood, self.outputs)
        self.heads = tuple(make_head(*parts) for parts in zip(self.outputs, likelihoods, axes, strict=True))
        self.data_axes = checks.check_data_axes(data_axes, (*self.inputs, *self.targets), axes[0])
        # A loss that computes the pre-activation once more must still be known to pass through it.
        self.loss: Any = merge_equal([loss], [head.root for head in self.heads])[0]
        self.heads = read_off_loss(self.heads, self.loss, self.params, self.targets or self.inputs)
        self.example_losses, self.reduction, self.sum_factor = self._find_example_losses(example_losses)
        self._target_checks = TargetChecks(self.loss, self.heads, self.inputs, self.targets)
        self._roots = (*self.inputs, *self.targets)
        self._frozen = True

    def _find_example_losses(
        self, given: TensorVariable | None
    ) -> tuple[TensorVariable | None, str | None, float | None]:
        """Return the vector of losses of single examples, how it is reduced to the loss or "given", and c of a sum."""
        known = dict(zip((*self.inputs, *self.targets), self.data_axes, strict=True))
        outputs = {y: head.example_axis for y, head in zip(self.outputs, self.heads, strict=True)}
        # Where the root is not r, the output is a view of it, perhaps with other axes.
        outputs |= {head.root: head.example_axis for head in self.heads if head.root is head.r}
        places = _places.locate_examples(self.loss, known, outputs)
        factor = _examples.find_sum(self.loss, places, known, outputs)
        if given is None:
            return *_examples.find(self.loss, places), factor
        place = _places.locate_examples(given, known, outputs).get(given)
        _objective_checks.check_given_losses(given, self.params, place in (_places.NONE, _places.REDUCED))
        return given, "given", factor

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError(f"An Objective is frozen: make a new one to change {name!r}.")
        object.__setattr__(self, name, value)

    @property
    def likelihood(self) -> Likelihood | tuple[Likelihood, ...]:
        """The likelihood of the output, or a tuple of them when several outputs were given."""
        likelihoods = tuple(head.likelihood for head in self.heads)
        return likelihoods[0] if self._single else likelihoods

    @property
    def output(self) -> TensorVariable | tuple[TensorVariable, ...]:
        """The output as given: one, or a tuple of several."""
        return self.outputs[0] if self._single else self.outputs

    @property
    def whole(self) -> Objective:
        """The unchunked objective: ``self``, or the one that this chunked objective was made from."""
        return self

    @property
    def undivided(self) -> Objective | None:
        """The objective on all of its batch at once; None where the batch comes in chunks."""
        return self

    first: Any = 0
    """Index of this chunk's first example in its batch; random signs are numbered from it."""

    # The objective that `divided` made this one from, and the condition under which the loss is divided.
    _divided: tuple[Objective, TensorVariable | None] | None = None

    @property
    def count(self) -> TensorVariable:
        """The number of examples in the batch, as a symbolic integer."""
        root: Any = (*self.inputs, *self.targets)[0]
        return root.shape[self.data_axes[0]]

    @property
    def divisor(self) -> Any:
        """What `averaged` divided the loss by, in the dtype of the parameters; None if it did not divide."""
        if self._divided is None:
            return None
        count, when = self.count.astype(self.dtype), self._divided[1]
        return count if when is None else pt.switch(when, count, pt.ones_like(count))

    def averaged(self) -> Objective:
        """Return the objective with a loss that is a sum over examples divided by their number; others as they are.

        A sum times a small number may be a mean already, over a number that the user knew. It is divided in batches of
        more examples than that, and a thousandth more: the number may have been rounded to float32.
        """
        factor = self.sum_factor
        if factor is None:
            return self
        return self.divided(None if factor >= 0.5 else pt.gt(factor * self.count, 1.001))  # half a sum is a likelihood

    def divided(self, when: TensorVariable | None) -> Objective:
        """Return the objective with its loss divided by the number of examples where ``when`` holds; None is always."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, sum_factor=None, _divided=(self, when))
        if self.reduction == "sum":
            other.__dict__["reduction"] = "mean" if when is None else None
        other.__dict__["loss"] = self.loss / other.divisor.astype(self.loss.dtype)
        return other

    def batch_variables(self, count: int | None = None) -> tuple[list[TensorVariable], list[int]]:
        """Return the inputs and then targets, the first ``count`` of them, and the axis of examples of each."""
        return [*self.inputs, *self.targets][:count], list(self.data_axes[:count])

    def total(
        self, function: Callable[[Objective], Sequence[TensorVariable]], scale: str = "loss"
    ) -> list[TensorVariable]:
        """Return what ``function`` makes of this objective; where the batch comes in chunks, of all of them together.

        It returns scalars and vectors of known length. They are means over the examples with ``scale="mean"``, and with
        "loss" means or sums, whichever the loss is.
        """
        return list(function(self))

    def with_params(self, values: Sequence[TensorVariable]) -> TensorVariable:
        """Return the loss with the parameters replaced by symbolic ``values`` of the same shapes."""
        value: TensorVariable = rebuild([self.loss], dict(zip(self.params, values, strict=True)))[0]
        return value

    def on_fresh_inputs(self, suffix: str) -> Objective:
        """Return the same model on inputs and targets of its own, named with ``suffix``: for another batch."""
        if self._divided is not None:  # for the number of its own examples
            return self._divided[0].on_fresh_inputs(suffix).divided(self._divided[1])
        roots = [*self.inputs, *self.targets]
        fresh = [v.type(name=f"{v.name or 'input'}{suffix}") for v in roots]
        kept: list[Any] = [self.loss, *self.outputs, *(v for h in self.heads for v in (h.y, h.r, h.root))]
        kept.append(self.example_losses)
        present = list(dict.fromkeys(v for v in kept if v is not None))
        copies = rebuild(present, dict(zip(roots, fresh, strict=True)))
        copy_of: dict[Any, Any] = {None: None, **dict(zip(present, copies, strict=True))}
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.__dict__.update(
            loss=copy_of[self.loss],
            outputs=tuple(copy_of[y] for y in self.outputs),
            heads=tuple(replace(h, y=copy_of[h.y], r=copy_of[h.r], root=copy_of[h.root]) for h in self.heads),
            inputs=tuple(fresh[: len(self.inputs)]),
            targets=tuple(fresh[len(self.inputs) :]),
            example_losses=copy_of[self.example_losses],
        )
        return other

    def follow(self, graphs: Sequence[TensorVariable]) -> list[TensorVariable]:
        """Return ``graphs`` of the user's model as this objective has them: on its own inputs (`on_fresh_inputs`)."""
        own = (*self.inputs, *self.targets)
        graphs, _ = inline(graphs, self._opened)
        return list(graphs) if own == self._roots else rebuild(graphs, dict(zip(self._roots, own, strict=True)))

    def check_batch(self, name: str, arrays: Any, *, targets: bool = True, finite: bool = True) -> list[np.ndarray]:
        """Return a batch as NumPy arrays that fit the inputs and targets, or refuse it.

        Parameters
        ----------
        name : str
            What the messages call it.
        arrays : tuple of array
            Values of the inputs and, with ``targets``, then the targets.
        targets : bool, default True
            Whether the batch holds targets. They must then be some that the likelihood of the output they are compared
            with can produce, where the loss shows which it is; where it does not, ``repr`` says so.
        finite : bool, default True
            Whether NaN and Inf are looked for.

        Raises
        ------
        TypeError, ValueError
            On a wrong number of arrays, dtype, shape or length, no example, NaN, or targets out of range.

        Warns
        -----
        UserWarning
            Without any targets, when a sigmoid output is compared with what it is computed from, as in an autoencoder,
            and that is not from 0 to 1.
        """
        variables = (*self.inputs, *(self.targets if targets else ()))
        if targets and isinstance(arrays, list | tuple) and len(arrays) == len(variables):
            for target, array in zip(self.targets, arrays[len(self.inputs) :], strict=True):
                if (mistake := label_mistake(name, target, array, self.heads)) is not None:
                    raise mistake
        checked = check_batch(name, arrays, variables, self.data_axes[: len(variables)], finite=finite)
        if targets:
            self._target_checks(name, checked)
        return checked

    def check(self, *batch: Any, mode: Any = None, seed: int = 0) -> Match:
        """Check whether loss and likelihood match, and up to which factor.

        Compares, on one batch, the curvature H of the loss with respect to the pre-activation r of the output with the
        metric M of the likelihood, by products with random vectors in the space of the output: at r and at random
        values near it. They match when H = c M / N at all of them; then the Gauss-Newton matrix G of the loss is c
        times the Fisher matrix F (equations 11 to 15).

        Parameters
        ----------
        *batch : array
            Values of the inputs and then the targets, at least one example.
        mode : str or Mode, optional
            PyTensor mode of the products; default plain Python, which compiles nothing.
        seed : int, default 0
            Of the random vectors that are multiplied.

        Returns
        -------
        Match
            With ``matches``, ``factor`` (c), ``reduction`` ("mean", "sum" or None), ``relative_difference``,
            ``message``, ``weighted`` and ``likelihood`` (the one that the loss belongs to instead, if it is found);
            printing it shows the message, and it is true when loss and likelihood match.

        Raises
        ------
        ValueError
            When the batch does not fit, or the loss does not pass through the pre-activation.

        Notes
        -----
        Costs a few forward passes in plain Python and a few products in the space of the output, with no derivative by
        the parameters. Where the loss is a mean or sum over examples, at most 256 of them are looked at.

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
        return check_match(self, batch, mode=mode, seed=seed)

    def __repr__(self) -> str:
        return describe_objective(self, self._target_checks.unchecked)
