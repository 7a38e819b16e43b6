"""Evaluate a model on arrays before compiling for them, which may take a minute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from symng._checks import Verbatim, argument_error
from symng.backends import compile_in_python, few_on_host, to_numpy
from symng.backends.failures import evaluate
from symng.graphs.axes import infer_length
from symng.likelihoods import Categorical
from symng.objective.model import Model

# Examples of arrays on a device that are copied to the host.
_FEW = 16

Lengths = tuple[tuple[int, ...], ...]
"""The shape of each array of a batch, without the axis of examples."""


class DryRun:
    """Evaluate a model in plain Python, and name the batch whose arrays do not fit it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._functions: dict[bool, Callable[..., list[np.ndarray]]] = {}
        self._seen: set[Lengths] = set()

    def knows(self, arrays: Sequence[np.ndarray]) -> bool:
        """Return whether the model was evaluated on arrays of these shapes, examples aside."""
        key = self._lengths(arrays)
        return any(seen[: len(key)] == key for seen in self._seen)

    def __call__(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Evaluate the loss on a batch of inputs and targets, the outputs on one of inputs alone.

        Raises
        ------
        ValueError
            When that fails (a LinAlgError where the values are the reason), or ``example_losses``
            as given has another length than the batch.
        """
        few = few_on_host(arrays, self.model.data_axes, _FEW)
        try:
            self._evaluate(name, few)
        except ValueError:
            if all(a is b for a, b in zip(arrays, few, strict=True)):
                raise
            self._evaluate(name, to_numpy(list(arrays)))  # a model of one number of examples
        self._seen.add(self._lengths(arrays))

    def _evaluate(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Evaluate the model on arrays of the host."""
        model, inputs = self.model, len(self.model.inputs)
        has_targets = len(arrays) == inputs + len(model.targets)
        if has_targets not in self._functions:
            variables = list(model.variables[: len(arrays)])
            results = [model.loss] if has_targets else list(model.outputs)
            if has_targets and model.reduction == "given":
                results.append(model.example_losses.shape[0])  # type: ignore[union-attr]
            self._functions[has_targets] = compile_in_python(variables, results)
        function = self._functions[has_targets]
        with np.errstate(all="ignore"):
            values = evaluate(lambda a: function(*a), arrays, name, lambda: self.hint(arrays))
        examples = model.count_of(arrays)
        if has_targets and model.reduction == "given" and int(values[-1]) != examples:
            raise argument_error(
                "example_losses",
                f"one loss for each of the {examples} examples of {name}",
                Verbatim(str(values[-1])),
                "Sum over the axes of outputs and of time alone.",
            )

    def hint(self, arrays: Sequence[np.ndarray]) -> str:
        """Return the most likely reason why the model cannot be evaluated; empty if not known."""
        model = self.model
        for t, a in zip(model.targets, arrays[len(model.inputs) :], strict=False):
            for head in model.heads:
                if (
                    isinstance(head.likelihood, Categorical)
                    and head.y.ndim == t.ndim
                    and a.shape[-1] == 1
                ):
                    return (
                        f"A column of class numbers for {t}? One-hot encode them: "
                        "np.eye(K)[labels]."
                    )
                column = infer_length(head.y, -1) in (1, None) and not isinstance(
                    head.likelihood, Categorical
                )
                if head.y.ndim == t.ndim + 1 and column:
                    return (
                        "An output of shape (N, 1), a target of shape (N,)? Take y[:, 0], or give "
                        f"{t} another axis."
                    )
                if head.y.ndim == t.ndim - 1 and a.shape[-1] == 1:
                    return (
                        f"An output of shape (N,), a target of shape (N, 1)? Take {t}[:, 0] in the "
                        "loss."
                    )
        return ""

    def _lengths(self, arrays: Sequence[np.ndarray]) -> Lengths:
        """Return the shapes of arrays without the axis of examples."""
        pairs = zip(arrays, self.model.data_axes, strict=False)
        return tuple((*np.shape(a)[:axis], *np.shape(a)[axis + 1 :]) for a, axis in pairs)
