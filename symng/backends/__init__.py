"""Compile graphs to C, Numba and JAX, and supply what a backend lacks.

A class for each backend (`_c`, `_numba`, `_jax`) holds all that differs between them.
"""

from symng.backends import _integer_terms as _integer_terms
from symng.backends._jax import enable_jax
from symng.backends.base import Backend, Devices
from symng.backends.compiling import (
    collection_paused,
    compile_function,
    compile_in_python,
    compile_with_data,
    warn_of_other_backend,
)
from symng.backends.host import few_on_host, sync_to_host, to_numpy
from symng.backends.memory import keep_memory
from symng.backends.modes import (
    MODES,
    backend_of,
    default_mode,
    enabled_backend,
    fallback_mode,
    mode_on_devices,
    pytensor_mode,
    resolve_mode,
    set_mode,
)
from symng.backends.python_modes import STABILIZED, UNOPTIMIZED

__all__ = [
    "MODES",
    "UNOPTIMIZED",
    "STABILIZED",
    "Backend",
    "Devices",
    "backend_of",
    "collection_paused",
    "compile_function",
    "compile_in_python",
    "compile_with_data",
    "default_mode",
    "enable_jax",
    "enabled_backend",
    "fallback_mode",
    "few_on_host",
    "keep_memory",
    "mode_on_devices",
    "pytensor_mode",
    "resolve_mode",
    "set_mode",
    "sync_to_host",
    "to_numpy",
    "warn_of_other_backend",
]
