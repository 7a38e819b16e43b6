"""Checks of arguments, with one style of message.

Every message reads ``name: expected ..., got .... hint``: which argument is meant, what it should
be, what it is, and what to do.
"""

from __future__ import annotations

import inspect
import math
import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import wraps
from numbers import Integral, Real
from typing import Literal, ParamSpec, TypeVar, cast, get_args

import numpy as np
from numpy.typing import DTypeLike
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

FloatName = Literal["float32", "float64"]
P = ParamSpec("P")
R = TypeVar("R")


def describe(value: object) -> str:
    """Describe a value in a few words, for the "got" of a message."""
    if isinstance(value, TensorVariable):
        name = f" {value.name!r}" if value.name else ""
        return f"the symbolic tensor{name} of type {value.type}"
    if isinstance(value, Variable):
        return f"the symbolic variable {value} of type {value.type}"
    if isinstance(value, np.ndarray) or hasattr(value, "addressable_shards"):
        array = cast(np.ndarray, value)  # or a JAX array
        return f"an array of shape {array.shape} and dtype {array.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__} (not an instance of it)"
    kind, shape = type(value).__name__, getattr(value, "shape", None)
    if isinstance(shape, tuple):  # such as a DataFrame
        return f"a {kind} of shape {shape}"
    if isinstance(value, list | tuple) and len(value) > 20:
        return f"a {kind} of {len(value)} items"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr that fails must not hide the message
        text = f"a {kind}"
    if len(text) > 80:
        text = text[:77] + "..."
    return text if value is None or isinstance(value, bool) else f"{text} ({type(value).__name__})"


class Verbatim(str):
    """Text that `argument_error` prints as it is."""


def argument_error(
    name: str, expected: str, got: object, hint: str = "", error: type[Exception] = ValueError
) -> Exception:
    """Return, not raise, the exception for an argument that is not what it should be.

    ``got`` is printed by `describe`, a `Verbatim` as it is.
    """
    text = got if isinstance(got, Verbatim) else describe(got)
    message = f"{name}: expected {expected}, got {text}."
    return error(f"{message} {hint}" if hint else message)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of this package that led here."""
    frame, level = sys._getframe(1), 2
    own = ("symng", "contextlib")  # whose decorators come between frames of this package
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in own:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def deprecated(name: str, since: str, instead: str) -> None:
    """Warn that a public name, or a way to call it, will be removed in a later minor version."""
    warn(
        f"{name} is deprecated since symng {since} and will be removed: use {instead}.",
        DeprecationWarning,
    )


def is_symbolic(value: object) -> bool:
    """Return whether ``value`` is a PyTensor variable."""
    return isinstance(value, Variable)


def check_number(
    name: str,
    value: object,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    integer: bool = False,
    finite: bool = True,
    symbolic: bool = False,
    hint: str = "",
) -> None:
    """Refuse ``value`` unless it is a number in range.

    ``minimum`` and ``maximum`` belong to the range, ``above`` and ``below`` do not. With
    ``symbolic=True`` a symbolic scalar passes too; its dtype is checked, its value cannot be.
    Booleans never pass.
    """
    limits = [
        (words, holds, bound)
        for words, holds, bound in (
            ("at least", operator.ge, minimum),
            ("above", operator.gt, above),
            ("at most", operator.le, maximum),
            ("below", operator.lt, below),
        )
        if bound is not None
    ]
    expected = "a whole number" if integer else "a finite number" if finite else "a number"
    if limits:
        expected += ", " + " and ".join(f"{words} {bound}" for words, _, bound in limits)
    if symbolic:
        expected += " (or a symbolic scalar)"
        if _is_symbolic_number(value, integer):
            return
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral if integer else Real):
        raise argument_error(name, expected, value, hint, TypeError)
    usable = not (math.isnan(value) or (finite and math.isinf(value)))
    if not usable or not all(holds(value, bound) for _, holds, bound in limits):
        raise argument_error(name, expected, value, hint)


def _is_symbolic_number(value: object, integer: bool) -> bool:
    """Return whether ``value`` is a symbolic real scalar, with ``integer`` one of integer dtype."""
    return (
        isinstance(value, TensorVariable)
        and value.type.ndim == 0
        and np.dtype(value.type.dtype).kind in ("iu" if integer else "iuf")
    )


def check_choice(name: str, value: object, choices: Iterable[str], hint: str = "") -> None:
    """Refuse ``value`` unless it is one of the given words."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise argument_error(name, "one of " + ", ".join(repr(c) for c in choices), value, hint)


def check_float(name: str, value: DTypeLike, hint: str = "") -> FloatName:
    """Return the name of a dtype that parameters and data can have, or refuse it."""
    dtype: object = value
    if value is not None:  # which NumPy reads as float64
        with suppress(TypeError):
            dtype = np.dtype(value).name
    check_choice(name, dtype, get_args(FloatName), hint)
    return cast(FloatName, dtype)


def check_instance(
    name: str, value: object, kinds: type | tuple[type, ...], expected: str, hint: str = ""
) -> None:
    """Refuse ``value`` unless it is an instance of one of ``kinds``."""
    if not isinstance(value, kinds):
        raise argument_error(name, expected, value, hint, TypeError)


