"""JAX, which traces a graph for each new shape and keeps arrays on its device.

Importing this module does not import jax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pytensor.compile.mode import Mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.traversal import graph_inputs
from pytensor.link.jax.linker import JAXLinker

from symng._checks import argument_error
from symng.backends._jax_cache import keep_programs, take_new_folder
from symng.backends._jax_mesh import ExampleMesh, read_mesh
from symng.backends._tracebacks import frames_of
from symng.backends.base import Backend

_WIDE_DTYPES = ("float64", "complex128")
_DISPATCH = "pytensor.link.jax.dispatch."


class Jax(Backend):
    """A graph compiled by XLA, anew for each shape of its inputs."""

    name = "jax"
    mode_name = "JAX"
    compiler = "XLA"
    compiles_on_first_call = True
    has_device = True
    is_optional_default = True

    def enable(self, mode: str | Mode) -> None:
        enable_jax()
        keep_programs()

    def describe_compiler(self) -> str:
        folder = take_new_folder()
        kept = "" if folder is None else f", kept in {folder}"
        return f"{self.compiler}{kept}"

    def check_dtypes(self, variables: Iterable[Variable]) -> None:
        """Refuse float64 if JAX is set to 32 bits, which would silently compute in float32."""
        import jax

        if jax.dtypes.canonicalize_dtype("float64") == np.float64:
            return
        variables = list(variables)
        shared = [v for v in graph_inputs(variables) if isinstance(v, SharedVariable)]
        for variable in (*variables, *shared):
            if getattr(variable.type, "dtype", None) in _WIDE_DTYPES:
                raise argument_error(
                    "mode",
                    "float32 inputs, parameters and outputs, because JAX is set to 32 bits",
                    variable,
                    "Use float32, or run with PYTENSOR_FLAGS=floatX=float64, or call "
                    "jax.config.update('jax_enable_x64', True) before compiling.",
                )

    def on_devices(self, mode: Mode, devices: object) -> Mode:
        backend = JaxOnDevices(read_mesh(devices))
        return Mode(linker=MeshLinker(backend), optimizer=mode.provided_optimizer)

    def place(self, arrays: Iterable[Any], axes: Sequence[int]) -> Sequence[Any]:
        """Return the arrays as they are: functions take those of NumPy and of JAX."""
        return list(arrays)

    def device_put(self, arrays: Iterable[Any]) -> Sequence[Any]:
        """Return the arrays on JAX's default device.

        That saves a copy only for functions with ``trust_input`` set to True: otherwise PyTensor
        turns every argument into a NumPy array, which is sent again.
        """
        import jax

        return [jax.device_put(array) for array in arrays]

    def take_shared(self, variables: Iterable[SharedVariable]) -> None:
        """Leave shared variables as they are: JAX takes arrays of NumPy and its own."""

    def locate(self, error: Exception) -> str:
        """Return the function of PyTensor's JAX backend that raised ``error``, or an empty string.

        JAX runs a graph in one go, so the op that PyTensor names may be any in the graph.
        """
        functions = [
            name
            for module, name in frames_of(error)
            # The functions called jax_funcify... only make those that compute.
            if module.startswith(_DISPATCH) and not name.startswith("jax_funcify")
        ]
        return f"the {functions[-1]!r} of PyTensor's JAX backend" if functions else ""


class JaxOnDevices(Jax):
    """JAX with the examples of a batch split over a mesh of devices.

    Each device holds all parameters and all of the optimizer's state. A second axis of the mesh
    splits that state. XLA adds what it takes to give the results of one device: sums over examples
    are reduced across the devices.
    """

    def __init__(self, mesh: ExampleMesh) -> None:
        self.mesh, self._state = mesh, set[SharedVariable]()
        self.processes, self.process = mesh.processes, mesh.process

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.mesh.mesh})"

    def check_split(self, name: str, array: Any, axis: int) -> None:
        self.mesh.check_split(name, array, axis)

    def place(self, arrays: Iterable[Any], axes: Sequence[int]) -> Sequence[Any]:
        """Return the arrays with their examples split over the devices."""
        return [self.mesh.split(array, axis) for array, axis in zip(arrays, axes, strict=True)]

    def device_put(self, arrays: Iterable[Any]) -> Sequence[Any]:
        """Return the arrays as `place` left them."""
        return list(arrays)

    def gather(self, numbers: Sequence[int]) -> np.ndarray:
        return self.mesh.gather(numbers)

    def take_shared(self, variables: Iterable[SharedVariable]) -> None:
        """Move the values of shared variables to the mesh."""
        for variable in variables:
            if hasattr(variable.type, "dtype"):
                value = self.mesh.put(variable.get_value(borrow=True), self.sharding(variable))
                variable.container.storage[0] = value

    def split_state(self, variables: Iterable[SharedVariable]) -> None:
        self._state.update(variables)

    def sharding(self, variable: SharedVariable) -> Any:
        """Return the sharding of a shared variable's value."""
        if variable in self._state:
            return self.mesh.state_sharding(np.shape(variable.get_value(borrow=True)))
        return self.mesh.replicated

    def result_shardings(self, graph: Any, storage_of: Mapping[Variable, list[Any]]) -> list[Any]:
        """Return the shardings of a graph's results: those of the variables that they update."""
        state = {id(v.container.storage): self.sharding(v) for v in self._state}
        updated = {o: graph.inputs[i] for o, i in (graph.update_mapping or {}).items()}
        shardings = [self.mesh.replicated] * len(graph.outputs)
        for i, variable in updated.items():
            shardings[i] = state.get(id(storage_of[variable]), shardings[i])
        return shardings


