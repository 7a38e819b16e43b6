"""Weighted sums of objectives: their losses, metrics and steps, beside dense ones in NumPy."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.two_terms import WEIGHT, S, T, Terms, X, Z

import symng
from symng.models import squared_error
from symng.objective.batches import as_batch

rng = np.random.default_rng(5)


@pytest.fixture(scope="module")
def terms():
    return Terms()


METRICS = [
    symng.Fisher(),
    symng.Fisher(form="output"),
    symng.GaussNewton(),
    symng.Hessian(),
    symng.EmpiricalFisher(),
    symng.EmpiricalFisher(centered=True),
]


class TestValues:
    def test_loss_is_the_weighted_sum(self, terms):
        losses = terms.evaluate([terms.first.loss, terms.second.loss, terms.both.loss])
        np.testing.assert_allclose(losses[2], losses[0] + WEIGHT * losses[1], rtol=1e-14)

    @pytest.mark.parametrize("metric", METRICS, ids=repr)
    def test_metric_is_the_weighted_sum(self, terms, metric):
        matrix = terms.evaluate(metric(terms.both).materialise())
        np.testing.assert_allclose(matrix, terms.dense(metric), rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("metric", [symng.Fisher(), symng.EmpiricalFisher(centered=True)])
    def test_factor_is_stacked(self, terms, metric):
        operator = metric(terms.both)
        v = pt.constant(rng.standard_normal(22))
        R, Rv, back = terms.evaluate(
            [
                operator.factor.materialise(v),
                operator.factor.matvec(v),
                operator.factor.rmatvec(operator.factor.matvec(v)),
            ]
        )
        np.testing.assert_allclose(R.T @ R, terms.dense(metric), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(Rv, R @ v.data, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(back, R.T @ R @ v.data, rtol=1e-12, atol=1e-14)

    def test_a_multiple_of_one_objective(self, terms):
        matrix = terms.evaluate(symng.Fisher()(terms.first).materialise())
        twice = symng.Fisher()(2 * terms.first)
        R, product, estimate, one = terms.evaluate(
            [
                twice.factor.materialise(pt.zeros(20)),
                twice.materialise(),
                twice.diagonal(draws=2),
                symng.Fisher()(terms.first).diagonal(draws=2),
            ]
        )
        np.testing.assert_allclose(R.T @ R, 2 * matrix, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(product, 2 * matrix, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(estimate, 2 * one, rtol=1e-12)

    def test_estimate_of_the_diagonal_has_no_bias(self, terms):
        estimate = terms.evaluate(symng.Fisher()(terms.both).diagonal(draws=500))
        exact = np.diag(terms.dense(symng.Fisher()))
        np.testing.assert_allclose(estimate, exact, rtol=0.3, atol=1e-2)

    def test_diagonal_of_squared_gradients(self, terms):
        for centered in (False, True):
            metric = symng.EmpiricalFisher(centered=centered)
            first, second, both = terms.evaluate(
                [metric.diagonal(o, draws=4) for o in (terms.first, terms.second, terms.both)]
            )
            expected = np.r_[first, 0, 0]
            expected[np.r_[20:22, 0:12]] += WEIGHT * second
            # Where the estimate takes the place of the exact diagonal, its signs are the same.
            np.testing.assert_allclose(both, expected, rtol=1e-12, atol=1e-14)

    def test_to_scipy_takes_the_arrays_in_order(self, terms):
        product = symng.Fisher()(terms.both).to_scipy(X, Z, mode="FAST_COMPILE")
        v = rng.standard_normal(22)
        np.testing.assert_allclose(product @ v, terms.dense(symng.Fisher()) @ v, rtol=1e-12)


class TestAlgebra:
    def test_sums_and_multiples(self, terms):
        o = terms.first
        several = sum([o, 2 * o, np.float64(3) * o])
        assert several.weights == (1, 2, 3)
        assert (2 * several).weights == (2, 4, 6)
        assert len((several + several).terms) == 6

    def test_parameters_in_the_order_of_the_terms(self, terms):
        assert terms.both.params == (terms.w, terms.u, terms.c)
        assert terms.both.size == 22
        assert all(term.params == terms.both.params for term in terms.both.terms)

    def test_an_input_in_two_terms_stands_for_other_examples(self, terms):
        both = terms.first + terms.first
        assert len(set(both.inputs + both.targets)) == 4
        a, b = both.terms
        f = pytensor.function([*a.inputs, *a.targets, *b.inputs, *b.targets], both.loss)
        alone = pytensor.function([terms.x, terms.t], terms.first.loss)
        np.testing.assert_allclose(f(X, T, X[:2], T[:2]), alone(X, T) + alone(X[:2], T[:2]))

    def test_weight_as_a_shared_variable(self, terms):
        weight = pytensor.shared(0.5, name="weight")
        both = terms.first + weight * terms.second
        step = symng.compile_step(both, symng.SGD(1e-9), mode="FAST_COMPILE")
        info = step(terms.data)
        np.testing.assert_allclose(info.loss, info.losses[0] + 0.5 * info.losses[1])
        weight.set_value(2.0)
        info = step(terms.data)
        np.testing.assert_allclose(info.loss, info.losses[0] + 2 * info.losses[1])

    def test_repr(self, terms):
        assert repr(terms.both).splitlines() == [
            "ObjectiveSum",
            "  params:     w (3, 4), u (4, 2), c (2,), 22 numbers, float64",
            "  1.0 * Objective",
            "    output:     Gaussian, no known activation at its end",
            "    inputs:     x",
            "    targets:    t",
            "    examples:   the loss is a mean over them",
            "  0.3 * Objective",
            "    output:     Categorical, read off softmax",
            "    inputs:     z",
            "    targets:    s",
            "    examples:   the loss is a mean over them",
        ]

    def test_check_of_each_term(self, terms):
        first, second = terms.both.check(*terms.data)
        assert first.matches
        assert second.matches
        assert second.likelihood is None


class TestRefused:
    def test_terms_without_a_common_parameter(self, terms):
        q = pytensor.shared(np.zeros(3), name="q")
        other = symng.Objective(pt.sqr(terms.x @ q).mean(), terms.x @ q, [q], [terms.x])
        with pytest.raises(ValueError, match=r"terms: .*common parameters.*term 1.*: q"):
            terms.first + other

    def test_terms_of_two_dtypes(self, terms):
        with pytest.raises(TypeError, match="one dtype, got float32 and float64"):
            terms.first + Terms("float32").first

    @pytest.mark.parametrize("weight", [0, -1.0, np.nan, "2"])
    def test_weights(self, terms, weight):
        with pytest.raises((ValueError, TypeError), match="weight"):
            weight * terms.first

    def test_other_summands(self, terms):
        for other in (1, terms.first.loss):
            with pytest.raises(TypeError, match=r"objective \+ other: expected an objective"):
                terms.first + other

    @pytest.mark.parametrize(
        "data", [(X, T, Z, S), ((X, T),), ((X, T), (Z, S), (X, T)), X, {"x": X}], ids=list("abcde")
    )
    def test_numbers_of_tuples(self, terms, data):
        step = symng.compile_step(terms.both, symng.SGD(0.1), mode="FAST_COMPILE")
        with pytest.raises((ValueError, TypeError), match=r"gradient_batch: expected 2 tuples"):
            step(data)

    def test_arrays_of_a_term_by_its_number(self, terms):
        step = symng.compile_step(terms.both, symng.SGD(0.1), mode="FAST_COMPILE")
        with pytest.raises(ValueError, match=r"gradient_batch\[1\], s: .*NaN"):
            step(((X, T), (Z, S * np.nan)))
        with pytest.raises(ValueError, match=r"gradient_batch\[1\]"):
            step(((X, T), (Z[:, :2], S)))


def union(reduction, dtype="float64"):
    """Return a model as one objective and as two on parts of its data, with the same losses."""
    draw = np.random.default_rng(2).standard_normal
    A, B = draw((9, 3)).astype(dtype), draw((9, 2)).astype(dtype)
    share = (4 / 9, 5 / 9) if reduction == "mean" else (1, 1)

    def make(name):
        w = pytensor.shared(np.random.default_rng(3).standard_normal((3, 4)).astype(dtype), "w")
        u = pytensor.shared(np.random.default_rng(4).standard_normal((4, 2)).astype(dtype), "u")
        x, t = pt.matrix("x", dtype=dtype), pt.matrix("t", dtype=dtype)
        y = pt.tanh(x @ w) @ u
        loss = getattr(squared_error(y, t), reduction)() / 2
        return symng.Objective(loss, y, [w, u], inputs=[x], targets=[t])

    one, part = make("one"), make("parts")
    parts = share[0] * part + share[1] * part
    return (one, (A, B)), (parts, ((A[:4], B[:4]), (A[4:], B[4:])))


RULE = symng.LevenbergMarquardt(initial=0.1, ratio="quadratic")
OPTIMIZERS = {
    "natural": symng.NaturalGradient(damping=RULE),
    "line search": symng.NaturalGradient(step_size=symng.BacktrackingLineSearch()),
    "gauss-newton": symng.NaturalGradient(metric=symng.GaussNewton(), solver=symng.CG(maxiter=9)),
    "woodbury": symng.NaturalGradient(solver=symng.Woodbury(), damping=0.1),
    "conjugate": symng.NaturalConjugateGradient(beta=symng.PlaneSearch()),
    "polak-ribiere": symng.NaturalConjugateGradient(beta="polak-ribiere"),
    "hessian-free": symng.HessianFree(preconditioner=None),
    "krylov": symng.KrylovSubspaceDescent(basis_size=3),
    "tonga": symng.TONGA(step_size=0.01),
    "sgd": symng.SGD(0.01, momentum=0.9),
    "adam": symng.Adam(0.01),
}

# Others of their kind are in the fast tier.
SLOW = ("line search", "gauss-newton", "woodbury", "polak-ribiere", "krylov")


class TestSteps:
    @pytest.mark.parametrize(
        "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in OPTIMIZERS]
    )
    def test_parts_of_a_batch_take_the_steps_of_the_batch(self, name):
        # A search without derivatives makes rounding errors larger.
        tolerances = {"conjugate": (1, 1e-2)}
        self.compare("mean", OPTIMIZERS[name], *tolerances.get(name, (3, 1e-8)))

    @pytest.mark.parametrize("name", ["natural", "gauss-newton", "krylov", "sgd"])
    def test_parts_of_a_sum_take_the_steps_of_the_sum(self, name):
        self.compare("sum", OPTIMIZERS[name], 3, 1e-8)

    @pytest.mark.parametrize("reduction", [pytest.param("mean", marks=pytest.mark.slow), "sum"])
    def test_in_chunks(self, reduction):
        self.compare(reduction, OPTIMIZERS["natural"], 2, 1e-8, chunk_size=2)

    def compare(self, reduction, optimizer, steps, rtol, **options):
        ends, infos = [], []
        for objective, data in union(reduction):
            chunks = {} if isinstance(objective, symng.Objective) else options
            step = symng.compile_step(objective, optimizer, mode="FAST_COMPILE", **chunks)
            infos.append([step(data) for _ in range(steps)])
            ends.append(np.concatenate([p.get_value().ravel() for p in objective.params]))
        np.testing.assert_allclose(ends[1], ends[0], rtol=rtol, atol=1e-10)
        for one, parts in zip(*infos, strict=True):
            for field in ("loss", "gradient_norm", "reduction_ratio", "damping", "update_norm"):
                np.testing.assert_allclose(
                    getattr(parts, field), getattr(one, field), rtol=100 * rtol, err_msg=field
                )

    def test_a_sum_beside_a_mean(self):
        """The sum over examples counts N times its mean, in loss and metric."""
        (whole, data), _ = union("mean")
        (summed, _), _ = union("sum")
        mixed = summed + 2 * _on_params_of(whole, summed)
        gradient, matrix = _dense(mixed, data)
        step = symng.compile_step(
            mixed, symng.NaturalGradient(damping=0.1, solver=_EXACT), mode="FAST_COMPILE"
        )
        before = np.concatenate([p.get_value().ravel() for p in mixed.params])
        step((data, data))
        after = np.concatenate([p.get_value().ravel() for p in mixed.params])
        # (9 F + 2 F + 9 lambda I) p = g
        expected = np.linalg.solve(matrix * 11 + 9 * 0.1 * np.eye(20), gradient)
        np.testing.assert_allclose(before - after, expected, rtol=1e-8)

    def test_kronecker_solves_the_same_system(self):
        ends = []
        for preconditioner in (None, symng.KroneckerPreconditioner()):
            terms = Terms()
            optimizer = symng.NaturalGradient(
                solver=_EXACT, damping=0.1, preconditioner=preconditioner
            )
            step = symng.compile_step(terms.both, optimizer, mode="FAST_COMPILE")
            for _ in range(3):
                assert step(terms.data).status.success
            ends.append(np.concatenate([p.get_value().ravel() for p in terms.both.params]))
        np.testing.assert_allclose(ends[1], ends[0], rtol=1e-8)
        # u is a layer of the one term that depends on it, w of both; c is the bias of none.
        found = optimizer.preconditioner.describe(terms.both)
        assert found == "dense layers: w (3, 4), u (4, 2)\nscales and shifts: c (2,)"

    def test_kronecker_factors_of_the_inputs(self):
        """A is the weighted mean of the second moments of the inputs."""
        terms = Terms()
        optimizer = symng.NaturalGradient(preconditioner=symng.KroneckerPreconditioner())
        step = symng.compile_step(terms.both, optimizer, mode="FAST_COMPILE")
        step(terms.data)
        A = step.state["kronecker_factors"].get_value()[:9].reshape(3, 3)
        expected = (X.T @ X / 7 + WEIGHT * Z.T @ Z / 5) / (1 + WEIGHT)
        np.testing.assert_allclose(A, expected, rtol=1e-12)

    def test_a_weight_that_only_one_term_uses_as_a_layer_has_the_diagonal(self):
        terms = Terms()
        y = pt.tanh(terms.z @ terms.w) @ pt.sqr(terms.u)
        other = symng.Objective(pt.sqr(y).mean(), y, [terms.w, terms.u], [terms.z])
        found = symng.KroneckerPreconditioner().describe(terms.first + other)
        assert found == "dense layers: w (3, 4)\ndiagonal: u (4, 2)"

    def test_updates_for_a_function_of_ones_own(self, terms):
        own = Terms()
        updates = symng.SGD(0.1).updates(own.both)
        f = pytensor.function(list(own.givens), updates=updates, mode="FAST_COMPILE")
        f(*own.givens.values())
        step = symng.compile_step(Terms().both, symng.SGD(0.1), mode="FAST_COMPILE")
        step(terms.data)
        for p, q in zip(own.both.params, step.objective.params, strict=True):
            np.testing.assert_allclose(p.get_value(), q.get_value(), rtol=1e-12)


_EXACT = symng.MinresQLP(rtol=1e-13, maxiter=200)


def _on_params_of(objective, other):
    """Return the loss of one union objective on the parameters of the other, as a mean."""
    x, t = pt.matrix("x2"), pt.matrix("t2")
    w, u = other.params
    y = pt.tanh(x @ w) @ u
    return symng.Objective(squared_error(y, t).mean() / 2, y, [w, u], [x], [t])


def _dense(both, data):
    """Return the gradient of a sum on the same data in each term, and F of its first term."""
    variables = [*both.terms[0].model.variables, *both.terms[1].model.variables]
    f = pytensor.function(
        variables,
        [
            pt.concatenate([g.flatten() for g in pt.grad(both.loss, list(both.params))]),
            symng.Fisher()(both.terms[0]).materialise(),
        ],
        mode="FAST_COMPILE",
    )
    return f(*data, *data)


def test_a_batch_of_an_objective_has_one_term(terms):
    batch = as_batch(terms.first)
    assert batch.terms == (batch,)
    assert batch.weights == (1,)
