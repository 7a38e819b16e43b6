"""The diagonal of the empirical Fisher matrix against a loop over examples."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.compiled import REWRITTEN_GRAPH, nodes_of
from helpers.modes import modes
from symng.vectors import random_signs

import symng


def reference(case, centered=False):
    """Return the mean (centered: the variance) of the gradients of single examples, elementwise."""
    gradients = oracles.example_gradients(case)
    return ((gradients - centered * gradients.mean(axis=0)) ** 2).mean(axis=0)


def diagonal_of(case, centered=False, **settings):
    """Return the diagonal as computed by the package."""
    metric = symng.EmpiricalFisher(centered=centered)
    return oracles.value(metric.diagonal(case.objective, **settings), case.givens)


def layer_case(layer, *shapes, given=False):
    """Return a network with first layer ``layer(x, *parameters)``, on five examples."""
    rng = np.random.default_rng(0)
    x, t = pt.matrix("x"), pt.matrix("t")
    params = [oracles.shared(rng, *shape, name=f"p{i}") for i, shape in enumerate(shapes)]
    w = oracles.shared(rng, 4, 2, name="w")
    r = pt.tanh(layer(x, *params)) @ w
    losses = pt.sqr(r - t).sum(axis=1)
    loss = pt.log1p(losses.mean()) if given else losses.mean()
    options = {"example_losses": losses} if given else {}
    return oracles.make_case(
        loss,
        [r],
        [*params, w],
        ["gaussian"],
        [r],
        {x: rng.standard_normal((5, 3))},
        {t: rng.standard_normal((5, 2))},
        **options,
    )


LAYERS = {
    "matmul": lambda: layer_case(lambda x, W, b: x @ W + b, (3, 4), (4,)),
    "dot": lambda: layer_case(lambda x, W, b: b + pt.dot(x, W), (3, 4), (4,)),
    "transposed": lambda: layer_case(lambda x, W, b: x @ W.T - b, (4, 3), (4,)),
    "column": lambda: layer_case(
        lambda x, w, b: pt.dot(x, w)[:, None] * np.arange(1.0, 5) + b, (3,), ()
    ),
    "scalar bias": lambda: layer_case(lambda x, W, b: x @ W + b, (3, 4), ()),
}
NETWORKS = {
    "mean": lambda: oracles.mlp_case("categorical", scale=3.0),
    "sum": lambda: oracles.mlp_case("bernoulli", reduce="sum"),
    "vector": lambda: oracles.vector_case("poisson"),
    "several outputs": oracles.several_case,
}


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_dense_layers_are_exact(name, centered):
    case = {**LAYERS, **NETWORKS}[name]()
    assert np.allclose(
        diagonal_of(case, centered, draws=1), reference(case, centered), rtol=1e-11, atol=1e-15
    )


def test_losses_that_were_given():
    case = layer_case(lambda x, W, b: x @ W + b, (3, 4), (4,), given=True)
    mean = oracles.Case(**{**vars(case), "loss": case.objective.example_losses.mean()})
    assert np.allclose(diagonal_of(case, draws=1), reference(mean), rtol=1e-12)


def decayed_case():
    """Return a network with weight decay on its matrices, not its bias."""
    rng = np.random.default_rng(1)
    x, t = pt.matrix("x"), pt.matrix("t")
    w, b = oracles.shared(rng, 3, 2, name="w"), oracles.shared(rng, 2, name="b")
    r = x @ w + b
    loss = pt.sqr(r - t).sum(axis=1).mean() + 0.3 * pt.sqr(w).sum()
    return oracles.make_case(
        loss,
        [r],
        [w, b],
        ["gaussian"],
        [r],
        {x: rng.standard_normal((5, 3))},
        {t: rng.standard_normal((5, 2))},
    )


ESTIMATED = {
    # The case, and which of its parameters are exact still.
    "tied": (lambda: oracles.mlp_case("bernoulli", tied=True), slice(12, None)),
    "recurrent": (oracles.recurrent_case, slice(0, 0)),
    "weight decay": (decayed_case, slice(6, None)),
    "a product with every row": (
        lambda: layer_case(lambda x, W, b: (x @ W) * b, (3, 4), (4,)),
        slice(0, 12),
    ),
}


@pytest.mark.parametrize("name", ESTIMATED)
def test_other_parameters_are_estimated_within_the_error_bar(name):
    make, exact = ESTIMATED[name]
    case, draws = make(), 400
    wanted = reference(case)
    found = diagonal_of(case, draws=draws)
    assert np.allclose(found[exact], wanted[exact], rtol=1e-11)
    errors = np.delete((found / wanted - 1) / np.sqrt(2 / draws), exact)
    assert 0.2 < np.sqrt((errors**2).mean()) < 1.2 and abs(errors).max() < 4
    few = [diagonal_of(case, draws=1, seed=seed) for seed in range(3)]
    assert all(np.allclose(one[exact], wanted[exact], rtol=1e-11) for one in few)
    assert not np.allclose(few[0], few[1]) and not np.allclose(few[1], few[2])


def test_layers_below_a_mixing_of_examples_are_not_taken_for_exact():
    rng = np.random.default_rng(2)
    x, t = pt.matrix("x"), pt.matrix("t")
    w1, w2 = oracles.shared(rng, 3, 2, name="w1"), oracles.shared(rng, 2, 2, name="w2")
    h = x @ w1
    r = pt.tanh(h - h.mean(axis=0)) @ w2  # a batch normalization
    losses = pt.sqr(r - t).sum(axis=1)
    objective = symng.Objective(
        losses.mean(), output=r, params=[w1, w2], inputs=[x], targets=[t], example_losses=losses
    )
    givens = {x: rng.standard_normal((6, 3)), t: rng.standard_normal((6, 2))}
    slopes = pt.stack(
        [pt.concatenate([g.ravel() for g in pytensor.grad(losses[n], [w1, w2])]) for n in range(6)]
    )
    wanted = (oracles.value(slopes, givens) ** 2).mean(axis=0)
    found = oracles.value(symng.EmpiricalFisher().diagonal(objective, draws=400), givens)
    assert np.allclose(found[6:], wanted[6:], rtol=1e-12)
    errors = (found[:6] / wanted[:6] - 1) / np.sqrt(2 / 400)
    assert 0.2 < np.sqrt((errors**2).mean()) < 1.2


def test_parameters_outside_of_the_loss_have_none():
    x, t = pt.matrix("x"), pt.matrix("t")
    w, b = pytensor.shared(np.ones((3, 2)), name="w"), pytensor.shared(np.ones(2), name="b")
    r = x @ w
    objective = symng.Objective(
        pt.sqr(r - t).sum(axis=1).mean(), output=r + b, params=[w, b], inputs=[x], targets=[t]
    )
    givens = {x: np.ones((4, 3)), t: np.zeros((4, 2))}
    assert (
        oracles.value(symng.EmpiricalFisher().diagonal(objective), givens) == [36.0] * 6 + [0.0] * 2
    ).all()


def test_a_layer_whose_shape_alone_is_read_has_none():
    x, t = pt.matrix("x"), pt.matrix("t")
    w, u = pytensor.shared(np.ones((3, 2)), name="w"), pytensor.shared(np.ones((3, 4)), name="u")
    r = (x @ w)[:, : (x @ u).shape[1] // 2]
    loss = pt.sqr(r - t).sum(axis=1).mean()
    objective = symng.Objective(loss, output=r, params=[w, u], inputs=[x], targets=[t])
    givens = {x: np.ones((4, 3)), t: np.zeros((4, 2))}
    diagonal = oracles.value(symng.EmpiricalFisher().diagonal(objective), givens)
    np.testing.assert_array_equal(diagonal, [36.0] * 6 + [0.0] * 12)


def test_float32_stays_and_the_backward_pass_is_shared():
    case = oracles.mlp_case("categorical", "r", dtype="float32")
    slopes = pytensor.grad(case.loss, case.params)
    counts = []
    for outputs in (slopes, [*slopes, symng.EmpiricalFisher().diagonal(case.objective)]):
        f = pytensor.function(list(case.givens), outputs, mode=REWRITTEN_GRAPH)
        nodes = nodes_of(f)
        assert all(
            v.type.dtype != "float64"
            for node in nodes
            for v in node.outputs
            if getattr(v.type, "ndim", 0)
        )
        counts.append(
            sum(
                type(n.op).__name__ in ("Dot", "Dot22", "Gemm", "Dot22Scalar", "Matmul")
                for n in nodes
            )
        )
    assert counts == [5, 7]  # one product more for each matrix


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_signs_are_random(dtype):
    like, seed = pt.vector(dtype=dtype), pt.lscalar()
    f = pytensor.function([like, seed], random_signs(like, seed, 6))
    n = 4000
    signs = np.concatenate([f(np.zeros(n, dtype=dtype), k) for k in (0, 1, 2, 10**9)])
    assert signs.dtype == dtype and signs.shape == (24, n) and (abs(signs) == 1).all()
    correlations = np.corrcoef(signs.astype(float))[np.triu_indices(24, 1)] * np.sqrt(n)
    neighbors = [
        (row[lag:] * row[:-lag]).mean() * np.sqrt(n)
        for row in signs.astype(float)
        for lag in (1, 2, 7)
    ]
    for values in (correlations, signs.mean(axis=1) * np.sqrt(n), np.array(neighbors)):
        assert 0.7 < values.std() < 1.3 and abs(values).max() < 4.5
    assert (f(np.ones(n, dtype=dtype), 2) == signs[12:18]).all()  # of seed and length alone


@pytest.mark.parametrize("mode", modes("CVM", "NUMBA", "JAX", slow=["CVM", "NUMBA"]))
def test_signs_are_the_same_on_every_backend(mode):
    like, seed = pt.vector(dtype="float32"), pt.lscalar()
    wanted = [[1, 1, 1, 1, -1, -1, 1, 1], [1, -1, -1, 1, 1, 1, 1, -1]]
    assert (
        np.asarray(
            pytensor.function([like, seed], random_signs(like, seed, 2), mode=mode)(
                np.zeros(8, dtype="float32"), 3
            )
        ).tolist()
        == wanted
    )


def test_refusals():
    case = oracles.mlp_case("bernoulli")
    with pytest.raises(ValueError, match="^draws: expected a whole number, at least 1"):
        symng.EmpiricalFisher().diagonal(case.objective, draws=0)
    with pytest.raises(TypeError, match="^seed: expected a whole number"):
        symng.EmpiricalFisher().diagonal(case.objective, seed=0.5)
    with pytest.raises(TypeError, match="^objective: expected a symng.Objective"):
        symng.EmpiricalFisher().diagonal(case.loss)
    x, w = pt.matrix("x"), pytensor.shared(np.ones(2), name="w")
    mixed = symng.Objective(pt.sqr((x @ w).sum()), output=x @ w, params=[w], inputs=[x])
    with pytest.raises(ValueError, match="^example_losses: expected .* Give Objective"):
        symng.EmpiricalFisher().diagonal(mixed)


@pytest.mark.parametrize("name", ["gaussian", "bernoulli", "categorical", "several", "centered"])
def test_diagonal_of_an_operator_with_a_root(name):
    """Estimated from signed sums of the rows of R, R^T R = A.

    Never negative, and as near as their squares tell.
    """
    case = (
        oracles.several_case()
        if name == "several"
        else oracles.mlp_case("bernoulli" if name == "centered" else name)
    )
    metric = symng.EmpiricalFisher(centered=True) if name == "centered" else symng.Fisher()
    operator, draws = metric(case.objective), 400
    wanted = np.diag(oracles.value(operator.materialise(), case.givens))
    found = oracles.value(operator.diagonal(draws, seed=3), case.givens)
    assert (found >= 0).all() and (wanted > 0).any()
    errors = (found - wanted)[wanted > 0] / (np.sqrt(2 / draws) * wanted[wanted > 0])
    assert abs(errors).max() < 4.5 and np.sqrt((errors**2).mean()) > 0.2
    one, other = (oracles.value(operator.diagonal(1, seed=seed), case.givens) for seed in (3, 4))
    assert (one >= 0).all() and not np.allclose(one, other)
    both = oracles.value(operator.diagonal(2, seed=1), case.givens)
    first, second = (oracles.value(operator.diagonal(1, seed=seed), case.givens) for seed in (2, 3))
    np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-10)
