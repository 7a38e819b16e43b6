"""The layers of a model: which parameters form one, and the factors of its block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.subtensor import AdvancedSubtensor
from pytensor.tensor.variable import TensorVariable

from symng.graphs.rewrites import is_elementwise
from symng.objective import Objective
from symng.objective.parameter_uses import Clients, ParameterUse, clients_in, find_all_uses
from symng.optimizers.preconditioners._blocks import Layer


def find_layers(
    objective: Objective, ends: Mapping[TensorVariable, int], shapes: Sequence[tuple[int, ...]]
) -> dict[Layer, list[ParameterUse]]:
    """Return the layers that ``ends`` depend on, each with the uses of its weights.

    The weights are used as one matrix W, at one place or several, and at some perhaps as W^T.
    """
    uses, clients = find_all_uses(objective, ends, shapes), clients_in(list(ends))
    index = {p: i for i, p in enumerate(objective.params)}
    biases = {p: shapes[i] for p, i in index.items() if p not in uses}
    layers = {}
    for p, of_p in uses.items():
        tables = [use.matrix for use in of_p if use.is_lookup]
        as_it_is = [use.matrix for use in of_p if not use.matrix.order]
        matrix = [*tables, *as_it_is, of_p[0].matrix][0]
        mirrored = [use for use in of_p if use.matrix != matrix]
        mixed = len({use.is_lookup for use in of_p if use.matrix == matrix}) > 1
        if mixed or any(use.is_lookup or use.matrix.transposed() != matrix for use in mirrored):
            continue
        bias = None if mirrored or tables else _bias_of(of_p, biases, clients)
        number, bias_shape = (None, ()) if bias is None else (index[bias], biases[bias])
        layer = Layer(
            index[p],
            number,
            shapes[index[p]],
            matrix,
            _kind_of(of_p),
            bias_shape,
            bool(tables),
            bool(mirrored),
        )
        layers[layer] = of_p
    return layers


def layer_factors(
    layer: Layer,
    uses: Sequence[ParameterUse],
    slopes: Sequence[TensorVariable],
    count: TensorVariable,
) -> list[TensorVariable]:
    """Return the factors of a layer from the derivatives by what its weights are used in.

    Each row h, of an example, or of a position or time step of one, has a derivative g of its own.
    The gradient of an example is the sum of h g^T over its T rows. Where the g of different rows
    are uncorrelated, and h is independent of g, the covariance of that sum is A (x) G, with A the
    mean of h h^T over all rows, and G the sum of g g^T over all rows divided by the number of
    examples, so T times its mean. A weight that is used several times has the rows of all uses.
    """
    factors = []
    for is_direct in (True, False):
        rows = [
            (rows_of(use, use.given), rows_of(use, slope))
            for use, slope in zip(uses, slopes, strict=True)
            if (use.matrix == layer.matrix) is is_direct
        ]
        if not rows:
            continue
        total = _sum([h.shape[0] for h, _ in rows]).astype(count.type.dtype)
        factors.append(_sum([_square(layer, h, count) for h, _ in rows]) / total)
        factors.append(_sum([pt.dot(g.T, g) for _, g in rows]) / count)
    return factors


def rows_of(use: ParameterUse, v: TensorVariable) -> TensorVariable:
    """Return ``v``, of a use what is given or a derivative, as a matrix of rows.

    Of a lookup what is given is a vector: the numbers of rows of the table.
    """
    if use.is_lookup and v.type.dtype.startswith(("int", "uint")):
        return v.flatten()
    if use.is_left:
        v = v.swapaxes(-1, -2)
    return v if v.type.ndim == 2 else v.reshape((-1, v.shape[-1]))


def _square(layer: Layer, h: TensorVariable, like: TensorVariable) -> TensorVariable:
    """Return the sum of h h^T over rows, and of a lookup its diagonal, the counts of the rows."""
    if h.type.ndim == 1:
        return pt.inc_subtensor(pt.zeros((layer.rows,), dtype=like.type.dtype)[h], 1)
    if layer.bias is not None:
        h = pt.concatenate([h, pt.ones_like(h[:, 0])[:, None]], axis=1)
    return pt.dot(h.T, h)


def _sum(terms: Sequence[TensorVariable]) -> TensorVariable:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _bias_of(
    uses: Sequence[ParameterUse],
    biases: Mapping[SharedVariable, tuple[int, ...]],
    clients: Clients,
) -> SharedVariable | None:
    """Return the parameter that is added to each product of a layer and nowhere else, or None.

    One that is subtracted has derivatives of the other sign: it is no bias of the layer.
    """
    sums = [_end_of_views(use, clients) for use in uses]
    for p, shape in biases.items():
        long = [n for n in shape if n != 1]
        if len(long) > 1 or math.prod(shape) != uses[0].matrix.lengths[1]:
            continue
        added = _added(p, clients)
        if len(added) == len(sums) and all(_is_sum(*y, added, clients) for y in sums):
            return p
    return None


def _end_of_views(use: ParameterUse, clients: Clients) -> tuple[TensorVariable, int]:
    """Return the product of a use, with its rows perhaps reshaped, and the axis of its outputs.

    What is added along the last axis after a reshape, and fits, is added to each row.
    """
    y: Any = use.output
    if use.is_left:
        return y, y.type.ndim - 2
    while len(clients.get(y, ())) == 1 and isinstance(clients[y][0][0].op, Reshape):
        y = clients[y][0][0].outputs[0]
    return y, y.type.ndim - 1


def _added(v: Variable, clients: Clients) -> list[tuple[Apply, Variable]]:
    """Return the nodes that take ``v`` or a view of it, each with what it takes."""
    found: list[tuple[Apply, Variable]] = []
    for node, _ in clients.get(v, ()):
        if isinstance(node.op, DimShuffle | Reshape | SpecifyShape):
            found += _added(node.outputs[0], clients)
        else:
            found.append((node, v))
    return found


def _is_sum(
    y: TensorVariable, axis: int, added: Sequence[tuple[Apply, Variable]], clients: Clients
) -> bool:
    """Return whether ``y`` enters nothing but a sum with a vector along ``axis``."""
    nodes = [node for node, _ in clients.get(y, ())]
    others = [v for node, v in added if [node] == nodes]
    return (
        len(others) == 1
        and is_elementwise(nodes[0].op, ps.Add)
        and len(nodes[0].inputs) == 2
        and all(one or a == axis for a, one in enumerate(others[0].type.broadcastable))
    )


def _kind_of(uses: Sequence[ParameterUse]) -> str:
    """Return what kind of layers these are the uses of."""
    if len(uses) > 1:
        return "weights used several times"
    (use,) = uses
    if use.is_lookup:
        return "row lookups"
    if use.is_by_example():
        return "dense layers"
    h: Variable = use.given
    while h.owner is not None and isinstance(h.owner.op, DimShuffle | Reshape | SpecifyShape):
        h = h.owner.inputs[0]
    indices = getattr(h.owner.op, "idx_list", ()) if h.owner is not None else ()
    if len(indices) > 1 and isinstance(h.owner.op, AdvancedSubtensor):  # pixels of each image
        return "convolutions"
    return "dense layers over positions"
