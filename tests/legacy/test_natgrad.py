"""`natgrad` against the original, setting by setting, and against its steps written in NumPy."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.natgrad_mlp import forward, gradient, metric
from helpers.originals import BOUNDS as ORIGINALS
from helpers.originals import recorded
from pytensor.compile.mode import predefined_modes
from pytensor.graph.traversal import toposort
from pytensor.tensor.math import Sum

from symng.backends import UNOPTIMIZED
from symng.legacy.natgrad import (
    SGD,
    DataMNIST,
    MainLoop,
    mlp,
    natSGD,
    state_convMNIST,
    state_mlpMNIST,
    state_TFD,
)

# What the original recorded on Theano 0.6: 12 settings, 8 steps each.
RECORDED, BOUNDS = recorded("natgrad"), ORIGINALS["natgrad"]
STATE = dict(
    state_mlpMNIST,
    nhid=20,
    bs=500,
    mbs=500,
    ebs=500,
    cbs=500,
    loopIters=8,
    lr_adapt=0,
    lr_adapt_start=2,
    lr_adapt_change=2,
    adapt_start=2,
    adapt_change=2,
    saveFreq=200,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Compile without rewrites, in both tiers: the networks are tiny."""
    monkeypatch.setitem(predefined_modes, "FAST_COMPILE", UNOPTIMIZED)


@pytest.fixture(scope="module")
def recorded_data(tmp_path_factory):
    """Make the examples that the original was run on."""
    rng = np.random.RandomState(0)
    n, d, k = 70000, 16, 4
    x = rng.rand(n, d)
    scores = np.dot(x - 0.5, rng.normal(size=(d, k))) + 0.3 * rng.normal(size=(n, k))
    return write(tmp_path_factory.mktemp("data"), x, np.argmax(scores, axis=1), 50000, 60000)


def write(folder, x, y, train, valid):
    """Write examples in the npz layout of natgrad, and return its name."""
    parts = {"train": slice(train), "valid": slice(train, valid), "test": slice(valid, None)}
    arrays = {f"{name}_x": x[part] for name, part in parts.items()}
    arrays |= {f"{name}_y": y[part].astype("int32") for name, part in parts.items()}
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def made(state):
    """Return model, data and method for a state."""
    rng = np.random.RandomState(state["seed"])
    quirks = state.get("quirks", False)
    data = DataMNIST(
        state["path"], state["mbs"], state["bs"], rng, state["unlabled"], quirks=quirks
    )
    model = mlp(state, data)
    return model, data, (natSGD if state["natSGD"] else SGD)(model, state, data)


def first_entries(model):
    return {p.name: p.get_value().ravel()[:5] for p in model.params}


def follow(algo, columns):
    """Take g / damping or nothing for the natural gradient on an empty batch, as was recorded.

    G is zero there, and the original forgets x where the squares of g / norm(g) add up to 1, to the
    last bit.
    """
    compute = algo.compute_natural_gradients

    def natural_gradients():
        found = compute()
        if abs(found.relres) > 1e-12 and found.flag != -1:
            return found
        damping, gs = algo.damping.get_value(), [g.get_value() for g in algo.gs]
        forgotten = columns["minres_flag"][algo.step] == -1
        scale = 0 if forgotten else 1 / np.float64(damping)
        for r, g in zip(algo.rs, gs, strict=True):
            r.set_value(scale * g)
        size = scale * found.norm_grad
        flag, relres, Anorm, Acond = (-1, 1, 0, 1) if forgotten else (1, 0, damping, 1)
        return found._replace(
            flag=flag,
            relres=relres,
            Anorm=Anorm,
            Acond=Acond,
            norm_nat=size,
            norm_ord0=max(abs(scale * g).max() for g in gs),
            slope=size * found.norm_grad,
        )

    algo.compute_natural_gradients = natural_gradients


