"""`lincg`, `minres` and `minresQLP` against dense solves and what the original solvers gave.

The recorded systems have 24 unknowns. ``data/solvers.json`` holds the results of the original
theano_optimize on Theano 0.6: in float64, but for ``minres``, which ran in float32 with rtol=1e-4.
"""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.originals import BOUNDS, recorded

from symng.legacy import minres as minres_module
from symng.legacy.lincg import linear_cg, linear_cg_precond
from symng.legacy.minres import messages, minres, norm, sqnorm, symGivens2
from symng.legacy.minresQLP import MinresQLP, minresQLP
from symng.legacy.minresQLP import messages as qlp_messages

RECORDED = recorded("solvers")
SYSTEMS = RECORDED["systems"]
NAMES = list(SYSTEMS)
N = 24


def matrix(name):
    """Return the dense matrix of a recorded system."""
    Q = np.array(RECORDED["Q"])
    return (Q * np.array(SYSTEMS[name]["eigenvalues"])) @ Q.T


def solution(name):
    """Return the shortest x that solves a recorded system, or its least-squares problem."""
    values = np.array(SYSTEMS[name]["eigenvalues"]) + SYSTEMS[name]["options"].get("damp", 0.0)
    inverse = np.where(values == 0, 0, 1 / np.where(values == 0, 1, values))
    Q = np.array(RECORDED["Q"])
    return (Q * inverse) @ Q.T @ np.array(SYSTEMS[name]["b"])


@pytest.fixture(scope="module")
def compiled():
    """Compile the solve of a recorded system by a solver; once for all systems alike."""
    functions = {}

    def solve(method, name, **settings):
        system = SYSTEMS[name]
        key = (method, system["options"]["maxit"], "M" in system, *settings.items())
        if key not in functions:
            A, b, damp, M = pt.dmatrix("A"), pt.dvector("b"), pt.dscalar("damp"), pt.dvector("M")
            given = dict(maxit=key[1], damp=damp, **settings)
            if method == "linear_cg":
                out = linear_cg(lambda v: [A @ v], [b], rtol=1e-12, **given)
            else:
                given |= dict(rtol=1e-8, Ms=[M] if "M" in system else None)
                solver, shapes = (minres, ()) if method == "minres" else (minresQLP, ([(N,)],))
                out = solver(lambda v: ([A @ v], {}), [b], *shapes, **given)
                out = [*out[0], *out[1 : 9 if method == "minres" else 6]]
            functions[key] = pytensor.function([A, b, damp, M], out, on_unused_input="ignore")
        b = np.array(system["b"])
        damp = system["options"].get("damp", 0.0)
        return functions[key](matrix(name), b, damp, np.array(system.get("M", b)))

    return solve


def relative(x, y):
    """Return the distance of two vectors, relative to the second."""
    return np.linalg.norm(x - y) / np.linalg.norm(y)


