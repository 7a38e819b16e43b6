"""``theano.config`` on top of PyTensor's, and the flags of THEANO_FLAGS."""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import Any

import pytensor

from symng._checks import warn

__all__ = ["AddConfigVar", "TheanoConfigParser", "config"]

# Flags that mean nothing to PyTensor, with the value that a script reads.
_WITHOUT_EFFECT: dict[str, Any] = {
    "assert_no_cpu_op": "ignore",
    "compute_test_value": "off",
    "compute_test_value_opt": "off",
    "contexts": "",
    "device": "cpu",
    "enable_initial_driver_test": True,
    "force_device": False,
    "init_gpu_device": "",
    "int_division": "int",
    "lib": "",
    "numpy": "",
    "print_active_device": True,
    "print_test_value": False,
    "pycuda": "",
    "reoptimize_unpickled_function": False,
    "gpuarray": "",
    "root": "",
    "tensor__cmp_sloppy": 0,
    "warn__ignore_bug_before": "none",
    "warn_on_unused_input": True,
}
_SECTIONS = (
    *(
        "NanGuardMode",
        "DebugMode",
        "blas",
        "cmodule",
        "compile",
        "cuda",
        "cublas",
        "dnn",
        "experimental",
    ),
    *("gcc", "gpuarray", "lib", "numpy", "nvcc", "optdb", "profiling", "pycuda", "scan"),
    *("tensor", "traceback", "vm", "warn", "unittests", "ProfileMode", "unpickle_function"),
)


class Section:
    """A group of flags, such as ``config.nvcc``: those that PyTensor has, and any others."""

    def __init__(self, name: str) -> None:
        self.__dict__["_name"] = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(pytensor.config, f"{self._name}__{name}", None)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(pytensor.config, f"{self._name}__{name}"):
            setattr(pytensor.config, f"{self._name}__{name}", value)
        else:
            self.__dict__[name] = value


class TheanoConfigParser:
    """Theano's flags: those of PyTensor where it has them, else values without effect."""

    def __init__(self) -> None:
        self.__dict__["_sections"] = {name: Section(name) for name in _SECTIONS}
        self.forget()

    def __getattr__(self, name: str) -> Any:
        if name in self._sections:
            return self._sections[name]
        if name in self._own:
            return self._own[name]
        if not name.startswith("_") and hasattr(pytensor.config, name):
            return getattr(pytensor.config, name)
        if name in self._ignored:
            return self._ignored[name]
        raise AttributeError(
            f"theano.config.{name} is no flag of PyTensor, nor one of Theano that scripts read."
            f"{_near(name)}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _REWRITES:
            self._own[name] = value
            return
        if hasattr(pytensor.config, name):
            setattr(
                pytensor.config, name, _MODE_NAMES.get(value, value) if name == "mode" else value
            )
            return
        if name not in self._ignored:
            warn(f"theano.config.{name} is no flag of PyTensor: it has no effect.{_near(name)}")
        self._ignored[name] = value

    def forget(self) -> None:
        """Forget what was set and is not PyTensor's."""
        self.__dict__["_ignored"] = dict(_WITHOUT_EFFECT)
        self.__dict__["_own"] = {}

    def change_flags(self, **flags: Any) -> Any:
        """Return the context manager of PyTensor that changes flags for a while."""
        return pytensor.config.change_flags(**flags)


# Flags of PyTensor's that are fixed once it is imported. `theano.function` reads these itself,
_REWRITES = ("optimizer", "optimizer_excluding", "optimizer_including", "optimizer_requiring")
# and these have no effect any more.
_AT_START = {
    *("base_compiledir", "compiledir", "compiledir_format", "cxx", "gcc_version_str"),
    *("cmodule__preload_cache", "cmodule__age_thresh_use", "compile__wait", "compile__timeout"),
}
_MODE_NAMES = {"FAST_RUN": "Mode", "ProfileMode": "Mode", "PROFILE_MODE": "Mode"}

config = TheanoConfigParser()


def AddConfigVar(name: str, doc: str, configparam: Any, root: Any = None) -> None:
    """Add a flag of a script's own; ``configparam`` is its value, or holds it as ``default``."""
    config._ignored[name] = getattr(configparam, "default", configparam)


def read_flags(flags: str | None = None) -> None:
    """Set what THEANO_FLAGS says; warn of flags that have no effect any more.

    Parameters
    ----------
    flags : str, optional
        Such as "floatX=float32,mode=FAST_COMPILE"; default the environment variable.
    """
    text = os.environ.get("THEANO_FLAGS", "") if flags is None else flags
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = pair.partition("=")
        name, value = name.strip(), value.strip()
        if name in ("device", "force_device", "init_gpu_device"):
            if value.lower() not in ("cpu", "", "false"):
                warn(
                    f"THEANO_FLAGS: {name}={value} has no effect: Theano's functions run on the CPU"
                    ' here. Compile with mode="JAX" where there is a GPU.'
                )
        elif name == "mode" or name in _REWRITES:
            _set(config, name, value)
        elif (key := name.replace(".", "__")) in _AT_START:
            warn(f"THEANO_FLAGS: {name} has no effect. Set PYTENSOR_FLAGS={key}={value}.")
        elif hasattr(pytensor.config, key) and key not in _WITHOUT_EFFECT:
            _set(pytensor.config, key, value)
        elif name.split(".")[0] not in (*_SECTIONS, *_WITHOUT_EFFECT):
            hint = _near(name)
            warn(f"THEANO_FLAGS: {name} is no flag of PyTensor, and has no effect.{hint}")


def _near(name: str) -> str:
    """Return a question that names the flag that was meant, if one looks like it."""
    known = {
        key.lower(): key for key in (*dir(type(pytensor.config)), *_WITHOUT_EFFECT, *_REWRITES)
    }
    near = get_close_matches(name.replace(".", "__").lower(), known, n=1, cutoff=0.8)
    return f" Did you mean {known[near[0]].replace('__', '.')}?" if near else ""


def compile_to_c() -> bool:
    """Make C the default of PyTensor, as it was Theano's; return whether that changed anything.

    Nothing is changed where another mode or linker was chosen, or there is no compiler.
    """
    flags = pytensor.config
    changed = bool(flags.mode == "Mode" and flags.linker == "auto" and flags.cxx)
    if changed:
        flags.linker = "cvm"
    return changed


def _set(flags: Any, name: str, text: str) -> None:
    """Set a flag from its text."""
    try:
        setattr(flags, name, {"true": True, "false": False}.get(text.lower(), text))
    except ValueError as error:
        given = f"{name.replace('__', '.')}={text}" if text else f"{name} without a value"
        raise ValueError(f"THEANO_FLAGS: {given} is not possible. {error}") from error
