"""Which targets belong to which output, and which of their values are refused."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

import symng
from symng.models import (
    binary_cross_entropy_with_logits,
    categorical_cross_entropy_with_logits,
    squared_error,
)

N = 6
X = np.random.default_rng(0).standard_normal((N, 3))
LABELS = np.array([0, 1, 1, 0, 1, 0])
ONE_HOT, WEIGHTS = np.eye(2)[LABELS], np.full(N, 3.0)


def by_index(r, labels):
    """Return the cross-entropy of each example by taking the log-probability of its label."""
    return -pt.special.log_softmax(r, axis=-1)[pt.arange(labels.shape[0]), labels]


def by_comparison(r, labels):
    """Return the same by a one-hot matrix made in the graph."""
    return -(pt.eq(labels[:, None], pt.arange(2)) * pt.special.log_softmax(r, axis=-1)).sum(axis=1)


def weighted_first(r, labels, weights):
    """Return the same, times weights that come before the labels."""
    return -(weights[:, None] * pt.special.log_softmax(r, axis=-1))[
        pt.arange(labels.shape[0]), labels
    ]


def linear(name="w", columns=2):
    """Return a parameter of three rows."""
    return pytensor.shared(np.random.default_rng(1).standard_normal((3, columns)), name=name)


def classifier(loss_of, *targets):
    """Return a softmax regression with a loss made from pre-activation and targets."""
    x, w = pt.matrix("x"), linear()
    r = x @ w
    return symng.Objective(
        loss_of(r, *targets).mean(), pt.special.softmax(r, axis=-1), [w], [x], targets
    )


def changed(array, index, value):
    """Return a copy of an array with one entry changed."""
    copy = np.array(array)
    copy[index] = value
    return copy


LABELS_AND_WEIGHTS = [
    lambda r, labels, weights: weights * by_index(r, labels),
    lambda r, labels, weights: weights * by_comparison(r, labels),
    lambda r, labels, weights: (
        weights * categorical_cross_entropy_with_logits(r, labels) / weights.sum()
    ),
    weighted_first,
]


@pytest.mark.parametrize("loss_of", LABELS_AND_WEIGHTS)
@pytest.mark.parametrize("wrong", [-1, 7])
def test_labels_beside_weights(loss_of, wrong):
    objective = classifier(loss_of, pt.lvector("labels"), pt.vector("weights"))
    objective.check_batch("data", (X, LABELS, WEIGHTS))
    with pytest.raises(
        ValueError,
        match=rf"^data, labels: expected class numbers from 0 to 1 .* got {wrong} at \(2,\)",
    ):
        objective.check_batch("data", (X, changed(LABELS, 2, wrong), WEIGHTS))
    assert "unchecked" not in repr(objective)


def test_integer_weights_are_not_taken_for_labels():
    objective = classifier(
        lambda r, w, labels: w * by_index(r, labels), pt.lvector("weights"), pt.lvector("labels")
    )
    objective.check_batch("data", (X, 7 * LABELS - 3, LABELS))
    with pytest.raises(ValueError, match="^data, labels: expected class numbers"):
        objective.check_batch("data", (X, LABELS, LABELS + 1))


def test_masks_and_groups_are_not_taken_for_labels():
    mask, group, labels = pt.lvector("mask"), pt.lvector("group"), pt.lvector("labels")
    objective = classifier(
        lambda r, labels, mask, group: (
            pt.eq(mask, 5) * by_index(r, labels) * pt.constant([1.0, 2.0, 3.0])[group]
        ),
        labels,
        mask,
        group,
    )
    objective.check_batch("data", (X, LABELS, np.full(N, 5), np.full(N, 2)))
    objective = classifier(
        lambda r, labels, mask: by_index(r, labels[pt.eq(mask, 1).nonzero()]), labels, mask
    )
    mask_values = changed(np.ones(N, int), 2, 0)
    # What is masked may be anything.
    objective.check_batch("data", (X, changed(LABELS, 2, -1), mask_values))
    with pytest.raises(
        ValueError, match=r"^data, labels \(as the loss takes it\): .* got -1 at \(2,\)"
    ):
        objective.check_batch("data", (X, changed(LABELS, 3, -1), mask_values))


@pytest.mark.parametrize("loss_of", [by_index, categorical_cross_entropy_with_logits])
def test_packed_labels_of_two_outputs(loss_of):
    x, packed, w, v = pt.matrix("x"), pt.lmatrix("packed"), linear("w"), linear("v", columns=3)
    r, s = x @ w, x @ v
    loss = (loss_of(r, packed[:, 0]) + loss_of(s, packed[:, 1])).mean()
    objective = symng.Objective(
        loss,
        [pt.special.softmax(r, axis=-1), pt.special.softmax(s, axis=-1)],
        [w, v],
        [x],
        [packed],
    )
    good = np.stack([LABELS, 2 * LABELS], axis=1)
    objective.check_batch("data", (X, good))
    for index, value, output in (((3, 0), 2, 0), ((3, 1), 7, 1), ((3, 0), -1, 0)):
        with pytest.raises(
            ValueError, match=rf"^data, packed .* for output {output}: .* got {value} at \(3,\)"
        ):
            objective.check_batch("data", (X, changed(good, index, value)))


@pytest.mark.parametrize("swap", [False, True])
def test_targets_in_another_order_than_outputs(swap):
    x, labels, values, w, v = (
        pt.matrix("x"),
        pt.lvector("labels"),
        pt.matrix("values"),
        linear("w"),
        linear("v"),
    )
    r, y = x @ w, x @ v
    loss = by_index(r, labels).mean() + squared_error(y, values).mean() / 2
    outputs = [pt.special.softmax(r, axis=-1), y]
    objective = symng.Objective(
        loss, outputs[::-1] if swap else outputs, [w, v], [x], [labels, values]
    )
    objective.check_batch("data", (X, LABELS, np.full((N, 2), -9.0)))
    with pytest.raises(
        ValueError,
        match=rf"^data, labels for output {int(swap)}: expected class numbers from 0 to 1",
    ):
        objective.check_batch("data", (X, LABELS + 1, np.zeros((N, 2))))


def test_one_target_of_two_outputs_is_checked_for_both():
    x, t, w, v = pt.matrix("x"), pt.matrix("t"), linear("w"), linear("v")
    r, s = x @ w, x @ v
    loss = (pt.softplus(r) - t * r).mean() + (pt.exp(s) - t * s).mean()
    objective = symng.Objective(loss, [pt.sigmoid(r), pt.exp(s)], [w, v], [x], [t])
    with pytest.raises(ValueError, match=r"^data, t for output 0: expected values from 0 to 1"):
        objective.check_batch("data", (X, np.full((N, 2), 2.0)))
    other = symng.Objective(loss, [pt.exp(s), r], [w, v], [x], [t])
    with pytest.raises(ValueError, match=r"^data, t for output 0: expected counts of at least 0"):
        other.check_batch("data", (X, np.full((N, 2), -1.0)))


def test_one_hot_rows_beside_weights():
    objective = classifier(
        lambda r, t, weights: weights * categorical_cross_entropy_with_logits(r, t),
        pt.matrix("t"),
        pt.vector("weights"),
    )
    objective.check_batch("data", (X, ONE_HOT, WEIGHTS))
    with pytest.raises(
        ValueError, match=r"^data, t: expected one-hot rows .* got \[2. 0.\] at \(0,\)"
    ):
        objective.check_batch("data", (X, 2 * ONE_HOT, WEIGHTS))
    with pytest.raises(
        ValueError,
        match=r"^data, t: expected rows of 2 numbers, .*, got an array of shape \(6, 3\)",
    ):
        objective.check_batch("data", (X, np.eye(3)[LABELS], WEIGHTS))


def test_what_the_graph_does_not_show_is_accepted_and_repr_says_so():
    objective = classifier(
        lambda r, t, weights: -weights * t * pt.special.log_softmax(r, axis=-1),
        pt.matrix("t"),
        pt.matrix("weights"),
    )
    objective.check_batch("data", (X, 2 * ONE_HOT, WEIGHTS[:, None] * np.ones((1, 2))))
    told = "unchecked:  targets of Categorical, which the loss does not show"
    assert told in repr(objective)
    assert told not in repr(
        classifier(lambda r, t: -t * pt.special.log_softmax(r, axis=-1), pt.matrix("t"))
    )


def autoencoder(loss_of, *targets, view=lambda x: x):
    """Return an autoencoder with a loss made from pre-activation, image and targets."""
    x, w = pt.matrix("x"), linear(columns=3)
    r = view(x) @ w
    return symng.Objective(loss_of(r, x, *targets).mean(), pt.sigmoid(r), [w], [x], targets)


IMAGES = np.random.default_rng(2).random((N, 3))


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda r, x: (pt.softplus(r) - x * r).sum(axis=1),
        lambda r, x: -(x * pt.log(pt.sigmoid(r)) + (1 - x) * pt.log(1 - pt.sigmoid(r))).sum(axis=1),
        lambda r, x: pt.sqr(pt.sigmoid(r) - x).sum(axis=1),
        lambda r, x: binary_cross_entropy_with_logits(r, x),
        lambda r, x: (pt.softplus(r.T) - x.T * r.T).sum(axis=0),
    ],
)
@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x.reshape((x.shape[0], 3)), lambda x: pt.log1p(x)]
)
def test_images_of_an_autoencoder_that_are_out_of_range_are_warned_of(loss_of, view, recwarn):
    objective = autoencoder(loss_of, view=view)
    objective.check_batch("data", (IMAGES,))
    assert not recwarn
    with pytest.warns(
        UserWarning, match=r"^data, x.*: expected values from 0 to 1 .*, got 255.0 at \("
    ):
        objective.check_batch("data", (changed(IMAGES, (4, 1), 255.0),))


def test_the_warning_is_given_once_and_points_to_the_program():
    objective = autoencoder(lambda r, x: binary_cross_entropy_with_logits(r, x))
    with pytest.warns(UserWarning, match="^data, x: expected values from 0 to 1") as warned:
        symng.minimize(
            objective, symng.SGD(step_size=1e-3), (255 * IMAGES,), max_steps=2, progress=False
        )
    assert [w.filename for w in warned] == [__file__]


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda r, x: pt.sqr(pt.sigmoid(r) - x / 255).sum(axis=1),  # the loss rescales them itself
        lambda r, x: (pt.softplus(r) - pt.gt(x, 100) * r).sum(axis=1),  # or makes targets of them
        lambda r, x: pt.exp(-x).sum(axis=1) * (pt.softplus(r) - r).sum(axis=1),  # or weights
        lambda r, x: pt.sqr(pt.sigmoid(r) - 1.0).sum(axis=1),
    ],
)
def test_inputs_that_no_output_is_compared_with_may_be_anything(loss_of, recwarn):
    autoencoder(loss_of).check_batch("data", (255.0 * IMAGES,))
    assert not recwarn


@pytest.mark.parametrize(
    "loss_of, target",
    [
        # Masks of sources.
        (
            lambda y, x, t: (pt.sqr(y * x - t) + pt.sqr((1 - y) * x - t)).sum(axis=1),
            pt.matrix("t"),
        ),
        (lambda y, x, t: pt.sqr((y * x).sum(axis=1) - t), pt.vector("t")),  # gates
    ],
)
def test_inputs_beside_targets_may_be_anything(loss_of, target, recwarn):
    x, w = pt.matrix("x"), linear(columns=3)
    y = pt.sigmoid(pt.log1p(x) @ w)
    objective = symng.Objective(loss_of(y, x, target).mean(), y, [w], [x], [target])
    objective.check_batch("data", (20 * IMAGES, IMAGES if target.ndim == 2 else IMAGES[:, 0]))
    assert not recwarn


def test_counts_of_words_may_be_reconstructed(recwarn):
    x, w = pt.matrix("x"), linear(columns=3)
    r = x @ w
    loss = -(x * pt.special.log_softmax(r, axis=-1)).sum(axis=1).mean()
    symng.Objective(loss, pt.special.softmax(r, axis=-1), [w], [x]).check_batch(
        "data", (np.ceil(9 * IMAGES),)
    )
    assert not recwarn


def test_gains_of_a_policy_are_no_targets_of_it(recwarn):
    x, gains, w = pt.matrix("x"), pt.matrix("gains"), linear(columns=1)
    r = x @ w
    objective = symng.Objective((gains * pt.softplus(-r)).mean(), pt.sigmoid(r), [w], [x, gains])
    objective.check_batch("data", (X, np.full((N, 1), -3.0)))
    assert not recwarn


def test_weights_of_an_autoencoder_are_no_targets_of_its_output():
    objective = autoencoder(
        lambda r, x, weights: weights * (pt.softplus(r) - x * r).sum(axis=1), pt.vector("weights")
    )
    objective.check_batch("data", (X, WEIGHTS))


def test_noisy_inputs_beside_clean_targets_are_not_checked():
    objective = autoencoder(
        lambda r, x, t: (pt.softplus(r) - t * r).sum(axis=1) + (x * r).mean(), pt.matrix("t")
    )
    objective.check_batch("data", (X, IMAGES))
    with pytest.raises(ValueError, match="^data, t: expected values from 0 to 1"):
        objective.check_batch("data", (X, -IMAGES))


@pytest.mark.parametrize(
    "use", [lambda t: t[:, 0], lambda t: t.flatten(), lambda t: t.reshape((-1,))]
)
def test_labels_in_a_column(use):
    objective = classifier(lambda r, t: by_index(r, use(t)), pt.lmatrix("t"))
    objective.check_batch("data", (X, LABELS[:, None]))
    with pytest.raises(
        ValueError, match=r"^data, t .*expected class numbers from 0 to 1 .* got 2 at"
    ):
        objective.check_batch("data", (X, LABELS[:, None] + 1))


def test_columns_of_class_numbers_pass_the_likelihood():
    likelihood = symng.Categorical()
    for classes in (None, 2):
        likelihood.check_targets("t", LABELS[:, None], 2, classes)
        with pytest.raises(ValueError, match=r"^t: expected class numbers .* got -1 at \(1, 0\)"):
            likelihood.check_targets("t", changed(LABELS[:, None], 1, -1), 2, classes)
    likelihood.check_targets("t", np.ones((N, 1)), 2, 1)
    with pytest.raises(ValueError, match="^t: expected one-hot rows"):  # of a single class
        likelihood.check_targets("t", LABELS[:, None], 2, 1)


def test_labels_whose_use_a_scan_hides():
    x, labels, w = pt.tensor3("x"), pt.lmatrix("labels"), linear()
    r = x @ w
    losses = pytensor.scan(by_index, sequences=[r, labels], return_updates=False)
    objective = symng.Objective(
        losses.sum(axis=0).mean(),
        pt.special.softmax(r, axis=-1),
        [w],
        [x],
        [labels],
        example_axis=1,
    )
    good = np.stack([LABELS, 1 - LABELS])
    objective.check_batch("data", (np.ones((2, N, 3)), good))
    with pytest.raises(
        ValueError, match=r"^data, labels .*expected class numbers from 0 to 1 .* got 5 at \(1, 4\)"
    ):
        objective.check_batch("data", (np.ones((2, N, 3)), changed(good, (1, 4), 5)))


def test_fresh_inputs_keep_the_pairing():
    objective = classifier(
        lambda r, labels, weights: weights * by_index(r, labels),
        pt.lvector("l"),
        pt.vector("weights"),
    )
    with pytest.raises(ValueError, match="^data, l: expected class numbers"):
        objective.clone_inputs("_metric").check_batch("data", (X, LABELS + 1, WEIGHTS))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_a_label_out_of_range_is_nan(dtype):
    r, labels = pt.matrix("r", dtype=dtype), pt.ivector("labels")
    losses = categorical_cross_entropy_with_logits(r, labels)
    assert losses.type.dtype == dtype
    slope = pytensor.grad(losses.sum(), r)
    values, slopes = pytensor.function([r, labels], [losses, slope])(
        np.zeros((5, 3), dtype), np.array([0, 2, 3, -1, 7], "int32")
    )
    np.testing.assert_allclose(values, [np.log(3), np.log(3), np.nan, np.nan, np.nan], rtol=1e-6)
    assert np.isnan(slopes[2:]).all() and np.isfinite(slopes[:2]).all()


def test_a_label_out_of_range_is_never_trained_on():
    """Where nobody checks, the step is rejected."""
    objective = classifier(categorical_cross_entropy_with_logits, pt.lvector("labels"))
    before = objective.params[0].get_value()
    info = symng.compile_step(objective, symng.SGD(step_size=1.0)).run((X, changed(LABELS, 2, 7)))
    assert (
        np.isnan(info.loss)
        and not info.accepted
        and (objective.params[0].get_value() == before).all()
    )


def classes(target, loss_of):
    """Return a model of three classes and inputs for it."""
    x, w = pt.matrix("x"), pytensor.shared(np.ones((2, 3)), name="w")
    y = pt.special.softmax(x @ w, axis=-1)
    return symng.Objective(loss_of(y).mean(), y, [w], inputs=[x], targets=[target]), np.ones((4, 2))


@pytest.mark.parametrize("labels", [np.array([0, 1, 2, 1]), np.array([0.0, 1, 2, 1]), [0, 1, 2, 1]])
def test_class_numbers_for_one_hot_rows(labels):
    t = pt.matrix("t")
    objective, X = classes(t, lambda y: -(t * pt.log(y)).sum(axis=1))
    with pytest.raises(
        ValueError,
        match=r"^data, t: expected one-hot rows, .* np.eye\(3, dtype='float64'\)\[labels\]",
    ):
        symng.minimize(objective, symng.SGD(), (X, labels), progress=False)
    objective.check_batch("data", (X, np.eye(3, dtype="float64")[np.asarray(labels, int)]))
    with pytest.raises(ValueError, match=r"A column of class numbers for t\? One-hot encode"):
        symng.minimize(
            objective, symng.SGD(), (X, np.array([[0.0], [1.0], [2.0], [1.0]])), progress=False
        )


def test_one_hot_rows_for_class_numbers():
    t = pt.lvector("t")
    objective, X = classes(t, lambda y: -pt.log(y)[pt.arange(y.shape[0]), t])
    for rows in (np.eye(3)[[0, 1, 2, 1]], np.eye(3, dtype=int)[[0, 1, 2, 1]]):
        with pytest.raises(
            ValueError, match=r"^data, t: expected class numbers, .*: T.argmax\(axis=-1\)"
        ):
            objective.check_batch("data", (X, rows))
    objective.check_batch("data", (X, np.eye(3)[[0, 1, 2, 1]].argmax(axis=-1)))


def _one_hot_loss(reduce):
    x, t, w = pt.matrix("x"), pt.matrix("t"), pytensor.shared(np.zeros((3, 4)), name="w")
    y = pt.special.softmax(x @ w, axis=-1)
    return symng.Objective(reduce(pt.log(y), t), output=y, params=[w], inputs=[x], targets=[t])


@pytest.mark.parametrize(
    "reduce",
    [
        lambda log_y, t: -pt.einsum("ij,ij->", t, log_y) / t.shape[0],
        lambda log_y, t: -pt.tensordot(t, log_y, axes=2) / t.shape[0],
        lambda log_y, t: -pt.dot(t.flatten(), log_y.flatten()) / t.shape[0],
        lambda log_y, t: -(t.T * log_y.T).sum(axis=0).mean(),
        lambda log_y, t: -(t.reshape((-1, 2)) * log_y.reshape((-1, 2))).sum() / t.shape[0],
    ],
    ids=["einsum", "tensordot", "flat", "transposed", "other rows"],
)
def test_rearranged_one_hot_targets_are_checked_as_they_are(reduce):
    objective, X = _one_hot_loss(reduce), np.ones((5, 3))
    labels = np.arange(5) % 4
    symng.compile_step(objective, symng.SGD(0.1), mode="FAST_COMPILE")((X, np.eye(4)[labels]))
    wrong = np.eye(4)[labels]
    wrong[2, 0] = 7.0
    with pytest.raises(ValueError, match="one-hot rows"):
        symng.compile_step(objective, symng.SGD(0.1), mode="FAST_COMPILE")((X, wrong))


@pytest.mark.parametrize(
    "loss, labels",
    [
        (
            lambda log_y, t: -pt.switch(pt.lt(t, 0), 0.0, log_y[pt.arange(t.shape[0]), t]).mean(),
            [0, 1, -1, 2, 3],
        ),
        (
            lambda log_y, t: (
                -(pt.neq(t, -100) * log_y[pt.arange(t.shape[0]), pt.maximum(t, 0)]).sum()
                / t.shape[0]
            ),
            [0, 1, -100, 2, 3],
        ),
        (lambda log_y, t: -log_y[pt.arange(t.shape[0]), t - 1].mean(), [1, 2, 3, 4, 4]),
    ],
    ids=["switched off", "masked", "counted from one"],
)
def test_labels_that_the_loss_masks_or_shifts_are_taken(loss, labels):
    x, t, w = pt.matrix("x"), pt.lvector("t"), pytensor.shared(np.zeros((3, 4)), name="w")
    y = pt.special.softmax(x @ w, axis=-1)
    objective = symng.Objective(loss(pt.log(y), t), output=y, params=[w], inputs=[x], targets=[t])
    step = symng.compile_step(objective, symng.SGD(0.1), mode="FAST_COMPILE")
    assert np.isfinite(step((np.ones((5, 3)), np.array(labels))).loss)


def test_targets_of_a_sigmoid_that_the_loss_shifts_are_taken():
    x, t, w = pt.matrix("x"), pt.matrix("t"), pytensor.shared(np.zeros((3, 1)), name="w")
    y = pt.sigmoid(x @ w)
    loss = -((1 + t) / 2 * pt.log(y) + (1 - t) / 2 * pt.log(1 - y)).mean()
    objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    step = symng.compile_step(objective, symng.SGD(0.1), mode="FAST_COMPILE")
    assert np.isfinite(step((np.ones((2, 3)), np.array([[1.0], [-1.0]]))).loss)
