"""Check the arguments of `Objective`, one by one and against the graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.variable import TensorVariable

from symng._checks import Verbatim, argument_error, check_number, check_tensors, warn
from symng.graphs.rebuild import free_inputs


def check_loss(loss: object) -> TensorVariable:
    """Return ``loss`` if it is a symbolic floating-point scalar."""
    expected = "a symbolic floating-point scalar"
    if not isinstance(loss, TensorVariable):
        raise argument_error(
            "loss", expected, loss, "Build it with PyTensor from output and targets.", TypeError
        )
    if loss.ndim != 0:
        raise argument_error(
            "loss", expected, loss, "Take its mean over examples, for instance loss.mean()."
        )
    if not loss.type.dtype.startswith("float"):
        raise argument_error("loss", expected, loss, error=TypeError)
    return loss


def check_outputs(output: object) -> tuple[TensorVariable, ...]:
    """Return the outputs as a tuple of floating-point tensors with at least one axis."""
    return check_tensors("output", output)


def warn_of_random_draws(loss: TensorVariable, outputs: Sequence[TensorVariable]) -> None:
    """Warn of random numbers in the graph, as in dropout, that are the same at every step."""
    draws = [v for v in graph_inputs([loss, *outputs]) if isinstance(v.type, RandomType)]
    found = [v for v in draws if getattr(v, "default_update", None) is None]
    if found:
        warn(
            f"loss, output: the graph draws random numbers (from {found[0]}), and nothing advances "
            "their generator: the draws are the same at every step. Set its default_update to the "
            "generator that comes with the draw."
        )


_PARAMS = "a non-empty list of floating-point shared variables"


def check_params(
    params: object, outputs: Sequence[TensorVariable], loss: TensorVariable
) -> tuple[SharedVariable, ...]:
    """Return the parameters if they are distinct floating-point shared variables of the model."""
    if not isinstance(params, list | tuple) or not params:
        raise argument_error("params", _PARAMS, params, _hint_for_params(params))
    for p in params:
        _check_param(p)
    if len(set(params)) < len(params):
        raise argument_error("params", "each variable once", Verbatim("one of them twice"))
    dtypes = sorted({p.type.dtype for p in params})
    if len(dtypes) > 1:
        raise argument_error(
            "params",
            "one dtype for all",
            Verbatim(" and ".join(dtypes)),
            "Cast all to one of them.",
            TypeError,
        )
    of_outputs, reached = set(ancestors(outputs)), set(ancestors([*outputs, loss]))
    for p in params:
        if p not in reached:
            raise argument_error(
                "params",
                "variables that the output or the loss depends on",
                p,
                "Leave it out, or give the output that uses it.",
            )
    if not any(p in of_outputs for p in params):
        raise argument_error(
            "params",
            "at least one variable that the output depends on",
            Verbatim(", ".join(map(str, params))),
            "A metric is made of the output.",
        )
    return tuple(params)


def _hint_for_params(params: object) -> str:
    """Return a hint for ``params`` that are not a list, or an empty one."""
    if isinstance(params, SharedVariable):
        return "Write params=[...]."
    if isinstance(params, Mapping):
        return "Give list(params.values())."
    if isinstance(params, Iterable) and not isinstance(
        params, list | tuple | Variable | np.ndarray | str
    ):
        return "Give list(params)."
    return "Make them with pytensor.shared(array, name=...)."


def _check_param(p: object) -> None:
    """Refuse a parameter that is not a floating-point shared variable with at least one entry."""
    if not isinstance(p, SharedVariable) or not isinstance(p, TensorVariable):
        hint = "Make it with pytensor.shared(array, name=...)."
        raise argument_error("params", _PARAMS, p, hint, TypeError)
    if p.type.dtype not in ("float32", "float64"):
        hint = "Cast its value to float32 or float64."
        raise argument_error("params", _PARAMS, p, hint, TypeError)
    if np.size(p.get_value(borrow=True)) == 0:
        raise argument_error("params", _PARAMS, Verbatim(f"{p}, which is empty"))


def check_graph_inputs(name: str, variables: object) -> tuple[TensorVariable, ...]:
    """Return inputs or targets if they are symbolic variables that nothing computes."""
    expected = "a list of symbolic input variables, such as pt.matrix('x')"
    if not isinstance(variables, list | tuple):
        raise argument_error(name, expected, variables, f"Write {name}=[...].", TypeError)
    for v in variables:
        if not isinstance(v, TensorVariable) or isinstance(v, SharedVariable | Constant):
            hint = "The arrays come later, as the data of minimize."
            if isinstance(v, Variable):
                hint = ""
            raise argument_error(name, expected, v, hint, TypeError)
        if v.owner is not None:
            raise argument_error(name, expected, Verbatim(f"{v}, which is computed from others"))
        if v.ndim == 0:
            raise argument_error(
                name, "variables with an axis of examples", v, "Make scalars shared variables."
            )
    return tuple(variables)


def check_example_losses(given: object) -> TensorVariable | None:
    """Return per-example losses if they are a floating-point vector or None."""
    if given is None:
        return None
    expected = "a symbolic floating-point vector, one loss per example"
    if (
        not isinstance(given, TensorVariable)
        or given.ndim != 1
        or not given.type.dtype.startswith("float")
    ):
        raise argument_error("example_losses", expected, given, error=TypeError)
    return given


def check_given_losses(
    losses: TensorVariable, params: Sequence[SharedVariable], without_examples: bool
) -> None:
    """Refuse per-example losses that depend on no parameter or have no axis of examples."""
    if not any(p in set(ancestors([losses])) for p in params):
        raise argument_error("example_losses", "a vector that depends on params", losses)
    if without_examples:
        raise argument_error(
            "example_losses",
            "one loss per example",
            Verbatim(f"{losses}, which does not run over examples"),
            "Sum only over the axes of outputs and time.",
        )


def check_connections(
    graphs: Sequence[TensorVariable],
    params: Sequence[SharedVariable],
    inputs: Sequence[TensorVariable],
    targets: Sequence[TensorVariable],
) -> None:
    """Refuse inputs and targets that are repeated, missing or not in the graphs.

    The first of the graphs is the loss.
    """
    declared = [*inputs, *targets]
    if len(set(declared)) < len(declared):
        twice = next(v for v in declared if declared.count(v) > 1)
        raise argument_error(
            "inputs, targets",
            "each variable once",
            Verbatim(f"{twice} twice"),
            "When the input is its own target, as in an autoencoder, leave it out of targets.",
        )
    graph = set(graph_inputs(graphs))
    for name, variables in (("inputs", inputs), ("targets", targets)):
        for v in variables:
            if v not in graph:
                raise argument_error(
                    name, "variables that the loss or the output depends on", v, "Leave it out."
                )
    missing = sorted(str(v) for v in free_inputs(graphs) if v not in declared)
    if missing:
        raise argument_error(
            "inputs, targets",
            "every symbolic input of the loss and the output",
            Verbatim(f"a graph that needs {', '.join(missing)} too"),
            "Add it to inputs if the output needs it, else to targets; make scalars and "
            "generators shared variables.",
        )
    reached = set(ancestors(graphs[:1]))
    if not any(p in reached for p in params):
        raise argument_error(
            "loss",
            "a scalar that depends on params",
            graphs[0],
            "List the parameters of this loss, or give theirs.",
        )


def per_output(name: str, value: object, outputs: Sequence[TensorVariable]) -> list[Any]:
    """Return one value for each output from a single value or a list."""
    if not isinstance(value, list | tuple):
        if name == "likelihood" and value is not None and len(outputs) > 1:
            raise argument_error(name, f"a list of {len(outputs)}, one for each output", value)
        return [value] * len(outputs)
    if len(value) != len(outputs):
        raise argument_error(
            name, f"one value for each of {len(outputs)} outputs", Verbatim(f"{len(value)}")
        )
    return list(value)


def check_example_axis(value: object, outputs: Sequence[TensorVariable]) -> list[int]:
    """Return the axis of examples of each output."""
    axes = per_output("example_axis", value, outputs)
    for axis, y in zip(axes, outputs, strict=True):
        check_number("example_axis", axis, integer=True, minimum=0, maximum=y.ndim - 1)
    return axes


def check_data_axes(
    data_axes: object, variables: Sequence[TensorVariable], axis: int
) -> tuple[int, ...]:
    """Return the axis of examples of each input and target."""
    if data_axes is None:
        return tuple(axis if v.ndim > axis else 0 for v in variables)
    if not isinstance(data_axes, list | tuple) or len(data_axes) != len(variables):
        raise argument_error(
            "data_axes", f"one axis for each of {len(variables)} inputs and targets", data_axes
        )
    for v, a in zip(variables, data_axes, strict=True):
        check_number("data_axes", a, integer=True, minimum=0, maximum=v.ndim - 1)
    return tuple(data_axes)
