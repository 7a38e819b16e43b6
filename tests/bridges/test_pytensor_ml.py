"""Models of pytensor-ml as objectives, and natural gradient as a rule of its training."""

from __future__ import annotations

import warnings

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

pytest.importorskip("pytensor_ml", minversion="0.3")

from pytensor_ml import layers
from pytensor_ml.activations import Softmax, Tanh
from pytensor_ml.loss import CrossEntropy, SquaredError, supervised_loss
from pytensor_ml.model import Model
from pytensor_ml.optim import adam, add_weight_decay, chain, clip_by_global_norm

import symng
from symng.backends import compile_in_python

rng = np.random.default_rng(0)
X = rng.standard_normal((12, 4))
T = X[:, :1] ** 2
PYTHON = {"mode": "FAST_COMPILE"}

pytestmark = pytest.mark.filterwarnings("ignore:Setting default_update")


def network(*extra, out=1):
    """Return a model of two layers, with others between them."""
    first, last = layers.Linear("a", n_in=4, n_out=5), layers.Linear("b", n_in=5, n_out=out)
    x = layers.Input("x", shape=(None, 4))
    return Model(layers.Sequential(first, *extra, Tanh(), last)(x)).initialize(seed=0)


def by_hand(params, loss_of, out):
    """Return the objective of the same network, written in PyTensor."""
    x = pt.matrix("x")
    by_name = {p.name: p for p in params}
    hidden = pt.tanh(x @ by_name["a_W"] + by_name["a_b"])
    y = hidden @ by_name["b_W"] + by_name["b_b"]
    return symng.Objective(*loss_of(y), params=list(params), inputs=[x], **out)


