"""LinearOperator.

Its algebra, its errors, its conversions, and the properties that metrics promise.
"""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.oracles import mlp_case, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse.linalg import cg, eigsh

import symng
from symng import LinearOperator
from symng.operators import Factor

MATRIX = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 4.0]])
V = np.array([1.0, -2.0, 3.0])


def dense(matrix, dtype="float64", **options):
    matrix = np.asarray(matrix, dtype)
    return LinearOperator(
        lambda v: pt.dot(pt.as_tensor(matrix), v), size=len(matrix), dtype=dtype, **options
    )


A = dense(MATRIX)
B = LinearOperator(lambda v: 2.0 * v, size=3, name="B")


@pytest.mark.parametrize(
    "v",
    [V, list(V), tuple(V), np.array([1, -2, 3]), pt.as_tensor(V), V.astype("float32")],
    ids=["array", "list", "tuple", "integers", "symbolic", "float32"],
)
def test_product_with_a_vector(v):
    product = A @ v
    assert product.type.dtype == "float64" and product.ndim == 1
    np.testing.assert_allclose(product.eval(), MATRIX @ V)


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_product_with_a_matrix(columns):
    v = np.random.default_rng(0).standard_normal((3, columns))
    np.testing.assert_allclose((A @ v).eval(), MATRIX @ v)
    np.testing.assert_allclose((A @ pt.as_tensor(v)).eval(), MATRIX @ v)


@pytest.mark.parametrize(
    "operator, wanted",
    [
        (A + B, MATRIX + 2 * np.eye(3)),
        (A - B, MATRIX - 2 * np.eye(3)),
        (-A, -MATRIX),
        (2 * A, 2 * MATRIX),
        (A * 2, 2 * MATRIX),
        (np.float64(2) * A, 2 * MATRIX),
        (np.array(2) * A, 2 * MATRIX),
        (pt.as_tensor(2.0) * A, 2 * MATRIX),
        (A * pytensor.shared(2.0), 2 * MATRIX),
        (A.damped(0.5), MATRIX + 0.5 * np.eye(3)),
        (A.damped(-0.5), MATRIX - 0.5 * np.eye(3)),
        (A.damped(pytensor.shared(np.float32(0.5))), MATRIX + 0.5 * np.eye(3)),
        ((0.5 * A + B).damped(1) - 3 * (A + A), -5.5 * MATRIX + 3 * np.eye(3)),
    ],
)
def test_algebra(operator, wanted):
    assert operator.shape == (3, 3) and operator.dtype == "float64"
    np.testing.assert_allclose((operator @ V).eval(), wanted @ V)
    np.testing.assert_allclose(operator.materialise().eval(), wanted)


def test_operators_of_one_term_are_materialised_too():
    np.testing.assert_array_equal(dense([[3.0]]).materialise().eval(), [[3.0]])


def test_repr_and_names():
    assert repr(A + 2 * B) == "LinearOperator(size=3, dtype='float64', name='A + 2 * (B)')"
    assert repr(B.damped(0.1)) == "LinearOperator(size=3, dtype='float64', name='B + 0.1 I')"


