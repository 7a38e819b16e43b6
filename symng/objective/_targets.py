"""Check target values against the likelihood of the output that the loss compares them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pytensor.scalar as ps
from numpy.typing import ArrayLike
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors, toposort
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import AdvancedIncSubtensor, AdvancedSubtensor
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, describe
from symng.backends import compile_function, compile_in_python
from symng.backends.failures import evaluate
from symng.graphs.arrays import is_on_device
from symng.graphs.axes import infer_length
from symng.graphs.rewrites import is_elementwise
from symng.likelihoods import Bernoulli, Categorical, Likelihood
from symng.objective._target_views import altered_targets, views_of
from symng.objective.heads import Head
from symng.objective.loss_reading import scaled_output
from symng.objective.model import Model


class Checked(NamedTuple):
    """The values of a target that are checked, for an output with ``ndim`` axes.

    ``others`` are other arrangements of the same values. One arrangement has to pass: the loss may
    transpose target and output, or cut both into other rows.
    """

    target: TensorVariable
    values: TensorVariable
    ndim: int
    others: tuple[TensorVariable, ...] = ()


@dataclass(eq=False)
class TargetSlice:
    """A slice of a target, such as a column, and the outputs that the loss compares it with."""

    target: TensorVariable
    values: TensorVariable
    heads: set[Head]
    labels: bool = False  # whether the loss uses the values as class numbers

    @property
    def forms(self) -> list[TensorVariable]:
        """The values, and what they were rearranged from, outermost first."""
        forms = [self.values]
        while (node := forms[-1].owner) is not None and (
            isinstance(node.op, DimShuffle | Reshape | SpecifyShape)
            or is_elementwise(node.op, ps.Cast)
        ):
            forms.append(node.inputs[0])
        return forms

    def with_axes(self, ndim: int) -> TensorVariable | None:
        """Return the values in the outermost form with ``ndim`` axes; None if there is none."""
        return next(iter(self.arrangements(ndim)), None)

    def arrangements(self, ndim: int) -> list[TensorVariable]:
        """Return the values in the forms that have ``ndim`` axes, outermost first."""
        fitting = [v for v in self.forms if v.ndim == ndim]
        # Casts are skipped: 0.5 is not a class number, although its integer part is.
        casts = [v for v in fitting if v.owner is not None and is_elementwise(v.owner.op, ps.Cast)]
        return [v for v in fitting if v is fitting[-1] or v not in casts]


@dataclass(frozen=True, eq=False)
class TargetChecks:
    """The checks of target values by the likelihoods of the outputs they are compared with.

    A target slice belongs to the first output whose pre-activation it is combined with on the way
    to the loss. It is checked if its role is clear: it serves as class numbers, or is the only one
    with as many axes as the output; a weight of examples has fewer.

    Without targets an output may be compared with its own inputs, as in an autoencoder. Such inputs
    only cause a warning: the loss may leave those values out, or use them in another way.

    Attributes
    ----------
    refused, warned : mapping from head to list of Checked
        The values to be checked. A likelihood that was not read off a plain activation may be
        wrong: it only warns.
    signed : set of heads
        Those whose targets may be 1 and -1, by which the loss multiplies the logits.
    unchecked : list of Likelihood
        Likelihoods that restrict targets, of outputs whose targets were not found.
    """

    heads: tuple[Head, ...]
    variables: tuple[TensorVariable, ...]
    refused: Mapping[Head, Sequence[Checked]]
    warned: Mapping[Head, Sequence[Checked]]
    signed: frozenset[Head]
    unchecked: Sequence[Likelihood]

    def check(self, name: str, arrays: Sequence[np.ndarray]) -> list[str]:
        """Refuse targets that the likelihood of their output cannot produce; return warnings."""
        values: dict[Variable, np.ndarray] = dict(zip(self.variables, arrays, strict=True))
        if self._computed:
            on_device = any(is_on_device(a) for a in arrays)
            compute = self._compute_on_device if on_device else self._compute
            computed = evaluate(lambda a: compute(*a), arrays, name)
            values.update(zip(self._computed, computed, strict=True))
        for head, several in self.refused.items():
            for checked in several:
                self._check_any(name, head, checked, values)
        warnings = []
        for head, several in self.warned.items():
            for checked in several:
                try:
                    self._check_any(name, head, checked, values)
                except ValueError as error:
                    warnings.append(f"{error} Ignore this if the loss leaves such values out.")
        return warnings

    @cached_property
    def _computed(self) -> list[TensorVariable]:
        """The checked values that the loss computes from the variables."""
        several = (*self.refused.values(), *self.warned.values())
        found = [
            v for chosen in several for checked in chosen for v in (checked.values, *checked.others)
        ]
        return [v for v in dict.fromkeys(found) if v not in self.variables]

    @cached_property
    def _compute(self) -> Callable[..., list[np.ndarray]]:
        """The function from the variables to `_computed`."""
        return compile_in_python(self.variables, self._computed)

    @cached_property
    def _compute_on_device(self) -> Callable[..., list[np.ndarray]]:
        """`_compute` for JAX arrays, which stay on their device."""
        variables, computed = list(self.variables), self._computed
        function = compile_function(variables, computed, mode="JAX", on_unused_input="ignore")
        function.trust_input = True
        return function

    @cached_property
    def _classes(self) -> dict[Head, int | None]:
        """The number of classes of each categorical output; None if parameters do not show it."""
        return {
            head: infer_length(head.y, -1)
            for head in (*self.refused, *self.warned)
            if isinstance(head.likelihood, Categorical)
        }

    def _check_any(
        self, name: str, head: Head, checked: Checked, values: Mapping[Variable, np.ndarray]
    ) -> None:
        """Refuse values that the likelihood cannot produce in any of their arrangements."""
        *rearranged, own = (checked.values, *checked.others)
        for v in rearranged:
            try:
                return self._check(name, head, checked._replace(values=v), values[v])
            except ValueError:
                continue
        return self._check(name, head, checked._replace(values=own), values[own])

    def _check(self, name: str, head: Head, checked: Checked, values: np.ndarray) -> None:
        """Refuse values that the likelihood of an output cannot produce."""
        if head in self.signed and (abs(values) <= 1).all():
            return
        what = f"{name}, {checked.target}"
        if checked.values is not checked.target:
            what += " (as the loss takes it)"
        if len(self.heads) > 1:
            what += f" for output {head.y.name or self.heads.index(head)}"
        classes = self._classes.get(head)
        values = values if is_on_device(values) else np.asarray(values)
        head.likelihood.check_targets(what, values, checked.ndim, classes)


def read_target_checks(model: Model) -> TargetChecks:
    """Return the checks of target values that follow from the graph of the loss."""
    loss, heads, inputs, targets = model.loss, model.heads, model.inputs, model.targets
    altered = altered_targets(loss, targets)
    slices = [s for s in _find_slices(loss, heads, targets) if s.target not in altered]
    found = {head: _choose(head, [s for s in slices if head in s.heads]) for head in heads}
    warned = {head: chosen for head, chosen in found.items() if not head.is_plain}
    if not targets:
        slices = _find_slices(loss, heads, inputs, directly=True)
        sigmoids = [head for head in heads if isinstance(head.likelihood, Bernoulli)]
        warned = {head: _choose(head, [s for s in slices if head in s.heads]) for head in sigmoids}
    return TargetChecks(
        heads=heads,
        variables=model.variables,
        refused={head: chosen for head, chosen in found.items() if head.is_plain},
        warned=warned,
        signed=frozenset(head for head in heads if _is_signed(loss, head, targets)),
        unchecked=[
            head.likelihood
            for head in heads
            if targets
            and not found[head]
            and type(head.likelihood).check_targets is not Likelihood.check_targets
        ],
    )


def label_mistake(
    name: str, target: TensorVariable, array: ArrayLike, heads: Sequence[Head]
) -> Exception | None:
    """Return the error for class numbers instead of one-hot targets, or vice versa; else None."""
    shape = getattr(array, "shape", None)
    if not isinstance(shape, tuple):
        try:
            shape = np.shape(array)
        except ValueError:  # rows of several lengths
            return None
    for head in heads:
        if not isinstance(head.likelihood, Categorical):
            continue
        if target.ndim == head.y.ndim and len(shape) == target.ndim - 1:
            classes = infer_length(head.y, -1)
            rows = f"np.eye({classes or 'K'}, dtype={target.type.dtype!r})[labels]"
            return argument_error(
                f"{name}, {target}",
                f"one-hot rows, an array of {target.ndim} axes and dtype {target.type.dtype}",
                Verbatim(f"{describe(array)}, which may be class numbers"),
                f"One-hot encode them: {rows}; or declare the target as pt.ivector and index the "
                "output by it.",
            )
        labels = target.type.dtype.startswith(("int", "uint")) and target.ndim == head.y.ndim - 1
        if labels and len(shape) == head.y.ndim and shape[-1] != 1:
            return argument_error(
                f"{name}, {target}",
                f"class numbers, an array of {target.ndim} axes and dtype {target.type.dtype}",
                Verbatim(f"{describe(array)}, which may be one-hot rows"),
                "Take their class numbers: T.argmax(axis=-1).",
            )
    return None


def _is_signed(loss: TensorVariable, head: Head, targets: Sequence[TensorVariable]) -> bool:
    """Return whether the targets of a Bernoulli output may be its signs."""
    return (
        isinstance(head.likelihood, Bernoulli)
        and scaled_output(loss, head.curvature_at, [], targets)[1] is not None
    )


def _find_slices(
    loss: TensorVariable,
    heads: Sequence[Head],
    targets: Sequence[TensorVariable],
    directly: bool = False,
) -> list[TargetSlice]:
    """Return the slices of targets that enter the loss, with the outputs they are compared with.

    ``directly`` is for inputs of the model, from which a loss may compute weights as well as
    targets: the slice itself, not a function of it, must be combined with the output, outside of
    the model. Inputs that the model does not use are left out, since they may be weights.
    """
    model = set(ancestors([head.curvature_at for head in heads])) if directly else set()
    targets = [t for t in targets if t in model or not directly]
    nodes = [n for n in toposort([loss]) if not isinstance(n.op, Shape | Shape_i)]
    origin = views_of(targets, nodes)
    nodes = [n for n in nodes if n.outputs[0] not in origin and n.outputs[0] not in model]
    found = _slices_with_heads(nodes, origin, _heads_behind(heads, nodes), directly)
    # The loss may compute the output in another way.
    if not directly and len(heads) == 1 and not any(piece.heads for piece in found):
        for piece in found:
            piece.heads = set(heads)
    return found


def _heads_behind(heads: Sequence[Head], nodes: Sequence[Apply]) -> dict[Variable, set[Head]]:
    """Return the heads that each variable depends on; for an output, only its own head."""
    behind: dict[Variable, set[Head]] = {}
    for head in heads:
        for v in (head.curvature_at, head.y):
            behind.setdefault(v, set()).add(head)
    ends = set(behind)
    for node in nodes:
        if entering := _heads_in(node, behind):
            behind.update((v, entering) for v in node.outputs if v not in ends)
    return behind


def _slices_with_heads(
    nodes: Sequence[Apply],
    origin: Mapping[Variable, TensorVariable],
    behind: Mapping[Variable, set[Head]],
    directly: bool,
) -> list[TargetSlice]:
    """Return the slices of targets, each with the heads that it is combined with.

    Functions of a slice count too, unless ``directly``.
    """
    slices: dict[Variable, TargetSlice] = {}
    within: dict[Variable, set[Variable]] = {v: {v} for v in origin}  # slices in a variable
    for node in nodes:
        inputs, heads = _values_of(node), _heads_in(node, behind)
        for v in inputs:
            if v in origin and isinstance(v, TensorVariable):
                piece = slices.setdefault(v, TargetSlice(origin[v], v, set()))
                piece.labels = piece.labels or _serves_as_labels(node, v, behind)
            if v not in behind and len(heads) == 1:
                for inner in within.get(v, ()):
                    slices[inner].heads |= heads
        inside = set() if directly else {inner for v in inputs for inner in within.get(v, ())}
        within.update(dict.fromkeys(node.outputs, inside))
    return list(slices.values())


def _heads_in(node: Apply, behind: Mapping[Variable, set[Head]]) -> set[Head]:
    """Return the heads that enter ``node``."""
    return {head for v in _values_of(node) for head in behind.get(v, ())}


def _values_of(node: Apply) -> Sequence[Variable]:
    """Return the inputs of ``node`` whose values enter: the first one of a fill gives its shape."""
    return node.inputs[1:] if is_elementwise(node.op, ps.Second) else node.inputs


def _serves_as_labels(node: Apply, v: Variable, behind: Mapping[Variable, set[Head]]) -> bool:
    """Return whether ``node`` uses ``v`` as class numbers: as an index, or compared with a list."""
    if isinstance(node.op, AdvancedSubtensor):
        return v in node.inputs[1:] and node.inputs[0] in behind
    if isinstance(node.op, AdvancedIncSubtensor):
        return v in node.inputs[2:]
    compared = node.inputs
    return is_elementwise(node.op, ps.EQ) and not any(all(i.type.broadcastable) for i in compared)


def _choose(head: Head, slices: Sequence[TargetSlice]) -> list[Checked]:
    """Return what to check for an output; nothing if the role of the slices is not clear."""
    ndim, is_categorical = head.y.ndim, isinstance(head.likelihood, Categorical)
    if is_categorical and (pieces := [piece for piece in slices if piece.labels]):
        return _class_numbers(pieces, ndim)
    by_source = {piece.forms[-1]: piece for piece in slices}  # t and t[:, None]: the same values
    fitting = [
        Checked(piece.target, values[0], ndim, tuple(values[1:]))
        for piece in by_source.values()
        if (values := piece.arrangements(ndim))
    ]
    if is_categorical and len(by_source) == 1 and not fitting:
        # They may be class numbers that are used out of sight, as in a scan.
        labels = slices[0].with_axes(ndim - 1)
        if labels is not None and "int" in labels.type.dtype:
            return [Checked(slices[0].target, labels, ndim)]
    return fitting if len(fitting) == 1 else []


def _class_numbers(labels: Sequence[TargetSlice], ndim: int) -> list[Checked]:
    """Return the checks of class numbers, for an output with ``ndim`` axes."""
    shaped = []
    for piece in labels:
        values = piece.with_axes(ndim - 1)
        shaped.append((piece.target, piece.forms[-1] if values is None else values))
    return [Checked(target, values, values.ndim + 1) for target, values in dict.fromkeys(shaped)]