class MeshLinker(JAXLinker):
    """Compile a graph for the mesh of a backend."""

    def __init__(self, backend: JaxOnDevices) -> None:
        super().__init__()
        self.backend = backend
        self._results: list[Any] = []

    def fgraph_convert(self, fgraph: FunctionGraph, *args: Any, **kwargs: Any) -> Any:
        self._results = self.backend.result_shardings(fgraph, kwargs["storage_map"])
        return super().fgraph_convert(fgraph, *args, divide=self.backend.mesh.divider(), **kwargs)

    def jit_compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        return self.backend.mesh.jit(fn, self.scalar_shape_inputs, self._results)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.backend!r})"


def enable_jax() -> None:
    """Let PyTensor's JAX backend run while scans, and compute with shapes.

    PyTensor refuses to convert a `pytensor.scan` that may stop early (``until``) to JAX. After this
    call such a scan becomes a `jax.lax.while_loop`. Lengths that follow from the shapes of arrays,
    such as those of a reshape, an arange or a split, are computed while JAX traces the function.
    `symng.compile_step`, `symng.minimize` and `symng.compile_function` call it; call it yourself
    before you compile with `pytensor.function` and ``mode="JAX"``. A second call does nothing.

    Raises
    ------
    ImportError
        When jax is not installed.

    Notes
    -----
    JAX arrays have fixed shapes, so of a loop that may stop early only the last value of each
    output can be read (``out[-1]``); a graph that wants all of them, as the gradient through such a
    loop does, is refused with a NotImplementedError while it is compiled. The number of steps may
    be symbolic.

    Graph rewrites are added, for the JAX backend only: one that stores only the last value of such
    a loop when its initial state is a constant, and one that removes a useless cast to float64 from
    float32 sums (PyTensor's JAX backend sums in float32 and casts the result).

    JAX computes in 64 bits only if PyTensor's ``floatX`` is "float64" (the default) when its JAX
    backend is first used, or after ``jax.config.update("jax_enable_x64", True)``.

    Examples
    --------
    >>> import pytensor
    >>> import pytensor.tensor as pt
    >>> from pytensor.scan.utils import until
    >>> import symng
    >>> symng.enable_jax()
    >>> x = pt.dscalar("x")
    >>> def halve(state):
    ...     return state / 2, until(state < 4)
    >>> halves = pytensor.scan(halve, outputs_info=[x], n_steps=100, return_updates=False)
    >>> f = pytensor.function([x], halves[-1], mode="JAX")
    >>> float(f(10.0))
    1.25
    """
    try:
        import jax  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "mode: expected an installed jax for the JAX backend, got none. Install it with: pip "
            "install jax"
        ) from error
    from symng.backends._jax_scan import register

    register()
