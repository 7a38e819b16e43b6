"""What a checkpoint says of the model and the programs that it belongs to."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytensor
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import graph_inputs

from symng.graphs.config import full_repr
from symng.graphs.digest import graph_digest
from symng.objective import ObjectiveLike
from symng.training.step import CompiledStep


def describe_model(objective: ObjectiveLike) -> dict[str, Any]:
    """Return the names of the parameters, and a digest of losses, outputs and likelihoods."""
    return {"names": [p.name for p in objective.params], "digest": _digest_of(objective)}


def describe_programs(step: CompiledStep) -> dict[str, str]:
    """Return the backend, other settings that change rounding errors, and versions."""
    return {
        "mode": step.backend,
        "chunk_size": str(step.chunk_size),
        "floatX": str(pytensor.config.floatX),
        **versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions that a digest depends on."""
    # Not by importlib.metadata: the package may be used without being installed.
    return {"PyTensor": pytensor.__version__, "symng": sys.modules["symng"].__version__}


def _digest_of(objective: ObjectiveLike) -> str:
    roots: dict[Variable, str] = {p: f"param {i}" for i, p in enumerate(objective.params)}
    graphs: list[Variable] = []
    likelihoods = []
    for number, term in enumerate(objective.terms):
        model = term.model
        roots |= {v: f"input {number} {i}" for i, v in enumerate(model.variables)}
        graphs += [model.loss, *model.outputs]
        likelihoods += [full_repr(head.likelihood) for head in model.heads]
    weights = [w for w in objective.weights if isinstance(w, Variable)]
    numbers = [repr(w) for w in objective.weights if not isinstance(w, Variable)]
    digest = graph_digest([*graphs, *weights], roots)
    return f"{digest} {' '.join([*likelihoods, *numbers])}"


def other_shared(objective: ObjectiveLike, known: Mapping[Any, object]) -> list[SharedVariable]:
    """Return the shared variables that the model reads and that are not among the known ones.

    In the order in which the graph is read, which is that of every process.
    """
    graphs = [v for term in objective.terms for v in (term.model.loss, *term.model.outputs)]
    graphs += [w for w in objective.weights if isinstance(w, Variable)]
    shared = [v for v in graph_inputs(graphs) if isinstance(v, SharedVariable)]
    return [v for v in dict.fromkeys(shared) if v not in known]
