"""Modes, compiling, and what goes in and out of compiled functions."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.compiled import loops_of, outer_nodes
from helpers.small_steps import line
from pytensor import shared
from pytensor.compile.mode import Mode, get_mode
from pytensor.graph.basic import Constant
from pytensor.tensor.math import Dot

import symng
from symng.backends import (
    _numba_rewrites,
    backend_of,
    compile_function,
    enable_jax,
    modes,
    resolve_mode,
    sync_to_host,
    to_numpy,
)
from symng.backends.python_modes import STABILIZED, UNOPTIMIZED
from symng.graphs.loops import while_loop


def run_python(code, flags=""):
    """Run code in a fresh interpreter and return what it printed."""
    flags = ",".join(filter(None, [os.environ.get("PYTENSOR_FLAGS"), flags]))
    environment = {**os.environ, "PYTENSOR_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Compiled graphs


@pytest.mark.slow
def test_products_on_numba_take_any_layout():
    """What PyTensor 3.0 copies first is multiplied as it is, inside of a loop and outside."""
    x, y, u = pt.matrix("x"), pt.matrix("y"), pt.vector("u")
    state = {"v": u, "i": pt.constant(0, dtype="int64")}

    def body(s):
        return {"v": pt.dot(x, pt.dot(x.T, s["v"])) / pt.dot(s["v"], s["v"]), "i": s["i"] + 1}

    looped = while_loop(body, lambda s: s["i"] < 3, state, 10)["v"]
    products = [
        pt.dot(x, y),
        pt.dot(x.T, y.T),
        pt.dot(y.T, y),
        pt.dot(x, x.T),
        pt.dot(u, u),
        pt.dot(x[::2], y[:, ::-1]),
    ]
    outer = pt.outer(u, u)[1:] @ y.T
    function = compile_function([x, y, u], [looped, *products, outer], mode="NUMBA")
    rng = np.random.default_rng(0)
    for rows in (5, 1):
        a, b, c = (
            rng.standard_normal((rows, rows)),
            rng.standard_normal((rows, rows)),
            rng.standard_normal(rows),
        )
        v = c
        for _ in range(3):
            v = a @ (a.T @ v) / (v @ v)
        expected = [
            v,
            a @ b,
            a.T @ b.T,
            b.T @ b,
            a @ a.T,
            c @ c,
            a[::2] @ b[:, ::-1],
            np.outer(c, c)[1:] @ b.T,
        ]
        for mine, right in zip(function(a, b, c), expected, strict=True):
            np.testing.assert_allclose(mine, right, rtol=1e-10)
    if _numba_rewrites.COPIES_FACTORS:
        inner = [node for loop in loops_of(function) for node in outer_nodes(loop.op.fgraph)]
        for found in (outer_nodes(function), inner):
            assert any(isinstance(node.op, _numba_rewrites.LayoutDot) for node in found)
            assert not any(isinstance(node.op, Dot) for node in found)


@pytest.mark.slow
def test_numba_gets_no_large_constants():
    """A function that holds one is compiled anew in each process.

    Zeros to start from are made when it runs.
    """
    v = pt.vector("v", shape=(300_000,))
    final = while_loop(
        lambda s: {"x": s["x"] + v, "i": s["i"] + 1},
        lambda s: s["i"] < 3,
        {
            "x": pt.zeros_like(v),
            "i": pt.constant(0, dtype="int64"),
        },
        10,
    )
    function = compile_function([v], [final["x"], final["i"], pt.ones_like(v)], mode="NUMBA")
    x, count, ones = function(np.full(300_000, 2.0))
    assert (x == 6.0).all() and count == 3 and (ones == 1.0).all()
    constants = [v for v in function.maker.fgraph.variables if isinstance(v, Constant)]
    assert constants and all(
        v.data.nbytes <= _numba_rewrites.MAX_CACHED_BYTES for v in constants if v.type.ndim
    )


def test_a_plain_pytensor_function_is_left_alone():
    """The rewrites for Numba run in functions of this package only."""
    x = pt.matrix("x")
    compile_function([x], pt.dot(x, x), mode="NUMBA")
    plain = pytensor.function([x], pt.dot(x, x), mode="NUMBA")
    assert not any(isinstance(node.op, _numba_rewrites.LayoutDot) for node in outer_nodes(plain))


# Modes


@pytest.mark.parametrize(
    "mode, backend",
    [
        ("CVM", "c"),
        ("cvm", "c"),
        ("c", "c"),
        ("numba", "numba"),
        ("Jax", "jax"),
        ("FAST_COMPILE", "python"),
        ("pytorch", "pytorch"),
        ("MLX", "mlx"),
        (Mode(linker="cvm", optimizer="fast_compile"), "c"),
        (Mode(linker="py"), "python"),
        (get_mode("JAX").excluding("fusion"), "jax"),
    ],
)
def test_backend_is_read_off_the_linker(mode, backend):
    assert backend_of(mode).name == backend


def test_no_mode_is_the_default_of_pytensor():
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        assert backend_of(None).name == "python"
    with pytensor.config.change_flags(mode="NUMBA"):
        assert backend_of().name == "numba"


def test_mode_objects_are_handed_through():
    mode = Mode(linker="py", optimizer="fast_compile")
    assert resolve_mode(mode) is mode


@pytest.mark.parametrize(
    "compile_or_resolve", [resolve_mode, lambda mode: compile_function([], pt.ones(2), mode=mode)]
)
def test_unknown_mode_lists_the_choices(compile_or_resolve):
    with pytest.raises(
        ValueError, match="mode: expected one of 'CVM', 'NUMBA', 'JAX', .* got 'gpu'"
    ):
        compile_or_resolve("gpu")
    with pytest.raises(TypeError, match="mode: expected one of 'CVM'"):
        compile_or_resolve(3)


@pytest.mark.parametrize("mode, title", [("MLX", "MLX"), ("pytorch", "PyTorch")])
def test_backends_without_scan_are_refused(mode, title):
    with pytest.raises(
        NotImplementedError, match=f"{title} backend has no scan; use 'CVM', 'NUMBA' or 'JAX'"
    ):
        compile_function([], pt.ones(2), mode=mode)
    model = line()
    with pytest.raises(NotImplementedError, match=f"^mode: .*{title} backend has no scan"):
        # And not at its first call.
        symng.compile_step(model.objective, symng.SGD(step_size=0.1), mode=mode)
    with (
        pytensor.config.change_flags(mode=mode.upper()),
        pytest.raises(NotImplementedError, match=title),
    ):
        symng.compile_step(model.objective, symng.SGD(step_size=0.1))


def test_compile_function_passes_everything_on():
    x, unused = pt.dvector("x"), pt.dscalar("unused")
    count = pytensor.shared(np.int64(0))
    f = compile_function(
        [x, unused],
        [2 * x],
        [(count, count + 1)],
        "fast_compile",
        "twice",
        on_unused_input="ignore",
    )
    result = f([1.0, 2.0], 0.0)
    np.testing.assert_array_equal(result[0], [2.0, 4.0])
    assert f.name == "twice" and count.get_value() == 1


def test_device_put_makes_arrays_contiguous():
    (placed,) = backend_of("CVM").device_put([np.arange(6.0).reshape(2, 3).T])
    assert placed.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(placed, [[0, 3], [1, 4], [2, 5]])


def test_sync_to_host_leaves_numpy_values_alone():
    w = pytensor.shared(np.ones(3))
    before = w.get_value(borrow=True)
    sync_to_host([w])
    assert w.get_value(borrow=True) is before


# JAX: registration


CONVERTED = [
    *("ARange", "AbstractFunctionGraph", "Blockwise", "Convolve1d"),
    *("DividedInverse", "IfElse", "IncSubtensor"),
    *(["LazyIfElse"] if importlib.util.find_spec("pytensor.conditional") else []),
    *("RandomVariable", "Reshape", "Scan", "Split"),
]


def test_import_leaves_jax_alone_and_enabling_changes_the_dispatch_of_shapes_and_loops():
    pytest.importorskip("jax")
    printed = run_python(
        "import sys, symng, symng.backends as b\n"
        "print('jax' in sys.modules)\n"
        "from pytensor.link.jax.dispatch import jax_funcify\n"
        "from pytensor.scan.op import Scan\n"
        "before = dict(jax_funcify.registry)\n"
        "b.enable_jax()\n"
        "after = dict(jax_funcify.registry)\n"
        "b.enable_jax()\n"
        "print(sorted(k.__name__ for k in after if after[k] is not before.get(k)))\n"
        "print(after[Scan].__wrapped__ is before[Scan], dict(jax_funcify.registry) == after)\n",
    )
    assert printed.split("\n") == ["False", str(CONVERTED), "True True"]


def test_enable_jax_without_jax_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ImportError, match="pip install jax"):
        enable_jax()


def test_32_bit_jax_runs_float32_and_refuses_float64():
    pytest.importorskip("jax")
    printed = run_python(
        "import numpy as np, pytensor, pytensor.tensor as pt\n"
        "from pytensor.scan.utils import until\n"
        "from symng.backends import compile_function\n"
        "for dtype in ('float32', 'float64'):\n"
        "    x = pt.scalar('x', dtype=dtype)\n"
        "    state, count = pytensor.scan(\n"
        "        lambda s, k: ([s / 2, k + 1], until(s < 4)), outputs_info=[x, pt.constant(0, "
        "dtype='int64')],\n"
        "        n_steps=50, return_updates=False)\n"
        "    try:\n"
        "        s, k = compile_function([x], [state[-1], count[-1]], mode='JAX')(np.asarray(10, "
        "dtype))\n"
        "        print(s.dtype, s, k)\n"
        "    except ValueError as error:\n"
        "        print(error)\n",
        flags="floatX=float32",
    )
    first, second = printed.split("\n")
    assert first == "float32 1.25 3"
    assert "JAX is set to 32 bits" in second and "floatX=float64" in second


# JAX: values


def test_sync_to_host_gives_numpy_arrays_back():
    jax = pytest.importorskip("jax")
    w = pytensor.shared(np.zeros(3, dtype="float32"))
    f = compile_function([], [], {w: w + np.float32(1)}, mode="JAX")
    f()
    assert isinstance(w.get_value(), jax.Array)
    sync_to_host([w])
    value = w.get_value()
    assert isinstance(value, np.ndarray) and value.dtype == np.float32
    value[0] = 5.0
    f()
    np.testing.assert_array_equal(w.get_value(), [2.0, 2.0, 2.0])


def test_to_numpy_returns_arrays_of_ones_own():
    jax = pytest.importorskip("jax")
    result = to_numpy({"a": [jax.numpy.ones(2), (jax.numpy.zeros(()),)], "b": np.ones(1)})
    assert isinstance(result["a"], list) and isinstance(result["a"][1], tuple)
    assert type(result["a"][0]) is np.ndarray and type(result["a"][1][0]) is np.ndarray
    result["a"][0][0] = 2.0


def test_arrays_on_the_device_go_in_as_they_are():
    jax = pytest.importorskip("jax")
    x = pt.dmatrix("x")
    f = compile_function([x], x.sum(axis=0), mode="JAX")
    f.trust_input = True
    (placed,) = backend_of("JAX").device_put([np.ones((3, 2))])
    assert isinstance(placed, jax.Array)
    np.testing.assert_array_equal(f(placed), [3.0, 3.0])


def test_memory_is_kept_where_the_c_library_can(monkeypatch):
    """In a process of its own, for it cannot be undone.

    A large array's memory is not given back.
    """
    code = (
        "import symng, numpy as np\n"
        "def grow():\n"
        "    before = int(open('/proc/self/statm').read().split()[1])\n"
        "    a = np.ones(4_000_000)\n"
        "    del a\n"
        "    return int(open('/proc/self/statm').read().split()[1]) - before\n"
        "given_back, taken = grow(), symng.keep_memory()\n"
        "print(taken, given_back, grow())\n"
    )
    if platform.libc_ver()[0] == "glibc":
        taken, given_back, kept = run_python(code).split()
        # Pages of 4 KiB, of 7812 in all.
        assert taken == "True" and int(given_back) < 1000 < 6000 < int(kept)
    settings = {}

    class EarlyLibrary:
        """As glibc that takes at most 32 MiB for M_MMAP_THRESHOLD, option -3."""

        def mallopt(self, option, size):
            if option == -3 and size > 2**25:
                return 0
            settings[option] = size
            return 1

    monkeypatch.setattr("ctypes.CDLL", lambda name: EarlyLibrary())
    assert symng.keep_memory(10**9) is True
    assert settings == {-1: 10**9, -3: 2**25}
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert symng.keep_memory() is False
    with pytest.raises(ValueError, match="size: expected .*got 0"):
        symng.keep_memory(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The `mode` argument of `scan`:FutureWarning")
def test_c_is_right_where_a_loop_keeps_its_memory():
    """The state of such a loop lies in memory that the next round writes to."""
    a, b = pt.dvector("a"), pt.dvector("b")

    def turn(v):
        return pt.concatenate([v[3:], v[:3]])

    x, y = pytensor.scan(
        lambda x, y: (pt.exp(-turn(y)), pt.sin(turn(x))),
        outputs_info=[a, b],
        n_steps=5,
        mode="CVM",  # a scan with a mode of its own keeps its memory
        return_updates=False,
    )
    arrays = (np.arange(6.0), np.ones(6))
    expected = arrays
    for _ in range(5):
        expected = np.exp(-np.roll(expected[1], 3)), np.sin(np.roll(expected[0], 3))
    found = compile_function([a, b], [x[-1], y[-1]], mode="CVM")(*arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("mode", [pytest.param("CVM", marks=pytest.mark.slow), "FAST_COMPILE"])
def test_a_step_takes_shared_variables_that_hold_arrays_of_jax(mode):
    """A function of the user's that was compiled for JAX leaves its arrays in what it updates."""
    pytest.importorskip("jax")
    x, w, scale = pt.dmatrix("x"), shared(np.ones(2), name="w"), shared(np.ones(2), name="scale")
    y = (x * scale) @ w
    objective = symng.Objective(pt.sqr(y).mean() / 2, output=y, params=[w], inputs=[x])
    pytensor.function([], updates={w: w + 1, scale: scale / 2}, mode="JAX")()
    assert not any(isinstance(v.get_value(borrow=True), np.ndarray) for v in (w, scale))
    symng.compile_step(objective, symng.SGD(0.5), mode=mode)((np.eye(2),))
    np.testing.assert_allclose(w.get_value(), 2 - 0.5 * 0.5 * 2 * 0.5 * 0.5)
    pytensor.function([], updates={w: w + 1}, mode="JAX")()
    F = symng.Fisher()(objective).to_scipy(np.eye(2), mode=mode)
    np.testing.assert_allclose(F @ np.ones(2), np.full(2, 0.125))


