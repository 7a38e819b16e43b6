"""Batches in chunks: the same results to rounding, and less memory."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import needs_jax

import symng
from symng import vectors
from symng.models import mlp
from symng.objective.batches import Batch, as_batch
from symng.objective.chunks import layout_of, make_batch, split_into_chunks

MODE = "FAST_COMPILE"
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((23, 4)), RNG.random((23, 2))
CHUNK = 5


def make_objective(reduction: str = "mean", decay: float = 0.0) -> symng.Objective:
    """Return a network of two layers, with the loss a mean or a sum over examples."""
    x, t = pt.matrix("x"), pt.matrix("t")
    model = mlp(x, [4, 3, 2], activation="tanh", output="sigmoid", dtype="float64")
    r = model.preactivation
    losses = (pt.softplus(r) - t * r).sum(axis=1)
    loss = losses.mean() if reduction == "mean" else losses.sum()
    if decay:
        loss = loss + decay * sum(pt.sqr(p).sum() for p in model.params)
    return symng.Objective(loss, output=model.output, params=model.params, inputs=[x], targets=[t])


def chunked(objective: symng.Objective, arrays: tuple[Any, ...]) -> tuple[Batch, list[Any]]:
    """Return the objective on a batch in chunks, and the arrays as it takes them."""
    batch = make_batch(objective, [layout_of(arrays, objective.data_axes, CHUNK)])
    return batch, split_into_chunks(arrays, objective.data_axes, CHUNK)


def evaluate(batch: symng.Objective | Batch, graph: Any, arrays: Any) -> Any:
    return pytensor.function(as_batch(batch).variables, graph, mode=MODE, on_unused_input="ignore")(
        *arrays
    )


@pytest.mark.parametrize(
    "examples", [23, 20, 6], ids=["ragged", "even", "one chunk and one example"]
)
def test_cut(examples):
    layout = layout_of((X[:examples],), (0,), CHUNK)
    parts = split_into_chunks((X[:examples],), (0,), CHUNK)
    assert [p.shape for p in parts] == [(examples // CHUNK, CHUNK, 4), (examples % CHUNK, 4)][
        : len(parts)
    ]
    assert (layout.chunked, layout.ragged) == (True, examples % CHUNK > 0)
    np.testing.assert_array_equal(
        np.concatenate([parts[0].reshape(-1, 4), *parts[1:]]), X[:examples]
    )


def test_cut_along_another_axis():
    A = RNG.standard_normal((3, 11, 2))
    stacked, rest = split_into_chunks((A,), (1,), CHUNK)
    assert stacked.shape == (2, 3, CHUNK, 2)
    np.testing.assert_array_equal(np.concatenate([*stacked, rest], axis=1), A)


def test_a_batch_no_longer_than_a_chunk_is_not_cut():
    assert split_into_chunks((X[:5],), (0,), CHUNK)[0].shape == (5, 4)
    assert not layout_of((X[:5],), (0,), CHUNK).chunked


METRICS = {
    "fisher": symng.Fisher(),
    "gauss-newton": symng.GaussNewton(),
    "hessian": symng.Hessian(),
    "empirical": symng.EmpiricalFisher(),
    "centered": symng.EmpiricalFisher(centered=True),
}


@pytest.mark.parametrize("examples", [23, 20], ids=["ragged", "even"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", METRICS)
def test_metric_product(name, reduction, examples):
    objective = make_objective(reduction)
    arrays = (X[:examples], T[:examples])
    v = RNG.standard_normal(objective.size)
    wanted = evaluate(objective, METRICS[name](objective) @ v, arrays)
    other, parts = chunked(objective, arrays)
    np.testing.assert_allclose(
        evaluate(other, METRICS[name](other) @ v, parts), wanted, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_exact_diagonal(reduction):
    objective = make_objective(reduction)
    metric = symng.EmpiricalFisher(centered=True)
    other, parts = chunked(objective, (X, T))
    wanted = evaluate(objective, metric.diagonal(objective), (X, T))
    np.testing.assert_allclose(evaluate(other, metric.diagonal(other), parts), wanted, rtol=1e-11)


@pytest.mark.parametrize("reduction, decay", [("mean", 0.0), ("sum", 0.0), ("mean", 0.1)])
def test_loss_and_count(reduction, decay):
    objective = make_objective(reduction, decay)
    other, parts = chunked(objective, (X, T))
    moved = [p + 0.1 for p in objective.params]
    wanted = evaluate(
        objective, [objective.loss, objective.loss_at(moved), objective.count], (X, T)
    )
    losses = other.mean(lambda o, _: [o.loss, o.loss_at(moved)])
    found = evaluate(other, [*losses, other.count], parts)
    np.testing.assert_allclose(found, wanted, rtol=1e-13)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["fisher", "empirical", "centered"])
def test_estimated_diagonal(name, reduction, draws):
    """One estimate, of signs of the whole batch: not a mean of estimates."""
    objective = make_objective(reduction)
    other, parts = chunked(objective, (X, T))
    wanted = evaluate(objective, METRICS[name](objective).diagonal(draws, seed=3), (X, T))
    found = evaluate(other, METRICS[name](other).diagonal(draws, seed=3), parts)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
    assert (wanted >= 0).all() and wanted.max() > 0


def test_estimated_diagonal_of_a_recurrent_network():
    objective = recurrent_objective()
    other, parts = chunked(objective, SEQUENCES)
    diagonal = symng.EmpiricalFisher().diagonal
    wanted = evaluate(objective, diagonal(objective, draws=2), SEQUENCES)
    np.testing.assert_allclose(evaluate(other, diagonal(other, draws=2), parts), wanted, rtol=1e-9)


LM = symng.LevenbergMarquardt(initial=1.0, ratio="quadratic")
OPTIMIZERS = {
    "kronecker": symng.NaturalGradient(
        damping=LM,
        solver=symng.CG(maxiter=3, recompute=False),
        warm_start=0.9,
        preconditioner=symng.KroneckerPreconditioner(),
    ),
    "jacobi": symng.NaturalGradient(
        damping=LM,
        solver=symng.CG(maxiter=3, recompute=False),
        preconditioner=symng.JacobiPreconditioner(draws=2),
    ),
    "line search": symng.NaturalGradient(damping=0.1, step_size=symng.BacktrackingLineSearch()),
    "hessian-free": symng.HessianFree(
        solver=symng.CG(maxiter=5, keep_iterates=1.3, recompute=False)
    ),
    "ksd": symng.KrylovSubspaceDescent(basis_size=3),
    "plane": symng.NaturalConjugateGradient(beta="search", damping=0.1),
    "adam": symng.Adam(),
}


@pytest.mark.parametrize(
    "name, own",
    [
        pytest.param(name, own, id=f"{name}-{kind}", marks=pytest.mark.slow if is_slow else ())
        for name in OPTIMIZERS
        for kind, own in (("one batch", False), ("own batches", True))
        if name != "adam" or not own
        # The whole optimizer on batches of its own is the harder case.
        for is_slow in [
            (not own and name not in ("adam", "kronecker")) or name in ("line search", "ksd")
        ]
    ],
)
def test_step(name, own):
    searches = name not in ("kronecker", "jacobi", "adam")
    batches: dict[str, Any] = {"gradient_batch": (X[:20], T[:20])}
    if own:
        reaches_targets = name in ("hessian-free", "ksd")  # their metric is Gauss-Newton's
        batches["metric_batch"] = (X[3:14], T[3:14]) if reaches_targets else (X[3:14],)
        if searches:
            batches["search_batch"] = (X, T)
    found = []
    for chunk_size in (None, CHUNK):
        objective = make_objective()
        step = symng.compile_step(objective, OPTIMIZERS[name], mode=MODE, chunk_size=chunk_size)
        # A search on the host makes more of rounding errors from step to step.
        infos = [step(**batches) for _ in range(1 if name == "plane" else 2)]
        found.append([[i.loss, i.new_loss, i.update_norm] for i in infos])
        found[-1].append(vectors.get_flat(objective.params))
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-7)


def recurrent_objective() -> symng.Objective:
    """Return a small recurrent network, time along the first axis."""
    x, t = pt.tensor3("x"), pt.matrix("t")
    W, U, V = (
        pytensor.shared(0.3 * RNG.standard_normal(s), name=n)
        for n, s in zip("WUV", [(2, 3), (3, 3), (3, 1)], strict=True)
    )
    states = pytensor.scan(
        lambda row, h: pt.tanh(row @ W + h @ U),
        sequences=[x],
        outputs_info=[pt.zeros((x.shape[1], 3))],
        return_updates=False,
    )
    y = states[-1] @ V
    loss = pt.sqr(y - t).sum(axis=1).mean()
    return symng.Objective(
        loss, output=y, params=[W, U, V], inputs=[x], targets=[t], data_axes=[1, 0]
    )


SEQUENCES = (RNG.standard_normal((6, 11, 2)), RNG.standard_normal((11, 1)))


def steps_of(optimizer: Any, mode: str, chunk_size: int | None) -> np.ndarray:
    """Return the parameters after two steps of a recurrent network."""
    objective = recurrent_objective()
    for p, value in zip(objective.params, START, strict=True):
        p.set_value(value)
    step = symng.compile_step(objective, optimizer, mode=mode, chunk_size=chunk_size)
    for _ in range(2):
        step(SEQUENCES)
    return vectors.get_flat(objective.params)


START = [p.get_value() for p in recurrent_objective().params]
RECURRENT = symng.NaturalGradient(
    metric=symng.StructuralDamping(coefficient=0.5),
    damping=0.1,
    solver=symng.CG(rtol=1e-10, maxiter=40),
)


@pytest.mark.slow
def test_recurrent_network_in_chunks():
    whole, parts = (steps_of(RECURRENT, MODE, chunk_size) for chunk_size in (None, 4))
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


@needs_jax
@pytest.mark.slow
def test_recurrent_network_on_jax():
    expected = steps_of(RECURRENT, MODE, None)
    for chunk_size in (None, 4):
        np.testing.assert_allclose(steps_of(RECURRENT, "JAX", chunk_size), expected, rtol=1e-6)


def run_of(chunk_size: int | None) -> list[float]:
    """Return the losses of two steps and the parameters after them."""
    objective = make_objective()
    result = symng.minimize(
        objective,
        symng.NaturalGradient(damping=0.1, solver=symng.CG(rtol=0.0, maxiter=4)),
        (X, T),
        max_steps=2,
        progress=False,
        mode=MODE,
        chunk_size=chunk_size,
    )
    return [*result.history["loss"], *vectors.get_flat(objective.params)]


def test_a_run_is_that_on_the_full_batch():
    np.testing.assert_allclose(run_of(CHUNK), run_of(None), rtol=1e-9)


@pytest.mark.parametrize("value", [0, 2.5, True, "5"])
def test_bad_chunk_size(value):
    with pytest.raises((TypeError, ValueError), match="chunk_size: expected"):
        symng.compile_step(make_objective(), symng.SGD(step_size=0.1), chunk_size=value)


def test_a_direct_solver_is_refused():
    optimizer = symng.NaturalGradient(solver=symng.Woodbury(), damping=1.0)
    with pytest.raises(NotImplementedError, match="^chunk_size: expected none with symng.Woodbury"):
        symng.compile_step(make_objective(), optimizer, chunk_size=2)


def test_a_sum_with_weight_decay_is_refused():  # each chunk would add the decay
    with pytest.raises(ValueError, match="chunk_size: expected a loss that is a mean or sum"):
        symng.compile_step(make_objective("sum", 0.1), symng.SGD(step_size=0.1), chunk_size=2)


def test_a_loss_that_is_no_mean_of_examples_is_refused():
    x = pt.matrix("x")
    w = pytensor.shared(np.ones(4), name="w")
    y = x @ w
    objective = symng.Objective(pt.log(pt.exp(y).sum()), output=y, params=[w], inputs=[x])
    with pytest.raises(
        ValueError, match=re.escape("chunk_size: expected a loss that is a mean or sum")
    ):
        symng.compile_step(objective, symng.SGD(step_size=0.1), chunk_size=2)


# Each chunk would divide by its own length.
def test_a_mean_whose_terms_are_divided_one_by_one_is_refused():
    x, w = pt.matrix("x"), pytensor.shared(np.ones(4), name="w")
    objective = symng.Objective(
        (pt.sqr(x @ w) / x.shape[0]).sum(), output=x @ w, params=[w], inputs=[x]
    )
    with pytest.raises(
        ValueError, match=r"^chunk_size: .* divided by the number of examples.* Take the mean\(\)"
    ):
        symng.compile_step(objective, symng.SGD(step_size=0.1), chunk_size=2)


def test_an_input_of_fixed_length_is_refused():
    x = pt.matrix("x", shape=(23, 4))
    w = pytensor.shared(np.ones(4), name="w")
    objective = symng.Objective(pt.sqr(x @ w).mean(), output=x @ w, params=[w], inputs=[x])
    with pytest.raises(
        ValueError, match="chunk_size: expected inputs and targets without a fixed number .* as x"
    ):
        symng.compile_step(objective, symng.SGD(step_size=0.1), mode=MODE, chunk_size=CHUNK)


def test_structural_damping_beside_the_metric_of_a_sum():
    """The step of a sum is that of its mean, where both metrics are means over examples."""
    found = []
    for chunk_size in (None, CHUNK):
        objective = make_objective("sum")
        hidden = pt.tanh(objective.inputs[0] @ objective.params[0])
        metric = symng.StructuralDamping(metric=symng.GaussNewton(), hidden=hidden)
        step = symng.compile_step(
            objective, symng.NaturalGradient(metric=metric), mode=MODE, chunk_size=chunk_size
        )
        step((X, T))
        found.append(vectors.get_flat(objective.params))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


def _squares(y: Any, t: Any) -> Any:
    return pt.sqr(y - t).sum(axis=1)


# Models and losses in which an example's loss depends on the number of examples, on the data of
# others, or on its place.
DEPENDENT = {
    "mean times log N": (
        lambda h: pt.tanh(h),
        lambda y, t: _squares(y, t).mean() * pt.log(t.shape[0]),
    ),
    "sum by N - 1": (lambda h: pt.tanh(h), lambda y, t: _squares(y, t).sum() / (t.shape[0] - 1)),
    "model by N": (lambda h: pt.tanh(h / h.shape[0]), lambda y, t: _squares(y, t).mean()),
    "means of targets": (lambda h: pt.tanh(h), lambda y, t: _squares(y, t - t.mean(0)).mean()),
    "deviations": (lambda h: pt.tanh(h), lambda y, t: _squares(y / t.std(0), t).mean()),
    "neighbors": (lambda h: pt.roll(h, 1, axis=0), lambda y, t: _squares(y, t).mean()),
    "the last one": (lambda h: h * pt.tanh(h[-1]), lambda y, t: _squares(y, t).mean()),
    "a first row": (lambda h: h[0].set(0.0), lambda y, t: _squares(y, t).mean()),
    "places": (lambda h: h + pt.arange(h.shape[0])[:, None], lambda y, t: _squares(y, t).mean()),
    "weights of places": (
        lambda h: pt.tanh(h),
        lambda y, t: (_squares(y, t) * pt.linspace(0, 1, t.shape[0])).mean(),
    ),
    "a state": (
        lambda h: pytensor.scan(
            lambda row, s: pt.tanh(row + s),
            sequences=[h],
            outputs_info=[pt.zeros(2)],
            return_updates=False,
        ),
        lambda y, t: _squares(y, t).mean(),
    ),
}


def _linear(model: Any, loss: Any, value: float = 0.0) -> symng.Objective:
    x, t, w = pt.matrix("x"), pt.matrix("t"), pytensor.shared(np.full((4, 2), value), name="w")
    y = model(x @ w)
    return symng.Objective(loss(y, t), output=y, params=[w], inputs=[x], targets=[t])


@pytest.mark.parametrize("name", list(DEPENDENT))
def test_dependent_losses_of_examples_are_refused_at_the_first_batch(name):
    objective = _linear(*DEPENDENT[name])  # at w = 0, where most of these models are right
    if objective.example_losses is None:
        with pytest.raises(ValueError, match="chunk_size: expected a loss that is a mean or sum"):
            symng.compile_step(objective, symng.SGD(0.1), mode=MODE, chunk_size=CHUNK)
        return
    step = symng.compile_step(objective, symng.SGD(0.1), mode=MODE, chunk_size=CHUNK)
    with pytest.raises(ValueError, match="chunk_size: expected for chunks, a loss of each example"):
        step((X, T))
    assert not objective.params[0].get_value().any()


@pytest.mark.parametrize("name", ["neighbors", "places", "means of targets"])
def test_empirical_fisher_refuses_dependent_losses_too(name):
    optimizer = symng.NaturalGradient(metric=symng.EmpiricalFisher())
    step = symng.compile_step(_linear(*DEPENDENT[name]), optimizer, mode=MODE)
    with pytest.raises(ValueError, match="metric: expected for EmpiricalFisher, a loss of each"):
        step((X, T))


@pytest.mark.parametrize(
    "model, loss",
    [
        (lambda h: pt.tanh(h)[::-1], lambda y, t: _squares(y, t[::-1]).mean()),
        (lambda h: pt.tanh(h), lambda y, t: _squares(y, t).sum() / (2 * t.shape[0])),
        (lambda h: pt.tanh(h), lambda y, t: _squares(y, t).sum()),
        (lambda h: pt.tanh(h), lambda y, t: pt.sqr(y - t).mean() * t.shape[0]),
        (lambda h: pt.tanh(h), lambda y, t: 0.5 * t.shape[0] * _squares(y, t).mean()),
    ],
    ids=["another order", "half a mean", "sum", "mean times N", "N times half a mean"],
)
def test_independent_losses_of_examples_pass(model, loss):
    rows = []
    for chunk_size in (None, CHUNK):
        objective = _linear(model, loss, 0.1)
        optimizer = symng.NaturalGradient(metric=symng.GaussNewton(), solver=symng.CG(rtol=1e-12))
        step = symng.compile_step(objective, optimizer, mode=MODE, chunk_size=chunk_size)
        rows.append((step((X, T)).loss, objective.params[0].get_value()))
    np.testing.assert_allclose(rows[0][0], rows[1][0], rtol=1e-12)
    np.testing.assert_allclose(rows[0][1], rows[1][1], rtol=1e-8)