class TestRecorded:
    """Every column of the original, with its quirks, and its weights."""

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=() if name == "base" else pytest.mark.slow)
            for name in sorted(RECORDED)
        ],
    )
    def test_a_run_of_the_original(self, name, recorded_data, tmp_path):
        theirs = RECORDED[name]
        prefix = f"{tmp_path}/r_"
        with pytensor.config.change_flags(floatX=theirs["floatX"]):
            state = dict(STATE, path=recorded_data, prefix=prefix, quirks=True, **theirs["state"])
            model, data, algo = made(state)
            for parameter, values in first_entries(model).items():
                np.testing.assert_array_equal(values, theirs["first"][parameter])
            if name == "large_metric_batch":
                follow(algo, theirs["columns"])
            MainLoop(data, model, algo, state, None).main()
        with np.load(f"{prefix}timing.npz") as file:
            columns = dict(file)
        for column, values in theirs["columns"].items():
            # A relative residual is known to the rounding errors of the solve.
            rounding = 1e-7 if theirs["floatX"] == "float64" else 1e-6
            atol = rounding if column == "minres_relres" else 0
            np.testing.assert_allclose(
                columns[column], values, rtol=BOUNDS["columns"], atol=atol, err_msg=column
            )
        assert {*theirs["columns"]} == {c for c in columns if not c.startswith("time")}
        tolerance = BOUNDS[theirs["floatX"]]
        for parameter, values in first_entries(model).items():
            np.testing.assert_allclose(values, theirs["last"][parameter], atol=tolerance)
        for p in model.params:
            np.testing.assert_allclose(
                p.get_value().sum(), theirs["sums"][p.name], atol=100 * tolerance
            )


