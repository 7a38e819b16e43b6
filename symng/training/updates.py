"""Updates of the user's own shared variables, such as running statistics, in a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error
from symng.backends.generators import is_generator
from symng.graphs.rebuild import free_inputs
from symng.objective import Batch, ObjectiveLike
from symng.optimizers import Step
from symng.optimizers.base import State

OwnUpdates = Mapping[SharedVariable, Any] | Iterable[tuple[SharedVariable, Any]]
"""From a shared variable to its next value, as `pytensor.function` takes them."""


def read_updates(
    updates: OwnUpdates | None, objective: ObjectiveLike, state: State
) -> dict[SharedVariable, Variable]:
    """Return the next values of shared variables, on the inputs of the objective.

    Beside ``updates`` these are the default updates of the shared variables that the graphs of the
    objective, or the updates, reach.
    """
    values = _as_values(updates)
    taken = dict.fromkeys(objective.params, "a parameter")
    taken |= dict.fromkeys(state.values.values(), "a variable of the optimizer's state")
    taken |= dict.fromkeys(state.hyperparameters.values(), "a setting of the optimizer")
    for variable in values:
        if variable in taken:
            raise argument_error(
                "updates",
                "variables that the step does not change itself",
                Verbatim(f"{variable}, {taken[variable]}"),
                "Leave it out.",
            )
    known = [*objective.inputs, *objective.targets]
    values = dict(zip(values, objective.rebind(list(values.values())), strict=True))
    for variable, value in values.items():
        if foreign := [v for v in free_inputs([value]) if v not in known]:
            raise argument_error(
                "updates",
                "values that are computed from inputs, targets and shared variables",
                Verbatim(f"one for {variable} that needs {foreign[0]}"),
                "Add it to inputs or targets if it comes with each batch.",
            )
    models = [term.model for term in objective.terms]
    graphs = [v for m in models for v in (m.loss, *m.outputs, m.example_losses)]
    graphs += values.values()
    defaults = _default_updates([v for v in graphs if v is not None], {*values, *taken})
    return values | dict(zip(defaults, objective.rebind(list(defaults.values())), strict=True))


def _as_values(updates: OwnUpdates | None) -> dict[SharedVariable, Variable]:
    """Return the given updates, each value of the type of its variable."""
    expected = "a mapping, or pairs, from shared variables to their next values"
    try:
        pairs = list(updates.items() if isinstance(updates, Mapping) else updates or ())
        pairs = [(variable, value) for variable, value in pairs]
    except (TypeError, ValueError) as error:
        raise argument_error("updates", expected, updates, error=TypeError) from error
    values: dict[SharedVariable, Variable] = {}
    for variable, value in pairs:
        if not isinstance(variable, SharedVariable):
            raise argument_error("updates", expected, variable, error=TypeError)
        if variable in values:
            raise argument_error("updates", "each variable once", Verbatim(f"{variable} twice"))
        values[variable] = _as_value(variable, value)
    return values


def _as_value(variable: SharedVariable, value: Any) -> Variable:
    """Return the next value of a variable, or refuse one of another type."""
    if isinstance(variable, TensorVariable):
        try:
            tensor = pt.as_tensor_variable(value)
        except (TypeError, NotImplementedError) as error:
            raise argument_error("updates", f"a tensor for {variable}", value) from error
        same = tensor.type.dtype == variable.type.dtype and tensor.ndim == variable.type.ndim
        if same and tensor.type.is_super(variable.type) or variable.type.is_super(tensor.type):
            return tensor
    elif is_generator(variable) and isinstance(value, Variable) and value.type == variable.type:
        return value
    hint = "Cast it: value.astype(variable.dtype)." if isinstance(value, TensorVariable) else ""
    expected = f"a value of type {variable.type} for {variable}"
    raise argument_error("updates", expected, value, hint, TypeError)


def _default_updates(
    graphs: list[Variable], given: set[SharedVariable]
) -> dict[SharedVariable, Variable]:
    """Return the default updates of the shared variables that graphs, or these updates, reach."""
    defaults: dict[SharedVariable, Variable] = {}
    while graphs:
        reached = [v for v in graph_inputs(graphs) if isinstance(v, SharedVariable)]
        new: dict[SharedVariable, Variable] = {}
        for v in reached:
            if v not in defaults and v not in given and v.default_update is not None:
                new[v] = v.default_update
        defaults |= new
        graphs = list(new.values())
    return defaults


def add_updates(step: Step, values: Mapping[SharedVariable, Variable]) -> Step:
    """Return the step with more updates, which keep the old values where it is not accepted.

    Generators go on in any case, as they do in a function of PyTensor.
    """
    accepted = step.records.get("accepted")

    def next_value(variable: Any, value: Any) -> Any:
        if accepted is None or is_generator(variable):
            return value
        switched = pt.switch(accepted, value, variable)
        if variable.type.is_super(switched.type):
            return switched
        return pt.specify_shape(switched, variable.type.shape)

    added = {v: next_value(v, value) for v, value in values.items()}
    return replace(step, updates={**step.updates, **added})


def record_losses(step: Step, batch: Batch) -> Step:
    """Return a step that records the loss of each term of a sum, too."""
    losses = {f"loss_{i}": term.loss() for i, term in enumerate(batch.terms)}
    return replace(step, records={**step.records, **losses})
