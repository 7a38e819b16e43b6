"""`hf` against the original theano-hf, update by update."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.originals import BOUNDS as ORIGINALS
from helpers.originals import recorded
from pytensor.compile.mode import predefined_modes

from symng.backends import UNOPTIMIZED
from symng.legacy.hf import SequenceDataset, gauss_newton_product, hf_optimizer

# What the original recorded on Theano 0.6 in float64: six settings, six updates each.
RECORDED, BOUNDS = recorded("hf"), ORIGINALS["hf"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Compile without rewrites, in both tiers: the networks are tiny."""
    monkeypatch.setitem(predefined_modes, "FAST_COMPILE", UNOPTIMIZED)


class Batches:
    """The same batches at each update."""

    def __init__(self, batches):
        self.batches, self.number_batches = batches, len(batches)

    def iterate(self, update=True):
        return iter(self.batches)

    def update(self):
        pass


def shared(rng, shape, name, scale=0.5):
    return pytensor.shared(scale * rng.normal(size=shape), name=name)


def network(rng):
    """Return parameters, optimizer and data of a network with two sigmoid outputs."""
    X = rng.normal(size=(200, 5))
    targets = rng.rand(200, 2) < 1 / (1 + np.exp(-np.dot(X, rng.normal(size=(5, 2)))))
    W, b = shared(rng, (5, 8), "W"), shared(rng, (8,), "b", 0.0)
    V, c = shared(rng, (8, 2), "V"), shared(rng, (2,), "c", 0.0)
    x, t = pt.dmatrix("x"), pt.dmatrix("t")
    s = pt.tanh(x @ W + b) @ V + c
    y = pt.sigmoid(s)
    cost = (-t * pt.log(y) - (1 - t) * pt.log(1 - y)).mean()
    return [W, b, V, c], hf_optimizer([W, b, V, c], [x, t], s, [cost]), [X, targets.astype(float)]


def recurrent(rng):
    """Return parameters, optimizer and data of a recurrent network with structural damping."""
    X = rng.normal(size=(12, 3))
    W, U = shared(rng, (3, 6), "W"), shared(rng, (6, 6), "U", 0.3)
    V, h0 = shared(rng, (6, 1), "V"), shared(rng, (6,), "h0", 0.0)
    x, t = pt.dmatrix("x"), pt.dmatrix("t")

    def recur(x_t, before, W, U):
        a = x_t @ W + before @ U
        return pt.sigmoid(a), a

    hidden, ha = pytensor.scan(
        recur,
        sequences=x,
        outputs_info=[h0, None],
        non_sequences=[W, U],
        return_updates=False,
    )
    s = hidden @ V
    p = [W, U, V, h0]
    cost = ((s - t) ** 2).mean()
    optimizer = hf_optimizer(p, [x, t], s, [cost], pt.sigmoid(ha), ha)
    return p, optimizer, [X, np.cumsum(X[:, :1], axis=0)]


@pytest.fixture(scope="module")
def compiled():
    """Compile a model once, and return it with its first parameters."""
    kept = {}

    def start(model):
        if model not in kept:
            p, *rest = (recurrent if model == "rnn" else network)(np.random.RandomState(0))
            kept[model] = p, *rest, [i.get_value() for i in p]
        p, optimizer, data, first = kept[model]
        for i, value in zip(p, first, strict=True):
            i.set_value(value)
        vars(optimizer).pop("cg_last_x", None)
        return p, optimizer, data

    return start


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "base" else pytest.mark.slow)
        for name in sorted(RECORDED)
    ],
)
def test_a_run_of_the_original(name, compiled, monkeypatch):
    theirs, rows = RECORDED[name], []
    options = dict(theirs["options"])
    p, optimizer, data = compiled(options.pop("model", "nn"))
    count = options.pop("cg_examples", None)
    for i in p:
        np.testing.assert_array_equal(i.get_value(), theirs["first"][i.name])
    solve = optimizer.cg

    def cg(b):
        row = dict(
            cost=optimizer.quick_cost(),
            damping=optimizer.lambda_,
            gradient_norm=np.linalg.norm(b),
        )
        after, x, chosen, iterations = solve(b)
        row |= dict(after=after, step_norm=np.linalg.norm(x), chosen=chosen, iterations=iterations)
        rows.append(row)
        return after, x, chosen, iterations

    monkeypatch.setattr(optimizer, "cg", cg)
    part = [array[:count] for array in data]
    optimizer.train(Batches([data]), Batches([part]), num_updates=6, **options)
    assert len(rows) == 6
    # The curvature of the recurrent network has few eigenvalues apart: from the seventh iterate on
    # the first solve has converged, and rounding errors choose among the rest.
    exact = name != "structural"
    for row, wanted in zip(rows, theirs["updates"], strict=True):
        for key, value in wanted.items():
            if exact or key != "chosen":
                rtol = BOUNDS["costs" if exact or row is rows[0] else "recurrent costs"]
                np.testing.assert_allclose(row[key], value, rtol=rtol, err_msg=key)
    for i in p:
        atol = BOUNDS["weights" if exact else "recurrent weights"]
        np.testing.assert_allclose(i.get_value(), theirs["last"][i.name], atol=atol)


