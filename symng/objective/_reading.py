"""Read a model off the user's graph: check the arguments, find the heads and the example losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pytensor.graph.basic import Variable

from symng._checks import warn
from symng.graphs.building import building
from symng.graphs.rewrites import inline, merge_equal
from symng.objective import _arguments
from symng.objective._example_axes import NONE, REDUCED, locate_examples
from symng.objective._example_losses import find_example_losses
from symng.objective._sum_factor import find_sum_factor
from symng.objective.heads import make_head, read_off_loss
from symng.objective.model import Model


@building()
def read_model(
    loss: object,
    output: object,
    params: object,
    inputs: object,
    targets: object,
    likelihood: object,
    example_losses: object,
    example_axis: object,
    data_axes: object,
) -> tuple[Model, Mapping[Variable, Variable]]:
    """Return the model that the arguments of `Objective` describe, and a mapping.

    The mapping is from variables of the user's graph to those that replace them in the model.
    """
    given_loss = _arguments.check_loss(loss)
    given_outputs = _arguments.check_outputs(output)
    params = _arguments.check_params(params, given_outputs, given_loss)
    inputs = _arguments.check_graph_inputs("inputs", inputs)
    targets = _arguments.check_graph_inputs("targets", targets)
    given_losses = _arguments.check_example_losses(example_losses)
    graphs = [v for v in (given_loss, *given_outputs, given_losses) if v is not None]
    _arguments.check_connections(graphs, params, inputs, targets)
    _arguments.warn_of_random_draws(given_loss, given_outputs)
    # Open the ops that are graphs, so that all readers see inside; gradients do not change.
    opened, replaced = inline(graphs)
    opened_loss, outputs = opened[0], tuple(opened[1 : 1 + len(given_outputs)])
    opened_losses = None if given_losses is None else opened[-1]
    axes = _arguments.check_example_axis(example_axis, outputs)
    likelihoods = _arguments.per_output("likelihood", likelihood, outputs)
    heads = tuple(make_head(*parts) for parts in zip(outputs, likelihoods, axes, strict=True))
    example_axes = _arguments.check_data_axes(data_axes, (*inputs, *targets), axes[0])
    # A loss that recomputes the pre-activation still passes through it.
    merged_loss = merge_equal([opened_loss], [head.curvature_at for head in heads])[0]
    model = Model(
        loss=merged_loss,
        outputs=outputs,
        heads=read_off_loss(heads, merged_loss, params, inputs, targets),
        params=params,
        inputs=inputs,
        targets=targets,
        data_axes=example_axes,
        example_losses=opened_losses,
        reduction="given",
        sum_factor=None,
    )
    _warn_of_other_axes(model)
    return _with_example_losses(model), replaced


def _warn_of_other_axes(model: Model) -> None:
    """Warn of an output whose examples run along another axis than the one given."""
    for head, y in zip(model.heads, model.outputs, strict=True):
        axis = locate_examples(y, model.axis_of).get(y)  # whatever ``example_axis`` says
        if isinstance(axis, int) and axis != head.example_axis:
            axes = ", ".join(f"{v} along axis {a}" for v, a in model.axis_of.items())
            warn(
                f"example_axis: {head.example_axis} is not the axis of examples of the output {y}. "
                f"With examples of {axes}, the graph has them along axis {axis} of the output. "
                f"Give example_axis={axis}, or other data_axes."
            )


def _with_example_losses(model: Model) -> Model:
    """Return the model with its per-example losses, checked or found, and their reduction."""
    # From here on ``example_axis`` holds, also where the graph between inputs and output does not
    # show it.
    outputs = {y: head.example_axis for head, y in zip(model.heads, model.outputs, strict=True)}
    # If the curvature is not taken at r, r is a view of that variable, perhaps with other axes.
    outputs |= {
        head.curvature_at: head.example_axis for head in model.heads if head.curvature_at is head.r
    }
    axes = locate_examples(model.loss, model.axis_of, outputs)
    factor = find_sum_factor(model.loss, axes, model.axis_of, outputs)
    given = model.example_losses
    if given is None:
        losses, reduction = find_example_losses(model.loss, axes)
        return replace(model, example_losses=losses, reduction=reduction, sum_factor=factor)
    axis = locate_examples(given, model.axis_of, outputs).get(given)
    _arguments.check_given_losses(given, model.params, axis in (NONE, REDUCED))
    return replace(model, sum_factor=factor)
