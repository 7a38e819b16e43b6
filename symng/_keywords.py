"""Say which argument is meant where a call gives one that does not exist, such as ``lr``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from numbers import Real
from typing import Any, ParamSpec, TypeVar

from symng._checks import Words, describe, problem

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# Names that other libraries use, by the names here that may be meant.
_SYNONYMS = {
    "step_size": "lr learning_rate stepsize rate eta alpha",
    "size": "lr learning_rate stepsize rate eta alpha step_size",
    "max_steps": "epochs n_epochs num_epochs max_epochs nb_epoch steps n_steps num_steps max_step iterations n_iter "
    "num_iterations niter nsteps maxiter max_iter",
    "max_seconds": "timeout time_limit max_time seconds",
    "maxiter": "max_iter max_iterations iterations n_iter niter max_steps",
    "rtol": "tol tolerance eps",
    "target_loss": "tol tolerance",
    "progress": "verbose quiet progress_bar progressbar",
    "seed": "random_state random_seed rng key",
    "batch_size": "batchsize minibatch_size bs",
    "data": "dataset train_data X",
    "mode": "backend device",
    "damping": "lam lambda_ lamda damp ridge tikhonov",
    "initial": "lam lambda_ lamda damping value",
    "value": "lam lambda_ lamda damping initial",
    "beta1": "betas b1",
    "beta2": "b2",
    "epsilon": "eps",
    "momentum": "mu",
    "preconditioner": "M precond",
    "loss": "cost criterion objective",
    "output": "outputs prediction predictions y_pred",
    "params": "parameters weights variables wrt theta",
    "inputs": "input x X",
    "targets": "target labels y Y",
}
_MEANT: dict[str, list[str]] = {}
for _name, _others in _SYNONYMS.items():
    for _other in _others.split():
        _MEANT.setdefault(_other, []).append(_name)

_EPOCH = "An epoch is N // batch_size steps, for N examples."
_DECAY = "Add it to the loss: loss + 0.5 * {name} * sum((p**2).sum() for p in params)."
_PARTS = {  # settings of a part, by the argument that takes the part
    "solver": ("symng.CG", "maxiter rtol atol tol max_iter max_iterations iterations"),
    "optimizer": ("symng.NaturalGradient", "step_size lr learning_rate damping metric solver momentum preconditioner"),
}


def check_keywords(owner: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse keyword arguments that are not among the known ones, and say which is meant."""
    for name, value in given.items():
        if name not in known:
            raise problem(
                name, f"an argument of {owner}", Words("one that it does not have"), _way_out(name, value, known),
                TypeError,
            )  # fmt: skip


def _way_out(name: str, value: Any, known: Sequence[str]) -> str:
    """Say what to give in place of an argument that does not exist."""
    if name in ("weight_decay", "l2", "l2_penalty"):
        return _DECAY.format(name=name)
    shown = repr(value) if isinstance(value, Real) else ""
    meant = next((other for other in _MEANT.get(name, ()) if other in known), None)
    if meant is not None and "epoch" in name:
        return f"Give {meant}. {_EPOCH}"
    if name == "betas" and meant is not None:
        return "Give beta1 and beta2."
    if meant is not None:
        same = name not in ("verbose", "quiet", "rng", "key", "backend", "device", "tol", "tolerance", "X")
        return f"symng calls it {meant}: give {meant}={shown}." if same and shown else f"symng calls it {meant}."
    for part, (example, names) in _PARTS.items():
        if part in known and name in names.split():
            setting = next((other for other in ("step_size", "maxiter", "rtol") if other in _MEANT.get(name, ())), name)
            return f"It is a setting of the {part}: {part}={example}({setting}={shown or '...'})."
    close = get_close_matches(name, known, n=1)
    return f"Is {close[0]} meant?" if close else f"There are {', '.join(known)}."


def explain_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function, or the ``__init__`` of a class, say which argument is meant when it has no such argument."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]
    owner = function.__qualname__.removesuffix(".__init__")

    @wraps(function)
    def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        check_keywords(owner, kwargs, known)
        return function(*args, **kwargs)

    return explained


def explain_settings(cls: type[T]) -> type[T]:
    """Make a dataclass say which setting is meant when it is given one that it does not have, or by position."""
    make: Any = cls.__init__
    settings = [f for f in fields(cls) if f.init]  # type: ignore[arg-type]
    known = [f.name for f in settings]
    by_position = [f.name for f in settings if not f.kw_only]

    @wraps(make)
    def __init__(self: T, *args: Any, **kwargs: Any) -> None:
        check_keywords(cls.__name__, kwargs, known)
        if known and len(args) > len(by_position):
            extra = args[len(by_position)]
            numbers = [n for n in ("step_size", "size", "initial", "value", "maxiter") if isinstance(extra, Real)]
            left = [n for n in (*numbers, *known) if n in known and n not in by_position]
            raise problem(
                cls.__name__, "settings by name", Words(f"{describe(extra)} without one"),
                f"Write {cls.__name__}({left[0]}=...).", TypeError,
            )  # fmt: skip
        make(self, *args, **kwargs)

    setattr(cls, "__init__", __init__)  # noqa: B010 - an assignment would be typed
    return cls
