"""Models whose layers are `OpFromGraph` ops: all that is read off the graph looks inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.builders import OpFromGraph
from pytensor.gradient import grad
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.replace import vectorize_graph
from pytensor.graph.traversal import ancestors
from pytensor.raise_op import Assert
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.special import Softmax

import symng
from symng.graphs.rewrites import inline
from symng.optimizers.preconditioners._factors import Kronecker

MODE = "FAST_COMPILE"
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((5, 3)), np.eye(2)[[0, 1, 1, 0, 1]]


class Layer(OpFromGraph):
    """An op of a package's own, as pytensor-ml makes them."""


def as_op(function: Any, *inputs: Any, kind: type = OpFromGraph, **kwargs: Any) -> Any:
    """Return what ``function`` computes from ``inputs``, in an op of its own."""
    dummies = [v.type() for v in inputs]
    return kind(dummies, [function(*dummies)], **kwargs)(*inputs)


def dense(x: Any, W: Any, b: Any) -> Any:
    return pt.tanh(x @ W + b)


def normalize(h: Any) -> Any:
    return (h - h.mean(axis=0)) / pt.sqrt(h.var(axis=0) + 0.1)


def plainly(function: Any, *inputs: Any, **kwargs: Any) -> Any:
    return function(*inputs)


def in_op(function: Any, *inputs: Any) -> Any:
    return as_op(function, *inputs)


def in_layer(function: Any, *inputs: Any) -> Any:
    return as_op(function, *inputs, kind=Layer)


def in_op_in_op(function: Any, *inputs: Any) -> Any:
    return as_op(lambda *inner: as_op(function, *inner), *inputs)


def with_derivative(function: Any, *inputs: Any) -> Any:
    """Return an op with a derivative given beside it, the true one."""
    return as_op(
        function,
        *inputs,
        pullback=lambda inner, outputs, slopes: grad(
            None, inner, known_grads={function(*inner): slopes[0]}
        ),
    )


WRAPS = [in_op, in_layer, in_op_in_op, with_derivative]


def network(wrap: Any, middle: Any = lambda h: h) -> symng.Objective:
    """Return a network of two layers, each wrapped by ``wrap``, with ``middle`` in between."""
    rng = np.random.default_rng(1)
    x, t = pt.matrix("x"), pt.matrix("t")
    params = [
        pytensor.shared(rng.standard_normal(shape), name=name)
        for name, shape in {"W": (3, 4), "b": (4,), "V": (4, 2), "c": (2,)}.items()
    ]
    h = wrap(middle, wrap(dense, x, *params[:2]))
    y = wrap(lambda h, V, c: pt.special.softmax(h @ V + c, axis=-1), h, *params[2:])
    loss = wrap(lambda y, t: -(t * pt.log(y)).sum(axis=1).mean(), y, t)
    return symng.Objective(loss, y, params, inputs=[x], targets=[t])


def value(objective: symng.Objective, graph: Any) -> Any:
    roots = [*objective.inputs, *objective.targets]
    return pytensor.function(roots, graph, mode=MODE, on_unused_input="ignore")(X, T)


def has_ops(v: Any) -> bool:
    """Return whether an `OpFromGraph` is left in the graph of ``v``."""
    return any(isinstance(a.owner.op, OpFromGraph) for a in ancestors([v]) if a.owner)


@pytest.mark.parametrize("wrap", [in_op, in_layer, in_op_in_op])
def test_layers_examples_and_activation_are_found_inside(wrap: Any) -> None:
    plain, other = network(plainly), network(wrap)
    assert repr(other) == repr(plain)  # softmax, a mean over examples
    assert [(b.weights, b.bias) for b in Kronecker(other).blocks] == [(0, 1), (2, 3)]
    for metric in (symng.Fisher(), symng.EmpiricalFisher()):
        wanted, got = (value(o, metric(o).materialise()) for o in (plain, other))
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("wrap", [plainly, *WRAPS])
def test_batch_normalization_is_found_inside(wrap: Any) -> None:
    objective = network(wrap, normalize)
    assert objective.example_losses is None
    with pytest.raises(ValueError, match="example_losses"):
        symng.EmpiricalFisher()(objective)
    with pytest.raises(ValueError, match="chunk_size"):
        symng.compile_step(objective, symng.NaturalGradient(), mode=MODE, chunk_size=2)
    if wrap is not with_derivative:  # such an op stays, and the loss with it
        # of each example.
        assert network(wrap, lambda h: h - h.mean(axis=1, keepdims=True)).reduction == "mean"