def test_product_is_that_of_the_dense_matrix():
    rng = np.random.default_rng(0)
    X, t, W = rng.normal(size=(7, 3)), rng.normal(size=(7, 2)), rng.normal(size=(3, 2))
    w, v = pytensor.shared(W), rng.normal(size=(3, 2))
    s = pt.tanh(pt.constant(X) @ w)
    cost = (pt.exp(s) - s * t).sum()
    [product] = gauss_newton_product(cost, [w], [pt.constant(v)], s)
    slope = 1 - np.tanh(X @ W) ** 2
    expected = X.T @ (slope * np.exp(np.tanh(X @ W)) * slope * (X @ v))
    np.testing.assert_allclose(product.eval(), expected, rtol=1e-10)


def test_cg_of_an_optimizer_whose_product_is_replaced(capsys):
    """The original's own test of its solver, on fewer unknowns."""
    rng = np.random.default_rng(1)
    n = 40
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    A, b = (Q * rng.uniform(1, 50, n)) @ Q.T, rng.random(n)
    x = pytensor.shared(0.0)
    s = 2.0 * x
    hf = hf_optimizer([x], [], s, [s**2])
    hf.quick_cost = lambda *args, **kwargs: 0.0
    hf.global_backtracking = hf.preconditioner = False
    hf.max_cg_iterations = 300
    hf.batch_Gv = lambda v: A @ v
    cost, _, chosen, iterations = hf.cg(b)
    assert cost == 0 and chosen <= iterations
    residual = np.linalg.norm(A @ hf.cg_last_x - b) / np.linalg.norm(b)
    assert residual < 0.1
    assert f"backtracked {chosen}/{iterations}" in capsys.readouterr().out


def test_validation_keeps_the_best_parameters_and_ends_the_run(compiled, tmp_path, capsys):
    p, optimizer, data = compiled("nn")
    costs, seen = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0], []

    def validation():
        seen.append([i.get_value() for i in p])
        return [costs[len(seen) - 1]]

    path = tmp_path / "progress"
    best = optimizer.train(
        Batches([data]),
        Batches([data]),
        num_updates=6,
        max_cg_iterations=4,
        validation=validation,
        patience=2,
        save_progress=str(path),
    )
    assert len(seen) == 5  # the second was best, and more than two came after it
    np.testing.assert_array_equal(best[0], seen[1][0])
    assert "PATIENCE ELAPSED" in capsys.readouterr().out


def test_a_run_goes_on_from_its_file(compiled, tmp_path, capsys):
    settings = dict(max_cg_iterations=4, save_progress=str(tmp_path / "progress"))
    p, optimizer, data = compiled("nn")
    optimizer.train(Batches([data]), Batches([data]), num_updates=2, max_cg_iterations=4)
    wanted = [i.get_value() for i in p]
    p, optimizer, data = compiled("nn")
    optimizer.train(Batches([data]), Batches([data]), num_updates=1, **settings)
    compiled("nn")  # other parameters, no memory of the last solve
    optimizer.train(Batches([data]), Batches([data]), num_updates=2, **settings)
    assert "* recovered saved model" in capsys.readouterr().out
    for i, value in zip(p, wanted, strict=True):
        np.testing.assert_allclose(i.get_value(), value, rtol=1e-10)


def test_sequences_are_cut_and_iterated():
    data = SequenceDataset([[np.arange(25), np.arange(7)]], 10, 2, minimum_size=5)
    assert sorted(len(x) for [x] in data.items) == [5, 7, 10, 10]
    first = [x for [x] in data.iterate(update=False)]
    again = [x for [x] in data.iterate()]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    rest = [x for [x] in data.iterate(update=False)]
    assert sorted(len(x) for x in first + rest) == [5, 7, 10, 10]


def test_no_batch_is_long_enough():
    with pytest.raises(ValueError, match="data: expected at least one array of minimum_size rows"):
        SequenceDataset([[np.arange(3)]], 2, 1)
