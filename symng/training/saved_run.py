"""Read the checkpoint of a run, and find all that is wrong with it, before anything is set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pytensor.graph.type import Type

from symng._checks import Verbatim, argument_error
from symng._files import DamagedFileError
from symng.backends.generators import check_generator_state
from symng.training.history import History
from symng.training.sampler import State

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the run that is to continue has, to compare a file with.

    Attributes
    ----------
    kind : str
        Optimizer and batches in words.
    variables, feed : dict of str to str
        Shape and dtype of each variable and of each array of the sampler, by name.
    params : list of str
        Shape and dtype of each parameter.
    samples : dict of str to type
        Types of the shared samples that the file may have; their number may differ.
    given : dict
        Settings, checksums of the data, number of parts, model, programs and the values of other
        shared variables, as the file has them.
    check_feed : callable
        Refuses arrays and text of the sampler that cannot be right.
    """

    kind: str
    variables: dict[str, str]
    feed: dict[str, str]
    params: list[str]
    samples: dict[str, Type]
    given: dict[str, Any]
    check_feed: Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """What a checkpoint holds, all of it verified.

    Attributes
    ----------
    has_feed : bool
        Whether the order of examples can be continued: not with another number of processes.
    best : tuple or None
        The lowest loss and its parameters.
    evaluation : tuple or None
        State of `BestEvaluation`.
    is_of_same_data : bool
        Whether losses can be compared with those of the run.
    changes : list of str
        Differences to warn of.
    """

    variables: Arrays
    samples: Arrays
    generators: list[Any]
    feed: State
    has_feed: bool
    history: History
    best: tuple[float, list[np.ndarray]] | None
    evaluation: State | None
    steps: int
    seconds: float
    is_of_same_data: bool
    changes: list[str] = field(default_factory=list)


def verify(
    path: Path,
    arrays: Arrays,
    meta: Mapping[str, Any],
    history: History | None,
    expected: Expected,
) -> SavedRun:
    """Return what a file holds, or refuse it.

    Raises
    ------
    DamagedFileError
        If something in it cannot be right.
    ValueError
        If it belongs to another run; the message names the first difference.
    """
    try:
        parts = meta.get("parts", 1)
        saved = _Contents(arrays, meta, same_parts=parts == expected.given["parts"])
        foreign = _foreign(saved, expected)
        if not foreign:
            return _checked(saved, history, expected)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as e:
        reason = str(e) if isinstance(e, ValueError) else f"{type(e).__name__}: {e}"
        raise DamagedFileError(
            f"checkpoint: expected the state of a run, got {str(path)!r}, which is damaged "
            f"({reason}). Delete it, or give resume=False, to start again."
        ) from e
    raise argument_error(
        "checkpoint",
        f"one of the same model, optimizer, data and batches ({expected.kind})",
        Verbatim(f"{str(path)!r} of others: {foreign[0]}"),
        "Give another path, or resume=False, or delete the file to start again.",
    )


# A run may go on with another damping rule, which has no such variable.
_OF_A_FIXED_DAMPING = "state_shortening"


class _Contents:
    """The arrays of a file by what they are."""

    def __init__(self, arrays: Arrays, meta: Mapping[str, Any], *, same_parts: bool) -> None:
        self.meta, self.same_parts = meta, same_parts
        kinds = ("history_", "best_", "evaluation_", "sample_", "feed_")
        of_kind = {kind: _without_prefix(arrays, kind) for kind in kinds}
        self.history, self.best, self.evaluation, self.samples, self.feed = of_kind.values()
        self.variables = {n: a for n, a in arrays.items() if not n.startswith(kinds)}


def _foreign(saved: _Contents, expected: Expected) -> list[str]:
    """Return what shows that a file belongs to another run; empty where it may be this one."""
    meta, given = saved.meta, expected.given
    kind = str(meta.get("kind", "not written by minimize"))
    if kind != expected.kind:
        return differences({"run": expected.kind}, {"run": kind})
    variables = dict(expected.variables)
    if "generators" not in meta:  # a file of an earlier version, which had none
        variables = {n: v for n, v in variables.items() if not n.startswith("updated_")}
    layouts = _layouts(saved.variables)
    if (_OF_A_FIXED_DAMPING in variables) != (_OF_A_FIXED_DAMPING in layouts):
        variables.pop(_OF_A_FIXED_DAMPING, None)
        layouts.pop(_OF_A_FIXED_DAMPING, None)
    differing = differences(variables, layouts)
    if saved.same_parts:
        differing += [f"feed_{d}" for d in differences(expected.feed, _layouts(saved.feed))]
    if differing or "model" not in meta:
        return differing
    now, then = given["model"], meta["model"]
    if now["names"] != list(then["names"]):
        return [f"parameters {_words(now['names'])} where the file has {_words(then['names'])}"]
    if now["digest"] != str(then["digest"]) and not _other_versions(saved, expected):
        return ["the graph of loss and outputs, or a likelihood, is another one"]
    return []


def _other_versions(saved: _Contents, expected: Expected) -> bool:
    """Return whether the graphs were made by other versions, and so may differ for that reason."""
    now, then = expected.given["programs"], saved.meta.get("programs", {})
    return any(now[name] != then.get(name) for name in ("PyTensor", "symng"))


