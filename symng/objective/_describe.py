"""Describe an objective in its repr."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from symng.graphs import vectors
from symng.likelihoods import Likelihood, describe_likelihood
from symng.objective.model import Model

_WIDTH, _INDENT = 110, " " * 14


def describe_model(model: Model, unchecked: Sequence[Likelihood]) -> str:
    """Return the repr of an objective; ``unchecked`` are likelihoods whose targets go unchecked."""
    lines = describe_params(model)
    if loss_params := model.loss_params:
        names = [p.name or "<unnamed>" for p in loss_params]
        lines.append(
            _fill(
                f"  loss only:  {', '.join(names)}, for which Fisher and GaussNewton take the "
                "positive part of the Hessian of the loss"
            )
        )
    for h in model.heads:
        axis = f", examples along axis {h.example_axis}" if h.example_axis else ""
        lines.append(f"  output:     {describe_likelihood(h.likelihood)}, {h.source}{axis}")
    names = [
        f"{v} (examples along axis {axis})" if axis else str(v) for v, axis in model.axis_of.items()
    ]
    count = len(model.inputs)
    lines.append(f"  inputs:     {', '.join(names[:count]) or 'none'}")
    lines.append(f"  targets:    {', '.join(names[count:]) or 'none'}")
    if names := [describe_likelihood(likelihood) for likelihood in unchecked]:
        lines.append(f"  unchecked:  targets of {', '.join(names)}, which the loss does not show")
    lines.append(_fill(f"  examples:   {_describe_reduction(model)}"))
    return "\n".join(["Objective", *lines])


def describe_params(model: Model) -> list[str]:
    """Return the lines of the repr that list the parameters."""
    params = model.params
    shapes = vectors.param_shapes(params)
    named = ", ".join(f"{p.name or '<unnamed>'} {s}" for p, s in zip(params, shapes, strict=True))
    return _fill(f"  params:     {named}, {model.size:,} numbers, {model.dtype}").splitlines()


def _describe_reduction(model: Model) -> str:
    """Return how the per-example losses make up the loss, and which steps follow."""
    reduction, factor = model.reduction, model.sum_factor
    found = {
        "mean": "the loss is a mean over them",
        "sum": "the loss is a weighted mean over them",  # a sum of terms divided by their weights
        "given": "their losses were given",
        None: "their single losses were not found (example_losses= gives them)",
    }[reduction]
    if factor is None:
        return found
    times = "" if factor == 1 else f" times {factor:.3g}"
    smallest = f" in batches of more than {1 / factor:.4g}" if factor < 0.5 else ""
    summed = f"the loss is a sum over them{times}: steps are those of its mean{smallest}"
    return summed if reduction == "sum" else f"{found}; {summed}"


def _fill(line: str) -> str:
    return textwrap.fill(line, _WIDTH, subsequent_indent=_INDENT)
