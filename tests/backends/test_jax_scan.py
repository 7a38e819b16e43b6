"""Scans on JAX.

The while loops of this package, and what it needs from PyTensor's own conversion.
"""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.gradient import pullback, pushforward
from pytensor.scan.utils import until

from symng.backends import compile_function, enable_jax, to_numpy

pytest.importorskip("jax")

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


def loop(body, running, state, maxiter):
    """Repeat ``body`` while ``running``, at most ``maxiter`` times, and return the last state."""

    def step(*values):
        new = body(*values)
        return list(new), until(pt.invert(running(*new)))

    n_steps = pt.switch(running(*state), maxiter, 0)
    outputs = pytensor.scan(step, outputs_info=list(state), n_steps=n_steps, return_updates=False)
    return [output[-1] for output in (outputs if isinstance(outputs, list | tuple) else [outputs])]


def conjugate_gradient(A, b, tolerance, maxiter):
    """Solve A x = b from a constant zero vector, counting iterations."""

    def body(x, r, p, rr, k):
        Ap = A @ p
        alpha = rr / (p * Ap).sum()
        x, r = x + alpha * p, r - alpha * Ap
        new = (r * r).sum()
        return x, r, r + (new / rr) * p, new, k + 1

    state = [pt.zeros_like(b), b, b, (b * b).sum(), pt.constant(0, dtype="int64")]
    return loop(body, lambda x, r, p, rr, k: rr > tolerance, state, maxiter)


def conjugate_gradient_in_numpy(A, b, maxiter):
    """Return the last state of the same in float64, with the tolerance 1e-3."""
    A, r, x = A.astype(float), b.astype(float), np.zeros(len(b))
    p, rr, k = r, r @ r, 0
    while rr > 1e-3 and k < maxiter:
        alpha = rr / (p @ A @ p)
        x, r = x + alpha * p, r - alpha * (A @ p)
        p, rr, k = r + (r @ r) / rr * p, r @ r, k + 1
    return x, r, p, rr, k


def system(dtype):
    """Return a positive definite matrix and a right-hand side."""
    rng = np.random.default_rng(0)
    M = rng.normal(size=(12, 12))
    return (M @ M.T / 12 + np.eye(12)).astype(dtype), rng.normal(size=12).astype(dtype)


# While scans


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_conjugate_gradient_equals_numpy(dtype):
    A, b, maxiter = pt.matrix("A", dtype=dtype), pt.vector("b", dtype=dtype), pt.iscalar("maxiter")
    outputs = conjugate_gradient(A, b, np.asarray(1e-3, dtype), maxiter)
    on_jax = compile_function([A, b, maxiter], outputs, mode="JAX")
    M, v = system(dtype)
    cases = {
        "early stop": (M, v, 100),
        "maximum": (M, v, 3),
        "no step allowed": (M, v, 0),
        "done": (M, 0 * v, 100),
    }
    for label, arguments in cases.items():
        got, expected = to_numpy(on_jax(*arguments)), conjugate_gradient_in_numpy(*arguments)
        assert [one.dtype for one in got] == [output.dtype for output in outputs]
        for one, other in zip(got, expected, strict=True):
            assert one.shape == np.shape(other), label
            np.testing.assert_allclose(
                one, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], err_msg=label
            )
        assert got[-1] == expected[-1], label
    assert 3 < on_jax(M, v, 100)[-1] < 100
    assert on_jax(M, v, 3)[-1] == 3
    assert on_jax(M, 0 * v, 100)[-1] == 0


def test_float32_loop_holds_no_float64():
    import jax

    A, b, maxiter = pt.fmatrix("A"), pt.fvector("b"), pt.iscalar("maxiter")
    f = compile_function(
        [A, b, maxiter], conjugate_gradient(A, b, np.float32(1e-3), maxiter), mode="JAX"
    )
    assert jax.config.jax_enable_x64
    jaxpr = str(jax.make_jaxpr(f.vm.jit_fn)(*system("float32"), np.int32(5)))
    assert "while" in jaxpr and "f32" in jaxpr
    assert "f64" not in jaxpr


def test_state_that_changes_dtype_in_jax_keeps_that_of_the_graph():
    """PyTensor's JAX backend returns the sum of a float16 vector in float32."""
    v = pt.vector("v", dtype="float16")
    half = np.float16(0.5)
    (last,) = loop(lambda v: [half * (v - v.sum() * half)], lambda v: abs(v).max() > 1, [v], 100)
    f = compile_function([v], last, mode="JAX")
    result = to_numpy(f(np.array([8, 4], dtype="float16")))
    np.testing.assert_array_equal(result, [1, -1])
    assert result.dtype == np.float16


@pytest.mark.parametrize("x, expected", [(3.0, 13.0), (40.0, 40.0)])
def test_loop_within_a_loop(x, expected):
    """The outer loop adds what an inner loop doubles.

    Both start from values of their surroundings.
    """
    start = pt.dscalar("x")

    def body(total, k):
        (grown,) = loop(lambda v: [2 * v], lambda v: v < 2 + k, [pt.ones(())], pt.constant(50))
        return total + grown + start * 0, k + 1

    total, count = loop(
        body, lambda total, k: total < 11, [start, pt.constant(0, dtype="int64")], 20
    )
    outputs = {
        mode: to_numpy(compile_function([start], [total, count], mode=mode)(x))
        for mode in ("JAX", "CVM")
    }
    assert outputs["JAX"][0] == outputs["CVM"][0] == expected
    assert outputs["JAX"][1] == outputs["CVM"][1]


