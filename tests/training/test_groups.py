"""Runs on several groups of examples, and on none: batches, history, checkpoints, data=()."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.modes import step_modes

import symng

rng = np.random.default_rng(0)
X, Z = rng.standard_normal((12, 3)), rng.standard_normal((8, 3))
T, S = X @ [1.0, -2.0, 0.5], Z @ [1.0, -2.0, 0.5] + 0.1
DATA = ((X, T), (Z, S))
EXACT = symng.NaturalGradient(damping=1e-6, solver=symng.MinresQLP(rtol=1e-12))


def linear(name="w"):
    """Return least squares on two groups of examples, the second of half the weight."""
    w = pytensor.shared(np.zeros(3), name=name)
    terms = []
    for x, t in ((pt.matrix("x"), pt.vector("t")), (pt.matrix("z"), pt.vector("s"))):
        terms.append(symng.Objective(pt.sqr(x @ w - t).mean() / 2, x @ w, [w], [x], [t]))
    return terms[0] + 0.5 * terms[1]


def run(objective, optimizer=EXACT, data=DATA, **options):
    options = {"progress": False, "mode": "FAST_COMPILE", "max_steps": 3} | options
    return symng.minimize(objective, optimizer, data=data, **options)


class TestGroups:
    def test_solves_weighted_least_squares(self):
        both = linear()
        run(both)
        scales = np.r_[np.full(12, 1 / 12), np.full(8, 0.5 / 8)]
        A, b = np.r_[X, Z], np.r_[T, S]
        expected = np.linalg.solve(A.T @ (scales[:, None] * A), A.T @ (scales * b))
        np.testing.assert_allclose(both.params[0].get_value(), expected, rtol=1e-6)

    def test_history_has_a_column_a_term(self):
        result = run(linear())
        first, second = result.history["loss_0"], result.history["loss_1"]
        np.testing.assert_allclose(first[0], np.mean(T**2) / 2)
        np.testing.assert_allclose(result.history["loss"], first + 0.5 * second)

    def test_no_such_columns_without_a_sum(self):
        result = run(linear().terms[0], data=DATA[0])
        assert not any(name.startswith("loss_") for name in result.history.columns)

    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 4},
            {"batch_size": (4, None)},
            {"batch_size": (4, 3), "metric_batch": "other", "metric_batch_size": (2, 5)},
            {"batch_size": (4, None), "metric_batch": "other"},
            {"batch_size": 3, "metric_batch": "own", "metric_data": ((X[:2],), (Z[:5],))},
            {"batch_size": lambda step: 2 + step},
        ],
        ids=["one size", "all of one", "others", "all as others", "own", "schedule"],
    )
    def test_batches_of_each_term(self, monkeypatch, options):
        seen = []
        original = symng.CompiledStep.run

        def spied(self, *batches, **settings):
            seen.append(batches)
            return original(self, *batches, **settings)

        monkeypatch.setattr(symng.CompiledStep, "run", spied)
        run(linear(), **options)
        assert len(seen) == 3
        for number, (gradient, metric, _) in enumerate(seen):
            for i, (inputs, targets) in enumerate(gradient):
                data, labels = DATA[i]
                rows = [np.flatnonzero((data == x).all(axis=1))[0] for x in inputs]
                np.testing.assert_array_equal(labels[rows], targets)
                size = options["batch_size"]
                size = size[i] if isinstance(size, tuple) else size
                size = size(number) if callable(size) else size
                assert len(rows) == len(set(rows)) == (len(data) if size is None else size)
                if options.get("metric_batch") != "other":
                    continue
                (others,) = metric[i]
                found = {np.flatnonzero((data == x).all(axis=1))[0] for x in others}
                if size is None:  # it has no other examples
                    assert found == set(rows)
                else:
                    assert not found & set(rows)
                    assert len(found) == options.get("metric_batch_size", (4, 8))[i]

    def test_resumed_run_is_the_run_without_interruption(self, tmp_path):
        options = {"batch_size": (4, 3), "metric_batch": "other", "metric_batch_size": 2}
        whole = run(linear(), max_steps=6, **options)
        path = tmp_path / "run.npz"
        run(linear(), max_steps=3, checkpoint=path, **options)
        resumed = run(linear(), max_steps=6, checkpoint=path, **options)
        for column in ("loss", "loss_0", "loss_1", "update_norm"):
            np.testing.assert_array_equal(resumed.history[column], whole.history[column])

    def test_warns_of_a_term_whose_loss_is_another(self):
        w = pytensor.shared(np.zeros(3), name="w")
        x, z, t = pt.matrix("x"), pt.matrix("z"), pt.vector("t")
        first = symng.Objective(pt.sqr(x @ w).mean() / 2, x @ w, [w], [x])
        y = pt.exp(z @ w)  # read as the mean of a Poisson distribution
        other = symng.Objective(pt.sqr(y - t).mean(), y, [w], [z], [t])
        with pytest.warns(UserWarning, match="loss: expected the negative log-likelihood"):
            run(first + other, data=((X,), (Z, abs(S).round())))


class TestRefused:
    @pytest.mark.parametrize(
        "options, message",
        [
            (
                {"data": (X, T)},
                r"data: expected 2 tuples of arrays.*They are \(\(x, t\), \(z, s\)\)",
            ),
            ({"data": ((X, T), (Z,))}, r"data\[1\]: expected 2 arrays \(z, s\)"),
            ({"batch_size": (4, 3, 2)}, "batch_size: expected one, or 2 for the terms"),
            ({"batch_size": 9}, r"batch_size: expected at most the 8 examples of data\[1\]"),
            ({"batch_size": (4, 0)}, "batch_size: expected"),
            ({"metric_batch": "other"}, "metric_batch: expected examples outside"),
        ],
        ids=["arrays", "array missing", "three sizes", "large size", "zero", "no others"],
    )
    def test_names_the_term(self, options, message):
        with pytest.raises((ValueError, TypeError), match=message):
            run(linear(), **options)

    def test_sizes_for_an_objective_alone(self):
        with pytest.raises(TypeError, match="batch_size: expected one"):
            run(linear().terms[0], data=DATA[0], batch_size=(4, 3))

    def test_leaves_the_parameters(self):
        both = linear()
        with pytest.raises(ValueError, match=r"data\[1\], z: .*NaN"):
            run(both, data=((X, T), (Z * np.nan, S)))
        assert not both.params[0].get_value().any()


class TestWithoutInputs:
    def objective(self, reduction="mean"):
        w = pytensor.shared(np.zeros(3), name="w")
        y = pt.constant(X) @ w
        return symng.Objective(getattr(pt.sqr(y - T), reduction)() / 2, y, [w], inputs=[])

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize(
        "optimizer",
        [EXACT, symng.NaturalConjugateGradient(), symng.HessianFree(damping=1e-6)],
        ids=lambda o: type(o).__name__,
    )
    def test_trains_on_constants(self, optimizer, reduction):
        objective = self.objective(reduction)
        run(objective, optimizer, data=(), max_steps=6)
        np.testing.assert_allclose(objective.params[0].get_value(), [1, -2, 0.5], rtol=1e-4)

    def test_takes_the_steps_of_the_same_model_on_arrays(self):
        w = pytensor.shared(np.zeros(3), name="w")
        x, t = pt.matrix("x"), pt.vector("t")
        with_inputs = symng.Objective(pt.sqr(x @ w - t).mean() / 2, x @ w, [w], [x], [t])
        optimizer = symng.NaturalGradient()
        own = run(self.objective(), optimizer, data=())
        given = run(with_inputs, optimizer, data=(X, T))
        for column in ("loss", "damping", "update_norm"):
            np.testing.assert_allclose(own.history[column], given.history[column], rtol=1e-12)

    @pytest.mark.parametrize("mode", step_modes())
    def test_on_each_backend(self, mode):
        ends = []
        for chosen in ("FAST_COMPILE", mode):
            objective = self.objective()
            run(objective, symng.SGD(0.1), data=(), mode=chosen)
            ends.append(objective.params[0].get_value())
        np.testing.assert_allclose(ends[1], ends[0], rtol=1e-10)

    def test_check_and_metric(self):
        objective = self.objective()
        assert objective.check().matches
        F = symng.Fisher()(objective)
        np.testing.assert_allclose(F.materialise().eval(), X.T @ X / 12, rtol=1e-12)
        np.testing.assert_allclose(F.to_scipy(mode="FAST_COMPILE") @ [1, 0, 0], (X.T @ X / 12)[0])

    def test_checkpoint(self, tmp_path):
        path = tmp_path / "run.npz"
        run(self.objective(), data=(), checkpoint=path, max_steps=2)
        assert run(self.objective(), data=(), checkpoint=path, max_steps=3).steps == 3

    def test_a_penalty_beside_data(self):
        """A Gaussian prior as a term without examples: ridge regression."""
        first = linear().terms[0]
        (w,) = first.params
        prior = symng.Objective(pt.sqr(w).sum() / 2, w[None, :] * 1.0, [w], inputs=[])
        run(first + 0.1 * prior, data=((X, T), ()))
        expected = np.linalg.solve(X.T @ X / 12 + 0.1 * np.eye(3), X.T @ T / 12)
        np.testing.assert_allclose(w.get_value(), expected, rtol=1e-5)

    def test_data_for_no_inputs(self):
        with pytest.raises(ValueError, match=r"data: expected 0 arrays"):
            run(self.objective(), data=(X,))

    def test_batches_of_no_inputs(self):
        with pytest.raises(ValueError, match="batch_size: expected at most the 1 example"):
            run(self.objective(), data=(), batch_size=4)
