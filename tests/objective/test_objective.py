"""What Objective reads off the user's graph, what it refuses, and what its check says."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from helpers.oracles import relative_error

import symng
from symng.objective._arguments import check_connections

X = np.random.default_rng(0).standard_normal((6, 3))
T = np.random.default_rng(1).random((6, 2))
LABELS = np.array([0, 1, 1, 0, 1, 0])


def variables():
    """Return input, targets, labels and a parameter with which x @ w is 6 x 2."""
    x, t, labels = pt.matrix("x"), pt.matrix("t"), pt.lvector("labels")
    w = pytensor.shared(np.random.default_rng(2).standard_normal((3, 2)), name="w")
    return x, t, labels, w


def linear(output=lambda r: r, **options):
    """Return an objective with r = x @ w and the output given as a function of it."""
    x, _, _, w = variables()
    y = output(x @ w)
    first = y[0] if isinstance(y, list) else y
    return symng.Objective(pt.sqr(first).mean(), y, [w], [x], **options)


# Likelihoods


@pytest.mark.filterwarnings("ignore:example_axis")  # of transposed outputs
@pytest.mark.parametrize(
    "output, likelihood, source",
    [
        (lambda r: r, symng.Gaussian(), "no known activation at its end"),
        (pt.tanh, symng.Gaussian(), "no known activation at its end"),
        (pt.sigmoid, symng.Bernoulli(), "read off sigmoid"),
        (pt.exp, symng.Poisson(), "read off exp"),
        (lambda r: pt.special.softmax(r, axis=-1), symng.Categorical(), "read off softmax"),
        (lambda r: pt.special.softmax(r, axis=1), symng.Categorical(), "read off softmax"),
        (
            lambda r: pt.exp(pt.special.log_softmax(r, axis=-1)),
            symng.Categorical(),
            "read off exp of log_softmax",
        ),
        (lambda r: pt.sigmoid(r)[:, 0], symng.Bernoulli(), "read off sigmoid"),
        (lambda r: pt.sigmoid(r)[:, [1, 0]], symng.Bernoulli(), "read off sigmoid"),
        (lambda r: pt.exp(r).T, symng.Poisson(), "read off exp"),
        (lambda r: pt.sigmoid(r).flatten(), symng.Bernoulli(), "read off sigmoid"),
        (lambda r: pt.sigmoid(r).astype("float32"), symng.Bernoulli(), "read off sigmoid"),
        (lambda r: pt.special.softmax(r, axis=-1)[1:], symng.Categorical(), "read off softmax"),
        (
            lambda r: pt.special.softmax(r[None], axis=-1).dimshuffle(1, 0, 2),
            symng.Categorical(),
            "read off softmax",
        ),
    ],
)
def test_likelihood_is_read_off_the_end(output, likelihood, source):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "example_axis")  # of the transposed one
        head = linear(output).heads[0]
    assert head.likelihood == likelihood
    assert head.source == source


@pytest.mark.filterwarnings("ignore:example_axis")
@pytest.mark.parametrize(
    "output",
    [
        lambda r: pt.special.softmax(r, axis=0),
        lambda r: pt.special.softmax(r, axis=None),
        lambda r: pt.special.softmax(r, axis=-1).T,
        lambda r: pt.special.softmax(r, axis=-1)[:, 0],
        lambda r: pt.special.softmax(r, axis=-1).reshape((3, -1)),
        lambda r: pt.exp(pt.special.log_softmax(r, axis=0)),
    ],
)
def test_softmax_that_is_no_row_of_classes_warns(output):
    with pytest.warns(
        UserWarning, match="not known to run over its last axis alone.* or give likelihood="
    ) as caught:
        objective = linear(output)
    assert objective.likelihood == symng.Gaussian()
    assert caught[0].filename == __file__
    is_part = objective.output.owner.op.__class__.__name__ == "Subtensor"
    assert ("sigmoid(r[:, 1] - r[:, 0])" in str(caught[0].message)) == is_part


@pytest.mark.parametrize(
    "likelihood, logits",
    [
        (symng.Gaussian(std=2.0), False),
        (symng.Bernoulli(logits=True), True),
        (symng.Categorical(logits=True), True),
        (symng.Poisson(log_rate=True), True),
        (symng.Poisson(), False),
    ],
)
def test_likelihood_given(likelihood, logits):
    objective = linear(likelihood=likelihood)
    assert objective.likelihood is likelihood
    assert (objective.heads[0].y is not objective.output) == logits
    assert objective.heads[0].source.startswith("given")


def test_likelihood_given_takes_precedence_over_the_activation():
    assert (
        linear(pt.sigmoid, likelihood=symng.Gaussian()).heads[0].r.owner.op
        == pt.sigmoid(pt.matrix()).owner.op
    )


def test_several_outputs():
    objective = linear(lambda r: [pt.sigmoid(r), r], likelihood=[None, symng.Gaussian(std=3.0)])
    assert objective.likelihood == (symng.Bernoulli(), symng.Gaussian(std=3.0))
    assert len(objective.output) == 2


# Losses of single examples


def mse(x, t, w):
    return pt.sqr(x @ w - t)


EXAMPLE_LOSSES = {
    "mean of vector": (lambda x, t, w: mse(x, t, w).sum(axis=1).mean(), "mean"),
    "sum of vector": (lambda x, t, w: mse(x, t, w).sum(axis=1).sum(), "sum"),
    "mean over matrix": (lambda x, t, w: mse(x, t, w).mean(), "mean"),
    "sum over matrix": (lambda x, t, w: mse(x, t, w).sum(), "sum"),
    "mean of mean": (lambda x, t, w: mse(x, t, w).mean(axis=1).mean(axis=0), "mean"),
    "mean over examples first": (lambda x, t, w: mse(x, t, w).mean(axis=0).sum(), "mean"),
    "sum over examples first": (lambda x, t, w: mse(x, t, w).sum(axis=0).mean(), "sum"),
    "weighted outputs": (
        lambda x, t, w: (np.array([1.0, 3.0]) * mse(x, t, w).mean(axis=0)).sum(),
        "mean",
    ),
    "axes kept": (lambda x, t, w: mse(x, t, w).mean(axis=0, keepdims=True).sum(), "mean"),
    "negated": (lambda x, t, w: -(-mse(x, t, w)).sum(axis=1).mean(), "mean"),
    "scaled": (lambda x, t, w: 0.5 * mse(x, t, w).sum(axis=1).mean() / 3, "mean"),
    "scaled sum": (lambda x, t, w: 0.5 * mse(x, t, w).sum(axis=1).sum(), "sum"),
    "sum over shape": (lambda x, t, w: mse(x, t, w).sum() / x.shape[0], "mean"),
    "sum times one over shape": (lambda x, t, w: (1.0 / x.shape[0]) * mse(x, t, w).sum(), "mean"),
    "sum over size": (lambda x, t, w: mse(x, t, w).sum() / t.size, "mean"),
    "sum over number of outputs": (lambda x, t, w: mse(x, t, w).sum() / t.shape[1], "sum"),
    "weight decay": (
        lambda x, t, w: mse(x, t, w).sum(axis=1).mean() + 0.1 * pt.sqr(w).sum(),
        "mean",
    ),
    "weight decay taken off": (lambda x, t, w: mse(x, t, w).mean() - 0.1 * pt.sqr(w).sum(), "mean"),
    "difference of means": (
        lambda x, t, w: mse(x, t, w).mean() - (x @ w).sum(axis=1).mean(),
        "mean",
    ),
    "two means": (lambda x, t, w: mse(x, t, w).mean() + abs(x @ w).sum(axis=1).mean(), "mean"),
    "column": (lambda x, t, w: pt.sqr((x @ w)[:, 0] - t[:, 1]).mean(), "mean"),
    "parameter as scale": (lambda x, t, w: mse(x, t, w).mean() * pt.exp(w[0, 0]), "mean"),
}
NOT_FOUND = {
    "largest": lambda x, t, w: mse(x, t, w).max(),
    "root": lambda x, t, w: pt.sqrt(mse(x, t, w).mean()),
    "weighted mean": lambda x, t, w: (t[:, 0] * mse(x, t, w).sum(axis=1)).sum() / t[:, 0].sum(),
    "sum with decay": lambda x, t, w: mse(x, t, w).sum() + 0.1 * pt.sqr(w).sum(),
    "mean and sum": lambda x, t, w: mse(x, t, w).sum() + mse(x, t, w).mean(),
    "trace": lambda x, t, w: pt.diag((x @ w).T @ t).sum() / x.shape[0],
    "worst example of each output": lambda x, t, w: mse(x, t, w).max(axis=0).sum(),
    "pairs": lambda x, t, w: pt.sqr((x @ w)[:, None, 0] - t[None, :, 0]).mean(),
}


@pytest.mark.parametrize("name", EXAMPLE_LOSSES)
def test_example_losses_are_the_losses_of_batches_of_one(name):
    make, reduction = EXAMPLE_LOSSES[name]
    x, t, _, w = variables()
    objective = symng.Objective(make(x, t, w), x @ w, [w], [x], [t])
    assert objective.reduction == reduction
    f = pytensor.function(
        [x, t], [objective.loss, objective.example_losses], on_unused_input="ignore"
    )
    total, losses = f(X, T)
    one_by_one = [f(X[n : n + 1], T[n : n + 1])[0] for n in range(len(X))]
    np.testing.assert_allclose(losses, one_by_one, rtol=1e-12)
    np.testing.assert_allclose(getattr(np, reduction)(losses), total, rtol=1e-12)


@pytest.mark.parametrize("name", NOT_FOUND)
def test_example_losses_not_found(name):
    x, t, _, w = variables()
    objective = symng.Objective(NOT_FOUND[name](x, t, w), x @ w, [w], [x], [t])
    assert objective.example_losses is None and objective.reduction is None
    assert "example_losses= gives them" in repr(objective)


@pytest.mark.parametrize(
    "make",
    [
        lambda y, labels: -pt.log(y[pt.arange(y.shape[0]), labels]).mean(),
        lambda y, labels: -pt.log(y)[pt.arange(labels.shape[0]), labels].sum() / labels.shape[0],
        lambda y, labels: -(pt.eq(labels[:, None], pt.arange(2)) * pt.log(y)).sum(axis=1).mean(),
    ],
)
def test_example_losses_with_labels(make):
    x, _, labels, w = variables()
    y = pt.special.softmax(x @ w, axis=-1)
    objective = symng.Objective(make(y, labels), y, [w], [x], [labels])
    losses, probabilities = pytensor.function([x, labels], [objective.example_losses, y])(X, LABELS)
    np.testing.assert_allclose(losses, -np.log(probabilities[np.arange(6), LABELS]), rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda e: e.sum(axis=(0, 2)).mean(),
        lambda e: e.sum(axis=2).sum(axis=0).mean(),
        lambda e: e.sum(axis=0).sum(axis=1).mean(),
        lambda e: e.sum() / e.shape[1],
        lambda e: e.mean(axis=1).sum(),
    ],
)
def test_example_losses_of_time_major_outputs(make):
    x, t, w = pt.tensor3("x"), pt.tensor3("t"), pytensor.shared(np.ones((2, 3)), name="w")
    objective = symng.Objective(make(pt.sqr(x @ w - t)), x @ w, [w], [x], [t], example_axis=1)
    assert objective.reduction == "mean"
    values = {
        x: np.random.default_rng(3).random((4, 5, 2)),
        t: np.random.default_rng(4).random((4, 5, 3)),
    }
    wanted = ((values[x] @ np.ones((2, 3)) - values[t]) ** 2).sum(axis=(0, 2))
    np.testing.assert_allclose(objective.example_losses.eval(values), wanted, rtol=1e-12)


def standardized(h):
    """Return what batch normalization makes of a layer."""
    return (h - h.mean(axis=0)) / pt.sqrt(h.var(axis=0) + 1e-5)


V = np.array([[1.0, 0.5], [-0.5, 2.0]])


@pytest.mark.parametrize(
    "model, reduction",
    [
        (lambda x, w: (x - x.mean(axis=0)) @ w, None),
        (lambda x, w: pt.tanh(standardized(x @ w)) @ V, None),
        (lambda x, w: pt.sigmoid(standardized(x @ w)), None),
        (lambda x, w: pt.special.softmax(standardized(x @ w), axis=-1), None),
        (lambda x, w: (x @ w) * pt.sqr(x).max(axis=0)[:2], None),
        (lambda x, w: (x @ w) @ pt.diag(x.sum(axis=0))[:2, :2], None),
        # Within each example, as in layer normalization.
        (
            lambda x, w: standardized((x @ w).T).T,
            "mean",
        ),
        (lambda x, w: (x - pytensor.shared(np.ones(3))) @ w, "mean"),  # by statistics that are kept
        # Through an op that is not known.
        (
            lambda x, w: pt.concatenate([x, x], axis=1)[:, :3] @ w,
            "mean",
        ),
        (
            lambda x, w: pytensor.scan(lambda row: row @ w, sequences=[x], return_updates=False),
            "mean",
        ),
    ],
)
def test_examples_mixed_below_the_output(model, reduction):
    x, t, _, w = variables()
    y = model(x, w)
    objective = symng.Objective(pt.sqr(y - t).sum(axis=1).mean(), y, [w], [x], [t])
    assert objective.reduction == reduction
    if reduction is None:
        with pytest.raises(ValueError, match="^example_losses: expected"):
            symng.EmpiricalFisher()(objective)


def test_examples_mixed_above_the_output():
    x, t, _, w = variables()
    y, weights = x @ w, pt.vector("weights")
    e = pt.sqr(y - t).sum(axis=1)
    for loss, reduction in (
        (pt.sqr(y - y.mean(axis=0) - t).mean(), None),
        ((e / e.sum()).sum(), None),
        ((weights / weights.sum() * e).sum(), "sum"),
    ):
        roots = [t, weights] if reduction else [t]
        assert symng.Objective(loss, y, [w], [x], roots).reduction == reduction


def test_an_axis_of_examples_that_is_dropped():
    x, w = pt.row("x"), pytensor.shared(np.ones(3), name="w")
    y = x @ w
    # of the one example once more, without its axis.
    loss = pt.sqr(y).mean() + pt.sqr(x.squeeze(0) @ w)
    objective = symng.Objective(loss, output=y, params=[w], inputs=[x])
    assert objective.reduction is None and objective.sum_factor is None


def test_example_losses_given():
    x, _, _, w = variables()
    losses = pt.sqr(x @ w).max(axis=1)
    objective = symng.Objective(pt.logsumexp(losses), x @ w, [w], [x], example_losses=losses)
    assert objective.example_losses is losses and objective.reduction == "given"


# Construction


def test_loss_that_shares_the_preactivation_is_left_as_it_is():
    x, t, _, w = variables()
    loss = mse(x, t, w).mean()
    assert symng.Objective(loss, x @ w, [w], [x], [t]).loss is not loss  # x @ w was computed twice
    y = x @ w
    loss = pt.sqr(y - t).mean()
    assert symng.Objective(loss, y, [w], [x], [t]).loss is loss


def test_fresh_inputs_leave_parameters_shared_and_the_original_alone():
    x, t, _, w = variables()
    r = x @ w
    loss = (pt.softplus(r) - t * r).sum(axis=1).mean()
    objective = symng.Objective(loss, r, [w], [x], [t], symng.Bernoulli(logits=True))
    fresh = objective.clone_inputs("_metric")
    assert [v.name for v in (*fresh.inputs, *fresh.targets)] == ["x_metric", "t_metric"]
    assert fresh.params == objective.params == (w,)
    assert objective.inputs == (x,) and objective.loss is loss
    values = {fresh.inputs[0]: X, fresh.targets[0]: T}
    assert fresh.loss.eval(values) == loss.eval({x: X, t: T})
    np.testing.assert_array_equal(fresh.output.eval({fresh.inputs[0]: X}), X @ w.get_value())
    np.testing.assert_allclose(fresh.example_losses.eval(values).mean(), loss.eval({x: X, t: T}))
    assert repr(fresh) == repr(objective).replace("x\n", "x_metric\n").replace(
        " t\n", " t_metric\n"
    )


@pytest.mark.parametrize(
    "axes, given, warned", [([1, 1], 0, True), ([1, 1], 1, False), (None, 1, False)]
)
def test_another_axis_of_examples_than_the_graph_shows_is_warned_of(axes, given, warned):
    x, t = pt.tensor3("x"), pt.tensor3("t")
    w = pytensor.shared(np.ones((3, 2)), name="w")
    y = pt.tanh(x @ w)
    loss = pt.sqr(y - t).sum(axis=(0, 2)).mean()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        symng.Objective(loss, y, [w], [x], [t], example_axis=given, data_axes=axes)
    assert ["Give example_axis=1" in str(w.message) for w in caught] == [True] * warned


def test_transposed_outputs_are_warned_of_unless_their_axis_is_given():
    x, w = pt.matrix("x"), pytensor.shared(np.ones((3, 2)), name="w")
    y = (x @ w).T
    with pytest.warns(UserWarning, match="the graph has them along axis 1 of the output"):
        symng.Objective(pt.sqr(y).mean(), y, [w], [x])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        symng.Objective(pt.sqr(y).mean(), y, [w], [x], example_axis=1, data_axes=[0])


def test_with_params():
    x, t, _, w = variables()
    objective = symng.Objective(mse(x, t, w).mean(), x @ w, [w], [x], [t])
    loss = objective.loss_at([pt.as_tensor(np.ones((3, 2)))])
    assert loss.eval({x: X, t: T}) == pytest.approx(((X @ np.ones((3, 2)) - T) ** 2).mean())


def test_is_frozen():
    objective = linear()
    with pytest.raises(AttributeError, match="frozen: make a new one to change 'loss'"):
        objective.loss = None


def test_repr():
    x, _, labels, w = variables()
    y = pt.special.softmax(x @ w, axis=-1)
    loss = -pt.log(y[pt.arange(x.shape[0]), labels]).sum()
    objective = symng.Objective(
        loss,
        [y, (x @ w).T],
        [w],
        [x],
        [labels],
        [None, symng.Gaussian(std=2.0)],
        example_axis=[0, 1],
    )
    assert repr(objective) == (
        "Objective\n"
        "  params:     w (3, 2), 6 numbers, float64\n"
        "  output:     Categorical, read off softmax\n"
        "  output:     Gaussian(std=2.0), given, examples along axis 1\n"
        "  inputs:     x\n"
        "  targets:    labels\n"
        "  examples:   the loss is a sum over them: steps are those of its mean"
    )


def test_construction_is_fast_for_deep_networks():
    """Graphs whose paths double at every layer.

    A walk that forgets where it was would not come back.
    """
    x, t = pt.matrix("x"), pt.matrix("t")
    params, h, decay = [], x, 0.0
    for i in range(30):
        w = pytensor.shared(np.eye(3), name=f"w{i}")
        params.append(w)
        r = h @ w
        h = r * pt.sigmoid(r) + h
        decay = decay + 1e-3 * pt.sqr(w).sum()
    terms = pt.sqr(h - t)
    for _ in range(30):
        terms = terms + 0.5 * terms
    total = terms.sum(axis=1).mean()
    for _ in range(30):
        total = total + 0.5 * decay
    start = time.process_time()
    objective = symng.Objective(total, h, params, [x], [t])
    objective.clone_inputs("_metric")
    assert time.process_time() - start < 2.0  # about 0.1 s
    assert objective.reduction == "mean"


# Bad input


def bad(**changes):
    """Return a call that makes an objective with some arguments changed.

    They may be functions of the variables.
    """
    x, t, labels, w = variables()
    u, half, integer, free = (
        pytensor.shared(np.ones((3, 2)), name="u"),
        pytensor.shared(np.ones((3, 2), "float32"), name="half"),
        pytensor.shared(np.ones((3, 2), "int64"), name="integer"),
        pt.matrix("free"),
    )
    y = x @ w
    names = {
        "x": x,
        "t": t,
        "w": w,
        "y": y,
        "u": u,
        "half": half,
        "integer": integer,
        "free": free,
        "labels": labels,
    }
    arguments = {
        "loss": pt.sqr(y - t).mean(),
        "output": y,
        "params": [w],
        "inputs": [x],
        "targets": [t],
    }
    arguments |= {
        k: v(**names) if callable(v) and not isinstance(v, type) else v for k, v in changes.items()
    }
    return symng.Objective(**arguments)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        (
            {"loss": 1.0},
            TypeError,
            r"loss: expected a symbolic floating-point scalar, got 1.0 \(float\)",
        ),
        ({"loss": lambda y, **_: pt.sqr(y)}, ValueError, r"loss: .* Take its mean over examples"),
        (
            {"loss": lambda y, **_: pt.argmax(y)},
            TypeError,
            "loss: expected a symbolic floating-point scalar",
        ),
        (
            {"loss": lambda x, t, u, **_: (x @ u - t).sum()},
            ValueError,
            "loss: expected a scalar that depends on params",
        ),
        (
            {"output": None},
            TypeError,
            "output: expected a symbolic floating-point tensor .* got None",
        ),
        ({"output": []}, TypeError, "output: expected"),
        (
            {"output": lambda y, **_: y.sum()},
            TypeError,
            "output: expected .* with an axis of examples",
        ),
        (
            {"output": lambda y, **_: pt.argmax(y, axis=1)},
            TypeError,
            "output: expected a symbolic floating-point",
        ),
        (
            {"params": []},
            ValueError,
            r"params: expected a non-empty list .* pytensor.shared\(array, name=...\)",
        ),
        ({"params": lambda w, **_: w}, ValueError, "params: expected a non-empty list"),
        (
            {"params": lambda x, **_: [x]},
            TypeError,
            r"params: .* got the symbolic tensor 'x'.* Make it with pytensor.sh",
        ),
        ({"params": [np.ones(3)]}, TypeError, r"params: .* got an array of shape \(3,\)"),
        (
            {"params": lambda integer, **_: [integer]},
            TypeError,
            "params: .* Cast its value to float32 or float64",
        ),
        (
            {
                "params": lambda w, half, **_: [w, half],
                "output": lambda x, w, half, **_: x @ (w + half),
            },
            TypeError,
            "params: expected one dtype for all, got float32 and float64",
        ),
        (
            {"params": lambda w, u, **_: [w, u]},
            ValueError,
            "params: expected variables that the output or the loss depends on, got .*"
            "'u'.* Leave it out, or give the output that uses it",
        ),
        ({"params": lambda w, **_: [w, w]}, ValueError, "params: expected each variable once"),
        (
            {"inputs": lambda x, **_: x},
            TypeError,
            r"inputs: expected a list .* Write inputs=\[...\]",
        ),
        (
            {"inputs": []},
            ValueError,
            "inputs, targets: expected every symbolic input .*, got a graph that needs x too",
        ),
        (
            {"inputs": lambda x, free, **_: [x, free]},
            ValueError,
            "inputs: expected variables that the loss or the output "
            "depends on, got the symbolic tensor 'free'.* Leave it out",
        ),
        (
            {"inputs": lambda x, y, **_: [x, y]},
            ValueError,
            "inputs: .* which is computed from others",
        ),
        (
            {"inputs": lambda w, **_: [w]},
            TypeError,
            "inputs: expected a list of symbolic input variables",
        ),
        (
            {"inputs": lambda x, **_: [x, x]},
            ValueError,
            "inputs, targets: expected each variable once, got x twice",
        ),
        (
            {"targets": []},
            ValueError,
            "inputs, targets: .* needs t too. Add it to inputs .* else to targets",
        ),
        (
            {"targets": lambda t, labels, **_: [t, labels]},
            ValueError,
            "targets: expected variables that .* 'labels'",
        ),
        (
            {"targets": lambda x, t, **_: [t, x]},
            ValueError,
            "each variable once, got x twice. When the input is its own",
        ),
        (
            {"likelihood": symng.Bernoulli},
            TypeError,
            r"likelihood: .* got the class Bernoulli.* Did you forget the parentheses",
        ),
        ({"likelihood": "bernoulli"}, TypeError, "likelihood: expected an instance"),
        (
            {"likelihood": [symng.Bernoulli(), None]},
            ValueError,
            "likelihood: expected one value for each of 1 outputs",
        ),
        (
            {"likelihood": symng.Gaussian(), "output": lambda y, **_: [y, y]},
            ValueError,
            "likelihood: expected a list of 2",
        ),
        (
            {"example_axis": 2},
            ValueError,
            "example_axis: expected a whole number, at least 0 and at most 1, got 2",
        ),
        ({"example_axis": -1}, ValueError, "example_axis: expected"),
        (
            {"example_axis": [0, 0]},
            ValueError,
            "example_axis: expected one value for each of 1 outputs, got 2",
        ),
        (
            {"example_axis": 1, "likelihood": symng.Categorical(logits=True)},
            ValueError,
            "example_axis: expected another",
        ),
        (
            {"data_axes": [0]},
            ValueError,
            "data_axes: expected one axis for each of 2 inputs and targets",
        ),
        ({"data_axes": [0, 2]}, ValueError, "data_axes: expected a whole number"),
        (
            {"example_losses": lambda y, **_: y},
            TypeError,
            "example_losses: expected a symbolic floating-point vector",
        ),
        (
            {"example_losses": lambda y, free, **_: (y + free).sum(axis=1)},
            ValueError,
            "a graph that needs free too",
        ),
    ],
)
def test_bad_objectives(changes, error, message):
    with pytest.raises(error, match=message):
        bad(**changes)


def test_symbolic_scalars_belong_into_shared_variables():
    x, _, _, w = variables()
    scale = pt.scalar("scale")
    with pytest.raises(
        ValueError, match="needs scale too.*make scalars and generators shared variables"
    ):
        symng.Objective((scale * x @ w).mean(), x @ w, [w], [x])
    with pytest.raises(ValueError, match="inputs: expected variables with an axis of examples"):
        symng.Objective((scale * x @ w).mean(), x @ w, [w], [x, scale])


def test_connections_name_all_that_is_missing():
    a, b = pt.vector("a"), pt.vector("b")
    with pytest.raises(ValueError, match="needs a, b too"):
        check_connections([(a + b).sum()], [], [], [])


# Batches


def bernoulli():
    x, t, _, w = variables()
    y = pt.sigmoid(x @ w)
    loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1).mean()
    return symng.Objective(loss, y, [w], [x], [t])


def categorical():
    x, _, labels, w = variables()
    y = pt.special.softmax(x @ w, axis=-1)
    return symng.Objective(-pt.log(y[pt.arange(x.shape[0]), labels]).mean(), y, [w], [x], [labels])


NAN = X.copy()
NAN[[2, 4], 1] = np.nan


@pytest.mark.parametrize(
    "make, batch, error, message",
    [
        (bernoulli, (X,), ValueError, r"batch: expected 2 arrays \(x, t\), got 1"),
        (bernoulli, (X, T, T), ValueError, r"batch: expected 2 arrays \(x, t\), got 3"),
        (
            bernoulli,
            X,
            TypeError,
            r"batch: expected a tuple of 2 arrays .* A one-element tuple needs a comma",
        ),
        (
            bernoulli,
            (X, T[0]),
            ValueError,
            r"batch, t: expected an array of 2 axes, got an array of shape \(2,\)",
        ),
        (
            bernoulli,
            (X.astype("int64"), T),
            TypeError,
            r"batch, x: expected dtype float64.*int64. Convert it with .astype",
        ),
        (
            bernoulli,
            (X[:5], T),
            ValueError,
            r"batch: expected the same number of examples .* x has 5 \(axis 0\), t has 6",
        ),
        (
            bernoulli,
            (X[:0], T[:0]),
            ValueError,
            "batch: expected at least one example, got 0 examples",
        ),
        (
            bernoulli,
            (NAN, T),
            ValueError,
            r"batch, x: expected finite values, got NaN, first in example 2 \(2 in all\)",
        ),
        (
            bernoulli,
            (X, T + 1),
            ValueError,
            r"batch, t: expected values from 0 to 1 \(Bernoulli likelihood\), got 1\.",
        ),
        (
            categorical,
            (X, LABELS + 1),
            ValueError,
            r"batch, labels: expected class numbers from 0 to 1 .* got 2 at \(1,\)",
        ),
        (
            categorical,
            (X, LABELS - 1),
            ValueError,
            r"expected class numbers .*, got -1 at \(0,\). Number the classes",
        ),
        (
            categorical,
            (X, LABELS.astype("float64")),
            TypeError,
            "batch, labels: expected dtype int64",
        ),
    ],
)
def test_bad_batches(make, batch, error, message):
    with pytest.raises(error, match=message):
        make().check_batch("batch", batch)


def test_batch_without_targets():
    (x,) = bernoulli().check_batch("metric_batch", [X], targets=False)
    assert x is X


# Does the likelihood match the loss?


@pytest.mark.parametrize(
    "factor, reduce, reduction",
    [
        (1.0, "mean", "mean"),
        (0.5, "mean", None),
        (1.0, "sum", "sum"),
        (3.0, "sum", None),
    ],
)
def test_check_names_the_factor(factor, reduce, reduction):
    x, t, _, w = variables()
    y = pt.sigmoid(x @ w)
    terms = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1)
    match = symng.Objective(factor * getattr(terms, reduce)(), y, [w], [x], [t]).check(X, T)
    assert match and match.matches and match.reduction == reduction
    wanted = factor * (6 if reduce == "sum" else 1)
    assert match.factor == pytest.approx(wanted, rel=1e-9)
    assert match.relative_difference < 1e-9
    assert str(match).startswith(
        "Loss and likelihood match: the loss is the negative log-likelihood of Bernoulli per "
        "example, "
        + {
            "mean": "their mean.",
            "sum": "their sum (factor 6)",
            None: f"{wanted:.6g} times their mean (fac",
        }[reduction]
    )


def test_check_of_a_mismatch():
    x, t, _, w = variables()
    y = pt.sigmoid(x @ w)
    match = symng.Objective(pt.sqr(y - t).sum(axis=1).mean(), y, [w], [x], [t]).check(X, T)
    assert not match and match.relative_difference > 0.05
    assert "do not match" in str(match) and "Fisher matrix of Bernoulli" in str(match)
    assert "use the negative log-likelihood of the output as loss, or give the likelihood" in str(
        match
    )


def test_check_of_a_negated_loss_is_a_mismatch():
    x, t, _, w = variables()
    assert not symng.Objective(-pt.sqr(x @ w - t).mean(), x @ w, [w], [x], [t]).check(X, T)


def test_check_without_curvature():
    x, t, _, w = variables()
    match = symng.Objective((t * (x @ w)).mean(), x @ w, [w], [x], [t]).check(X, T)
    assert not match and np.isnan(match.factor)
    assert str(match).startswith("No verdict: the Gauss-Newton product is zero on this batch")


def test_check_where_the_loss_overflows():
    x, t, _, w = variables()
    w.set_value(1e4 * w.get_value())
    y = 1 / (1 + pt.exp(-(x @ w)))
    loss = -(t * pt.log(y) + (1 - t) * pt.log(1 - y)).sum(axis=1).mean()
    match = symng.Objective(loss, y, [w], [x], [t], symng.Bernoulli()).check(X, T)
    assert not match
    assert (
        "is not finite on this batch. Try smaller parameters, or write the loss through the pre"
        in str(match)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_check_in_each_dtype(dtype):
    x, t = pt.matrix("x", dtype=dtype), pt.matrix("t", dtype=dtype)
    w = pytensor.shared(np.ones((3, 2), dtype), name="w")
    y = x @ w
    match = symng.Objective(pt.sqr(y - t).sum(axis=1).mean(), y, [w], [x], [t]).check(
        X.astype(dtype), T.astype(dtype)
    )
    assert match and match.factor == pytest.approx(2, rel=1e-5)


def test_check_refuses_bad_batches():
    with pytest.raises(ValueError, match="batch, x: expected finite values"):
        bernoulli().check(NAN, T)


def test_flat_vector_is_the_parameters_in_order():
    x, _, _, w = variables()
    b = pytensor.shared(np.array([5.0, 7.0]), name="b")
    objective = symng.Objective(pt.sqr(x @ w + b).mean(), x @ w + b, [b, w], [x])
    matrix = symng.Fisher()(objective).materialise().eval({x: X})
    features = np.array(
        [[np.eye(2)[k], *(X[n][:, None] * np.eye(2)[k])] for n in range(6) for k in range(2)]
    )
    features = features.reshape(12, -1)
    assert relative_error(matrix, features.T @ features / 6) < 1e-12


@pytest.mark.parametrize(
    "old, new",
    [
        ("with_params", "loss_at"),
        ("on_fresh_inputs", "clone_inputs"),
        ("on_own_inputs", "rebind"),
    ],
)
def test_old_names_warn_and_call_the_new_ones(monkeypatch, old, new):
    x, w = pt.matrix("x"), pytensor.shared(np.ones(2), name="w")
    objective = symng.Objective(pt.sqr(x @ w).mean(), output=x @ w, params=[w], inputs=[x])
    monkeypatch.setattr(symng.Objective, new, lambda self, argument: (new, argument))
    with pytest.warns(DeprecationWarning, match=rf"^Objective\.{old} is .*use Objective\.{new}"):
        assert getattr(objective, old)("argument") == (new, "argument")