@pytest.mark.usefixtures("rewrites")
def test_loop_within_a_fixed_scan():
    x = pt.dvector("x")

    def grow(v):
        return loop(lambda s: [2 * s], lambda s: s < 10, [v], 50)[0]

    grown = pytensor.scan(grow, sequences=[x], return_updates=False)
    f = compile_function([x], grown, mode="JAX")
    np.testing.assert_array_equal(f(np.array([1.0, 3.0, 20.0])), [16.0, 12.0, 20.0])


@pytest.mark.parametrize("optimizer", ["fast_run", "fast_compile"])
def test_taps_sequences_and_outputs_without_feedback(optimizer):
    """Fibonacci steps over a sequence.

    Two taps, a sequence, a state, an output that feeds nothing, a constant.
    """
    x, limit = pt.dvector("x"), pytensor.shared(20.0, name="limit")

    def step(v, two_ago, one_ago, s):
        new = two_ago + one_ago + v
        return [new, s + new, s - v], until(new > limit)

    start = pt.dvector("start")
    outputs_info = [{"initial": start, "taps": [-2, -1]}, pt.ones((), dtype="float64"), None]
    outputs = pytensor.scan(
        step, sequences=[x], outputs_info=outputs_info, n_steps=x.shape[0], return_updates=False
    )
    last = [output[-1] for output in outputs]
    f = compile_function([x, start], last, mode=Mode(linker="jax", optimizer=optimizer))
    g = compile_function([x, start], last, mode="FAST_COMPILE")
    # Lengths at which the circle of two taps ends at either place, and an early stop.
    for length in (
        1,
        3,
        4,
        30,
    ):
        arguments = np.arange(length) / 10, np.array([1.0, 1.0])
        np.testing.assert_allclose(to_numpy(f(*arguments)), to_numpy(g(*arguments)), rtol=1e-14)
    limit.set_value(1000.0)
    np.testing.assert_allclose(to_numpy(f(*arguments)), to_numpy(g(*arguments)), rtol=1e-14)


@pytest.mark.parametrize("n_steps", ["constant", "symbolic"])
@pytest.mark.parametrize(
    "read", [lambda out: out, lambda out: out[-2], lambda out: pytensor.grad(out[-1], out.x)]
)
def test_more_than_the_last_value_is_refused(n_steps, read):
    x, n = pt.dscalar("x"), pt.iscalar("n")
    out = pytensor.scan(
        lambda s: (pt.sin(s), until(s < 0.1)),
        outputs_info=[x],
        n_steps=n if n_steps == "symbolic" else 7,
        return_updates=False,
    )
    out.x = x
    with pytest.raises(NotImplementedError, match="only the last value|several outputs per state"):
        compile_function([x, n], read(out), mode="JAX", on_unused_input="ignore")(1.0, 7)


# Scans with a fixed number of steps


def test_other_scans_keep_the_conversion_of_pytensor(monkeypatch):
    enable_jax()
    from symng.backends import _jax_scan

    def refuse(*args, **kwargs):
        raise AssertionError("a scan with a fixed number of steps came here")

    monkeypatch.setattr(_jax_scan, "convert_while_scan", refuse)
    x = pt.dvector("x")
    sums = pytensor.scan(
        lambda v, s: s + v,
        sequences=[x],
        outputs_info=[pt.zeros((), dtype="float64")],
        return_updates=False,
    )
    f = compile_function([x], sums, mode="JAX")
    np.testing.assert_array_equal(f(np.array([1.0, 2.0, 3.0])), [1.0, 3.0, 6.0])


def recurrent(length):
    """Return the input of a recurrent network, its two weights, and its states at all times."""
    rng = np.random.default_rng(1)
    X = pt.tensor("X", shape=(length, None, 3), dtype="float64")
    weights = [pytensor.shared(rng.normal(size=(3, 2))), pytensor.shared(rng.normal(size=(2, 2)))]
    states = pytensor.scan(
        lambda x, s, A, B: pt.tanh(x @ A + s @ B),
        sequences=[X],
        outputs_info=[pt.zeros((X.shape[1], 2))],
        non_sequences=weights,
        return_updates=False,
    )
    return X, weights, states


@pytest.mark.parametrize("length", [5, None])
def test_products_through_a_recurrent_scan(length):
    """J v and J^T J v, with the number of time steps declared or not."""
    X, weights, states = recurrent(length)
    rng = np.random.default_rng(2)
    tangents = [pt.dmatrix("v"), pt.dmatrix("w")]
    product = pushforward(states, weights, tangents)
    outputs = [product, *pullback(states, weights, product)]
    arguments = rng.normal(size=(5, 4, 3)), rng.normal(size=(3, 2)), rng.normal(size=(2, 2))
    expected = compile_function([X, *tangents], outputs, mode="FAST_COMPILE")(*arguments)
    got = to_numpy(compile_function([X, *tangents], outputs, mode="JAX")(*arguments))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


def test_conjugate_gradient_around_a_recurrent_scan():
    """Solve (J^T J + I) d = b for recurrent weights, with both kinds of scan in one loop."""
    X, (_, B), states = recurrent(5)
    b = pt.dvector("b")

    class Curvature:
        def __matmul__(self, v):
            product = pushforward(states, [B], [v.reshape((2, 2))])
            return pullback(states, [B], product)[0].reshape((4,)) + v

    x, *_, count = conjugate_gradient(Curvature(), pt.specify_shape(b, (4,)), 1e-20, 30)
    rng = np.random.default_rng(3)
    arguments = rng.normal(size=(5, 4, 3)), rng.normal(size=4)
    got, steps = to_numpy(compile_function([X, b], [x, count], mode="JAX")(*arguments))
    expected, _ = compile_function([X, b], [x, count], mode="FAST_COMPILE")(*arguments)
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert 1 < steps < 30