# A smaller problem, for steps written in NumPy.
D, H, K, N, BS = 3, 4, 3, 60, 20
SMALL = dict(
    state_mlpMNIST,
    nhid=H,
    bs=BS,
    mbs=BS,
    ebs=BS,
    cbs=BS,
    seed=5,
    mrtol=1e-10,
    lr=0.9,
    lr0=0.7,
    lr_beta=3,
    lr_adapt=0,
    lr_adapt_start=1,
    lr_adapt_change=2,
    damp=0.5,
    adapt=0,
    adapt_start=1,
    adapt_change=2,
    adapt_decrease=0.3,
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    rng = np.random.RandomState(1)
    x = rng.normal(size=(N + 50, D))
    y = np.argmax(x @ rng.normal(size=(D, K)), axis=1)
    path = write(tmp_path_factory.mktemp("small"), x, y, N, N + 30)
    return path, x[:N], y[:N], x[N : N + 30], y[N : N + 30]


@pytest.fixture(scope="module")
def compiled(examples):
    """Compile a method once for all rules, and return it as it was at the start."""
    kept = {}

    def start(**settings):
        graphs = {key: settings.get(key) for key in ("cbs", "mbs", "unlabled", "natSGD", "matrix")}
        key = tuple(graphs.values())
        state = dict(SMALL, path=examples[0], **settings)
        if key not in kept:
            model, data, algo = made(state)
            kept[key] = model, data, algo, [p.get_value() for p in model.params]
        model, data, algo, first = kept[key]
        for p, value in zip(model.params, first, strict=True):
            p.set_value(value)
        data.rng = np.random.RandomState(9)
        data.pos = data.nat_pos = -1
        algo.state, algo.step, algo.lr = state, 0, np.float32(state["lr"])
        if state["natSGD"]:
            algo.damping.set_value(np.array(state["damp"], "float32"))
        return algo, first

    return start


def moved(params, step):
    """Return parameters less a flat step."""
    found, begin = [], 0
    for p in params:
        found.append(p - step[begin : begin + p.size].reshape(p.shape))
        begin += p.size
    return found


class Transcription:
    """The steps of natSGD in NumPy, with dense solves."""

    def __init__(self, params, state, examples):
        self.params, self.state = [p.copy() for p in params], state
        _, self.x, self.y, self.vx, self.vy = examples
        self.rng, self.step = np.random.RandomState(9), 0
        self.lr, self.damping = np.float64(np.float32(state["lr"])), np.float32(state["damp"])
        self.order, self.other, self.pos = None, None, -1

    def batches(self):
        """Return the examples of the gradient, and those of the metric."""
        s, n = self.state, N // BS
        self.pos = (self.pos + 1) % n
        if self.pos == 0:
            self.order = self.rng.permutation(n)
        begin = self.order[self.pos] * BS
        own = slice(begin, begin + BS)
        if s["unlabled"] == 2:
            return own, (self.vx[: s["mbs"]], self.vy[: s["mbs"]])
        if s["unlabled"] == 1:
            if self.pos == 0:
                self.other = self.rng.permutation(n)
            begin = self.other[self.pos] * BS
        of_metric = slice(begin, begin + BS)
        return own, (self.x[of_metric], self.y[of_metric])

    def ratio(self, x, y, r, g):
        old, new = forward(self.params, x, y)[0], forward(moved(self.params, self.lr * r), x, y)[0]
        return (new - old) / (-self.lr * (g @ r)), new

    def by_ratio(self, rho, least, from_zero):
        if rho < 0.25:
            self.damping = np.float32(self.damping * 1.5 if self.damping > 0 else from_zero)
        elif rho > 0.75 and self.damping > least:
            self.damping = np.float32(self.damping * 2 / 3)
        elif rho > 0.75 and self.state["adapt"] == 2:
            self.damping = np.float32(0)

    def __call__(self, niters):
        s = self.state
        own, other = self.batches()
        x, y = self.x[own], self.y[own]
        g = gradient(self.params, x, y)
        G = metric(self.params, *other, s["matrix"])
        r = np.linalg.solve(G + self.damping * np.eye(len(g)), g)
        rho, icost = self.ratio(x, y, r, g)
        r_g = -self.lr * (g @ r)
        if s["adapt"] == 3:
            if niters < 5 and self.damping > 1e-5:
                self.damping = np.float32(self.damping * 2 / 3)
            if niters > 30 and self.damping < 1024:
                self.damping = np.float32(self.damping * 3 / 2)
        if s["adapt"] == 1:
            self.by_ratio(rho, 1e-4, 1e-5)
        if s["adapt"] == 4 and self.step > s["adapt_start"]:
            if self.step % s["adapt_change"] == 0:
                self.damping = np.float32(self.damping * s["adapt_decrease"])
        if s["lr_adapt"] == 1 and self.step > s["lr_adapt_start"]:
            if self.step % s["lr_adapt_change"] == 0:
                self.lr *= s["lr_adapt_decrease"]
        if s["lr_adapt"] == 2 and self.step > s["lr_adapt_start"]:
            self.lr = s["lr0"] / (1 + (self.step - s["lr_adapt_start"]) / s["lr_beta"])
        first = self.x[: s["ebs"]], self.y[: s["ebs"]]
        if s["adapt"] == 2:
            rho, _ = self.ratio(*first, r, g)
            r_g = -self.lr * (g @ r)
            self.by_ratio(rho, 1e-6, 1e-6)
        self.params = moved(self.params, self.lr * r)
        self.step += 1
        cost, error = forward(self.params, *first)[:2]
        norms = np.linalg.norm(g), np.linalg.norm(r)
        return dict(
            cost=cost,
            error=error,
            norm_ord0=abs(r).max(),
            norm_grad=norms[0],
            norm_nat=norms[1],
            lr=self.lr,
            grad_angle=g @ r / (norms[0] * norms[1]),
            r_g=r_g,
            icost=icost,
            damping=self.damping,
            rho=rho,
        )


slow = pytest.mark.slow
RULES = [
    *({"adapt": adapt} for adapt in (1, 2, 3, 4)),
    dict(lr_adapt=1, adapt=2),
    dict(lr_adapt=2, adapt=1),
]
GRAPHS = [
    pytest.param({"unlabled": 0}, id="same"),
    pytest.param(dict(unlabled=1, cbs=10), id="other-in-chunks", marks=slow),
    pytest.param(dict(unlabled=2, cbs=10, mbs=30), id="validation", marks=slow),
    pytest.param({"matrix": "cov"}, id="cov", marks=slow),
]


class TestNatSGD:
    @pytest.mark.parametrize("rule", RULES, ids=str)
    @pytest.mark.parametrize("graph", GRAPHS)
    def test_five_steps_are_those_in_numpy(self, graph, rule, compiled, examples):
        algo, params = compiled(**graph, **rule)
        expected = Transcription(params, algo.state, examples)
        for _ in range(5):
            found = algo()
            wanted = expected(found["minres_iters"])
            for column, value in wanted.items():
                np.testing.assert_allclose(found[column], value, rtol=1e-6, err_msg=column)
        assert [*found] == natSGD.return_names
        if graph == {"unlabled": 0} and rule["adapt"] in (1, 2):
            assert algo.damping.get_value() != 0.5  # the rule did something

    @pytest.mark.parametrize(
        "adapt, damp, lr, after",
        [
            # A short step, so rho is near 1; and one so long that the cost grows.
            (1, 1e-4, 1e-3, 1e-4),
            (2, 1e-6, 1e-3, 0.0),
            (1, 0.0, 1e3, 1e-5),
            (2, 0.0, 1e3, 1e-6),
        ],
    )
    def test_edges_of_the_damping(self, adapt, damp, lr, after, compiled):
        algo, _ = compiled(adapt=adapt, damp=damp, lr=lr, unlabled=0)
        rho = algo()["rho"]
        assert rho > 0.75 if lr < 1 else rho < 0.25
        assert algo.damping.get_value() == np.float32(after)

    def test_costs_on_the_evaluation_batch(self, compiled, examples):
        algo, params = compiled(unlabled=0)
        algo()
        for p, value in zip(algo.model.params, params, strict=True):
            p.set_value(value)
        new, old, error = algo.compute_new_cost_all(0.3)
        x, y = examples[1][:BS], examples[2][:BS]
        r = np.concatenate([r.get_value().ravel() for r in algo.rs])
        cost, wrong, *_ = forward(moved(params, 0.3 * r), x, y)
        np.testing.assert_allclose([new, old, error], [cost, forward(params, x, y)[0], wrong])

    def test_products_in_float32_are_added_up_in_float32(self):
        """PyTensor sums the rows of a bias in float64, which takes C longer."""
        with pytensor.config.change_flags(floatX="float32"):
            model = mlp(SMALL, SimpleNamespace(xdim=D, ydim=K))
            algo = object.__new__(natSGD)
            algo.model, algo._chunks = model, 1
            product = algo._product([], [p.type() for p in model.params])
        ops = [node.op for node in toposort(product)]
        sums = [op.acc_dtype for op in ops if isinstance(op, Sum) and op.axis == (0,)]
        assert sums == ["float32", "float32"]

    @pytest.mark.parametrize("stays", [True, False])
    def test_old_cost_comes_with_the_gradient(self, stays, compiled, examples, monkeypatch):
        """It takes a pass of its own only where data of a user may go to another batch."""
        algo, params = compiled(unlabled=0)
        passes, evaluate, data = [], algo._evaluate, algo.data
        assert algo._batch_stays
        monkeypatch.setattr(algo, "_batch_stays", stays)
        monkeypatch.setattr(algo, "_evaluate", lambda *a: passes.append(a[-1]) or evaluate(*a))
        if not stays:  # to the first batch, wherever the gradient came from
            monkeypatch.setattr(data, "update_before_evaluation", lambda: data._go_to(0))
        lr, found = float(algo.lr), algo()
        assert passes == ([lr, lr] if stays else [0.0, lr, lr])
        begin = (data.grad_perm[data.pos] if stays else 0) * BS
        x, y = examples[1][begin : begin + BS], examples[2][begin : begin + BS]
        old = forward(params, x, y)[0]
        np.testing.assert_allclose(found["rho"] * found["r_g"], found["icost"] - old, rtol=1e-5)

    def test_bounds_of_the_damping(self, compiled):
        algo, _ = compiled(adapt=1, mindamp=0.45, damp_ratio=1.25, unlabled=0)
        algo()
        assert algo.damping.get_value() == np.float32(0.45)
        algo, _ = compiled(adapt=4, adapt_start=-1, mindamp=0.6, unlabled=0)
        algo()  # a damping below the bound is left standing
        assert algo.damping.get_value() == np.float32(0.5)

    def test_a_blow_up_ends_the_run(self, compiled):
        algo, _ = compiled(btraincost=1e-3, unlabled=0)
        with pytest.raises(Exception, match="Variance too large on training cost!"):
            algo()

    def test_prints_what_the_original_did(self, compiled, capsys):
        algo, _ = compiled(trainFreq=2, unlabled=0)
        algo(), algo()
        solve, step = capsys.readouterr().out.splitlines()
        assert solve.startswith("Minres: x solves the system to rtol. # iters 00")
        words = "relative error residuals, Anorm, Acond"
        assert all(word in solve for word in words.split(", "))
        words = (
            ".. iter    0 cost, error, step_size 0.9, rho, damping 0.5, r_g, ord0_norm, norm grad, "
            "norm nat grad, angle, time [grad], [riemann grad], [updates param], whole time"
        )
        assert all(word in step for word in words.split(", "))

    def test_quirks_refuse_a_damping_that_is_no_float32(self, compiled):
        algo, _ = compiled(adapt=4, adapt_start=-1, adapt_decrease=0.3, unlabled=0)
        algo.quirks = True
        try:
            with pytest.raises(TypeError, match="damping: expected a float32"):
                algo()
        finally:
            algo.quirks = False


class TestSGD:
    def test_three_steps_are_those_in_numpy(self, compiled, examples):
        algo, params = compiled(natSGD=0, lr_adapt=1, lr_adapt_start=0, lr_adapt_change=1)
        expected = Transcription(params, algo.state, examples)
        for k in range(3):
            found = algo()
            own, _ = expected.batches()
            x, y = expected.x[own], expected.y[own]
            g = gradient(expected.params, x, y)
            lr = np.float32(0.9) * 0.5**k  # changed before the costs
            expected.lr = lr
            rho, _ = expected.ratio(x, y, g, g)
            expected.params = moved(expected.params, lr * g)
            cost, error, *_ = forward(expected.params, expected.x[:BS], expected.y[:BS])
            wanted = dict(cost=cost, error=error, norm_grad=np.linalg.norm(g), rho=rho, lr=lr)
            for column, value in wanted.items():
                np.testing.assert_allclose(found[column], value, rtol=1e-6, err_msg=column)
        assert [*found] == SGD.return_names


class TestData:
    def test_metric_batch_holds_the_gradient_batch(self, examples):
        data = DataMNIST(examples[0], 30, 20, np.random.RandomState(0), 0)
        for batch, begin in ((0, 0), (1, 20), (2, 30)):
            data.offset.set_value(np.array(batch, "int32"))
            np.testing.assert_array_equal(data._natgrad.eval(), examples[1][begin : begin + 30])

    def test_quirks_find_no_examples_beyond_the_end(self, examples):
        data = DataMNIST(examples[0], 40, 20, np.random.RandomState(0), 0, quirks=True)
        data.offset.set_value(np.array(2, "int32"))
        assert data._natgrad.eval().shape == (0, D)
        assert data.n_batches == 2500

    def test_each_epoch_has_every_batch_once(self, examples):
        data = DataMNIST(examples[0], 20, 20, np.random.RandomState(0), 0)
        seen = []
        for _ in range(6):
            data.update_before_computing_gradients()
            seen.append(int(data.offset.get_value()))
        assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]


