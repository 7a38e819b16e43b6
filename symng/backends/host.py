"""Bring arrays from the device of a backend back to NumPy."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable

from symng.graphs.arrays import is_on_device


def to_numpy(values: Any) -> Any:
    """Return the outputs of a compiled function as NumPy arrays, waiting for JAX to finish.

    Lists, tuples and dictionaries are converted item by item. Arrays of a device are copied: the
    result is writable and shares no memory with a buffer that a later call may reuse.
    """
    if isinstance(values, Mapping):
        return {key: to_numpy(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(to_numpy(value) for value in values)
    if isinstance(values, np.ndarray | np.generic):
        return values
    if is_on_device(values) and not (values.is_fully_addressable or values.is_fully_replicated):
        return _assembled(values)
    return np.array(values)


def _assembled(array: Any) -> np.ndarray:
    """Return on the host an array of which each process has all shards on its own devices."""
    assembled = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        assembled[shard.index] = shard.data
    return assembled


def few_on_host(arrays: Sequence[Any], axes: Sequence[int], limit: int) -> list[Any]:
    """Return copies of the first examples of arrays on a device; others as they are.

    Of an array that is spread over several processes they are examples of this process.
    """
    return [
        _first(array, axis, limit) if is_on_device(array) else array
        for array, axis in zip(arrays, axes, strict=False)
    ]


def _first(array: Any, axis: int, limit: int) -> np.ndarray:
    """Return a copy of the first examples of an array on a device."""
    if not array.is_fully_addressable:
        array = array.addressable_shards[0].data
    return np.array(on_automatic_mesh(array)[(slice(None),) * axis + (slice(limit),)])


def on_automatic_mesh(array: Any) -> Any:
    """Return an array of JAX on a mesh along whose axes JAX places results itself, without a copy.

    On a mesh with explicit axes, as `jax.make_mesh` makes them, each op would have to say where its
    result goes. Other arrays are returned as they are.
    """
    if not is_on_device(array):
        return array
    import jax
    from jax.sharding import Mesh, NamedSharding

    now = array.sharding
    if not isinstance(now, NamedSharding):
        return array
    sharding = NamedSharding(Mesh(now.mesh.devices, now.mesh.axis_names), now.spec)
    if sharding == now:
        return array
    parts = [shard.data for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)


def checksum(array: Any) -> int:
    """Return a checksum of an array, computed where it is."""
    if not is_on_device(array):
        return zlib.crc32(np.ascontiguousarray(array).data)
    import jax
    import jax.numpy as jnp

    @jax.jit
    def weighted_sum(array: Any) -> Any:
        narrow = array.astype("uint8") if array.dtype == bool else array
        bits = narrow.reshape(-1).view(f"uint{8 * min(narrow.dtype.itemsize, 4)}")
        weights = jnp.arange(bits.size, dtype="uint32") * np.uint32(2654435761) | np.uint32(1)
        return (bits.astype("uint32") * weights).sum(dtype="uint32")

    return int(weighted_sum(array))


def sync_to_host(variables: Iterable[SharedVariable]) -> None:
    """Make shared variables hold NumPy arrays of their own dtype.

    An update made on JAX leaves a JAX array in the shared variable: ``get_value`` then returns it,
    read-only, and functions compiled for C or Numba refuse it. This waits for JAX to finish and
    copies the values to the host; the next call on JAX copies them back.
    """
    for variable in variables:
        value = variable.get_value(borrow=True)
        if hasattr(variable.type, "dtype") and not isinstance(value, np.ndarray):
            value = to_numpy(value).astype(variable.type.dtype, copy=False)
            variable.set_value(value, borrow=True)