def test_float32_stays_float32():
    small = 0.3 * dense(MATRIX, "float32").damped(0.1) + dense(MATRIX, "float32")
    assert (small @ V).eval().dtype == small.materialise().eval().dtype == "float32"
    assert (small @ np.eye(3)).eval().dtype == "float32"
    assert small.to_scipy().matvec(V).dtype == "float32"


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: LinearOperator(3, size=3),
            TypeError,
            "matvec: expected a callable from symbolic vector .* got 3",
        ),
        (
            lambda: LinearOperator(abs, size=0),
            ValueError,
            "size: expected a whole number, at least 1, got 0",
        ),
        (lambda: LinearOperator(abs, size=2.0), TypeError, "size: expected a whole number"),
        (
            lambda: LinearOperator(abs, size=2, dtype="int64"),
            ValueError,
            "dtype: expected 'float32' or 'float64', got 'i",
        ),
        (
            lambda: A @ np.ones(4),
            ValueError,
            r"v: expected a vector .* of 3 floating-point rows, .*shape=\(4,\).* in or",
        ),
        (lambda: A @ np.ones((4, 3)), ValueError, "v: expected a vector"),
        (lambda: A @ 1.0, TypeError, "v: expected a vector"),
        (lambda: A @ np.ones((3, 1, 1)), TypeError, "v: expected a vector"),
        (lambda: A @ ["a", "b", "c"], TypeError, "v: expected a vector"),
        (
            lambda: A @ pt.lvector("v"),
            TypeError,
            "v: expected a vector .* got the symbolic tensor 'v'",
        ),
        (lambda: A @ B, TypeError, r"v: expected a vector .* got a LinearOperator of shape"),
        (
            lambda: A * B,
            TypeError,
            r"scale: expected .* got a LinearOperator .* For a product write A @ v",
        ),
        (lambda: A * np.ones(3), TypeError, "scale: expected a finite number"),
        (lambda: float("nan") * A, ValueError, "scale: expected a finite number"),
        (
            lambda: A + dense(np.eye(2)),
            ValueError,
            r"A \+ B: expected two operators of size 3 and dtype float64, got one",
        ),
        (lambda: A + dense(MATRIX, "float32"), ValueError, "dtype float32"),
        (lambda: A + 1.0, TypeError, "unsupported operand"),
        (lambda: A - 1.0, TypeError, "unsupported operand"),
        (lambda: np.ones(3) @ A, TypeError, "unsupported operand"),
        (lambda: A.damped(float("inf")), ValueError, "damping: expected a finite number"),
        (
            lambda: A.damped(pt.vector()),
            TypeError,
            "damping: expected a finite number .or a symbolic scalar.",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


# To SciPy


def test_to_scipy_solves_and_diagonalises():
    S = A.to_scipy()
    assert S.shape == (3, 3) and S.dtype == np.float64
    x, info = cg(S, V, rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(x, np.linalg.solve(MATRIX, V), rtol=1e-9)
    largest = eigsh(S, k=1, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(largest, np.linalg.eigvalsh(MATRIX)[-1:], rtol=1e-9)
    np.testing.assert_allclose(S.T @ np.eye(3), MATRIX)


def test_to_scipy_takes_the_batch_and_reads_parameters_anew():
    c = mlp_case("categorical")
    F = symng.Fisher()(c.objective)
    x = c.givens[c.objective.inputs[0]]
    S, v = F.to_scipy(x), np.ones(F.size)
    before = S @ v
    np.testing.assert_allclose(before, (F @ v).eval({c.objective.inputs[0]: x}))
    p = c.params[0]
    p.set_value(p.get_value() * 2)
    assert relative_error(S @ v, before) > 1e-3


def test_to_scipy_refuses_other_batches():
    c = mlp_case("bernoulli", dtype="float32")
    F, H = symng.Fisher()(c.objective), symng.Hessian()(c.objective)
    x, t = c.givens.values()
    with pytest.raises(ValueError, match=r"batch: expected 1 arrays \(x\), got 2"):
        F.to_scipy(x, t)
    with pytest.raises(ValueError, match=r"batch: expected 2 arrays \(x, t\), got 0"):
        H.to_scipy()
    with pytest.raises(
        TypeError,
        match=r"batch, x: expected dtype float32, .* Convert it with .astype\('float32'\)",
    ):
        F.to_scipy(x.astype("float64"))
    with pytest.raises(ValueError, match="batch, x: expected an array of 2 axes"):
        F.to_scipy(x[0])


def test_inputs_of_sums_are_those_of_both_in_order():
    x, y = pt.vector("x"), pt.vector("y")
    first = LinearOperator(lambda v: x.sum() * v, size=2, inputs=[x])
    second = LinearOperator(lambda v: (x * y).sum() * v, size=2, inputs=[y, x])
    assert (first + second).inputs == (x, y)
    assert first.required_inputs() == (x,)
    assert LinearOperator(lambda v: v, size=2, inputs=[x]).required_inputs() == ()


# What metrics promise, on drawn vectors

SEMI_DEFINITE = {
    "fisher": symng.Fisher(),
    "output": symng.Fisher(form="output"),
    "gauss_newton": symng.GaussNewton(),
    "empirical": symng.EmpiricalFisher(),
    "centered": symng.EmpiricalFisher(centered=True),
}
SYMMETRIC = {**SEMI_DEFINITE, "hessian": symng.Hessian()}
SIZE = mlp_case("categorical").size
VECTORS = arrays(
    "float64", SIZE, elements=st.floats(-10, 10).map(lambda a: a if abs(a) > 1e-50 else 0.0)
)


@pytest.fixture(scope="module")
def products():
    """Return a function from a vector to the products of all metrics, on a loss convex in r."""
    c = mlp_case("categorical")
    v = pt.vector("v")
    f = pytensor.function(
        [*c.givens, v], [metric(c.objective) @ v for metric in SYMMETRIC.values()]
    )
    return lambda vector: dict(zip(SYMMETRIC, f(*c.givens.values(), vector), strict=True))


@pytest.fixture(scope="module")
def norms(products):
    """Return the norm of each matrix.

    Rounding is relative to it, also along vectors that a matrix takes to zero.
    """
    columns = [products(unit) for unit in np.eye(SIZE)]
    return {name: np.linalg.norm([column[name] for column in columns]) for name in SYMMETRIC}


@settings(max_examples=50, deadline=None)
@given(u=VECTORS, v=VECTORS)
def test_metrics_are_symmetric(products, norms, u, v):
    au, av = products(u), products(v)
    for name in SYMMETRIC:
        assert (
            abs(u @ av[name] - v @ au[name])
            <= 1e-12 * np.linalg.norm(u) * np.linalg.norm(v) * norms[name]
        ), name


@settings(max_examples=50, deadline=None)
@given(u=VECTORS, v=VECTORS, a=st.integers(-5, 5), b=st.integers(-5, 5))
def test_metrics_are_linear(products, norms, u, v, a, b):
    au, av, together = products(u), products(v), products(a * u + b * v)
    for name in SYMMETRIC:
        scale = (np.linalg.norm(a * u) + np.linalg.norm(b * v)) * norms[name]
        assert np.linalg.norm(together[name] - a * au[name] - b * av[name]) <= 1e-12 * scale, name


@settings(max_examples=100, deadline=None)
@given(v=VECTORS)
def test_metrics_are_positive_semidefinite(products, norms, v):
    av = products(v)
    for name in SEMI_DEFINITE:
        assert v @ av[name] >= -1e-12 * (v @ v) * norms[name], name


def test_the_hessian_is_not_semidefinite_here(products):
    """So the test above can fail."""
    rng = np.random.default_rng(0)
    assert min(v @ products(v)["hessian"] for v in rng.standard_normal((200, SIZE))) < 0


def test_diagonal():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((6, 6))
    A = A + A.T
    operator = symng.LinearOperator(lambda v: pt.dot(A, v), size=6)
    np.testing.assert_allclose(operator.diagonal().eval(), np.diag(A))
    draws = 4000
    estimate = operator.diagonal(draws, seed=3).eval()
    deviation = np.sqrt(((A**2).sum(axis=1) - np.diag(A) ** 2) / draws)
    assert (abs(estimate - np.diag(A)) < 4 * deviation).all()
    assert (estimate != operator.diagonal(draws, seed=4).eval()).all()


@pytest.mark.parametrize(
    "options, name", [({"draws": 0}, "draws"), ({"draws": 2, "seed": 0.5}, "seed")]
)
def test_what_diagonal_does_not_take(options, name):
    with pytest.raises((TypeError, ValueError), match=name):
        symng.LinearOperator(lambda v: v, size=2).diagonal(**options)


def test_the_old_name_of_a_factor_is_deprecated():
    factor = Factor(lambda v: v, lambda u: u)
    operator = LinearOperator(lambda v: v, size=2, factor=factor)
    with pytest.warns(DeprecationWarning, match=r"^LinearOperator\.root .*LinearOperator\.factor"):
        assert operator.root is factor