def check_tensors(name: str, value: object) -> tuple[TensorVariable, ...]:
    """Return one or several floating-point tensors that have axes as a tuple, or refuse them."""
    tensors = (value,) if isinstance(value, Variable) else value
    expected = "a symbolic floating-point tensor with an axis of examples (or a list of them)"
    if not isinstance(tensors, list | tuple) or not tensors:
        raise argument_error(name, expected, value, error=TypeError)
    for v in tensors:
        if not isinstance(v, TensorVariable) or v.ndim == 0 or not v.type.dtype.startswith("float"):
            raise argument_error(name, expected, v, error=TypeError)
    return tuple(tensors)


def check_flag(name: str, value: object) -> None:
    """Refuse ``value`` unless it is True or False."""
    if not isinstance(value, bool):
        raise argument_error(name, "True or False", value, error=TypeError)


def check_finite(name: str, array: np.ndarray, axis: int = 0) -> None:
    """Refuse an array with NaN or Inf, naming the first example along ``axis`` that has one."""
    if array.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum()):  # a tenth of the cost of testing every value
            return
        bad = array - array != 0  # not np.isfinite, which copies a JAX array to the host
    if not bad.any():  # only the sum overflowed
        return
    others = tuple(a for a in range(array.ndim) if a != axis)
    examples = np.flatnonzero(bad.any(axis=others))
    what = "NaN" if (array != array).any() else "Inf"
    raise argument_error(
        name,
        "finite values",
        Verbatim(f"{what}, first in example {examples[0]} ({len(examples)} in all)"),
        "Clean the data, or leave those examples out.",
    )


# Other libraries' names for an argument, by its name here.
_SYNONYMS = {
    "step_size": "lr learning_rate stepsize rate eta alpha",
    "size": "lr learning_rate stepsize rate eta alpha step_size",
    "max_steps": "epochs n_epochs num_epochs max_epochs nb_epoch steps n_steps num_steps nsteps "
    "max_step iterations n_iter num_iterations niter maxiter max_iter",
    "max_seconds": "timeout time_limit max_time seconds",
    "maxiter": "max_iter max_iterations iterations n_iter niter max_steps",
    "rtol": "tol tolerance eps",
    "target_loss": "tol tolerance",
    "gradient_tolerance": "gtol grad_tol tolerance_grad",
    "loss_tolerance": "ftol tolerance_change",
    "update_tolerance": "xtol",
    "progress": "verbose quiet progress_bar progressbar",
    "seed": "random_state random_seed rng key",
    "batch_size": "batchsize minibatch_size bs",
    "data": "dataset train_data X",
    "mode": "backend device",
    "average_decay": "ema ema_decay polyak polyak_decay swa averaging",
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
# The reverse: what a name from another library may mean here.
_MEANINGS: dict[str, list[str]] = {}
for _name, _others in _SYNONYMS.items():
    for _other in _others.split():
        _MEANINGS.setdefault(_other, []).append(_name)

# Names from other libraries whose values mean something else here: hints do not repeat them.
_OTHER_VALUES = "verbose quiet rng key backend device tol tolerance X".split()

_EPOCH = "An epoch is N // batch_size steps, for N examples."
_DECAY = "Add it to the loss: loss + 0.5 * {name} * sum((p**2).sum() for p in params)."
# Arguments that take an object, each with an example of one and the settings that belong to it.
_PARTS = {
    "solver": ("symng.CG", "maxiter rtol atol tol max_iter max_iterations iterations"),
    "optimizer": (
        "symng.NaturalGradient",
        "step_size lr learning_rate damping metric solver momentum preconditioner",
    ),
    "early_stopping": (
        "symng.EarlyStopping",
        "patience monitor min_delta higher_is_better restore_best",
    ),
}


def check_keywords(owner: str, given: Mapping[str, object], known: Sequence[str]) -> None:
    """Refuse keyword arguments that are not among the known ones, and say which may be meant."""
    for name, value in given.items():
        if name not in known:
            raise argument_error(
                name,
                f"an argument of {owner}",
                Verbatim("one that it does not have"),
                _hint_for(name, value, known),
                TypeError,
            )


def _hint_for(name: str, value: object, known: Sequence[str]) -> str:
    """Return a hint that says what to give instead of an unknown argument."""
    if name in ("weight_decay", "l2", "l2_penalty"):
        return _DECAY.format(name=name)
    shown = repr(value) if isinstance(value, Real) else ""
    for meant in _MEANINGS.get(name, ()):
        if meant in known:
            return _hint_for_synonym(name, meant, shown)
    for part, (example, settings) in _PARTS.items():
        if part in known and name in settings.split():
            likely = ("step_size", "maxiter", "rtol")
            meant = next((other for other in likely if other in _MEANINGS.get(name, ())), name)
            return f"It is a setting of the {part}: {part}={example}({meant}={shown or '...'})."
    close = get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known arguments: {', '.join(known)}."


def _hint_for_synonym(name: str, meant: str, value: str) -> str:
    """Return the hint for an argument called ``meant`` here; ``value`` is its number, or empty."""
    if "epoch" in name:
        return f"Give {meant}. {_EPOCH}"
    if name == "betas":
        return "Give beta1 and beta2."
    if value and name not in _OTHER_VALUES:
        return f"symng calls it {meant}: give {meant}={value}."
    return f"symng calls it {meant}."


def explain_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function, or an ``__init__``, to say which argument an unknown one stands for."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]
    owner = function.__qualname__.removesuffix(".__init__")

    @wraps(function)
    def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        check_keywords(owner, kwargs, known)
        return function(*args, **kwargs)

    return explained