# The default


def test_set_mode_and_the_default(monkeypatch):
    assert backend_of().name == "python"  # the tests set PyTensor's flag
    for mode in ("CVM", "C", get_mode("NUMBA")):
        symng.set_mode(mode)
        assert backend_of() is backend_of(mode)
    symng.set_mode(None)
    assert backend_of().name == "python"
    monkeypatch.setattr(pytensor.config, "mode", "Mode")
    installed = importlib.util.find_spec("jax") is not None
    assert backend_of() is backend_of("JAX" if installed else get_mode(None))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend_of() is backend_of(get_mode(None))
    with pytest.raises(ValueError, match="mode: expected one of"):
        symng.set_mode("gpu")


def test_what_jax_lacks_runs_elsewhere_by_default(monkeypatch):
    """Indexing by a mask, whose length depends on values, is nothing for JAX.

    By name it is refused.
    """
    pytest.importorskip("jax")
    x, w = pt.dmatrix("x"), shared(np.ones(2), name="w")
    y = x @ w
    loss = pt.sqr(y)[pt.gt(y, 0).nonzero()].mean() / 2
    objective = symng.Objective(loss, output=y, params=[w], inputs=[x], likelihood=symng.Gaussian())
    X = np.array([[1.0, 0.0], [0.0, -1.0]])
    with pytest.raises(Exception, match="(?i)jax"):
        symng.compile_step(objective, symng.SGD(0.5), mode="JAX")((X,))
    monkeypatch.setattr(modes, "default_mode", lambda: get_mode("JAX"))
    monkeypatch.setattr(modes, "pytensor_mode", lambda: get_mode("FAST_COMPILE"))
    step = symng.compile_step(objective, symng.SGD(0.5))
    with pytest.warns(
        UserWarning, match="mode: JAX, the default, cannot run this model .* backend 'python'"
    ) as caught:
        step((X,))
    (warning,) = [w for w in caught if "JAX, the default" in str(w.message)]
    # The user's line, JAX's reason.
    assert warning.filename == __file__ and str(warning.message).count("mode: ") == 1
    assert step.backend == "python"
    np.testing.assert_allclose(w.get_value(), [0.5, 1.0])
    step((X,))  # and no second warning


@pytest.mark.parametrize("mode", [UNOPTIMIZED, STABILIZED], ids=["plain", "stabilized"])
def test_nothing_is_compiled_to_c_in_the_python_modes(mode, monkeypatch):
    """A loop in a loop, with an op in it that is a graph."""

    def refuse(*args, **kwargs):
        raise AssertionError("this is compiled to C")

    monkeypatch.setattr(pytensor.link.c.basic.CLinker, "__compile__", refuse)

    def total(row):
        shares = pt.special.softmax(row)
        sums = pytensor.scan(lambda v, s: s + pt.sqr(v), shares, pt.zeros(()), return_updates=False)
        return sums[-1]

    x = pt.matrix("x")
    sums = pytensor.scan(total, x, return_updates=False)
    f = pytensor.function([x], [sums, pytensor.grad(sums.sum(), x)], mode=mode)
    X = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]])
    p = np.exp(X) / np.exp(X).sum(axis=1, keepdims=True)
    values, slopes = f(X)
    np.testing.assert_allclose(values, (p**2).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(slopes, 2 * p * (p - values[:, None]), rtol=1e-10)