class FakeMethod:
    """Costs from a list; an exception is raised."""

    return_names = ("cost",)

    def __init__(self, costs):
        self.costs = list(costs)

    def __call__(self):
        cost = self.costs.pop(0)
        if isinstance(cost, Exception):
            raise cost
        return {"cost": cost}


class FakeModel:
    def __init__(self, errors):
        self.errors, self.params = list(errors), [pytensor.shared(np.zeros(1), name="w")]
        self.best_params, self.saved = None, []

    def validate(self):
        return self.errors.pop(0)

    def test_eval(self):
        return 7.0

    def save(self, filename):
        self.saved.append(filename)


def loop(tmp_path, costs, errors=(3.0,) * 9, **settings):
    state = dict(STATE, prefix=f"{tmp_path}/r_", validFreq=2, **settings)
    return MainLoop(None, FakeModel(errors), FakeMethod(costs), state, None)


class TestMainLoop:
    def test_keeps_the_parameters_of_the_least_validation_cost(self, tmp_path, capsys):
        run = loop(tmp_path, [1.0, 0.9, 0.8, 0.7], [3.0, 2.0, 4.0], loopIters=4)
        run.main()
        assert run.state["bvalidcost"] == 2.0 and run.state["validcost"] == 4.0
        assert run.state["btraincost"] == 0.8 and run.state["testcost"] == 7.0
        assert run.state["step"] == 3
        np.testing.assert_allclose(run.timings["valid"], [3, 2, 4])
        printed = capsys.readouterr().out
        assert "** validation cost  3.000 computed in" in printed
        assert ">>> Test cost 7.0" in printed and "BEST SCORE" in printed

    def test_files(self, tmp_path):
        loop(tmp_path, [1.0, 0.9], loopIters=2, overwrite=0).main()
        with np.load(tmp_path / "r_timing.npz") as file:
            columns = dict(file)
        assert {*columns} == {"cost", "valid", "test"}
        state = pickle.loads((tmp_path / "r_state.pkl").read_bytes())
        assert state["traincost"] == 0.9 and state["gotNaN"] == 0

    def test_a_cost_that_is_not_finite_ends_it(self, tmp_path):
        run = loop(tmp_path, [1.0, np.nan])
        run.main()
        assert run.state["gotNaN"] == 1 and run.step == 2

    def test_a_small_cost_ends_it(self, tmp_path):
        run = loop(tmp_path, [1.0, 1e-7])
        run.main()
        assert run.step == 2

    def test_an_error_is_raised_after_the_files_are_written(self, tmp_path, capsys):
        run = loop(tmp_path, [1.0, ValueError("no more")])
        with pytest.raises(ValueError, match="no more"):
            run.main()
        assert "Error in running natgrad" in capsys.readouterr().out
        assert pickle.loads((tmp_path / "r_state.pkl").read_bytes())["traincost"] == 1.0

    def test_model_is_saved_with_the_best_parameters(self, examples, tmp_path):
        state = dict(SMALL, path=examples[0])
        rng = np.random.RandomState(0)
        model = mlp(state, DataMNIST(examples[0], BS, BS, rng, 0))
        first = model.layer0.W.get_value()
        model.layer0.W.set_value(first + 1)
        model.save(f"{tmp_path}/model.npz")
        with np.load(tmp_path / "model.npz") as file:
            arrays = dict(file)
        np.testing.assert_array_equal(arrays["layer0_W"], first + 1)
        np.testing.assert_array_equal(arrays["blayer0_W"], first)
        model.layer0.W.set_value(first)
        model.load(f"{tmp_path}/model.npz")
        np.testing.assert_array_equal(model.layer0.W.get_value(), first + 1)


