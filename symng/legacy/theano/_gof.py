"""``theano.gof``: ops and rewrites written for Theano, and names for the parts of a graph."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op as PyTensorOp
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.graph.traversal import ancestors as walk_ancestors
from pytensor.graph.traversal import graph_inputs

__all__ = [
    "Apply",
    "Constant",
    "FunctionGraph",
    "Op",
    "Variable",
    "ancestors",
    "debug_assert",
    "get_debug_values",
    "inputs",
    "local_optimizer",
]


class Op(PyTensorOp):
    """The base of ops written for Theano: methods are called with the arguments of its time."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = vars(cls)
        if "make_thunk" in own and _takes(own["make_thunk"], 5):
            cls.make_thunk = _without_implementation(own["make_thunk"])  # type: ignore[method-assign]
        if "infer_shape" in own and _takes(own["infer_shape"], 3):
            cls.infer_shape = _without_graph(own["infer_shape"])  # type: ignore[attr-defined]
        if "pullback" not in own and ("grad" in own or "L_op" in own):
            cls.pullback = _by_gradient  # type: ignore[method-assign]
        if "pushforward" not in own and "R_op" in own:
            cls.pushforward = _by_r_op  # type: ignore[method-assign]

    def perform(self, node: Apply, inputs: Any, output_storage: Any, *params: Any) -> None:
        """Refuse: an op has this method, or a ``make_thunk`` of its own."""
        raise NotImplementedError(f"{self} has neither perform nor make_thunk")


def _by_gradient(self: Any, inputs: Any, outputs: Any, cotangents: Any) -> Any:
    """Return what ``L_op`` or ``grad`` returns: the method that PyTensor calls today."""
    if "L_op" in vars(type(self)):
        return self.L_op(inputs, outputs, cotangents)
    return self.grad(inputs, cotangents)


def _by_r_op(self: Any, inputs: Any, outputs: Any, tangents: Any) -> Any:
    """Return what ``R_op`` returns: it takes and gives None where nothing is connected."""
    given = [None if isinstance(v.type, DisconnectedType) else v for v in tangents]
    return [disconnected_type() if v is None else v for v in self.R_op(inputs, given)]


def _takes(method: Any, count: int) -> bool:
    """Return whether a method takes just so many arguments, ``self`` included."""
    parameters = inspect.signature(method).parameters.values()
    return len(parameters) == count and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def _without_implementation(method: Callable) -> Callable:
    """Return ``make_thunk`` without the argument ``impl``, which came later."""

    @functools.wraps(method)
    def make_thunk(self, node, storage_map, compute_map, no_recycling, impl=None):
        return method(self, node, storage_map, compute_map, no_recycling)

    return make_thunk


def _without_graph(method: Callable) -> Callable:
    """Return ``infer_shape`` for PyTensor up to 3.2, which gives it the whole graph, too."""

    @functools.wraps(method)
    def infer_shape(self, *arguments):
        return method(self, *arguments[-2:])

    return infer_shape


def local_optimizer(tracks: Any, inplace: bool = False, requirements: Any = ()) -> Callable:
    """Return the decorator that makes a rewrite of a function of a node, as Theano's did."""

    def decorate(rewrite: Callable) -> Any:
        @functools.wraps(rewrite)
        def with_graph(fgraph: FunctionGraph, node: Apply) -> Any:
            return rewrite(node)

        adapted = with_graph if len(inspect.signature(rewrite).parameters) == 1 else rewrite
        return node_rewriter(tracks or None, inplace, requirements)(adapted)

    return decorate


def get_debug_values(*variables: Variable) -> list[Any]:
    """Return nothing: variables have no test values, so there are none to look at."""
    return []


def debug_assert(condition: Any, message: str | None = None) -> None:
    """Do nothing: there are no test values to check."""


def inputs(variables: Any, blockers: Any = None) -> list[Variable]:
    """Return the variables that a graph starts from."""
    return list(graph_inputs(variables, blockers))


def ancestors(variables: Any, blockers: Any = None) -> list[Variable]:
    """Return the variables that a graph is made of."""
    return list(walk_ancestors(variables, blockers))
