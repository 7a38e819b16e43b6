"""``theano.sandbox.cuda`` and ``theano.gpuarray``, which report that there is no device."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = [
    "CudaNdarrayType",
    "cuda_available",
    "cuda_enabled",
    "dnn_available",
    "pygpu_activated",
    "use",
]

cuda_available = False
cuda_enabled = False
pygpu_activated = False


class CudaNdarrayType:
    """The type of arrays on a device, of which no variable is."""


def dnn_available() -> bool:
    """Return False: there is no device, nor cuDNN."""
    return False


def use(device: Any = "", *arguments: Any, **options: Any) -> NoReturn:
    """Refuse: no device is reached through Theano's names."""
    raise RuntimeError(
        f'theano: no device {device!r} here. Compile with mode="JAX" on a machine with a GPU, or'
        " leave this call out where theano.sandbox.cuda.cuda_available is False."
    )