class TestBadInput:
    def test_a_key_that_is_missing(self, examples):
        state = dict(SMALL, path=examples[0])
        del state["mrtol"]
        with pytest.raises(ValueError, match="state: expected the key 'mrtol', which natSGD reads"):
            made(state)

    def test_a_key_that_a_rule_needs(self, examples):
        state = dict(SMALL, path=examples[0], adapt=4)
        del state["adapt_change"]
        with pytest.raises(ValueError, match="'adapt_change', which natSGD with adapt=4 reads"):
            made(state)

    @pytest.mark.parametrize("key, value", [("adapt", 5), ("lr_adapt", 3), ("matrix", "Fisher")])
    def test_a_rule_that_does_not_exist(self, key, value, examples):
        with pytest.raises(ValueError, match=rf"state\['{key}'\]: expected"):
            made(dict(SMALL, path=examples[0], **{key: value}))

    @pytest.mark.parametrize("key", ["bs", "mbs", "ebs"])
    def test_a_batch_smaller_than_a_chunk(self, key, examples):
        with pytest.raises(ValueError, match=rf"state\['{key}'\]: expected at least cbs, 20"):
            made(dict(SMALL, path=examples[0], **{key: 10}))

    def test_a_key_that_nothing_reads(self, examples):
        state = dict(SMALL, path=examples[0], mritol=1e-3, lr_adapt=7)
        with (
            pytest.warns(UserWarning, match="nothing reads the key 'mritol'. Did you mean 'mrtol'"),
            pytest.raises(ValueError, match="lr_adapt"),
        ):
            made(state)

    def test_a_file_without_its_arrays(self, tmp_path):
        np.savez(tmp_path / "data.npz", train_x=np.eye(2), train_y=np.arange(2))
        with pytest.raises(ValueError, match=r"path: expected an npz file .* has no valid_x"):
            DataMNIST(tmp_path / "data.npz", 1, 1, np.random.RandomState(0), 0)

    def test_a_batch_larger_than_the_data(self, examples):
        with pytest.raises(ValueError, match="mbs: expected at least 1 and at most 60"):
            DataMNIST(examples[0], 70, 20, np.random.RandomState(0), 0)


