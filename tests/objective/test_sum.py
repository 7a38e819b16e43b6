"""A loss that is a sum over examples takes the steps of its mean."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.raise_op import assert_op

import symng
from symng.objective.batches import FullBatch

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (14, 2))
T = np.eye(2)[(X[:, 0] * X[:, 1] > 0).astype(int)]
EXACT = symng.CG(rtol=1e-10, maxiter=30)
LM = symng.LevenbergMarquardt(initial=0.5)
GN, QUADRATIC = (
    symng.GaussNewton(),
    symng.LevenbergMarquardt(initial=0.5, ratio="quadratic", reject_below=0.0),
)
LINE = symng.BacktrackingLineSearch(size=8.0)


def make(reduce, seed=1):
    """Return an objective with a loss reduced by a function of losses and weights."""
    x, t = pt.matrix("x"), pt.matrix("t")
    rng = np.random.default_rng(seed)
    W = pytensor.shared(rng.standard_normal((2, 3)), name="W")
    V = pytensor.shared(0.5 * rng.standard_normal((3, 2)), name="V")
    y = pt.special.softmax(pt.tanh(x @ W) @ V, axis=-1)
    losses = -(t * pt.log(y)).sum(axis=1)
    hidden = y.owner.inputs[0].owner.inputs[0]
    objective = symng.Objective(reduce(losses, W), output=y, params=[W, V], inputs=[x], targets=[t])
    return objective, hidden


def mean(losses, W):
    return losses.mean()


def total(losses, W):
    return losses.sum()


OPTIMIZERS = {
    "natural": symng.NaturalGradient(damping=LM, solver=EXACT),
    "minres": symng.NaturalGradient(damping=LM, solver=symng.MinresQLP(rtol=1e-10, maxiter=30)),
    "gauss-newton": symng.NaturalGradient(metric=GN, damping=LM, solver=EXACT),
    "quadratic": symng.NaturalGradient(metric=GN, damping=QUADRATIC, solver=EXACT),
    "hessian": symng.NaturalGradient(metric=symng.Hessian(), damping=2.0, solver=EXACT),
    "empirical": symng.NaturalGradient(metric=symng.EmpiricalFisher(), damping=LM, solver=EXACT),
    "centered": symng.NaturalGradient(
        metric=symng.EmpiricalFisher(centered=True), damping=LM, solver=EXACT
    ),
    "line search": symng.NaturalGradient(metric=GN, damping=LM, solver=EXACT, step_size=LINE),
    "warm start": symng.NaturalGradient(
        metric=GN, damping=LM, solver=symng.CG(rtol=1e-10, maxiter=2), warm_start=0.9
    ),
    "kronecker": symng.NaturalGradient(
        metric=GN,
        damping=LM,
        solver=symng.CG(maxiter=2),
        preconditioner=symng.KroneckerPreconditioner(),
    ),
    "jacobi": symng.NaturalGradient(
        metric=GN,
        damping=LM,
        solver=symng.CG(maxiter=2),
        preconditioner=symng.JacobiPreconditioner(),
    ),
    "own preconditioner": symng.NaturalGradient(
        metric=GN,
        damping=LM,
        solver=symng.CG(maxiter=2),
        preconditioner=lambda operator, damping: symng.diagonal_preconditioner(
            operator.diagonal(), damping
        ),
    ),
    "woodbury": symng.NaturalGradient(damping=LM, solver=symng.Woodbury()),
    "structural": "structural",
    "relative": "relative",
    "hessian-free": symng.HessianFree(),
    "krylov": symng.KrylovSubspaceDescent(basis_size=3, max_iterations=3),
    "search": symng.NaturalConjugateGradient(
        metric=GN, damping=LM, solver=EXACT, max_evaluations=10
    ),
    "ncg quadratic": symng.NaturalConjugateGradient(
        metric=GN, damping=LM, solver=EXACT, beta="quadratic"
    ),
    "formula": symng.NaturalConjugateGradient(
        metric=GN, damping=LM, solver=EXACT, beta="polak-ribiere"
    ),
    "tonga": symng.TONGA(rank=2, damping=0.1),
    "adam": symng.Adam(step_size=0.01),
}
OTHER = {"batch_size": 7, "metric_batch": "other", "metric_batch_size": 5}
CASES = [(name, OTHER) for name in OPTIMIZERS if name not in ("woodbury", "tonga", "adam")]
CASES += [(name, {}) for name in ("woodbury", "gauss-newton", "hessian-free", "search")]
CASES += [("tonga", {"batch_size": 7, "chunk_size": 3}), ("adam", {"batch_size": 7})]
CASES += [(name, OTHER | {"chunk_size": 3}) for name in ("gauss-newton", "structural")]
# Those that differ from another case in one thing that has tests of its own.
SLOW = [("relative", OTHER), ("formula", OTHER), ("ncg quadratic", OTHER), ("gauss-newton", {})]
SLOW += [(name, OTHER) for name in ("minres", "own preconditioner", "warm start", "jacobi")]
SLOW += [(name, OTHER) for name in ("quadratic", "centered", "line search")]
SLOW += [("hessian-free", {}), ("search", {}), ("structural", OTHER | {"chunk_size": 3})]


def train(name, reduce, setting, steps=3):
    """Return the parameters after some steps, and the history."""
    objective, hidden = make(reduce)
    optimizer = OPTIMIZERS[name]
    if isinstance(optimizer, str):
        metric = symng.StructuralDamping(
            metric=GN, hidden=hidden, coefficient=0.5, relative=name == "relative"
        )
        optimizer = symng.NaturalGradient(metric=metric, damping=LM, solver=EXACT)
    result = symng.minimize(
        objective,
        optimizer,
        data=(X, T),
        max_steps=steps,
        progress=False,
        mode="FAST_COMPILE",
        **setting,
    )
    return np.concatenate([p.get_value().ravel() for p in objective.params]), result.history


@pytest.mark.parametrize(
    "name, setting",
    [pytest.param(*case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_steps_of_a_sum_are_those_of_the_mean(name, setting):
    (wanted, mean_history), (found, history) = (
        train(name, reduce, setting) for reduce in (mean, total)
    )
    assert not np.allclose(
        wanted, np.concatenate([p.get_value().ravel() for p in make(mean)[0].params])
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)
    examples = setting.get("batch_size", len(X))
    for column, scale in (
        ("loss", examples),
        ("new_loss", examples),
        ("gradient_norm", examples),
        ("residual_norm", examples),
        ("damping", 1),
        ("reduction_ratio", 1),
        ("step_size", 1),
        ("beta", 1),
        ("solver_iterations", 1),
        ("accepted", 1),
        ("update_norm", 1),
    ):
        np.testing.assert_allclose(
            history[column], scale * mean_history[column], rtol=1e-5, atol=1e-6, err_msg=column
        )


FACTORS = {
    "sum": (total, 1.0),
    "sum and penalty": (lambda e, W: e.sum() + pt.sqr(W).sum(), 1.0),
    "sum of a list": (lambda e, W: pt.sum([e.sum(), pt.sqr(W).sum()]), 1.0),
    "scaled": (lambda e, W: -(-2 * e.sum()) / 4, 0.5),
    "of two sums": (lambda e, W: 0.5 * e.sum() + 3 * pt.sqr(e).sum(), 3.0),
    "divided by hand": (lambda e, W: e.sum() / 500, 0.002),
    "checked": (lambda e, W: assert_op(assert_op(e, pt.all(W > -9)).sum(), pt.all(W > -9)), 1.0),
    "masked by their numbers": (lambda e, W: (e * (pt.arange(e.shape[0]) > 2)).sum(), 1.0),
    "spread": (lambda e, W: pt.broadcast_to(e, (e.shape[0],)).sum(), 1.0),
    "mean of spread": (lambda e, W: pt.alloc(e, e.shape[0]).mean(), None),
    "product": (lambda e, W: 3 * (e @ e), 3.0),
    "product of columns": (lambda e, W: (e[:, None].T @ e[:, None]).sum(), 1.0),
    "product over the number": (lambda e, W: e @ e / e.shape[0], None),
    "product with shares": (lambda e, W: e @ (pt.sqr(e) / pt.sqr(e).sum()), None),
    "mean": (mean, None),
    "over the number": (lambda e, W: e.sum() / e.shape[0], None),
    "over the number inside": (lambda e, W: (e / e.shape[0]).sum(), None),
    "weighted mean": (lambda e, W: (e * pt.sqr(e) / pt.sqr(e).sum()).sum(), None),
    "mean and sum": (lambda e, W: e.mean() + e.sum(), None),
    "root": (lambda e, W: pt.sqrt(e.sum()), None),
    "inverse": (lambda e, W: pt.sqrt(e.sum()) ** -2, None),
}


@pytest.mark.parametrize("name", FACTORS)
def test_what_is_a_sum(name):
    reduce, factor = FACTORS[name]
    objective, _ = make(reduce)
    assert objective.sum_factor == factor
    assert ("steps are those of its mean" in repr(objective)) == (factor is not None)


def reshaped(d):
    """Return losses of residuals with two or three axes, whose examples a reshape merges."""
    rows = d.reshape((-1, d.type.shape[-1]))
    return {
        "ravel": pt.sqr(d).ravel().sum(),
        "ravel of residuals": (d.ravel() ** 2).sum(),
        "product": 0.5 * (d.ravel() @ d.ravel()),
        "one column": pt.sqr(d).reshape((-1, 1)).sum(),
        "one row": pt.sqr(d).reshape((1, -1)).sum(),
        "rows": pt.sqr(rows).sum(axis=1).sum(),
        "einsum": pt.einsum("ij,ij->", rows, rows),
        "trace": pt.trace(rows.T @ rows),
        "norm": pt.linalg.norm(rows) ** 2,
        "labels": pt.sqr(rows)[pt.arange(rows.shape[0]), (rows[:, 0] > 0).astype("int64")].sum(),
        "penalty": pt.sqr(d).ravel().sum() + 2.0,
        # Means, and what is no sum.
        "mean": pt.sqr(d).ravel().mean(),
        "mean of rows": pt.sqr(rows).sum(axis=1).mean(),
        "over the number": (pt.sqr(d).ravel() / d.shape[0]).sum(),
        "root mean": pt.sqrt(pt.sqr(d).ravel().mean()),
        "largest": pt.sqr(d).ravel().max(),
    }


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", reshaped(pt.matrix(shape=(None, 2))))
def test_sums_over_reshaped_examples(name, axes):
    x, t = (pt.tensor(name, shape=(None,) * axes, dtype="float64") for name in "xt")
    w = pytensor.shared(RNG.standard_normal((2, 2)), name="w")
    y = x @ w
    d = pt.specify_shape(y - t, (None,) * (axes - 1) + (2,))
    loss = reshaped(d)[name]
    objective = symng.Objective(loss, y, [w], inputs=[x], targets=[t])
    # A sum over examples is twice as large for each of them twice.
    values = [RNG.standard_normal((5, 3, 2)[3 - axes :]) for _ in range(2)]
    twice = [np.concatenate([v, v]) for v in values]
    f = pytensor.function([x, t], loss - (2.0 if name == "penalty" else 0.0), mode="FAST_COMPILE")
    is_sum = np.isclose(f(*twice), 2 * f(*values))
    assert objective.sum_factor == ((0.5 if name == "product" else 1.0) if is_sum else None)


@pytest.mark.parametrize("count", ["arange of the length", "a constant", "along a column"])
def test_losses_picked_by_labels_that_are_constants(count):
    x, w = pt.matrix("x"), pytensor.shared(np.ones((2, 3)), name="w")
    p, labels = pt.special.softmax(x @ w, axis=-1), np.arange(7) % 3
    rows = {"a constant": np.arange(7)}.get(count, pt.arange(p.shape[0]))
    losses = -pt.log(p)[rows, labels]
    if count == "along a column":
        losses = -pt.log(pt.take_along_axis(p, pt.as_tensor(labels)[:, None], axis=1))[:, 0]
    assert symng.Objective(losses.sum(), p, [w], [x]).sum_factor == 1.0
    assert symng.Objective(losses.mean(), p, [w], [x]).reduction == "mean"


def test_a_model_that_mixes_its_examples_may_end_in_a_sum():
    x, w = pt.matrix("x"), pytensor.shared(np.ones(2), name="w")
    y = x @ w - (x @ w).mean()
    objective = symng.Objective(pt.sqr(y).sum(), output=y, params=[w], inputs=[x])
    assert objective.reduction is None and objective.sum_factor == 1.0
    assert symng.Objective(pt.sqr(y).mean(), output=y, params=[w], inputs=[x]).sum_factor is None


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_derivatives_by_the_inputs_do_not_mix_examples(reduction):
    """As in physics-informed networks: the gradient of a sum holds all derivatives."""
    x = pt.matrix("x")
    params = [pytensor.shared(RNG.standard_normal(shape), name="p") for shape in ((2, 5), (5, 1))]
    u = pt.tanh(x @ params[0]) @ params[1]
    slope = pytensor.grad(u.sum(), x)
    residual = pytensor.grad(slope.sum(), x).sum(axis=1) + u[:, 0]
    mixed = u - u.mean()
    for loss in (pt.sqr(residual), pt.sqr(slope).sum(axis=1)):
        objective = symng.Objective(getattr(loss, reduction)(), u, params, inputs=[x])
        assert objective.reduction == reduction and (objective.sum_factor == 1.0) == (
            reduction == "sum"
        )
        np.testing.assert_allclose(
            *pytensor.function([x], [objective.example_losses, loss], mode="FAST_COMPILE")(X),
            rtol=1e-12,
        )
    slope = pytensor.grad(pt.sqr(mixed).sum(), x)
    assert (
        symng.Objective(getattr(pt.sqr(slope), reduction)(), u, params, inputs=[x]).reduction
        is None
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_of_single_examples_in_a_product(reduction):
    x, t = pt.matrix("x"), pt.matrix("t")
    w = pytensor.shared(RNG.standard_normal((2, 3)), name="w")
    d = (x @ w - t)[:, 0]
    loss = d @ d if reduction == "sum" else d @ d / d.shape[0]
    objective = symng.Objective(loss, x @ w, [w], inputs=[x], targets=[t])
    assert objective.reduction == reduction
    np.testing.assert_allclose(
        *pytensor.function([x, t], [objective.example_losses, d**2], mode="FAST_COMPILE")(
            X, X @ np.ones((2, 3))
        ),
        rtol=1e-12,
    )


def test_operators_and_plain_descent_keep_the_scale_of_the_loss():
    for reduce, scale in ((mean, 1), (total, len(X))):
        objective, _ = make(reduce)
        before = objective.params[0].get_value()
        batch = dict(zip((*objective.inputs, *objective.targets), (X, T), strict=True))
        product = (symng.GaussNewton()(objective) @ np.ones(objective.size)).eval(
            batch, mode="FAST_COMPILE"
        )
        symng.compile_step(objective, symng.SGD(step_size=0.1 / scale), mode="FAST_COMPILE")((X, T))
        if scale == 1:
            wanted, moved = product, objective.params[0].get_value() - before
    np.testing.assert_allclose(product, len(X) * wanted, rtol=1e-10)
    np.testing.assert_allclose(objective.params[0].get_value() - before, moved, rtol=1e-10)


@pytest.mark.parametrize("scale, length", [(0.5, 0.5), (3.0, 3.0), (0.1, 0.1), (1 / len(X), 1.0)])
def test_other_factors_are_not_compensated_and_a_sum_over_a_known_number_is_a_mean(scale, length):
    moved = []
    for reduce in (mean, lambda e, W: scale * e.sum()):
        objective, _ = make(reduce)
        before = objective.params[0].get_value()
        optimizer = symng.NaturalGradient(damping=0.5, solver=symng.CG(rtol=1e-12))
        symng.compile_step(objective, optimizer, mode="FAST_COMPILE")((X, T))
        moved.append(objective.params[0].get_value() - before)
    np.testing.assert_allclose(moved[1], length * moved[0], rtol=1e-8)


def test_a_sum_times_a_rounded_number_is_a_mean():
    x, w = pt.matrix("x"), pytensor.shared(np.ones(1), name="w")
    y = x @ w
    objective = symng.Objective(
        pt.sqr(y).sum() * np.float32(0.001), output=y, params=[w], inputs=[x]
    )
    for examples, divisor in ((1000, 1), (1002, 1002)):
        assert (
            FullBatch(objective=objective)
            .averaged()
            .divisor.eval({x: np.ones((examples, 1))}, mode="FAST_COMPILE")
            == divisor
        )


def test_a_sum_over_a_known_number_in_chunks_beside_another_metric_batch():
    optimizer = symng.NaturalGradient(metric=GN, damping=0.5, solver=EXACT)
    for number in (7, 2):  # of 7 examples, a mean and a sum
        found = []
        for chunk in (None, 3):
            objective, _ = make(lambda e, W, number=number: e.sum() / number)
            step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE", chunk_size=chunk)
            found.append(
                (step((X[:7], T[:7]), metric_batch=(X[7:], T[7:])), objective.params[0].get_value())
            )
        np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-9)
        assert found[0][0].loss == pytest.approx(found[1][0].loss, rel=1e-12)


def test_structural_damping_of_a_sum_over_more_examples_than_a_batch_in_chunks():
    """The chunks of the Gauss-Newton matrix are added up, those of the hidden states averaged."""
    norms = []
    for chunk_size in (None, 4, 3):
        x, t = pt.matrix("x"), pt.matrix("t")
        w = pytensor.shared(np.full((3, 2), 0.3), name="w")
        h = pt.tanh(x @ w)
        objective = symng.Objective(0.01 * pt.sqr(h - t).sum(), h, [w], inputs=[x], targets=[t])
        metric = symng.StructuralDamping(metric=symng.GaussNewton(), hidden=h)
        optimizer = symng.NaturalGradient(metric=metric, damping=0.1)
        step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE", chunk_size=chunk_size)
        rng = np.random.default_rng(0)
        norms.append(step((rng.standard_normal((8, 3)), rng.standard_normal((8, 2)))).update_norm)
    np.testing.assert_allclose(norms[1:], norms[0], rtol=1e-9)


@pytest.mark.parametrize(
    "reduce",
    [
        lambda losses, W: losses.mean() * losses.shape[0],
        lambda losses, W: -(losses.shape[0] * -losses.mean()),
        lambda losses, W: losses.sum() / losses.shape[0] * losses.shape[0],
    ],
    ids=["mean times N", "negated twice", "divided and multiplied"],
)
def test_a_mean_times_the_number_of_examples_is_a_sum(reduce):
    objective, _ = make(reduce)
    assert objective.reduction == "sum" and objective.sum_factor == 1
    optimizer = OPTIMIZERS["natural"]
    steps = []
    for reduction in (mean, reduce):
        objective, _ = make(reduction)
        step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE")
        step((X, T))
        steps.append(np.concatenate([p.get_value().ravel() for p in objective.params]))
    np.testing.assert_allclose(*steps, rtol=1e-8)


@pytest.mark.parametrize(
    "reduce, factor",
    [
        (lambda losses, W: 0.5 * losses.shape[0] * losses.mean(), 0.5),
        (lambda losses, W: losses.mean() * losses.shape[0] / 4, 0.25),
        (lambda losses, W: losses.mean() * pt.sqr(losses.shape[0]), None),
        (lambda losses, W: losses.mean() / losses.shape[0], None),
    ],
    ids=["half", "a fourth", "N squared", "divided twice"],
)
def test_the_factor_of_a_mean_times_the_number_of_examples(reduce, factor):
    assert make(reduce)[0].sum_factor == factor
