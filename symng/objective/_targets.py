"""Check target values against the likelihood of the output that the loss compares them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytensor.scalar as ps
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors, toposort
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import AdvancedIncSubtensor, AdvancedSubtensor
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, describe, warn
from symng.backends import PLAIN, compile_function
from symng.backends.failures import evaluate
from symng.graphs.axes import infer_length
from symng.graphs.rewrites import is_elementwise
from symng.likelihoods import Bernoulli, Categorical, Likelihood
from symng.objective.activations import VIEWS
from symng.objective.loss_reading import scaled_output

if TYPE_CHECKING:
    from symng.objective.heads import Head


@dataclass(eq=False)
class TargetSlice:
    """A slice of a target, such as a column, and the outputs that the loss compares it with."""

    target: TensorVariable
    values: TensorVariable
    heads: set[Any]
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
        """Return the values in the form that has ``ndim`` axes, if there is one."""
        fitting = [v for v in self.forms if v.ndim == ndim]
        # Casts are skipped: 0.5 is no class number, although its integer part is.
        casts = [v for v in fitting if v.owner is not None and is_elementwise(v.owner.op, ps.Cast)]
        return next((v for v in fitting if v is fitting[-1] or v not in casts), None)


class TargetChecks:
    """Check the values of targets by the likelihoods of the outputs that they are compared with.

    A target slice belongs to the first output whose pre-activation it is combined with on the way
    to the loss. It is checked if its role is clear: it serves as class numbers, or is the only one
    with as many axes as the output; a weight of examples has fewer.

    Without targets an output may be compared with its own inputs, as in an autoencoder. Such inputs
    only cause a warning, once: the loss may leave those values out, or use them in another way.
    """

    def __init__(
        self,
        loss: Any,
        heads: Sequence[Head],
        inputs: Sequence[TensorVariable],
        targets: Sequence[TensorVariable],
    ) -> None:
        self.heads, self.inputs, self.targets = tuple(heads), tuple(inputs), tuple(targets)
        slices = _find_slices(loss, heads, targets)
        found = {head: _choose(head, [p for p in slices if head in p.heads]) for head in heads}
        self._found = [head for head in heads if found[head]]
        self._checked = {head: chosen for head, chosen in found.items() if head.is_plain}
        # A likelihood that was not read off a plain activation may be wrong: it only warns.
        self._warned = {head: chosen for head, chosen in found.items() if not head.is_plain}
        if not targets:
            slices = _find_slices(loss, heads, inputs, directly=True)
            sigmoids = [head for head in heads if isinstance(head.likelihood, Bernoulli)]
            self._warned = {
                head: _choose(head, [p for p in slices if head in p.heads]) for head in sigmoids
            }
        # Labels of 1 and -1, by which the loss multiplies the logits.
        self._signed = {h for h in heads if _is_signed(loss, h, targets)}
        self._classes: dict[Any, int | None] = {}
        self._compute: Any = None

    @property
    def unchecked(self) -> list[Likelihood]:
        """Likelihoods that restrict targets, of outputs whose targets were not found."""
        able = [
            h
            for h in self.heads
            if type(h.likelihood).check_targets is not Likelihood.check_targets
        ]
        return [h.likelihood for h in able if h not in self._found] if self.targets else []

    def __call__(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Refuse a batch with targets that the likelihood of their output cannot produce."""
        values: dict[Variable, Any] = dict(zip((*self.inputs, *self.targets), arrays, strict=True))
        found = [*self._checked.values(), *self._warned.values()]
        rest = [v for checked in found for _, v, _ in checked if v not in values]
        if rest:
            if self._compute is None:
                inputs = [*self.inputs, *self.targets]
                self._compute = compile_function(inputs, rest, mode=PLAIN, on_unused_input="ignore")
            values.update(
                zip(rest, evaluate(lambda a: self._compute(*a), arrays, name), strict=True)
            )
        for head, checked in self._checked.items():
            for target, v, ndim in checked:
                self._check(name, head, target, v, ndim, values[v])
        for head, checked in self._warned.items():
            for x, v, ndim in checked:
                try:
                    self._check(name, head, x, v, ndim, values[v])
                except ValueError as error:
                    message = f"{error} Ignore this if the loss leaves such values out."
                    warn(message)
                    self._warned = {}  # once is enough

    def _check(
        self,
        name: str,
        head: Head,
        target: TensorVariable,
        v: TensorVariable,
        ndim: int,
        values: np.ndarray,
    ) -> None:
        """Refuse values that the likelihood of an output cannot produce."""
        if head in self._signed and (abs(values) <= 1).all():
            return
        what = f"{name}, {target}" if v is target else f"{name}, {target} (as the loss takes it)"
        if len(self.heads) > 1:
            what += f" for output {head.y.name or self.heads.index(head)}"
        head.likelihood.check_targets(what, np.asarray(values), ndim, self._classes_of(head))

    def _classes_of(self, head: Head) -> int | None:
        """Return the number of classes of a categorical output, if its parameters give it."""
        if isinstance(head.likelihood, Categorical) and head not in self._classes:
            self._classes[head] = infer_length(head.y, -1)
        return self._classes.get(head)