# The settings of the authors' scripts: run_mlpMNIST.py, run_convMNIST.py and run_fast_tfd.py.
PRESETS = [
    (
        state_mlpMNIST,
        "nhid=1500 bs=2500 mbs=2500 ebs=2500 cbs=2500 unlabled=0 damp=6 adapt=1 lr=1 lr_adapt=2 "
        "lr_adapt_start=150 lr_beta=20 miters=30 mrtol=1e-4 trancond=1e-3 loopIters=2000 "
        "timeStop=30 validFreq=10 saveFreq=2 seed=203",
    ),
    (
        state_convMNIST,
        "nhid=750 bs=10000 mbs=10000 ebs=4000 cbs=1000 unlabled=1 damp=6 adapt=1 lr=1 lr_adapt=1 "
        "lr_adapt_start=150 lr_adapt_change=100 lr_adapt_decrease=.5 miters=40 loopIters=1000 "
        "timeStop=4 seed=200",
    ),
    (
        state_TFD,
        "bs=256 mbs=384 ebs=256 cbs=128 fold=0 unlabled=1 damp=5 adapt=1 lr=.2 lr_adapt=0 "
        "miters=50 mrtol=1e-4 trancond=1e-4 loopIters=6000 timeStop=1920 validFreq=20 seed=123 "
        "mindamp=.5 damp_ratio=1.25",
    ),
]


