"""A mesh of JAX devices: examples are split over it, parameters are on each of its devices.

Importing this module does not import jax.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from symng._checks import Verbatim, argument_error, check_number

_EXPECTED = "a number, a list of JAX devices, a jax.sharding.Mesh or a NamedSharding"


@dataclass(frozen=True)
class Uneven:
    """An array whose examples do not divide evenly among the devices, padded so that they do.

    A program cuts the padding off again, which moves nothing: XLA itself pads the last shares, and
    leaves that padding out of sums over examples.
    """

    padded: Any
    length: int
    axis: int


class ExampleMesh:
    """Put arrays on a mesh of devices.

    Attributes
    ----------
    mesh : jax.sharding.Mesh
        The devices.
    axis : str or tuple of str
        The axis, or axes, of the mesh over which examples are split.
    is_exact : bool
        Whether the number of examples has to be a multiple of the number of shares.
    shares : int
        How many parts the examples are split into.
    state_axis : str or None
        The second axis of the mesh, over which the optimizer's state is split; None without one.
    processes, process : int
        How many processes the devices belong to, and the number of this one. With several, arrays
        of the host are the examples of this process.
    """

    def __init__(self, mesh: Any, axis: str | tuple[str, ...], *, is_exact: bool) -> None:
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        self.mesh, self.axis, self.is_exact = mesh, axis, is_exact
        names = (axis,) if isinstance(axis, str) else axis
        self.shares = math.prod(mesh.shape[name] for name in names)
        self.state_axis = mesh.axis_names[1] if len(mesh.axis_names) > 1 else None
        self.replicated = NamedSharding(mesh, PartitionSpec())
        owners = {device.process_index for device in mesh.devices.flat}
        self.processes = len(owners)
        self.process = sorted(owners).index(jax.process_index())
        axes = [mesh.axis_names.index(name) for name in names]
        by_share = np.moveaxis(mesh.devices, axes, range(len(axes))).reshape(self.shares, -1)
        if any(len({device.process_index for device in share}) > 1 for share in by_share):
            raise argument_error(
                "devices",
                "a sharding in which each process has examples of its own",
                Verbatim("one in which several have the same"),
                f"Write PartitionSpec({tuple(mesh.axis_names)}).",
            )
        _register()

    def sharding(self, axis: int) -> Any:
        """Return the sharding of an array whose examples run along ``axis``."""
        from jax.sharding import NamedSharding, PartitionSpec

        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, self.axis))

    def state_sharding(self, shape: Sequence[int]) -> Any:
        """Return the sharding of an array of the optimizer's state.

        It is split along its longest axis that the second axis of the mesh divides.
        """
        from jax.sharding import NamedSharding, PartitionSpec

        if self.state_axis is None:
            return self.replicated
        parts = self.mesh.shape[self.state_axis]
        divided = [axis for axis, length in enumerate(shape) if length and length % parts == 0]
        if not divided:
            return self.replicated
        longest = max(divided, key=lambda axis: shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, self.state_axis))

    def check_split(self, name: str, array: Any, axis: int) -> None:
        """Refuse an array with a number of examples that cannot be split."""
        length, parts, whose = array.shape[axis], self.shares, "the shares of the sharding"
        if self.processes > 1 and not _is_spread(array):
            parts, whose = self.shares // self.processes, "those of the devices of a process"
        elif self.processes == 1 and not self.is_exact:
            return
        left = length % parts
        if left:
            hint = f"Give {length - left} or {length - left + parts}."
            if self.processes == 1:
                hint += (
                    " Devices that are given by their number, or as a mesh, take any number of "
                    "examples."
                )
            expected = f"a multiple of {parts} examples, {whose}"
            raise argument_error(name, expected, Verbatim(f"{length}"), hint)

    def split(self, array: Any, axis: int) -> Any:
        """Return an array with its examples split over the devices."""
        import jax

        self.check_split("devices", array, axis)
        length, sharding = array.shape[axis], self.sharding(axis)
        if self.processes > 1 and not _is_spread(array):
            return jax.make_array_from_process_local_data(sharding, np.asarray(array))
        if length % self.shares == 0:
            return self.put(array, sharding)
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, -length % self.shares)
        pad = jax.numpy.pad if isinstance(array, jax.Array) else np.pad
        return Uneven(self.put(pad(array, widths), sharding), length, axis)

    def gather(self, numbers: Sequence[int]) -> np.ndarray:
        """Return a row of whole numbers, from 0 to 2^32 - 1, from each process."""
        from jax.experimental.multihost_utils import process_allgather

        own = np.asarray(numbers, dtype="uint32")
        return own[None] if self.processes == 1 else np.asarray(process_allgather(own))

    def replicate(self, value: Any) -> Any:
        """Return an array, or arrays in dictionaries, on each device; those of JAX as they are."""
        import jax

        if isinstance(value, jax.Array | Uneven):
            return value
        return jax.tree.map(
            lambda leaf: (
                leaf if isinstance(leaf, jax.Array) else self.put(np.asarray(leaf), self.replicated)
            ),
            value,
        )

    def jit(
        self, function: Callable[..., Any], static: Sequence[int], results: Sequence[Any]
    ) -> Callable[..., Any]:
        """Return a function compiled for the mesh, with a sharding for each of its ``results``.

        ``static`` are the positions of arguments that are whole numbers for the compiler.
        """
        import jax

        def call_unpadded(*arguments: Any) -> Any:
            return tuple(function(*map(_without_padding, arguments)))

        compiled = jax.jit(call_unpadded, static_argnums=static, out_shardings=tuple(results))

        def placed(arguments: Sequence[Any]) -> list[Any]:
            return [int(a) if i in static else self.replicate(a) for i, a in enumerate(arguments)]

        def call(*arguments: Any) -> Any:
            return compiled(*placed(arguments))

        # As functions of jit have it, to look at the program.
        setattr(call, "lower", lambda *arguments: compiled.lower(*placed(arguments)))  # noqa: B010
        return call

    def divider(self) -> Callable[[Callable[[Any], Any], float], Callable[[Any], Any]]:
        """Return a function that assigns functions to the devices of a program, by their costs.

        Each of them takes one array, which all devices hold, to one of its shape, and goes to the
        device that has the least to do so far.
        """
        costs = [0.0] * self.mesh.size

        def divide(function: Callable[[Any], Any], cost: float) -> Callable[[Any], Any]:
            device = costs.index(min(costs))
            costs[device] += cost
            return functools.partial(self._call_on, device, function)

        return divide

    def _call_on(self, device: int, function: Callable[[Any], Any], array: Any) -> Any:
        """Return on all devices the result of a function that one of them calls."""
        import jax
        from jax.sharding import PartitionSpec

        names = self.mesh.axis_names

        def call(array: Any) -> Any:
            is_here = jax.lax.axis_index(names) == device
            result = jax.lax.cond(is_here, function, jax.numpy.zeros_like, array)
            return jax.lax.psum(result, names)

        everywhere = PartitionSpec()
        return _shard_map()(call, mesh=self.mesh, in_specs=everywhere, out_specs=everywhere)(array)

    def put(self, array: Any, sharding: Any) -> Any:
        """Return an array in a sharding of the mesh."""
        import jax
        from jax.sharding import NamedSharding

        if self.processes > 1 and not _is_spread(array):
            values = np.asarray(array)  # the same in each process
            return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])
        if not isinstance(array, jax.Array):
            return jax.device_put(array, sharding)
        now = array.sharding
        if now.is_equivalent_to(sharding, array.ndim):
            return array
        if isinstance(now, NamedSharding) and list(now.mesh.devices.flat) == list(
            self.mesh.devices.flat
        ):  # device_put would move it through the host
            return jax.jit(_identity, out_shardings=sharding)(array)
        return jax.device_put(array, sharding)


def read_mesh(devices: object) -> ExampleMesh:
    """Return the mesh that the argument ``devices`` means, or refuse it."""
    from jax.sharding import Mesh, NamedSharding

    if isinstance(devices, NamedSharding):
        axes = [entry for entry in devices.spec if entry is not None]
        if len(axes) != 1 or not isinstance(devices.mesh, Mesh):
            raise argument_error(
                "devices",
                "a sharding that splits one axis, that of the examples",
                devices,
                "Write NamedSharding(mesh, PartitionSpec('examples')).",
            )
        return ExampleMesh(_automatic(devices.mesh), axes[0], is_exact=True)
    if isinstance(devices, Mesh):
        return ExampleMesh(_automatic(devices), devices.axis_names, is_exact=False)
    mesh = Mesh(np.array(_read_list(devices)), ("examples",))
    return ExampleMesh(_automatic(mesh), "examples", is_exact=False)


def _read_list(devices: object) -> list[Any]:
    """Return the devices that a number or a list means."""
    import jax

    available = jax.devices()
    if isinstance(devices, list | tuple):
        if not devices or not all(isinstance(device, jax.Device) for device in devices):
            hint = "jax.devices() lists them."
            raise argument_error("devices", _EXPECTED, devices, hint, TypeError)
        if len(set(devices)) < len(devices):
            raise argument_error("devices", "each device once", Verbatim("one of them twice"))
        return list(devices)
    if not isinstance(devices, int | np.integer) or isinstance(devices, bool):
        raise argument_error("devices", _EXPECTED, devices, error=TypeError)
    check_number("devices", devices, minimum=1, integer=True)
    if devices > len(available):
        hint = "jax.devices() lists them."
        if available[0].platform == "cpu":
            hint = (
                "To split a CPU into several, set the environment variable XLA_FLAGS="
                f"--xla_force_host_platform_device_count={devices} before JAX starts."
            )
        raise argument_error(
            "devices", f"at most the {len(available)} devices that JAX has", devices, hint
        )
    if jax.process_count() > 1 and devices < len(available):
        raise argument_error(
            "devices",
            f"all {len(available)} devices of the {jax.process_count()} processes",
            devices,
            "Give jax.local_devices() to use those of this process alone.",
        )
    return available[:devices]


def _automatic(mesh: Any) -> Any:
    """Return the mesh with axes along which JAX itself places what a program computes.

    Its devices have to belong to this process alone, or in equal numbers to all processes.
    """
    import jax
    from jax.sharding import Mesh

    owners = [device.process_index for device in mesh.devices.flat]
    counts = {owner: owners.count(owner) for owner in owners}
    is_own = set(counts) == {jax.process_index()}
    if not is_own and (len(counts) < jax.process_count() or len(set(counts.values())) > 1):
        raise argument_error(
            "devices",
            f"as many devices of each of the {jax.process_count()} processes, or some of this one",
            Verbatim(", ".join(f"{n} of process {owner}" for owner, n in sorted(counts.items()))),
            "jax.devices() has those of all processes, jax.local_devices() those of this one.",
        )
    rows = np.moveaxis(mesh.devices, 1, -1) if mesh.devices.ndim > 1 else mesh.devices[:, None]
    if any(len({d.process_index for d in row}) > 1 for row in rows.reshape(-1, rows.shape[-1])):
        raise argument_error(
            "devices",
            f"a mesh whose second axis, {mesh.axis_names[1]!r}, stays within a process",
            mesh,
            "The state is split over it, and each process holds all of the state.",
        )
    return Mesh(mesh.devices, mesh.axis_names)


def _is_spread(array: Any) -> bool:
    """Return whether an array of JAX is on devices of several processes."""
    return not getattr(array, "is_fully_addressable", True)


def _without_padding(argument: Any) -> Any:
    """Return an array that was padded without its padding, any other argument as it is."""
    import jax

    if not isinstance(argument, Uneven):
        return argument
    return jax.lax.slice_in_dim(argument.padded, 0, argument.length, axis=argument.axis)


def _identity(array: Any) -> Any:
    """Return an array as it is: JAX moves what this returns."""
    return array


def _shard_map() -> Any:
    """Return JAX's function that runs a program device by device, from where it is."""
    import jax

    if hasattr(jax, "shard_map"):
        return jax.shard_map
    from jax.experimental.shard_map import shard_map  # until 0.6

    return shard_map


@functools.cache
def _register() -> None:
    """Let programs of JAX take uneven arrays as arguments."""
    from jax.tree_util import register_dataclass

    register_dataclass(Uneven, data_fields=["padded"], meta_fields=["length", "axis"])
