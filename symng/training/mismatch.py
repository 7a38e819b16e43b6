"""Warn of a loss that is not the negative log-likelihood that the metric is made of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import toposort
from pytensor.tensor.shape import Shape, Shape_i

from symng._checks import warn
from symng.backends import UNOPTIMIZED
from symng.backends.failures import ARRAY_ERRORS
from symng.likelihoods import Bernoulli, Categorical, describe_likelihood, likelihood_code
from symng.metrics import Fisher, StructuralDamping
from symng.objective import Objective
from symng.objective.heads import MISPLACED, UNREAD, Head, find_in_loss
from symng.objective.loss_reading import Finding, find_activation
from symng.objective.matching import Match, compare
from symng.objective.output_products import Products, Values
from symng.optimizers import Optimizer
from symng.training.batch_arrays import Arrays

# Examples, and numbers of their outputs, that are compared: few, to take no noticeable time.
_LIMITS = 16, 2**14
# Steps that are longer by less than this are no reason for a warning: half a sum is a likelihood.
_LONGER = 1.9
# Relative difference that is no mismatch: a small penalty on the output, such as an entropy bonus.
_NEAR = 0.05


def warn_of_mismatch(objective: Objective, optimizer: Optimizer, batch: Arrays) -> None:
    """Warn if the optimizer's metric is the Fisher matrix of another distribution than the loss's.

    Likelihoods that were given are taken as intended, and weights of examples and factors are no
    mismatch. Without a verdict there is no warning.
    """
    heads = objective.heads
    if not _has_fisher(optimizer) or any(
        h.r is None or h.source.startswith("given") for h in heads
    ):
        return
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            match = _find_mismatch(objective, batch)
    except Exception:  # a failure here must not stop a run
        return
    # `Objective` has warned where the loss takes an output for something else.
    if match is None or any(h.source == MISPLACED or _is_read(objective, h) for h in heads):
        return
    is_opposite = (
        match.factor < 0
        and match.relative_difference < _NEAR
        and any(_meets_data(objective, h) for h in heads)
    )
    taken = {
        h: find_activation(objective.loss, h.curvature_at, objective.params, objective.targets)
        for h in heads
    }
    doubtful = [
        h
        for i, h in enumerate(heads)
        if i in match.outputs and _is_doubtful(objective, h, taken[h])
    ]
    if match.likelihood is None and match.outputs and not doubtful and not is_opposite:
        return
    warn(_message(objective, match, {h: taken[h] for h in doubtful}, is_opposite))


def warn_of_unseen_sum(objective: Objective, optimizer: Optimizer, batch: Arrays) -> None:
    """Warn if the loss grows with the number of examples, and no sum over them was found in it.

    The Fisher matrix does not grow with it, so that steps are too long by that factor. Where loss
    and likelihood do not match there is no warning.
    """
    model = objective.model
    if not _has_fisher(optimizer) or model.reduction is not None or model.sum_factor is not None:
        return
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            values = Values(model)
            few = values.take_examples(batch, *_LIMITS)
            fewer = values.take_examples(few, model.count_of(few) // 2, _LIMITS[1])
            matches = [compare(values, part, UNOPTIMIZED) for part in (few, fewer)]
    except Exception:  # a failure here must not stop a run
        return
    of_few, of_fewer = (
        m.factor / model.count_of(part) for m, part in zip(matches, (few, fewer), strict=True)
    )
    times = of_few * model.count_of(batch)
    grows = len({model.count_of(part) for part in (few, fewer)}) == 2 and all(matches)
    if grows and times > _LONGER and np.isclose(of_few, of_fewer, rtol=_NEAR):
        warn(
            "loss: expected a mean or a sum over examples, got a loss that grows with their "
            f"number, though no sum over them was found in it. Steps are {times:.3g} times too "
            "long. Take the mean, or write the sum as losses.sum(), or lower step_size."
        )


def _has_fisher(optimizer: Optimizer) -> bool:
    """Return whether the optimizer solves with a Fisher matrix."""
    metric = optimizer.metric
    while isinstance(metric, StructuralDamping):
        metric = metric.metric
    return isinstance(metric, Fisher)


def _find_mismatch(objective: Objective, batch: Arrays) -> Match | None:
    """Return how loss and likelihood differ on a few examples; None where they go together."""
    values = Values(objective.model)
    few = values.take_examples(batch, *_LIMITS)
    try:
        match = compare(values, few, UNOPTIMIZED)
    except ARRAY_ERRORS:  # a model of one number of examples, as with constants for targets
        few = batch
        match = compare(values, few, UNOPTIMIZED)
    if not match and not match.weighted and match.likelihood is None:
        match = compare(values, few, UNOPTIMIZED, near=_NEAR)
    if match or match.weighted or not np.isfinite(match.relative_difference):
        return None
    return None if _moves_with_target(values, few) else match


def _is_read(objective: Objective, head: Head) -> bool:
    """Return whether the loss, though not the output's graph, says which distribution is meant."""
    graph = objective.loss, objective.params, objective.inputs, objective.targets
    return find_in_loss(head, *graph) is not None