@pytest.mark.parametrize("state, settings", PRESETS, ids=["mlpMNIST", "convMNIST", "TFD"])
def test_presets(state, settings):
    wanted = dict(pair.split("=") for pair in settings.split())
    assert {key: float(state[key]) for key in wanted} == {k: float(v) for k, v in wanted.items()}
    assert state_convMNIST["nkerns"] == "[32,64]"  # text, as the layers read it


def test_own_model_needs_no_more_than_the_attributes(examples):
    """A model of a user: a linear one, with Gauss-Newton as its metric."""

    class Linear:
        x, y = pt.dmatrix("x"), pt.ivector("y")
        w = pytensor.shared(np.zeros(D), name="w")
        params, params_shape, inputs = [w], [(D,)], [x, y]
        out = x @ w
        train_cost = pt.sqr(out - y).mean() / 2
        error = 100 * pt.neq(pt.round(out), y).mean()

        def Gvs(self, v):
            return [self.x.T @ (self.x @ v) / BS]

    data = DataMNIST(examples[0], BS, BS, np.random.RandomState(3), 0)
    algo = natSGD(Linear(), dict(SMALL, damp=0.0, lr=1.0), data)
    algo()
    begin = int(data.offset.get_value()) * BS
    x, y = examples[1][begin : begin + BS], examples[2][begin : begin + BS]
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(Linear.w.get_value(), expected, rtol=1e-6)