class TestMinresQLP:
    @pytest.mark.parametrize("name", NAMES)
    def test_reaches_the_recorded_verdict(self, name, compiled):
        x, flag, iters, relres, _, _ = compiled("minresQLP", name)
        theirs = SYSTEMS[name]["minresQLP"]
        # Without its null vector, which the original leaves in, x meets rtol but for rounding.
        assert flag == theirs["flag"] or (name == "inconsistent" and flag == 4)
        bound = BOUNDS["minresQLP"]["ill" if name == "ill" else "iterations"]
        assert abs(iters - theirs["iters"]) <= bound
        if flag == 1:
            # The bounds on both residuals are 1e-8, and a residual is at least x times the
            # smallest eigenvalue.
            assert (
                relative(x, solution(name)) < 1e-8 * np.linalg.cond(matrix(name)) or "sing" in name
            )
            assert relative(x, theirs["x"]) < 1e-4
            assert relres <= 1e-8

    def test_singular_solution_is_the_shortest(self, compiled):
        x = compiled("minresQLP", "singular")[0]
        assert relative(x, solution("singular")) < 1e-6

    def test_least_squares_solution_is_the_shortest_where_theirs_is_long(self, compiled):
        x = compiled("minresQLP", "inconsistent")[0]
        assert relative(x, solution("inconsistent")) < 1e-7
        theirs = np.linalg.norm(SYSTEMS["inconsistent"]["minresQLP"]["x"])
        assert theirs > 20 * np.linalg.norm(x)

    def test_quirks_make_the_least_squares_solution_long_again(self, compiled):
        x, flag, *_ = compiled("minresQLP", "inconsistent", quirks=True)
        assert flag == SYSTEMS["inconsistent"]["minresQLP"]["flag"]
        shortest = solution("inconsistent")
        assert np.linalg.norm(x) > 2 * np.linalg.norm(shortest)
        # It solves the problem, but for its part along the null vectors.
        A = matrix("inconsistent")
        np.testing.assert_allclose(A @ x, A @ shortest, atol=1e-5)

    def test_quirks_give_the_recorded_numbers(self, compiled):
        """Six iterations, before the Lanczos vectors of either program have lost orthogonality."""
        x, *scalars = compiled("minresQLP", "few", quirks=True)
        theirs = SYSTEMS["few"]["minresQLP"]
        assert relative(x, theirs["x"]) < 1e-12
        wanted = [theirs[key] for key in ("flag", "iters", "relres", "Anorm", "Acond")]
        np.testing.assert_allclose(scalars, wanted, rtol=BOUNDS["minresQLP"]["numbers"])

    def test_a_tensor_in_gives_a_tensor_out(self):
        d, b, m = np.arange(1.0, 5.0), np.array([1.0, -1.0, 2.0, 0.0]), np.array([1.0, 2, 1, 2])
        x, flag, *_ = minresQLP(
            lambda v: ([pt.constant(d) * v], {}), pt.constant(b), (4,), Ms=pt.constant(m)
        )
        x, flag = pytensor.function([], [x, flag])()
        assert flag == 1
        assert relative(x, b / d) < 1e-5

    def test_the_class_takes_tensors_of_several_shapes(self):
        rng = np.random.default_rng(0)
        A = rng.normal(size=(7, 7))
        A = A + A.T
        B, c = rng.normal(size=(2, 3)), rng.normal(size=1)

        def product(V, w):
            out = pt.constant(A) @ pt.concatenate([V.ravel(), w])
            return [out[:6].reshape((2, 3)), out[6:]]

        op = MinresQLP(product, [(2, 3), (1,)], rtol=1e-10)
        X, y, flag, iters, *_ = pytensor.function([], op(pt.constant(B), pt.constant(c)))()
        assert X.shape == (2, 3) and y.shape == (1,)
        expected = np.linalg.solve(A, np.concatenate([B.ravel(), c]))
        assert relative(np.concatenate([X.ravel(), y]), expected) < 1e-8
        assert flag == 1 and iters == 7

    def test_eigenvector_has_flag_minus_one(self):
        out = minresQLP(lambda v: [3 * v], [pt.constant(np.array([1.0, 2.0]))], [(2,)])
        x, flag, iters = pytensor.function([], [out[0][0], *out[1:3]])()
        np.testing.assert_allclose(x, [1 / 3, 2 / 3])
        assert (flag, iters) == (-1, 1)
        assert "eigenvector" in qlp_messages[int(flag) + 1]

    def test_quirks_forget_an_eigenvector(self):
        b = pt.constant(np.array([1.0, 0.0]))
        out = minresQLP(lambda v: [2 * v], [b], [(2,)], quirks=True)
        x, *scalars = pytensor.function([], [out[0][0], *out[1:]])()
        assert not x.any()
        assert [float(value) for value in scalars] == [-1, 1, 1, 0, 1]

    def test_norm_limit_has_flag_six(self):
        A, b = np.diag([1e-3, 2e-3, 4e-3, 1.0]), np.ones(4)
        out = minresQLP(lambda v: [pt.constant(A) @ v], [pt.constant(b)], [(4,)], maxxnorm=10)
        assert pytensor.function([], out[1])() == 6


