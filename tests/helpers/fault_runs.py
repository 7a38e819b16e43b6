"""The run that faults are tried on: minibatches, adaptive damping and warm starts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

import symng

from .small_steps import descent, regression

STEPS = 12
RULE = symng.LevenbergMarquardt(initial=30.0)


def train(path: Path | None, steps: int = STEPS, **given: Any) -> tuple[Any, Any]:
    """Run up to so many steps; return the result and all that is to be the same."""
    objective, data = given.pop("model", None) or regression()
    optimizer = given.pop("optimizer", None) or descent(damping=RULE, warm_start=0.5)
    given = {"batch_size": 6, "metric_batch": "other", "seed": 3, "checkpoint_every": 1} | given
    result = symng.minimize(
        objective,
        optimizer,
        data,
        max_steps=steps,
        progress=False,
        checkpoint=path,
        **{"mode": "FAST_COMPILE", **given},
    )
    return result, state_of(result) if result.steps else {}


def state_of(result: Any) -> dict[str, bytes]:
    """Return parameters, state and losses as bytes."""
    arrays = {name: v.get_value() for name, v in result.step.state.items()}
    arrays["w"] = result.step.objective.params[0].get_value()
    arrays |= {name: result.history[name] for name in ("step", "loss", "damping")}
    return {name: np.asarray(a).tobytes() for name, a in arrays.items()}


def digest_of(state: dict[str, bytes]) -> str:
    """Return one checksum of all that is to be the same."""
    return hashlib.sha256(repr(sorted(state.items())).encode()).hexdigest()
