"""The user's own shared variables in a step: NumPy's values, and the same ones after a break."""

from __future__ import annotations

import warnings

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import modes
from helpers.small_steps import descent, exponential, line, natural, regression, train

import symng
from symng.backends.generators import get_generator_state, set_generator_state

MODE = "FAST_COMPILE"
ALL = modes(MODE, "CVM", "NUMBA", "JAX", slow=["CVM", "NUMBA", "JAX"])


def running(value, dtype="float64"):
    """Return a running mean of a scalar, and the pair that updates it."""
    m = pytensor.shared(np.array(1.0, dtype=dtype), name="m")
    return m, (m, (0.75 * m + 0.25 * value).astype(dtype))


def with_default(variable, update):
    """Give a variable a default update, which PyTensor 3.3 has another way for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        variable.default_update = update
    return variable


def noisy(seed=1, default=False):
    """Return a regression with noisy inputs, and the pair that advances their generator."""
    rng = pytensor.shared(np.random.default_rng(seed), name="rng")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        following, noise = pt.random.normal(0, 0.1, size=(3,), rng=rng, return_next_rng=True)
        x, t = pt.matrix("x"), pt.vector("t")
        w = pytensor.shared(np.zeros(3), name="w")
        y = (x + noise) @ w
        if default:
            with_default(rng, following)
        objective = symng.Objective(pt.sqr(y - t).mean() / 2, y, [w], inputs=[x], targets=[t])
    return objective, rng, (rng, following)


# Values


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_running_mean_of_accepted_steps(dtype):
    objective, w, data = exponential(dtype)
    (x,) = objective.inputs
    m, pair = running((x @ w).mean(), dtype)
    rule = symng.LevenbergMarquardt(initial=1.0, increase=10.0, reject_below=0.0)
    optimizer = descent(step_size=1e3, damping=rule)
    step = symng.compile_step(objective, optimizer, MODE, updates=[pair])
    assert step.updated == [m]
    wanted, accepted = 1.0, []
    for _ in range(8):
        before = w.get_value().mean()
        accepted.append(step(data).accepted)
        if accepted[-1]:
            wanted = 0.75 * wanted + 0.25 * before  # of the parameters before the step
        np.testing.assert_allclose(m.get_value(), wanted, rtol=1e-6)
    assert not all(accepted) and sum(accepted) >= 2 and m.get_value().dtype == dtype


@pytest.mark.parametrize(
    "optimizer",
    [
        symng.SGD(step_size=0.1),
        symng.KrylovSubspaceDescent(basis_size=1, damping=5.0, max_iterations=3),  # two stages
        symng.HessianFree(solver=symng.CG(maxiter=2)),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
@pytest.mark.parametrize("default", [False, True])
def test_once_in_each_step(optimizer, default):
    model = line()
    count = pytensor.shared(np.array(0), name="count")
    settings = {"updates": {count: count + 1}}
    if default:
        loss = model.objective.loss + 0 * with_default(count, count + 1)
        parts = (model.objective.output, [model.w], model.objective.inputs, model.objective.targets)
        objective, settings = symng.Objective(loss, *parts), {}
    else:
        objective = model.objective
    step = symng.compile_step(objective, optimizer, MODE, **settings)
    step.check_shapes("batch", model.batch)  # changes nothing
    for number in (1, 2, 3):
        step(model.batch)
        assert count.get_value() == number


def test_values_depend_on_inputs_targets_and_metric_batch_does_not_matter():
    model = line()
    t = model.objective.targets[0]
    total = pytensor.shared(np.zeros(4), name="total")
    step = symng.compile_step(model.objective, natural(), MODE, updates={total: total + t})
    X, T = model.batch
    step((X, T), metric_batch=(X[:2],))
    step((X, 2 * T), metric_batch=(X[1:],))
    np.testing.assert_allclose(total.get_value(), 3 * T)


def test_chains_of_samples():
    b = pytensor.shared(np.zeros(2), name="b")
    chains = pytensor.shared(np.array([[0.0, 1.0], [1.0, 1.0]]), name="chains")
    objective = symng.EnergyObjective(
        lambda x: -x @ b, params=[b], data=pt.matrix("v"), samples=chains
    )
    step = symng.compile_step(
        objective, symng.SGD(step_size=1.0), MODE, updates={chains: 1 - chains}
    )
    step((np.ones((3, 2)),))
    assert (chains.get_value() == [[1, 0], [0, 0]]).all()
    np.testing.assert_allclose(b.get_value(), [0.5, 0.0])  # mean of data - mean of samples before


@pytest.mark.parametrize("default", [False, True])
def test_generators_go_on_in_steps_that_are_undone(default):
    objective, rng, pair = noisy(default=default)
    _, (X, T) = regression()
    rule = symng.LevenbergMarquardt(initial=1.0, reject_below=1e9)  # refuses all
    settings = {} if default else {"updates": [pair]}
    step = symng.compile_step(objective, descent(damping=rule), MODE, **settings)
    own = np.random.default_rng(1)
    for _ in range(3):
        assert not step((X, T)).accepted
        own.normal(size=3)
        assert rng.get_value().bit_generator.state == own.bit_generator.state


# After a break


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("mode", ALL)
@pytest.mark.filterwarnings("ignore:The RandomType SharedVariables:UserWarning")
def test_a_resumed_run_has_the_same_numbers(tmp_path, mode, default):
    path = tmp_path / "run.npz"
    runs = []
    for steps, seed, checkpoint in ((5, 1, None), (2, 1, path), (5, 7, path)):
        objective, rng, pair = noisy(seed, default)  # of the last run, the seed is that of the file
        (x,), _, (w,) = objective.inputs, objective.targets, objective.params
        m, update = running((x @ w).mean())
        _, data = regression()
        result = train(
            descent(step_size=1e-2),
            objective,
            data,
            batch_size=8,
            max_steps=steps,
            updates=dict([update] if default else [update, pair]),
            checkpoint=checkpoint,
            mode=mode,
        )
        runs.append((result.history["loss"], m.get_value(), get_generator_state(rng)))
    whole, _, resumed = runs
    assert (whole[0] == resumed[0]).all() and whole[1] == resumed[1] and whole[2] == resumed[2]
    assert len(set(whole[0])) == 5 and whole[1] != 1.0


def test_a_checkpoint_of_other_updates_is_refused_and_one_from_before_them_is_not(tmp_path):
    path = tmp_path / "run.npz"

    def run(steps, *counts):
        updates = {c: c + 1 for c in counts}
        return train(checkpoint=path, max_steps=steps, updates=updates)

    run(1, pytensor.shared(0.0))
    with pytest.raises(ValueError, match=r"updated_1 \(\) float64 where the file has none"):
        run(2, pytensor.shared(0.0), pytensor.shared(0.0))
    arrays, meta = symng.load_checkpoint(path)
    del arrays["updated_0"], meta["generators"]
    symng.save_checkpoint(path, arrays, meta)
    count = pytensor.shared(4.0)
    assert run(2, count).steps == 2 and count.get_value() == 5.0
    count = pytensor.shared(0.0)
    assert run(3, count).steps == 3 and count.get_value() == 6.0


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_states_of_generators(kind):
    bits = getattr(np.random, kind)
    kept, other = (pytensor.shared(np.random.Generator(bits(seed))) for seed in (1, 2))
    kept.get_value(borrow=True).normal(size=3)
    set_generator_state(other, get_generator_state(kept))
    draws = [v.get_value().integers(0, 9, size=20, dtype="uint8") for v in (kept, other)]
    assert (draws[0] == draws[1]).all()


# What is refused


def test_what_cannot_be_updated():
    objective, w, _ = exponential()
    other = pt.matrix("other")
    m, n = pytensor.shared(np.zeros(2), name="m"), pytensor.shared(np.zeros(2, int), name="n")
    momentum = pytensor.shared(0.5, name="momentum")
    for updates, message in (
        (m, "a mapping, or pairs, from shared variables to their next values, got"),
        ({other: other}, "a mapping, or pairs"),
        ([(m, m), (m, m + 1)], "each variable once, got m twice"),
        ({w: w}, "variables that the step does not change itself, got w, a parameter"),
        ({m: other.sum(axis=0)}, "values that are computed from .* got one for m that needs other"),
        ({m: (m + 1).astype("float32")}, r"a value of type Vector\(float64.* for m, .* Cast it"),
        ({m: m.sum()}, r"a value of type Vector\(float64"),
        ({n: n / 2}, r"a value of type Vector\(int64.* for n"),
        ({m: "text"}, "a .* for m, got 'text'"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^updates: expected {message}"):
            symng.compile_step(objective, symng.SGD(), updates=updates)
    step = symng.compile_step(objective, symng.SGD(momentum=0.5), updates={momentum: momentum / 2})
    assert step.updated == [momentum]
    with pytest.raises(ValueError, match="^chunk_size: expected none with updates"):
        symng.compile_step(objective, symng.SGD(), chunk_size=2, updates={m: m + 1})