class TestMinres:
    @pytest.mark.parametrize("name", ["definite", "indefinite", "preconditioned", "few"])
    def test_solves_the_recorded_systems(self, name, compiled):
        x, flag, iters, relres, relAres, Anorm, Acond, xnorm, Axnorm = compiled("minres", name)
        assert flag.dtype == iters.dtype == "int32"
        assert flag == (8 if name == "few" else 1)
        A, b = matrix(name), np.array(SYSTEMS[name]["b"])
        r = b - A @ x
        np.testing.assert_allclose(xnorm, np.linalg.norm(x), rtol=1e-10)
        if name == "few":
            assert iters == 6
            np.testing.assert_allclose(
                relres, np.linalg.norm(r) / (Anorm * xnorm + np.linalg.norm(b)), rtol=1e-8
            )
            np.testing.assert_allclose(Axnorm, np.linalg.norm(A @ x), rtol=1e-8)
        else:
            assert relative(x, solution(name)) < 1e-5
        assert 0.5 * np.linalg.norm(A, 2) < Anorm * np.max(SYSTEMS[name].get("M", 1))
        assert relAres >= 0 and Acond >= 1

    def test_quirks_make_one_round_more(self, compiled):
        x, flag, iters, *scalars = compiled("minres", "few", quirks=True)
        assert (flag, iters) == (8, 7)
        r = np.array(SYSTEMS["few"]["b"]) - matrix("few") @ x
        fewer = np.array(SYSTEMS["few"]["b"]) - matrix("few") @ compiled("minres", "few")[0]
        assert np.linalg.norm(r) < np.linalg.norm(fewer)

        theirs = SYSTEMS["few"]["minres"]
        assert (flag, iters) == (theirs["flag"], theirs["niters"])
        assert relative(x, theirs["x"]) < 1e-5
        names = ("relres", "relAres", "Anorm", "Acond", "xnorm", "Axnorm")
        rtol = BOUNDS["minres"]["numbers"]
        np.testing.assert_allclose(scalars, [theirs[key] for key in names], rtol=rtol)

    @pytest.mark.parametrize("name", [name for name in NAMES if "minres" in SYSTEMS[name]])
    def test_has_the_flag_of_the_original(self, name, compiled):
        flag = compiled("minres", name)[1]
        assert flag == SYSTEMS[name]["minres"]["flag"] or (name == "inconsistent" and flag == 4)

    def test_zero_right_hand_side(self, compiled):
        x, flag, *_ = compiled("minres", "zero")
        assert flag == 0 and not x.any()
        assert np.isnan(compiled("minres", "zero", quirks=True)[0]).all()

    def test_natgrad_finds_both_solvers_here(self):
        assert minres_module.minresQLP is minresQLP
        assert minres_module.minres_messages is messages and len(messages) == 13
        assert minres_module.minresQLP_messages is qlp_messages and len(qlp_messages) == 11

    def test_tridiagonal_system_in_float32(self):
        """The first of the tests of the original."""
        n = 100
        A = (4 * np.eye(n) - 2 * np.eye(n, k=1) - 2 * np.eye(n, k=-1)).astype("float32")
        b, M = A.sum(axis=1), np.full(n, 4, "float32")
        xs, flag, *_ = minres(
            lambda v: ([pt.constant(A) @ v], {}),
            [pt.constant(b)],
            rtol=np.float32(1e-10),
            maxit=50,
            Ms=[pt.constant(M)],
        )
        x, flag = pytensor.function([], [xs[0], flag])()
        assert x.dtype == "float32"
        # No residual in float32 is below 1e-10; b is symmetric, so that 50 rounds suffice.
        assert flag in (1, 3, 8)
        assert relative(x, np.ones(n)) < 1e-3

    def test_singular_system_with_a_least_squares_solution(self):
        """The second: a diagonal with a zero on it."""
        d, b = np.arange(-10.0, 11.0, dtype="float32"), np.ones(21, "float32")
        xs, flag, *_ = minres(
            lambda v: ([pt.constant(d) * v], {}), [pt.constant(b)], maxit=50, maxxnorm=1e8
        )
        x, flag = pytensor.function([], [xs[0], flag])()
        assert "least-squares" in messages[int(flag)]
        rest = np.arange(21) != 10
        np.testing.assert_allclose(x[rest], 1 / d[rest], rtol=1e-3)


