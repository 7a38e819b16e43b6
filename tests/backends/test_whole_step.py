"""One whole step, with real solvers, gives the same numbers on every backend."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.modes import modes, needs_jax
from helpers.two_terms import Terms

import symng
from symng import vectors
from symng.training.program import Program

# The last digits differ, for sums are made in another order; an iteration of the solver may be one
# more or less.
TOLERANCE = {"float32": 2e-3, "float64": 1e-8}
SETTINGS = {
    "damping": symng.LevenbergMarquardt(initial=0.5),
    "warm_start": 0.5,
    "step_size": symng.BacktrackingLineSearch(size=200.0),
}


def logistic_regression(dtype="float64"):
    """Return a model of one layer, for the fast tier: with CG, half the time on Numba."""
    rng = np.random.default_rng(0)
    x, t = pt.matrix("x", dtype=dtype), pt.matrix("t", dtype=dtype)
    w = oracles.shared(rng, 3, 2, dtype=dtype)
    r = x @ w
    return oracles.make_case(
        oracles.nll_terms("bernoulli", r, t, "r").sum(axis=1).mean(),
        [pt.sigmoid(r)],
        [w],
        ["bernoulli"],
        [r],
        {x: rng.standard_normal((8, 3)).astype(dtype)},
        {t: oracles.draw_targets("bernoulli", rng, (8, 2), dtype)},
    )


def network(dtype="float64"):
    """Return a network of two layers and a softmax."""
    return oracles.mlp_case("categorical", dtype=dtype)


STEPS = {
    "CG": (
        logistic_regression,
        symng.NaturalGradient(solver=symng.CG(rtol=1e-5, maxiter=30), **SETTINGS),
    ),
    "MINRES-QLP": (
        network,
        symng.NaturalGradient(solver=symng.MinresQLP(rtol=1e-5, maxiter=30), **SETTINGS),
    ),
}


def take_steps(mode, case, optimizer, steps=2):
    """Take steps from the same start; return their infos, the parameters and the step."""
    start = vectors.get_flat(case.params)
    try:
        step = symng.compile_step(case.objective, optimizer, mode=mode)
        infos = [step(tuple(case.givens.values())) for _ in range(steps)]
        for variable in (*case.params, *step.state.values(), *step.hyperparameters.values()):
            value = variable.get_value(borrow=True)
            assert isinstance(value, np.ndarray) and value.dtype == variable.type.dtype, (
                mode,
                variable,
            )
            value[...] = value  # writable
        return infos, vectors.get_flat(case.params)
    finally:
        vectors.set_flat(case.params, start)


def compare(found, wanted, dtype):
    """Compare two runs of `take_steps`."""
    tolerance = TOLERANCE[dtype]
    for one, two in zip(found[0], wanted[0], strict=True):
        assert (
            one.accepted == two.accepted
            and one.status == two.status
            and one.step_size == two.step_size
        )
        assert abs(one.solver_iterations - two.solver_iterations) <= 1
        for name in (
            "loss",
            "new_loss",
            "damping",
            "reduction_ratio",
            "gradient_norm",
            "update_norm",
        ):
            assert getattr(one, name) == pytest.approx(getattr(two, name), rel=tolerance), name
    assert oracles.relative_error(found[1], wanted[1]) < tolerance and found[1].dtype == dtype


@cache
def reference(name):
    """Return the steps in Python, in float64."""
    make_case, optimizer = STEPS[name]
    infos, params = take_steps("FAST_COMPILE", make_case(), optimizer)
    assert all(info.accepted and info.new_loss < info.loss for info in infos)
    assert infos[0].step_size not in (0.0, 200.0)  # the search has something to do
    assert infos[0].solver_iterations > 3
    return infos, params


@pytest.mark.parametrize(
    "mode, dtype, name",
    [
        ("CVM", "float32", "CG"),
        ("NUMBA", "float32", "CG"),
        pytest.param("JAX", "float32", "CG", marks=needs_jax),
        pytest.param("JAX", "float64", "MINRES-QLP", marks=[needs_jax, pytest.mark.slow]),
    ],
)
def test_backends_agree(mode, dtype, name):
    make_case, optimizer = STEPS[name]
    compare(take_steps(mode, make_case(dtype), optimizer), reference(name), dtype)


# What a step can be made of, in one: compiling it for Numba takes a minute.
MANY_PARTS = symng.NaturalConjugateGradient(
    beta=symng.QuadraticModel(),
    solver=symng.MinresQLP(maxiter=2),
    damping=symng.LevenbergMarquardt(initial=0.5, ratio="quadratic"),
    solve_damping=lambda damping: 3 * damping,
    preconditioner=symng.KroneckerPreconditioner(refresh=2),
    step_size=symng.BacktrackingLineSearch(size=symng.KLTrustRegion(delta=2.0, size=8.0)),
)


@pytest.mark.slow
@pytest.mark.parametrize("mode", modes("CVM", "NUMBA", "JAX"))
def test_many_parts_in_one_step(mode):
    """Two terms, one of them in chunks."""
    found = []
    for chosen in ("FAST_COMPILE", mode):
        terms = Terms()
        step = symng.compile_step(terms.both, MANY_PARTS, mode=chosen, chunk_size=3)
        data = tuple(tuple(a[:n] for a in term) for n, term in zip((6, 3), terms.data, strict=True))
        infos = [step(data) for _ in range(2)]
        names = ("loss", "new_loss", "step_size", "beta", "damping", "reduction_ratio")
        found.append([getattr(info, name) for info in infos for name in names])
        found[-1].extend(loss for info in infos for loss in info.losses)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-7)


@pytest.mark.slow
def test_recurrent_model():
    case = oracles.recurrent_case()
    optimizer = symng.NaturalGradient(solver=symng.CG(rtol=1e-12), damping=0.5)
    matrix = oracles.fisher(case) + 0.5 * np.eye(case.size)
    direction = np.linalg.solve(matrix, oracles.example_gradients(case).mean(axis=0))
    before = vectors.get_flat(case.params)
    (info,), after = take_steps("CVM", case, optimizer, steps=1)
    assert info.accepted and oracles.relative_error(before - after, direction) < 1e-8


@pytest.mark.parametrize("mode", modes("JAX", "CVM", slow=["CVM"]))
def test_minimize_prints_nothing_and_keeps_numpy(mode, capfd):
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.zeros(2), name="w")
    y = x @ w
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    )
    X = np.random.default_rng(0).standard_normal((200, 2))
    optimizer = symng.NaturalGradient(solver=symng.CG(), damping=1e-3)
    settings = {
        "batch_size": 50,
        "metric_batch": "other",
        "max_steps": 8,
        "progress": False,
        "mode": mode,
    }
    # Minibatches are copies: the data are no one's but ours.
    settings["callback"] = lambda row: X.__setitem__(0, X[0])
    result = symng.minimize(objective, optimizer, (X, X @ [3.0, -1.0]), **settings)
    assert result.steps == 8 and isinstance(w.get_value(borrow=True), np.ndarray)
    assert (
        np.allclose(w.get_value(), [3.0, -1.0], atol=0.05)
        and result.compile_seconds > result.seconds
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("chunk_size", [None, 30])
def test_data_of_full_batch_steps_goes_to_the_device_once(chunk_size, monkeypatch):
    jax = pytest.importorskip("jax")
    x, t = pt.matrix("x"), pt.vector("t")
    w = pytensor.shared(np.zeros(2), name="w")
    y = x @ w
    objective = symng.Objective(
        pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t]
    )
    X = np.random.default_rng(0).standard_normal((70, 2))
    data, received = (X, X @ [3.0, -1.0]), []
    call = Program.__call__
    monkeypatch.setattr(
        Program, "__call__", lambda self, arrays: received.append(arrays) or call(self, arrays)
    )

    def write(row):
        with pytest.raises(ValueError, match="read-only"):  # it would not be seen
            data[0][0] = 1.0

    result = symng.minimize(
        objective,
        symng.SGD(step_size=0.5),
        data,
        max_steps=3,
        progress=False,
        mode="JAX",
        chunk_size=chunk_size,
        callback=write,
    )
    first, *others = received[-3:]
    assert len(first) == (2 if chunk_size is None else 4) and all(
        isinstance(a, jax.Array) for a in first
    )
    assert all(a is b for arrays in others for a, b in zip(arrays, first, strict=True))
    losses = result.history["loss"]
    assert losses[2] < losses[1] < losses[0]
    # By hand the arrays may change between steps.
    assert result.step(data).loss < losses[2]
    data[1][:] = X @ w.get_value()
    assert result.step(data).loss == pytest.approx(0.0, abs=1e-12)
