"""`symng.solve`: values, derivatives of every order, and batches, against dense solves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers import oracles
from helpers.modes import modes
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.replace import vectorize_graph

import symng
from symng import CG, QR, LinearOperator, MinresQLP, Status, Woodbury

MODE = "FAST_COMPILE"
N = 4
SOLVER = MinresQLP(rtol=1e-13)


@dataclass
class System:
    """M, b and a damping, symbolic and as numbers, and the solution of (M + damping I) x = b."""

    M: Any
    b: Any
    damping: Any
    x: Any
    status: Any
    niter: Any
    numbers: list[np.ndarray]

    @property
    def variables(self) -> list[Any]:
        return [self.M, self.b, self.damping]

    def __call__(self, *outputs: Any, mode: str = MODE) -> list[np.ndarray]:
        """Return the values of variables."""
        f = symng.compile_function(
            self.variables, list(outputs), mode=mode, on_unused_input="ignore"
        )
        return [np.asarray(value) for value in f(*self.numbers)]


def system(dtype: str = "float64", solver: Any = SOLVER, **options: Any) -> System:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((N, N))
    M, b, damping = (
        pt.tensor(name, dtype=dtype, shape=(N,) * ndim)
        for name, ndim in (("M", 2), ("b", 1), ("damping", 0))
    )
    s = symng.solve(lambda v: M @ v, b, damping=damping, solver=solver, **options)
    numbers = [root @ root.T + np.eye(N) / 4, rng.standard_normal(N), np.array(0.3)]
    numbers = [np.asarray(a, dtype) for a in numbers]
    return System(M, b, damping, s.x, s.status, s.niter, numbers)


def dense(M: np.ndarray, b: np.ndarray, damping: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix inverted and the solution, in float64."""
    inverse = np.linalg.inv(M.astype("float64") + damping.astype("float64") * np.eye(len(b)))
    return inverse, inverse @ b


C = np.array([1.0, -2.0, 0.5, 3.0])  # the loss is c . x, or c . x^2


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-10), ("float32", 2e-3)])
def test_value_and_gradient(dtype, tolerance):
    s = system(dtype, SOLVER if dtype == "float64" else None)
    slopes = pytensor.grad((C.astype(dtype) * pt.sqr(s.x)).sum(), s.variables)
    values = s(s.x, *slopes, s.status)
    inverse, x = dense(*s.numbers)
    w = inverse @ (2 * C * x)
    wanted = [x, -np.outer(w, x), w, -w @ x]
    for value, want in zip(values, wanted, strict=False):
        assert value.dtype == dtype
        assert oracles.relative_error(value, want) < tolerance
    assert Status(int(values[-1])).success


@pytest.mark.parametrize("use_op_pushforward", [False, True])
def test_pushforward(use_op_pushforward):
    s, rng = system(), np.random.default_rng(1)
    tangents = [rng.standard_normal(a.shape) for a in s.numbers]
    along = pytensor.gradient.pushforward(
        [s.x],
        s.variables,
        [pt.constant(a) for a in tangents],
        use_op_pushforward=use_op_pushforward,
    )
    inverse, x = dense(*s.numbers)
    dM, db, ddamping = tangents
    wanted = inverse @ (db - ddamping * x - dM @ x)
    assert oracles.relative_error(s(*along)[0], wanted) < 1e-10


def test_pushforward_along_one_variable():
    s = system()
    (along,) = pytensor.gradient.pushforward(
        [s.x], [s.damping], [pt.constant(1.0)], use_op_pushforward=True
    )
    inverse, x = dense(*s.numbers)
    assert oracles.relative_error(s(along)[0], -inverse @ x) < 1e-10


def symmetric(matrix: np.ndarray) -> np.ndarray:
    """Return the part of a slope that symmetric changes see."""
    return (matrix + matrix.T) / 2


def test_second_and_third_derivatives():
    s = system()
    first = pytensor.grad(pt.dot(C, s.x), s.damping)
    second = pytensor.grad(first, [s.damping, s.b, s.M])
    third = pytensor.grad(second[0], s.damping)
    inverse, x = dense(*s.numbers)
    w = inverse @ C
    wanted = [
        2 * w @ inverse @ x,
        -inverse @ w,
        symmetric(np.outer(inverse @ w, x) + np.outer(w, inverse @ x)),
        -6 * w @ inverse @ inverse @ x,
    ]
    damping, b, M, third = s(*second, third)
    for value, want in zip([damping, b, symmetric(M), third], wanted, strict=True):
        assert oracles.relative_error(value, want) < 1e-9