def _is_doubtful(objective: Objective, head: Head, taken: Finding | None) -> bool:
    """Return whether a likelihood is a poor choice for a loss that belongs to no likelihood.

    It is not for a softmax or a sigmoid, which is a distribution whatever the loss, as in a policy
    gradient; nor for an output that is not compared with data, such as an embedding or what a
    generator draws, for which nothing better is known.
    """
    if head.source != UNREAD:
        return not isinstance(head.likelihood, Bernoulli | Categorical)
    return taken is not None or _meets_data(objective, head)


def _moves_with_target(values: Values, arrays: Arrays) -> bool:
    """Return whether an output only shifts the distribution of its target, or of its logarithm.

    Then the Fisher matrix of each unit is constant, as that of a Gaussian is. Such losses are log
    cosh, a norm of the difference, and the negative log-likelihoods of Student's, logistic,
    exponential and Gamma distributions.
    """
    model = values.model
    if len(model.heads) > 1 or model.heads[0].source != UNREAD:
        return False
    variables = model.variables
    products = Products(values, arrays, UNOPTIMIZED)
    shift = 0.5

    def curvature(by: float) -> np.ndarray:
        rng = np.random.default_rng(0)
        return products([v + np.asarray(by, v.dtype) for v in products.values], rng).curvature[0]

    own, moved = curvature(0.0), curvature(shift)
    if np.allclose(own, moved, rtol=1e-3):
        return False  # quadratic, with another matrix than that of independent units
    for i, v in enumerate(variables):
        t = np.asarray(arrays[i])
        if (
            v not in (model.targets or variables)
            or t.dtype.kind != "f"
            or t.size != products.outputs[0].size
        ):
            continue
        for other in (t + shift, t * np.exp(shift), t * np.exp(-shift)):
            products.arrays = [*arrays[:i], other.astype(t.dtype), *arrays[i + 1 :]]
            if np.allclose(curvature(shift), own, rtol=1e-3, atol=1e-6 * abs(own).max()):
                return True
    return False


def _meets_data(objective: Objective, head: Head) -> bool:
    """Return whether the loss combines an output with functions of the data alone."""
    ends = [h.curvature_at for h in objective.heads]
    within: set[Variable] = {head.curvature_at}
    moved: set[Variable] = {*objective.params, *ends}
    given: set[Variable] = {*objective.inputs, *objective.targets}
    for node in toposort([objective.loss], blockers=ends):
        if isinstance(node.op, Shape | Shape_i):
            continue
        if any(v in within for v in node.inputs):
            if any(v in given for v in node.inputs):
                return True
            within.update(node.outputs)
        elif any(v in moved for v in node.inputs):
            moved.update(node.outputs)
        elif any(v in given for v in node.inputs):
            given.update(node.outputs)
    return False


def _message(
    objective: Objective, match: Match, taken: Mapping[Head, Finding | None], is_opposite: bool
) -> str:
    """Return the text of the warning, with the line to write."""
    heads = objective.heads
    names = " + ".join(f"{describe_likelihood(h.likelihood)} ({h.source})" for h in heads)
    text = (
        f"loss: expected the negative log-likelihood of {names}, which Fisher is the metric of, "
        "got "
    )
    if match.likelihood is None:
        findings = [taken.get(h) for h in heads]
        given = ", ".join(
            likelihood_code(h.likelihood if f is None else f.likelihood)
            for h, f in zip(heads, findings, strict=True)
        )
        given = given if len(heads) == 1 else f"[{given}]"
        if is_opposite:
            return (
                f"{text}it with the opposite sign. Put a minus before the loss; if it is meant to "
                f"fall where the likelihood falls, write symng.Objective(..., likelihood={given})."
            )
        if what := next((f.what for f in findings if f is not None), None):
            return (
                f"{text}another loss, which takes {what} of an output. Write symng.Objective(..., "
                f"likelihood={given}), or use GaussNewton(), which takes the curvature of the loss "
                "itself."
            )
        return (
            f"{text}another loss. GaussNewton() takes the curvature of the loss itself; if Fisher "
            f"is meant as it is, write symng.Objective(..., likelihood={given})."
        )
    name = type(match.likelihood).__name__
    output = "..." if match.where == "output" else "..., output=r"
    return (
        f"{text}that of {name}. Write symng.Objective({output}, "
        f"likelihood={likelihood_code(match.likelihood)}), or "
        f"likelihood={likelihood_code(heads[0].likelihood)} to keep the current one."
    )
