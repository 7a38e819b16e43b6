"""``theano.function`` and what is around it: inputs with defaults, modes, shared variables."""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytensor
from pytensor.compile.debug.monitormode import MonitorMode as PyTensorMonitorMode
from pytensor.compile.io import In as SymbolicIn
from pytensor.compile.io import Out
from pytensor.compile.mode import Mode, get_default_mode
from pytensor.compile.sharedvalue import SharedVariable

from symng.backends import compile_function
from symng.legacy._broadcasting import fit
from symng.legacy.theano._config import config

__all__ = [
    "In",
    "Mode",
    "MonitorMode",
    "OrderedUpdates",
    "Out",
    "Param",
    "SharedVariable",
    "as_op",
    "function",
    "get_default_mode",
    "get_mode",
    "pfunc",
    "shared",
]

# Names of Theano that mean its default.
_DEFAULT_MODES = ("FAST_RUN", "Mode", "ProfileMode", "PROFILE_MODE")
_RENAMED_MODES = {"DebugMode": "DEBUG_MODE", "DEBUG_MODE": "DEBUG_MODE"}


class OrderedUpdates(OrderedDict):
    """The updates of a scan: shared variables and what they become. ``+`` joins two of them."""

    def __add__(self, other: Any) -> OrderedUpdates:
        joined = OrderedUpdates(self)
        joined.update(other)
        return joined

    def __radd__(self, other: Any) -> OrderedUpdates:
        joined = OrderedUpdates(other)
        joined.update(self)
        return joined


class In(SymbolicIn):
    """An input of a function, with a value that a call may leave out."""

    def __init__(
        self,
        variable: Any,
        name: str | None = None,
        value: Any = None,
        update: Any = None,
        mutable: bool | None = None,
        **options: Any,
    ) -> None:
        if update is not None:
            raise TypeError(
                "theano.In: update= kept a state within a function. Make the variable a"
                " theano.shared one, and give theano.function updates=."
            )
        if mutable is not None:
            options["mutable"] = mutable
        options.pop("autoname", None)
        super().__init__(variable, name=name, **options)
        self.default = value


def Param(variable: Any, default: Any = None, name: str | None = None, **options: Any) -> In:
    """Return an input with a default, as Theano up to 0.6 spelled it."""
    return In(variable, name=name, value=default, **options)


