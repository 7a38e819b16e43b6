"""Compile graphs, on any backend: the only module that calls ``pytensor.function``."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytensor
from numpy.typing import ArrayLike
from pytensor.compile.executor import Function
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import graph_inputs

from symng._checks import warn
from symng.backends.base import Backend
from symng.backends.failures import compiling, first_line
from symng.backends.modes import backend_of, enabled_backend, resolve_mode
from symng.backends.python_modes import UNOPTIMIZED
from symng.graphs.building import building
from symng.graphs.types import ModeLike

# Rewrites that look for diagonal, orthogonal and selection matrices among the factors of products.
# A model has none, and the search takes a twelfth of the time of all rewrites.
_LINEAR_ALGEBRA = (
    "dot_diag_to_elemwise",
    "selection_dot_to_indexing",
    "orthogonal_dot_transpose_to_eye",
)


@building()
def compile_function(
    inputs: Sequence[Variable],
    outputs: Variable | Sequence[Variable] | None = None,
    updates: Mapping[SharedVariable, Variable]
    | Iterable[tuple[SharedVariable, Variable]]
    | None = None,
    mode: ModeLike = None,
    name: str | None = None,
    **kwargs: Any,
) -> Function:
    """Compile a function with `pytensor.function`, for a backend that is ready to run it.

    Parameters
    ----------
    inputs : sequence of variables
        The arguments of the function.
    outputs : variable, sequence of variables or None, default None
        What it returns.
    updates : mapping or sequence of pairs, optional
        The next values of shared variables.
    mode : str, Mode or None, default None
        A name in any case, a PyTensor mode, or None for the default (see `set_mode`).
    name : str, optional
        The name of the function, for profiles and messages.
    **kwargs
        As in `pytensor.function`.

    Returns
    -------
    pytensor.compile.executor.Function
        The compiled function. On JAX it returns JAX arrays before they are computed;
        ``numpy.asarray`` waits for them. Its arguments are checked and turned into NumPy arrays
        unless its ``trust_input`` is set to True, which is right only where every argument is known
        to be an array of the declared dtype and number of dimensions.

    Raises
    ------
    ValueError
        When ``mode`` is not a known name, or JAX would silently turn float64 into float32.
    ImportError
        When ``mode`` is JAX and jax is not installed.
    NotImplementedError
        When the backend has no scan (MLX, PyTorch).

    Notes
    -----
    It differs from `pytensor.function` in three ways. While scans run on JAX (see `enable_jax`).
    The default mode is that of `set_mode`. And rewrites differ: the state of a loop is not copied,
    a matrix product on Numba copies no transposed factor, and no diagonal matrices are looked for.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> import symng
    >>> x = pt.dvector("x")
    >>> square = symng.compile_function([x], pt.sqr(x).sum(), mode="FAST_COMPILE")
    >>> float(square(np.array([3.0, 4.0])))
    25.0
    """
    backend = enabled_backend(mode)
    pairs: dict[Variable, Variable] = dict(
        updates.items() if isinstance(updates, Mapping) else updates or ()
    )
    computed = [*_as_list(outputs), *pairs.values(), *dict(kwargs.get("givens") or {}).values()]
    results = [v for v in computed if isinstance(v, Variable)]
    given = [*inputs, *pairs]
    backend.check_dtypes([*(v for v in given if isinstance(v, Variable)), *results])
    with collection_paused(), warnings.catch_warnings(), compiling(backend):
        # JAX cannot check while it runs, and PyTensor warns of each check.
        warnings.filterwarnings("ignore", message="Skipping Assert", category=UserWarning)
        tuned = backend.tune(resolve_mode(mode).excluding(*_LINEAR_ALGEBRA), results)
        return pytensor.function(inputs, outputs, updates=pairs, mode=tuned, name=name, **kwargs)


def compile_in_python(
    inputs: Iterable[Variable], outputs: Variable | Sequence[Variable]
) -> Function:
    """Compile a function that is called a few times: in Python, at once, without rewrites.

    Its outputs need not depend on all of its inputs. A call changes no shared variable, even one
    with a ``default_update``.
    """
    shared = [v for v in graph_inputs(_as_list(outputs)) if isinstance(v, SharedVariable)]
    return compile_function(
        list(inputs),
        outputs,
        updates={v: v for v in shared if v.default_update is not None},
        mode=UNOPTIMIZED,
        on_unused_input="ignore",
    )


def compile_with_data(
    inputs: Sequence[Variable],
    output: Variable,
    arrays: Sequence[np.ndarray],
    mode: ModeLike,
    dtype: str | None = None,
) -> Callable[..., np.ndarray]:
    """Compile a function of the inputs that remain when ``arrays`` are given for the first ones.

    It takes vectors of any dtype. It returns a NumPy array of ``dtype``, by default that of
    ``output``.
    """
    backend = backend_of(mode)
    function = compile_function(inputs, output, mode=mode, on_unused_input="ignore")
    function.trust_input = True  # the arrays are checked, and stay on the device
    placed, shared = backend.device_put(arrays), function.get_shared()
    dtypes = [v.type.dtype for v in inputs[len(arrays) :]]

    def call(*values: ArrayLike) -> np.ndarray:
        backend.take_shared(shared)
        flat = [np.asarray(v, dtype=d).ravel() for v, d in zip(values, dtypes, strict=True)]
        return np.asarray(function(*placed, *flat), dtype=dtype)

    return call


def warn_of_other_backend(error: Exception, backend: Backend) -> None:
    """Warn that a graph runs on ``backend``, because JAX, the default, failed with ``error``."""
    cause = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    warn(
        f"mode: JAX, the default, cannot run this model ({cause}). It runs on the backend "
        f"{backend.name!r}. Choose a mode with mode= or symng.set_mode to silence this."
    )


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector.

    A graph is a hundred thousand objects that stay alive. The collector would scan them again and
    again, which takes a fifth of the time in which the graph is built and rewritten.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _as_list(outputs: Variable | Sequence[Variable] | None) -> list[Variable]:
    """Return the outputs of a function as a list, in whichever form they were given."""
    if isinstance(outputs, list | tuple):
        return list(outputs)
    return [outputs] if isinstance(outputs, Variable) else []