@pytest.mark.parametrize("labels", ["numbers", "one-hot"])
def test_metric_of_a_classifier_is_that_of_the_same_graph(labels):
    model = network(out=3)
    loss = CrossEntropy(expect_logits=True, expect_onehot_labels=labels == "one-hot")
    objective = symng.from_pytensor_ml(model, loss)
    other = by_hand(
        objective.params,
        lambda y: (y.sum(), y),
        dict(likelihood=symng.Categorical(logits=True)),
    )
    found, expected = (
        compile_in_python(list(o.inputs), symng.Fisher()(o).materialise())(X)
        for o in (objective, other)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    classes = np.arange(12) % 3
    batch = X, (np.eye(3)[classes] if labels == "one-hot" else classes)
    match = objective.check(*batch)
    assert match.matches and match.reduction == "mean"


def test_a_loss_may_be_given_as_a_graph():
    model = network()
    target = pt.matrix("t")
    objective = symng.from_pytensor_ml(model, pt.sqr(model.y - target).mean())
    assert objective.targets == (target,) and isinstance(objective.likelihood, symng.Gaussian)
    # An autoencoder has no target beside its input.
    alone = symng.from_pytensor_ml(model, pt.sqr(model.y.sum(axis=1)).mean())
    assert alone.targets == ()


def test_running_statistics_advance_as_those_of_pytensor_ml():
    after = []
    for natural in (True, False):
        model = network(layers.BatchNorm("bn", n_in=5))
        objective = symng.from_pytensor_ml(model, SquaredError())
        statistics = list(objective.updates)
        assert {v.name for v in statistics} == {"bn_running_mean", "bn_running_var"}
        if natural:
            step = symng.compile_step(
                objective, symng.NaturalGradient(), "FAST_COMPILE", updates=objective.updates
            )
            step((X, T))
        else:
            model.compile_train(adam(1e-3), SquaredError(), compile_kwargs=PYTHON)(X, T)
        after.append({v.name: v.get_value() for v in statistics})
    for name, value in after[0].items():
        np.testing.assert_allclose(value, after[1][name], rtol=1e-12)
        assert not np.allclose(value, 0) and not np.allclose(value, 1)


def test_dropout_draws_another_mask_at_each_step():
    model = network(layers.Dropout(p=0.5, random_state=0))
    objective = symng.from_pytensor_ml(model, SquaredError())
    optimizer = symng.NaturalGradient(step_size=1e-12)  # the parameters stay, but for rounding
    step = symng.compile_step(objective, optimizer, "FAST_COMPILE")
    losses = [step((X, T)).loss for _ in range(3)]
    assert len(set(np.round(losses, 6))) == 3


def test_a_rule_takes_the_steps_of_the_optimizer():
    optimizer = symng.NaturalGradient(damping=0.5)
    model = network(layers.BatchNorm("bn", n_in=5))
    rule = symng.pytensor_ml.rule(optimizer, model)
    train = model.compile_train(rule, SquaredError(), compile_kwargs=PYTHON)
    found = [float(train(X, T)) for _ in range(3)]
    objective = symng.from_pytensor_ml(network(layers.BatchNorm("bn", n_in=5)), SquaredError())
    step = symng.compile_step(objective, optimizer, "FAST_COMPILE", updates=objective.updates)
    np.testing.assert_allclose(found, [step((X, T)).loss for _ in range(3)], rtol=1e-10)
    assert found[2] < found[0]


LABELS = np.arange(12) % 3
LOSSES = {
    "squares": (1, SquaredError(), T),
    "numbers": (3, CrossEntropy(expect_logits=True), LABELS),
    "rows": (3, CrossEntropy(expect_logits=True, expect_onehot_labels=True), np.eye(3)[LABELS]),
    "probabilities": (3, CrossEntropy(), LABELS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_an_optimizer_is_a_rule_itself(name):
    out, loss, targets = LOSSES[name]
    optimizer = symng.NaturalGradient(damping=0.5)
    last = [Softmax()] if name == "probabilities" else []
    params = []
    for other in (False, True):
        model = network(layers.BatchNorm("bn", n_in=5), out=out)
        model = Model(layers.Sequential(*last)(model.y)) if last else model
        likelihood = symng.Gaussian() if name == "squares" else None
        rule = symng.pytensor_ml.rule(optimizer, model, likelihood=likelihood)
        # Terms of the parameters alone do not hide the output.
        graph, target = supervised_loss(model.y, loss)
        graph = graph + 1e-2 * sum(pt.sqr(w).sum() for w in model.weights)
        train = model.compile_train(
            rule if other else optimizer,
            loss=graph,
            inputs=[*symng.pytensor_ml.collect_graph_inputs(model.y), target],
            compile_kwargs=PYTHON,
        )
        for _ in range(2):
            train(X, targets)
        params.append(np.concatenate([p.get_value().ravel() for p in model.weights]))
    np.testing.assert_allclose(*params, rtol=1e-8, atol=1e-12)
    assert np.abs(params[0] - start_of(name, out)).max() > 1e-3


def start_of(name, out):
    """Return the parameters before any step."""
    weights = network(layers.BatchNorm("bn", n_in=5), out=out).weights
    return np.concatenate([p.get_value().ravel() for p in weights])


def test_a_loss_without_a_known_output_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"symng.pytensor_ml.rule\(optimizer, model\)"):
        model.compile_train(symng.NaturalGradient(), loss=abs(model.y).mean())


@pytest.mark.parametrize("explicit", [True, False])
def test_dropout_draws_anew_at_each_step_of_a_rule(explicit):
    model = network(layers.Dropout(p=0.5, random_state=0))
    optimizer = symng.NaturalGradient(step_size=1e-12)
    rule = symng.pytensor_ml.rule(optimizer, model) if explicit else optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train = model.compile_train(rule, SquaredError(), compile_kwargs=PYTHON)
    assert len({round(float(train(X, T)), 6) for _ in range(3)}) == 3


def test_a_rule_before_weight_decay():
    model = network()
    optimizer = symng.NaturalGradient(step_size=1e-12)
    rule = chain(optimizer, clip_by_global_norm(1.0), add_weight_decay(0.1))
    before = [p.get_value() for p in model.weights]
    model.compile_train(rule, SquaredError(), compile_kwargs=PYTHON)(X, T)
    for p, value in zip(model.weights, before, strict=True):
        np.testing.assert_allclose(p.get_value(), 0.9 * value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("explicit", [True, False])
def test_a_rule_in_a_chain(explicit):
    model = network()
    optimizer = symng.NaturalGradient(damping=0.5)
    rule = symng.pytensor_ml.rule(optimizer, model) if explicit else optimizer
    before = np.concatenate([p.get_value().ravel() for p in model.weights])
    clipped = chain(rule, clip_by_global_norm(1e-3))
    model.compile_train(clipped, SquaredError(), compile_kwargs=PYTHON)(X, T)
    after = np.concatenate([p.get_value().ravel() for p in model.weights])
    np.testing.assert_allclose(np.linalg.norm(after - before), 1e-3, rtol=1e-6)
    late = chain(clip_by_global_norm(1.0), rule)
    with pytest.raises(TypeError, match=r"loss: expected a scalar loss.*first in (the|a) chain"):
        model.compile_train(late, SquaredError())


def test_other_things_are_refused():
    with pytest.raises(TypeError, match=r"model: expected a pytensor_ml.model.Model"):
        symng.from_pytensor_ml(network().y, SquaredError())
    with pytest.raises(TypeError, match="loss: expected a pytensor_ml.loss.Loss, or a scalar"):
        symng.from_pytensor_ml(network(), "mse")
    with pytest.raises(TypeError, match="optimizer: expected an optimizer"):
        symng.pytensor_ml.rule(adam(1e-3), network())


# Shapes of what a layer takes, examples first and channels last.
SHAPES = {"rows": (6, 4), "series": (6, 8, 2), "images": (6, 6, 6, 2), "sequences": (6, 5, 4)}
SHAPES["numbers"] = (6, 3)
CHANNELS = dict(in_channels=2, out_channels=2, kernel_size=3)
PADDED = ("ConstantPad", "ReflectionPad", "ReplicationPad", "ZeroPad")
LAYERS = {
    "Linear": ("rows", dict(n_in=4, n_out=3)),
    "BatchNorm": ("rows", dict(n_in=4)),
    "LayerNorm": ("rows", dict(n_in=4)),
    "RMSNorm": ("rows", dict(n_in=4)),
    "GroupNorm": ("images", dict(n_groups=2, n_in=2)),
    "Dropout": ("rows", dict(p=0.2, random_state=0)),
    "FeedForward": ("rows", dict(d_model=4, hidden_dim=3)),
    "Conv1D": ("series", CHANNELS),
    "Conv2D": ("images", CHANNELS),
    "ConvTranspose1D": ("series", CHANNELS),
    "ConvTranspose2D": ("images", CHANNELS),
    "MultiheadAttention": ("sequences", dict(n_embd=4, n_head=2)),
    "CausalSelfAttention": ("sequences", dict(n_embd=4, n_head=2)),
    "TransformerBlock": ("sequences", dict(d_model=4, n_head=2)),
    "RNN": ("sequences", dict(n_in=4, n_hidden=2)),
    "GRU": ("sequences", dict(n_in=4, n_hidden=2)),
    "LSTM": ("sequences", dict(n_in=4, n_hidden=2)),
    "ElmanCell": ("sequences", dict(n_in=4, n_hidden=2)),
    "GRUCell": ("sequences", dict(n_in=4, n_hidden=2)),
    "LSTMCell": ("sequences", dict(n_in=4, n_hidden=2)),
    "Bidirectional": ("sequences", {}),
    "Embedding": ("numbers", dict(n_embeddings=4, n_features=3)),
}
for number, kind in [("1D", "series"), ("2D", "images")]:
    LAYERS |= {name + number: (kind, {}) for name in ("MaxPool", "AvgPool")}
    LAYERS["Upsample" + number] = (kind, dict(scale_factor=2))
    LAYERS |= {name + number: (kind, dict(padding=1)) for name in PADDED}


def layer(name, settings):
    """Return a layer of pytensor-ml, and a cell as a layer."""
    if name == "Bidirectional":
        both = (layers.GRU(way, n_in=4, n_hidden=1) for way in ("forward", "backward"))
        return layers.Bidirectional(*both, name="l")
    made = getattr(layers, name)("l", **settings)
    return layers.Recurrent(made) if name.endswith("Cell") else made


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_metric_of_each_layer_is_that_of_differences(name):
    kind, settings = LAYERS[name]
    is_of_numbers = kind == "numbers"
    dtype = "int64" if is_of_numbers else "float64"
    x = layers.Input("x", shape=(None, *SHAPES[kind][1:]), dtype=dtype)
    channels = SHAPES[kind][-1]
    before = layers.Linear("in", n_in=channels, n_out=channels)
    y = layer(name, settings)(x if is_of_numbers else before(x))
    y = y[0] if isinstance(y, list | tuple) else y
    y = pt.tanh(y).flatten(2) if y.ndim > 2 else pt.tanh(y)
    # The sums over the first and the other halves of the entries of an example, to keep it small.
    model = Model(pt.stack([y[:, ::2].sum(axis=1), y[:, 1::2].sum(axis=1)], axis=1))
    objective = symng.from_pytensor_ml(model.initialize(seed=0), SquaredError())
    shape = SHAPES[kind]
    data = rng.integers(0, 4, shape) if is_of_numbers else rng.standard_normal(shape)
    found = compile_in_python([x], symng.Fisher()(objective).materialise())(data)
    flat = pt.vector("flat")
    at = symng.vectors.split(flat, objective.params)
    replace = dict(zip(objective.params, at, strict=True))
    output = pytensor.graph.replace.graph_replace([objective.outputs[0]], replace)[0]
    forward = compile_in_python([flat, x], output)
    start, columns = symng.vectors.get_flat(objective.params), []
    for e in 1e-5 * np.eye(len(start)):
        columns.append((forward(start + e, data) - forward(start - e, data)).ravel() / 2e-5)
    J = np.array(columns).T
    np.testing.assert_allclose(found, J.T @ J / 6, rtol=1e-5, atol=1e-7)


def test_a_convolution_of_the_data_has_no_second_derivative():
    x = layers.Input("x", shape=(None, 8, 2))
    y = pt.tanh(layers.Conv1D("l", **CHANNELS)(x)).sum(axis=(1, 2))
    objective = symng.from_pytensor_ml(Model(y[:, None]), SquaredError())
    with pytest.raises(NotImplementedError, match="second derivative.*ConvLayer"):
        symng.Fisher()(objective).materialise()