@pytest.mark.parametrize("solver", [SOLVER, Woodbury(), QR()], ids=["MinresQLP", "Woodbury", "QR"])
def test_gradient_through_the_parameters_of_a_network(solver):
    """A Fisher solve: the derivative of c . (F + 0.1 I)^-1 c along a direction of the weights."""
    case = oracles.mlp_case("categorical")
    rng = np.random.default_rng(3)
    c = rng.standard_normal(case.size)
    directions = [rng.standard_normal(p.get_value().shape) for p in case.params]
    x = symng.solve(symng.Fisher()(case.objective), pt.constant(c), damping=0.1, solver=solver).x
    slopes = pytensor.grad(pt.dot(c, x), list(case.params))
    f = pytensor.function(list(case.givens), slopes, mode=MODE, on_unused_input="ignore")
    slope = sum((g * d).sum() for g, d in zip(f(*case.givens.values()), directions, strict=True))

    def value(h: float) -> float:
        for p, start, d in zip(case.params, starts, directions, strict=True):
            p.set_value(start + h * d)
        return c @ np.linalg.solve(oracles.fisher(case) + 0.1 * np.eye(case.size), c)

    starts, h = [p.get_value() for p in case.params], 1e-3
    wanted = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    assert abs(slope - wanted) < 1e-6 * abs(wanted)


def test_a_preconditioner_changes_nothing_but_the_way():
    s = system(preconditioner=lambda r: r / np.arange(1.0, N + 1))
    slopes = pytensor.grad(pt.dot(C, s.x), s.variables)
    inverse, x = dense(*s.numbers)
    w = inverse @ C
    for value, want in zip(s(s.x, *slopes), [x, -np.outer(w, x), w, -w @ x], strict=True):
        assert oracles.relative_error(value, want) < 1e-9


def test_settings_of_the_solver_may_be_symbolic():
    maxiter = pytensor.shared(1)
    s = system(solver=MinresQLP(maxiter=maxiter))
    f = symng.compile_function(s.variables, [s.niter, s.status], mode=MODE)
    assert [int(v) for v in f(*s.numbers)] == [1, Status.MAX_ITERATIONS]
    maxiter.set_value(20)
    assert Status(int(f(*s.numbers)[1])) == Status.CONVERGED


def cg(dtype: str) -> CG:
    """Return a solver that compiles faster, for backends."""
    return CG(rtol=1e-12 if dtype == "float64" else 1e-6)


# Batches


def batch(s: System, rows: int, dtype: str = "float64") -> tuple[Any, Any, list[np.ndarray]]:
    """Return symbolic and numeric batches of matrices and right-hand sides."""
    rng = np.random.default_rng(5)
    Ms = pt.tensor("Ms", dtype=dtype, shape=(rows, N, N))
    bs = pt.tensor("bs", dtype=dtype, shape=(rows, N))
    M, _, damping = s.numbers
    scale = np.linspace(1, 2, rows)[:, None, None]
    return (
        Ms,
        bs,
        [
            (scale * M).astype(dtype),
            rng.standard_normal((rows, N)).astype(dtype),
            damping,
        ],
    )


def test_batch_with_a_verdict_for_each_lane():
    s = system()
    Ms, bs, (M, b, damping) = batch(s, 5)
    x, status, niter = vectorize_graph([s.x, s.status, s.niter], {s.M: Ms, s.b: bs})
    M[1] = np.eye(N)
    b[2] = 0
    b[3, 1] = np.nan
    M[4, 0, 1] += 1
    f = symng.compile_function([Ms, bs, s.damping], [x, status, niter], mode=MODE)
    x, status, niter = f(M, b, damping)
    names = [Status(int(v)).name for v in status]
    assert names[:4] == ["CONVERGED", "CONVERGED", "ZERO_RHS", "NOT_FINITE"]
    assert names[4] == "NOT_SYMMETRIC"
    assert niter[1] == 1 < niter[0]
    for k in range(3):
        np.testing.assert_allclose(x[k], dense(M[k], b[k], damping)[1], atol=1e-10)
    assert np.isnan(x[3:]).all()


def check_batch(mode: str, dtype: str, tolerance: float) -> None:
    """Check values and gradients of a batch of three solves."""
    s = system(dtype, cg(dtype))
    Ms, bs, numbers = batch(s, 3, dtype)
    x, niter = vectorize_graph([s.x, s.niter], {s.M: Ms, s.b: bs})
    variables = [Ms, bs, s.damping]
    slopes = pytensor.grad((C.astype(dtype) * x).sum(), variables)
    f = symng.compile_function(variables, [x, *slopes, niter], mode=mode)
    *values, niter = (np.asarray(value) for value in f(*numbers))
    assert {value.dtype for value in values} == {np.dtype(dtype)}
    M, b, damping = numbers
    inverses, xs = zip(*(dense(m, r, damping) for m, r in zip(M, b, strict=True)), strict=True)
    ws = [inverse @ C for inverse in inverses]
    outer = [-np.outer(w, x) for w, x in zip(ws, xs, strict=True)]
    total = -sum(w @ x for w, x in zip(ws, xs, strict=True))
    for value, want in zip(values, [xs, outer, ws, total], strict=True):
        assert oracles.relative_error(value, np.array(want)) < tolerance