def _checked(saved: _Contents, history: History | None, expected: Expected) -> SavedRun:
    """Return what a file of this run holds, unless something in it cannot be right."""
    meta, given = saved.meta, expected.given
    steps, seconds = _count(meta["steps"]), _number(meta["seconds"])
    _require(math.isfinite(seconds) and seconds >= 0, f"{seconds} seconds")
    history = History.from_dict(saved.history) if history is None else history
    rows = history["step"].tolist() if len(history) else []
    _require(rows == list(range(1, steps + 1)), f"{len(rows)} rows for {steps} steps")
    counter = saved.variables.get("state_step")
    own = meta.get("state_step", steps)
    _require(counter is None or int(counter) == own, f"a state after {counter} steps of {steps}")
    _check_finite(saved.variables, meta.get("not_finite", []))

    feed = dict(meta["feed"])
    expected.check_feed(saved.feed if saved.same_parts else {}, feed)
    generators = list(meta.get("generators", ()))
    for state in generators:
        if state is not None:
            check_generator_state(state)

    same_data = meta.get("data", given["data"]) == given["data"] or not saved.same_parts
    best = evaluation = None
    if "lowest" in meta:
        lowest, params = _number(meta["lowest"]), _numbered(saved.best)
        _require(math.isfinite(lowest), "a lowest loss that is not finite")
        _require([layout(p) for p in params] == expected.params, "other best parameters")
        _check_finite(saved.best, [])
        best = (lowest, params) if same_data else None
    if "evaluation" in meta:
        evaluation = saved.evaluation, dict(meta["evaluation"])
        _check_evaluation(*evaluation, expected.params)
    return SavedRun(
        variables={n: a for n, a in saved.variables.items() if n in expected.variables},
        samples=_samples_of(saved.samples, expected.samples),
        generators=generators,
        feed=(saved.feed, feed),
        has_feed=saved.same_parts,
        history=history,
        best=best,
        evaluation=evaluation,
        steps=steps,
        seconds=seconds,
        is_of_same_data=same_data,
        changes=_changes(saved, given, same_data),
    )


def _samples_of(saved: Arrays, types: Mapping[str, Type]) -> Arrays:
    """Return the samples of the file that fit, by the names of their variables."""
    samples = {name: saved[name.removeprefix("sample_")] for name in types} if saved else {}
    for name, array in samples.items():
        types[name].filter(array, strict=True)
    return samples


def _check_evaluation(arrays: Arrays, meta: Mapping[str, Any], params: Sequence[str]) -> None:
    """Refuse a state of `BestEvaluation` that cannot be right."""
    for name in ("step", "count", "last_step"):
        _count(meta[name])
    _number(meta["value"])
    _require(isinstance(meta["of"], list), "no name of the best evaluation")
    layouts = [layout(a) for a in _numbered(arrays)]
    _require(layouts in ([], list(params)), "other parameters of the best evaluation")


def _check_finite(arrays: Arrays, known: Sequence[str]) -> None:
    """Refuse values that are not finite, unless they were so when the file was written."""
    for name, array in arrays.items():
        if array.dtype.kind in "fc" and name not in known:
            _require(bool(np.isfinite(array).all()), f"{name} with NaN or infinite values")


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of the arrays, other than parameters, that are not finite."""
    return [
        name
        for name, a in arrays.items()
        if not name.startswith("param_") and a.dtype.kind in "fc" and not np.isfinite(a).all()
    ]


def _changes(saved: _Contents, given: Mapping[str, Any], same_data: bool) -> list[str]:
    """Return what is given now and differs from the file, perhaps on purpose."""
    meta = saved.meta
    changes = differences(given["settings"], meta.get("settings", given["settings"]))
    changes += differences(given["programs"], meta.get("programs", given["programs"]))
    if not same_data:
        changes.append("data of the same shapes but with other values")
    if meta.get("shared", given["shared"]) != given["shared"]:
        changes.append("other values of shared variables that the model reads")
    return changes


def layout(array: ArrayLike) -> str:
    """Return the shape and dtype of an array as text."""
    return f"{np.shape(array)} {np.asarray(array).dtype.name}"


def differences(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    """Return the entries that differ, each with what is given and what the file has."""
    names = dict.fromkeys([*now, *then])
    return [
        f"{name} {now.get(name, 'missing')} where the file has {then.get(name, 'none')}"
        for name in names
        if now.get(name) != then.get(name)
    ]


def _layouts(arrays: Arrays) -> dict[str, str]:
    return {name: layout(array) for name, array in arrays.items()}


def _numbered(arrays: Arrays) -> list[np.ndarray]:
    """Return arrays whose names are their numbers, in order."""
    return [arrays[str(i)] for i in range(len(arrays))]


def _without_prefix(arrays: Arrays, prefix: str) -> Arrays:
    """Return the arrays whose names have a prefix, under their names without it."""
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def _words(names: Sequence[object]) -> str:
    return ", ".join(map(str, names))


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _count(value: object) -> int:
    """Return a whole number, at least 0."""
    _require(type(value) is int and value >= 0, f"{value!r} for a count")
    return int(value)  # type: ignore[call-overload]


def _number(value: object) -> float:
    _require(type(value) in (int, float), f"{value!r} for a number")
    return float(value)  # type: ignore[arg-type]
