"""Keep what XLA has compiled for the next process.

Importing this module does not import jax.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytensor

# Programs that XLA compiles faster than this are not worth a file, in seconds.
_SHORTEST = 0.1

_made: list[Path] = []
"""The folder, if this process has made it and not yet said so."""


def take_new_folder() -> Path | None:
    """Return the folder once, if this process has made it."""
    return _made.pop() if _made else None


def keep_programs() -> None:
    """Have JAX keep compiled programs on disk, beside those of PyTensor, unless that is set.

    Where the user has named a folder or turned JAX's cache off, by an environment variable or by
    ``jax.config``, that stays; so it does where the folder cannot be written.
    """
    import jax

    config: Any = jax.config
    if not config.jax_enable_compilation_cache or config.jax_compilation_cache_dir is not None:
        return
    # Its name has the system, the processor and the version of Python. Inside of it PyTensor would
    # take the folder for one of its modules.
    own = Path(pytensor.config.compiledir)
    folder = own.with_name(f"{own.name}--jax")
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    _made[:] = [folder] if is_new else []
    config.update("jax_compilation_cache_dir", str(folder))
    if config.jax_persistent_cache_min_compile_time_secs == 1.0:  # JAX's default
        config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)