class TestLinearCG:
    @pytest.mark.parametrize("name", ["definite", "damped", "singular", "few"])
    def test_gives_the_recorded_solution(self, name, compiled):
        (x,) = compiled("linear_cg", name)
        assert relative(x, SYSTEMS[name]["linear_cg"]) < 1e-6

    def test_quirks_go_on_beyond_negative_curvature(self, compiled):
        (x,) = compiled("linear_cg", "indefinite", quirks=True)
        assert relative(x, SYSTEMS["indefinite"]["linear_cg"]) < 1e-6
        assert relative(x, compiled("linear_cg", "indefinite")[0]) > 0.1

    def test_random_system(self):
        """The test of the original, with fewer unknowns."""
        rng = np.random.RandomState(23091)
        L = rng.rand(60, 60)
        L, g = L.T @ L + 0.001 * np.eye(60), rng.rand(60)
        [x] = linear_cg(
            lambda v: [pt.constant(L) @ v], [pt.constant(g)], rtol=1e-20, damp=0.0, maxit=100000
        )
        np.testing.assert_almost_equal(pytensor.function([], x)(), np.linalg.solve(L, g), decimal=5)

    def test_makes_a_round_before_it_tests(self):
        d, b = np.array([1.0, 3.0]), np.array([1e-4, 1e-4])
        [x] = linear_cg(lambda v: [pt.constant(d) * v], [pt.constant(b)], rtol=1e-6)
        step = (b @ b) / (b @ (d * b)) * b
        np.testing.assert_allclose(pytensor.function([], x)(), step, rtol=1e-12)

    @pytest.mark.parametrize("quirks", [False, True])
    def test_zero_right_hand_side(self, quirks):
        [x] = linear_cg(lambda v: [2 * v], [pt.constant(np.zeros(3))], quirks=quirks)
        x = pytensor.function([], x)()
        assert np.isnan(x).all() if quirks else not x.any()

    def test_preconditioned_stops_on_the_preconditioned_residual(self):
        rng = np.random.default_rng(1)
        A = rng.normal(size=(12, 12))
        A, b, m = A @ A.T + np.eye(12), rng.normal(size=12), rng.uniform(0.5, 20, 12)
        rtol = 1e-2
        x, r, count = np.zeros(12), b.copy(), 0
        p, rz = r / m, r @ (r / m)
        while count == 0 or rz >= rtol:
            alpha = rz / (p @ A @ p)
            x, r = x + alpha * p, r - alpha * A @ p
            new = r @ (r / m)
            p, rz, count = r / m + new / rz * p, new, count + 1
        assert 1 < count < 12

        def solve(**settings):
            out = linear_cg_precond(
                lambda v: [pt.constant(A) @ v], [pt.constant(b)], [pt.constant(m)], rtol, **settings
            )
            return pytensor.function([], out)()[0]

        np.testing.assert_allclose(solve(), x, rtol=1e-8)
        assert relative(solve(maxit=40, quirks=True), np.linalg.solve(A, b)) < 1e-8


class TestNorms:
    def test_norms_of_lists(self):
        rng = np.random.default_rng(2)
        xs, ys = ([rng.normal(size=(2, 3)), rng.normal(size=4)] for _ in range(2))
        inner = sum((x * y).sum() for x, y in zip(xs, ys, strict=True))
        tensors = [[pt.constant(a) for a in of] for of in (xs, ys)]
        np.testing.assert_allclose(sqnorm(*tensors).eval(), inner)
        square = sum((x * x).sum() for x in xs)
        np.testing.assert_allclose(norm(tensors[0]).eval(), np.sqrt(square))

    def test_reflection(self):
        a, b = pt.dscalar("a"), pt.dscalar("b")
        f = pytensor.function([a, b], symGivens2(a, b))
        for v in [(3, 4), (-3, 4), (0, -2), (-5, 0), (0, 0), (1e200, -1e200), (1e-200, 3e-200)]:
            c, s, d = (float(value) for value in f(*v))
            np.testing.assert_allclose(c * v[0] + s * v[1], d, rtol=1e-12)
            np.testing.assert_allclose(s * v[0] - c * v[1], 0, atol=1e-12 * abs(d))
            np.testing.assert_allclose(c**2 + s**2, 1)
            assert d >= 0


class TestBadInput:
    def test_another_number_of_tensors(self):
        b = pt.constant(np.ones(2))
        with pytest.raises(ValueError, match="compute_Av: expected 1 tensors.*got 2"):
            linear_cg(lambda v: [v, v], [b])
        with pytest.raises(ValueError, match="param_shapes: expected 1 shapes.*got 2"):
            minresQLP(lambda v: [v], [b], [(2,), (3,)])

    def test_no_tensors(self):
        with pytest.raises(ValueError, match="bs: expected at least one tensor"):
            linear_cg(lambda v: [v], [])

    def test_updates_are_refused(self):
        state = pytensor.shared(0.0)
        with pytest.raises(ValueError, match="compute_Av: expected no updates"):
            minres(lambda v: ([v], {state: state + 1}), [pt.constant(np.ones(2))])
