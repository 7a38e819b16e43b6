"""Evaluate a model on arrays before compiling for them, which may take a minute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.backends import compile_in_python, few_on_host, to_numpy
from symng.backends.failures import ARRAY_ERRORS, evaluate
from symng.graphs.axes import infer_length
from symng.graphs.rebuild import rebuild
from symng.likelihoods import Categorical
from symng.objective.model import Model

# How many examples are copied from a device to the host.
_FEW = 16
# How many losses are compared with those in parts of their batch, and how close they must be.
_COMPARED, _RTOL = 5, 1e-3

Lengths = tuple[tuple[int, ...], ...]
"""The shape of each array of a batch, without the axis of examples."""


class DryRun:
    """Evaluate a model in plain Python, and name the batch whose arrays do not fit it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._functions: dict[bool, Callable[..., list[np.ndarray]]] = {}
        self._seen: set[Lengths] = set()
        # The losses of examples as a function of the parameters, too, and perturbed parameters.
        self._perturbed: tuple[Callable[..., list[np.ndarray]], list[np.ndarray]] | None = None

    def knows(self, arrays: Sequence[np.ndarray]) -> bool:
        """Return whether the model was evaluated on these shapes, with any number of examples."""
        key = self._lengths(arrays)
        return any(seen[: len(key)] == key for seen in self._seen)

    def __call__(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Evaluate the loss on a batch of inputs and targets, the outputs on one of inputs only.

        Raises
        ------
        ValueError
            When that fails (a LinAlgError if the values are the reason), or when the
            ``example_losses`` that the user gave have another length than the batch.
        """
        few = few_on_host(arrays, self.model.data_axes, _FEW)
        try:
            self._evaluate(name, few)
        except ValueError:
            if all(a is b for a, b in zip(arrays, few, strict=True)):
                raise
            # Perhaps the model has a fixed number of examples.
            self._evaluate(name, to_numpy(list(arrays)))
        self._seen.add(self._lengths(arrays))

    def check_examples(self, arrays: Sequence[np.ndarray], *, chunked: bool) -> None:
        """Refuse a model in which the loss of an example depends on others, or on their number.

        The losses of a few examples are evaluated at once and in two parts, at randomly perturbed
        parameters, since zeros could hide a dependence. Unless ``chunked``, they may differ by a
        common factor. Models that draw random numbers are not compared.
        """
        model = self.model
        losses = model.example_losses
        if losses is None or model.reduction not in ("mean", "sum"):
            return
        if any(isinstance(v.type, RandomType) for v in graph_inputs([losses])):
            return
        if len(arrays) != len(model.variables):  # without targets
            return
        few = self._examples(few_on_host(arrays, model.data_axes, _COMPARED), slice(_COMPARED))
        if model.count_of(few) < 3:
            return
        parts = [self._examples(few, part) for part in (slice(2), slice(2, None))]
        try:
            with np.errstate(all="ignore"):
                together, *apart = (self._example_losses(losses, part) for part in (few, *parts))
        except ARRAY_ERRORS:  # the model has a fixed number of examples
            return
        if len(together) != sum(map(len, apart)):  # the examples are constants of the graph
            return
        if _agree(np.sort(together), np.sort(np.concatenate(apart))):  # perhaps in another order
            return
        for in_batch, in_part in zip((together[:2], together[2:]), apart, strict=True):
            if not _agree(in_batch, in_part, common_factor=not chunked):
                raise _dependence_error(in_batch, in_part, chunked)

    def _examples(self, arrays: Sequence[np.ndarray], part: slice) -> list[np.ndarray]:
        """Return a part of the examples of a batch."""
        pairs = zip(arrays, self.model.data_axes, strict=True)
        return [np.asarray(a)[(slice(None),) * axis + (part,)] for a, axis in pairs]

    def _example_losses(
        self, of_examples: TensorVariable, arrays: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Return the losses of examples at perturbed parameters."""
        model = self.model
        if self._perturbed is None:
            rng = np.random.default_rng(0)
            values = [np.asarray(to_numpy(p.get_value())) for p in model.params]
            perturbed = [
                (v + 0.1 * (1 + abs(v)) * rng.standard_normal(v.shape)).astype(v.dtype)
                for v in values
            ]
            free = [p.type() for p in model.params]
            [losses] = rebuild([of_examples], dict(zip(model.params, free, strict=True)))
            self._perturbed = compile_in_python([*model.variables, *free], [losses]), perturbed
        function, perturbed = self._perturbed
        return np.asarray(function(*arrays, *perturbed)[0])

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
                "Sum only over the axes of outputs and time.",
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


def _agree(in_batch: np.ndarray, in_part: np.ndarray, common_factor: bool = False) -> bool:
    """Return whether losses in a batch and in a part of it agree, or are not finite."""
    if not (np.isfinite(in_batch).all() and np.isfinite(in_part).all()):
        return True
    squares = float(in_part @ in_part)
    factor = float(in_batch @ in_part) / squares if common_factor and squares else 1.0
    atol = _RTOL * abs(in_batch).max()
    return bool(np.allclose(in_batch, factor * in_part, rtol=_RTOL, atol=atol))


def _dependence_error(in_batch: np.ndarray, in_part: np.ndarray, chunked: bool) -> Exception:
    """Return the error for losses of examples that depend on the rest of their batch."""
    name, taker = ("chunk_size", "chunks") if chunked else ("metric", "EmpiricalFisher")
    k = int(np.argmax(abs(in_batch - in_part)))
    return argument_error(
        name,
        f"for {taker}, a loss of each example that depends neither on other examples nor on their "
        "number",
        Verbatim(f"one of {in_batch[k]:.4g} in a batch and of {in_part[k]:.4g} in a part of it"),
        "Take the mean over examples, and statistics of the data as constants"
        + (", or leave chunk_size out." if chunked else "; or give Objective(example_losses=...)."),
    )