def label_mistake(name: str, target: Any, array: Any, heads: Sequence[Head]) -> Exception | None:
    """Return the error for class numbers in place of one-hot targets, or vice versa; else None."""
    try:
        shape = array.shape if isinstance(getattr(array, "shape", None), tuple) else np.shape(array)
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


def _is_signed(loss: Any, head: Head, targets: Sequence[TensorVariable]) -> bool:
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
    """Return the slices of targets that enter the loss, and the outputs they are compared with.

    ``directly`` is for inputs of the model, from which a loss may compute weights and targets: it
    asks that no function of a part, but the part itself, meets the output, and outside of the
    model. What the model does not take is left out, for it may be a weight.
    """
    model = set(ancestors([head.curvature_at for head in heads])) if directly else set()
    targets = [t for t in targets if t in model or not directly]
    origin: dict[Variable, TensorVariable] = {t: t for t in targets}  # the target behind each part
    within: dict[Variable, set[Variable]] = {
        t: {t} for t in targets
    }  # the parts that a variable is made of
    sides: dict[Variable, set[Any]] = {}  # the heads that it is made of
    v: Any
    for head in heads:
        for v in (head.curvature_at, head.y):
            sides.setdefault(v, set()).add(head)
    marks = set(sides)
    slices: dict[Variable, TargetSlice] = {}
    for node in toposort([loss]):
        if isinstance(node.op, Shape | Shape_i):  # what follows from lengths is not a value
            continue
        first: Any = node.inputs[0] if node.inputs else None
        if first in origin and (isinstance(node.op, VIEWS) or is_elementwise(node.op, ps.Cast)):
            v = node.outputs[0]
            origin[v], within[v] = origin[first], {v}
            continue
        if node.outputs[0] in model:
            continue
        # The first input of a fill gives its shape alone.
        inputs = node.inputs[1:] if is_elementwise(node.op, ps.Second) else node.inputs
        met = {head for v in inputs for head in sides.get(v, ())}
        for v in inputs:
            if v in origin:
                piece = slices.setdefault(v, TargetSlice(origin[v], v, set()))
                piece.labels = piece.labels or _serves_as_labels(node, v, sides)
            if v not in sides:
                for inner in within.get(v, ()):
                    slices[inner].heads |= met if len(met) == 1 else set()
        for v in node.outputs:
            within[v] = (
                set() if directly else {inner for i in inputs for inner in within.get(i, ())}
            )
            if met and v not in marks:
                sides[v] = met
    found = list(slices.values())
    # The loss may compute the output in another way.
    if not directly and len(heads) == 1 and not any(p.heads for p in found):
        for piece in found:
            piece.heads = set(heads)
    return found


def _serves_as_labels(node: Apply, v: Variable, sides: dict[Variable, set[Any]]) -> bool:
    """Return whether ``node`` uses ``v`` as class numbers: as an index, or compared with a list."""
    if isinstance(node.op, AdvancedSubtensor):
        return v in node.inputs[1:] and node.inputs[0] in sides
    if isinstance(node.op, AdvancedIncSubtensor):
        return v in node.inputs[2:]
    compared: Any = node.inputs
    return is_elementwise(node.op, ps.EQ) and not any(all(i.type.broadcastable) for i in compared)


def _choose(
    head: Head, slices: Sequence[TargetSlice]
) -> list[tuple[TensorVariable, TensorVariable, int]]:
    """Return what to check for an output: target, values, and number of axes of the output."""
    ndim, categorical = head.y.ndim, isinstance(head.likelihood, Categorical)
    labels = [p for p in slices if p.labels and categorical]
    if labels:
        shaped = [
            (p.target, p.forms[-1] if (v := p.with_axes(ndim - 1)) is None else v) for p in labels
        ]
        return [(target, v, v.ndim + 1) for target, v in dict.fromkeys(shaped)]
    by_source = {p.forms[-1]: p for p in slices}  # t and t[:, None] are the same values
    fitting = [
        (p.target, v, ndim) for p in by_source.values() if (v := p.with_axes(ndim)) is not None
    ]
    if (
        categorical and len(by_source) == 1 and not fitting
    ):  # class numbers that are used out of sight, as in a scan
        fitting = [
            (p.target, v, ndim) for p in slices[:1] if (v := p.with_axes(ndim - 1)) is not None
        ]
        fitting = [found for found in fitting if "int" in found[1].type.dtype]
    return fitting if len(fitting) == 1 else []