def test_gradient_of_a_batch():
    check_batch(MODE, "float64", 1e-10)


def test_a_batch_of_right_hand_sides_alone():
    s = system()
    _, bs, (_, b, _) = batch(s, 3)
    M, _, damping = s.numbers
    x = symng.solve(lambda v: s.M @ v, s.b, damping=float(damping), solver=SOLVER).x
    f = symng.compile_function([s.M, bs], vectorize_graph(x, {s.b: bs}), mode=MODE)
    np.testing.assert_allclose(f(M, b), b @ dense(M, b[0], damping)[0], atol=1e-10)


# Backends


@pytest.mark.slow
@pytest.mark.parametrize("mode", modes("CVM", "JAX"))
def test_backends(mode):
    s = system(solver=cg("float64"))
    slopes = pytensor.grad(pt.dot(C, s.x), s.variables)
    inverse, x = dense(*s.numbers)
    w = inverse @ C
    wanted = [x, -np.outer(w, x), w, -w @ x]
    for value, want in zip(s(s.x, *slopes, mode=mode), wanted, strict=True):
        assert oracles.relative_error(value, want) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("mode", modes("CVM", "NUMBA", "JAX"))
def test_backends_on_a_batch(mode):
    check_batch(mode, "float32", 2e-3)


def test_loops_in_a_solve_decide_how_C_keeps_their_memory():
    s = system()
    mode = symng.resolve_mode("CVM")
    backend = symng.backends.backend_of("CVM")
    tag = "scan_save_mem_no_prealloc"
    assert tag in backend.tune(mode, [s.x]).provided_optimizer.include
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("symng.backends._c._keeps_memory", lambda op: True)
        assert backend.tune(mode, [s.x]) is mode
        batched = vectorize_graph(s.x, {s.b: pt.matrix("bs", shape=(2, N))})
        assert backend.tune(mode, [batched]) is mode


# Mistakes


@pytest.mark.parametrize("solver", [MinresQLP(), CG()])
@pytest.mark.parametrize("wrap", [lambda A: A, lambda A: LinearOperator(A, size=N)])
def test_an_asymmetric_matrix_gives_nan_and_a_verdict(solver, wrap):
    M = pt.matrix("M")
    solution = symng.solve(wrap(lambda v: M @ v), pt.constant(C), solver=solver)
    slope = pytensor.grad(solution.x.sum(), M)
    f = symng.compile_function([M], [solution.x, solution.status, slope], mode=MODE)
    x, status, slope = f(np.triu(np.ones((N, N))) + np.eye(N))
    assert Status(int(status)) == Status.NOT_SYMMETRIC
    assert np.isnan(x).all() and np.isnan(slope).any()
    assert np.isfinite(f(np.eye(N))[0]).all()


def test_a_product_without_a_derivative_is_named():
    class Rounded(Op):
        def make_node(self, v):
            return Apply(self, [v], [v.type()])

        def perform(self, node, inputs, output_storage):
            output_storage[0][0] = np.round(inputs[0])

    d = pt.dvector("d")
    x = symng.solve(lambda v: Rounded()(d + 0 * v) * v, pt.constant(C)).x
    f = symng.compile_function([d], x, mode=MODE)
    np.testing.assert_allclose(f([1.1, 2.1, 4.1, 4.2]), C / [1, 2, 4, 4])
    with pytest.raises(NotImplementedError, match="Rounded"):
        pytensor.grad(x.sum(), d)


def test_only_x_has_a_derivative():
    s = system()
    with pytest.raises(pytensor.gradient.DisconnectedInputError):
        pytensor.grad(s.niter.astype("float64"), s.b)


def test_random_draws_in_the_product_are_refused_in_a_batch():
    rng = pytensor.shared(np.random.default_rng(0))
    b = pt.vector("b", shape=(N,))
    x = symng.solve(lambda v: pt.random.uniform(1, 2, size=v.shape, rng=rng) * v, b).x
    assert symng.compile_function([b], x, mode=MODE)(C).shape == (N,)
    with pytest.raises(NotImplementedError, match="A: expected a product without random draws"):
        vectorize_graph(x, {b: pt.matrix("bs", shape=(2, N))})


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"solver": 3}, TypeError, "solver: expected a solver"),
        ({"damping": "a"}, TypeError, "damping: expected a finite number"),
        ({"b": np.arange(3)}, TypeError, "b: expected a vector of float32 or float64"),
        ({"A": np.eye(4)}, TypeError, "A: expected a LinearOperator or a callable"),
        ({"A": lambda v: v.astype("float32")}, TypeError, "A: expected a product of dtype float64"),
        ({"solver": Woodbury()}, TypeError, "A: expected a LinearOperator with a factor"),
    ],
)
def test_errors(options, error, message):
    arguments = {"A": lambda v: v, "b": np.ones(4)} | options
    with pytest.raises(error, match=message):
        symng.solve(arguments.pop("A"), arguments.pop("b"), **arguments)
