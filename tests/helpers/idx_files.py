"""Files in the IDX format, as Fashion-MNIST has them."""

from __future__ import annotations

import numpy as np


def idx(array: np.ndarray) -> bytes:
    sides = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + sides + array.tobytes()
