"""The layers of a model: which parameters form one, and the factors of its block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.subtensor import AdvancedSubtensor
from pytensor.tensor.variable import TensorVariable

from symng.objective.parameter_uses import ParameterUse, ParameterUses, is_kind
from symng.optimizers.preconditioners._blocks import Block, Joint, Layer

Sharing = Literal["expand", "reduce"]
"""Whether several rows of an example count each by itself, or as one."""

LARGEST_JOINT = 512  # parameters in a block that is inverted whole
LARGEST_TIED = 4096  # rows of a table that is also used as W^T, whose factor is a full matrix

Found = dict[Block, list[list[ParameterUse]]]


def find_layers(
    uses: ParameterUses, params: Sequence[SharedVariable], shapes: Sequence[tuple[int, ...]]
) -> Found:
    """Return the blocks that are no diagonals, each with the uses of its parameters.

    The weights of a layer are used as one matrix W, at one place or several, and at some perhaps as
    W^T. Their uses alone make the factors, not those of the bias.
    """
    index = {p: i for i, p in enumerate(params)}
    found: Found = {}
    taken: set[Variable] = set()
    for p, of_p in uses.found.items():
        if len(shapes[index[p]]) < 2 or any(use.kind in ("shift", "scale") for use in of_p):
            continue
        tables = [use.view for use in of_p if use.kind == "lookup"]
        as_it_is = [use.view for use in of_p if not use.view.order]
        matrix = [*tables, *as_it_is, of_p[0].view][0]
        mirrored = [use for use in of_p if use.view != matrix]
        mixed = len({use.kind for use in of_p if use.view == matrix}) > 1
        if mixed or any(
            use.kind == "lookup" or use.view.transposed() != matrix for use in mirrored
        ):
            continue
        if tables and mirrored and matrix.lengths[0] > LARGEST_TIED:
            continue
        bias = None if mirrored or tables else _bias_of(of_p, uses)
        number, bias_shape = (None, ()) if bias is None else (index[bias], shapes[index[bias]])
        found[
            Layer(
                index[p],
                number,
                shapes[index[p]],
                matrix,
                _kind_of(of_p),
                bias_shape,
                bool(tables),
                bool(mirrored),
            )
        ] = [of_p]
        taken.update([p] if bias is None else [p, bias])
    for group in _scales_and_shifts({p: u for p, u in uses.found.items() if p not in taken}):
        numbers = tuple(index[p] for p in group)
        own_shapes = tuple(shapes[i] for i in numbers)
        if sum(map(math.prod, own_shapes)) <= LARGEST_JOINT:
            found[Joint(numbers, own_shapes)] = [uses.found[p] for p in group]
    return found


def _bias_of(of_weights: Sequence[ParameterUse], uses: ParameterUses) -> SharedVariable | None:
    """Return the parameter that is added to each product of a layer and nowhere else, or None.

    One that is subtracted has derivatives of the other sign: it is no bias of the layer.
    """
    sums = [_end_of_views(use, uses) for use in of_weights]
    columns = of_weights[0].view.lengths[1]
    for p, of_p in uses.found.items():
        if len(of_p) != len(sums) or any(use.kind != "shift" for use in of_p):
            continue
        long = [n for n in of_p[0].view.lengths if n != 1]
        if math.prod(long) != columns or len(long) > 1:
            continue
        if all(
            any(_is_sum(use, weights, y, axis, uses) for use in of_p)
            for weights, (y, axis) in zip(of_weights, sums, strict=True)
        ):
            return p
    return None


def _end_of_views(use: ParameterUse, uses: ParameterUses) -> tuple[TensorVariable, int]:
    """Return the product of a use, with its rows perhaps reshaped, and the axis of its outputs.

    What is added along the last axis after a reshape, and fits, is added to each row.
    """
    y: Any = use.output
    if use.is_left:
        return y, y.type.ndim - 2
    while len(clients := uses.clients(use, y)) == 1 and isinstance(clients[0][0].op, Reshape):
        y = clients[0][0].outputs[0]
    return y, y.type.ndim - 1


def _is_sum(
    use: ParameterUse, of_weights: ParameterUse, y: TensorVariable, axis: int, uses: ParameterUses
) -> bool:
    """Return whether a use adds a vector along ``axis`` to ``y``, which enters nothing else."""
    nodes = [node for node, _ in uses.clients(of_weights, y)]
    return (
        nodes == [use.node]
        and use.scan is of_weights.scan
        and is_kind(use.node, ps.Add)
        and len(use.node.inputs) == 2
        and all(one or a == axis for a, one in enumerate(use.operand.type.broadcastable))
    )


def _scales_and_shifts(
    uses: Mapping[SharedVariable, Sequence[ParameterUse]],
) -> Iterator[list[SharedVariable]]:
    """Return the parameters that every example is scaled or shifted by, in groups.

    A group is a parameter, or a scale and the shift that is added to what it scales.
    """
    left = {
        p: of_p
        for p, of_p in uses.items()
        if all(use.kind in ("shift", "scale") and _is_for_examples(use) for use in of_p)
    }
    while left:
        p = next(iter(left))
        group = [p, *(q for q in left if q is not p and _are_pair(left[p], left[q]))][:2]
        yield sorted(group, key=lambda q: len(group) > 1 and left[q][0].kind == "shift")
        for q in group:
            del left[q]


def _is_for_examples(use: ParameterUse) -> bool:
    """Return whether the parameter is the same for each example."""
    axis = use.axis
    return isinstance(axis, int) and use.operand.type.broadcastable[axis]


def _are_pair(first: Sequence[ParameterUse], second: Sequence[ParameterUse]) -> bool:
    """Return whether the only use of one of two parameters takes what that of the other computes.

    One has to scale, the other to shift.
    """
    if len(first) != 1 or len(second) != 1 or first[0].kind == second[0].kind:
        return False
    scale, shift = (first[0], second[0]) if first[0].kind == "scale" else (second[0], first[0])
    return scale.output in shift.node.inputs and scale.scan is shift.scan


def layer_factors(
    layer: Layer,
    uses: Sequence[ParameterUse],
    given_and_slopes: Sequence[tuple[TensorVariable, TensorVariable]],
    count: TensorVariable,
    sharing: Sharing = "expand",
) -> list[TensorVariable]:
    """Return the factors of a layer from what its weights are used on, and derivatives.

    Each row h, of an example, or of a position or time step of one, has a derivative g of its own.
    The gradient of an example is the sum of h g^T over its T rows. Where the g of different rows
    are uncorrelated, and h is independent of g, the covariance of that sum is A (x) G, with A the
    mean of h h^T over all rows, and G the sum of g g^T over all rows divided by the number of
    examples, so T times its mean. A weight that is used several times has the rows of all uses.

    With ``sharing="reduce"`` an example has one row, the mean of its h and the sum of its g: exact
    where all its g are the same.
    """
    factors = []
    for is_direct in (True, False):
        rows = [
            (_rows(use, h, pt.mean, sharing), _rows(use, g, pt.sum, sharing))
            for use, (h, g) in zip(uses, given_and_slopes, strict=True)
            if (use.view == layer.matrix) is is_direct
        ]
        if not rows:
            continue
        total = sum_of([h.shape[0] for h, _ in rows]).astype(count.type.dtype)
        factors.append(sum_of([_square(layer, h, count) for h, _ in rows]) / total)
        factors.append(sum_of([pt.dot(g.T, g) for _, g in rows]) / count)
    return factors


def joint_factor(rows: Sequence[TensorVariable], count: TensorVariable) -> TensorVariable:
    """Return the mean of g g^T over examples, from rows with parts of g for each example."""
    g = rows[0] if len(rows) == 1 else pt.concatenate(rows, axis=1)
    return pt.dot(g.T, g) / count


def example_rows(
    use: ParameterUse, given: Sequence[TensorVariable], slope: TensorVariable
) -> TensorVariable:
    """Return the derivatives by a scale or shift of each example, in rows.

    ``slope`` is the derivative by what the use computes.
    """
    steps = 0 if use.scan is None else 1  # axes ahead
    example_axis = int(use.axis) + steps
    g = -slope if use.is_negative else slope
    for factor in given:
        g = g * factor
    repeated = use.operand.type.broadcastable
    axes = [a + steps for a, one in enumerate(repeated) if one and a + steps != example_axis]
    g = g.sum(axis=[*range(steps), *axes])
    example_axis -= steps + sum(a < example_axis for a in axes)
    return pt.moveaxis(g, example_axis, 0).reshape((-1, math.prod(use.view.lengths)))


def _rows(
    use: ParameterUse, v: TensorVariable, reduce: Callable[..., Any], sharing: Sharing
) -> TensorVariable:
    """Return ``v``, what a layer is used on or a derivative, as a matrix of rows.

    The numbers of the rows that a lookup takes become a vector.
    """
    if use.kind == "lookup" and v.type.dtype.startswith(("int", "uint")):
        return v.flatten()
    if use.is_left:
        v = v.swapaxes(-1, -2)
    if v.type.ndim == 2:
        return v
    if sharing == "reduce" and use.kind == "product" and isinstance(use.axis, int):
        axis = use.axis if use.scan is None else use.axis + 1
        if use.is_left and axis == v.type.ndim - 1:
            axis -= 1
        others = [a for a in range(v.type.ndim - 1) if a != axis]
        reduced: TensorVariable = reduce(v, axis=others)
        return reduced
    return v.reshape((-1, v.shape[-1]))


def _square(layer: Layer, h: TensorVariable, like: TensorVariable) -> TensorVariable:
    """Return the sum of h h^T over rows, and of a lookup its diagonal, the counts of the rows."""
    if h.type.ndim == 1:
        return pt.inc_subtensor(pt.zeros((layer.rows,), dtype=like.type.dtype)[h], 1)
    if layer.bias is not None:
        h = pt.concatenate([h, pt.ones_like(h[:, 0])[:, None]], axis=1)
    return pt.dot(h.T, h)


def sum_of(terms: Sequence[TensorVariable]) -> TensorVariable:
    """Return the sum of at least one term."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _kind_of(uses: Sequence[ParameterUse]) -> str:
    """Return what kind of layer these are the uses of."""
    if len(uses) > 1:
        return "weights used several times"
    (use,) = uses
    if use.kind == "lookup":
        return "row lookups"
    if use.scan is not None:
        return "dense layers in scans"
    h: Variable = use.given[0]
    while h.owner is not None and isinstance(h.owner.op, DimShuffle | Reshape | SpecifyShape):
        h = h.owner.inputs[0]
    indices = getattr(h.owner.op, "idx_list", ()) if h.owner is not None else ()
    if h.owner is not None and len(indices) > 1 and isinstance(h.owner.op, AdvancedSubtensor):
        return "convolutions"  # the pixels of each image
    return "dense layers"