class FunctionWithDefaults:
    """A compiled function whose last inputs may be left out of a call."""

    def __init__(self, function: Any, inputs: list[Any]) -> None:
        self._function = function
        self._names = [_name_of(entry) for entry in inputs]
        self._defaults = [getattr(entry, "default", None) for entry in inputs]

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Return the outputs for the inputs given in order or by name."""
        if len(values) > len(self._names):
            raise TypeError(f"{len(values)} inputs given, where {len(self._names)} are known")
        complete = list(values)
        for name, default in zip(
            self._names[len(values) :], self._defaults[len(values) :], strict=True
        ):
            value = default if name is None else named.pop(name, default)
            if value is None:
                raise TypeError(f"no value for the input {name!r}, which has no default")
            complete.append(value)
        if named:
            raise TypeError(f"inputs not known, or given twice: {', '.join(named)}")
        return self._function(*complete)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def _name_of(entry: Any) -> str | None:
    """Return the name by which a call gives an input."""
    return entry.name or (entry.variable.name if isinstance(entry, SymbolicIn) else None)


class MonitorMode(PyTensorMonitorMode):
    """The mode that calls functions around each node, with its number, the node and its thunk."""

    def __init__(self, pre_func: Any = None, post_func: Any = None, **options: Any) -> None:
        super().__init__(_without_fgraph(pre_func), _without_fgraph(post_func), **options)


def _without_fgraph(function: Any) -> Any:
    """Return a function of four arguments; those for Theano took all but the first."""
    if function is None or len(inspect.signature(function).parameters) != 3:
        return function
    return lambda fgraph, i, node, thunk: function(i, node, thunk)


def get_mode(mode: Any = None) -> Any:
    """Return the PyTensor mode that Theano's word for it means.

    Without one it is that of PYTENSOR_FLAGS or ``theano.config.mode``; else C, as it was in Theano,
    where there is a compiler.
    """
    if mode is None or (isinstance(mode, str) and mode in _DEFAULT_MODES):
        flags = pytensor.config
        if flags.mode == "Mode" and flags.linker == "auto" and flags.cxx:
            return _with_rewrites(pytensor.compile.mode.get_mode("CVM"))
        return _with_rewrites(get_default_mode()) if flags.mode == "Mode" else get_default_mode()
    if isinstance(mode, str):
        return pytensor.compile.mode.get_mode(_RENAMED_MODES.get(mode, mode))
    return mode


def _with_rewrites(mode: Mode) -> Mode:
    """Return a mode with the rewrites that ``theano.config`` names, where a script set them."""
    chosen = config.optimizer
    mode = mode if chosen == pytensor.config.optimizer else mode.clone(optimizer=chosen)
    for change in ("excluding", "including", "requiring"):
        names = getattr(config, f"optimizer_{change}")
        if names != getattr(pytensor.config, f"optimizer_{change}"):
            mode = getattr(mode, change)(*names.split(":"))
    return mode


def function(
    inputs: Iterable[Any],
    outputs: Any = None,
    mode: Any = None,
    updates: Any = None,
    givens: Any = None,
    no_default_updates: Any = False,
    accept_inplace: bool = False,
    name: str | None = None,
    rebuild_strict: bool = True,
    allow_input_downcast: bool | None = None,
    profile: Any = None,
    on_unused_input: str | None = None,
) -> Any:
    """Compile a function, as `pytensor.function` does; inputs may have defaults."""
    inputs = list(inputs)
    options = {"no_default_updates": True} if no_default_updates else {}
    with quiet():
        compiled = compile_function(
            inputs,
            outputs,
            _fitting(updates),
            get_mode(mode),
            name,
            givens=_pairs(givens),
            accept_inplace=accept_inplace,
            rebuild_strict=rebuild_strict,
            allow_input_downcast=allow_input_downcast,
            profile=profile or None,
            on_unused_input=on_unused_input or _default_on_unused_input(),
            **options,
        )
    if any(getattr(entry, "default", None) is not None for entry in inputs):
        return FunctionWithDefaults(compiled, inputs)
    return compiled


pfunc = function


def _default_on_unused_input() -> str | None:
    """Return what to do about an input that the outputs do not need: warn instead of raising.

    Derivatives of Theano kept inputs that those of PyTensor do not need, such as W in the Jacobian
    of x W by W times a vector: an error would stop scripts that ran.
    """
    return "warn" if pytensor.config.on_unused_input == "raise" else None


def quiet() -> Any:
    """Return a context without PyTensor's deprecation warnings: scripts of 2013 are all old."""
    return warnings.catch_warnings(action="ignore", category=DeprecationWarning)


def _pairs(updates: Any) -> list[tuple[Any, Any]] | None:
    """Return the pairs of a dictionary, or of what iterates over pairs only once."""
    if updates is None:
        return None
    return list(updates.items() if isinstance(updates, Mapping) else updates)


def _fitting(updates: Any) -> list[tuple[Any, Any]] | None:
    """Return the pairs of updates, with types that PyTensor takes."""
    pairs = _pairs(updates)
    return pairs and [(target, fit(value, target)) for target, value in pairs]


def shared(
    value: Any,
    name: str | None = None,
    strict: bool = False,
    allow_downcast: bool | None = None,
    broadcastable: Any = None,
    **options: Any,
) -> SharedVariable:
    """Return a shared variable, as `pytensor.shared` does; ``broadcastable`` says which axes are 1.

    A `numpy.random.RandomState` becomes the generator of its numbers.
    """
    options.pop("target", None)
    if broadcastable is not None:
        options["shape"] = tuple(1 if one else None for one in broadcastable)
    if isinstance(value, np.random.RandomState):
        value = np.random.Generator(value._bit_generator)
    return pytensor.shared(
        value, name=name, strict=strict, allow_downcast=allow_downcast, **options
    )


def as_op(itypes: Any, otypes: Any, infer_shape: Any = None) -> Any:
    """Return the decorator of PyTensor that makes an op of a Python function."""
    from pytensor.compile.ops import wrap_py

    return wrap_py(itypes, otypes, infer_shape)