def test_a_derivative_of_an_op_s_own_is_kept() -> None:
    """A straight-through sign: its true derivative is zero."""
    x = pt.matrix("x")
    w = pytensor.shared(RNG.standard_normal((3, 2)), name="w")
    straight = as_op(pt.sign, x @ w, pullback=lambda inputs, outputs, slopes: [slopes[0]])
    objective = symng.Objective(straight.sum(axis=1).mean(), straight, [w], inputs=[x])
    slope = pytensor.function([x], grad(objective.loss, w), mode=MODE)(X)
    np.testing.assert_allclose(slope, np.repeat(X.mean(axis=0)[:, None], 2, axis=1), rtol=1e-12)
    assert objective.reduction == "mean"


class Opaque(Op):
    """An op written in Python: nobody sees whether it mixes examples."""

    __props__ = ()
    gufunc_signature = "(k)->(k)"

    def make_node(self, x: Any) -> Apply:
        return Apply(self, [x], [x.type()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        outputs[0][0] = inputs[0] - inputs[0].mean()

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        return [cotangents[0] - cotangents[0].mean()]


def test_an_op_that_cannot_be_opened_is_taken_to_mix_examples() -> None:
    x = pt.matrix("x")
    w = pytensor.shared(RNG.standard_normal((3, 2)), name="w")

    def reduction(y: Any) -> Any:
        return symng.Objective(pt.sqr(y).sum(axis=1).mean(), y, [w], inputs=[x]).reduction

    assert reduction(Opaque()(x @ w)) is None
    assert reduction(x @ Opaque()(w)) == "mean"  # no example enters it
    assert reduction(Blockwise(Opaque())(x @ w)) == "mean"  # one example after the other


def test_chunks_of_a_model_with_an_op_that_cannot_be_opened() -> None:
    class Unsigned(Opaque):
        gufunc_signature = None

    def step(op: Any, chunk_size: int | None) -> Any:
        x, w = pt.matrix("x"), pytensor.shared(np.ones((3, 2)), name="w")
        y = op(x @ w)
        objective = symng.Objective(pt.sqr(y - x[:, :2]).sum(axis=1).mean(), y, [w], inputs=[x])
        return symng.compile_step(objective, symng.SGD(0.1), mode=MODE, chunk_size=chunk_size)

    with pytest.raises(
        ValueError,
        match=r"^chunk_size: .* the op Unsigned, which may mix .* wrap it: .*Blockwise\(op",
    ):
        step(Unsigned(), 2)
    wrapped = Blockwise(Unsigned(), signature="(k)->(k)")
    np.testing.assert_allclose(
        step(wrapped, 2)((X,)).loss, step(wrapped, None)((X,)).loss, rtol=1e-12
    )


@pytest.mark.parametrize(
    "wanted, mix",
    [
        ("mean", lambda h: pt.sort(h, axis=1)),
        (None, lambda h: pt.sort(h, axis=0)),
        ("mean", lambda h: Assert("h")(h, pt.all(h < 9))),  # a condition does not enter the value
        ("mean", lambda h: pt.cumsum(h, axis=1)),
        (None, lambda h: pt.cumsum(h, axis=0)),
        ("mean", lambda h: pt.special.softmax(h, axis=1)),
        (None, lambda h: pt.special.softmax(h, axis=0)),
        # Attention from example to example.
        (
            None,
            lambda h: pt.special.softmax(h @ h.T, axis=-1) @ h,
        ),
        (None, lambda h: h @ (h.T @ h)),
        ("mean", lambda h: pt.matmul(h[:, :, None], h[:, None, :]).sum(axis=2)),
        ("mean", lambda h: pt.einsum("ni,nj->nij", h, h).sum(axis=2)),
        ("mean", lambda h: h - pt.logsumexp(h, axis=1, keepdims=True)),
    ],
)
def test_what_mixes_examples(wanted: Any, mix: Any) -> None:
    assert network(plainly, mix).reduction == wanted


@pytest.mark.parametrize("wanted, inside", [("mean", lambda h: h), (None, normalize)])
def test_examples_are_followed_into_a_scan(wanted: Any, inside: Any) -> None:
    x, t = pt.tensor3("x"), pt.matrix("t")
    w = pytensor.shared(np.full((2, 2), 0.1), name="w")
    trace = pytensor.scan(
        lambda x_t, h, w: pt.tanh(x_t + inside(h @ w)),
        [x],
        [pt.zeros_like(x[0])],
        [w],
        return_updates=False,
    )
    y = trace[-1]
    objective = symng.Objective(
        pt.sqr(y - t).sum(axis=1).mean(), y, [w], inputs=[x], targets=[t], data_axes=[1, 0]
    )
    assert objective.reduction == wanted


def test_dense_layers_written_with_einsum_are_found() -> None:
    x = pt.matrix("x")
    W, b = pytensor.shared(np.ones((3, 2)), name="W"), pytensor.shared(np.ones(2), name="b")
    y = pt.einsum("ni,ij->nj", x, W) + b
    blocks = Kronecker(symng.Objective(pt.sqr(y).sum(axis=1).mean(), y, [W, b], inputs=[x])).blocks
    assert [(block.weights, block.bias) for block in blocks] == [(0, 1)]


def test_inline_keeps_names_and_what_needs_no_change() -> None:
    x, w = pt.matrix("x"), pt.matrix("w")
    h = pt.tanh(x)
    y = as_op(lambda a, b: pt.special.softmax(a @ b, axis=-1), h, w)
    y.name = "y"
    (same, opened), _ = inline([h, y])
    assert same is h and opened.name == "y"
    assert isinstance(opened.owner.op, Softmax)  # PyTensor's own, known to backends
    assert h in set(ancestors([opened])) and not has_ops(opened.owner.inputs[0])
    identity = as_op(lambda v: v, x)
    identity.name = "z"
    (opened,), _ = inline([identity])
    assert opened is x and x.name == "x"
    batched = vectorize_graph(as_op(pt.tanh, x), {x: pt.tensor3("many")})
    (opened,), _ = inline([batched])
    np.testing.assert_allclose(opened.eval({"many": X[None]}, mode=MODE), np.tanh(X)[None])


def test_states_given_from_the_users_graph_are_followed() -> None:
    x, t = pt.tensor3("x"), pt.matrix("t")
    w = pytensor.shared(np.full((2, 2), 0.1), name="w")

    def objective(wrap: Any) -> Any:
        cells = wrap(lambda x: 2 * x, x)
        trace = pytensor.scan(
            lambda c, h, w: pt.tanh(c + h @ w),
            [cells],
            [pt.zeros_like(cells[0])],
            [w],
            return_updates=False,
        )
        y = wrap(lambda h: 3 * h, trace[-1])
        loss = pt.sqr(y - t).sum(axis=1).mean()
        o = symng.Objective(loss, y, [w], inputs=[x], targets=[t], data_axes=[1, 0])
        F = symng.StructuralDamping(hidden=[trace], coefficient=1.0)(o)
        return pytensor.function([x], F.materialise(), mode=MODE, on_unused_input="ignore")

    data = RNG.standard_normal((3, 4, 2))
    np.testing.assert_allclose(objective(in_op)(data), objective(plainly)(data), rtol=1e-12)


def test_energy_given_as_an_op() -> None:
    v, s = pt.matrix("v"), pt.matrix("s")
    b = pytensor.shared(np.zeros(3), name="b")
    objectives = [
        symng.EnergyObjective(
            lambda x, wrap=wrap: wrap(lambda x, b: -x @ b, x, b), params=[b], data=v, samples=s
        )
        for wrap in (plainly, in_op)
    ]
    matrices = [symng.Fisher()(o).materialise().eval({s: X}, mode=MODE) for o in objectives]
    np.testing.assert_allclose(*matrices, rtol=1e-12)
    shifted = [o.loss_at([b + 1.0]).eval({v: X, s: 2 * X}, mode=MODE) for o in objectives]
    np.testing.assert_allclose(*shifted, rtol=1e-12)
    assert not has_ops(objectives[1].loss)
